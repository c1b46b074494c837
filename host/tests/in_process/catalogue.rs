//! Event types, subscriptions, connections and providers: what is checked when they change.

use hookport::domain::retry::RetryAdvice;
use hookport::plugin::CallFailure;
use serde_json::{Value, json};

use crate::harness::{Gateway, refused, subscription};

#[tokio::test]
async fn an_event_type_is_registered_replaced_and_deleted() {
    let gateway = Gateway::start().await;
    let path = "/event-types/incident.created";
    let created = gateway.put(path, &json!({})).await.expect(201);
    assert_eq!(created["displayName"], "incident.created");
    let input = json!({"displayName": "Incident", "payloadSchema": {"type": "object"}, "example": {"a": 1}});
    let replaced = gateway.put(path, &input).await.expect(200);
    assert_eq!(replaced["createdAt"], created["createdAt"]);
    assert_eq!(gateway.get(path).await.expect(200), replaced);

    for (wrong, field) in [
        (
            json!({"payloadSchema": {"type": "objet"}}),
            "/payloadSchema",
        ),
        (
            json!({"payloadSchema": {"$ref": "http://127.0.0.1:1/x"}}),
            "/payloadSchema",
        ),
        (
            json!({"payloadSchema": {"type": "object", "required": ["b"]}, "example": {"a": 1}}),
            "/example",
        ),
    ] {
        let problem = gateway.put(path, &wrong).await.problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    for name in ["Incident", "incident", "a..b", "*", "incident.*"] {
        gateway
            .put(&format!("/event-types/{name}"), &json!({}))
            .await
            .problem(400, "validation");
    }

    let subscription = gateway.subscribe(json!({})).await;
    gateway.delete(path).await.problem(409, "conflict");
    let id = subscription["id"].as_str().expect("an id");
    gateway
        .delete(&format!("/subscriptions/{id}"))
        .await
        .expect(204);
    gateway.delete(path).await.expect(204);
    gateway.delete(path).await.problem(404, "not_found");
}

#[tokio::test]
async fn the_gateways_own_event_types_are_there_and_not_for_others() {
    let gateway = Gateway::start().await;
    for name in [
        "hookport.delivery.exhausted",
        "hookport.delivery.recovered",
        "hookport.subscription.disabled",
        "hookport.provider.failed",
    ] {
        let path = format!("/event-types/{name}");
        gateway.get(&path).await.expect(200);
        gateway
            .put(&path, &json!({}))
            .await
            .problem(409, "conflict");
        gateway.delete(&path).await.problem(409, "conflict");
        gateway.subscribe(json!({"events": name})).await;
    }
    gateway
        .put("/event-types/hookport.of-my-own", &json!({}))
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn a_subscription_is_checked_by_field() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let plain_connection = json!({"name": "c", "provider": "plain", "settings": {}});
    gateway
        .post("/connections", &plain_connection)
        .await
        .problem(400, "validation");
    let connection = json!({"name": "c", "provider": "fake", "settings": {"apiToken": "t"}});
    let connection = gateway.post("/connections", &connection).await.expect(201);
    let cases = [
        (json!({"name": ""}), "/name"),
        (json!({"name": "x".repeat(201)}), "/name"),
        (json!({"events": "incident.craeted"}), "/events"),
        (json!({"events": "incident"}), "/events"),
        (json!({"events": "in*"}), "/events"),
        (json!({"provider": "nobody"}), "/provider"),
        (json!({"provider": "No Body"}), "/provider"),
        (json!({"config": {}}), "/config"),
        (json!({"config": {"url": 7}}), "/config/url"),
        (
            json!({"config": {"url": "u", "priority": "high"}}),
            "/config/priority",
        ),
        (json!({"config": []}), "/config"),
        (json!({"connectionId": "con_none"}), "/connectionId"),
        (
            json!({"connectionId": "con_00000000000000000000000000"}),
            "/connectionId",
        ),
        (
            json!({"provider": "plain", "connectionId": connection["id"]}),
            "/connectionId",
        ),
        (
            json!({"retry": {"delaysMs": [1, 700_000_000]}}),
            "/retry/delaysMs/1",
        ),
        (
            json!({"retry": {"delaysMs": vec![1; 101]}}),
            "/retry/delaysMs",
        ),
        (json!({"timeoutMs": 0}), "/timeoutMs"),
        (json!({"timeoutMs": 300_001}), "/timeoutMs"),
    ];
    for (changes, field) in cases {
        let mut wrong = subscription();
        for (name, value) in changes.as_object().expect("an object") {
            wrong[name] = value.clone();
        }
        let problem = gateway
            .post("/subscriptions", &wrong)
            .await
            .problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{changes}: {problem}");
    }
    let mut near = subscription();
    near["events"] = json!("incident.craeted");
    let problem = gateway
        .post("/subscriptions", &near)
        .await
        .problem(400, "validation");
    assert!(
        problem.to_string().contains("incident.created"),
        "{problem}"
    );
    assert_eq!(
        gateway.get("/subscriptions").await.expect(200)["items"],
        json!([])
    );

    let stored = gateway
        .subscribe(json!({"events": "incident.*", "connectionId": connection["id"], "systemFilter": ["s"], "timeoutMs": 500, "ordered": true}))
        .await;
    let path = format!("/subscriptions/{}", stored["id"].as_str().expect("an id"));
    assert_eq!(gateway.get(&path).await.expect(200), stored);
    let connection = format!("/connections/{}", connection["id"].as_str().expect("an id"));
    gateway.delete(&connection).await.problem(409, "conflict");
    gateway.delete(&path).await.expect(204);
    gateway.delete(&connection).await.expect(204);
}

#[tokio::test]
async fn a_connection_stays_with_its_provider() {
    let gateway = Gateway::start().await;
    let input = json!({"name": "c", "provider": "fake", "settings": {"apiToken": "t"}});
    let stored = gateway.post("/connections", &input).await.expect(201);
    let path = format!("/connections/{}", stored["id"].as_str().expect("an id"));
    let mut moved = input.clone();
    moved["provider"] = json!("plain");
    gateway.put(&path, &moved).await.problem(400, "validation");
    let mut incomplete = input;
    incomplete["settings"] = json!({"site": "s"});
    let problem = gateway
        .put(&path, &incomplete)
        .await
        .problem(400, "validation");
    assert!(
        problem["errors"][0]["field"]
            .as_str()
            .is_some_and(|field| field.starts_with("/settings")),
        "{problem}"
    );
}

#[tokio::test]
async fn changes_at_the_same_time_do_not_undo_each_other() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    for _ in 0..10 {
        let stored = gateway.subscribe(json!({})).await;
        let path = format!("/subscriptions/{}", stored["id"].as_str().expect("an id"));
        let (pause, disable) = (format!("{path}/pause"), format!("{path}/disable"));
        let (paused, disabled) = tokio::join!(gateway.act(&pause), gateway.act(&disable));
        paused.expect(200);
        disabled.expect(200);
        let stored = gateway.get(&path).await.expect(200);
        assert_eq!(
            (&stored["paused"], &stored["enabled"]),
            (&json!(true), &json!(false))
        );
    }
}

