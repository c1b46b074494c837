//! What the bundled providers send, held against what the vendors publish of their APIs: the TypeScript types
//! of Slack's, Telegram's and Microsoft's packages and of a Jira client, Atlassian's JSON Schema of documents,
//! and Microsoft's own parser of Adaptive Cards (`tests/vendor`). Webex publishes no such thing.

use std::path::Path;
use std::process::Command;

use hookport_provider_jira::Jira;
use hookport_provider_slack::Slack;
use hookport_provider_teams::Teams;
use hookport_provider_telegram::Telegram;
use hookport_sdk::Provider;
use hookport_sdk::testing::{TestEvent, TestHost};
use serde_json::{Value, json};

const REMEDY: &str = "Node.js with npm is missing (Debian: apt-get install nodejs npm)";

fn event() -> TestEvent {
    TestEvent::new("incident.created").payload(&json!({
        "incident": {"id": 7, "title": "Disk *full* <90%>", "severity": 3}, "url": "https://status.example.com/7",
    }))
}

/// The bodies of the requests that a delivery makes, whatever becomes of it.
fn sent<P: Provider>(
    host: TestHost,
    config: &Value,
    connection: &Value,
    event: &TestEvent,
) -> Vec<Value> {
    host.deliver::<P>(config, Some(connection), event)
        .unwrap_or_else(|error| panic!("{config}: {error}"));
    let requests = host.requests();
    let with_body = requests.iter().filter(|request| !request.body.is_empty());
    with_body.map(|request| request.json()).collect()
}

#[derive(Default)]
struct Samples(Vec<Value>);

impl Samples {
    fn add(&mut self, model: &str, name: &str, body: &Value) {
        self.0
            .push(json!({"model": model, "name": name, "body": body}));
    }

    /// One that the model has to refuse.
    fn add_wrong(&mut self, model: &str, name: &str, body: &Value) {
        self.0
            .push(json!({"model": model, "name": name, "body": body, "wrong": true}));
    }

