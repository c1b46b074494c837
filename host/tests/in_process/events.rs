//! Emitting: validation, batches, idempotency, systems, and what an event looks like afterwards.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway, json_request};

fn with_key(key: &str, body: &Value) -> Request<Body> {
    let mut request = json_request("POST", "/events", body.to_string());
    let value = key.parse().expect("a header");
    request.headers_mut().insert("idempotency-key", value);
    request
}

#[tokio::test]
async fn a_payload_is_held_to_its_schema_by_pointer() {
    let gateway = Gateway::start().await;
    let schema = json!({
        "type": "object", "required": ["incident"],
        "properties": {"incident": {
            "type": "object", "required": ["title"],
            "properties": {"title": {"type": "string"}, "level": {"enum": [1, 2]}},
        }},
    });
    gateway
        .put(
            "/event-types/incident.created",
            &json!({"payloadSchema": schema}),
        )
        .await
        .expect(201);
    let emit = async |payload: Value| -> Answer {
        let event = json!({"type": "incident.created", "payload": payload});
        gateway.post("/events", &event).await
    };
    emit(json!({"incident": {"title": "x", "level": 2}}))
        .await
        .expect(202);
    let problem = emit(json!({"incident": {"title": 7, "level": 3}}))
        .await
        .problem(400, "validation");
    let fields: Vec<_> = problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| error["field"].as_str().expect("a field"))
        .collect();
    assert!(fields.contains(&"/payload/incident/title"), "{problem}");
    assert!(fields.contains(&"/payload/incident/level"), "{problem}");
    for payload in [json!([]), json!("text"), Value::Null] {
        let problem = emit(payload).await.problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], "/payload", "{problem}");
    }
}

#[tokio::test]
async fn a_payload_may_be_nested_64_levels_and_no_deeper() {
    let gateway = Gateway::start().await;
    gateway.register(&["a.b"]).await;
    // The payload itself is the first level.
    let event = |levels: usize| {
        let inside = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
        format!(r#"{{"type": "a.b", "payload": {{"a": {inside}}}}}"#)
    };
    for (levels, accepted) in [(64, true), (65, false), (70, false)] {
        let answer = gateway
            .send("admin", json_request("POST", "/events", event(levels)))
            .await;
        assert_eq!(
            answer.status,
            if accepted { 202 } else { 400 },
            "{levels}: {}",
            answer.text
        );
    }
}

#[tokio::test]
async fn an_unknown_type_is_refused_with_the_nearest_known_one() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let emit = async |name: &str| {
        let event = json!({"type": name, "payload": {}});
        let problem = gateway
            .post("/events", &event)
            .await
            .problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], "/type");
        problem.to_string()
    };
    assert!(emit("incident.craeted").await.contains("incident.created"));
    assert!(emit("entirely.different").await.contains("/event-types/"));
    assert!(emit("Not a name").await.contains("segments"));
    emit("hookport.delivery.exhausted").await;
}

#[tokio::test]
async fn a_batch_is_accepted_whole_or_not_at_all() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let good = json!({"type": "incident.created", "payload": {}});
    let bad = json!({"type": "incident.created", "payload": 7});
    let problem = gateway
        .post("/events", &json!([good, bad, good]))
        .await
        .problem(400, "validation");
    assert_eq!(problem["errors"][0]["field"], "/1/payload", "{problem}");
    let listed = gateway.get("/events").await.expect(200);
    assert_eq!(listed["items"], json!([]), "none of them");

    let accepted = gateway
        .post("/events", &json!([good, good]))
        .await
        .expect(202);
    let items = accepted["items"].as_array().expect("items");
    assert_eq!(items.len(), 2);
    assert!(
        items[0]["id"].as_str() < items[1]["id"].as_str(),
        "in order"
    );
    gateway
        .post("/events", &json!([]))
        .await
        .problem(400, "validation");
    let many = Value::Array(vec![good; 1_001]);
    let answer = gateway.post("/events", &many).await;
    assert!([400, 413].contains(&answer.status), "{}", answer.text);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_body_of_one_caller() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    gateway.subscribe(json!({})).await;
    let body = json!({"type": "incident.created", "payload": {"n": 1}});
    let other = json!({"type": "incident.created", "payload": {"n": 2}});
    let first = gateway
        .send("admin", with_key("k", &body))
        .await
        .expect(202);
    let again = gateway
        .send("admin", with_key("k", &body))
        .await
        .expect(200);
    assert_eq!(first, again, "the same answer");
    gateway
        .send("admin", with_key("k", &other))
        .await
        .problem(422, "idempotency_key_reused");
    let theirs = gateway
        .send("emitter", with_key("k", &other))
        .await
        .expect(202);
    assert_ne!(theirs["id"], first["id"]);

    let batch = json!([body, other]);
    let first = gateway
        .send("admin", with_key("b", &batch))
        .await
        .expect(202);
    let again = gateway
        .send("admin", with_key("b", &batch))
        .await
        .expect(200);
    assert_eq!(first, again);
    for key in ["", &"x".repeat(256), "caf\u{e9}"] {
        let mut request = json_request("POST", "/events", body.to_string());
        let value = axum::http::HeaderValue::from_bytes(key.as_bytes()).expect("a header");
        request.headers_mut().insert("idempotency-key", value);
        gateway
            .send("admin", request)
            .await
            .problem(400, "validation");
    }
}

#[tokio::test]
async fn an_event_is_shown_as_it_was_accepted() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let subscription = gateway.subscribe(json!({})).await;
    let accepted = gateway
        .post(
            "/events",
            &json!({
                "type": "incident.created",
                "payload": {"title": "x", "systemId": "s1", "systemIds": ["s2", "s1"]},
                "occurredAt": "2026-01-31T09:00:00+01:00",
                "correlationKey": "incident-7",
                "systemId": "s3",
                "systemIds": ["s4"],
            }),
        )
        .await
        .expect(202);
    assert_eq!(accepted["deliveries"], 1);
    let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
    let event = gateway.get(&path).await.expect(200);
    assert_eq!(event["payload"]["title"], "x");
    assert_eq!(event["occurredAt"], "2026-01-31T08:00:00.000Z");
    assert_eq!(event["correlationKey"], "incident-7");
    assert_eq!(event["systemIds"], json!(["s1", "s2", "s3", "s4"]));
    assert_eq!(event["status"], "in_progress");
    assert_eq!(event["deliveries"][0]["subscriptionId"], subscription["id"]);
    assert_eq!(event["deliveries"][0]["state"], "pending");
}

#[tokio::test]
async fn wrong_envelopes_are_refused_by_field() {
    let gateway = Gateway::start().await;
    gateway.register(&["a.b"]).await;
    let cases = [
        (json!({"occurredAt": "yesterday"}), "/occurredAt"),
        (json!({"correlationKey": ""}), "/correlationKey"),
        (
            json!({"correlationKey": "x".repeat(2_000)}),
            "/correlationKey",
        ),
        (json!({"systemIds": "s1"}), "/systemIds"),
        (json!({"systemId": 7}), "/systemId"),
        (json!({"systemIds": vec!["s"; 3]}), ""),
    ];
    for (changes, field) in cases {
        let mut event = json!({"type": "a.b", "payload": {}});
        for (name, value) in changes.as_object().expect("an object") {
            event[name] = value.clone();
        }
        let answer = gateway.post("/events", &event).await;
        if field.is_empty() {
            answer.expect(202);
        } else {
            let problem = answer.problem(400, "validation");
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    }
}
