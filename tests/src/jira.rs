//! Jira Cloud and Data Center as far as the provider uses them. Shapes and statuses follow the
//! OpenAPI document of Cloud's REST API v3 and the reference of Data Center's v2:
//! <https://developer.atlassian.com/cloud/jira/platform/rest/v3/> (`createIssue`, `editIssue`,
//! `getTransitions`, `doTransition`, `addComment`, `searchAndReconsileIssuesUsingJql`,
//! `getCreateIssueMetaIssueTypes`), <https://developer.atlassian.com/server/jira/platform/rest/>.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};

/// The API token that this Jira knows; the e-mail is `bot@example.com`.
pub const TOKEN: &str = "jira-token-1234-5678";

/// An issue.
#[derive(Clone, Debug)]
struct Issue {
    fields: Value,
    status: &'static str,
    comments: usize,
}

/// Starts one of Cloud (`version` 3) or Data Center (2). The first `limited` requests that change
/// something are answered 429 with `Retry-After: 1`.
pub async fn start(version: u8, limited: usize) -> Receiver {
    let issues: Mutex<BTreeMap<String, Issue>> = Mutex::default();
    let refused = std::sync::atomic::AtomicUsize::new(0);
    Receiver::start(move |_, request| {
        let expected = match version {
            3 => format!("Basic {}", base64(&format!("bot@example.com:{TOKEN}"))),
            _ => format!("Bearer {TOKEN}"),
        };
        if request.header("authorization") != expected {
            return Reply::status(401)
                .body("Client must be authenticated to access this resource.");
        }
        let changes = request.method != "GET";
        if changes && refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < limited {
            return Reply::status(429).header("retry-after", "1").body("{}");
        }
        let prefix = format!("/rest/api/{version}/");
        let Some(path) = request.path.strip_prefix(&prefix) else {
            return Reply::status(404).body("<html>Dead link</html>");
        };
        let mut issues = issues.lock().expect("not poisoned");
        route(version, path, request, &mut issues)
    })
    .await
}

fn route(
    version: u8,
    path: &str,
    request: &Received,
    issues: &mut BTreeMap<String, Issue>,
) -> Reply {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<&str> = path.split('/').collect();
    let created = |value: Value| Reply::status(201).body(value.to_string());
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["myself"]) => Reply::json(&json!({"displayName": "Hookport"})),
        ("GET", ["serverInfo"]) => {
            let kind = if version == 3 { "Cloud" } else { "Server" };
            Reply::json(&json!({"version": "9.12.0", "deploymentType": kind}))
        }
        ("GET", ["search", "jql"]) if version == 3 => search(query, issues),
        ("GET", ["search"]) if version == 2 => search(query, issues),
        ("POST", ["issue"]) => {
            let fields = request.json()["fields"].clone();
            let problems = problems(version, &fields);
            if !problems.is_empty() {
                let body = json!({"errorMessages": [], "errors": problems});
                return Reply::status(400).body(body.to_string());
            }
            let key = format!("OPS-{}", issues.len() + 1);
            let issue = Issue {
                fields,
                status: "To Do",
                comments: 0,
            };
            issues.insert(key.clone(), issue);
            created(json!({"id": "10000", "key": key, "self": "https://example.com"}))
        }
        ("GET", ["issue", "createmeta", "OPS", "issuetypes"]) => list(
            version,
            "issueTypes",
            json!([
                {"id": "10001", "name": "Task", "subtask": false},
                {"id": "10002", "name": "Sub-task", "subtask": true},
            ]),
        ),
        ("GET", ["issue", "createmeta", "OPS", "issuetypes", "10001"]) => list(
            version,
            "fields",
            json!([
                {"fieldId": "summary", "name": "Summary", "required": true, "schema": {"type": "string", "system": "summary"}},
                {"fieldId": "customfield_10010", "name": "Team", "required": true, "schema": {"type": "option"},
                 "allowedValues": [{"value": "Red"}, {"value": "Blue"}]},
            ]),
        ),
        ("GET", ["priority"]) => {
            Reply::json(&json!([{"id": "1", "name": "Highest"}, {"id": "2", "name": "High"}]))
        }
        ("GET", ["project", "search"]) if version == 3 => {
            Reply::json(&json!({"values": [{"key": "OPS", "name": "Operations"}], "isLast": true}))
        }
        ("GET", ["project"]) if version == 2 => {
            Reply::json(&json!([{"key": "OPS", "name": "Operations"}]))
        }
        (method, ["issue", key, rest @ ..]) => match issues.get_mut(*key) {
            Some(issue) => act(method, rest, request, issue, key),
            None => missing(),
        },
        _ => missing(),
    }
}

