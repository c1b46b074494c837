//! How fast a destination is called, and what happens while it is not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport::domain::retry::RetryAdvice;
use hookport::plugin::{CallFailure, CallReport, Receipt};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{CONFIG, Gateway, bare_request, delivered, failed, refused};

const SECOND: Duration = Duration::from_secs(1);

async fn ready() -> Gateway {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    gateway
}

fn calls(gateway: &Gateway) -> usize {
    gateway.providers.calls.lock().expect("lock").len()
}

/// Waits until so many deliveries have succeeded.
async fn succeeded(gateway: &Gateway, expected: usize) {
    gateway
        .until("/deliveries?state=success&limit=200", |page| {
            page["items"].as_array().map(Vec::len) == Some(expected)
        })
        .await;
}

/// Everything that is due has been looked at: a delivery of another subscription came through.
async fn looked(gateway: &Gateway) {
    let event = json!({"type": "other.thing", "payload": {}});
    let accepted = gateway.post("/events", &event).await.expect(202);
    let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    gateway
        .until(&path, |event| event["status"] == "delivered")
        .await;
}

/// A second subscription whose destination works.
async fn beside(gateway: &Gateway) {
    gateway.register(&["other.thing"]).await;
    let other = json!({"name": "beside", "events": "other.thing", "provider": "plain", "config": {"url": "https://other.test/"}});
    gateway.post("/subscriptions", &other).await.expect(201);
}

fn path(subscription: &Value) -> String {
    format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    )
}

async fn told(gateway: &Gateway, event_type: &str) -> Vec<Value> {
    let page = gateway
        .get(&format!("/events?type={event_type}"))
        .await
        .expect(200);
    page["items"].as_array().expect("items").clone()
}

fn unreachable() -> CallReport<Receipt> {
    CallReport {
        unreachable: true,
        ..failed(refused(RetryAdvice::Default), None)
    }
}

/// Answers of the destination `fake` that can be switched; `plain` always works.
fn switched(gateway: &Gateway) -> Arc<AtomicBool> {
    let up = Arc::new(AtomicBool::new(false));
    let asked = up.clone();
    gateway.providers.answer(move |call| {
        let works = asked.load(Ordering::SeqCst) || &*call.subscription_name == "beside";
        if works {
            delivered(None)
        } else {
            unreachable()
        }
    });
    up
}

const BREAKER: fn() -> Value =
    || json!({"failures": 2, "probeAfterMs": 10_000, "probeAfterMsMax": 20_000});

#[tokio::test]
async fn a_dead_destination_is_held_back_and_recovers_by_itself() {
    let gateway = ready().await;
    beside(&gateway).await;
    let up = switched(&gateway);
    let retry = json!({"delaysMs": [1_000, 1_000]});
    let subscription = gateway
        .subscribe(json!({"circuitBreaker": BREAKER(), "retry": retry}))
        .await;
    assert_eq!(subscription["circuit"]["state"], "closed");
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(gateway.emit(json!({})).await);
    }
    // One at a time, so that it is known which failures open the circuit.
    let one = hookport::dispatch::WorkerConfig {
        concurrency: 2,
        concurrency_per_subscription: 1,
    };
    let working = gateway.work(one);
    let open = gateway
        .until(&path(&subscription), |found| {
            found["circuit"]["state"] == "open"
        })
        .await;
    assert_eq!(open["circuit"]["reason"], "the receiver refused");
    assert!(open["circuit"]["since"].is_string() && open["circuit"]["nextProbeAt"].is_string());
    looked(&gateway).await;
    let made = calls(&gateway);
    let unavailable = told(&gateway, "hookport.destination.unavailable").await;
    assert_eq!(unavailable.len(), 1);
    assert_eq!(
        unavailable[0]["payload"]["subscriptionId"],
        subscription["id"]
    );

    // Time passes, other work goes on, nothing is lost of what waits.
    gateway.advance(9 * SECOND);
    looked(&gateway).await;
    assert_eq!(calls(&gateway), made + 1, "only the one beside");

    // Probes fail, and cost nobody an attempt.
    for wait in [1, 20, 20, 20] {
        gateway.advance(wait * SECOND);
        let before = open["circuit"]["nextProbeAt"].clone();
        gateway
            .until(&path(&subscription), |found| {
                found["circuit"]["state"] == "open" && found["circuit"]["nextProbeAt"] != before
            })
            .await;
        looked(&gateway).await;
    }
    let mut spent = 0;
    for id in &ids {
        let delivery = gateway.get(&format!("/deliveries/{id}")).await.expect(200);
        assert!(delivery["state"] != "failed", "{delivery}");
        spent += delivery["attempts"].as_u64().expect("a number");
    }
    assert_eq!(spent, 2, "those that opened it");

    up.store(true, Ordering::SeqCst);
    gateway.advance(20 * SECOND);
    let closed = gateway
        .until(&path(&subscription), |found| {
            found["circuit"]["state"] == "closed"
        })
        .await;
    assert_eq!(closed["circuit"]["reason"], Value::Null);
    for id in &ids {
        gateway.delivery_in(id, "success").await;
    }
    let recovered = told(&gateway, "hookport.destination.recovered").await;
    assert_eq!(recovered.len(), 1);
    assert_eq!(
        recovered[0]["payload"]["subscriptionId"],
        subscription["id"]
    );
    working.stop().await;
}

