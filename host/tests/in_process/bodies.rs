//! Bodies that cannot be used, at every operation that takes one.

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Gateway, bare_request, json_request, operations};

fn taking_a_body() -> Vec<(String, String)> {
    let found: Vec<_> = operations()
        .into_iter()
        .filter(|(_, _, operation)| {
            let content = &operation["requestBody"]["content"];
            content.get("application/json").is_some()
        })
        .map(|(method, path, _)| (method, path))
        .collect();
    for expected in ["/events", "/subscriptions", "/connections", "/keys"] {
        assert!(found.contains(&("POST".to_owned(), expected.to_owned())));
    }
    found
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused_everywhere() {
    let gateway = Gateway::start().await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let deep_payload = format!(r#"{{"type": "a.b", "payload": {{"a": {deep}}}}}"#);
    let not_json = [
        "",
        " ",
        "{",
        "nonsense",
        r#"{"a": }"#,
        r#"{"a": 1} x"#,
        "{'a': 1}",
        "\u{feff}{}",
        "NaN",
        &deep,
        &deep_payload,
    ];
    for (method, path) in taking_a_body() {
        for body in not_json {
            let request = json_request(&method, &path, body.to_owned());
            gateway
                .send("admin", request)
                .await
                .problem(400, "malformed_json");
        }
        let invalid_utf8 = json_request(&method, &path, Bytes::from_static(b"{\"a\": \"\xff\"}"));
        let answer = gateway.send("admin", invalid_utf8).await;
        assert_eq!(answer.status, 400, "{}: {}", answer.call, answer.text);
    }
}

#[tokio::test]
async fn a_body_of_the_wrong_type_is_refused_everywhere_by_field() {
    let gateway = Gateway::start().await;
    for (method, path) in taking_a_body() {
        for body in [
            "null",
            "true",
            "17",
            "\"text\"",
            "[17]",
            "{\"surelyNotAField\": 1}",
        ] {
            let request = json_request(&method, &path, body);
            let problem = gateway
                .send("admin", request)
                .await
                .problem(400, "validation");
            assert!(
                problem["errors"]
                    .as_array()
                    .is_some_and(|errors| !errors.is_empty()),
                "{method} {path}: {problem}"
            );
        }
    }
    let cases = [
        ("/events", json!({"type": 7, "payload": {}}), "/type"),
        (
            "/events",
            json!([{"type": "a.b", "payload": {}}, {"type": []}]),
            "/1/type",
        ),
        (
            "/subscriptions",
            json!({"name": "n", "events": "a.b", "provider": "fake", "config": {}, "retry": {"delaysMs": [1, "2"]}}),
            "/retry/delaysMs/1",
        ),
        ("/keys", json!({"name": "n", "role": "king"}), "/role"),
    ];
    for (path, body, field) in cases {
        let problem = gateway.post(path, &body).await.problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn a_body_not_declared_as_json_is_refused_everywhere() {
    let gateway = Gateway::start().await;
    for (method, path) in taking_a_body() {
        for media_type in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
        ] {
            let mut request = Request::builder()
                .method(method.as_str())
                .uri(format!("/api/v1{path}"));
            if let Some(media_type) = media_type {
                request = request.header("content-type", media_type);
            }
            let request = request.body(Body::from("{}")).expect("a request");
            gateway
                .send("admin", request)
                .await
                .problem(415, "unsupported_media_type");
        }
    }
    let with_charset = Request::builder()
        .method("PUT")
        .uri("/api/v1/event-types/a.b")
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(Body::from("{}"))
        .expect("a request");
    gateway.send("admin", with_charset).await.expect(201);
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_refused_everywhere_declared_or_not() {
    let gateway = Gateway::start().await;
    let huge = Bytes::from(format!("{{\"a\": \"{}\"}}", "x".repeat(11 << 20)));
    for (method, path) in taking_a_body() {
        let request = json_request(&method, &path, huge.clone());
        gateway
            .send("admin", request)
            .await
            .problem(413, "payload_too_large");
        let chunks = huge
            .chunks(1 << 20)
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)));
        let chunks: Vec<_> = chunks.collect();
        let streamed = Body::from_stream(futures_util::stream::iter(chunks));
        let request = json_request(&method, &path, streamed);
        gateway
            .send("admin", request)
            .await
            .problem(413, "payload_too_large");
    }
    // One event has the small limit, a batch the large one.
    gateway.register(&["a.b"]).await;
    let event = |bytes: usize| json!({"type": "a.b", "payload": {"a": "x".repeat(bytes)}});
    let one = event(2 << 20);
    gateway
        .post("/events", &one)
        .await
        .problem(413, "payload_too_large");
    gateway
        .post("/events", &json!([event(500_000), event(600_000)]))
        .await
        .expect(202);
    let in_batch = gateway.post("/events", &Value::Array(vec![one])).await;
    in_batch.problem(413, "payload_too_large");
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_not_there() {
    let gateway = Gateway::start().await;
    for path in [
        "/nothing",
        "/events/nonsense",
        "/events/evt_00000000000000000000000000",
        "/events/dlv_00000000000000000000000000",
        "/deliveries/dlv_00000000000000000000000000",
        "/subscriptions/sub_00000000000000000000000000",
        "/connections/con_00000000000000000000000000",
        "/providers/nobody",
        "/event-types/no.such",
        "/events/%ff",
    ] {
        let answer = gateway.get(path).await;
        assert!(
            answer.status == 404 || path.contains("%ff") && answer.status == 400,
            "{}: {}",
            answer.call,
            answer.text
        );
        assert!(answer.json()["code"].is_string(), "{}", answer.text);
    }
    let answer = gateway
        .send("admin", bare_request("PATCH", "/events"))
        .await;
    answer.problem(405, "method_not_allowed");
    let allowed = answer.headers.get("allow").expect("allow");
    assert!(
        allowed.to_str().expect("text").contains("POST"),
        "{allowed:?}"
    );
}

#[tokio::test]
async fn a_defect_ends_one_request_and_tells_nothing() {
    let gateway = Gateway::start().await;
    gateway
        .providers
        .broken
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let answer = gateway.get("/providers").await;
    answer.problem(500, "internal");
    assert!(
        !answer.text.contains("sk-internal-detail"),
        "{}",
        answer.text
    );
    gateway
        .providers
        .broken
        .store(false, std::sync::atomic::Ordering::SeqCst);
    gateway.get("/providers").await.expect(200);
}

#[tokio::test]
async fn health_names_what_fails() {
    let gateway = Gateway::start().await;
    let health = gateway.get("/health").await.expect(200);
    assert_eq!(health["status"], "ok");
    let names: Vec<_> = health["dependencies"]
        .as_array()
        .expect("dependencies")
        .iter()
        .map(|dependency| dependency["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["store", "worker"]);
    gateway
        .healthy
        .store(false, std::sync::atomic::Ordering::SeqCst);
    let health = gateway.get("/health").await.expect(503);
    assert_eq!(health["status"], "degraded");
    assert_eq!(
        health["dependencies"][1],
        json!({"name": "worker", "status": "failing", "detail": "stuck"})
    );
    gateway.get("/livez").await.expect(200);
}
