//! The yardstick: accepts an event, forwards it, stores nothing, and answers 202 afterwards.
//! The same server and client libraries as the gateway's, and nothing else.

use std::io;
use std::net::Ipv4Addr;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;

#[derive(Clone)]
struct Forwarder {
    http: reqwest::Client,
    to: String,
}

/// Serves until the process ends, and says where.
pub async fn serve(to: String) -> io::Result<()> {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/", post(forward))
        .with_state(Forwarder {
            http: reqwest::Client::new(),
            to,
        });
    println!("listening on http://{address}");
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| {
            // As the gateway does; without it, small answers wait.
            let _ = stream.set_nodelay(true);
        }),
        router,
    )
    .await
}

async fn forward(State(forwarder): State<Forwarder>, body: Bytes) -> StatusCode {
    let request = forwarder
        .http
        .post(&forwarder.to)
        .header("content-type", "application/json")
        .body(body);
    let Ok(response) = request.send().await else {
        return StatusCode::BAD_GATEWAY;
    };
    let is_success = response.status().is_success();
    if is_success && response.bytes().await.is_ok() {
        StatusCode::ACCEPTED
    } else {
        StatusCode::BAD_GATEWAY
    }
}
