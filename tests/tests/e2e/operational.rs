//! The gateway's own events, which subscriptions carry out like any other.

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::json;

fn types(receiver: &Receiver) -> Vec<String> {
    let mut types: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| request.header("hookport-event-type").to_owned())
        .collect();
    types.sort();
    types
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_told_to_whoever_subscribed_to_it() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let told = Receiver::ok().await;
    api.subscribe_webhook("hookport.*", &told.url()).await;

    // One delivery is given up, one recovers, one finds its receiver gone; a fourth just works.
    let script = |name: &'static str| {
        Receiver::start(move |index, _| match (name, index) {
            ("lost.created", _) | ("late.created", 0) => Reply::status(503),
            ("gone.created", _) => Reply::status(410),
            _ => Reply::ok(),
        })
    };
    let mut deliveries = Vec::new();
    for name in [
        "lost.created",
        "late.created",
        "gone.created",
        "good.created",
    ] {
        let receiver = script(name).await;
        api.register(name).await;
        api.subscribe(&with(
            webhook(name, &receiver.url()),
            json!({"retry": {"delaysMs": [10]}}),
        ))
        .await;
        let id = api.emit_one(&json!({"type": name, "payload": {}})).await;
        deliveries.push(id);
    }
    api.delivery_in(&deliveries[0], "failed").await;
    for index in [1, 3] {
        api.delivery_in(&deliveries[index], "success").await;
    }
    gateway.install_bytes(b"no component", "broken.wasm");

    told.wait_for(4).await;
    told.settled().await;
    let types = types(&told);
    for (name, times) in [
        ("hookport.delivery.recovered", 1),
        ("hookport.subscription.disabled", 1),
        ("hookport.provider.failed", 1),
    ] {
        let seen = types.iter().filter(|seen| *seen == name).count();
        assert_eq!(seen, times, "{name} in {types:?}");
    }
    let exhausted: Vec<_> = told
        .requests()
        .iter()
        .filter(|request| request.header("hookport-event-type") == "hookport.delivery.exhausted")
        .map(|request| request.json()["data"]["deliveryId"].clone())
        .collect();
    assert!(exhausted.contains(&json!(deliveries[0])), "{exhausted:?}");
    assert!(!exhausted.contains(&json!(deliveries[1])), "{exhausted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_report_of_trouble_makes_no_further_report() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let deaf = Receiver::failing(usize::MAX, 503).await;
    let lost = Receiver::failing(usize::MAX, 503).await;
    let policy = json!({"retry": {"delaysMs": []}});
    api.subscribe(&with(webhook("hookport.*", &deaf.url()), policy.clone()))
        .await;
    api.register("lost.created").await;
    api.subscribe(&with(webhook("lost.created", &lost.url()), policy))
        .await;
    let id = api
        .emit_one(&json!({"type": "lost.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "failed").await;
    deaf.wait_for(1).await;
    assert_eq!(deaf.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_what_happened() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::failing(1, 503).await;
    api.register("incident.created").await;
    let retry = json!({"retry": {"delaysMs": [50]}});
    api.subscribe(&with(webhook("incident.created", &receiver.url()), retry))
        .await;
    let event = json!({"type": "incident.created", "payload": {}});
    let id = api.emit_one(&event).await;
    api.delivery_in(&id, "success").await;
    let answer = api.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for line in [
        "hookport_attempts_total{provider=\"webhook\",outcome=\"provider_error\"} 1",
        "hookport_attempts_total{provider=\"webhook\",outcome=\"success\"} 1",
        "hookport_deliveries_ended_total{state=\"success\"} 1",
        "hookport_deliveries_under_way 0",
        "hookport_deliveries_waiting 0",
    ] {
        assert!(answer.text.contains(line), "{line} in {}", answer.text);
    }
    let without_key = api.with_key("hp_unknown").get("/metrics").await;
    assert_eq!(without_key.status, 401);
}
