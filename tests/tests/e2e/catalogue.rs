//! The example catalogue of the documentation, as a plugin would register it.

use std::path::Path;

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use serde_json::{Value, json};

fn catalogue(plugin: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/catalogue")
        .join(format!("{plugin}.json"));
    serde_json::from_slice(&std::fs::read(file).expect("the file")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_catalogue_is_registered_and_its_examples_are_events() {
    let gateway = Gateway::start_with(Setup::default()).await;
    let api = gateway.api();
    let mut names = Vec::new();
    for plugin in ["incident", "maintenance", "healthcheck"] {
        let path = format!("/plugins/{plugin}/event-types");
        let body = catalogue(plugin);
        let first = api.put(&path, &body).await.expect(200);
        let again = api.put(&path, &body).await.expect(200);
        assert_eq!(again["unchanged"], first["created"]);
        for (hook, kind) in body["eventTypes"].as_object().expect("types") {
            let name = format!("{plugin}.{hook}");
            api.emit(&json!({"type": name, "payload": kind["example"]}))
                .await;
            let wrong = json!({"type": name, "payload": {"other": 1}});
            api.post("/events", &wrong).await.expect(400);
            names.push(name);
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "healthcheck.system.degraded",
            "healthcheck.system.healthy",
            "incident.created",
            "incident.resolved",
            "incident.updated",
            "maintenance.created",
            "maintenance.updated",
        ]
    );
    let listed = api
        .get("/event-types?category=Health%20checks")
        .await
        .expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let paths = api
        .get("/event-types/incident.created/paths")
        .await
        .expect(200);
    let has = |path: &str| {
        let mut items = paths["items"].as_array().expect("items").iter();
        items.any(|item| item["path"] == path)
    };
    assert!(
        has("payload.incident.title") && has("payload.incident.systems[].name"),
        "{paths}"
    );

    let config = |template: &str| {
        let body = webhook("incident.*", "https://receiver.example.com/");
        with(body, json!({"config": {"bodyTemplate": template}}))
    };
    let refused = api
        .post(
            "/subscriptions",
            &config("{\"t\": \"{{ payload.incident.titel }}\"}"),
        )
        .await
        .expect(400);
    assert_eq!(refused["errors"][0]["field"], "/config/bodyTemplate");
    let message = refused["errors"][0]["message"].as_str().unwrap_or("");
    assert!(
        message.ends_with("did you mean payload.incident.title?"),
        "{message}"
    );
    // Only two of the three types have an update: no error, and nothing to warn of either.
    let made = api
        .subscribe(&config(
            "{\"t\": \"{{ payload.update.message | default('') }}\"}",
        ))
        .await;
    assert_eq!(made["templateWarnings"], json!([]));
}
