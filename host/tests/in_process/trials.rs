//! Catalogues, paths, previews and test events.

use hookport::dispatch::WorkerConfig;
use serde_json::{Value, json};

use crate::harness::{Gateway, delivered};

fn catalogue() -> Value {
    json!({"eventTypes": {
        "created": {
            "displayName": "Incident created", "category": "Incidents",
            "payloadSchema": {"type": "object", "properties": {"title": {"type": "string", "description": "In one line"}}},
            "example": {"title": "Disk full"},
        },
        "resolved": {"category": "Incidents", "example": {"title": "Disk full", "tags": ["a"]}},
    }})
}

#[tokio::test]
async fn a_catalogue_is_registered_whole_and_again_without_a_change() {
    let gateway = Gateway::start().await;
    let put = |body: Value| {
        let gateway = &gateway;
        async move { gateway.put("/plugins/incident/event-types", &body).await }
    };
    let first = put(catalogue()).await.expect(200);
    assert_eq!(
        first["created"],
        json!(["incident.created", "incident.resolved"])
    );
    let before = gateway
        .get("/event-types/incident.created")
        .await
        .expect(200);
    assert_eq!(before["plugin"], "incident");
    let again = put(catalogue()).await.expect(200);
    assert_eq!(again["unchanged"], first["created"]);
    assert_eq!(
        gateway
            .get("/event-types/incident.created")
            .await
            .expect(200),
        before
    );

    gateway
        .subscribe(json!({"events": "incident.resolved"}))
        .await;
    let mut less = catalogue();
    less["eventTypes"]
        .as_object_mut()
        .expect("an object")
        .remove("resolved");
    less["eventTypes"]["created"]["description"] = "Anew".into();
    less["eventTypes"]["updated"] = json!({});
    let changed = put(less.clone()).await.expect(200);
    assert_eq!(
        changed,
        json!({
            "created": ["incident.updated"], "updated": ["incident.created"], "unchanged": [],
            "retired": ["incident.resolved"], "removed": [],
        })
    );
    assert_eq!(
        gateway
            .get("/event-types/incident.resolved")
            .await
            .expect(200)["retired"],
        true
    );
    less["eventTypes"]
        .as_object_mut()
        .expect("an object")
        .remove("updated");
    let changed = put(less).await.expect(200);
    assert_eq!(changed["removed"], json!(["incident.updated"]));
    gateway
        .get("/event-types/incident.updated")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_wrong_catalogue_changes_nothing_and_others_types_are_not_taken() {
    let gateway = Gateway::start().await;
    let wrong = json!({"eventTypes": {"created": {}, "broken": {"payloadSchema": {"type": 3}}}});
    let answer = gateway.put("/plugins/incident/event-types", &wrong).await;
    let problem = answer.problem(400, "validation");
    assert_eq!(
        problem["errors"][0]["field"],
        "/eventTypes/broken/payloadSchema"
    );
    gateway
        .get("/event-types/incident.created")
        .await
        .problem(404, "not_found");

    let whole = json!({"eventTypes": {"a.created": {}}});
    gateway
        .put("/plugins/x/event-types", &whole)
        .await
        .expect(200);
    let other = json!({"eventTypes": {"created": {}}});
    gateway
        .put("/plugins/x.a/event-types", &other)
        .await
        .problem(409, "conflict");
    let reserved = json!({"eventTypes": {"created": {}}});
    gateway
        .put("/plugins/hookport/event-types", &reserved)
        .await
        .problem(409, "conflict");
    let nameless = json!({"eventTypes": {"Not a name": {}}});
    gateway
        .put("/plugins/x/event-types", &nameless)
        .await
        .problem(400, "validation");
}

#[tokio::test]
async fn types_are_listed_by_category_and_their_paths_from_schema_or_example() {
    let gateway = Gateway::start().await;
    gateway
        .put("/plugins/incident/event-types", &catalogue())
        .await
        .expect(200);
    gateway.register(&["other.thing"]).await;
    let listed = gateway
        .get("/event-types?category=Incidents")
        .await
        .expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let listed = gateway.get("/event-types?plugin=nobody").await.expect(200);
    assert_eq!(listed["items"], json!([]));
    let paths = gateway
        .get("/event-types/incident.created/paths")
        .await
        .expect(200);
    assert_eq!(
        paths["items"],
        json!([{
            "path": "payload.title", "types": ["string"], "title": null,
            "description": "In one line", "example": "Disk full",
        }])
    );
    let paths = gateway
        .get("/event-types/incident.resolved/paths")
        .await
        .expect(200);
    assert_eq!(paths["items"][1]["path"], "payload.tags[]");
    gateway
        .get("/event-types/no.such/paths")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_preview_calls_the_provider_with_what_a_delivery_would_have() {
    let gateway = Gateway::start().await;
    gateway
        .put("/plugins/incident/event-types", &catalogue())
        .await
        .expect(200);
    let subscription = gateway.subscribe(json!({"transform": "wrap"})).await;
    let path = format!(
        "/subscriptions/{}/preview",
        subscription["id"].as_str().expect("an id")
    );
    gateway.providers.answer(|call| {
        assert!(call.preview.is_some(), "nothing may be sent");
        assert_eq!(&*call.cache_scope, "preview");
        delivered(call.external_id.as_deref())
    });
    let view = gateway
        .post(&path, &json!({"externalId": "x-1"}))
        .await
        .expect(200);
    assert_eq!(view["payload"], json!({"wrapped": {"title": "Disk full"}}));
    assert_eq!(
        (&view["ok"], &view["externalId"]),
        (&json!(true), &json!("x-1"))
    );
    let none = gateway.get("/deliveries").await.expect(200);
    assert_eq!(none["items"], json!([]), "nothing is queued");

    let mut draft = crate::harness::subscription();
    draft["filter"] = "severe".into();
    let input = json!({"subscription": draft, "event": {"payload": {"severity": "low"}}});
    let view = gateway
        .post("/subscription-previews", &input)
        .await
        .expect(200);
    assert_eq!(view["passes"], false);
    draft["filter"] = "nosuch".into();
    let input = json!({"subscription": draft});
    let answer = gateway.post("/subscription-previews", &input).await;
    let problem = answer.problem(400, "validation");
    assert_eq!(problem["errors"][0]["field"], "/subscription/filter");
    for (input, field) in [
        (json!({"event": {"eventId": "evt_1"}}), "/event/eventId"),
        (
            json!({"event": {"type": "no.such", "payload": {}}}),
            "/event/type",
        ),
        (json!({"event": {"payload": []}}), "/event/payload"),
        (json!({"answers": [{"status": 99}]}), "/answers/0/status"),
    ] {
        let problem = gateway.post(&path, &input).await.problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn a_test_event_reaches_its_subscription_alone() {
    let gateway = Gateway::start().await;
    gateway
        .put("/plugins/incident/event-types", &catalogue())
        .await
        .expect(200);
    let one = gateway.subscribe(json!({"name": "one"})).await;
    gateway.subscribe(json!({"name": "two"})).await;
    let working = gateway.work(WorkerConfig {
        concurrency: 2,
        concurrency_per_subscription: 2,
    });
    let path = format!(
        "/subscriptions/{}/test-event",
        one["id"].as_str().expect("an id")
    );
    let sent = gateway.post(&path, &json!({})).await.expect(202);
    let id = sent["deliveryId"].as_str().expect("an id");
    gateway.delivery_in(id, "success").await;
    let calls = gateway.providers.calls.lock().expect("lock").clone();
    assert_eq!(calls.len(), 1);
    assert_eq!(&*calls[0].subscription_name, "one");
    assert_eq!(&*calls[0].event.payload, r#"{"title":"Disk full"}"#);
    let act = format!(
        "/subscriptions/{}/disable",
        one["id"].as_str().expect("an id")
    );
    gateway.act(&act).await.expect(200);
    gateway
        .post(&path, &json!({}))
        .await
        .problem(409, "conflict");
    working.stop().await;
}

#[tokio::test]
async fn templates_are_checked_against_what_the_event_types_describe() {
    let gateway = Gateway::start().await;
    let schema = |closed: bool| {
        json!({"payloadSchema": {"type": "object", "additionalProperties": !closed, "properties": {
            "incident": {"type": "object", "properties": {"title": {"type": "string"}}},
        }}})
    };
    for (name, closed) in [("incident.created", true), ("incident.updated", false)] {
        let path = format!("/event-types/{name}");
        gateway.put(&path, &schema(closed)).await.expect(201);
    }
    let with = |text: &str| {
        let mut subscription = crate::harness::subscription();
        subscription["config"]["text"] = text.into();
        subscription
    };
    let refused = gateway
        .post("/subscriptions", &with("{{ payload.incidnet.title }}"))
        .await
        .expect(400);
    assert_eq!(refused["errors"][0]["field"], "/config/text");
    assert_eq!(
        refused["errors"][0]["message"],
        "payload.incidnet.title: there is no payload.incidnet; did you mean payload.incident?"
    );
    gateway
        .post("/subscriptions", &with("{{ payload.incident.title"))
        .await
        .expect(400);

    // The schema of the incident says nothing against a titel.
    let made = gateway
        .post("/subscriptions", &with("{{ payload.incident.titel }}"))
        .await
        .expect(201);
    let warning = &made["templateWarnings"][0];
    assert_eq!(warning["field"], "/config/text");
    let path = format!("/subscriptions/{}", made["id"].as_str().expect("an id"));
    let shown = gateway.get(&path).await.expect(200);
    assert_eq!(shown["templateWarnings"], made["templateWarnings"]);
    let mended = gateway
        .put(&path, &with("{{ payload.incident.title }}"))
        .await
        .expect(200);
    assert_eq!(mended["templateWarnings"], json!([]));

    // One type that may have it is enough, and a transform makes payloads of its own.
    let mut all = with("{{ payload.incidnet.title }}");
    all["events"] = "incident.*".into();
    gateway.post("/subscriptions", &all).await.expect(201);
    let mut transformed = with("{{ payload.incidnet.title }}");
    transformed["transform"] = "wrap".into();
    gateway
        .post("/subscriptions", &transformed)
        .await
        .expect(201);
}
