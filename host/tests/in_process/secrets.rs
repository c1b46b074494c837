//! Secrets go in, and come out only to the provider.

use serde_json::{Value, json};

use crate::harness::{CONFIG, Gateway, subscription};

const TOKEN: &str = "t0ken-9f31";
const PASSWORD: &str = "passw0rd-77aa";
const API_TOKEN: &str = "api-t0ken-5bd2";

async fn set_up(gateway: &Gateway) -> (Value, Value) {
    gateway.register(&["incident.created"]).await;
    let connection = json!({"name": "site", "provider": "fake", "settings": {"site": "s", "apiToken": API_TOKEN}});
    let connection = gateway.post("/connections", &connection).await.expect(201);
    let subscription = gateway
        .subscribe(json!({
            "config": {"url": "https://receiver.test/", "token": TOKEN, "auth": {"password": PASSWORD}},
            "connectionId": connection["id"],
        }))
        .await;
    (subscription, connection)
}

/// What the provider was last handed: the values behind the handles of config and connection.
fn handed(gateway: &Gateway) -> [Option<String>; 3] {
    let calls = gateway.providers.calls.lock().expect("lock");
    let call = calls.last().expect("a call");
    let connection = call.connection.as_ref();
    let text =
        |value: Option<&zeroize::Zeroizing<String>>| value.map(|value| value.as_str().to_owned());
    [
        text(call.config.secrets.get("config#/token")),
        text(call.config.secrets.get("config#/auth/password")),
        text(connection.and_then(|connection| connection.secrets.get("connection#/apiToken"))),
    ]
}

#[tokio::test]
async fn no_answer_holds_a_secret_and_the_provider_gets_them() {
    let gateway = Gateway::start().await;
    let (subscription, connection) = set_up(&gateway).await;
    assert_eq!(subscription["config"]["token"], "");
    assert_eq!(
        subscription["secretsSet"],
        json!(["/auth/password", "/token"])
    );
    assert_eq!(connection["settings"], json!({"site": "s", "apiToken": ""}));
    assert_eq!(connection["secretsSet"], json!(["/apiToken"]));

    let working = gateway.work(CONFIG);
    let delivery = gateway.emit(json!({})).await;
    gateway.delivery_in(&delivery, "success").await;
    working.stop().await;
    let expected = [TOKEN, PASSWORD, API_TOKEN].map(|text| Some(text.to_owned()));
    assert_eq!(handed(&gateway), expected);

    let subscription = format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let connection = format!("/connections/{}", connection["id"].as_str().expect("an id"));
    let delivery = format!("/deliveries/{delivery}");
    for path in [
        "/subscriptions",
        "/connections",
        "/deliveries",
        "/events",
        "/providers",
        "/keys",
        &subscription,
        &connection,
        &delivery,
    ] {
        let answer = gateway.get(path).await;
        answer.expect(200);
        for secret in [TOKEN, PASSWORD, API_TOKEN, "$sealed", "$secret"] {
            assert!(!answer.text.contains(secret), "{path}: {}", answer.text);
        }
    }
    for path in [
        format!("{subscription}/pause"),
        format!("{subscription}/resume"),
        format!("{connection}/test"),
    ] {
        let answer = gateway.act(&path).await;
        answer.expect(200);
        assert!(!answer.text.contains("t0ken"), "{}", answer.text);
    }
}

#[tokio::test]
async fn an_empty_secret_keeps_the_one_on_record_and_a_given_one_replaces_it() {
    let gateway = Gateway::start().await;
    let (shown, connection) = set_up(&gateway).await;
    let path = format!("/subscriptions/{}", shown["id"].as_str().expect("an id"));
    let mut update = subscription();
    update["connectionId"] = connection["id"].clone();
    update["config"] =
        json!({"url": "https://other.test/", "token": "", "auth": {"password": "new-pass"}});
    let answer = gateway.put(&path, &update).await;
    assert_eq!(
        answer.expect(200)["secretsSet"],
        json!(["/auth/password", "/token"])
    );
    assert!(!answer.text.contains("new-pass"), "{}", answer.text);

    let working = gateway.work(CONFIG);
    let delivery = gateway.emit(json!({})).await;
    gateway.delivery_in(&delivery, "success").await;
    let expected = [TOKEN, "new-pass", API_TOKEN].map(|text| Some(text.to_owned()));
    assert_eq!(handed(&gateway), expected);

    let path = format!("/connections/{}", connection["id"].as_str().expect("an id"));
    let update =
        json!({"name": "renamed", "provider": "fake", "settings": {"site": "t", "apiToken": ""}});
    gateway.put(&path, &update).await.expect(200);
    let delivery = gateway.emit(json!({})).await;
    gateway.delivery_in(&delivery, "success").await;
    assert_eq!(handed(&gateway)[2].as_deref(), Some(API_TOKEN));
    working.stop().await;
}

#[tokio::test]
async fn a_secret_does_not_follow_to_another_provider() {
    let gateway = Gateway::start().await;
    let (shown, _) = set_up(&gateway).await;
    let path = format!("/subscriptions/{}", shown["id"].as_str().expect("an id"));
    let mut update = subscription();
    update["provider"] = json!("plain");
    update["config"] = json!({"url": "https://other.test/", "token": ""});
    let updated = gateway.put(&path, &update).await.expect(200);
    let working = gateway.work(CONFIG);
    let delivery = gateway.emit(json!({})).await;
    gateway.delivery_in(&delivery, "success").await;
    working.stop().await;
    let [token, password, _] = handed(&gateway);
    assert_ne!(token.as_deref(), Some(TOKEN), "{updated}");
    assert_eq!(password, None);
}

#[tokio::test]
async fn what_only_the_gateway_writes_cannot_be_sent_in() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    for marker in [
        json!({"$sealed": "v1.a.b"}),
        json!({"$secret": "config#/token"}),
    ] {
        let mut wrong = subscription();
        wrong["config"]["token"] = marker;
        let problem = gateway
            .post("/subscriptions", &wrong)
            .await
            .problem(400, "validation");
        assert!(problem.to_string().contains("token"), "{problem}");
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_without_being_repeated() {
    let gateway = Gateway::start().await;
    gateway.register(&["incident.created"]).await;
    let mut wrong = subscription();
    wrong["config"]["auth"] = json!("s3cret-in-the-wrong-place");
    let answer = gateway.post("/subscriptions", &wrong).await;
    let problem = answer.problem(400, "validation");
    assert_eq!(problem["errors"][0]["field"], "/config/auth", "{problem}");
    assert!(!answer.text.contains("s3cret-in"), "{}", answer.text);
}
