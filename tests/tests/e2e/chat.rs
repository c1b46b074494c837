//! Telegram, Webex and Microsoft Teams: a first message that is rate limited, a follow-up, the
//! connection's test, dropdowns, and no credential where it does not belong.

use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::{teams, telegram, webex};
use serde_json::{Value, json};

/// A provider with what this test needs to know of it.
struct Case {
    provider: &'static str,
    settings: Value,
    config: Value,
    /// What the connection's test says.
    tested: &'static str,
    /// The credential, which nothing may show.
    secret: &'static str,
}

/// Delivers an event and its follow-up; returns both deliveries.
async fn carry_out(case: &Case) -> (Gateway, Value, Value) {
    let gateway = Gateway::start_with(Setup {
        providers: vec![case.provider],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let connection = connect(&api, case).await;
    let tested = api
        .act(&format!("/connections/{connection}/test"))
        .await
        .expect(200);
    assert_eq!(
        (&tested["ok"], &tested["message"]),
        (&json!(true), &json!(case.tested)),
        "{tested}"
    );
    api.register("incident.created").await;
    api.subscribe(&json!({
        "name": "chat", "events": "incident.*", "provider": case.provider, "connectionId": connection,
        "config": case.config, "retry": {"delaysMs": [50, 50]},
    }))
    .await;
    let event = json!({
        "type": "incident.created", "correlationKey": "incident-7", "payload": {"title": "Disk *full* (90%)!"},
    });
    let id = api.emit_one(&event).await;
    let first = api.delivery_in(&id, "success").await;
    let id = api.emit_one(&event).await;
    let second = api.delivery_in(&id, "success").await;
    for text in [
        gateway.log(),
        first.to_string(),
        second.to_string(),
        tested.to_string(),
    ] {
        assert!(!text.contains(case.secret), "{text}");
    }
    (gateway, first, second)
}

async fn connect(api: &Api, case: &Case) -> String {
    let connection = json!({"name": "c", "provider": case.provider, "settings": case.settings});
    let connection = api.post("/connections", &connection).await.expect(201);
    connection["id"].as_str().expect("an id").to_owned()
}

async fn labels(api: &Api, provider: &str, resolver: &str, context: Value) -> Vec<String> {
    let connections = api.get("/connections").await.expect(200);
    let request = json!({
        "resolver": resolver, "connectionId": connections["items"][0]["id"], "context": context,
    });
    let path = format!("/providers/{provider}/options");
    let answer = api.post(&path, &request).await.expect(200);
    let items = answer["items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["label"].as_str().unwrap_or("").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn telegram_posts_escaped_and_replies() {
    let server = telegram::start(1).await;
    let case = Case {
        provider: "telegram",
        settings: json!({"botToken": telegram::TOKEN, "baseUrl": format!("http://{}", server.address())}),
        config: json!({"chatId": "-1001", "textTemplate": "*Alert* {{ payload.title }}"}),
        tested: "Connected as @ops_bot.",
        secret: "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
    };
    let (gateway, first, second) = carry_out(&case).await;
    assert_eq!(
        first["attempts"], 2,
        "the first was limited, as its body says"
    );
    assert_eq!(second["externalId"], first["externalId"]);
    let requests = server.requests();
    let sent: Vec<_> = requests
        .iter()
        .filter(|sent| sent.path.ends_with("sendMessage"))
        .collect();
    let gap = sent[1].at.duration_since(sent[0].at);
    assert!(gap.as_millis() >= 950, "only {gap:?}");
    assert_eq!(
        sent[1].json()["text"],
        "*Alert* Disk \\*full\\* \\(90%\\)\\!"
    );
    assert_eq!(sent[2].json()["reply_parameters"]["message_id"], 43);
    assert_eq!(
        labels(&gateway.api(), "telegram", "chats", json!({})).await,
        ["Ops (-1001)"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn webex_posts_and_replies_in_the_thread() {
    let server = webex::start(1).await;
    let case = Case {
        provider: "webex",
        settings: json!({"botToken": webex::TOKEN, "baseUrl": format!("http://{}/v1", server.address())}),
        config: json!({"roomId": "room-1", "markdownTemplate": "**Alert** {{ payload.title }}"}),
        tested: "Connected as Ops bot.",
        secret: webex::TOKEN,
    };
    let (gateway, first, second) = carry_out(&case).await;
    assert_eq!(
        (&first["attempts"], &first["externalId"]),
        (&json!(2), &json!("message-1"))
    );
    assert_eq!(second["externalId"], first["externalId"]);
    let last = server.requests().pop().expect("a request");
    assert_eq!(last.json()["parentId"], "message-1");
    assert_eq!(last.json()["markdown"], "**Alert** Disk \\*full\\* (90%)!");
    let rooms = labels(&gateway.api(), "webex", "rooms", json!({})).await;
    assert_eq!(rooms, ["Operations", "Operations, old"], "both pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn teams_posts_through_a_workflow() {
    let server = teams::start(0).await;
    let base = format!("http://{}", server.address());
    let case = Case {
        provider: "teams",
        settings: json!({"type": "workflow", "url": format!("{base}{}", teams::WORKFLOW), "baseUrl": base}),
        config: json!({"textTemplate": "{{ payload.title }}"}),
        tested: "A Workflows webhook can only be tried by posting: send a test event with a subscription.",
        secret: "s1gn4ture",
    };
    let (_gateway, first, second) = carry_out(&case).await;
    assert_eq!(
        (&first["externalId"], &second["externalId"]),
        (&Value::Null, &Value::Null)
    );
    let card = &server.requests()[0].json()["attachments"][0]["content"];
    assert_eq!(card["body"][1]["text"], "Disk \\*full\\* \\(90%\\)!");
}

#[tokio::test(flavor = "multi_thread")]
async fn teams_posts_through_graph_with_a_token_that_it_never_sees() {
    let server = teams::start(1).await;
    let base = format!("http://{}", server.address());
    let case = Case {
        provider: "teams",
        settings: json!({
            "type": "graph", "tenantId": "tenant-1", "clientId": "client-1", "clientSecret": teams::SECRET,
            "baseUrl": base, "loginUrl": base,
        }),
        config: json!({"teamId": "team-1", "channelId": "channel-1"}),
        tested: "Connected to Contoso.",
        secret: "access-token-",
    };
    let (gateway, first, second) = carry_out(&case).await;
    assert_eq!(
        (&first["attempts"], &first["externalId"]),
        (&json!(2), &json!("1616990032035"))
    );
    assert_eq!(second["externalId"], first["externalId"]);
    let requests = server.requests();
    let last = requests.last().expect("a request");
    assert!(
        last.path.ends_with("/messages/1616990032035/replies"),
        "{}",
        last.path
    );
    let api = gateway.api();
    assert_eq!(
        labels(&api, "teams", "teams", json!({})).await,
        ["Operations"]
    );
    assert_eq!(
        labels(&api, "teams", "channels", json!({"teamId": "team-1"})).await,
        ["General"]
    );
    let fetched = requests
        .iter()
        .filter(|request| request.path.contains("oauth2"))
        .count();
    assert!(fetched <= 3, "tokens are cached: {fetched}");
    assert!(!gateway.log().contains(teams::SECRET));
}
