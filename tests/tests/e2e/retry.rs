//! When a failed delivery is tried again, and when not.

use std::time::{Duration, SystemTime};

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Received, Receiver, Reply};
use serde_json::{Value, json};

async fn started(subscription: Value) -> (Gateway, String) {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe(&subscription).await;
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    (gateway, id)
}

fn column(requests: &[Received], header: &str) -> Vec<String> {
    requests
        .iter()
        .map(|request| request.header(header).to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_repeated_under_the_same_delivery_id() {
    let receiver = Receiver::failing(2, 503).await;
    let (gateway, id) = started(webhook("incident.created", &receiver.url())).await;
    let delivery = gateway.api().delivery_in(&id, "success").await;
    let requests = receiver.requests();
    assert_eq!(column(&requests, "webhook-id"), vec![id.clone(); 3]);
    assert_eq!(column(&requests, "hookport-attempt"), ["1", "2", "3"]);
    let attempts = delivery["attemptLog"].as_array().expect("attempts");
    let seen: Vec<_> = attempts
        .iter()
        .map(|attempt| (attempt["outcome"].as_str(), attempt["httpStatus"].as_u64()))
        .collect();
    assert_eq!(
        seen,
        [
            (Some("provider_error"), Some(503)),
            (Some("provider_error"), Some(503)),
            (Some("success"), Some(200)),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delay_is_used_and_then_it_ends_and_a_manual_retry_has_a_round_of_its_own() {
    let receiver = Receiver::failing(4, 500).await;
    let subscription = with(
        webhook("incident.created", &receiver.url()),
        json!({"retry": {"delaysMs": [50, 50]}}),
    );
    let (gateway, id) = started(subscription).await;
    let api = gateway.api();
    let delivery = api.delivery_in(&id, "failed").await;
    assert_eq!(delivery["attempts"], 3);
    assert_eq!(receiver.settled().await.len(), 3);

    api.act(&format!("/deliveries/{id}/retry"))
        .await
        .expect(202);
    let delivery = api.delivery_in(&id, "success").await;
    // One more failure, then success: both in the new round, numbers go on.
    let numbers: Vec<_> = delivery["attemptLog"]
        .as_array()
        .expect("attempts")
        .iter()
        .filter_map(|attempt| attempt["number"].as_u64())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    let requests = receiver.requests();
    assert!(
        column(&requests, "webhook-id")
            .iter()
            .all(|seen| *seen == id)
    );
}

/// The second request must not come before what the first answer asked for.
async fn waits_as_told(retry_after: impl Fn() -> String + Send + Sync + 'static) {
    let receiver = Receiver::start(move |index, _| match index {
        0 => Reply::status(429).header("retry-after", retry_after()),
        _ => Reply::ok(),
    })
    .await;
    let (gateway, id) = started(webhook("incident.created", &receiver.url())).await;
    let delivery = gateway.api().delivery_in(&id, "success").await;
    assert_eq!(delivery["attempts"], 2);
    let requests = receiver.requests();
    let gap = requests[1].at.duration_since(requests[0].at);
    assert!(gap >= Duration::from_millis(1_900), "only {gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_in_seconds_wins_over_the_schedule() {
    waits_as_told(|| "2".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_as_a_date_wins_over_the_schedule() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a date for the header is a real one"
    )]
    let date = || httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    waits_as_told(date).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_is_not_to_be_retried_ends_the_delivery() {
    let receiver = Receiver::failing(usize::MAX, 400).await;
    let subscription = with(
        webhook("incident.created", &receiver.url()),
        json!({"config": {"retryOnStatus": [503]}}),
    );
    let (gateway, id) = started(subscription).await;
    let delivery = gateway.api().delivery_in(&id, "failed").await;
    assert_eq!(delivery["attempts"], 1);
    assert_eq!(receiver.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let elsewhere = Receiver::ok().await;
    let to = elsewhere.url();
    let receiver =
        Receiver::start(move |_, _| Reply::status(307).header("location", to.clone())).await;
    let subscription = with(
        webhook("incident.created", &receiver.url()),
        json!({"retry": {"delaysMs": []}}),
    );
    let (gateway, id) = started(subscription).await;
    let delivery = gateway.api().delivery_in(&id, "failed").await;
    assert_eq!(delivery["attemptLog"][0]["httpStatus"], 307);
    assert!(elsewhere.settled().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_is_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let (gateway, id) = started(webhook("incident.created", &format!("http://{address}/"))).await;
    let delivery = gateway.api().delivery_in(&id, "failed").await;
    assert_eq!(delivery["attempts"], 4);
    for attempt in delivery["attemptLog"].as_array().expect("attempts") {
        assert_eq!(attempt["outcome"], "provider_error", "{attempt}");
        assert!(attempt["httpStatus"].is_null(), "{attempt}");
    }
}
