//! `hookport demo`: one event from its acceptance through a failed attempt to its delivery.
//!
//! It starts the real gateway as a child process and uses nothing but its public API; the
//! receiver is the only part played. Like the bench it stands outside the gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use crate::child::{
    ApiClient, ChildError, Engines, GatewayChild, ScratchDir, providers_allowing_loopback,
};

const EVENT_TYPE: &str = "incident.created";
const RETRY_DELAY_MS: u64 = 1_500;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How to run the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The folder of the built components.
    #[arg(long, default_value = "target/components")]
    pub providers: PathBuf,
    /// Where the demo keeps its data; removed afterwards.
    #[arg(long, default_value = "data")]
    pub scratch: PathBuf,
    /// Ends after the delivery: status 0 when it succeeded.
    #[arg(long)]
    pub once: bool,
}

/// Why there was nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] ChildError),
    /// The receiver.
    #[error("the receiver cannot listen: {0}")]
    Receiver(#[source] std::io::Error),
    /// The signal handler.
    #[error("cannot wait for Ctrl-C: {0}")]
    Signal(#[source] std::io::Error),
    /// An answer of the API lacks what the demo shows.
    #[error("the API answered without {0}")]
    Answer(&'static str),
    /// The delivery ended otherwise than in success.
    #[error("the delivery ended as {0}, not in success")]
    NotDelivered(String),
    /// The delivery did not end.
    #[error("the delivery did not end within {0:?}")]
    Late(Duration),
    /// The gateway ended while it was being explored.
    #[error("the gateway ended by itself: {0}")]
    Ended(std::process::ExitStatus),
}

/// Runs the demo, and goes on until Ctrl-C unless asked to end after the delivery.
///
/// # Errors
/// When something cannot be started, or the delivery did not succeed.
pub async fn run(arguments: &Arguments) -> Result<(), DemoError> {
    let scratch = ScratchDir::create(&arguments.scratch, "demo")?;
    let providers = providers_allowing_loopback(&arguments.providers, scratch.path())?;
    let receiver = start_receiver().await.map_err(DemoError::Receiver)?;

    println!("\nStarting the gateway on the embedded database");
    let mut gateway = GatewayChild::start(scratch.path(), &providers, Engines::default()).await?;
    gateway.provider_serving("webhook").await?;
    println!("  gateway   {}", gateway.api.base());
    println!("  receiver  http://{receiver}/  (answers 503 to the first request, 200 after that)");
    println!("  data      {}", scratch.path().display());

    let delivery = emit(&gateway.api, receiver).await?;
    follow(&gateway.api, &delivery).await?;
    if arguments.once {
        gateway.stop().await?;
        return Ok(());
    }
    explain(&gateway, &scratch, receiver, &delivery);
    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal.map_err(DemoError::Signal)?,
        status = gateway.wait() => return Err(DemoError::Ended(status?)),
    }
    println!("\nStopping");
    // Ctrl-C has reached the gateway too; this waits for it.
    gateway.stop().await?;
    Ok(())
}

async fn start_receiver() -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let requests = Arc::new(AtomicU32::new(0));
    let router = Router::new().route(
        "/",
        post(
            async move || match requests.fetch_add(1, Ordering::Relaxed) {
                0 => (StatusCode::SERVICE_UNAVAILABLE, "try again later"),
                _ => (StatusCode::OK, "thank you"),
            },
        ),
    );
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Registers, subscribes and emits. Returns the delivery's id.
async fn emit(api: &ApiClient, receiver: SocketAddr) -> Result<String, DemoError> {
    println!("\n1. Register an event type");
    let schema = json!({
        "type": "object",
        "required": ["incident"],
        "properties": {
            "incident": {
                "type": "object",
                "required": ["id", "title"],
                "properties": {"id": {"type": "integer"}, "title": {"type": "string"}}
            }
        }
    });
    let path = format!("/event-types/{EVENT_TYPE}");
    let body = json!({"displayName": "Incident created", "payloadSchema": schema});
    api.put(&path, &body).await?;
    println!("   {EVENT_TYPE}");

    println!("2. Subscribe the receiver to incident.*");
    let body = json!({
        "name": "demo",
        "events": "incident.*",
        "provider": "webhook",
        "config": {"url": format!("http://{receiver}/")},
        "retry": {"delaysMs": [RETRY_DELAY_MS, RETRY_DELAY_MS, RETRY_DELAY_MS]}
    });
    let subscription = api.post("/subscriptions", &body).await?;
    println!(
        "   {}: through the provider webhook; after a failure again in 1.5 s, three times at most",
        text(&subscription, "id")?
    );

    println!("3. Emit an event");
    let body = json!({
        "type": EVENT_TYPE,
        "payload": {"incident": {"id": 7, "title": "Disk full on db-7"}}
    });
    let event = api.post("/events", &body).await?;
    let event = text(&event, "id")?;
    println!("   {event}: accepted and on disk");
    let event = api.get(&format!("/events/{event}")).await?;
    let delivery = event["deliveries"]
        .get(0)
        .ok_or(DemoError::Answer("the event's delivery"))?;
    Ok(text(delivery, "id")?.to_owned())
}

/// Prints attempts as they come until the delivery ends.
async fn follow(api: &ApiClient, id: &str) -> Result<(), DemoError> {
    println!("4. Follow the delivery {id}");
    let started = Instant::now();
    let mut shown = 0;
    loop {
        let delivery = api.get(&format!("/deliveries/{id}")).await?;
        let attempts = delivery["attemptLog"]
            .as_array()
            .ok_or(DemoError::Answer("the delivery's attempts"))?;
        for attempt in attempts.iter().skip(shown) {
            print_attempt(attempt);
        }
        shown = attempts.len();
        match text(&delivery, "state")? {
            "success" => {
                println!("   delivered after {shown} attempts");
                return Ok(());
            }
            state @ ("failed" | "cancelled") => {
                return Err(DemoError::NotDelivered(state.to_owned()));
            }
            _ if started.elapsed() > DELIVERY_TIMEOUT => {
                return Err(DemoError::Late(DELIVERY_TIMEOUT));
            }
            _ => tokio::time::sleep(POLL_INTERVAL).await,
        }
    }
}

fn print_attempt(attempt: &Value) {
    let time = attempt["startedAt"]
        .as_str()
        .and_then(|at| at.split('T').nth(1))
        .unwrap_or("-");
    let status = attempt["httpStatus"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), |status| status.to_string());
    println!(
        "   attempt {}  {time}  HTTP {status}  {:<14}  {}",
        attempt["number"],
        attempt["outcome"].as_str().unwrap_or("-"),
        attempt["message"].as_str().unwrap_or("-"),
    );
}

