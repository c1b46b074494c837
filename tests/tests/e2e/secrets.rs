//! No secret value stands anywhere but where the receiver gets it.

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use hookport_tests::slack;
use serde_json::json;

const TOKEN: &str = "t0ken-Kd83kslQpz71";
const HEADER_VALUE: &str = "h3ader-Xo92mmwBvt55";
const PASSWORD: &str = "passw0rd-Rr10zzYp3q";
const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BOT_TOKEN: &str = "xoxb-9911-s3cr3t-Bt77qq";

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stand_in_no_file_no_log_and_no_answer() {
    let gateway = Gateway::start_with(Setup {
        providers: vec!["webhook", "slack"],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    // The worst receiver: it sends back whatever it was sent, as an error.
    let echo = Receiver::start(|_, request| {
        let mut text = String::new();
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or("")));
        }
        Reply::status(500).body(text)
    })
    .await;
    api.register("incident.created").await;
    let auths = [
        json!({"type": "bearer", "token": TOKEN}),
        json!({"type": "basic", "username": "hookport", "password": PASSWORD}),
        json!({"type": "header", "name": "x-api-key", "value": HEADER_VALUE}),
    ];
    let mut answers = Vec::new();
    let mut subscriptions = Vec::new();
    for auth in &auths {
        let subscription = with(
            webhook("incident.created", &echo.url()),
            json!({
                "config": {"auth": auth, "signingSecret": SIGNING_SECRET},
                "retry": {"delaysMs": [10]}
            }),
        );
        let answer = api.post("/subscriptions", &subscription).await;
        let stored = answer.clone().expect(201);
        assert_eq!(stored["config"]["signingSecret"], "", "{stored}");
        let set = stored["secretsSet"].as_array().map_or(0, Vec::len);
        assert_eq!(set, 2, "{stored}");
        subscriptions.push((
            stored["id"].as_str().expect("an id").to_owned(),
            subscription,
        ));
        answers.push(answer.text);
    }
    let answer = api
        .post(
            "/connections",
            &json!({"name": "team", "provider": "slack",
                    "settings": {"type": "bot", "token": BOT_TOKEN}}),
        )
        .await;
    let connection = answer.clone().expect(201);
    answers.push(answer.text);

    let accepted = api
        .emit(&json!({"type": "incident.created", "payload": {}}))
        .await;
    let deliveries = api.delivery_ids(&accepted).await;
    for id in &deliveries {
        api.delivery_in(id, "failed").await;
    }
    let requests = echo.requests();
    assert!(
        requests
            .iter()
            .any(|request| request.header("authorization") == format!("Bearer {TOKEN}")),
        "the receiver itself gets them"
    );
    assert!(
        requests
            .iter()
            .any(|r| r.header("x-api-key") == HEADER_VALUE)
    );

    for path in [
        "/subscriptions",
        "/connections",
        "/deliveries",
        "/events",
        "/providers",
        "/keys",
    ] {
        answers.push(api.get(path).await.text);
    }
    for id in &deliveries {
        answers.push(api.get(&format!("/deliveries/{id}")).await.text);
    }
    for (id, _) in &subscriptions {
        answers.push(api.get(&format!("/subscriptions/{id}")).await.text);
    }
    let id = connection["id"].as_str().expect("an id");
    answers.push(api.get(&format!("/connections/{id}")).await.text);

    // Of `hookport:<password>` too, which is what a receiver of Basic credentials echoes.
    let basic = requests
        .iter()
        .find_map(|request| request.header("authorization").strip_prefix("Basic "))
        .expect("basic credentials");
    let bare_signing_secret = SIGNING_SECRET.trim_start_matches("whsec_");
    let secrets = [
        TOKEN,
        HEADER_VALUE,
        PASSWORD,
        bare_signing_secret,
        BOT_TOKEN,
        basic,
    ];
    let log = gateway.log();
    for secret in secrets {
        for answer in &answers {
            assert!(!answer.contains(secret), "an answer has {secret}: {answer}");
        }
        assert!(!log.contains(secret), "the log has {secret}");
        for (path, bytes) in gateway.data_files() {
            assert!(
                position(&bytes, secret.as_bytes()).is_none(),
                "{} has {secret}",
                path.display()
            );
        }
    }
    // The admin's key, which is stored as a hash: in its own file only.
    let key = gateway.admin_key();
    for (path, bytes) in gateway.data_files() {
        if !path.ends_with("admin.key") {
            let found = position(&bytes, key.trim().as_bytes());
            assert!(found.is_none(), "{} has the admin key", path.display());
        }
    }
    assert!(!log.contains(key.trim()), "the log has the admin key");

    // A secret that an update leaves empty is kept; one that is written is replaced.
    let (id, subscription) = &subscriptions[0];
    let update = with(
        subscription.clone(),
        json!({"name": "renamed", "config": {"auth": {"token": ""}, "signingSecret": ""}}),
    );
    let updated = api
        .put(&format!("/subscriptions/{id}"), &update)
        .await
        .expect(200);
    assert_eq!(updated["name"], "renamed");
    let before = echo.requests().len();
    let accepted = api
        .emit(&json!({"type": "incident.created", "payload": {}}))
        .await;
    for id in api.delivery_ids(&accepted).await {
        api.delivery_in(&id, "failed").await;
    }
    assert!(
        echo.requests()[before..]
            .iter()
            .any(|request| request.header("authorization") == format!("Bearer {TOKEN}")),
        "the stored token is still sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_hold_keys_are_private_and_the_vault_opens_after_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut gateway = Gateway::start().await;
    let receiver = Receiver::ok().await;
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({"config": {"auth": {"type": "bearer", "token": TOKEN}}}),
    ))
    .await;
    for (name, mode) in [
        ("vault.key", 0o600),
        ("admin.key", 0o600),
        ("code-cache", 0o700),
    ] {
        let path = gateway.data_dir().join(name);
        let found = std::fs::metadata(&path).expect(name).permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name} is {found:o}");
    }
    gateway.terminate().await;
    gateway.restart().await;
    let api = gateway.api();
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;
    let sent = receiver.requests()[0].header("authorization").to_owned();
    assert_eq!(sent, format!("Bearer {TOKEN}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slack_webhook_url_is_a_secret_too() {
    let gateway = Gateway::start_with(Setup {
        providers: vec!["slack"],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let server = slack::start(0).await;
    let base = format!("http://{}", server.address());
    let secret_path = "/services/T9/B9/uNkn0wnAndS3cret";
    let connection = api
        .post(
            "/connections",
            &json!({"name": "hook", "provider": "slack", "settings": {
                "type": "incomingWebhook",
                "url": format!("{base}{secret_path}"),
                "baseUrl": base
            }}),
        )
        .await
        .expect(201);
    let id = connection["id"].as_str().expect("an id");
    let tested = api.act(&format!("/connections/{id}/test")).await;
    assert!(!tested.text.contains(secret_path), "{}", tested.text);
    let tested = tested.expect(200);
    assert_eq!(tested["ok"], false, "{tested}");
    let message = tested["message"].as_str().unwrap_or("");
    assert!(message.contains("no_service"), "{tested}");
    assert!(!gateway.log().contains(secret_path));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_master_key_is_refused_and_the_right_one_opens_again() {
    // 32 bytes each.
    let (right, wrong) = (
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=",
    );
    let mut gateway = Gateway::start_with(Setup {
        environment: vec![("HOOKPORT_MASTER_KEY", right.into())],
        ..Setup::default()
    })
    .await;
    assert!(
        !gateway.data_dir().join("vault.key").exists(),
        "a key that is given is not made"
    );
    let receiver = Receiver::ok().await;
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({
            "config": {"auth": {"type": "bearer", "token": TOKEN}},
            "retry": {"delaysMs": []}
        }),
    ))
    .await;

    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;

    gateway.terminate().await;
    for key in [wrong, "too short"] {
        gateway.set_environment("HOOKPORT_MASTER_KEY", key);
        let output = gateway
            .command(&["serve", "--listen", "127.0.0.1:0"])
            .arg("--providers")
            .arg(gateway.providers_dir())
            .output()
            .expect("it runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("HOOKPORT_MASTER_KEY"), "{said}");
        assert!(!said.contains(key), "{said}");
    }
    assert_eq!(receiver.settled().await.len(), 1);

    gateway.set_environment("HOOKPORT_MASTER_KEY", right);
    gateway.restart().await;
    let api = gateway.api();
    api.act(&format!("/deliveries/{id}/retry"))
        .await
        .expect(202);
    api.delivery_in(&id, "success").await;
    let bearer = format!("Bearer {TOKEN}");
    let requests = receiver.wait_for(2).await;
    assert!(
        requests
            .iter()
            .all(|sent| sent.header("authorization") == bearer)
    );
}
