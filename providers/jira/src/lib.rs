//! Creates a Jira issue for the first event of a correlation key, and updates it for those that
//! follow: fields, transition, comment.
//!
//! Invariant: one correlation key of one subscription has one issue. It is found by the external
//! id that the first delivery returned and, when that is missing, by a label that is made of
//! subscription and key; a search that would be empty is refused, never broadened. Jira has no
//! idempotency key: before an issue is created again, the label is looked for.

mod api;
mod fields;
mod options;

use hookport_sdk::DocumentKind;
use hookport_sdk::prelude::*;
use hookport_sdk::serde_json::{Map, Value, json};
use hookport_sdk::template::Templates;
use sha2::{Digest, Sha256};

use crate::api::Client;
use crate::fields::{Mapped, rich_text};

/// What a subscription sets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Jira issue")]
pub struct Config {
    /// The project's key.
    #[schemars(
        title = "Project",
        length(min = 1),
        extend("x-options-resolver" = "projects", "x-searchable" = true)
    )]
    pub project: String,
    /// The issue type's identifier.
    #[schemars(
        title = "Issue type",
        length(min = 1),
        extend("x-options-resolver" = "issueTypes", "x-depends-on" = ["project"])
    )]
    pub issue_type: String,
    /// The priority's identifier.
    #[serde(default)]
    #[schemars(
        title = "Priority",
        extend("x-options-resolver" = "priorities", "x-depends-on" = ["project"], "x-searchable" = true)
    )]
    pub priority: Option<String>,
    /// Template of the summary, one line.
    #[schemars(title = "Summary", length(min = 1), extend("x-template" = true))]
    pub summary_template: String,
    /// Template of the description. Left out: the event's type and payload.
    #[serde(default)]
    #[schemars(title = "Description", extend("x-template" = true))]
    pub description_template: Option<String>,
    /// Labels beside the one that the issue is found by.
    #[serde(default)]
    #[schemars(title = "Labels")]
    pub labels: Vec<String>,
    /// Values of further fields. A value is written as the field's type wants it; an empty one
    /// leaves the field out.
    #[serde(default)]
    #[schemars(title = "Fields")]
    pub fields: Vec<FieldTemplate>,
    /// What later events of the same correlation key do.
    #[serde(default)]
    #[schemars(title = "Follow-up events")]
    pub follow_up: FollowUp,
}

/// A field and its value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct FieldTemplate {
    /// The field's identifier: `duedate`, `customfield_10010`.
    #[schemars(
        title = "Field",
        extend("x-options-resolver" = "fields", "x-depends-on" = ["project", "issueType"], "x-searchable" = true)
    )]
    pub field: String,
    /// Template of the value. Several values are separated by commas.
    #[schemars(title = "Value", extend("x-template" = true))]
    pub template: String,
}

/// What a follow-up event does to the issue.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct FollowUp {
    /// Template of a comment. Left out: the event's type and time. Empty: no comment.
    #[serde(default)]
    #[schemars(title = "Comment", extend("x-template" = true))]
    pub comment_template: Option<String>,
    /// Renders summary, description, priority and fields again and writes them.
    #[serde(default)]
    #[schemars(title = "Update fields")]
    pub update_fields: bool,
    /// Moves the issue on certain events; the first that matches counts.
    #[serde(default)]
    #[schemars(title = "Transitions")]
    pub transitions: Vec<Transition>,
}

/// A transition on an event.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Transition {
    /// An event type, `incident.*`, or `*`.
    #[schemars(title = "Events", length(min = 1))]
    pub events: String,
    /// The name of the transition, or of the status that it leads to.
    #[schemars(title = "Transition", length(min = 1))]
    pub transition: String,
}

impl Transition {
    fn is_for(&self, event_type: &str) -> bool {
        match self.events.strip_suffix('*') {
            Some(prefix) => event_type.starts_with(prefix),
            None => event_type == self.events,
        }
    }
}

/// How to reach Jira.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    tag = "authMode",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", title = "Jira connection")]
pub enum Connection {
    /// Jira Cloud: REST API v3 with an account's API token.
    #[schemars(title = "Jira Cloud")]
    Cloud {
        /// The site: `https://your-team.atlassian.net`.
        #[schemars(title = "Base URL")]
        base_url: String,
        /// The account's e-mail address.
        #[schemars(title = "E-mail", length(min = 1))]
        email: String,
        /// An API token of the account, from
        /// <https://id.atlassian.com/manage-profile/security/api-tokens>.
        #[schemars(title = "API token")]
        api_token: Secret,
    },
    /// Jira Data Center: REST API v2 with a personal access token.
    #[schemars(title = "Jira Data Center")]
    Datacenter {
        /// The server: `https://jira.example.com`.
        #[schemars(title = "Base URL")]
        base_url: String,
        /// A personal access token.
        #[schemars(title = "Personal access token")]
        api_token: Secret,
    },
}