#[tokio::test]
async fn an_open_circuit_stays_open_over_a_restart_and_a_change_closes_it() {
    let gateway = ready().await;
    beside(&gateway).await;
    let up = switched(&gateway);
    let subscription = gateway
        .subscribe(json!({"circuitBreaker": BREAKER()}))
        .await;
    let working = gateway.work(CONFIG);
    let first = gateway.emit(json!({})).await;
    gateway.attempted(&first, 1).await;
    let second = gateway.emit(json!({})).await;
    gateway
        .until(&path(&subscription), |found| {
            found["circuit"]["state"] == "open"
        })
        .await;
    working.stop().await;

    up.store(true, Ordering::SeqCst);
    let third = gateway.emit(json!({})).await;
    let working = gateway.work(CONFIG);
    gateway.advance(9 * SECOND);
    looked(&gateway).await;
    for (id, attempts) in [(&first, 1), (&second, 1), (&third, 0)] {
        let waiting = gateway.get(&format!("/deliveries/{id}")).await.expect(200);
        assert_eq!(waiting["attempts"], attempts, "{waiting}");
        assert!(waiting["state"] != "success", "{waiting}");
    }
    // Whoever resumes it says that it works.
    gateway
        .act(&format!("{}/resume", path(&subscription)))
        .await
        .expect(200);
    for id in [&first, &second, &third] {
        gateway.delivery_in(id, "success").await;
    }
    let shown = gateway.get(&path(&subscription)).await.expect(200);
    assert_eq!(shown["circuit"]["state"], "closed");
    assert!(
        told(&gateway, "hookport.destination.recovered")
            .await
            .is_empty(),
        "nobody saw it recover"
    );
    working.stop().await;
}

#[tokio::test]
async fn what_a_provider_or_a_request_does_wrong_opens_no_circuit() {
    let gateway = ready().await;
    gateway
        .providers
        .answer(|call| match call.event.payload.len() % 3 {
            0 => failed(CallFailure::Trap("unreachable".to_owned()), None),
            1 => failed(refused(RetryAdvice::Never), Some(404)),
            _ => failed(CallFailure::Limit("CPU".to_owned()), None),
        });
    let subscription = gateway
        .subscribe(json!({"circuitBreaker": BREAKER(), "retry": {"delaysMs": []}}))
        .await;
    let working = gateway.work(CONFIG);
    for n in 0..9 {
        let id = gateway.emit(json!({"payload": {"n": "x".repeat(n)}})).await;
        gateway.delivery_in(&id, "failed").await;
    }
    let shown = gateway.get(&path(&subscription)).await.expect(200);
    assert_eq!(shown["circuit"]["state"], "closed");
    working.stop().await;
}

#[tokio::test]
async fn a_breaker_that_is_off_lets_every_attempt_be_made() {
    let gateway = ready().await;
    switched(&gateway);
    let subscription = gateway
        .subscribe(json!({"circuitBreaker": {"enabled": false}, "retry": {"delaysMs": [0, 0]}}))
        .await;
    assert_eq!(subscription["circuitBreaker"]["enabled"], false);
    let working = gateway.work(CONFIG);
    for _ in 0..8 {
        let id = gateway.emit(json!({})).await;
        let delivery = gateway.delivery_in(&id, "failed").await;
        assert_eq!(delivery["attempts"], 3);
    }
    assert_eq!(calls(&gateway), 24);
    working.stop().await;
}

#[tokio::test]
async fn too_many_requests_without_progress_hold_back_as_long_as_asked() {
    let gateway = ready().await;
    beside(&gateway).await;
    gateway.providers.answer(|call| {
        if &*call.subscription_name == "beside" {
            return delivered(None);
        }
        let wait = RetryAdvice::After(Duration::from_secs(120));
        failed(refused(wait), Some(429))
    });
    let subscription = gateway
        .subscribe(json!({"circuitBreaker": {"failures": 1, "probeAfterMs": 1_000}}))
        .await;
    let working = gateway.work(CONFIG);
    gateway.emit(json!({})).await;
    let open = gateway
        .until(&path(&subscription), |found| {
            found["circuit"]["state"] == "open"
        })
        .await;
    gateway.emit(json!({})).await;
    gateway.advance(119 * SECOND);
    looked(&gateway).await;
    let shown = gateway.get(&path(&subscription)).await.expect(200);
    assert_eq!(shown["circuit"], open["circuit"], "nothing was tried");
    working.stop().await;
}