fn explain(gateway: &GatewayChild, scratch: &ScratchDir, receiver: SocketAddr, delivery: &str) {
    let base = gateway.api.base();
    let key_file = scratch.path().join("data").join("admin.key");
    println!(
        r#"
The gateway is running: look around.

  API            {base}/api/v1   (its description: {base}/api/v1/openapi.json)
  admin key      {key}
  log            {log}

  KEY=$(cat {key})
  # what was delivered, and how
  curl -H "Authorization: Bearer $KEY" {base}/api/v1/deliveries/{delivery}
  # emit another event; the receiver at http://{receiver}/ takes it at once
  curl -H "Authorization: Bearer $KEY" -H 'content-type: application/json' \
       -d '{{"type": "{EVENT_TYPE}", "payload": {{"incident": {{"id": 8, "title": "Fan failed"}}}}}}' \
       {base}/api/v1/events
  # the providers, and what they may do
  curl -H "Authorization: Bearer $KEY" {base}/api/v1/providers

Ctrl-C stops everything and removes {data}."#,
        key = key_file.display(),
        log = gateway.log().display(),
        data = scratch.path().display(),
    );
}

fn text<'a>(value: &'a Value, field: &'static str) -> Result<&'a str, DemoError> {
    value[field].as_str().ok_or(DemoError::Answer(field))
}