/// The provider.
pub struct Jira;

impl Provider for Jira {
    type Config = Config;
    type Connection = Connection;

    const CONNECTION_VERSION: u32 = 2;

    fn describe() -> Description {
        Description::new(
            "Jira",
            "Creates an issue for each incident, and updates it as the incident goes on.",
        )
        .icon("ticket")
        .host("{connection.baseUrl}")
        .setup_guide(include_str!("../setup.md"))
        .example_payload(json!({"fields": {
            "project": {"key": "OPS"},
            "issuetype": {"id": "10001"},
            "summary": "Disk full",
            "labels": ["hookport-0f3a…"],
        }}))
        .header(
            "authorization",
            "Basic (Cloud) or Bearer (Data Center); filled in by the gateway",
        )
        .link("https://developer.atlassian.com/cloud/jira/platform/rest/v3/")
    }

    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError> {
        let connection = delivery.connection.as_ref().ok_or_else(|| {
            DeliveryError::permanent("the subscription has no connection: choose one")
        })?;
        let client = Client::new(ctx, connection);
        if delivery.config.project.trim().is_empty() {
            return Err(DeliveryError::permanent(
                "config.project is empty: an issue cannot be searched for in every project",
            ));
        }
        let templates = Templates::new(delivery)?;
        let label = label(delivery);
        let Some(key) = find(&client, delivery, &label)? else {
            return create(&client, delivery, &templates, &label);
        };
        match follow_up(&client, delivery, &templates, &key)? {
            Some(receipt) => Ok(receipt),
            // Deleted, or moved where the account cannot see it.
            None => match search(&client, delivery, &label)?.filter(|found| *found != key) {
                Some(other) => follow_up(&client, delivery, &templates, &other)?.ok_or_else(|| {
                    DeliveryError::transient(format!(
                        "the issue {other} vanished while it was updated"
                    ))
                }),
                None => create(&client, delivery, &templates, &label),
            },
        }
    }

    fn test_connection(ctx: &Context, connection: &Connection) -> Result<String, String> {
        let client = Client::new(ctx, connection);
        client.test().map_err(|error| error.message)
    }

    fn options(
        ctx: &Context,
        request: &OptionsRequest<Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        let connection = request
            .connection
            .as_ref()
            .ok_or("Choose a connection first.")?;
        options::list(&Client::new(ctx, connection), request)
    }

    fn migrate(kind: DocumentKind, from_version: u32, document: Value) -> Result<Value, String> {
        match (kind, from_version, document) {
            // Version 1 knew Cloud only.
            (DocumentKind::Connection, 1, Value::Object(mut connection)) => {
                connection.insert("authMode".into(), "cloud".into());
                Ok(Value::Object(connection))
            }
            (_, version, document) if version == Self::CONFIG_VERSION => Ok(document),
            (_, version, _) => Err(format!("no migration from version {version}")),
        }
    }
}

/// The label that the issue is found by. Without a correlation key each event is its own.
fn label(delivery: &Delivery<Jira>) -> String {
    let event = &delivery.event;
    let subject = event.correlation_key.as_ref().unwrap_or(&event.id);
    let digest = Sha256::digest(format!("{}\0{subject}", delivery.subscription.id));
    let hex: String = digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("hookport-{hex}")
}

/// The key of the issue that the event belongs to.
fn find(
    client: &Client,
    delivery: &Delivery<Jira>,
    label: &str,
) -> Result<Option<String>, DeliveryError> {
    let event = &delivery.event;
    if let Some(key) = event.external_id.as_ref().filter(|key| !key.is_empty()) {
        return Ok(Some(key.clone()));
    }
    // The first attempt for an event that follows nothing cannot find anything.
    if event.correlation_key.is_none() && event.attempt == 1 {
        return Ok(None);
    }
    search(client, delivery, label)
}

fn search(
    client: &Client,
    delivery: &Delivery<Jira>,
    label: &str,
) -> Result<Option<String>, DeliveryError> {
    client.find_by_label(&delivery.config.project, label)
}