    fn slack(&mut self) {
        let (post, update) = ("slack chat.postMessage", "slack chat.update");
        let blocks = r#"[
            {"type": "header", "text": {"type": "plain_text", "text": "{{ event.type }}"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": "{{ payload.incident.title }}"},
             "accessory": {"type": "button", "text": {"type": "plain_text", "text": "Open"}, "url": "{{ payload.url }}"}}]"#;
        let configs = [
            ("the default message", json!({"channel": "C1"})),
            (
                "blocks",
                json!({"channel": "C1", "blocksTemplate": blocks, "textTemplate": "x"}),
            ),
            (
                "a reply",
                json!({"channel": "C1", "followUp": "thread", "replyBroadcast": true}),
            ),
            (
                "an update",
                json!({"channel": "C1", "followUp": "update", "blocksTemplate": blocks}),
            ),
        ];
        for (name, config) in configs {
            for follow_up in [false, true] {
                let host =
                    TestHost::new().respond(200, r#"{"ok": true, "channel": "C1", "ts": "1.0"}"#);
                let connection = json!({"type": "bot", "token": host.secret("xoxb-1")});
                let event = match follow_up {
                    true => event().follow_up("incident-7", Some("C1/1.0")),
                    false => event(),
                };
                let body = &sent::<Slack>(host, &config, &connection, &event)[0];
                let is_update = body.get("ts").is_some();
                self.add(if is_update { update } else { post }, name, body);
            }
        }
        self.add_wrong(
            post,
            "a block that there is not",
            &json!({"channel": "C1", "text": "x", "blocks": [{"type": "headline"}]}),
        );
        self.add_wrong(
            update,
            "an update of nothing",
            &json!({"channel": "C1", "text": "x"}),
        );
    }

    fn telegram(&mut self) {
        let (send, edit) = ("telegram sendMessage", "telegram editMessageText");
        let button = json!([{"text": "Open", "url": "{{ payload.url }}"}]);
        let configs = [
            ("the default message", json!({"chatId": "-1001"})),
            (
                "everything",
                json!({"chatId": "-1001", "textTemplate": "x", "silent": true, "messageThreadId": 5, "buttons": button}),
            ),
            (
                "HTML",
                json!({"chatId": "1", "parseMode": "HTML", "textTemplate": "x"}),
            ),
            (
                "plain",
                json!({"chatId": "1", "parseMode": "plain", "textTemplate": "x"}),
            ),
            (
                "an edit",
                json!({"chatId": "-1001", "textTemplate": "x", "followUp": "edit", "buttons": button}),
            ),
        ];
        for (name, config) in configs {
            for follow_up in [false, true] {
                let answer = r#"{"ok": true, "result": {"message_id": 42, "chat": {"id": -1001}}}"#;
                let host = TestHost::new().respond(200, answer);
                let connection = json!({"botToken": host.secret("123:ABC-def")});
                let event = match follow_up {
                    true => event().follow_up("incident-7", Some("-1001/42")),
                    false => event(),
                };
                let body = &sent::<Telegram>(host, &config, &connection, &event)[0];
                let is_edit = body.get("message_id").is_some();
                self.add(if is_edit { edit } else { send }, name, body);
            }
        }
        self.add_wrong(
            send,
            "a markup that there is not",
            &json!({"chat_id": 1, "text": "x", "parse_mode": "MarkdownV3"}),
        );
        self.add_wrong(
            edit,
            "an argument of sendMessage",
            &json!({"chat_id": 1, "message_id": 1, "text": "x", "disable_notification": true}),
        );
    }

    fn jira(&mut self) {
        let document = "atlassian document";
        let config = json!({
            "project": "OPS", "issueType": "10001", "priority": "2", "summaryTemplate": "{{ payload.incident.title }}",
            "descriptionTemplate": "# {{ event.type }}\n\nSeverity {{ payload.incident.severity }}\n\n\nlast line",
            "followUp": {
                "updateFields": true, "commentTemplate": "Now {{ event.type }}\n\nsee {{ payload.url }}",
                "transitions": [{"events": "incident.*", "transition": "done"}],
            },
        });
        let connection = |host: &TestHost| {
            json!({
                "authMode": "cloud", "baseUrl": "https://team.atlassian.net", "email": "bot@example.com",
                "apiToken": host.secret("t0k3n"),
            })
        };
        let host = TestHost::new().respond(201, r#"{"id": "1", "key": "OPS-7"}"#);
        let connected = connection(&host);
        let created = &sent::<Jira>(host, &config, &connected, &event())[0];
        self.add("jira createIssue", "an issue", created);
        self.add(document, "a description", &created["fields"]["description"]);
        self.add_wrong(
            "jira createIssue",
            "an issue without a summary",
            &json!({"fields": {"project": {"key": "OPS"}, "issuetype": {"id": "1"}}}),
        );

        let transitions = r#"{"transitions": [{"id": "31", "name": "Done"}]}"#;
        let host = TestHost::new()
            .respond(204, "")
            .respond(200, transitions)
            .respond(204, "")
            .respond(201, "{}");
        let connected = connection(&host);
        let event = event().follow_up("incident-7", Some("OPS-7"));
        let sent = sent::<Jira>(host, &config, &connected, &event);
        let [updated, moved, commented] = sent.as_slice() else {
            panic!("an update, a transition and a comment: {sent:?}");
        };
        self.add("jira editIssue", "an update", updated);
        self.add("jira doTransition", "a transition", moved);
        self.add(document, "a comment", &commented["body"]);
        self.add_wrong(
            "jira doTransition",
            "a transition by number",
            &json!({"transition": 31}),
        );
        self.add_wrong(
            document,
            "an empty text",
            &json!({"type": "doc", "version": 1, "content": [{"type": "paragraph", "content": [{"type": "text", "text": ""}]}]}),
        );
    }

    fn teams(&mut self) {
        let (card, message) = ("adaptive card", "graph chatMessage");
        let configs = [
            ("the default card", json!({})),
            (
                "title, text and link",
                json!({"titleTemplate": "x", "textTemplate": "y", "linkTemplate": "{{ payload.url }}"}),
            ),
        ];
        for (name, mut config) in configs {
            let host = TestHost::new().respond(202, "");
            let url = host.secret("https://prod-1.westeurope.logic.azure.com/workflows/abc?sig=s");
            let connection = json!({"type": "workflow", "url": url});
            let body = &sent::<Teams>(host, &config, &connection, &event())[0];
            self.add(card, name, &body["attachments"][0]["content"]);

            config["teamId"] = "team-1".into();
            config["channelId"] = "19:abc@thread.tacv2".into();
            let host = TestHost::new()
                .token("token-1")
                .respond(201, r#"{"id": "1"}"#);
            let connection = json!({"type": "graph", "tenantId": "t", "clientId": "c", "clientSecret": host.secret("s")});
            let body = &sent::<Teams>(host, &config, &connection, &event())[0];
            self.add(message, name, body);
            let content = body["attachments"][0]["content"].as_str().expect("text");
            let content = serde_json::from_str(content).expect("a card in JSON");
            self.add(card, &format!("{name}, through Graph"), &content);
        }
        self.add_wrong(
            card,
            "an element that there is not",
            &json!({"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlok", "text": "x"}]}),
        );
        self.add_wrong(
            message,
            "a body as text",
            &json!({"body": "x", "attachments": []}),
        );
    }
}

#[test]
fn requests_are_what_the_vendors_publish() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vendor");
    let mut samples = Samples::default();
    samples.slack();
    samples.telegram();
    samples.jira();
    samples.teams();

    // Again after each change of what is pinned; a moment when everything is there.
    let installed = Command::new("npm")
        .args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
        ])
        .current_dir(&folder)
        .output()
        .expect(REMEDY);
    assert!(
        installed.status.success(),
        "npm ci: {}",
        String::from_utf8_lossy(&installed.stderr)
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    serde_json::to_writer(&file, &samples.0).expect("written");
    let checked = Command::new("node")
        .arg(folder.join("check.mjs"))
        .arg(file.path())
        .output()
        .expect(REMEDY);
    let said = String::from_utf8_lossy(&checked.stdout);
    let complaints = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}{complaints}");
    assert_eq!(
        said.lines().count(),
        samples.0.len(),
        "a line for each sample: {said}{complaints}"
    );
}
