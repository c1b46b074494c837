//! The Jira provider against a Jira that keeps issues, of both kinds.

use std::time::Duration;

use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::jira;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::start_with(Setup {
        providers: vec!["jira"],
        ..Setup::default()
    })
    .await
}

async fn connect(gateway: &Gateway, server: &Receiver, mode: &str, token: &str) -> String {
    let mut settings = json!({
        "authMode": mode, "baseUrl": format!("http://{}", server.address()), "apiToken": token,
    });
    if mode == "cloud" {
        settings["email"] = "bot@example.com".into();
    }
    let connection = json!({"name": mode, "provider": "jira", "settings": settings});
    let connection = gateway
        .api()
        .post("/connections", &connection)
        .await
        .expect(201);
    connection["id"].as_str().expect("an id").to_owned()
}

async fn subscribe(gateway: &Gateway, connection: &str, changes: Value) {
    let api = gateway.api();
    for name in ["incident.created", "incident.updated", "incident.resolved"] {
        api.register(name).await;
    }
    let mut config = json!({
        "project": "OPS", "issueType": "10001", "priority": "2",
        "summaryTemplate": "{{ payload.title }}",
        "followUp": {"transitions": [{"events": "incident.resolved", "transition": "Done"}]},
    });
    for (name, value) in changes.as_object().expect("an object") {
        config[name] = value.clone();
    }
    api.subscribe(&json!({
        "name": "to jira", "events": "incident.*", "provider": "jira", "connectionId": connection,
        "config": config, "ordered": true, "retry": {"delaysMs": [50]},
    }))
    .await;
}

async fn emit(gateway: &Gateway, kind: &str) -> String {
    let event = json!({
        "type": format!("incident.{kind}"), "correlationKey": "incident-7",
        "payload": {"title": format!("Disk full, {kind}")},
    });
    gateway.api().emit_one(&event).await
}

async fn an_incident(mode: &str, version: u8) {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = jira::start(version, 1).await;
    let connection = connect(&gateway, &server, mode, jira::TOKEN).await;
    let fields = json!({"fields": [{"field": "customfield_10010", "template": "red"}]});
    subscribe(&gateway, &connection, fields).await;
    let created = emit(&gateway, "created").await;
    let delivery = api.delivery_in(&created, "success").await;
    assert_eq!(delivery["attempts"], 2, "the first was rate limited");
    assert_eq!(delivery["externalId"], "OPS-1");
    for kind in ["updated", "resolved"] {
        let id = emit(&gateway, kind).await;
        let delivery = api.delivery_in(&id, "success").await;
        assert_eq!(delivery["externalId"], "OPS-1", "{delivery}");
    }
    let requests = server.requests();
    let posted: Vec<_> = requests
        .iter()
        .filter(|request| request.method == "POST" && request.answered < 300)
        .map(|request| request.path.rsplit('/').next().unwrap_or("").to_owned())
        .collect();
    assert_eq!(
        posted,
        ["issue", "comment", "transitions", "comment"],
        "one issue, moved once"
    );
    let issue = requests
        .iter()
        .find(|request| request.answered == 201)
        .expect("created");
    let fields = &issue.json()["fields"];
    assert_eq!(fields["customfield_10010"], json!({"value": "Red"}));
    assert_eq!(fields["summary"], "Disk full, created");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_one_issue_in_cloud() {
    an_incident("cloud", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_one_issue_in_data_center() {
    an_incident("datacenter", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fields_and_credentials_are_told_and_not_repeated() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = jira::start(3, 0).await;
    let wrong = connect(&gateway, &server, "cloud", "a-wrong-token-12345").await;
    let tested = api
        .act(&format!("/connections/{wrong}/test"))
        .await
        .expect(200);
    assert_eq!(tested["ok"], false, "{tested}");
    assert!(
        tested["message"]
            .as_str()
            .unwrap_or("")
            .contains("API token"),
        "{tested}"
    );

    let right = connect(&gateway, &server, "cloud", jira::TOKEN).await;
    let tested = api
        .act(&format!("/connections/{right}/test"))
        .await
        .expect(200);
    assert_eq!(
        tested["message"], "Connected as Hookport to Jira 9.12.0.",
        "{tested}"
    );
    subscribe(&gateway, &right, json!({"issueType": "99"})).await;
    let id = emit(&gateway, "created").await;
    let delivery = api.delivery_in(&id, "failed").await;
    assert_eq!(delivery["attempts"], 1);
    let message = delivery["attemptLog"][0]["message"].as_str().unwrap_or("");
    assert!(
        message.contains("issuetype: The issue type selected is invalid."),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dropdowns_come_from_jira() {
    let gateway = gateway().await;
    let api = gateway.api();
    let server = jira::start(3, 0).await;
    let connection = connect(&gateway, &server, "cloud", jira::TOKEN).await;
    let labels = async |resolver: &str, context: Value| -> Vec<String> {
        let request = json!({"resolver": resolver, "connectionId": connection, "context": context});
        let answer = api
            .post("/providers/jira/options", &request)
            .await
            .expect(200);
        let items = answer["items"].as_array().expect("items").clone();
        items
            .iter()
            .map(|item| item["label"].as_str().unwrap_or("").to_owned())
            .collect()
    };
    assert_eq!(labels("projects", json!({})).await, ["Operations (OPS)"]);
    assert_eq!(
        labels("issueTypes", json!({"project": "OPS"})).await,
        ["Task"],
        "no sub-tasks"
    );
    assert_eq!(labels("priorities", json!({})).await, ["Highest", "High"]);
    let chosen = json!({"project": "OPS", "issueType": "10001"});
    assert_eq!(labels("fields", chosen).await, ["Team *"]);
    let without = json!({"resolver": "issueTypes", "connectionId": connection, "context": {}});
    let refused = api.post("/providers/jira/options", &without).await;
    let problem = refused.expect_problem(409, "conflict");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap_or("")
            .contains("Choose a project first"),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropdown_that_cannot_be_filled_says_why() {
    let configuration = tempfile::NamedTempFile::new().expect("a file");
    let limits = "[provider_limits.jira]\ntimeout_ms = 500\n";
    std::fs::write(configuration.path(), limits).expect("written");
    let gateway = Gateway::start_with(Setup {
        providers: vec!["jira"],
        environment: vec![(
            "HOOKPORT_CONFIG",
            configuration.path().display().to_string(),
        )],
        ..Setup::default()
    })
    .await;
    let never = Reply::ok().after(Duration::from_secs(600));
    let page = Reply::status(502).body("<html>Bad Gateway</html>");
    let refused = Reply::status(401);
    for (reply, reason) in [(never, "500 ms"), (page, "502"), (refused, "API token")] {
        let server = Receiver::start(move |_, _| reply.clone()).await;
        let connection = connect(&gateway, &server, "cloud", jira::TOKEN).await;
        let request = json!({"resolver": "projects", "connectionId": connection, "context": {}});
        let api = gateway.api();
        let answer = api.post("/providers/jira/options", &request).await;
        let problem = answer.expect_problem(409, "conflict");
        let detail = problem["detail"].as_str().unwrap_or("");
        assert!(detail.contains(reason), "{problem}");
    }
}
