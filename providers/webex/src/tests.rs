//! What is sent, and what each answer leads to.

use std::time::Duration;

use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{HttpError, Retry};

use super::*;

fn connection(host: &TestHost) -> Value {
    json!({"botToken": host.secret("webex-bot-token")})
}

fn deliver(host: &TestHost, config: &Value, event: &TestEvent) -> Result<Receipt, DeliveryError> {
    let connection = connection(host);
    host.deliver::<Webex>(config, Some(&connection), event)
}

fn event() -> TestEvent {
    TestEvent::new("incident.created").payload(&json!({"title": "Disk *full* <@all>"}))
}

#[test]
fn a_message_is_posted_with_values_escaped() {
    let config = json!({
        "roomId": "room-1", "markdownTemplate": "**Alert** {{ payload.title }}",
        "cardTemplate": r#"{"type": "AdaptiveCard", "version": "1.3", "body": [{"type": "TextBlock", "text": "{{ payload.title }}"}]}"#,
    });
    let host = TestHost::new().respond(200, r#"{"id": "msg-1"}"#);
    let receipt = deliver(&host, &config, &event()).expect("posted");
    assert_eq!(receipt.external_id.as_deref(), Some("msg-1"));
    let sent = &host.requests()[0];
    assert_eq!(sent.url, "https://webexapis.com/v1/messages");
    assert_eq!(sent.header("authorization"), Some("Bearer webex-bot-token"));
    let body = sent.json();
    assert_eq!(body["markdown"], "**Alert** Disk \\*full\\* &lt;@all&gt;");
    assert_eq!(
        body["attachments"][0]["content"]["body"][0]["text"],
        "Disk *full* <@all>"
    );
}

#[test]
fn a_follow_up_replies_in_the_thread_or_edits() {
    let follow_up = event().follow_up("k", Some("msg-1"));
    let host = TestHost::new().respond(200, r#"{"id": "msg-2"}"#);
    let receipt = deliver(
        &host,
        &json!({"roomId": "r", "markdownTemplate": "x"}),
        &follow_up,
    )
    .expect("replied");
    assert_eq!(
        receipt.external_id.as_deref(),
        Some("msg-1"),
        "the thread stays the reference"
    );
    assert_eq!(host.requests()[0].json()["parentId"], "msg-1");

    let edit = json!({"roomId": "r", "markdownTemplate": "x", "followUp": "edit"});
    let host = TestHost::new().respond(200, r#"{"id": "msg-1"}"#);
    deliver(&host, &edit, &follow_up).expect("edited");
    let sent = &host.requests()[0];
    assert_eq!(
        (sent.method.as_str(), sent.url.as_str()),
        ("PUT", "https://webexapis.com/v1/messages/msg-1")
    );
    let host = TestHost::new()
        .respond(404, "{}")
        .respond(200, r#"{"id": "msg-3"}"#);
    let receipt = deliver(&host, &edit, &follow_up).expect("posted anew");
    assert_eq!(receipt.external_id.as_deref(), Some("msg-3"));
}

#[test]
fn long_and_empty_messages_and_wrong_cards() {
    let host = TestHost::new().respond(200, r#"{"id": "m"}"#);
    deliver(
        &host,
        &json!({"roomId": "r", "markdownTemplate": "{{ 'ä' * 5000 }}"}),
        &event(),
    )
    .expect("posted");
    let length = host.requests()[0].json()["markdown"].as_str().map(str::len);
    assert_eq!(
        length,
        Some(MESSAGE_BYTES_MAX - 1),
        "cut between characters"
    );
    for (config, words) in [
        (
            json!({"roomId": "r", "markdownTemplate": " "}),
            "the message is empty",
        ),
        (
            json!({"roomId": "r", "cardTemplate": "{}"}),
            "config.cardTemplate: type",
        ),
        (
            json!({"roomId": "r", "cardTemplate": "{{"}),
            "config.cardTemplate",
        ),
    ] {
        let error = deliver(&TestHost::new(), &config, &event()).expect_err(words);
        assert!(error.message.contains(words), "{error}");
        assert_eq!(error.retry, Retry::Never);
    }
    let host = TestHost::new().respond(200, r#"{"id": "m"}"#);
    deliver(&host, &json!({"roomId": "r"}), &event()).expect("the default message");
    let text = host.requests()[0].json()["markdown"].to_string();
    assert!(text.contains("**incident.created** at"), "{text}");
}

#[test]
fn every_answer_leads_to_the_retry_that_helps_and_to_words_that_do() {
    let config = json!({"roomId": "r", "markdownTemplate": "x"});
    let check = |status: u16, headers: &[(&str, &str)], body: &str, retry: Retry, words: &str| {
        let host = TestHost::new().respond_with(status, headers, body);
        let error = deliver(&host, &config, &event()).expect_err(words);
        assert_eq!(error.retry, retry, "{status}: {error}");
        assert!(error.message.contains(words), "{status}: {error}");
    };
    let after = |seconds| Retry::After(Duration::from_secs(seconds));
    let refusal = r#"{"message": "general", "errors": [{"description": "roomId is wrong"}], "trackingId": "ROUTER_1"}"#;
    check(
        400,
        &[],
        refusal,
        Retry::Never,
        "roomId is wrong (trackingId ROUTER_1)",
    );
    check(401, &[], "{}", Retry::Never, "bot token");
    check(403, &[], "{}", Retry::Never, "may not");
    check(404, &[], refusal, Retry::Never, "config.roomId");
    check(409, &[], "{}", Retry::Default, "409");
    check(413, &[], "", Retry::Never, "413");
    check(423, &[("Retry-After", "3")], "{}", after(3), "423");
    check(429, &[("Retry-After", "12")], "{}", after(12), "429");
    check(429, &[], "", after(30), "429");
    check(500, &[], "<html>", Retry::Default, "500");
    check(503, &[], "", Retry::Default, "503");
    check(200, &[], "<html>", Retry::Default, "none of Webex's");
    check(200, &[], "", Retry::Default, "none of Webex's");
    check(200, &[], "{}", Retry::Default, "no id");
    let host = TestHost::new().fail(HttpError::Timeout);
    assert_eq!(
        deliver(&host, &config, &event()).expect_err("late").retry,
        Retry::Default
    );
}

#[test]
fn a_connection_is_tested_and_offers_its_spaces_page_by_page() {
    let host = TestHost::new().respond(200, r#"{"displayName": "Ops bot", "type": "bot"}"#);
    assert_eq!(
        host.test_connection::<Webex>(&connection(&host)).as_deref(),
        Ok("Connected as Ops bot.")
    );
    let host = TestHost::new().respond(200, r#"{"displayName": "Ann", "type": "person"}"#);
    let said = host
        .test_connection::<Webex>(&connection(&host))
        .expect("connected");
    assert!(said.contains("expires"), "{said}");

    let first = r#"{"items": [{"id": "1", "title": "Ops"}, {"id": "2", "title": "Dev"}]}"#;
    let link = [(
        "Link",
        "<https://webexapis.com/v1/rooms?cursor=x>; rel=\"next\"",
    )];
    let host = TestHost::new()
        .respond_with(200, &link, first)
        .respond(200, r#"{"items": [{"id": "3", "title": "ops (old)"}]}"#);
    let of = connection(&host);
    let found = host
        .options::<Webex>("rooms", Some(&of), Some("OPS"))
        .expect("spaces");
    assert_eq!(
        found,
        [
            SelectOption::new("1", "Ops"),
            SelectOption::new("3", "ops (old)")
        ]
    );
    assert_eq!(
        host.requests()[1].url,
        "https://webexapis.com/v1/rooms?cursor=x"
    );
}