fn create(
    client: &Client,
    delivery: &Delivery<Jira>,
    templates: &Templates,
    label: &str,
) -> Result<Receipt, DeliveryError> {
    let config = &delivery.config;
    let mut fields = content(client, delivery, templates)?;
    fields.insert("project".into(), json!({"key": config.project}));
    fields.insert("issuetype".into(), json!({"id": config.issue_type}));
    let mut labels = vec![label.to_owned()];
    labels.extend(config.labels.iter().cloned());
    fields.insert("labels".into(), labels.into());
    let key = client.create(&Value::Object(fields))?;
    Ok(Receipt::new(format!("created {key}")).external_id(key))
}

/// Summary, description, priority and the fields of the config.
fn content(
    client: &Client,
    delivery: &Delivery<Jira>,
    templates: &Templates,
) -> Result<Map<String, Value>, DeliveryError> {
    let config = &delivery.config;
    let summary = templates.text("config.summaryTemplate", &config.summary_template)?;
    let summary = summary.split_whitespace().collect::<Vec<_>>().join(" ");
    if summary.is_empty() {
        return Err(DeliveryError::permanent(
            "config.summaryTemplate: the summary is empty; Jira needs one",
        ));
    }
    let description = match &config.description_template {
        Some(template) => templates.text("config.descriptionTemplate", template)?,
        None => {
            let event = &delivery.event;
            let payload = hookport_sdk::serde_json::to_string_pretty(&event.payload()?);
            format!(
                "{} at {}\n\n{}",
                event.event_type,
                event.timestamp,
                payload.unwrap_or_default()
            )
        }
    };
    let mut fields = Map::new();
    // Jira refuses longer summaries.
    fields.insert(
        "summary".into(),
        summary.chars().take(255).collect::<String>().into(),
    );
    fields.insert(
        "description".into(),
        rich_text(client.is_cloud(), &description),
    );
    if let Some(priority) = config.priority.as_ref().filter(|id| !id.is_empty()) {
        fields.insert("priority".into(), json!({"id": priority}));
    }
    if !config.fields.is_empty() {
        let known = client.field_metadata(&config.project, &config.issue_type)?;
        for (index, mapped) in config.fields.iter().enumerate() {
            let place = format!("config.fields[{index}]");
            let text = templates.text(&format!("{place}.template"), &mapped.template)?;
            let value = Mapped::new(&mapped.field, &known, client.is_cloud())
                .and_then(|mapped| mapped.value(text.trim()))
                .map_err(|problem| DeliveryError::permanent(format!("{place}: {problem}")))?;
            if let Some(value) = value {
                fields.insert(mapped.field.clone(), value);
            }
        }
    }
    Ok(fields)
}

/// Updates the issue; `None` when it is not there. The comment comes last: what goes before it can
/// be repeated without harm when a later step fails.
fn follow_up(
    client: &Client,
    delivery: &Delivery<Jira>,
    templates: &Templates,
    key: &str,
) -> Result<Option<Receipt>, DeliveryError> {
    let (config, event) = (&delivery.config.follow_up, &delivery.event);
    let mut done = Vec::new();
    if config.update_fields {
        let fields = content(client, delivery, templates)?;
        if !client.update(key, &Value::Object(fields))? {
            return Ok(None);
        }
        done.push("updated".to_owned());
    }
    let transition = config
        .transitions
        .iter()
        .find(|one| one.is_for(&event.event_type));
    if let Some(wanted) = transition {
        match client.transition(key, &wanted.transition, event.attempt > 1)? {
            None => return Ok(None),
            Some(Some(name)) => done.push(format!("moved by {name:?}")),
            Some(None) => {}
        }
    }
    let comment = match &config.comment_template {
        Some(template) => templates.text("config.followUp.commentTemplate", template)?,
        None => format!("{} at {}", event.event_type, event.timestamp),
    };
    if !comment.trim().is_empty() {
        if !client.comment(key, &rich_text(client.is_cloud(), &comment))? {
            return Ok(None);
        }
        done.push("commented on".to_owned());
    } else if done.is_empty() && !client.exists(key)? {
        return Ok(None);
    }
    let what = if done.is_empty() {
        "left as it is:".to_owned()
    } else {
        done.join(", ")
    };
    Ok(Some(Receipt::new(format!("{what} {key}")).external_id(key)))
}

hookport_sdk::export!(Jira, id: "jira");

#[cfg(test)]
mod tests;
