//! The dropdowns of the form.

use hookport_sdk::serde_json::Value;
use hookport_sdk::{OptionsRequest, SelectOption};

use crate::Connection;
use crate::api::Client;

const OPTIONS_MAX: usize = 100;
/// Filled by the form's own inputs, or by the gateway.
const OWN_FIELDS: [&str; 6] = [
    "project",
    "issuetype",
    "summary",
    "description",
    "labels",
    "priority",
];

/// The entries of a dropdown.
pub fn list(
    client: &Client,
    request: &OptionsRequest<Connection>,
) -> Result<Vec<SelectOption>, String> {
    let chosen = |field: &str, name: &str| {
        let value = request.context[field]
            .as_str()
            .filter(|value| !value.is_empty());
        value.ok_or_else(|| format!("Choose {name} first."))
    };
    let search = request.search.as_deref().unwrap_or("").trim();
    let words = |error: hookport_sdk::DeliveryError| error.message;
    let found = match request.resolver.as_str() {
        "projects" => entries(&client.projects(search).map_err(words)?, "key", |one| {
            Some(format!(
                "{} ({})",
                one["name"].as_str()?,
                one["key"].as_str()?
            ))
        }),
        "issueTypes" => {
            let types = client
                .issue_types(chosen("project", "a project")?)
                .map_err(words)?;
            // A sub-task needs a parent, which an event does not have.
            let own: Vec<Value> = types
                .into_iter()
                .filter(|one| one["subtask"] != true)
                .collect();
            entries(&own, "id", |one| one["name"].as_str().map(str::to_owned))
        }
        "priorities" => entries(&client.priorities().map_err(words)?, "id", |one| {
            one["name"].as_str().map(str::to_owned)
        }),
        "fields" => {
            let (project, kind) = (
                chosen("project", "a project")?,
                chosen("issueType", "an issue type")?,
            );
            let mut fields = client.field_metadata(project, kind).map_err(words)?;
            fields.retain(|one| !OWN_FIELDS.contains(&field_id(one).unwrap_or("")));
            for field in &mut fields {
                let id = field_id(field).unwrap_or_default().to_owned();
                field["id"] = id.into();
            }
            entries(&fields, "id", |one| {
                let required = one["required"] == true && one["hasDefaultValue"] != true;
                let mark = if required { " *" } else { "" };
                Some(format!("{}{mark}", one["name"].as_str()?))
            })
        }
        other => return Err(format!("this provider has no options for {other:?}")),
    };
    let wanted = search.to_lowercase();
    Ok(found
        .into_iter()
        .filter(|option| option.label.to_lowercase().contains(&wanted))
        .take(OPTIONS_MAX)
        .collect())
}

fn field_id(field: &Value) -> Option<&str> {
    field["fieldId"].as_str().or_else(|| field["key"].as_str())
}

fn entries(
    list: &[Value],
    value: &str,
    label: impl Fn(&Value) -> Option<String>,
) -> Vec<SelectOption> {
    list.iter()
        .filter_map(|one| Some(SelectOption::new(one[value].as_str()?, label(one)?)))
        .collect()
}