#[tokio::test]
async fn a_connection_is_tested_and_options_are_listed() {
    let gateway = Gateway::start().await;
    let input = json!({"name": "c", "provider": "fake", "settings": {"apiToken": "t0p"}});
    let stored = gateway.post("/connections", &input).await.expect(201);
    let id = stored["id"].as_str().expect("an id");
    let test = format!("/connections/{id}/test");
    let tested = gateway.act(&test).await.expect(200);
    assert_eq!(
        (&tested["ok"], &tested["message"]),
        (&json!(true), &json!("reached"))
    );

    let question = json!({"resolver": "channels", "connectionId": id, "context": {"url": "u", "token": "typed-secret"}, "search": "on"});
    let options = gateway
        .post("/providers/fake/options", &question)
        .await
        .expect(200);
    assert_eq!(options["items"], json!([{"value": "1", "label": "One"}]));
    let asked = gateway
        .providers
        .options_calls
        .lock()
        .expect("lock")
        .pop()
        .expect("a call");
    assert_eq!(asked.context["url"], "u");
    assert!(
        !asked.context.to_string().contains("typed-secret"),
        "{}",
        asked.context
    );
    assert!(asked.connection.is_some());
    gateway
        .post("/providers/nobody/options", &question)
        .await
        .problem(404, "not_found");
    let problem = gateway
        .post("/providers/plain/options", &question)
        .await
        .problem(400, "validation");
    assert_eq!(problem["errors"][0]["field"], "/connectionId");

    *gateway.providers.failure.lock().expect("lock") = Some(refused(RetryAdvice::Default));
    let tested = gateway.act(&test).await.expect(200);
    assert_eq!(
        (&tested["ok"], &tested["message"]),
        (&json!(false), &json!("the receiver refused"))
    );
    let answer = gateway.post("/providers/fake/options", &question).await;
    answer.problem(409, "conflict");
    *gateway.providers.failure.lock().expect("lock") =
        Some(CallFailure::Unavailable("not installed".to_owned()));
    let answer = gateway.post("/providers/fake/options", &question).await;
    answer.problem(503, "unavailable");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn providers_are_shown_with_what_is_wrong_in_their_directory() {
    let gateway = Gateway::start().await;
    let listed = gateway.get("/providers").await.expect(200);
    let ids: Vec<&Value> = listed["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| &item["id"])
        .collect();
    assert_eq!(ids, ["fake", "plain"]);
    assert_eq!(listed["rejectedFiles"][0]["file"], "broken.wasm");
    assert_eq!(listed["rejectedFiles"][0]["reason"], "not a component");
    let fake = gateway.get("/providers/fake").await.expect(200);
    assert_eq!(fake["state"], "serving");
    assert!(fake["serving"]["configSchema"].is_object(), "{fake}");
    let grant = json!({"hosts": ["a.test"], "allowAddresses": ["127.0.0.0/8"]});
    let granted = gateway
        .put("/providers/fake/grant", &grant)
        .await
        .expect(200);
    assert_eq!(granted["grant"]["allowAddresses"], json!(["127.0.0.0/8"]));
    gateway
        .put("/providers/nobody/grant", &grant)
        .await
        .problem(404, "not_found");
    let wrong = json!({"hosts": [], "allowAddresses": ["127.0.0.1/99"]});
    let problem = gateway
        .put("/providers/fake/grant", &wrong)
        .await
        .problem(400, "validation");
    assert!(problem.to_string().contains("allowAddresses"), "{problem}");
}
