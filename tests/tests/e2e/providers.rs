//! The providers directory: what is dropped, replaced or deleted there takes effect in a running
//! gateway, and no delivery notices.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup, component, test_component};
use hookport_tests::receiver::Receiver;
use serde_json::{Value, json};

/// The same component under another digest: a custom section that nobody reads is added.
fn variant(bytes: &[u8], mark: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // Section 0, its size, the length of its name, its name, its content.
    bytes.extend([0, 3, 1, b'm', mark]);
    bytes
}

fn digest(provider: &Value) -> String {
    provider["serving"]["digest"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}

async fn replaced(api: &Api, id: &str, before: &str) -> Value {
    api.until(&format!("/providers/{id}"), "another digest", |provider| {
        provider["state"] == "serving" && digest(provider) != before
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_component_under_traffic_fails_no_delivery() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;

    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (api, stop) = (api.clone(), stop.clone());
        async move {
            let mut ids = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                ids.push(
                    api.emit_one(&json!({"type": "incident.created", "payload": {}}))
                        .await,
                );
            }
            ids
        }
    });
    let original = fs::read(component("webhook")).expect("the component");
    let mut seen = digest(&api.provider_state("webhook", "serving").await);
    for mark in 0..4 {
        gateway.install_bytes(&variant(&original, mark), "webhook.wasm");
        seen = digest(&replaced(&api, "webhook", &seen).await);
    }
    stop.store(true, Ordering::Relaxed);
    let ids = traffic.await.expect("the traffic");
    assert!(ids.len() > 20, "hardly any traffic: {}", ids.len());
    for id in &ids {
        let delivery = api.delivery_in(id, "success").await;
        assert_eq!(delivery["attempts"], 1, "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_component_stops_serving_and_its_deliveries_wait_for_its_return() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({"retry": {"delaysMs": vec![1_000; 20]}}),
    ))
    .await;
    let file = gateway.providers_dir().join("webhook.wasm");
    fs::remove_file(&file).expect("removed");
    api.until("/providers", "no serving webhook", |list| {
        list["items"].as_array().is_some_and(|providers| {
            providers
                .iter()
                .all(|provider| provider["id"] != "webhook" || provider["serving"].is_null())
        })
    })
    .await;
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    let delivery = api.delivery_attempted(&id, 1).await;
    assert_eq!(
        delivery["attemptLog"][0]["outcome"], "unavailable",
        "{delivery}"
    );
    assert!(receiver.requests().is_empty());
    gateway.install(&component("webhook"), "webhook.wasm");
    api.provider_state("webhook", "serving").await;
    api.delivery_in(&id, "success").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_component_serves_without_a_restart() {
    let gateway = Gateway::start_with(Setup {
        providers: vec![],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    api.get("/providers/webhook")
        .await
        .expect_problem(404, "not_found");
    gateway.install(&component("webhook"), "webhook.wasm");
    let provider = api.provider_state("webhook", "serving").await;
    let serving = &provider["serving"];
    assert_eq!(serving["name"], "Webhook");
    assert_eq!(serving["file"], "webhook.wasm");
    assert!(serving["configSchema"].is_object(), "{serving}");
    assert_eq!(serving["permissions"]["hosts"], json!(["{config.url}"]));
    assert_eq!(digest(&provider).len(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_reported_and_change_nothing() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let original = fs::read(component("webhook")).expect("the component");
    let before = digest(&api.provider_state("webhook", "serving").await);

    // In place of the one that serves, and beside it.
    let truncated = &original[..original.len() / 2];
    gateway.install_bytes(truncated, "webhook.wasm");
    gateway.install_bytes(b"\0asm\x01\0\0\0", "core-module.wasm");
    gateway.install_bytes(b"#!/bin/sh\n", "script.wasm");
    for file in ["webhook.wasm", "core-module.wasm", "script.wasm"] {
        let report = api
            .until("/providers", file, |list| report_of(list, file).is_some())
            .await;
        let report = report_of(&report, file).expect("a report");
        let reason = report["reason"].as_str().unwrap_or("");
        assert_eq!(report["state"], "rejected", "{report}");
        assert!(!reason.is_empty(), "{report}");
        assert!(gateway.log().contains(file), "the log names {file}");
    }
    let provider = api.get("/providers/webhook").await.expect(200);
    assert_eq!(
        digest(&provider),
        before,
        "the version before goes on serving"
    );
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;
    api.get("/health").await.expect(200);

    gateway.install_bytes(&variant(&original, 1), "webhook.wasm");
    replaced(&api, "webhook", &before).await;
}

/// The report of a rejected file, wherever in the list it stands.
fn report_of(list: &Value, file: &str) -> Option<Value> {
    let mut open = vec![list];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                if value["file"] == file && value["state"] == "rejected" {
                    return Some(value.clone());
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_cannot_take_a_providers_id() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let before = digest(&api.provider_state("webhook", "serving").await);
    let original = fs::read(component("webhook")).expect("the component");
    gateway.install_bytes(&variant(&original, 7), "innocent.wasm");
    let list = api
        .until("/providers", "a report of innocent.wasm", |list| {
            report_of(list, "innocent.wasm").is_some()
        })
        .await;
    let report = report_of(&list, "innocent.wasm").expect("a report");
    let reason = report["reason"].as_str().unwrap_or("");
    assert!(reason.contains("webhook.wasm"), "{report}");
    let provider = api.get("/providers/webhook").await.expect(200);
    assert_eq!(digest(&provider), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_asks_for_more_waits_while_the_version_before_serves() {
    let mut gateway = Gateway::start_with(Setup {
        providers: vec![],
        grants: String::new(),
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    gateway.install(&test_component("greeter"), "greeter.wasm");
    let provider = api.provider_state("greeter", "awaiting_grant").await;
    assert!(provider["serving"].is_null(), "{provider}");
    let loopback = json!(["127.0.0.0/8"]);
    api.put(
        "/providers/greeter/grant",
        &json!({"hosts": ["{config.url}"], "allowAddresses": loopback}),
    )
    .await
    .expect(200);
    let first = digest(&api.provider_state("greeter", "serving").await);
    api.register("incident.created").await;
    api.subscribe(&json!({
        "name": "greet", "events": "incident.created", "provider": "greeter",
        "config": {"url": receiver.url()}, "retry": {"delaysMs": [50]}
    }))
    .await;
    let greeted_by = async |api: &Api| -> String {
        let id = api
            .emit_one(&json!({"type": "incident.created", "payload": {}}))
            .await;
        api.delivery_in(&id, "success").await;
        let requests = receiver.requests();
        requests
            .last()
            .expect("a request")
            .header("x-greeter")
            .to_owned()
    };
    assert_eq!(greeted_by(&api).await, "1");

    gateway.install(&test_component("greeter-wide"), "greeter.wasm");
    let provider = api
        .until("/providers/greeter", "a waiting candidate", |provider| {
            provider["candidate"]["state"] == "awaiting_grant"
        })
        .await;
    assert_eq!(digest(&provider), first);
    let reason = provider["candidate"]["reason"].as_str().unwrap_or("");
    assert!(reason.contains("telemetry.example"), "{provider}");
    assert_eq!(greeted_by(&api).await, "1", "version 1 goes on serving");

    // Also after a restart, when only the new file is there and version 1 is not: nothing that
    // was not granted runs.
    api.put(
        "/providers/greeter/grant",
        &json!({"hosts": ["{config.url}", "telemetry.example"], "allowAddresses": loopback}),
    )
    .await
    .expect(200);
    replaced(&api, "greeter", &first).await;
    assert_eq!(greeted_by(&api).await, "2");
    gateway.terminate().await;
    gateway.restart().await;
    let api = gateway.api();
    api.provider_state("greeter", "serving").await;
    assert_eq!(greeted_by(&api).await, "2", "the grant is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_for_loopback_a_receiver_there_is_denied() {
    let gateway = Gateway::start_with(Setup {
        grants: "[webhook]\nhosts = [\"{config.url}\"]\n".into(),
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    let port = receiver.address().port();
    api.register("incident.created").await;
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let url = format!("http://{host}:{port}/hook");
        let subscription = with(
            webhook("incident.created", &url),
            json!({"retry": {"delaysMs": []}}),
        );
        let answer = api.post("/subscriptions", &subscription).await;
        if answer.status == 400 {
            continue;
        }
        let stored = answer.expect(201);
        let id = api
            .emit_one(&json!({"type": "incident.created", "payload": {}}))
            .await;
        let delivery = api.delivery_in(&id, "failed").await;
        assert_eq!(
            delivery["attemptLog"][0]["outcome"], "denied",
            "{host}: {delivery}"
        );
        let id = stored["id"].as_str().expect("an id");
        api.delete(&format!("/subscriptions/{id}"))
            .await
            .expect(204);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(receiver.requests().is_empty());
}
