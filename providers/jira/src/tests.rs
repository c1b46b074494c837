//! What is sent, and what each answer leads to.

use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{DocumentKind, HttpError, Retry};

use super::*;

fn config() -> Value {
    json!({
        "project": "OPS", "issueType": "10001", "priority": "2",
        "summaryTemplate": "{{ payload.incident.title }}",
    })
}

fn cloud(host: &TestHost) -> Value {
    json!({
        "authMode": "cloud", "baseUrl": "https://team.atlassian.net/", "email": "bot@example.com",
        "apiToken": host.secret("t0k3n"),
    })
}

fn datacenter(host: &TestHost) -> Value {
    json!({"authMode": "datacenter", "baseUrl": "https://jira.example.com", "apiToken": host.secret("t0k3n")})
}

fn deliver(host: &TestHost, config: &Value, event: &TestEvent) -> Result<Receipt, DeliveryError> {
    let connection = cloud(host);
    host.deliver::<Jira>(config, Some(&connection), event)
}

fn event() -> TestEvent {
    TestEvent::new("incident.created")
}

#[test]
fn the_first_event_creates_an_issue_in_the_shape_of_each_version() {
    let host = TestHost::new().respond(201, r#"{"id": "1", "key": "OPS-7"}"#);
    let receipt = deliver(&host, &config(), &event()).expect("created");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-7"));
    let sent = &host.requests()[0];
    assert_eq!(sent.url, "https://team.atlassian.net/rest/api/3/issue");
    assert_eq!(
        sent.header("authorization"),
        Some("Basic Ym90QGV4YW1wbGUuY29tOnQwazNu")
    );
    let fields = &sent.json()["fields"];
    assert_eq!(fields["summary"], "Disk full");
    assert_eq!(fields["project"], json!({"key": "OPS"}));
    assert_eq!(fields["issuetype"], json!({"id": "10001"}));
    assert_eq!(fields["priority"], json!({"id": "2"}));
    assert_eq!(fields["description"]["type"], "doc");
    let label = fields["labels"][0].as_str().expect("a label");
    assert!(
        label.starts_with("hookport-") && label.len() == 41,
        "{label}"
    );

    let host = TestHost::new().respond(201, r#"{"key": "OPS-8"}"#);
    let connection = datacenter(&host);
    host.deliver::<Jira>(&config(), Some(&connection), &event())
        .expect("created");
    let sent = &host.requests()[0];
    assert_eq!(sent.url, "https://jira.example.com/rest/api/2/issue");
    assert_eq!(sent.header("authorization"), Some("Bearer t0k3n"));
    assert!(sent.json()["fields"]["description"].is_string());
}

#[test]
fn before_an_issue_is_created_again_its_label_is_looked_for() {
    let found = r#"{"issues": [{"key": "OPS-7"}]}"#;
    let host = TestHost::new().respond(200, found).respond(201, "{}");
    let receipt = deliver(&host, &config(), &event().attempt(2)).expect("found");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-7"));
    let search = &host.requests()[0];
    assert!(
        search
            .url
            .starts_with("https://team.atlassian.net/rest/api/3/search/jql?"),
        "{}",
        search.url
    );
    assert!(search.url.contains("hookport-"), "{}", search.url);
    assert!(host.requests()[1].url.ends_with("/issue/OPS-7/comment"));

    let host = TestHost::new()
        .respond(200, r#"{"issues": []}"#)
        .respond(201, r#"{"key": "OPS-9"}"#);
    let first = event().follow_up("incident-7", None);
    let receipt = deliver(&host, &config(), &first).expect("created");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-9"));
}

#[test]
fn a_search_is_never_broadened() {
    let host = TestHost::new();
    let mut config = config();
    config["project"] = " ".into();
    let error = deliver(&host, &config, &event().attempt(2)).expect_err("refused");
    assert!(error.message.contains("config.project is empty"), "{error}");
    assert!(host.requests().is_empty());

    let host = TestHost::new()
        .respond(200, r#"{"issues": []}"#)
        .respond(201, r#"{"key": "A-1"}"#);
    config["project"] = "A\" OR project = \"B".into();
    deliver(&host, &config, &event().attempt(2)).expect("created");
    let url = &host.requests()[0].url;
    assert!(url.contains("%5C%22"), "the quotes are escaped: {url}");
}

#[test]
fn a_follow_up_updates_moves_and_comments_in_this_order() {
    let transitions = r#"{"transitions": [{"id": "11", "name": "Start"}, {"id": "31", "name": "Resolve", "to": {"name": "Done"}}]}"#;
    let host = TestHost::new()
        .respond(204, "")
        .respond(200, transitions)
        .respond(204, "")
        .respond(201, "{}");
    let mut config = config();
    config["followUp"] = json!({
        "updateFields": true, "commentTemplate": "Now {{ event.type }}",
        "transitions": [{"events": "incident.resolved", "transition": "done"}],
    });
    let follow_up = TestEvent::new("incident.resolved").follow_up("incident-7", Some("OPS-7"));
    let receipt = deliver(&host, &config, &follow_up).expect("updated");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-7"));
    let sent = host.requests();
    let calls: Vec<_> = sent
        .iter()
        .map(|sent| {
            format!(
                "{} {}",
                sent.method,
                sent.url.rsplit('/').next().unwrap_or("")
            )
        })
        .collect();
    assert_eq!(
        calls,
        [
            "PUT OPS-7",
            "GET transitions",
            "POST transitions",
            "POST comment"
        ]
    );
    assert_eq!(sent[2].json(), json!({"transition": {"id": "31"}}));
    assert_eq!(
        sent[3].json()["body"]["content"][0]["content"][0]["text"],
        "Now incident.resolved"
    );
    assert_eq!(
        sent[0].json()["fields"].get("labels"),
        None,
        "labels of others stay"
    );
}

#[test]
fn a_transition_that_is_not_offered_is_named_before_anything_is_said() {
    let transitions = r#"{"transitions": [{"id": "11", "name": "Start"}]}"#;
    let mut config = config();
    config["followUp"] = json!({"transitions": [{"events": "*", "transition": "Close"}]});
    let follow_up = event().follow_up("k", Some("OPS-7"));
    let host = TestHost::new().respond(200, transitions);
    let error = deliver(&host, &config, &follow_up).expect_err("not offered");
    assert_eq!(error.retry, Retry::Never);
    assert!(
        error.message.contains("\"Close\"; it offers Start"),
        "{error}"
    );

    // On a later attempt it may have been made already.
    let host = TestHost::new().respond(200, transitions).respond(201, "{}");
    deliver(&host, &config, &follow_up.attempt(2)).expect("commented");
}

#[test]
fn an_issue_that_was_deleted_is_found_by_its_label_or_made_anew() {
    let follow_up = event().follow_up("k", Some("OPS-7"));
    let missing = r#"{"errorMessages": ["Issue does not exist"], "errors": {}}"#;
    let host = TestHost::new()
        .respond(404, missing)
        .respond(200, r#"{"issues": [{"key": "OPS-8"}]}"#)
        .respond(201, "{}");
    let receipt = deliver(&host, &config(), &follow_up).expect("moved on");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-8"));

    let host = TestHost::new()
        .respond(404, missing)
        .respond(200, r#"{"issues": [{"key": "OPS-7"}]}"#)
        .respond(201, r#"{"key": "OPS-9"}"#);
    let receipt = deliver(&host, &config(), &follow_up).expect("created");
    assert_eq!(receipt.external_id.as_deref(), Some("OPS-9"));
}

#[test]
fn mapped_fields_take_their_types_from_the_metadata_which_are_kept() {
    let metadata = r#"{"fields": [
        {"fieldId": "duedate", "schema": {"type": "date"}},
        {"fieldId": "customfield_1", "schema": {"type": "option"}, "allowedValues": [{"value": "Red"}]}
    ], "total": 2}"#;
    let host = TestHost::new()
        .respond(200, metadata)
        .respond(201, r#"{"key": "OPS-1"}"#)
        .respond(201, r#"{"key": "OPS-2"}"#);
    let mut config = config();
    config["fields"] = json!([
        {"field": "duedate", "template": "{{ event.timestamp }}"},
        {"field": "customfield_1", "template": "red"},
    ]);
    deliver(&host, &config, &event()).expect("created");
    deliver(&host, &config, &event()).expect("created without asking again");
    let sent = host.requests();
    assert!(
        sent[0]
            .url
            .contains("/issue/createmeta/OPS/issuetypes/10001?"),
        "{}",
        sent[0].url
    );
    let fields = &sent[1].json()["fields"];
    assert_eq!(
        (&fields["duedate"], &fields["customfield_1"]),
        (&json!("2024-01-01"), &json!({"value": "Red"}))
    );
    assert_eq!(sent.len(), 3);

    config["fields"] = json!([{"field": "customfield_1", "template": "green"}]);
    let error = deliver(&host, &config, &event()).expect_err("not allowed");
    assert!(
        error
            .message
            .starts_with("config.fields[0]: the field customfield_1"),
        "{error}"
    );
}

#[test]
fn every_answer_leads_to_the_retry_that_helps_and_to_words_that_do() {
    let check = |status: u16, headers: &[(&str, &str)], body: &str, retry: Retry, words: &str| {
        let host = TestHost::new().respond_with(status, headers, body);
        let error = deliver(&host, &config(), &event()).expect_err(words);
        assert_eq!(error.retry, retry, "{status}: {error}");
        assert!(error.message.contains(words), "{status}: {error}");
    };
    let after = |seconds| Retry::After(std::time::Duration::from_secs(seconds));
    let fields = r#"{"errorMessages": [], "errors": {"summary": "You must specify a summary.", "priority": "Wrong"}}"#;
    check(
        400,
        &[],
        fields,
        Retry::Never,
        "priority: Wrong; summary: You must",
    );
    check(401, &[], "", Retry::Never, "valid e-mail and API token");
    check(403, &[], "{}", Retry::Never, "permission");
    check(
        404,
        &[],
        r#"{"errorMessages": ["No project"]}"#,
        Retry::Never,
        "No project; check project",
    );
    check(409, &[], "{}", Retry::Default, "409");
    check(413, &[], "{}", Retry::Never, "shorten");
    check(429, &[("Retry-After", "7")], "{}", after(7), "429");
    check(429, &[], "", after(30), "429");
    check(500, &[], "", Retry::Default, "500");
    check(503, &[("Retry-After", "9")], "", after(9), "503");
    check(
        503,
        &[("Content-Type", "text/html")],
        "<html>down</html>",
        Retry::Default,
        "503",
    );
    check(
        200,
        &[("Content-Type", "text/html")],
        "<html>Log in</html>",
        Retry::Never,
        "web page",
    );
    check(
        302,
        &[("Location", "/login")],
        "<html>",
        Retry::Never,
        "web page",
    );
    check(201, &[], "{}", Retry::Default, "no key");
    check(201, &[], "", Retry::Default, "");
    let host = TestHost::new().fail(HttpError::Timeout);
    assert_eq!(
        deliver(&host, &config(), &event()).expect_err("late").retry,
        Retry::Default
    );
}

#[test]
fn a_connection_is_tested_and_its_kind_checked() {
    let me = r#"{"displayName": "Hookport"}"#;
    let host = TestHost::new()
        .respond(200, me)
        .respond(200, r#"{"version": "1001.0.0", "deploymentType": "Cloud"}"#);
    let connection = cloud(&host);
    let said = host.test_connection::<Jira>(&connection);
    assert_eq!(
        said.as_deref(),
        Ok("Connected as Hookport to Jira 1001.0.0.")
    );
    let host = TestHost::new()
        .respond(200, me)
        .respond(200, r#"{"version": "9.12.0", "deploymentType": "Server"}"#);
    let connection = cloud(&host);
    let said = host
        .test_connection::<Jira>(&connection)
        .expect_err("the other kind");
    assert!(said.contains("Data Center"), "{said}");
}

#[test]
fn dropdowns_depend_on_each_other_and_leave_out_what_cannot_be_used() {
    let labels = |options: Result<Vec<SelectOption>, String>| -> Vec<String> {
        let options = options.expect("options");
        options.into_iter().map(|option| option.label).collect()
    };
    let projects = r#"{"values": [{"key": "OPS", "name": "Operations"}]}"#;
    let host = TestHost::new().respond(200, projects);
    let connection = cloud(&host);
    let found = host.options::<Jira>("projects", Some(&connection), Some("ops"));
    assert_eq!(labels(found), ["Operations (OPS)"]);
    assert!(host.requests()[0].url.contains("project/search?query=ops"));

    let host = TestHost::new();
    let connection = cloud(&host);
    let refused = host.options::<Jira>("issueTypes", Some(&connection), None);
    assert_eq!(refused, Err("Choose a project first.".to_owned()));

    let types = r#"{"issueTypes": [{"id": "1", "name": "Task", "subtask": false}, {"id": "2", "name": "Sub-task", "subtask": true}]}"#;
    let host = TestHost::new()
        .form(json!({"project": "OPS"}))
        .respond(200, types);
    let connection = cloud(&host);
    assert_eq!(
        labels(host.options::<Jira>("issueTypes", Some(&connection), None)),
        ["Task"]
    );

    let fields = r#"{"values": [
        {"fieldId": "summary", "name": "Summary", "required": true},
        {"fieldId": "customfield_1", "name": "Team", "required": true},
        {"fieldId": "duedate", "name": "Due date", "required": false}
    ]}"#;
    let host = TestHost::new()
        .form(json!({"project": "OPS", "issueType": "1"}))
        .respond(200, fields);
    let connection = datacenter(&host);
    assert_eq!(
        labels(host.options::<Jira>("fields", Some(&connection), None)),
        ["Team *", "Due date"]
    );

    let host = TestHost::new().respond(401, "");
    let connection = cloud(&host);
    let refused = host
        .options::<Jira>("priorities", Some(&connection), None)
        .expect_err("refused");
    assert!(refused.contains("API token"), "{refused}");
}

#[test]
fn a_connection_of_version_1_was_cloud() {
    let host = TestHost::new();
    let old = json!({"baseUrl": "https://team.atlassian.net", "email": "a@b.c", "apiToken": host.secret("t0k3n")});
    let new = Jira::migrate(DocumentKind::Connection, 1, old.clone()).expect("migrated");
    assert_eq!(new["authMode"], "cloud");
    assert_eq!(
        new["apiToken"], old["apiToken"],
        "the secret is moved as it is"
    );
    assert!(hookport_sdk::serde_json::from_value::<Connection>(new).is_ok());
    assert!(Jira::migrate(DocumentKind::Connection, 0, json!({})).is_err());
}
