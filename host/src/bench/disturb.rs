//! Bad neighbours of the load: a provider that spins, and a destination that takes every request and
//! answers none.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{BenchError, io_error};
use crate::child::{ApiClient, ChildError};

const SPIN: &str = "bench.spin";
const STALL: &str = "bench.stall";

/// Runs until its processor time is spent.
const SPINNING: &str = "async function deliver(event, ctx) { while (true) {} }";
const STALLED_FOR: Duration = Duration::from_secs(30);

/// Events at the beginning: more than either neighbour may have under way.
const BURST: usize = 400;
/// Events of each kind that follow, ten times a second.
const AGAIN: usize = 10;
const EVERY: Duration = Duration::from_millis(100);

/// Set up, and switched off.
pub(super) struct Disturbance {
    api: ApiClient,
    subscriptions: Vec<String>,
    _stalled: AbortOnDropHandle<()>,
}

impl Disturbance {
    pub(super) async fn set_up(api: &ApiClient) -> Result<Self, BenchError> {
        let (stalled, url) = stalled_destination()
            .await
            .map_err(io_error("the stalled destination cannot listen"))?;
        let mut subscriptions = Vec::new();
        for (event_type, provider, config) in [
            (SPIN, "script", json!({"code": SPINNING})),
            (STALL, "webhook", json!({"url": url})),
        ] {
            api.put(&format!("/event-types/{event_type}"), &json!({}))
                .await?;
            let subscription = json!({
                "name": event_type,
                "events": event_type,
                "provider": provider,
                "config": config,
                // The neighbours stay bad: no circuit opens and spares the others.
                "circuitBreaker": {"enabled": false},
            });
            let made = api.post("/subscriptions", &subscription).await?;
            subscriptions.push(made["id"].as_str().unwrap_or_default().to_owned());
        }
        let disturbance = Self {
            api: api.clone(),
            subscriptions,
            _stalled: stalled,
        };
        disturbance.switch("disable").await?;
        Ok(disturbance)
    }

    /// Disturbs until what it returns is given to [`Disturbance::end`].
    pub(super) async fn begin(&self) -> Result<AbortOnDropHandle<ChildError>, BenchError> {
        self.switch("enable").await?;
        emit(&self.api, BURST).await?;
        let api = self.api.clone();
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                if let Err(error) = emit(&api, AGAIN).await {
                    return error;
                }
            }
        })))
    }

    /// Calm again: what is queued is cancelled, and what spins runs out.
    pub(super) async fn end(
        &self,
        emitting: AbortOnDropHandle<ChildError>,
    ) -> Result<(), BenchError> {
        if emitting.is_finished()
            && let Ok(error) = emitting.await
        {
            return Err(error.into());
        }
        self.switch("disable").await?;
        tokio::time::sleep(CALMING_DOWN).await;
        Ok(())
    }

    async fn switch(&self, action: &str) -> Result<(), ChildError> {
        for id in &self.subscriptions {
            self.api
                .post(&format!("/subscriptions/{id}/{action}"), &Value::Null)
                .await?;
        }
        Ok(())
    }
}

/// Longer than the calls that still spin need to come to their end.
const CALMING_DOWN: Duration = Duration::from_secs(31);

async fn emit(api: &ApiClient, number: usize) -> Result<(), ChildError> {
    for event_type in [SPIN, STALL] {
        let events = vec![json!({"type": event_type, "payload": {}}); number];
        api.post("/events", &Value::from(events)).await?;
    }
    Ok(())
}

/// Takes requests, and closes the connection instead of answering.
async fn stalled_destination() -> std::io::Result<(AbortOnDropHandle<()>, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4 << 10];
                let _ = stream.read(&mut bytes).await;
                tokio::time::sleep(STALLED_FOR).await;
            });
        }
    });
    Ok((AbortOnDropHandle::new(task), url))
}
