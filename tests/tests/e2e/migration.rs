//! A component with another schema takes over: stored configs are migrated, all or none.

use std::time::Duration;

use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup, test_component};
use hookport_tests::receiver::Receiver;
use serde_json::{Value, json};

const TOKEN: &str = "tok-0b6c1f9e-moves-with-its-field";
const GRANTS: &str = r#"
[greeter]
hosts = ["{config.url}", "{config.target.url}"]
allow_addresses = ["127.0.0.0/8"]
"#;

async fn gateway() -> Gateway {
    let gateway = Gateway::start_with(Setup {
        providers: vec![],
        grants: GRANTS.to_owned(),
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    gateway.install(&test_component("greeter"), "greeter.wasm");
    api.provider_state("greeter", "serving").await;
    api.register("incident.created").await;
    gateway
}

async fn subscribe(api: &Api, config: Value) -> String {
    let subscription = json!({
        "name": "greet", "events": "incident.created", "provider": "greeter",
        "config": config, "retry": {"delaysMs": [50]},
    });
    let made = api.subscribe(&subscription).await;
    format!("/subscriptions/{}", made["id"].as_str().expect("an id"))
}

async fn version(api: &Api, version: &str) -> Value {
    let wanted = |found: &Value| found["serving"]["version"] == version;
    api.until("/providers/greeter", version, wanted).await
}

async fn emit(api: &Api) -> Value {
    let event = json!({"type": "incident.created", "payload": {}});
    api.emit(&event).await
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_and_their_secrets_move_to_the_new_schema_while_events_come() {
    let mut gateway = gateway().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    let config = json!({"url": receiver.url(), "token": TOKEN});
    let first = subscribe(&api, config.clone()).await;
    let second = subscribe(&api, json!({"url": receiver.url()})).await;

    let going = {
        let api = gateway.api();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..200 {
                let accepted = emit(&api).await;
                ids.extend(api.delivery_ids(&accepted).await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ids
        })
    };
    receiver.wait_for(20).await;
    gateway.install(&test_component("greeter-next"), "greeter.wasm");
    version(&api, "3.0.0").await;
    for id in going.await.expect("emitted") {
        let delivery = api.delivery_in(&id, "success").await;
        assert_eq!(delivery["attempts"], 1, "the change cost nobody an attempt");
    }
    let requests = receiver.requests();
    assert_eq!(requests.len(), 400);
    assert!(requests.iter().any(|sent| sent.header("x-greeter") == "1"));
    let last: Vec<_> = requests.iter().rev().take(2).collect();
    assert!(last.iter().all(|sent| sent.header("x-greeter") == "3"));
    let bearer = format!("Bearer {TOKEN}");
    let with_token =
        |sent: &&hookport_tests::receiver::Received| sent.header("authorization") == bearer;
    assert_eq!(requests.iter().filter(with_token).count(), 200);

    let shown = api.get(&first).await.expect(200);
    assert_eq!(
        shown["config"],
        json!({"target": {"url": receiver.url(), "token": ""}})
    );
    assert_eq!(shown["secretsSet"], json!(["/target/token"]));
    let shown = api.get(&second).await.expect(200);
    assert_eq!(shown["config"]["target"]["url"], receiver.url());
    for (path, content) in gateway.data_files() {
        let found = content
            .windows(TOKEN.len())
            .any(|part| part == TOKEN.as_bytes());
        assert!(!found, "{} holds the secret", path.display());
    }

    // Back to the old component: it cannot read what is stored, so the new one goes on.
    gateway.install(&test_component("greeter"), "greeter.wasm");
    let refused = |found: &Value| {
        found["candidate"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("newer than this component"))
    };
    let shown = api.until("/providers/greeter", "refused", refused).await;
    assert_eq!(shown["serving"]["version"], "3.0.0");
    gateway.install(&test_component("greeter-next"), "greeter.wasm");
    gateway.terminate().await;
    gateway.restart().await;
    let api = gateway.api();
    version(&api, "3.0.0").await;
    let accepted = emit(&api).await;
    for id in api.delivery_ids(&accepted).await {
        api.delivery_in(&id, "success").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_config_that_cannot_be_migrated_keeps_all_of_them_and_the_old_component() {
    for (what, told) in [
        ("fail", "the greeting cannot be kept"),
        ("trap", "trap"),
        ("nonsense", "/target"),
        ("foreign", "there is no secret"),
        ("public", "no x-secret"),
    ] {
        let gateway = gateway().await;
        let api = gateway.api();
        let receiver = Receiver::ok().await;
        let config = json!({"url": receiver.url(), "token": TOKEN});
        let good = subscribe(&api, config.clone()).await;
        let mut spoilt = config.clone();
        spoilt["onMigration"] = what.into();
        let bad = subscribe(&api, spoilt).await;

        gateway.install(&test_component("greeter-next"), "greeter.wasm");
        let refused = |found: &Value| found["candidate"]["state"] == "rejected";
        let shown = api.until("/providers/greeter", "refused", refused).await;
        let reason = shown["candidate"]["reason"].as_str().unwrap_or("");
        let id = bad.rsplit('/').next().expect("an id");
        assert!(
            reason.contains(id) && reason.contains(told),
            "{what}: {reason}"
        );
        assert!(!reason.contains(TOKEN), "{reason}");
        assert_eq!(shown["serving"]["version"], "1.0.0");
        for path in [&good, &bad] {
            let kept = api.get(path).await.expect(200);
            assert_eq!(kept["config"]["url"], receiver.url());
        }
        let accepted = emit(&api).await;
        for id in api.delivery_ids(&accepted).await {
            api.delivery_in(&id, "success").await;
        }
        assert_eq!(receiver.requests()[0].header("x-greeter"), "1");

        // Without the one in the way the new component takes over by itself.
        api.delete(&bad).await.expect(204);
        version(&api, "3.0.0").await;
        let moved = api.get(&good).await.expect(200);
        assert_eq!(moved["config"]["target"]["url"], receiver.url());
    }
}
