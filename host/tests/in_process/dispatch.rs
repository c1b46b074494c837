//! From a queued delivery to its end, with the clock moved by hand.

use std::time::Duration;

use hookport::domain::retry::RetryAdvice;
use hookport::plugin::CallFailure;
use serde_json::{Value, json};

use crate::harness::{CONFIG, Gateway, delivered, failed, refused};

const SECOND: Duration = Duration::from_secs(1);

async fn ready() -> Gateway {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    gateway
}

fn calls(gateway: &Gateway) -> usize {
    gateway.providers.calls.lock().expect("lock").len()
}

/// The operational events of a type so far.
async fn told(gateway: &Gateway, event_type: &str, expected: usize) -> Value {
    let path = format!("/events?type={event_type}");
    gateway
        .until(&path, |page| {
            page["items"].as_array().map(Vec::len) == Some(expected)
        })
        .await["items"]
        .clone()
}

#[tokio::test]
async fn every_delay_of_the_schedule_is_used_and_then_it_is_given_up() {
    let gateway = ready().await;
    gateway
        .providers
        .answer(|_| failed(refused(RetryAdvice::Default), Some(503)));
    gateway
        .subscribe(json!({"retry": {"delaysMs": [1_000, 2_000]}}))
        .await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    let first = gateway.attempted(&id, 1).await;
    assert_eq!(first["state"], "retrying");
    gateway.advance(Duration::from_millis(999));
    gateway.advance(Duration::from_millis(1));
    gateway.attempted(&id, 2).await;
    gateway.advance(SECOND);
    assert_eq!(
        gateway.attempted(&id, 2).await["state"],
        "retrying",
        "2 s, not 1 s"
    );
    gateway.advance(SECOND);
    let last = gateway.attempted(&id, 3).await;
    assert_eq!(last["state"], "failed");
    assert_eq!(last["lastError"], "the receiver refused");
    assert_eq!(last["attemptLog"][2]["httpStatus"], 503);
    assert_eq!(last["attemptLog"][2]["outcome"], "provider_error");
    let events = told(&gateway, "hookport.delivery.exhausted", 1).await;
    assert_eq!(events[0]["payload"]["deliveryId"], json!(id));
    let attempts: Vec<u32> = gateway
        .providers
        .calls
        .lock()
        .expect("lock")
        .iter()
        .map(|call| call.attempt)
        .collect();
    assert_eq!(attempts, [1, 2, 3]);

    // A retry by hand begins a round of its own.
    gateway
        .act(&format!("/deliveries/{id}/retry"))
        .await
        .expect(202);
    let again = gateway.attempted(&id, 4).await;
    assert_eq!(
        (&again["state"], &again["attempts"]),
        (&json!("retrying"), &json!(1))
    );
    assert_eq!(again["attemptLog"][3]["number"], 4);
    working.stop().await;
}

#[tokio::test]
async fn a_delivery_that_recovers_is_told_of_once() {
    let gateway = ready().await;
    gateway.providers.answer(|call| match call.attempt {
        1 => failed(CallFailure::Limit("timed out".to_owned()), None),
        _ => delivered(Some("ticket-1")),
    });
    gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    let first = gateway.attempted(&id, 1).await;
    assert_eq!(first["attemptLog"][0]["outcome"], "limit_exceeded");
    gateway.advance(SECOND);
    let done = gateway.delivery_in(&id, "success").await;
    assert_eq!(done["externalId"], "ticket-1");
    assert_eq!(done["lastError"], Value::Null, "what is over is no error");
    told(&gateway, "hookport.delivery.recovered", 1).await;
    told(&gateway, "hookport.delivery.exhausted", 0).await;
    working.stop().await;
}

#[tokio::test]
async fn the_providers_advice_wins_over_the_schedule() {
    let gateway = ready().await;
    gateway.providers.answer(|call| match call.attempt {
        1 => failed(
            refused(RetryAdvice::After(Duration::from_secs(30))),
            Some(429),
        ),
        _ => failed(refused(RetryAdvice::Never), Some(400)),
    });
    gateway
        .subscribe(json!({"retry": {"delaysMs": [1_000, 1_000, 1_000]}}))
        .await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    gateway.attempted(&id, 1).await;
    gateway.advance(Duration::from_secs(29));
    gateway.attempted(&id, 1).await;
    gateway.advance(SECOND);
    let delivery = gateway.attempted(&id, 2).await;
    assert_eq!(delivery["state"], "failed", "never is never");
    working.stop().await;
}

