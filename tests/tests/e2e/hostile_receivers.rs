//! Receivers that never answer, dribble, flood or break off, and others that go on meanwhile.

use std::time::{Duration, Instant};

use hookport_tests::PATIENCE;
use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::raw_receiver::{RawReceiver, Temper};
use hookport_tests::receiver::Receiver;
use serde_json::{Value, json};

/// The single attempt of a delivery to a receiver of that temper.
async fn attempt_against(temper: Temper) -> Value {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = RawReceiver::start(temper).await;
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({"config": {"timeoutMs": 1_500}, "timeoutMs": 5_000, "retry": {"delaysMs": []}}),
    ))
    .await;
    let started = Instant::now();
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    let delivery = api.delivery_in(&id, "failed").await;
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(delivery["attempts"], 1);
    assert!(receiver.connections() >= 1);
    // The gateway is none the worse for it.
    let good = Receiver::ok().await;
    api.register("change.created").await;
    api.subscribe_webhook("change.created", &good.url()).await;
    let id = api
        .emit_one(&json!({"type": "change.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;
    delivery["attemptLog"][0].clone()
}

#[track_caller]
fn failed_with(attempt: &Value, words: &[&str]) {
    let message = attempt["message"].as_str().unwrap_or("").to_lowercase();
    assert_ne!(attempt["outcome"], "success", "{attempt}");
    assert_ne!(attempt["outcome"], "trap", "{attempt}");
    assert!(
        words.iter().any(|word| message.contains(word)),
        "none of {words:?} in: {attempt}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_answers_is_timed_out() {
    failed_with(
        &attempt_against(Temper::Silent).await,
        &["timed out", "timeout"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dribbles_is_timed_out() {
    failed_with(
        &attempt_against(Temper::Dribbling).await,
        &["timed out", "timeout"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_mebibytes_are_cut_off() {
    failed_with(
        &attempt_against(Temper::Endless).await,
        &["limit", "larger than", "too large"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_is_cut_off_while_it_is_decoded() {
    failed_with(
        &attempt_against(Temper::GzipBomb).await,
        &["limit", "larger than", "too large"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_an_error() {
    failed_with(&attempt_against(Temper::Broken).await, &["broke off"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused() {
    failed_with(
        &attempt_against(Temper::HeaderFlood).await,
        &["no valid answer", "limit"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_http_is_an_error() {
    failed_with(
        &attempt_against(Temper::Babbling).await,
        &["no valid answer"],
    );
}

/// Forty deliveries each to receivers that hold them for long; the good receiver's all arrive
/// while those are still under way.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_while_bad_receivers_hold_their_deliveries() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let tempers = [Temper::Silent, Temper::Dribbling];
    for (index, temper) in tempers.into_iter().enumerate() {
        let receiver = RawReceiver::start(temper).await;
        let name = format!("bad.{index}");
        api.register(&name).await;
        api.subscribe(&with(
            webhook(&name, &receiver.url()),
            json!({"config": {"timeoutMs": 20_000}, "timeoutMs": 25_000, "retry": {"delaysMs": []}}),
        ))
        .await;
    }
    let mut held = Vec::new();
    for index in 0..tempers.len() {
        for _ in 0..40 {
            let event = json!({"type": format!("bad.{index}"), "payload": {}});
            held.push(api.emit_one(&event).await);
        }
    }
    let good = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &good.url()).await;
    let batch: Vec<_> = (0..200)
        .map(|n| json!({"type": "incident.created", "payload": {"n": n}}))
        .collect();
    api.post("/events", &json!(batch)).await.expect(202);
    good.wait_for(200).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut waiting = 0;
    for id in &held {
        let state = api.delivery(id).await["state"].clone();
        waiting += usize::from(state != "failed" && state != "success");
    }
    assert!(
        waiting > 0,
        "the good deliveries came only after every bad one had ended"
    );
}
