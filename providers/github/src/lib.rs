//! Webhooks of GitHub: <https://docs.github.com/en/webhooks/webhook-events-and-payloads>.
//!
//! The event type is `github.` with the event of `X-GitHub-Event` and, where there is one, the
//! payload's `action`: `github.issues.opened`, `github.push`. `X-GitHub-Delivery` is the same when
//! GitHub delivers again, so it is the external id.

use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::{NormalizeError, NormalizedEvent, Source, Webhook};

/// What an admin sets.
#[derive(Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Put before every event type.
    #[serde(default = "prefix")]
    pub type_prefix: String,
}

fn prefix() -> String {
    "github.".into()
}

/// The source.
pub struct Github;

impl Source for Github {
    type Config = Config;

    fn describe() -> Description {
        Description::new("GitHub", "Webhooks of repositories, organisations and apps")
            .icon("github")
            .setup_guide(include_str!("../setup.md"))
            .link("https://docs.github.com/en/webhooks")
    }

    fn verification() -> Option<Value> {
        Some(json!({"scheme": "github"}))
    }

    fn normalize(
        _: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let event = header(webhook, "x-github-event")?;
        let external_id = header(webhook, "x-github-delivery")?;
        if event == "ping" {
            return Err(NormalizeError::Ignored("GitHub's ping".into()));
        }
        let payload = payload(webhook)?;
        let prefix = &webhook.config.type_prefix;
        let event_type = match payload["action"].as_str() {
            Some(action) => format!("{prefix}{event}.{action}"),
            None => format!("{prefix}{event}"),
        };
        Ok(vec![NormalizedEvent {
            external_id: Some(external_id.into()),
            correlation_key: correlation_key(event, &payload),
            ..NormalizedEvent::new(event_type, payload)
        }])
    }
}

fn header<'a>(webhook: &'a Webhook<Github>, name: &str) -> Result<&'a str, NormalizeError> {
    webhook.header(name).ok_or_else(|| {
        NormalizeError::Invalid(format!("the header {name} is missing: is this GitHub?"))
    })
}

/// GitHub sends JSON, or, when it is set up so, a form: what to change is said.
fn payload(webhook: &Webhook<Github>) -> Result<Value, NormalizeError> {
    let form = webhook
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if form {
        return Err(NormalizeError::Invalid(
            "the content type of the webhook is a form: choose application/json in GitHub".into(),
        ));
    }
    let payload = webhook.json()?;
    if payload.is_object() {
        Ok(payload)
    } else {
        Err(NormalizeError::Invalid("the body must be an object".into()))
    }
}

/// What an event is about: the same for everything that happens to one issue, pull request,
/// discussion, check, workflow run or release.
fn correlation_key(event: &str, payload: &Value) -> Option<String> {
    let repository = payload["repository"]["full_name"].as_str()?;
    let number = |subject: &str| payload[subject]["number"].as_u64();
    let id = |subject: &str| payload[subject]["id"].as_u64();
    // An issue_comment of a pull request has its issue only: they share their numbers.
    if let Some(number) = number("issue").or_else(|| number("pull_request")) {
        return Some(format!("{repository}#{number}"));
    }
    if let Some(number) = number("discussion") {
        return Some(format!("{repository}/discussions/{number}"));
    }
    for subject in [
        "workflow_run",
        "workflow_job",
        "check_run",
        "check_suite",
        "release",
        "deployment",
    ] {
        if let Some(id) = id(subject) {
            return Some(format!("{repository}/{subject}/{id}"));
        }
    }
    match event {
        "push" | "create" | "delete" => {
            let reference = payload["ref"].as_str()?;
            Some(format!("{repository}@{reference}"))
        }
        _ => None,
    }
}

hookport_sdk::export_source!(Github, id: "github");

#[cfg(test)]
mod tests {
    use hookport_sdk::testing::{TestHost, TestWebhook};

    use super::*;

    fn normalize(event: &str, body: &Value) -> Result<Vec<NormalizedEvent>, NormalizeError> {
        let webhook = TestWebhook::new(body.to_string())
            .header("X-GitHub-Event", event)
            .header("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
            .header("Content-Type", "application/json");
        TestHost::new().normalize::<Github>(&json!({}), &webhook)
    }

    fn one(event: &str, body: &Value) -> NormalizedEvent {
        let mut events = normalize(event, body).expect("an event");
        assert_eq!(events.len(), 1);
        events.remove(0)
    }

    #[test]
    fn an_issue_and_its_comments_are_one_subject() {
        let opened = json!({
            "action": "opened",
            "issue": {"number": 1347, "title": "Found a bug"},
            "repository": {"full_name": "octocat/Hello-World"},
        });
        let event = one("issues", &opened);
        assert_eq!(event.event_type, "github.issues.opened");
        assert_eq!(
            event.external_id.as_deref(),
            Some("72d3162e-cc78-11e3-81ab-4c9367dc0958")
        );
        assert_eq!(
            event.correlation_key.as_deref(),
            Some("octocat/Hello-World#1347")
        );
        assert_eq!(event.payload, opened);
        let commented = json!({
            "action": "created",
            "issue": {"number": 1347, "pull_request": {}},
            "comment": {"id": 1},
            "repository": {"full_name": "octocat/Hello-World"},
        });
        let comment = one("issue_comment", &commented);
        assert_eq!(comment.correlation_key, event.correlation_key);
    }

    #[test]
    fn subjects_of_other_events() {
        let check = |event: &str, body: Value, expected: Option<&str>| {
            let mut body = body;
            body["repository"] = json!({"full_name": "a/b"});
            assert_eq!(
                one(event, &body).correlation_key.as_deref(),
                expected,
                "{event}"
            );
        };
        check(
            "pull_request",
            json!({"action": "closed", "pull_request": {"number": 2}}),
            Some("a/b#2"),
        );
        check(
            "workflow_run",
            json!({"action": "completed", "workflow_run": {"id": 5}}),
            Some("a/b/workflow_run/5"),
        );
        check(
            "push",
            json!({"ref": "refs/heads/main"}),
            Some("a/b@refs/heads/main"),
        );
        check("star", json!({"action": "created"}), None);
    }

    #[test]
    fn a_push_has_no_action() {
        let push = json!({"ref": "refs/heads/main"});
        assert_eq!(one("push", &push).event_type, "github.push");
    }

    #[test]
    fn a_ping_is_ignored_and_nonsense_refused() {
        assert!(matches!(
            normalize("ping", &json!({"zen": "…"})),
            Err(NormalizeError::Ignored(_))
        ));
        assert!(matches!(
            normalize("push", &json!([])),
            Err(NormalizeError::Invalid(_))
        ));
        let bare = TestHost::new().normalize::<Github>(&json!({}), &TestWebhook::new("{}"));
        let Err(NormalizeError::Invalid(reason)) = bare else {
            panic!("{bare:?}");
        };
        assert!(reason.contains("x-github-event"), "{reason}");
        let form = TestWebhook::new("payload=%7B%7D")
            .header("x-github-event", "push")
            .header("x-github-delivery", "1")
            .header("content-type", "application/x-www-form-urlencoded");
        let refused = TestHost::new().normalize::<Github>(&json!({}), &form);
        let Err(NormalizeError::Invalid(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("application/json"), "{reason}");
    }
}