#[tokio::test]
async fn a_denial_is_not_tried_again_and_a_trap_is() {
    let gateway = ready().await;
    gateway.providers.answer(|call| {
        let trap = call.event.payload.contains("trap");
        let failure = if trap {
            CallFailure::Trap("unreachable".to_owned())
        } else {
            CallFailure::Denied("example.test is not granted".to_owned())
        };
        failed(failure, None)
    });
    gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let denied = gateway.emit(json!({})).await;
    let denied = gateway.attempted(&denied, 1).await;
    assert_eq!(
        (&denied["state"], &denied["attemptLog"][0]["outcome"]),
        (&json!("failed"), &json!("denied"))
    );
    let trapped = gateway.emit(json!({"payload": {"kind": "trap"}})).await;
    let trapped = gateway.attempted(&trapped, 1).await;
    assert_eq!(
        (&trapped["state"], &trapped["attemptLog"][0]["outcome"]),
        (&json!("retrying"), &json!("trap"))
    );
    working.stop().await;
}

#[tokio::test]
async fn a_call_that_panics_is_one_failed_attempt() {
    let gateway = ready().await;
    gateway.providers.on_deliver(|call| async move {
        assert!(
            call.attempt > 1,
            "a defect that mentions sk-internal-detail"
        );
        delivered(None)
    });
    gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    let first = gateway.attempted(&id, 1).await;
    assert_eq!(first["state"], "retrying");
    assert!(!first.to_string().contains("sk-internal-detail"), "{first}");
    gateway.advance(SECOND);
    gateway.delivery_in(&id, "success").await;
    working.stop().await;
}

#[tokio::test]
async fn gone_switches_the_subscription_off_and_is_told_of() {
    let gateway = ready().await;
    gateway
        .providers
        .answer(|_| failed(refused(RetryAdvice::Default), Some(410)));
    let subscription = gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    let delivery = gateway.attempted(&id, 1).await;
    assert_eq!(delivery["state"], "failed");
    let path = format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let subscription = gateway
        .until(&path, |found| found["enabled"] == false)
        .await;
    assert!(
        subscription["disabledReason"]
            .as_str()
            .is_some_and(|reason| reason.contains("410"))
    );
    told(&gateway, "hookport.subscription.disabled", 1).await;
    gateway
        .act(&format!("/deliveries/{id}/retry"))
        .await
        .problem(409, "conflict");
    let enabled = gateway.act(&format!("{path}/enable")).await.expect(200);
    assert_eq!(enabled["disabledReason"], Value::Null);
    working.stop().await;
}

#[tokio::test]
async fn a_paused_subscription_keeps_its_backlog_and_a_disabled_one_does_not() {
    let gateway = ready().await;
    let subscription = gateway.subscribe(json!({"paused": true})).await;
    let path = format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let working = gateway.work(CONFIG);
    let kept = gateway.emit(json!({})).await;
    gateway.advance(Duration::from_secs(3_600));
    let waiting = gateway
        .until(&format!("/deliveries/{kept}"), |found| {
            found["state"] != "in_flight"
        })
        .await;
    assert!(
        ["pending", "retrying"].contains(&waiting["state"].as_str().expect("a state")),
        "{waiting}"
    );
    assert_eq!(calls(&gateway), 0);
    gateway.act(&format!("{path}/resume")).await.expect(200);
    let delivered = gateway.delivery_in(&kept, "success").await;
    assert_eq!(delivered["attempts"], 1);

    gateway.act(&format!("{path}/pause")).await.expect(200);
    let dropped = gateway.emit(json!({})).await;
    gateway.act(&format!("{path}/disable")).await.expect(200);
    gateway.delivery_in(&dropped, "cancelled").await;
    let unmatched = gateway
        .post(
            "/events",
            &json!({"type": "incident.created", "payload": {}}),
        )
        .await
        .expect(202);
    assert_eq!(unmatched["deliveries"], 0);
    assert_eq!(calls(&gateway), 1);
    working.stop().await;
}

#[tokio::test]
async fn an_attempt_reads_the_configuration_of_its_own_time() {
    let gateway = ready().await;
    gateway.providers.answer(|call| match call.attempt {
        1 => failed(refused(RetryAdvice::Default), Some(500)),
        _ => delivered(None),
    });
    let stored = gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    gateway.attempted(&id, 1).await;
    let mut update = crate::harness::subscription();
    update["config"]["url"] = json!("https://mended.test/");
    let path = format!("/subscriptions/{}", stored["id"].as_str().expect("an id"));
    gateway.put(&path, &update).await.expect(200);
    gateway.advance(SECOND);
    gateway.delivery_in(&id, "success").await;
    let urls: Vec<_> = gateway
        .providers
        .calls
        .lock()
        .expect("lock")
        .iter()
        .map(|call| call.config.fields.get("url").cloned().expect("a url"))
        .collect();
    assert_eq!(urls, ["https://receiver.test/", "https://mended.test/"]);
    working.stop().await;
}

