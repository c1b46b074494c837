//! What is sent, and what each answer leads to.

use std::time::Duration;

use hookport_sdk::serde_json::Value;
use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{HttpError, Retry, TokenError};

use super::*;

const HOOK: &str = "https://prod-1.westeurope.logic.azure.com:443/workflows/abc/triggers/manual/paths/invoke?sig=s3cr3t";

fn workflow(host: &TestHost) -> Value {
    json!({"type": "workflow", "url": host.secret(HOOK)})
}

fn graph(host: &TestHost) -> Value {
    json!({"type": "graph", "tenantId": "tenant-1", "clientId": "client-1", "clientSecret": host.secret("s3cr3t")})
}

fn event() -> TestEvent {
    TestEvent::new("incident.created").payload(&json!({
        "incident": {"title": "Disk *full*", "severity": 3}, "url": "https://x.test/7",
    }))
}

fn deliver(
    host: &TestHost,
    connection: &Value,
    config: &Value,
    event: &TestEvent,
) -> Result<Receipt, DeliveryError> {
    host.deliver::<Teams>(config, Some(connection), event)
}

fn posted_card(config: &Value) -> Value {
    let host = TestHost::new().respond(202, "");
    let connection = workflow(&host);
    deliver(&host, &connection, config, &event()).expect("posted");
    host.requests()[0].json()["attachments"][0]["content"].clone()
}

#[test]
fn a_workflow_gets_a_message_with_a_card() {
    let host = TestHost::new().respond(202, "");
    let connection = workflow(&host);
    let config = json!({
        "titleTemplate": "Alert: {{ payload.incident.title }}", "textTemplate": "**Severity** {{ payload.incident.severity }}",
        "linkTemplate": "{{ payload.url }}",
    });
    let receipt = deliver(&host, &connection, &config, &event()).expect("posted");
    assert_eq!(
        receipt.external_id, None,
        "a workflow says nothing of its message"
    );
    let sent = &host.requests()[0];
    assert_eq!(sent.url, HOOK);
    let body = sent.json();
    assert_eq!(body["type"], "message");
    assert_eq!(
        body["attachments"][0]["contentType"],
        "application/vnd.microsoft.card.adaptive"
    );
    let card = &body["attachments"][0]["content"];
    assert_eq!(
        (&card["type"], &card["version"]),
        (&json!("AdaptiveCard"), &json!("1.4"))
    );
    assert_eq!(card["body"][0]["text"], "Alert: Disk \\*full\\*");
    assert_eq!(card["body"][1]["text"], "**Severity** 3");
    assert_eq!(
        card["actions"][0],
        json!({"type": "Action.OpenUrl", "title": "Open", "url": "https://x.test/7"})
    );
}

#[test]
fn the_default_card_lists_the_payload_as_facts() {
    let card = posted_card(&json!({}));
    assert_eq!(card["body"][0]["text"], "incident.created");
    assert_eq!(
        card["body"][1]["facts"],
        json!([
            {"title": "incident.severity", "value": "3"},
            {"title": "incident.title", "value": "Disk \\*full\\*"},
            {"title": "url", "value": "https://x.test/7"},
        ])
    );
}

/// The elements that the cards here use, as the published schema of Adaptive Cards 1.4 describes
/// them: <http://adaptivecards.io/schemas/1.4.0/adaptive-card.json>.
#[test]
fn the_default_card_keeps_to_the_published_schema() {
    let card = posted_card(&json!({"linkTemplate": "{{ payload.url }}"}));
    let members = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    for name in members(&card) {
        assert!(
            ["$schema", "type", "version", "body", "actions"].contains(&name.as_str()),
            "{name}"
        );
    }
    for element in card["body"].as_array().expect("a list") {
        let known: &[&str] = match element["type"].as_str() {
            Some("TextBlock") => {
                assert!(element["text"].is_string());
                let size = element
                    .get("size")
                    .and_then(Value::as_str)
                    .unwrap_or("Default");
                assert!(["Default", "Small", "Medium", "Large", "ExtraLarge"].contains(&size));
                let weight = element
                    .get("weight")
                    .and_then(Value::as_str)
                    .unwrap_or("Default");
                assert!(["Default", "Lighter", "Bolder"].contains(&weight));
                &["type", "text", "size", "weight", "wrap", "isSubtle"]
            }
            Some("FactSet") => {
                for fact in element["facts"].as_array().expect("facts") {
                    assert_eq!(members(fact), ["title", "value"]);
                    assert!(fact["title"].is_string() && fact["value"].is_string());
                }
                &["type", "facts"]
            }
            other => panic!("{other:?}"),
        };
        for name in members(element) {
            assert!(known.contains(&name.as_str()), "{name} in {element}");
        }
    }
    assert_eq!(members(&card["actions"][0]), ["title", "type", "url"]);
}