fn act(method: &str, rest: &[&str], request: &Received, issue: &mut Issue, key: &str) -> Reply {
    match (method, rest) {
        ("GET", []) => Reply::json(&json!({
            "key": key, "fields": issue.fields, "status": issue.status, "comments": issue.comments,
        })),
        ("PUT", []) => {
            let changes = request.json()["fields"].clone();
            for (field, value) in changes.as_object().into_iter().flatten() {
                issue.fields[field] = value.clone();
            }
            Reply::status(204)
        }
        ("GET", ["transitions"]) => {
            let offered = match issue.status {
                "Done" => json!([{"id": "11", "name": "Reopen", "to": {"name": "To Do"}}]),
                _ => json!([{"id": "31", "name": "Resolve", "to": {"name": "Done"}}]),
            };
            Reply::json(&json!({"transitions": offered}))
        }
        ("POST", ["transitions"]) => match request.json()["transition"]["id"].as_str() {
            Some("31") if issue.status != "Done" => {
                issue.status = "Done";
                Reply::status(204)
            }
            _ => Reply::status(400).body(json!({"errorMessages": ["It seems that you have tried to perform an illegal workflow operation."], "errors": {}}).to_string()),
        },
        ("POST", ["comment"]) => {
            issue.comments += 1;
            Reply::status(201).body(json!({"id": issue.comments.to_string()}).to_string())
        }
        _ => missing(),
    }
}

/// What Jira finds wrong with a new issue, by field.
fn problems(version: u8, fields: &Value) -> BTreeMap<&'static str, &'static str> {
    let mut found = BTreeMap::new();
    if fields["summary"].as_str().unwrap_or("").is_empty() {
        found.insert("summary", "You must specify a summary of the issue.");
    }
    if fields["project"]["key"] != "OPS" {
        found.insert("project", "valid project is required");
    }
    if fields["issuetype"]["id"] != "10001" {
        found.insert("issuetype", "The issue type selected is invalid.");
    }
    let document = fields["description"]["type"] == "doc" && fields["description"]["version"] == 1;
    if !fields["description"].is_null() && document != (version == 3) {
        found.insert(
            "description",
            "Operation value must be an Atlassian Document (see the Atlassian Document Format)",
        );
    }
    if let Some(team) = fields.get("customfield_10010")
        && team["value"] != "Red"
        && team["value"] != "Blue"
    {
        found.insert(
            "customfield_10010",
            "Specify a valid 'id' or 'name' for Team",
        );
    }
    found
}

/// Cloud names its lists, Data Center calls each `values`.
fn list(version: u8, name: &str, items: Value) -> Reply {
    let total = items.as_array().map_or(0, Vec::len);
    let name = if version == 3 { name } else { "values" };
    Reply::json(&json!({"startAt": 0, "maxResults": 50, "total": total, name: items}))
}

/// Finds by the label in `labels = "…"`; a search without one would find everything, and is an
/// error of the provider's.
fn search(query: &str, issues: &BTreeMap<String, Issue>) -> Reply {
    let text = percent_decoded(query);
    let label = text
        .split("labels = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let Some(label) = label.filter(|label| !label.is_empty()) else {
        return Reply::status(400).body(
            json!({"errorMessages": ["Unbounded JQL queries are not allowed here."]}).to_string(),
        );
    };
    let found: Vec<Value> = issues
        .iter()
        .filter(|(_, issue)| {
            let labels = issue.fields["labels"].as_array();
            labels.is_some_and(|labels| labels.iter().any(|one| one == label))
        })
        .map(|(key, _)| json!({"id": "10000", "key": key}))
        .collect();
    Reply::json(&json!({"issues": found, "isLast": true}))
}

fn missing() -> Reply {
    let body = json!({"errorMessages": ["Issue does not exist or you do not have permission to see it."], "errors": {}});
    Reply::status(404).body(body.to_string())
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text
                    .get(at + 1..at + 3)
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                out.push(hex.unwrap_or(b'%'));
                at += 2;
            }
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
