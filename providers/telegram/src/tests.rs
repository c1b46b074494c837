//! What is sent, and what each answer leads to.

use std::time::Duration;

use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{HttpError, Retry};

use super::*;

const SENT: &str = r#"{"ok": true, "result": {"message_id": 42, "chat": {"id": -1001}}}"#;

fn connection(host: &TestHost) -> Value {
    json!({"botToken": host.secret("123:ABC-def")})
}

fn deliver(host: &TestHost, config: &Value, event: &TestEvent) -> Result<Receipt, DeliveryError> {
    let connection = connection(host);
    host.deliver::<Telegram>(config, Some(&connection), event)
}

fn event() -> TestEvent {
    TestEvent::new("incident.created")
        .payload(&json!({"title": "Disk *full* (90%)!", "url": "https://x.test/7"}))
}

#[test]
fn a_message_is_posted_with_values_escaped_and_markup_kept() {
    let config = json!({
        "chatId": "-1001", "textTemplate": "*Alert* {{ payload.title }}", "silent": true, "messageThreadId": 5,
        "buttons": [{"text": "Open {{ payload.title }}", "url": "{{ payload.url }}"}],
    });
    let host = TestHost::new().respond(200, SENT);
    let receipt = deliver(&host, &config, &event()).expect("posted");
    assert_eq!(receipt.external_id.as_deref(), Some("-1001/42"));
    let sent = &host.requests()[0];
    assert_eq!(
        sent.url,
        "https://api.telegram.org/bot123:ABC-def/sendMessage"
    );
    assert_eq!(
        sent.json(),
        json!({
            "chat_id": "-1001", "text": "*Alert* Disk \\*full\\* \\(90%\\)\\!", "parse_mode": "MarkdownV2",
            "message_thread_id": 5, "disable_notification": true, "link_preview_options": {"is_disabled": true},
            "reply_markup": {"inline_keyboard": [[{"text": "Open Disk *full* (90%)!", "url": "https://x.test/7"}]]},
        })
    );
}

