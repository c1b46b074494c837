//! Inbound webhooks through the real router and store, with a source that does as a test says.

use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookport::plugin::CallFailure;
use hookport::plugin::source::{Normalized, NormalizedEvent, Webhook};
use serde_json::{Value, json};

use crate::harness::{Answer, Gateway};

fn source() -> Value {
    json!({
        "name": "acme",
        "component": "fake-source",
        "verification": {"scheme": "hmacSha256", "header": "x-acme-signature"},
        "secret": "the first secret",
    })
}

async fn create(gateway: &Gateway, changes: Value) -> Value {
    let mut input = source();
    for (name, value) in changes.as_object().expect("an object") {
        input[name] = value.clone();
    }
    gateway.post("/sources", &input).await.expect(201)
}

fn sign(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(body.as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn send(gateway: &Gateway, name: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::post(format!("/api/v1/webhooks/{name}?token=in-the-query&page=2"));
    for (header, value) in headers {
        request = request.header(*header, *value);
    }
    let request = request
        .body(Body::from(body.to_owned()))
        .expect("a request");
    gateway.send("", request).await
}

async fn send_signed(gateway: &Gateway, body: &str) -> Answer {
    let signature = sign("the first secret", body);
    send(gateway, "acme", &[("x-acme-signature", &signature)], body).await
}

/// One event: `{"id": …, "type": …, "data": …}`.
fn normalize(webhook: &Webhook) -> Result<Normalized, CallFailure> {
    let body: Value = serde_json::from_slice(&webhook.body).expect("JSON");
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    Ok(Normalized::Events(vec![NormalizedEvent {
        external_id: text("id"),
        event_type: text("type").unwrap_or_default(),
        occurred_at: text("at"),
        correlation_key: text("key"),
        system_ids: Vec::new(),
        payload: body["data"].to_string(),
    }]))
}

async fn start() -> Gateway {
    let gateway = Gateway::start().await;
    *gateway.providers.normalizing.lock().expect("lock") = Box::new(normalize);
    gateway
}

const PUMP: &str = r#"{"id": "e-1", "type": "pump.failed", "key": "pump-7", "at": "2023-11-14T22:00:00Z", "data": {"pump": 7}}"#;

#[tokio::test]
async fn a_verified_webhook_becomes_an_event_and_is_kept_as_it_came() {
    let gateway = start().await;
    let source = create(&gateway, json!({})).await;
    assert_eq!(source["path"], "/api/v1/webhooks/acme");
    gateway.register(&["pump.failed"]).await;
    let subscription = gateway.subscribe(json!({"events": "pump.*"})).await;
    let receipt = send_signed(&gateway, PUMP).await.expect(202);
    assert_eq!(receipt["state"], "accepted");
    let event = receipt["eventIds"][0].as_str().expect("an event");

    let stored = gateway.get(&format!("/events/{event}")).await.expect(200);
    assert_eq!(stored["payload"], json!({"pump": 7}));
    assert_eq!(stored["correlationKey"], "pump-7");
    assert_eq!(stored["occurredAt"], "2023-11-14T22:00:00.000Z");
    let path = format!("/deliveries?eventId={event}");
    let deliveries = gateway.get(&path).await.expect(200);
    assert_eq!(deliveries["items"][0]["subscriptionId"], subscription["id"]);

    let id = receipt["webhookId"].as_str().expect("an id");
    let webhook = gateway
        .get(&format!("/inbound-webhooks/{id}"))
        .await
        .expect(200);
    assert_eq!(webhook["body"], PUMP);
    assert_eq!(webhook["bodyBase64"], STANDARD.encode(PUMP));
    assert_eq!(webhook["query"], "token=removed&page=2");
    let printed = webhook.to_string();
    assert!(
        !printed.contains("signature") && !printed.contains("in-the-query"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_repetition_is_answered_with_the_first_event() {
    let gateway = start().await;
    create(&gateway, json!({})).await;
    let first = send_signed(&gateway, PUMP).await.expect(202);
    let again = send_signed(&gateway, PUMP).await.expect(200);
    assert_eq!(again["state"], "duplicate");
    assert_eq!(again["eventIds"], first["eventIds"]);

    // Without an identifier of the sender's: the same payload, whatever its blanks and order.
    let first = r#"{"type": "pump.failed", "data": {"a": 1, "b": 2}}"#;
    let same = r#"{"data":{"b":2,"a":1},"type":"pump.failed"}"#;
    let other = r#"{"data":{"b":2,"a":2},"type":"pump.failed"}"#;
    let first = send_signed(&gateway, first).await.expect(202);
    let again = send_signed(&gateway, same).await.expect(200);
    assert_eq!(again["eventIds"], first["eventIds"]);
    send_signed(&gateway, other).await.expect(202);
}

#[tokio::test]
async fn fifty_at_once_make_one_event() {
    let gateway = start().await;
    create(&gateway, json!({})).await;
    gateway.register(&["pump.failed"]).await;
    let sent = (0..50).map(|_| send_signed(&gateway, PUMP));
    let answers = futures_util::future::join_all(sent).await;
    let new = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(new, 1);
    let events = gateway.get("/events?type=pump.failed").await.expect(200);
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_is_not_verified_is_refused_and_told() {
    let gateway = start().await;
    let source = create(&gateway, json!({})).await;
    let good = sign("the first secret", PUMP);
    let changed = PUMP.replace("pump-7", "pump-8");
    for (headers, body, reason) in [
        (vec![], PUMP, "the header x-acme-signature is missing"),
        (
            vec![("x-acme-signature", &good[..60])],
            PUMP,
            "not as it must be",
        ),
        (
            vec![("x-acme-signature", &good), ("x-acme-signature", &good)],
            PUMP,
            "more than once",
        ),
        (
            vec![("x-acme-signature", &good)],
            changed.as_str(),
            "no active secret matches",
        ),
    ] {
        let answer = send(&gateway, "acme", &headers, body).await;
        let problem = answer.problem(401, "unverified");
        assert!(
            problem["detail"].as_str().expect("text").contains(reason),
            "{problem}"
        );
        assert!(!answer.headers.contains_key("www-authenticate"));
    }
    let path = format!(
        "/sources/{}/rejections",
        source["id"].as_str().expect("an id")
    );
    let rejections = gateway.get(&path).await.expect(200);
    let reasons: Vec<_> = rejections["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| &item["reason"])
        .collect();
    assert_eq!(reasons.len(), 4);
    assert_eq!(reasons[0], "no active secret matches");
    let none = gateway.get("/inbound-webhooks").await.expect(200);
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn a_secret_is_rotated_without_a_gap() {
    let gateway = start().await;
    let source = create(&gateway, json!({})).await;
    let id = source["id"].as_str().expect("an id");
    let path = format!("/sources/{id}/rotate-secret");
    let rotated = gateway
        .post(
            &path,
            &json!({"secret": "the second secret", "overlapSeconds": 60}),
        )
        .await
        .expect(200);
    assert_eq!(rotated["secrets"].as_array().map(Vec::len), Some(2));
    let try_with = |secret: &'static str, number: u32| {
        let gateway = &gateway;
        async move {
            let body = PUMP.replace("e-1", &format!("e-{number}"));
            let signature = sign(secret, &body);
            send(gateway, "acme", &[("x-acme-signature", &signature)], &body)
                .await
                .status
        }
    };
    assert_eq!(try_with("the first secret", 1).await, 202);
    assert_eq!(try_with("the second secret", 2).await, 202);
    gateway.advance(std::time::Duration::from_secs(60));
    assert_eq!(
        try_with("the first secret", 3).await,
        401,
        "the overlap is over"
    );
    assert_eq!(try_with("the second secret", 4).await, 202);
    let shown = gateway.get(&format!("/sources/{id}")).await;
    assert_eq!(
        shown.expect(200)["secrets"].as_array().map(Vec::len),
        Some(1)
    );
    assert!(!shown.text.contains("second secret"), "{}", shown.text);

    // A replacement without a secret keeps it, one with a secret takes its place at once.
    let path = format!("/sources/{id}");
    let mut input = self::source();
    input["secret"] = "".into();
    gateway.put(&path, &input).await.expect(200);
    assert_eq!(try_with("the second secret", 5).await, 202);
    input["secret"] = "the third secret".into();
    gateway.put(&path, &input).await.expect(200);
    assert_eq!(try_with("the second secret", 6).await, 401);
    assert_eq!(try_with("the third secret", 7).await, 202);
}

#[tokio::test]
async fn what_cannot_be_normalised_is_kept_and_can_be_tried_again() {
    let gateway = start().await;
    create(&gateway, json!({})).await;
    let trapping = |_: &Webhook| Err(CallFailure::Trap("unreachable".to_owned()));
    *gateway.providers.normalizing.lock().expect("lock") = Box::new(trapping);
    let receipt = send_signed(&gateway, PUMP).await.expect(202);
    assert_eq!(
        (&receipt["state"], &receipt["reason"]),
        (&json!("failed"), &json!("unreachable"))
    );

    for (nonsense, reason) in [
        (
            json!({"type": "Not a type", "data": {}}),
            "not an event type",
        ),
        (json!({"type": "a.b", "data": [1]}), "must be a JSON object"),
        (
            json!({"type": "a.b", "at": "noon", "data": {}}),
            "occurred-at",
        ),
        (
            json!({"type": "hookport.delivery.exhausted", "data": {}}),
            "the gateway's own",
        ),
    ] {
        *gateway.providers.normalizing.lock().expect("lock") = Box::new(normalize);
        let receipt = send_signed(&gateway, &nonsense.to_string())
            .await
            .expect(202);
        assert_eq!(receipt["state"], "failed");
        assert!(
            receipt["reason"].as_str().expect("text").contains(reason),
            "{receipt}"
        );
    }

    let id = receipt["webhookId"].as_str().expect("an id");
    let retry = format!("/inbound-webhooks/{id}/retry");
    let retried = gateway.act(&retry).await.expect(202);
    assert_eq!(retried["state"], "accepted");
    gateway.act(&retry).await.problem(409, "conflict");
    let failed = gateway
        .get("/inbound-webhooks?state=failed")
        .await
        .expect(200);
    assert_eq!(failed["items"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn a_ping_is_answered_and_makes_nothing() {
    let gateway = Gateway::start().await;
    create(&gateway, json!({})).await;
    let receipt = send_signed(&gateway, "{}").await.expect(200);
    assert_eq!(
        (&receipt["state"], &receipt["reason"]),
        (&json!("ignored"), &json!("a ping"))
    );
    assert_eq!(receipt["eventIds"], json!([]));
}

#[tokio::test]
async fn a_component_can_verify_with_secrets_of_its_config() {
    let gateway = start().await;
    let own = json!({"verification": {"scheme": "component"}, "secret": "", "config": {"key": "k-123456"}});
    create(&gateway, own).await;
    let sent = send(&gateway, "acme", &[("x-token", "k-123456")], PUMP).await;
    sent.expect(202);
    let refused = send(&gateway, "acme", &[("x-token", "wrong")], PUMP).await;
    let problem = refused.problem(401, "unverified");
    assert_eq!(problem["detail"], "the receiver refused");
}

#[tokio::test]
async fn an_address_that_sends_too_much_is_told_when_to_come_back() {
    let gateway = start().await;
    create(&gateway, json!({"ratePerMinute": 1})).await;
    let mut statuses = Vec::new();
    for number in 0..22 {
        let body = PUMP.replace("e-1", &format!("e-{number}"));
        statuses.push(send_signed(&gateway, &body).await.status);
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 202).count(),
        20,
        "the burst"
    );
    let answer = send_signed(&gateway, PUMP).await;
    answer.problem(429, "rate_limited");
    assert_eq!(answer.headers["retry-after"], "60");
    gateway.advance(std::time::Duration::from_secs(60));
    send_signed(&gateway, PUMP).await.expect(200);
}

#[tokio::test]
async fn unknown_and_disabled_sources_and_large_bodies_are_refused() {
    let gateway = start().await;
    create(&gateway, json!({"enabled": false})).await;
    send_signed(&gateway, PUMP)
        .await
        .problem(403, "source_disabled");
    send(&gateway, "nobody", &[], PUMP)
        .await
        .problem(404, "not_found");
    create(
        &gateway,
        json!({"name": "open", "verification": {"scheme": "none"}, "secret": ""}),
    )
    .await;
    let large = "x".repeat((1 << 20) + 1);
    send(&gateway, "open", &[], &large)
        .await
        .problem(413, "payload_too_large");
}

#[tokio::test]
async fn wrong_sources_are_refused_by_field() {
    let gateway = start().await;
    let check = |changes: Value, field: &'static str| {
        let gateway = &gateway;
        async move {
            let mut input = source();
            for (name, value) in changes.as_object().expect("an object") {
                input[name] = value.clone();
            }
            let answer = gateway.post("/sources", &input).await;
            let problem = answer.problem(400, "validation");
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    };
    check(json!({"name": "A b"}), "/name").await;
    check(json!({"component": "webhook"}), "/component").await;
    check(json!({"secret": ""}), "/secret").await;
    check(json!({"verification": {"scheme": "none"}}), "/secret").await;
    check(
        json!({"verification": {"scheme": "standardWebhooks"}}),
        "/secret",
    )
    .await;
    check(
        json!({"verification": {"scheme": "sharedToken"}}),
        "/verification/header",
    )
    .await;
    check(
        json!({"verification": {"scheme": "md5"}}),
        "/verification/scheme",
    )
    .await;
    check(json!({"ratePerMinute": 0}), "/ratePerMinute").await;
    check(json!({"config": {"key": 3}}), "/config/key").await;
    create(&gateway, json!({})).await;
    gateway
        .post("/sources", &source())
        .await
        .problem(409, "conflict");
}
