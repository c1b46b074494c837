//! `Idempotency-Key` on the way in.

use hookport_tests::api::{Answer, Api};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::Receiver;
use reqwest::Method;
use serde_json::{Value, json};

async fn emit(api: &Api, key: &str, body: &Value) -> Answer {
    let request = api
        .request(Method::POST, "/events")
        .header("idempotency-key", key)
        .json(body);
    Api::send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_gives_the_first_answer_and_another_body_is_refused() {
    let mut gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let body = json!({"type": "incident.created", "payload": {"n": 1}});
    let other = json!({"type": "incident.created", "payload": {"n": 2}});
    let first = emit(&api, "key-1", &body).await.expect(202);
    let again = emit(&api, "key-1", &body).await.expect(200);
    assert_eq!(first["id"], again["id"]);
    emit(&api, "key-1", &other)
        .await
        .expect_problem(422, "idempotency_key_reused");
    let fresh = emit(&api, "key-2", &other).await.expect(202);
    assert_ne!(first["id"], fresh["id"]);

    // A key outlives the process, and an abrupt end.
    gateway.kill();
    gateway.restart().await;
    let api = gateway.api();
    assert_eq!(
        emit(&api, "key-1", &body).await.expect(200)["id"],
        first["id"]
    );

    // Callers do not meet in each other's keys.
    let key = api
        .post("/keys", &json!({"name": "another", "role": "emitter"}))
        .await
        .expect(201);
    let another = api.with_key(key["key"].as_str().expect("a key"));
    let theirs = emit(&another, "key-1", &other).await.expect(202);
    assert_ne!(theirs["id"], first["id"]);

    // One that was under way when the process was killed comes twice, under one delivery id.
    receiver.wait_for(3).await;
    let mut received: Vec<_> = receiver
        .settled()
        .await
        .iter()
        .map(|request| request.header("webhook-id").to_owned())
        .collect();
    received.sort_unstable();
    received.dedup();
    assert_eq!(received.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_make_one_event() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let body = json!({"type": "incident.created", "payload": {"n": 1}});
    let answers = futures_util::future::join_all((0..50).map(|_| emit(&api, "same", &body))).await;
    let mut accepted = 0;
    let mut ids: Vec<_> = answers
        .into_iter()
        .map(|answer| {
            accepted += u32::from(answer.status == 202);
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text);
            answer.json()["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(accepted, 1, "one 202, the others 200");
    receiver.wait_for(1).await;
    assert_eq!(receiver.settled().await.len(), 1);
}
