//! Destinations that stall cost the others nothing but slots that were free.

use hookport::dispatch::WorkerConfig;
use serde_json::{Value, json};

use crate::harness::{Gateway, delivered};

const SLOTS: WorkerConfig = WorkerConfig {
    concurrency: 16,
    concurrency_per_subscription: 16,
};

/// Emits `count` events of a type in one batch.
async fn flood(gateway: &Gateway, event_type: &str, count: usize) {
    let event = json!({"type": event_type, "payload": {}});
    let batch = Value::Array(vec![event; count]);
    gateway.post("/events", &batch).await.expect(202);
}

async fn until_delivered(gateway: &Gateway, event_type: &str, count: usize) {
    let path = format!("/deliveries?eventType={event_type}&state=success&limit=200");
    gateway
        .until(&path, |page| {
            page["items"].as_array().map(Vec::len) == Some(count)
        })
        .await;
}

#[tokio::test]
async fn stalled_destinations_keep_neither_their_provider_nor_another_from_the_rest() {
    let gateway = Gateway::start().await;
    gateway
        .register(&[
            "stalled.one",
            "stalled.two",
            "stalled.three",
            "well.same",
            "well.other",
        ])
        .await;
    let (go, going) = tokio::sync::watch::channel(false);
    gateway.providers.on_deliver(move |call| {
        let mut going = going.clone();
        async move {
            if call.event.event_type.as_str().starts_with("stalled.") {
                let _ = going.wait_for(|go| *go).await;
            }
            delivered(None)
        }
    });
    for name in ["stalled.one", "stalled.two", "stalled.three", "well.same"] {
        gateway
            .subscribe(json!({"name": name, "events": name}))
            .await;
    }
    gateway
        .subscribe(json!({"name": "other", "events": "well.other", "provider": "plain"}))
        .await;
    let working = gateway.work(SLOTS);
    for name in ["stalled.one", "stalled.two", "stalled.three"] {
        flood(&gateway, name, 100).await;
    }
    for (name, count) in [("well.same", 150), ("well.other", 150)] {
        flood(&gateway, name, count).await;
        until_delivered(&gateway, name, count).await;
    }
    let begun = gateway.providers.calls.lock().expect("lock").len();
    let under_way = begun - 300;
    assert!(under_way < 16, "all of the slots are taken: {under_way}");

    // And what was passed over is not forgotten.
    go.send(true).expect("a listener");
    for name in ["stalled.one", "stalled.two", "stalled.three"] {
        until_delivered(&gateway, name, 100).await;
    }
    let calls = gateway.providers.calls.lock().expect("lock").len();
    assert_eq!(calls, 600, "each of them once");
    working.stop().await;
}
