//! The Slack provider against a Slack that answers as documented.

use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use hookport_tests::slack;
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::start_with(Setup {
        providers: vec!["slack"],
        ..Setup::default()
    })
    .await
}

async fn connect(gateway: &Gateway, settings: Value) -> String {
    let connection = gateway
        .api()
        .post(
            "/connections",
            &json!({"name": "team", "provider": "slack", "settings": settings}),
        )
        .await
        .expect(201);
    connection["id"].as_str().expect("an id").to_owned()
}

fn bot(server: &Receiver) -> Value {
    json!({"type": "bot", "token": slack::TOKEN, "baseUrl": format!("http://{}/api", server.address())})
}

async fn subscribe(gateway: &Gateway, connection: &str, config: Value) {
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe(&json!({
        "name": "to slack", "events": "incident.created", "provider": "slack",
        "connectionId": connection, "config": config, "retry": {"delaysMs": [50]}
    }))
    .await;
}

async fn emit(gateway: &Gateway, key: &str) -> String {
    gateway
        .api()
        .emit_one(&json!({
            "type": "incident.created", "correlationKey": key,
            "payload": {"incident": {"title": "Disk <full> & \"hot\""}}
        }))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_posts_waits_when_told_and_replies_in_the_thread() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = slack::start(1).await;
    let connection = connect(&gateway, bot(&server)).await;
    subscribe(
        &gateway,
        &connection,
        json!({
            "channel": "C1",
            "textTemplate": "*{{ payload.incident.title }}*",
            "blocksTemplate": r#"[{"type": "section", "text":
                {"type": "mrkdwn", "text": "{{ payload.incident.title }}"}}]"#,
            "replyInThread": true
        }),
    )
    .await;
    let first = emit(&gateway, "incident-7").await;
    let delivery = api.delivery_in(&first, "success").await;
    assert_eq!(delivery["attempts"], 2, "the first post was rate limited");
    assert_eq!(delivery["attemptLog"][0]["httpStatus"], 429);
    assert_eq!(delivery["externalId"], "1503435956.000247");
    let requests = server.requests();
    let gap = requests[1].at.duration_since(requests[0].at);
    assert!(gap.as_millis() >= 950, "only {gap:?}");

    let second = emit(&gateway, "incident-7").await;
    api.delivery_in(&second, "success").await;
    let requests = server.requests();
    let message = requests.last().expect("a request").json();
    assert_eq!(message["channel"], "C1");
    assert_eq!(message["thread_ts"], "1503435956.000247");
    let text = message["text"].as_str().unwrap_or("");
    assert!(text.contains("Disk &lt;full&gt; &amp;"), "{text}");
    assert_eq!(message["blocks"][0]["type"], "section");
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_ups_update_the_first_message_also_in_a_channel_given_by_name() {
    for (channel, external_id) in [
        ("C1", slack::FIRST_TS.to_owned()),
        ("#alerts", format!("C1/{}", slack::FIRST_TS)),
    ] {
        let gateway = gateway().await;
        let api = gateway.api();
        let server = slack::start(0).await;
        let connection = connect(&gateway, bot(&server)).await;
        let config = json!({"channel": channel, "followUp": "update"});
        subscribe(&gateway, &connection, config).await;
        for _ in 0..2 {
            let id = emit(&gateway, "incident-7").await;
            let delivery = api.delivery_in(&id, "success").await;
            assert_eq!(delivery["externalId"], external_id);
        }
        let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
        assert_eq!(paths, ["/api/chat.postMessage", "/api/chat.update"]);
        let other = emit(&gateway, "incident-8").await;
        let delivery = api.delivery_in(&other, "success").await;
        let id = delivery["externalId"].as_str().unwrap_or("");
        assert!(id.ends_with("1503435956.000248"), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_shown_to_the_channel_when_asked() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = slack::start(0).await;
    let connection = connect(&gateway, bot(&server)).await;
    let config = json!({"channel": "C1", "followUp": "thread", "replyBroadcast": true});
    subscribe(&gateway, &connection, config).await;
    for _ in 0..2 {
        let id = emit(&gateway, "incident-7").await;
        let delivery = api.delivery_in(&id, "success").await;
        assert_eq!(delivery["externalId"], slack::FIRST_TS);
    }
    let requests = server.requests();
    assert_eq!(requests[0].json()["reply_broadcast"], Value::Null);
    assert_eq!(requests[1].json()["reply_broadcast"], true);
    assert_eq!(requests[1].json()["thread_ts"], slack::FIRST_TS);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_cannot_pass_is_not_repeated_and_says_what_to_do() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = slack::start(0).await;
    let connection = connect(&gateway, bot(&server)).await;
    subscribe(&gateway, &connection, json!({"channel": "C2"})).await;
    let id = emit(&gateway, "a").await;
    let delivery = api.delivery_in(&id, "failed").await;
    assert_eq!(delivery["attempts"], 1);
    let message = delivery["attemptLog"][0]["message"].as_str().unwrap_or("");
    assert!(message.contains("not_in_channel"), "{message}");
    assert!(message.contains("invite"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incoming_webhook_posts_and_can_be_tested() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = slack::start(0).await;
    let base = format!("http://{}", server.address());
    let connection = connect(
        &gateway,
        json!({"type": "incomingWebhook", "url": format!("{base}{}", slack::WEBHOOK_PATH), "baseUrl": base}),
    )
    .await;
    let tested = api
        .act(&format!("/connections/{connection}/test"))
        .await
        .expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
    subscribe(&gateway, &connection, json!({"textTemplate": "hello"})).await;
    let id = emit(&gateway, "a").await;
    api.delivery_in(&id, "success").await;
    let requests = server.requests();
    let posted = requests.last().expect("a request");
    assert_eq!(posted.path, slack::WEBHOOK_PATH);
    assert_eq!(posted.json()["text"], "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_tested_and_offers_its_channels() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = slack::start(0).await;
    let connection = connect(&gateway, bot(&server)).await;
    let tested = api
        .act(&format!("/connections/{connection}/test"))
        .await
        .expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
    assert_eq!(tested["message"], "Connected to Example as hookport.");

    let options = async |search: Option<&str>| -> Vec<(String, String)> {
        let answer = api
            .post(
                "/providers/slack/options",
                &json!({"resolver": "channels", "connectionId": connection, "context": {},
                        "search": search}),
            )
            .await
            .expect(200);
        answer["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| {
                let text = |field: &str| item[field].as_str().unwrap_or("").to_owned();
                (text("value"), text("label"))
            })
            .collect()
    };
    let all: Vec<_> = options(None).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(all, ["C1", "C2", "C3"], "both pages, by name");
    assert_eq!(
        options(Some("private")).await,
        [("C2".to_owned(), "#alerts-private (private)".to_owned())]
    );

    let wrong = connect(
        &gateway,
        json!({"type": "bot", "token": "xoxb-wrong", "baseUrl": format!("http://{}/api", server.address())}),
    )
    .await;
    let tested = api
        .act(&format!("/connections/{wrong}/test"))
        .await
        .expect(200);
    assert_eq!(tested["ok"], false, "{tested}");
    let message = tested["message"].as_str().unwrap_or("");
    assert!(message.contains("invalid_auth"), "{tested}");
}