#[tokio::test]
async fn an_external_id_comes_back_for_the_same_correlation_key_only() {
    let gateway = ready().await;
    gateway
        .providers
        .answer(|call| delivered(Some(&format!("ticket-of-{}", call.event.payload.len()))));
    gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    for (key, payload) in [("a", json!({})), ("a", json!({"n": 1})), ("b", json!({}))] {
        let id = gateway
            .emit(json!({"correlationKey": key, "payload": payload}))
            .await;
        gateway.delivery_in(&id, "success").await;
    }
    let without = gateway.emit(json!({})).await;
    gateway.delivery_in(&without, "success").await;
    let seen: Vec<Option<String>> = gateway
        .providers
        .calls
        .lock()
        .expect("lock")
        .iter()
        .map(|call| call.external_id.clone())
        .collect();
    assert_eq!(seen, [None, Some("ticket-of-2".to_owned()), None, None]);
    working.stop().await;
}

#[tokio::test]
async fn an_ordered_subscription_holds_back_its_key_only() {
    let gateway = ready().await;
    gateway.providers.answer(|call| {
        if call.event.payload.contains("a1") && call.attempt == 1 {
            failed(refused(RetryAdvice::Default), Some(500))
        } else {
            delivered(None)
        }
    });
    gateway.subscribe(json!({"ordered": true})).await;
    let working = gateway.work(CONFIG);
    let mut ids = Vec::new();
    for (key, name) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")] {
        ids.push(
            gateway
                .emit(json!({"correlationKey": key, "payload": {"name": name}}))
                .await,
        );
    }
    gateway.attempted(&ids[0], 1).await;
    gateway.delivery_in(&ids[2], "success").await;
    for held in [&ids[1], &ids[3]] {
        let delivery = gateway
            .get(&format!("/deliveries/{held}"))
            .await
            .expect(200);
        assert_eq!(delivery["state"], "pending", "{delivery}");
    }
    gateway.advance(SECOND);
    for id in &ids {
        gateway.delivery_in(id, "success").await;
    }
    let of_a: Vec<String> = gateway
        .providers
        .calls
        .lock()
        .expect("lock")
        .iter()
        .filter(|call| call.event.correlation_key.as_deref() == Some("a"))
        .map(|call| {
            serde_json::from_str::<Value>(&call.event.payload).expect("json")["name"]
                .as_str()
                .expect("a name")
                .to_owned()
        })
        .collect();
    assert_eq!(of_a, ["a1", "a1", "a2", "a3"]);
    working.stop().await;
}

#[tokio::test]
async fn operational_events_go_out_like_any_other_and_make_no_further_ones() {
    let gateway = ready().await;
    gateway
        .providers
        .answer(|_| failed(refused(RetryAdvice::Never), Some(400)));
    gateway.subscribe(json!({})).await;
    gateway
        .subscribe(json!({"name": "alarm", "events": "hookport.*"}))
        .await;
    let working = gateway.work(CONFIG);
    let id = gateway.emit(json!({})).await;
    gateway.delivery_in(&id, "failed").await;
    let events = told(&gateway, "hookport.delivery.exhausted", 1).await;
    let event = format!("/events/{}", events[0]["id"].as_str().expect("an id"));
    gateway
        .until(&event, |event| event["status"] == "failed")
        .await;
    gateway.advance(SECOND);
    told(&gateway, "hookport.delivery.exhausted", 1).await;
    assert_eq!(
        calls(&gateway),
        2,
        "the failure of the alarm raises no alarm"
    );
    working.stop().await;
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_end_and_leaves_the_rest_due() {
    let gateway = ready().await;
    let (go, going) = tokio::sync::watch::channel(false);
    gateway.providers.on_deliver(move |_| {
        let mut going = going.clone();
        async move {
            let _ = going.wait_for(|go| *go).await;
            delivered(None)
        }
    });
    gateway.subscribe(json!({})).await;
    let working = gateway.work(CONFIG);
    let under_way = gateway.emit(json!({})).await;
    gateway.delivery_in(&under_way, "in_flight").await;
    let stopping = tokio::spawn(working.stop());
    tokio::task::yield_now().await;
    go.send(true).expect("a listener");
    stopping.await.expect("stopped");
    assert_eq!(
        gateway.delivery_in(&under_way, "success").await["attempts"],
        1
    );
    let later = gateway.emit(json!({})).await;
    assert_eq!(gateway.delivery_in(&later, "pending").await["attempts"], 0);
}
