//! Subscriptions that change while deliveries are queued.

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

fn event(correlation_key: &str, name: &str) -> Value {
    json!({"type": "incident.created", "payload": {"name": name}, "correlationKey": correlation_key})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_keeps_its_backlog_and_delivers_it_when_resumed() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let subscription = api
        .subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = subscription["id"].as_str().expect("an id");
    let paused = api
        .act(&format!("/subscriptions/{id}/pause"))
        .await
        .expect(200);
    assert_eq!(paused["paused"], true);
    let mut deliveries = Vec::new();
    for name in ["a", "b", "c"] {
        deliveries.push(api.emit_one(&event(name, name)).await);
    }
    assert!(receiver.settled().await.is_empty());
    for delivery in &deliveries {
        let delivery = api.delivery(delivery).await;
        assert_eq!(delivery["attempts"], 0, "{delivery}");
        assert_ne!(delivery["state"], "cancelled", "{delivery}");
    }
    let resumed = api
        .act(&format!("/subscriptions/{id}/resume"))
        .await
        .expect(200);
    assert_eq!(resumed["paused"], false);
    for delivery in &deliveries {
        api.delivery_in(delivery, "success").await;
    }
    assert_eq!(receiver.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_off_cancels_what_is_queued_and_matches_nothing_more() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::failing(1, 503).await;
    api.register("incident.created").await;
    let subscription = api
        .subscribe(&with(
            webhook("incident.created", &receiver.url()),
            json!({"retry": {"delaysMs": [600_000]}}),
        ))
        .await;
    let id = subscription["id"].as_str().expect("an id");
    let waiting = api.emit_one(&event("a", "waits for its retry")).await;
    api.delivery_in(&waiting, "retrying").await;
    api.act(&format!("/subscriptions/{id}/pause"))
        .await
        .expect(200);
    let queued = api
        .emit_one(&event("b", "waits for the pause to end"))
        .await;

    let disabled = api
        .act(&format!("/subscriptions/{id}/disable"))
        .await
        .expect(200);
    assert_eq!(disabled["enabled"], false);
    for delivery in [&waiting, &queued] {
        api.delivery_in(delivery, "cancelled").await;
    }
    let accepted = api.emit(&event("c", "unmatched")).await;
    assert_eq!(accepted["deliveries"], 0);

    api.act(&format!("/subscriptions/{id}/resume"))
        .await
        .expect(200);
    api.act(&format!("/subscriptions/{id}/enable"))
        .await
        .expect(200);
    let fresh = api.emit_one(&event("d", "fresh")).await;
    api.delivery_in(&fresh, "success").await;
    assert_eq!(
        receiver.settled().await.len(),
        2,
        "what was cancelled stays so"
    );
    for delivery in [&waiting, &queued] {
        assert_eq!(api.delivery(delivery).await["state"], "cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_subscription_cancels_its_deliveries_and_they_stay_on_record() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::failing(usize::MAX, 503).await;
    api.register("incident.created").await;
    let subscription = api
        .subscribe(&with(
            webhook("incident.created", &receiver.url()),
            json!({"retry": {"delaysMs": [600_000]}}),
        ))
        .await;
    let id = subscription["id"].as_str().expect("an id");
    let delivery = api.emit_one(&event("a", "a")).await;
    api.delivery_in(&delivery, "retrying").await;
    api.delete(&format!("/subscriptions/{id}"))
        .await
        .expect(204);
    let delivery = api.delivery_in(&delivery, "cancelled").await;
    assert_eq!(delivery["attemptLog"].as_array().map(Vec::len), Some(1));
    api.get(&format!("/subscriptions/{id}"))
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_switches_the_subscription_off_with_a_reason() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::failing(usize::MAX, 410).await;
    api.register("incident.created").await;
    let subscription = api
        .subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = subscription["id"].as_str().expect("an id");
    let delivery = api.emit_one(&event("a", "a")).await;
    api.until(&format!("/deliveries/{delivery}"), "an end", |delivery| {
        matches!(delivery["state"].as_str(), Some("failed" | "cancelled"))
    })
    .await;
    let subscription = api
        .until(&format!("/subscriptions/{id}"), "enabled = false", |s| {
            s["enabled"] == false
        })
        .await;
    let reason = subscription["disabledReason"].as_str().unwrap_or("");
    assert!(reason.contains("410"), "{subscription}");
    assert_eq!(api.emit(&event("b", "b")).await["deliveries"], 0);
    assert_eq!(receiver.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_config_reaches_what_is_queued() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let (wrong, right) = (
        Receiver::failing(usize::MAX, 503).await,
        Receiver::ok().await,
    );
    api.register("incident.created").await;
    let mut subscription = webhook("incident.created", &wrong.url());
    subscription["retry"] = json!({"delaysMs": [1_500]});
    let stored = api.subscribe(&subscription).await;
    let id = stored["id"].as_str().expect("an id");
    let delivery = api.emit_one(&event("a", "a")).await;
    api.delivery_in(&delivery, "retrying").await;

    subscription["config"]["url"] = json!(right.url());
    api.put(&format!("/subscriptions/{id}"), &subscription)
        .await
        .expect(200);
    let delivery = api.delivery_in(&delivery, "success").await;
    assert_eq!(delivery["attempts"], 2);
    assert_eq!((wrong.requests().len(), right.requests().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undelivered_event_holds_back_its_own_key_only() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::start(|_, request| {
        let attempt: u32 = request.header("hookport-attempt").parse().unwrap_or(0);
        if request.json()["data"]["name"] == "a1" && attempt < 3 {
            Reply::status(503)
        } else {
            Reply::ok()
        }
    })
    .await;
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({"ordered": true, "retry": {"delaysMs": [700, 700]}}),
    ))
    .await;
    let mut deliveries = Vec::new();
    for (key, name) in [
        ("a", "a1"),
        ("a", "a2"),
        ("a", "a3"),
        ("b", "b1"),
        ("b", "b2"),
    ] {
        deliveries.push(api.emit_one(&event(key, name)).await);
    }
    for delivery in &deliveries {
        api.delivery_in(delivery, "success").await;
    }
    let order: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| {
            request.json()["data"]["name"]
                .as_str()
                .unwrap_or("")
                .to_owned()
        })
        .collect();
    let of = |key: &str| -> Vec<&str> {
        order
            .iter()
            .map(String::as_str)
            .filter(|name| name.starts_with(key))
            .collect()
    };
    assert_eq!(of("a"), ["a1", "a1", "a1", "a2", "a3"], "{order:?}");
    assert_eq!(of("b"), ["b1", "b2"], "{order:?}");
    let position = |wanted: &str| order.iter().position(|name| name == wanted);
    assert!(
        position("b2") < position("a2"),
        "another key does not wait: {order:?}"
    );
}