#[test]
fn other_markup_and_the_default_message() {
    let text = |config: Value| {
        let host = TestHost::new().respond(200, SENT);
        deliver(&host, &config, &event()).expect("posted");
        host.requests()[0].json()["text"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(
        text(
            json!({"chatId": "1", "parseMode": "HTML", "textTemplate": "<b>{{ payload.title }}</b> {{ '<' }}"})
        ),
        "<b>Disk *full* (90%)!</b> &lt;"
    );
    assert_eq!(
        text(json!({"chatId": "1", "parseMode": "plain", "textTemplate": "{{ payload.title }}"})),
        "Disk *full* (90%)!"
    );
    let default = text(json!({"chatId": "1"}));
    assert!(
        default.starts_with("*incident\\.created at 2024\\-01\\-01T00:00:00\\.000Z*\n```\n\\{"),
        "{default}"
    );
}

#[test]
fn a_follow_up_replies_or_edits_the_first_message() {
    let follow_up = event().follow_up("k", Some("-1001/42"));
    let config = json!({"chatId": "-1001", "textTemplate": "x"});
    let host = TestHost::new().respond(
        200,
        r#"{"ok": true, "result": {"message_id": 43, "chat": {"id": -1001}}}"#,
    );
    let receipt = deliver(&host, &config, &follow_up).expect("replied");
    assert_eq!(
        receipt.external_id.as_deref(),
        Some("-1001/42"),
        "the first stays the reference"
    );
    assert_eq!(
        host.requests()[0].json()["reply_parameters"],
        json!({"message_id": 42, "allow_sending_without_reply": true})
    );

    let edit = json!({"chatId": "-1001", "textTemplate": "x", "followUp": "edit", "silent": true});
    for answer in [
        SENT,
        r#"{"ok": false, "error_code": 400, "description": "Bad Request: message is not modified: …"}"#,
    ] {
        let host = TestHost::new().respond(200, answer);
        let receipt = deliver(&host, &edit, &follow_up).expect("edited");
        assert_eq!(receipt.external_id.as_deref(), Some("-1001/42"));
        let sent = &host.requests()[0];
        assert!(sent.url.ends_with("/editMessageText"), "{}", sent.url);
        assert_eq!(
            (
                &sent.json()["message_id"],
                sent.json().get("disable_notification")
            ),
            (&json!(42), None)
        );
    }
    let gone = r#"{"ok": false, "error_code": 400, "description": "Bad Request: message to edit not found"}"#;
    let host = TestHost::new().respond(400, gone).respond(200, SENT);
    deliver(&host, &edit, &follow_up).expect("posted anew");
    assert!(host.requests()[1].url.ends_with("/sendMessage"));
}

#[test]
fn what_cannot_be_sent_is_refused_before_it_is() {
    for (config, words) in [
        (
            json!({"chatId": "1", "textTemplate": "{{ payload.nothing }}"}),
            "config.textTemplate",
        ),
        (
            json!({"chatId": "1", "textTemplate": " "}),
            "the message is empty",
        ),
        (
            json!({"chatId": "1", "textTemplate": "{{ 'x' * 20000 }}"}),
            "longer than 4096",
        ),
        (
            json!({"chatId": "1", "textTemplate": "x", "buttons": [{"text": "a", "url": "javascript:alert(1)"}]}),
            "config.buttons[0].url",
        ),
        (
            json!({"chatId": "1", "textTemplate": "x", "buttons": [{"text": "a", "url": "{{ '' }}"}]}),
            "config.buttons[0].url",
        ),
    ] {
        let host = TestHost::new();
        let error = deliver(&host, &config, &event()).expect_err(words);
        assert_eq!(error.retry, Retry::Never, "{error}");
        assert!(error.message.contains(words), "{error}");
        assert!(host.requests().is_empty());
    }
}

#[test]
fn every_answer_leads_to_the_retry_that_helps_and_to_words_that_do() {
    let config = json!({"chatId": "1", "textTemplate": "x"});
    let check = |status: u16, body: &str, retry: Retry, words: &str| {
        let host = TestHost::new().respond(status, body);
        let error = deliver(&host, &config, &event()).expect_err(words);
        assert_eq!(error.retry, retry, "{status}: {error}");
        assert!(error.message.contains(words), "{status}: {error}");
        assert!(!error.message.contains("ABC-def"), "{error}");
    };
    let refusal = |code: u16, description: &str| {
        format!(r#"{{"ok": false, "error_code": {code}, "description": "{description}"}}"#)
    };
    check(
        401,
        &refusal(401, "Unauthorized"),
        Retry::Never,
        "@BotFather",
    );
    check(404, &refusal(404, "Not Found"), Retry::Never, "@BotFather");
    check(
        403,
        &refusal(403, "Forbidden: bot was kicked"),
        Retry::Never,
        "add the bot",
    );
    check(
        400,
        &refusal(400, "Bad Request: chat not found"),
        Retry::Never,
        "config.chatId",
    );
    check(
        400,
        &refusal(400, "Bad Request: can't parse entities: …"),
        Retry::Never,
        "backslash",
    );
    check(
        400,
        &refusal(400, "Bad Request: message is too long"),
        Retry::Never,
        "shorten",
    );
    let moved = r#"{"ok": false, "error_code": 400, "description": "Bad Request: group chat was upgraded", "parameters": {"migrate_to_chat_id": -1007}}"#;
    check(400, moved, Retry::Never, "config.chatId to -1007");
    let limited = r#"{"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 8", "parameters": {"retry_after": 8}}"#;
    check(
        429,
        limited,
        Retry::After(Duration::from_secs(8)),
        "retry after 8",
    );
    check(429, "", Retry::After(Duration::from_secs(30)), "429");
    check(413, "", Retry::Never, "413");
    check(500, &refusal(500, "Internal"), Retry::Default, "500");
    check(503, "<html>", Retry::Default, "503");
    check(200, "<html>", Retry::Default, "something in between");
    check(200, "", Retry::Default, "something in between");
    let host = TestHost::new().fail(HttpError::Network("refused".into()));
    assert_eq!(
        deliver(&host, &config, &event()).expect_err("down").retry,
        Retry::Default
    );
}

#[test]
fn a_connection_is_tested_and_tells_the_chats_of_late() {
    let host = TestHost::new().respond(200, r#"{"ok": true, "result": {"username": "ops_bot"}}"#);
    let said = host.test_connection::<Telegram>(&connection(&host));
    assert_eq!(said.as_deref(), Ok("Connected as @ops_bot."));

    let updates = r#"{"ok": true, "result": [
        {"message": {"chat": {"id": -1001, "title": "Ops"}}}, {"message": {"chat": {"id": -1001, "title": "Ops"}}},
        {"my_chat_member": {"chat": {"id": 7, "first_name": "Ann"}}}, {"poll": {}}]}"#;
    let host = TestHost::new().respond(200, updates);
    let of = connection(&host);
    let found = host
        .options::<Telegram>("chats", Some(&of), Some("ops"))
        .expect("chats");
    assert_eq!(found, [SelectOption::new("-1001", "Ops (-1001)")]);
    let host = TestHost::new().respond(200, r#"{"ok": true, "result": []}"#);
    let of = connection(&host);
    let none = host
        .options::<Telegram>("chats", Some(&of), None)
        .expect_err("none");
    assert!(none.contains("/start"), "{none}");
}