#[tokio::test]
async fn a_rate_limit_holds_and_nothing_is_lost() {
    let gateway = ready().await;
    beside(&gateway).await;
    gateway
        .subscribe(json!({"rateLimit": {"perMinute": 60, "burst": 3}}))
        .await;
    for _ in 0..6 {
        gateway.emit(json!({})).await;
    }
    let working = gateway.work(CONFIG);
    succeeded(&gateway, 3).await;
    looked(&gateway).await;
    succeeded(&gateway, 4).await;
    gateway.advance(Duration::from_millis(999));
    looked(&gateway).await;
    succeeded(&gateway, 5).await;
    for so_far in [6, 7, 8] {
        gateway.advance(SECOND);
        succeeded(&gateway, so_far).await;
    }
    assert_eq!(calls(&gateway), 8);
    working.stop().await;
}

#[tokio::test]
async fn no_more_than_the_concurrency_is_under_way() {
    let gateway = ready().await;
    beside(&gateway).await;
    let (doors, inside) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(2)));
    let (open, room) = (doors.clone(), inside.clone());
    gateway.providers.on_deliver(move |call| {
        let (open, room) = (open.clone(), room.clone());
        async move {
            if &*call.subscription_name != "beside" {
                let _place = room.try_acquire().expect("no more than two");
                open.acquire().await.expect("open").forget();
            }
            delivered(None)
        }
    });
    gateway.subscribe(json!({"concurrency": 2})).await;
    for _ in 0..6 {
        gateway.emit(json!({})).await;
    }
    let working = gateway.work(CONFIG);
    gateway
        .until("/deliveries?state=in_flight", |page| {
            page["items"].as_array().map(Vec::len) == Some(2)
        })
        .await;
    looked(&gateway).await;
    assert_eq!(inside.available_permits(), 0);
    doors.add_permits(6);
    succeeded(&gateway, 7).await;
    working.stop().await;
}

#[tokio::test]
async fn order_is_kept_through_an_outage() {
    let gateway = ready().await;
    let up = switched(&gateway);
    let subscription = gateway
        .subscribe(
            json!({"ordered": true, "circuitBreaker": {"failures": 1, "probeAfterMs": 5_000}}),
        )
        .await;
    let working = gateway.work(CONFIG);
    let mut ids = Vec::new();
    for n in 0..5 {
        let event = json!({"correlationKey": "k", "payload": {"n": n}});
        ids.push(gateway.emit(event).await);
    }
    gateway
        .until(&path(&subscription), |found| {
            found["circuit"]["state"] == "open"
        })
        .await;
    up.store(true, Ordering::SeqCst);
    gateway.providers.calls.lock().expect("lock").clear();
    gateway.advance(5 * SECOND);
    for id in &ids {
        gateway.delivery_in(id, "success").await;
    }
    let order: Vec<String> = {
        let calls = gateway.providers.calls.lock().expect("lock");
        calls
            .iter()
            .map(|call| call.event.payload.to_string())
            .collect()
    };
    let expected: Vec<String> = (0..5).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(order, expected);
    working.stop().await;
}

#[tokio::test]
async fn settings_are_checked_by_field_and_come_back_as_written() {
    let gateway = ready().await;
    let refused = async |changes: Value, field: &str| {
        let mut body = crate::harness::subscription();
        for (name, value) in changes.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let problem = gateway
            .post("/subscriptions", &body)
            .await
            .problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    };
    refused(json!({"concurrency": 0}), "/concurrency").await;
    refused(json!({"rateLimit": {"burst": 2}}), "/rateLimit").await;
    refused(
        json!({"rateLimit": {"perSecond": 1, "perMinute": 1}}),
        "/rateLimit",
    )
    .await;
    refused(
        json!({"rateLimit": {"perSecond": 0}}),
        "/rateLimit/perSecond",
    )
    .await;
    refused(
        json!({"rateLimit": {"perMinute": 5, "burst": 0}}),
        "/rateLimit/burst",
    )
    .await;
    refused(
        json!({"circuitBreaker": {"failures": 0}}),
        "/circuitBreaker/failures",
    )
    .await;
    refused(
        json!({"circuitBreaker": {"probeAfterMs": 1}}),
        "/circuitBreaker/probeAfterMs",
    )
    .await;
    refused(
        json!({"circuitBreaker": {"probeAfterMs": 5_000, "probeAfterMsMax": 4_000}}),
        "/circuitBreaker/probeAfterMsMax",
    )
    .await;
    let plain = gateway.subscribe(json!({})).await;
    assert_eq!(plain["rateLimit"], Value::Null);
    assert_eq!(plain["circuitBreaker"]["enabled"], true);
    let changes = json!({
        "rateLimit": {"perSecond": 20, "burst": 5},
        "concurrency": 4,
        "circuitBreaker": {"enabled": true, "failures": 3, "probeAfterMs": 500, "probeAfterMsMax": 900},
    });
    let set = gateway.subscribe(changes.clone()).await;
    for (name, value) in changes.as_object().expect("an object") {
        assert_eq!(&set[name], value);
    }
    let request = bare_request("GET", &path(&set));
    assert_eq!(gateway.send("viewer", request).await.expect(200), set);
}