#[test]
fn a_card_of_ones_own_is_checked_by_path() {
    let card = |text: &str| json!({"cardTemplate": text});
    let own = r#"{"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "{{ payload.incident.title }}"}]}"#;
    assert_eq!(posted_card(&card(own))["body"][0]["text"], "Disk *full*");
    for (config, words) in [
        (card("{"), "config.cardTemplate"),
        (
            card(r#"{"version": "1.4", "body": []}"#),
            "config.cardTemplate: type",
        ),
        (
            card(r#"{"type": "AdaptiveCard", "body": []}"#),
            "config.cardTemplate: version",
        ),
        (
            card(r#"{"type": "AdaptiveCard", "version": "1.4"}"#),
            "shows nothing",
        ),
        (
            card(r#"{"type": "AdaptiveCard", "version": "1.4", "body": {}}"#),
            "body: must be a list",
        ),
        (
            card(r#"{"type": "AdaptiveCard", "version": "1.4", "body": [{}]}"#),
            "body[0].type",
        ),
        (
            card(
                r#"{"type": "AdaptiveCard", "version": "1.4", "actions": [{"type": "Action.OpenUrl", "url": "javascript:x"}]}"#,
            ),
            "actions[0].url",
        ),
        (
            json!({"linkTemplate": "javascript:alert(1)"}),
            "config.linkTemplate",
        ),
        (
            json!({"textTemplate": "{{ 'x' * 30000 }}"}),
            "more than the 27648",
        ),
        (
            json!({"textTemplate": "{{ payload.nothing }}"}),
            "config.textTemplate",
        ),
    ] {
        let host = TestHost::new();
        let connection = workflow(&host);
        let error = deliver(&host, &connection, &config, &event()).expect_err(words);
        assert_eq!(error.retry, Retry::Never, "{error}");
        assert!(error.message.contains(words), "{error}");
        assert!(host.requests().is_empty());
    }
}

#[test]
fn graph_posts_with_a_token_and_replies_in_the_thread() {
    let config = json!({"teamId": "team-1", "channelId": "19:abc@thread.tacv2"});
    let host = TestHost::new()
        .token("token-1")
        .respond(201, r#"{"id": "1616990032035"}"#);
    let connection = graph(&host);
    let receipt = deliver(&host, &connection, &config, &event()).expect("posted");
    assert_eq!(receipt.external_id.as_deref(), Some("1616990032035"));
    let sent = &host.requests()[0];
    assert_eq!(
        sent.url,
        "https://graph.microsoft.com/v1.0/teams/team-1/channels/19:abc@thread.tacv2/messages"
    );
    assert_eq!(sent.header("authorization"), Some("Bearer token-1"));
    let content = sent.json()["attachments"][0]["content"]
        .as_str()
        .expect("text")
        .to_owned();
    assert!(content.contains("AdaptiveCard"), "{content}");
    let asked = &host.token_requests()[0];
    assert_eq!(
        asked.token_url,
        "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token"
    );
    assert_eq!(asked.scopes, ["https://graph.microsoft.com/.default"]);

    let host = TestHost::new()
        .token("token-1")
        .respond(201, r#"{"id": "2"}"#);
    let connection = graph(&host);
    let follow_up = event().follow_up("k", Some("1616990032035"));
    let receipt = deliver(&host, &connection, &config, &follow_up).expect("replied");
    assert_eq!(
        receipt.external_id.as_deref(),
        Some("1616990032035"),
        "the thread stays"
    );
    assert!(
        host.requests()[0]
            .url
            .ends_with("/messages/1616990032035/replies")
    );
}

#[test]
fn a_token_that_is_refused_is_fetched_anew_once() {
    let config = json!({"teamId": "t", "channelId": "c"});
    let host = TestHost::new()
        .token("old")
        .token("new")
        .respond(401, "{}")
        .respond(201, r#"{"id": "1"}"#);
    let connection = graph(&host);
    deliver(&host, &connection, &config, &event()).expect("posted");
    let tokens: Vec<_> = host
        .requests()
        .iter()
        .filter_map(|sent| sent.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(tokens, ["Bearer old", "Bearer new"]);
    assert_eq!(host.tokens_forgotten(), 1);

    let host = TestHost::new()
        .token("a")
        .token("b")
        .respond(401, "{}")
        .respond(401, "{}");
    let connection = graph(&host);
    let error = deliver(&host, &connection, &config, &event()).expect_err("refused twice");
    assert_eq!((error.retry, host.requests().len()), (Retry::Never, 2));

    let host =
        TestHost::new().token_failure(TokenError::Refused("invalid_client: AADSTS7000215".into()));
    let connection = graph(&host);
    let error = deliver(&host, &connection, &config, &event()).expect_err("no token");
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.contains("AADSTS7000215"), "{error}");
}

#[test]
fn every_answer_leads_to_the_retry_that_helps_and_to_words_that_do() {
    let config = json!({"teamId": "t", "channelId": "c"});
    let after = |seconds| Retry::After(Duration::from_secs(seconds));
    let refusal = r#"{"error": {"code": "Forbidden", "message": "Missing role permissions"}}"#;
    let both: [fn(&TestHost) -> Value; 2] = [workflow, graph];
    for connect in both {
        let check =
            |status: u16, headers: &[(&str, &str)], body: &str, retry: Retry, words: &str| {
                let host = TestHost::new()
                    .token("a")
                    .respond_with(status, headers, body);
                let connection = connect(&host);
                let error = deliver(&host, &connection, &config, &event()).expect_err(words);
                assert_eq!(error.retry, retry, "{status}: {error}");
                assert!(error.message.contains(words), "{status}: {error}");
                assert!(!error.message.contains("s3cr3t"), "{error}");
            };
        check(400, &[], refusal, Retry::Never, "Missing role permissions");
        check(403, &[], refusal, Retry::Never, "403");
        check(404, &[], "{}", Retry::Never, "404");
        check(409, &[], "{}", Retry::Default, "409");
        check(413, &[], "", Retry::Never, "shorten");
        check(429, &[("Retry-After", "11")], "{}", after(11), "429");
        check(429, &[], "", after(30), "429");
        check(500, &[], "<html>", Retry::Default, "500");
        check(503, &[("Retry-After", "5")], "", after(5), "503");
        let host = TestHost::new().token("a").fail(HttpError::Timeout);
        let connection = connect(&host);
        let error = deliver(&host, &connection, &config, &event()).expect_err("late");
        assert_eq!(error.retry, Retry::Default);
    }
    for body in ["<html>Log in</html>", "", "[]"] {
        let host = TestHost::new().token("a").respond(200, body);
        let connection = graph(&host);
        let error = deliver(&host, &connection, &config, &event()).expect_err("no answer");
        assert_eq!(error.retry, Retry::Default, "{error}");
    }
    let host = TestHost::new();
    let connection = graph(&host);
    let error =
        deliver(&host, &connection, &json!({"teamId": "t"}), &event()).expect_err("no channel");
    assert!(error.message.contains("config.channelId"), "{error}");
}

#[test]
fn connections_are_tested_and_dropdowns_filled_page_by_page() {
    let host = TestHost::new()
        .token("a")
        .respond(200, r#"{"value": [{"displayName": "Contoso"}]}"#);
    let connection = graph(&host);
    assert_eq!(
        host.test_connection::<Teams>(&connection).as_deref(),
        Ok("Connected to Contoso.")
    );
    let host = TestHost::new();
    let connection = workflow(&host);
    assert!(
        host.test_connection::<Teams>(&connection)
            .expect("a sentence")
            .contains("test event")
    );
    assert!(
        host.options::<Teams>("teams", Some(&connection), None)
            .is_err()
    );

    let first = r#"{"value": [{"id": "1", "displayName": "Ops"}], "@odata.nextLink": "https://graph.microsoft.com/v1.0/groups?$skiptoken=x"}"#;
    let host = TestHost::new()
        .token("a")
        .respond(200, first)
        .respond(200, r#"{"value": [{"id": "2", "displayName": "Dev"}]}"#);
    let connection = graph(&host);
    let found = host
        .options::<Teams>("teams", Some(&connection), None)
        .expect("teams");
    assert_eq!(
        found,
        [SelectOption::new("2", "Dev"), SelectOption::new("1", "Ops")]
    );
    assert!(host.requests()[1].url.ends_with("skiptoken=x"));

    let host = TestHost::new().token("a");
    let connection = graph(&host);
    let refused = host.options::<Teams>("channels", Some(&connection), None);
    assert_eq!(refused, Err("Choose a team first.".to_owned()));
    let host = TestHost::new()
        .token("a")
        .form(json!({"teamId": "t 1"}))
        .respond(200, r#"{"value": [{"id": "c", "displayName": "General"}]}"#);
    let connection = graph(&host);
    let found = host
        .options::<Teams>("channels", Some(&connection), Some("gen"))
        .expect("channels");
    assert_eq!(found, [SelectOption::new("c", "General")]);
    assert!(host.requests()[0].url.contains("/teams/t%201/channels"));
}
