//! Starting, ending, and starting again.

use std::fs;
use std::time::Duration;

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_what_is_under_way_end_and_keeps_the_rest() {
    let mut gateway = Gateway::start().await;
    let api = gateway.api();
    let slow = Receiver::start(|_, _| Reply::ok().after(Duration::from_millis(1_500))).await;
    let down = Receiver::failing(1, 503).await;
    api.register("slow.created").await;
    api.register("down.created").await;
    api.subscribe_webhook("slow.created", &slow.url()).await;
    api.subscribe(&with(
        webhook("down.created", &down.url()),
        json!({"retry": {"delaysMs": [3_000]}}),
    ))
    .await;
    let under_way = api
        .emit_one(&json!({"type": "slow.created", "payload": {}}))
        .await;
    let waiting = api
        .emit_one(&json!({"type": "down.created", "payload": {}}))
        .await;
    slow.wait_for(1).await;
    api.delivery_in(&waiting, "retrying").await;

    let status = gateway.terminate().await;
    assert!(status.success(), "{status}; log:\n{}", gateway.log());

    gateway.restart().await;
    let api = gateway.api();
    let delivery = api.delivery_in(&under_way, "success").await;
    assert_eq!(delivery["attempts"], 1, "its one attempt was recorded");
    assert_eq!(slow.requests().len(), 1, "and was not made twice");
    let delivery = api.delivery_in(&waiting, "success").await;
    assert_eq!(delivery["attempts"], 2, "the schedule goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_is_refused() {
    let gateway = Gateway::start().await;
    let output = gateway
        .command(&["serve", "--listen", "127.0.0.1:0"])
        .arg("--providers")
        .arg(gateway.providers_dir())
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&gateway.data_dir().display().to_string()) && said.contains("another"),
        "{said}"
    );
    gateway.api().get("/health").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_compiles_nothing_and_needs_no_second_admin_key() {
    let mut gateway = Gateway::start().await;
    let artefacts = |gateway: &Gateway| {
        let mut found: Vec<_> = fs::read_dir(gateway.data_dir().join("code-cache"))
            .expect("the code cache")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let metadata = entry.metadata().expect("metadata");
                (entry.file_name(), metadata.created().ok(), metadata.len())
            })
            .collect();
        found.sort();
        found
    };
    let (before, key) = (artefacts(&gateway), gateway.admin_key());
    assert!(!before.is_empty());
    gateway.terminate().await;
    gateway.restart().await;
    assert_eq!(artefacts(&gateway), before, "the same files, not new ones");
    assert_eq!(gateway.admin_key(), key);
    gateway.api().get("/keys").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_code_cache_is_compiled_anew() {
    let mut gateway = Gateway::start().await;
    gateway.terminate().await;
    for entry in fs::read_dir(gateway.data_dir().join("code-cache")).expect("the code cache") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("an artefact");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(&path, bytes).expect("written");
    }
    gateway.restart().await;
    let receiver = Receiver::ok().await;
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_its_dependencies_and_needs_no_key() {
    let gateway = Gateway::start().await;
    let api = gateway.api().with_key("");
    let health = api.get("/health").await.expect(200);
    assert_eq!(health["status"], "ok");
    assert!(health["version"].is_string());
    let dependencies = health["dependencies"].as_array().expect("dependencies");
    assert!(!dependencies.is_empty());
    for dependency in dependencies {
        assert!(dependency["name"].is_string(), "{dependency}");
        assert_eq!(dependency["status"], "ok", "{dependency}");
    }
    assert!(matches!(api.get("/livez").await.status, 200 | 204));
    let openapi = api.get("/openapi.json").await.expect(200);
    let paths = openapi["paths"].as_object().expect("paths");
    assert!(paths.len() >= 20, "{:?}", paths.keys());
}
