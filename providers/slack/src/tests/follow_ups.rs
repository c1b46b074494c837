//! Later events of a correlation key: replies, updates, or messages of their own.

use super::*;

const UPDATED: &str = r#"{"ok": true, "channel": "C1", "ts": "1.0", "text": "x"}"#;

fn follow_up(host: &TestHost, config: &Value, external_id: &str) -> Receipt {
    let event = event().follow_up("incident-7", Some(external_id));
    host.deliver::<Slack>(config, Some(&bot(host)), &event)
        .expect("delivered")
}

fn refused(code: &str) -> String {
    json!({"ok": false, "error": code}).to_string()
}

#[test]
fn the_first_message_is_replied_to_also_by_configs_of_before() {
    let check = |config: Value, thread: Option<&str>, external_id: &str| {
        let host = TestHost::new().respond(200, POSTED);
        let receipt = follow_up(&host, &config, "1.0");
        let body = host.requests()[0].json();
        assert_eq!(body["thread_ts"].as_str(), thread, "{config}");
        assert_eq!(body["reply_broadcast"], Value::Null, "{config}");
        assert_eq!(receipt.external_id.as_deref(), Some(external_id));
    };
    // The parent stays the reference, not the reply.
    check(
        json!({"channel": "C1", "followUp": "thread"}),
        Some("1.0"),
        "1.0",
    );
    check(
        json!({"channel": "C1", "replyInThread": true}),
        Some("1.0"),
        "1.0",
    );
    check(json!({"channel": "C1"}), None, "1503435956.000247");
    check(
        json!({"channel": "C1", "followUp": "new", "replyInThread": true}),
        None,
        "1503435956.000247",
    );
}

#[test]
fn a_reply_can_be_shown_to_the_channel_and_a_first_message_cannot() {
    let config = json!({"channel": "C1", "followUp": "thread", "replyBroadcast": true});
    let host = TestHost::new().respond(200, POSTED);
    follow_up(&host, &config, "1.0");
    assert_eq!(host.requests()[0].json()["reply_broadcast"], true);

    let host = TestHost::new().respond(200, POSTED);
    deliver_as_bot(&host, &config).expect("delivered");
    assert_eq!(host.requests()[0].json()["reply_broadcast"], Value::Null);
}

#[test]
fn the_first_message_is_updated_with_what_chat_update_takes() {
    let host = TestHost::new().respond(200, UPDATED);
    let config = json!({
        "channel": "C1",
        "followUp": "update",
        "textTemplate": "now {{ event.type }}",
        "blocksTemplate": r#"[{"type": "divider"}]"#,
        "username": "Gateway",
        "iconEmoji": ":bell:",
        "unfurlLinks": true,
    });
    let receipt = follow_up(&host, &config, "1.0");
    assert_eq!(receipt.external_id.as_deref(), Some("1.0"));
    assert_eq!(receipt.summary, "updated 1.0 in C1");
    let request = &host.requests()[0];
    assert_eq!(request.url, "https://slack.com/api/chat.update");
    assert_eq!(
        request.json(),
        json!({
            "channel": "C1",
            "ts": "1.0",
            "text": "now incident.created",
            "blocks": [{"type": "divider"}],
            "parse": "none"
        })
    );
}

#[test]
fn an_update_names_the_channel_by_its_id() {
    let config = json!({"channel": "#alerts", "followUp": "update"});
    let host = TestHost::new().respond(200, POSTED);
    let receipt = deliver_as_bot(&host, &config).expect("posted");
    let id = receipt.external_id.expect("an id");
    assert_eq!(id, "C1/1503435956.000247");

    let host = TestHost::new().respond(200, UPDATED);
    let receipt = follow_up(&host, &config, &id);
    assert_eq!(receipt.external_id.as_deref(), Some(id.as_str()));
    let body = host.requests()[0].json();
    assert_eq!(body["channel"], "C1");
    assert_eq!(body["ts"], "1503435956.000247");

    // A reply is a new message: the configured channel, and the timestamp alone.
    let host = TestHost::new().respond(200, POSTED);
    let config = json!({"channel": "#alerts", "followUp": "thread"});
    follow_up(&host, &config, &id);
    assert_eq!(host.requests()[0].json()["thread_ts"], "1503435956.000247");
}

#[test]
fn a_first_message_that_is_gone_is_replaced() {
    for (how, code) in [
        ("update", "message_not_found"),
        ("update", "edit_window_closed"),
        ("update", "cant_update_message"),
        ("thread", "thread_not_found"),
    ] {
        let host = TestHost::new()
            .respond(200, refused(code))
            .respond(200, POSTED);
        let config = json!({"channel": "C1", "followUp": how});
        let receipt = follow_up(&host, &config, "1.0");
        assert_eq!(receipt.external_id.as_deref(), Some("1503435956.000247"));
        let request = &host.requests()[1];
        assert!(
            request.url.ends_with("/chat.postMessage"),
            "{}",
            request.url
        );
        assert_eq!(request.json()["thread_ts"], Value::Null);
        assert!(host.logs()[0].1.contains(code), "{:?}", host.logs());
    }
}

#[test]
fn other_refusals_of_a_follow_up_are_errors() {
    for how in ["update", "thread"] {
        let host = TestHost::new().respond(200, refused("invalid_auth"));
        let event = event().follow_up("incident-7", Some("1.0"));
        let config = json!({"channel": "C1", "followUp": how});
        let error = host
            .deliver::<Slack>(&config, Some(&bot(&host)), &event)
            .expect_err("refused");
        assert_eq!(error.retry, Retry::Never);
        assert!(error.message.contains("bot token"), "{error}");
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn a_webhook_says_that_it_cannot_follow_up() {
    let host = TestHost::new().respond(200, "ok");
    let event = event().follow_up("incident-7", Some("1.0"));
    host.deliver::<Slack>(
        &json!({"followUp": "update"}),
        Some(&webhook(&host)),
        &event,
    )
    .expect("posted");
    assert_eq!(host.requests()[0].url, WEBHOOK_URL);
    assert!(host.logs()[0].1.contains("config.followUp is ignored"));
}
