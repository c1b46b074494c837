//! What the API says to input that it cannot use: never 500, always a field and a remedy.

use hookport_tests::api::{Answer, Api};
use hookport_tests::gateway::Gateway;
use reqwest::Method;
use serde_json::{Value, json};

async fn send(api: &Api, method: Method, path: &str, media_type: &str, body: String) -> Answer {
    let request = api
        .request(method, path)
        .header("content-type", media_type)
        .body(body);
    Api::send(request).await
}

/// Every call that takes a document.
const CALLS: [(&str, &str); 10] = [
    ("POST", "/events"),
    ("PUT", "/event-types/incident.created"),
    ("POST", "/subscriptions"),
    ("POST", "/connections"),
    ("POST", "/keys"),
    ("POST", "/dead-letters/requeue"),
    ("POST", "/dead-letters/discard"),
    ("POST", "/providers/webhook/options"),
    ("PUT", "/providers/webhook/grant"),
    ("POST", "/queues/dead/drain"),
];

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_read_are_refused_everywhere() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_inside = format!(r#"{{"type":"incident.created","payload":{{"a":{deep}}}}}"#);
    let malformed = [
        "",
        "{",
        "nonsense",
        "{\"type\": }",
        "\u{feff}{}",
        &deep,
        &deep_inside,
    ];
    // Here an unknown field may be noticed before the syntax is.
    let malformed_further_on = ["{\"a\": \"\u{1}\"}", "[1, 2", "{\"a\": 1} trailing"];
    for (method, path) in CALLS {
        let method: Method = method.parse().expect("a method");
        for body in malformed {
            let answer = send(&api, method.clone(), path, "application/json", body.into()).await;
            answer.expect_problem(400, "malformed_json");
        }
        let wrong = ["null", "true", "17", "\"text\""];
        for body in malformed_further_on.into_iter().chain(wrong) {
            let answer = send(&api, method.clone(), path, "application/json", body.into()).await;
            assert_eq!(
                answer.status, 400,
                "{} {body}: {}",
                answer.call, answer.text
            );
        }
        let answer = send(&api, method.clone(), path, "text/plain", "{}".into()).await;
        answer.expect_problem(415, "unsupported_media_type");
        let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(32 * 1024 * 1024));
        let answer = send(&api, method.clone(), path, "application/json", huge).await;
        answer.expect_problem(413, "payload_too_large");
    }
    api.get("/health").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_the_wrong_shape_name_the_field() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    api.put(
        "/event-types/incident.created",
        &json!({"payloadSchema": {
            "type": "object",
            "required": ["incident"],
            "properties": {"incident": {
                "type": "object", "required": ["title"],
                "properties": {"title": {"type": "string"}}
            }}
        }}),
    )
    .await
    .expect(201);
    let subscription = |changes: Value| {
        hookport_tests::api::with(
            hookport_tests::api::webhook("incident.created", "http://127.0.0.1:9/"),
            changes,
        )
    };
    let event = |payload: Value| json!({"type": "incident.created", "payload": payload});
    // Path, document, and what the problem must name.
    let cases = [
        ("/events", json!({}), "type"),
        ("/events", json!({"type": "incident.created"}), "payload"),
        ("/events", json!({"type": 7, "payload": {}}), "type"),
        (
            "/events",
            json!({"type": "Not a type", "payload": {}}),
            "type",
        ),
        (
            "/events",
            json!({"type": "never.registered", "payload": {}}),
            "type",
        ),
        ("/events", event(json!([])), "payload"),
        ("/events", event(json!({})), "/payload"),
        (
            "/events",
            event(json!({"incident": {"title": 7}})),
            "/payload/incident/title",
        ),
        (
            "/events",
            json!({"type": "incident.created", "payload": {"incident": {"title": ""}},
                           "occurredAt": "yesterday"}),
            "occurredAt",
        ),
        (
            "/events",
            json!({"type": "incident.created", "payload": {"incident": {"title": ""}},
                           "correlationkey": "misspelt"}),
            "correlationkey",
        ),
        ("/events", json!([]), ""),
        (
            "/subscriptions",
            subscription(json!({"events": "incident"})),
            "events",
        ),
        (
            "/subscriptions",
            subscription(json!({"events": "never.registered"})),
            "events",
        ),
        (
            "/subscriptions",
            subscription(json!({"provider": "nobody"})),
            "provider",
        ),
        (
            "/subscriptions",
            subscription(json!({"config": {"url": 7}})),
            "/config/url",
        ),
        (
            "/subscriptions",
            subscription(json!({"config": {"urll": "x"}})),
            "urll",
        ),
        (
            "/subscriptions",
            subscription(json!({"config": {"method": "TRACE"}})),
            "/config/method",
        ),
        (
            "/subscriptions",
            subscription(json!({"retry": {"delaysMs": "soon"}})),
            "retry",
        ),
        (
            "/subscriptions",
            subscription(json!({"retry": {"delaysMs": [-1]}})),
            "delaysMs",
        ),
        ("/subscriptions", subscription(json!({"name": ""})), "name"),
        (
            "/subscriptions",
            subscription(json!({"connectionId": "con_none"})),
            "connectionId",
        ),
        (
            "/connections",
            json!({"name": "a", "provider": "webhook", "settings": {}}),
            "provider",
        ),
        ("/keys", json!({"name": "a", "role": "king"}), "role"),
        ("/keys", json!({"role": "admin"}), "name"),
        ("/queues/dead/drain", json!({"action": "burn"}), "action"),
        (
            "/queues/dead/drain",
            json!({"action": "discard", "limit": 0}),
            "limit",
        ),
    ];
    for (path, document, named) in cases {
        let answer = api.post(path, &document).await;
        let problem = answer.expect_problem(400, "validation");
        assert!(
            problem.to_string().contains(named),
            "{path} {document}: {problem} does not name {named}"
        );
    }
    let put = async |path: &str, document: Value, named: &str| {
        let problem = api
            .put(path, &document)
            .await
            .expect_problem(400, "validation");
        assert!(problem.to_string().contains(named), "{path}: {problem}");
    };
    put(
        "/event-types/incident.created",
        json!({"payloadSchema": {"type": "nothing"}}),
        "payloadSchema",
    )
    .await;
    put("/event-types/Incident", json!({}), "name").await;
    put(
        "/providers/webhook/grant",
        json!({"hosts": ["https://"]}),
        "hosts",
    )
    .await;
    put(
        "/providers/webhook/grant",
        json!({"hosts": [], "allowAddresses": ["127.0.0.1/99"]}),
        "allowAddresses",
    )
    .await;
    for path in ["/events", "/deliveries", "/subscriptions"] {
        for query in ["limit=0", "limit=201", "limit=many", "cursor=forged"] {
            let answer = api.get(&format!("{path}?{query}")).await;
            answer.expect_problem(400, "validation");
        }
    }
    api.get("/deliveries?state=lost")
        .await
        .expect_problem(400, "validation");
    api.get("/events?from=yesterday")
        .await
        .expect_problem(400, "validation");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_to_be_not_there() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    for path in [
        "/nothing",
        "/events/evt_00000000000000000000000000",
        "/events/nonsense",
        "/deliveries/dlv_00000000000000000000000000",
        "/subscriptions/sub_00000000000000000000000000",
        "/connections/con_00000000000000000000000000",
        "/providers/nobody",
        "/event-types/never.registered",
    ] {
        api.get(path).await.expect_problem(404, "not_found");
    }
    api.act("/deliveries/dlv_00000000000000000000000000/retry")
        .await
        .expect_problem(404, "not_found");
    api.delete("/events")
        .await
        .expect_problem(405, "method_not_allowed");
    let answer = api
        .request(Method::GET, "/../../etc/passwd")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_open_what_they_should_and_nothing_else() {
    let gateway = Gateway::start().await;
    let admin = gateway.api();
    admin.register("incident.created").await;
    admin
        .with_key("")
        .get("/events")
        .await
        .expect_problem(401, "unauthorized");
    admin
        .with_key("hp_wrong")
        .get("/events")
        .await
        .expect_problem(401, "unauthorized");
    let mut keys = Vec::new();
    for role in ["emitter", "viewer", "operator"] {
        let key = admin
            .post("/keys", &json!({"name": role, "role": role}))
            .await
            .expect(201);
        let text = key["key"].as_str().expect("a key").to_owned();
        assert!(text.starts_with("hp_"), "{text}");
        keys.push((
            key["id"].as_str().expect("an id").to_owned(),
            admin.with_key(&text),
        ));
    }
    let [(_, emitter), (viewer_id, viewer), (_, operator)] = &keys[..] else {
        panic!("three keys");
    };
    let event = json!({"type": "incident.created", "payload": {}});
    let subscription = hookport_tests::api::webhook("incident.created", "http://127.0.0.1:9/");
    for (api, emit, read, write) in [
        (emitter, true, false, false),
        (viewer, false, true, false),
        (operator, true, true, false),
        (&admin, true, true, true),
    ] {
        let check = |answer: Answer, allowed: bool| {
            if allowed {
                assert!(answer.status < 300, "{}: {}", answer.call, answer.text);
            } else {
                answer.expect_problem(403, "forbidden");
            }
        };
        check(api.post("/events", &event).await, emit);
        check(api.get("/deliveries").await, read);
        check(api.post("/subscriptions", &subscription).await, write);
        check(
            api.put(
                "/providers/webhook/grant",
                &json!({"hosts": ["{config.url}"]}),
            )
            .await,
            write,
        );
    }
    let listed = admin.get("/keys").await;
    assert!(!listed.text.contains("\"hp_"), "{}", listed.text);
    admin
        .delete(&format!("/keys/{viewer_id}"))
        .await
        .expect(204);
    viewer
        .get("/deliveries")
        .await
        .expect_problem(401, "unauthorized");
}
