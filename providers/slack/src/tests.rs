//! The provider on the native test host. Answers are as Slack's reference documents them.

use std::time::Duration;

use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{HttpError, Retry};

use super::*;

mod follow_ups;

const WEBHOOK_URL: &str = "https://hooks.slack.com/services/T0/B0/xyz";
const POSTED: &str = r#"{"ok": true, "channel": "C1", "ts": "1503435956.000247"}"#;

fn event() -> TestEvent {
    TestEvent::new("incident.created")
}

fn bot(host: &TestHost) -> Value {
    json!({"type": "bot", "token": host.secret("xoxb-1")})
}

fn webhook(host: &TestHost) -> Value {
    json!({"type": "incomingWebhook", "url": host.secret(WEBHOOK_URL)})
}

fn deliver_as_bot(host: &TestHost, config: &Value) -> Result<Receipt, DeliveryError> {
    host.deliver::<Slack>(config, Some(&bot(host)), &event())
}

fn deliver_to_webhook(host: &TestHost, config: &Value) -> Result<Receipt, DeliveryError> {
    host.deliver::<Slack>(config, Some(&webhook(host)), &event())
}

#[test]
fn a_bot_posts_and_keeps_the_timestamp() {
    let host = TestHost::new().respond(200, POSTED);
    let config = json!({"channel": "C1", "textTemplate": "*{{ payload.incident.title }}*"});
    let receipt = deliver_as_bot(&host, &config).expect("delivered");
    assert_eq!(receipt.external_id.as_deref(), Some("1503435956.000247"));
    assert_eq!(receipt.summary, "posted to C1 at 1503435956.000247");
    let request = &host.requests()[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.url, "https://slack.com/api/chat.postMessage");
    assert_eq!(request.header("authorization"), Some("Bearer xoxb-1"));
    assert_eq!(
        request.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(
        request.json(),
        json!({
            "channel": "C1",
            "text": "*Disk full*",
            "unfurl_links": false,
            "unfurl_media": false
        })
    );
}

#[test]
fn an_incoming_webhook_posts_to_its_secret_url() {
    let host = TestHost::new().respond(200, "ok");
    let receipt = deliver_to_webhook(&host, &json!({})).expect("delivered");
    assert_eq!(receipt.external_id, None);
    let request = &host.requests()[0];
    assert_eq!(request.url, WEBHOOK_URL);
    assert_eq!(request.header("authorization"), None);
    let text = request.json()["text"].as_str().expect("a text").to_owned();
    assert!(text.starts_with("*incident.created*\n```{\n"), "{text}");
    assert!(text.contains("\"title\": \"Disk full\""), "{text}");
}

#[test]
fn what_the_payload_brings_cannot_mention_a_channel() {
    let hostile = event().payload(&json!({"title": "<!channel> & \"<@U1>\""}));
    let escaped = "&lt;!channel&gt; &amp; \"&lt;@U1&gt;\"";
    let check = |config: Value, pointer: &str, expected: &str| {
        let host = TestHost::new().respond(200, "ok");
        host.deliver::<Slack>(&config, Some(&webhook(&host)), &hostile)
            .expect("delivered");
        let body = host.requests()[0].json();
        let found = body.pointer(pointer).and_then(Value::as_str);
        assert_eq!(found, Some(expected), "{config} gave {body}");
    };
    check(
        json!({"textTemplate": "{{ payload.title }}"}),
        "/text",
        escaped,
    );
    check(
        json!({"textTemplate": "{{ payload | tojson }}"}),
        "/text",
        r#"{"title":"&lt;!channel&gt; &amp; \"&lt;@U1&gt;\""}"#,
    );
    check(
        json!({"blocksTemplate": r#"[{"type": "section", "text": {"type": "mrkdwn", "text": "{{ payload.title }}"}}]"#}),
        "/blocks/0/text/text",
        escaped,
    );
    check(
        json!({"blocksTemplate": r#"[{% for title in [payload.title] %}{"type": "header", "text": {{ title }}}{% endfor %}]"#}),
        "/blocks/0/text",
        escaped,
    );
    check(
        json!({"blocksTemplate": r#"[{% for title in [payload.title] %}{"text": {{ title | tojson }}}{% endfor %}]"#}),
        "/blocks/0/text",
        escaped,
    );
    check(
        json!({"textTemplate": "{{ '<!here>' | safe }} x"}),
        "/text",
        "<!here> x",
    );
}

#[test]
fn blocks_are_taken_as_block_kit_builder_gives_them() {
    let host = TestHost::new().respond(200, POSTED);
    let config = json!({
        "channel": "#alerts",
        "textTemplate": "{{ payload.incident.title }}",
        "blocksTemplate": r#"{"blocks": [{"type": "header", "text": {"type": "plain_text", "text": "{{ event.type }}"}}, {"type": "divider"}]}"#,
        "username": "Gateway",
        "iconEmoji": ":bell:",
        "unfurlLinks": true,
    });
    deliver_as_bot(&host, &config).expect("delivered");
    assert_eq!(
        host.requests()[0].json(),
        json!({
            "channel": "#alerts",
            "text": "Disk full",
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": "incident.created"}},
                {"type": "divider"}
            ],
            "username": "Gateway",
            "icon_emoji": ":bell:",
            "unfurl_links": true,
            "unfurl_media": true
        })
    );
}

#[test]
fn messages_that_slack_would_refuse_are_not_sent() {
    let check = |config: Value, expected: &str| {
        let host = TestHost::new();
        let error = deliver_as_bot(&host, &config).expect_err("refused");
        assert_eq!(error.retry, Retry::Never, "{error}");
        assert!(error.message.contains(expected), "{error}");
        assert!(host.requests().is_empty());
    };
    check(json!({}), "config.channel is empty");
    check(json!({"channel": " "}), "config.channel is empty");
    check(json!({"channel": "C1", "textTemplate": " "}), "empty text");
    check(
        json!({"channel": "C1", "textTemplate": "{{ 'x' * 40001 }}"}),
        "more than 40000 characters",
    );
    check(
        json!({"channel": "C1", "textTemplate": "a\n{{ payload.nothing.at_all }}"}),
        "config.textTemplate: undefined value in line 2",
    );
    check(
        json!({"channel": "C1", "blocksTemplate": "\"x\""}),
        "must give an array of blocks",
    );
    check(
        json!({"channel": "C1", "blocksTemplate": "{}"}),
        "must give an array of blocks",
    );
    check(
        json!({"channel": "C1", "blocksTemplate": "[]"}),
        "gave 0 blocks",
    );
    check(
        json!({"channel": "C1", "blocksTemplate": "[{% for i in range(51) %}{}{{ ',' | safe if not loop.last else '' | safe }}{% endfor %}]"}),
        "gave 51 blocks",
    );
    check(
        json!({"channel": "C1", "blocksTemplate": r#"[{% if true %}{"text": "{{ event.type }}"}{% endif %}]"#}),
        "put none around {{ … }}",
    );
    let host = TestHost::new();
    let error = host
        .deliver::<Slack>(&json!({"channel": "C1"}), None, &event())
        .expect_err("no connection");
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.contains("choose one"), "{error}");
}

#[test]
fn error_codes_of_the_web_api() {
    let check = |body: Value, retry: Retry, expected: &str| {
        let host = TestHost::new().respond(200, body.to_string());
        let error = deliver_as_bot(&host, &json!({"channel": "C1"})).expect_err("refused");
        assert_eq!(error.retry, retry, "{body}");
        assert!(error.message.contains(expected), "{error}");
    };
    let refused = |code: &str| json!({"ok": false, "error": code});
    for code in [
        "invalid_auth",
        "token_revoked",
        "channel_not_found",
        "not_in_channel",
        "is_archived",
        "msg_too_long",
        "restricted_action",
        "a_code_that_slack_adds_later",
    ] {
        check(refused(code), Retry::Never, code);
    }
    for code in ["internal_error", "fatal_error", "service_unavailable"] {
        check(refused(code), Retry::Default, code);
    }
    check(refused("not_in_channel"), Retry::Never, "invite the app");
    check(
        json!({"ok": false, "error": "missing_scope", "needed": "chat:write", "provided": "channels:read"}),
        Retry::Never,
        "(needed: chat:write)",
    );
    check(
        json!({"ok": false, "error": "invalid_blocks", "response_metadata": {"messages": ["[ERROR] no more than 50 items allowed"]}}),
        Retry::Never,
        "no more than 50 items allowed",
    );
}

#[test]
fn rate_limits_are_honoured() {
    let wait = Retry::After(Duration::from_secs(30));
    let host = TestHost::new().respond_with(
        429,
        &[("Retry-After", "30")],
        r#"{"ok": false, "error": "ratelimited"}"#,
    );
    let error = deliver_as_bot(&host, &json!({"channel": "C1"})).expect_err("limited");
    assert_eq!(error.retry, wait);
    assert!(error.message.contains("ratelimited"), "{error}");

    let host = TestHost::new().respond_with(429, &[("Retry-After", "30")], "rate_limited");
    let error = deliver_to_webhook(&host, &json!({})).expect_err("limited");
    assert_eq!(error.retry, wait);

    // Slack sends Retry-After with each; something in between may drop it.
    let host = TestHost::new().respond(429, "rate_limited");
    let error = deliver_to_webhook(&host, &json!({})).expect_err("limited");
    assert_eq!(error.retry, wait);
    let host = TestHost::new().respond(200, r#"{"ok": false, "error": "ratelimited"}"#);
    let error = deliver_as_bot(&host, &json!({"channel": "C1"})).expect_err("limited");
    assert_eq!(error.retry, wait);
}

#[test]
fn answers_that_are_not_slacks() {
    let check = |host: TestHost, retry: Retry, expected: &str| {
        let error = deliver_as_bot(&host, &json!({"channel": "C1"})).expect_err("failed");
        assert_eq!(error.retry, retry, "{error}");
        assert!(error.message.contains(expected), "{error}");
    };
    let html = [("Content-Type", "text/html")];
    check(
        TestHost::new().respond_with(200, &html, "<h1>Log in</h1>"),
        Retry::Default,
        "an HTML page instead of JSON",
    );
    check(
        TestHost::new().respond(503, ""),
        Retry::Default,
        "answered 503",
    );
    check(
        TestHost::new().respond(302, ""),
        Retry::Never,
        "answered 302",
    );
    check(
        TestHost::new().respond(200, r#"{"ok": true}"#),
        Retry::Default,
        "no usable JSON",
    );
    check(
        TestHost::new().fail(HttpError::Timeout),
        Retry::Default,
        "timed out",
    );
    check(
        TestHost::new().fail(HttpError::Denied("slack.com is not granted".into())),
        Retry::Never,
        "not granted",
    );
}

#[test]
fn errors_of_an_incoming_webhook() {
    let check = |status: u16, body: &str, retry: Retry, expected: &str| {
        let host = TestHost::new().respond(status, body);
        let error = deliver_to_webhook(&host, &json!({})).expect_err("failed");
        assert_eq!(error.retry, retry, "{status} {body}");
        assert!(error.message.contains(expected), "{error}");
    };
    check(400, "invalid_payload", Retry::Never, "400 invalid_payload");
    check(403, "action_prohibited", Retry::Never, "restricted posting");
    check(404, "no_service", Retry::Never, "copy it again");
    check(
        404,
        "channel_not_found",
        Retry::Never,
        "choose an existing channel",
    );
    check(410, "channel_is_archived", Retry::Never, "unarchive");
    check(500, "rollup_error", Retry::Default, "500 rollup_error");
    // A page is not quoted: it may repeat the URL.
    check(
        502,
        "<h1>Bad gateway</h1>",
        Retry::Default,
        "Slack answered 502",
    );
}

#[test]
fn a_webhook_is_tested_without_posting() {
    let test = |status: u16, body: &str| {
        let host = TestHost::new().respond(status, body);
        let connection = webhook(&host);
        let outcome = host.test_connection::<Slack>(&connection);
        assert_eq!(host.requests()[0].text(), "{}");
        outcome
    };
    assert!(test(400, "no_text").is_ok());
    assert!(
        test(404, "no_service")
            .expect_err("gone")
            .contains("copy it again")
    );
    assert!(test(403, "invalid_token").is_err());
    assert!(test(400, "invalid_payload").is_err());
}

#[test]
fn a_bot_token_is_tested_by_asking_whose_it_is() {
    let host = TestHost::new().respond(
        200,
        r#"{"ok": true, "url": "https://a.slack.com/", "team": "Acme", "user": "hookport", "team_id": "T1", "user_id": "U1"}"#,
    );
    let outcome = host.test_connection::<Slack>(&bot(&host));
    assert_eq!(outcome.as_deref(), Ok("Connected to Acme as hookport."));
    assert_eq!(host.requests()[0].url, "https://slack.com/api/auth.test");

    let host = TestHost::new().respond(200, r#"{"ok": false, "error": "invalid_auth"}"#);
    let error = host
        .test_connection::<Slack>(&bot(&host))
        .expect_err("refused");
    assert!(error.contains("valid bot token"), "{error}");
}

fn page(names: &[&str], cursor: &str) -> String {
    let channels: Vec<Value> = names
        .iter()
        .map(|name| json!({"id": format!("C-{name}"), "name": name, "is_private": name.starts_with("p-")}))
        .collect();
    json!({"ok": true, "channels": channels, "response_metadata": {"next_cursor": cursor}})
        .to_string()
}

#[test]
fn channels_are_read_page_by_page() {
    let host = TestHost::new()
        .respond(200, page(&["zebra", "general"], "dXNl+cg="))
        .respond(200, page(&["p-ops", "alerts"], ""));
    let options = host
        .options::<Slack>("channels", Some(&bot(&host)), None)
        .expect("listed");
    let labels: Vec<_> = options.iter().map(|option| option.label.as_str()).collect();
    assert_eq!(
        labels,
        ["#alerts", "#general", "#p-ops (private)", "#zebra"]
    );
    assert_eq!(options[0].value, "C-alerts");
    let urls: Vec<_> = host
        .requests()
        .into_iter()
        .map(|request| request.url)
        .collect();
    let list = "https://slack.com/api/conversations.list?exclude_archived=true&limit=200&types=public_channel%2Cprivate_channel";
    assert_eq!(
        urls,
        [list.to_owned(), format!("{list}&cursor=dXNl%2Bcg%3D")]
    );
}

#[test]
fn channels_are_searched_over_all_pages() {
    let host = TestHost::new()
        .respond(200, page(&["general", "random"], "next"))
        .respond(200, page(&["Ops-alerts", "dev"], ""));
    let options = host
        .options::<Slack>("channels", Some(&bot(&host)), Some("#OPS"))
        .expect("listed");
    assert_eq!(options, [SelectOption::new("C-Ops-alerts", "#Ops-alerts")]);
}

#[test]
fn a_list_of_channels_ends_in_time() {
    // A workspace whose cursor never ends.
    let mut host = TestHost::new();
    for _ in 0..40 {
        host = host.respond(200, page(&["general"], "more"));
    }
    let options = host
        .options::<Slack>("channels", Some(&bot(&host)), Some("nothing like it"))
        .expect("listed");
    assert!(options.is_empty());
    assert!(
        host.requests().len() < 20,
        "{} requests",
        host.requests().len()
    );
}

#[test]
fn a_list_of_channels_survives_limits_and_missing_scopes() {
    let host = TestHost::new()
        .respond(200, page(&["general"], "more"))
        .respond_with(
            429,
            &[("Retry-After", "60")],
            r#"{"ok": false, "error": "ratelimited"}"#,
        );
    let options = host
        .options::<Slack>("channels", Some(&bot(&host)), None)
        .expect("a part");
    assert_eq!(options.len(), 1);
    assert!(host.logs()[0].1.contains("incomplete"));

    let host = TestHost::new()
        .respond(
            200,
            r#"{"ok": false, "error": "missing_scope", "needed": "groups:read"}"#,
        )
        .respond(200, page(&["general"], ""));
    let options = host
        .options::<Slack>("channels", Some(&bot(&host)), None)
        .expect("the public ones");
    assert_eq!(options.len(), 1);
    assert!(host.requests()[1].url.ends_with("types=public_channel"));

    let host = TestHost::new().respond(200, r#"{"ok": false, "error": "invalid_auth"}"#);
    let error = host
        .options::<Slack>("channels", Some(&bot(&host)), None)
        .expect_err("refused");
    assert!(error.contains("invalid_auth"), "{error}");
}

#[test]
fn options_say_what_is_missing() {
    let host = TestHost::new();
    let error = host
        .options::<Slack>("channels", None, None)
        .expect_err("none");
    assert!(error.contains("Choose a connection"), "{error}");
    let error = host
        .options::<Slack>("channels", Some(&webhook(&host)), None)
        .expect_err("webhook");
    assert!(error.contains("leave the channel empty"), "{error}");
    assert!(
        host.options::<Slack>("users", Some(&bot(&host)), None)
            .is_err()
    );
    assert!(host.requests().is_empty());
}

#[test]
fn another_base_url_is_used() {
    let host = TestHost::new().respond(200, POSTED);
    let connection = json!({
        "type": "bot",
        "token": host.secret("xoxb-1"),
        "baseUrl": "https://slack-gov.com/api/",
    });
    host.deliver::<Slack>(&json!({"channel": "C1"}), Some(&connection), &event())
        .expect("delivered");
    assert_eq!(
        host.requests()[0].url,
        "https://slack-gov.com/api/chat.postMessage"
    );
}

#[test]
fn the_schemas_mark_secrets_and_the_dropdown() {
    let config = TestHost::schema::<Config>().expect("a schema");
    let channel = &config["properties"]["channel"];
    assert_eq!(channel["x-options-resolver"], "channels");
    assert_eq!(channel["x-searchable"], true);
    let connection = TestHost::schema::<Connection>().expect("a schema");
    let kinds = connection["oneOf"].as_array().expect("alternatives");
    for (kind, field) in kinds.iter().zip(["url", "token"]) {
        assert_eq!(kind["properties"][field]["x-secret"], true, "{kind}");
        assert!(kind["required"].to_string().contains(field), "{kind}");
    }
    assert_eq!(kinds.len(), 2);
}
