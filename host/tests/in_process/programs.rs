//! Filters and transforms of subscriptions and event types.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hookport::dispatch::WorkerConfig;
use serde_json::{Value, json};

use crate::harness::Gateway;

const WORK: WorkerConfig = WorkerConfig {
    concurrency: 4,
    concurrency_per_subscription: 4,
};

async fn emit(gateway: &Gateway, payload: Value) -> Value {
    let event = json!({"type": "incident.created", "payload": payload});
    gateway.post("/events", &event).await.expect(202)
}

async fn delivery_of(gateway: &Gateway, accepted: &Value) -> String {
    let path = format!(
        "/deliveries?eventId={}",
        accepted["id"].as_str().expect("an id")
    );
    let deliveries = gateway.get(&path).await.expect(200);
    deliveries["items"][0]["id"]
        .as_str()
        .expect("a delivery")
        .to_owned()
}

#[tokio::test]
async fn only_events_that_pass_the_filter_are_delivered() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    gateway.subscribe(json!({"filter": "severe"})).await;
    let low = emit(&gateway, json!({"severity": "low"})).await;
    let high = emit(&gateway, json!({"severity": "high"})).await;
    assert_eq!(
        (&low["deliveries"], &high["deliveries"]),
        (&json!(0), &json!(1))
    );
    let working = gateway.work(WORK);
    let delivery = delivery_of(&gateway, &high).await;
    gateway.delivery_in(&delivery, "success").await;
    assert_eq!(gateway.providers.calls.lock().expect("lock").len(), 1);
    working.stop().await;
}

#[tokio::test]
async fn a_filter_that_fails_loses_nothing_and_is_told_at_the_attempt() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let retry = json!({"delaysMs": [1_000]});
    gateway
        .subscribe(json!({"filter": "fail", "retry": retry}))
        .await;
    let accepted = emit(&gateway, json!({})).await;
    assert_eq!(accepted["deliveries"], 1);
    let working = gateway.work(WORK);
    let id = delivery_of(&gateway, &accepted).await;
    let failed = gateway.attempted(&id, 1).await;
    assert_eq!(failed["attemptLog"][0]["outcome"], "limit_exceeded");
    assert_eq!(
        failed["attemptLog"][0]["message"],
        "the filter: the CPU budget is spent"
    );
    assert!(gateway.providers.calls.lock().expect("lock").is_empty());

    gateway
        .providers
        .failing_programs
        .store(false, Ordering::SeqCst);
    gateway.advance(Duration::from_secs(2));
    gateway.delivery_in(&id, "success").await;
    working.stop().await;
}

#[tokio::test]
async fn a_filter_that_was_changed_reaches_what_is_queued() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let subscription = gateway.subscribe(json!({})).await;
    let accepted = emit(&gateway, json!({"severity": "low"})).await;
    let path = format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let mut changed = crate::harness::subscription();
    changed["filter"] = "severe".into();
    gateway.put(&path, &changed).await.expect(200);
    let working = gateway.work(WORK);
    let id = delivery_of(&gateway, &accepted).await;
    gateway.delivery_in(&id, "filtered").await;
    let event = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    assert_eq!(gateway.get(&event).await.expect(200)["status"], "unmatched");
    working.stop().await;
}

#[tokio::test]
async fn a_transform_makes_the_payload_for_its_own_subscription_only() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    gateway
        .subscribe(json!({"name": "wrapped", "transform": "wrap"}))
        .await;
    gateway.subscribe(json!({"name": "plain"})).await;
    let working = gateway.work(WORK);
    let accepted = emit(&gateway, json!({"n": 1})).await;
    let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    gateway
        .until(&path, |event| event["status"] == "delivered")
        .await;
    let calls: Vec<_> = {
        let calls = gateway.providers.calls.lock().expect("lock");
        calls.iter().cloned().collect()
    };
    for call in &calls {
        let payload: Value = serde_json::from_str(&call.event.payload).expect("JSON");
        let expected = match &*call.subscription_name {
            "wrapped" => json!({"wrapped": {"n": 1}}),
            _ => json!({"n": 1}),
        };
        assert_eq!(payload, expected, "{}", call.subscription_name);
    }
    assert_eq!(calls.len(), 2);
    let stored = gateway.get(&path).await.expect(200);
    assert_eq!(stored["payload"], json!({"n": 1}));
    working.stop().await;
}

#[tokio::test]
async fn an_event_types_transform_makes_what_is_stored_and_its_schema_checks_that() {
    let gateway = Gateway::start().await;
    let schema = json!({"type": "object", "required": ["wrapped"], "properties": {
        "wrapped": {"type": "object", "properties": {"n": {"type": "integer"}}},
    }});
    let event_type = json!({"transform": "wrap", "payloadSchema": schema});
    gateway
        .put("/event-types/incident.created", &event_type)
        .await
        .expect(201);
    let accepted = emit(&gateway, json!({"n": 1})).await;
    let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    let stored = gateway.get(&path).await.expect(200);
    assert_eq!(stored["payload"], json!({"wrapped": {"n": 1}}));

    let wrong = json!({"type": "incident.created", "payload": {"n": "one"}});
    let problem = gateway
        .post("/events", &wrong)
        .await
        .problem(400, "validation");
    let message = problem["errors"][0]["message"].as_str().expect("text");
    assert!(
        message.contains("the transform of incident.created: makes /wrapped/n"),
        "{message}"
    );

    let failing = json!({"transform": "fail"});
    gateway
        .put("/event-types/incident.created", &failing)
        .await
        .expect(200);
    let event = json!({"type": "incident.created", "payload": {}});
    let problem = gateway
        .post("/events", &event)
        .await
        .problem(400, "validation");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("CPU budget"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_program_is_checked_when_it_is_written() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    for field in ["filter", "transform"] {
        for program in ["nosuch", " ", &"x".repeat(20_000)] {
            let mut input = crate::harness::subscription();
            input[field] = program.into();
            let problem = gateway
                .post("/subscriptions", &input)
                .await
                .problem(400, "validation");
            assert_eq!(
                problem["errors"][0]["field"],
                format!("/{field}"),
                "{problem}"
            );
        }
    }
    let event_type = json!({"transform": "nosuch"});
    let answer = gateway.put("/event-types/a.b", &event_type).await;
    let problem = answer.problem(400, "validation");
    assert_eq!(problem["errors"][0]["field"], "/transform", "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("line 1, column 1"),
        "{problem}"
    );
}
