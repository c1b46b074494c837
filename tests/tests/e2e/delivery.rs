//! The way of one event through the webhook provider.

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use hookport_tests::signature;
use serde_json::json;

const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_delivered_signed_and_on_record() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let subscription = api
        .subscribe(&with(
            webhook("incident.created", &receiver.url()),
            json!({"config": {
                "signingSecret": SIGNING_SECRET,
                "auth": {"type": "bearer", "token": "t0ken-of-the-receiver"},
                "headers": [{"name": "x-team", "value": "on-call"}]
            }}),
        ))
        .await;

    let payload = json!({"incident": {"id": 7, "title": "Disk füll \"db-7\""}});
    let accepted = api
        .emit(&json!({
            "type": "incident.created",
            "payload": payload,
            "occurredAt": "2026-01-31T08:00:00.000Z",
            "correlationKey": "incident-7"
        }))
        .await;
    assert_eq!(accepted["type"], "incident.created");
    let event_id = accepted["id"].as_str().expect("an id");
    let delivery_id = api.delivery_ids(&accepted).await.remove(0);
    let delivery = api.delivery_in(&delivery_id, "success").await;

    let requests = receiver.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.path, "/hook");
    assert_eq!(signature::verify(request, SIGNING_SECRET), Ok(()));
    for (name, value) in [
        ("webhook-id", delivery_id.as_str()),
        ("idempotency-key", delivery_id.as_str()),
        ("hookport-event-id", event_id),
        ("hookport-event-type", "incident.created"),
        ("hookport-attempt", "1"),
        ("authorization", "Bearer t0ken-of-the-receiver"),
        ("content-type", "application/json"),
        ("x-team", "on-call"),
        ("host", &receiver.address().to_string()),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    let body = request.json();
    assert_eq!(body["data"], payload);
    assert_eq!(body["id"], event_id);
    assert_eq!(body["timestamp"], "2026-01-31T08:00:00.000Z");

    assert_eq!(delivery["eventId"], event_id);
    assert_eq!(delivery["subscriptionId"], subscription["id"]);
    assert_eq!(delivery["provider"], "webhook");
    assert_eq!(delivery["attempts"], 1);
    let attempt = &delivery["attemptLog"][0];
    assert_eq!(attempt["number"], 1);
    assert_eq!(attempt["outcome"], "success");
    assert_eq!(attempt["httpStatus"], 200);
    assert!(attempt["providerVersion"].is_string(), "{attempt}");
    assert!(attempt["latencyMs"].is_number(), "{attempt}");

    let event = api.get(&format!("/events/{event_id}")).await.expect(200);
    assert_eq!(event["status"], "delivered");
    assert_eq!(event["payload"], payload);
    assert_eq!(event["correlationKey"], "incident-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn method_form_and_templates_shape_the_request() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook(
            "incident.created",
            &format!("{}/{{{{ payload.incident.id }}}}?v=1", receiver.url()),
        ),
        json!({"config": {
            "method": "PUT",
            "contentType": "form",
            "bodyTemplate": r#"{"title": "{{ payload.incident.title }}", "n": 1}"#,
            "auth": {"type": "basic", "username": "gate way", "password": "p:ss"}
        }}),
    ))
    .await;
    let delivery = api
        .emit_one(&json!({
            "type": "incident.created",
            "payload": {"incident": {"id": 7, "title": "a & b=\"c\""}}
        }))
        .await;
    api.delivery_in(&delivery, "success").await;
    let request = &receiver.requests()[0];
    assert_eq!(request.method, "PUT");
    assert_eq!(request.path, "/hook/7?v=1");
    assert_eq!(
        request.header("content-type"),
        "application/x-www-form-urlencoded"
    );
    // RFC 7617: base64 of "gate way:p:ss".
    assert_eq!(
        request.header("authorization"),
        "Basic Z2F0ZSB3YXk6cDpzcw=="
    );
    let body = String::from_utf8_lossy(&request.body);
    assert!(
        body.contains("title=a+%26+b%3D%22c%22") && body.contains("n=1"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_subscription_gets_a_delivery_of_its_own() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let good = [Receiver::ok().await, Receiver::ok().await];
    let bad = Receiver::failing(usize::MAX, 500).await;
    api.register("incident.created").await;
    for receiver in good.iter().chain([&bad]) {
        api.subscribe_webhook("incident.created", &receiver.url())
            .await;
    }
    let accepted = api
        .emit(&json!({"type": "incident.created", "payload": {}}))
        .await;
    assert_eq!(accepted["deliveries"], 3);

    let mut ids = Vec::new();
    for receiver in &good {
        ids.push(
            receiver.wait_for(1).await[0]
                .header("webhook-id")
                .to_owned(),
        );
    }
    let failed = bad.wait_for(4).await;
    ids.push(failed[0].header("webhook-id").to_owned());
    api.delivery_in(&ids[2], "failed").await;
    for id in &ids[..2] {
        assert_eq!(api.delivery_in(id, "success").await["attempts"], 1);
    }
    ids.sort();
    let mut known = api.delivery_ids(&accepted).await;
    known.sort();
    assert_eq!(ids, known);
    let id = accepted["id"].as_str().expect("an id");
    let event = api.get(&format!("/events/{id}")).await.expect(200);
    assert_eq!(event["status"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_accepted_in_whole_or_not_at_all() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.put(
        "/event-types/incident.created",
        &json!({"payloadSchema": {"type": "object", "required": ["n"]}}),
    )
    .await
    .expect(201);
    api.subscribe_webhook("incident.*", &receiver.url()).await;

    let event = |payload| json!({"type": "incident.created", "payload": payload});
    let refused = api
        .post(
            "/events",
            &json!([event(json!({"n": 1})), event(json!({}))]),
        )
        .await;
    let problem = refused.expect_problem(400, "validation");
    let field = problem["errors"][0]["field"].as_str().unwrap_or("");
    assert!(field.starts_with("/1"), "{problem}");
    assert!(receiver.settled().await.is_empty());

    let batch: Vec<_> = (0..50).map(|n| event(json!({"n": n}))).collect();
    let accepted = api.post("/events", &json!(batch)).await.expect(202);
    assert_eq!(accepted["items"].as_array().map(Vec::len), Some(50));
    let mut numbers: Vec<u64> = receiver
        .wait_for(50)
        .await
        .iter()
        .filter_map(|request| request.json()["data"]["n"].as_u64())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receivers_id_comes_back_for_the_same_correlation_key() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver =
        Receiver::start(|index, _| Reply::json(&json!({"issue": {"key": format!("OPS-{index}")}})))
            .await;
    api.register("incident.updated").await;
    api.subscribe(&with(
        webhook("incident.updated", &receiver.url()),
        json!({"config": {
            "externalIdPointer": "/issue/key",
            "bodyTemplate":
                r#"{"known": "{{ delivery.externalId or 'none' }}"}"#
        }}),
    ))
    .await;
    let mut known = Vec::new();
    for key in ["a", "a", "b"] {
        let id = api
            .emit_one(&json!({
                "type": "incident.updated", "payload": {}, "correlationKey": key
            }))
            .await;
        let delivery = api.delivery_in(&id, "success").await;
        known.push(delivery["externalId"].as_str().unwrap_or("").to_owned());
    }
    assert_eq!(known, ["OPS-0", "OPS-1", "OPS-2"]);
    let sent: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| request.json()["known"].as_str().unwrap_or("").to_owned())
        .collect();
    assert_eq!(sent, ["none", "OPS-0", "none"]);
}
