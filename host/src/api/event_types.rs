//! Event types.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, Read};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::subscriptions::check_program;
use crate::dispatch::operational;
use crate::domain::clock::{Timestamp, rfc3339};
use crate::domain::event::{EventType, EventTypeName};
use crate::domain::{paths, schema};

const CATEGORY_BYTES_MAX: usize = 100;
/// What cursors of this listing begin with.
const CURSOR: &str = "ety";

/// What registers an event type.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EventTypeInput {
    /// For people; the name when unset.
    display_name: Option<String>,
    #[serde(default)]
    description: String,
    /// What it belongs with, for people.
    #[serde(default)]
    category: String,
    /// A jq program that makes the payload of what the emitter sends; sees `{event, payload}`.
    transform: Option<String>,
    /// JSON Schema (draft 2020-12) of the payload, after the transform; unset: any object.
    payload_schema: Option<Value>,
    /// A payload to show and to preview with.
    example: Option<Value>,
}

impl EventTypeInput {
    /// What it makes, when it is sound; `place` leads the fields in errors.
    pub(super) async fn checked(
        self,
        api: &Shared,
        place: &str,
        name: EventTypeName,
        now: Timestamp,
    ) -> Result<EventType, ApiError> {
        if let Some(schema) = &self.payload_schema {
            let validator = schema::compile(schema).map_err(|error| {
                ApiError::field(format!("{place}/payloadSchema"), error.to_string())
            })?;
            if let Some(example) = &self.example {
                let violations = schema::violations(&validator, example);
                if !violations.is_empty() {
                    return Err(ApiError::violations(
                        &format!("{place}/example"),
                        violations,
                    ));
                }
            }
        }
        if self.category.len() > CATEGORY_BYTES_MAX {
            return Err(ApiError::field(
                format!("{place}/category"),
                format!("at most {CATEGORY_BYTES_MAX} bytes"),
            ));
        }
        if let Some(program) = &self.transform {
            check_program(api, &format!("{place}/transform"), program).await?;
        }
        let plain = EventType::new(name, now);
        Ok(EventType {
            display_name: self.display_name.unwrap_or(plain.display_name),
            description: self.description,
            category: self.category,
            transform: self.transform.map(Into::into),
            payload_schema: self.payload_schema,
            example: self.example,
            ..plain
        })
    }
}

/// A registered event type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypeView {
    /// Fully qualified: `incident.created`.
    name: String,
    display_name: String,
    description: String,
    category: String,
    /// The plugin whose catalogue it belongs to.
    plugin: Option<String>,
    /// No longer in that catalogue.
    retired: bool,
    transform: Option<String>,
    payload_schema: Option<Value>,
    example: Option<Value>,
    created_at: String,
    updated_at: String,
}

impl From<&EventType> for EventTypeView {
    fn from(event_type: &EventType) -> Self {
        Self {
            name: event_type.name.as_str().to_owned(),
            display_name: event_type.display_name.clone(),
            description: event_type.description.clone(),
            category: event_type.category.clone(),
            plugin: event_type.plugin.clone(),
            retired: event_type.retired,
            transform: event_type.transform.as_deref().map(str::to_owned),
            payload_schema: event_type.payload_schema.clone(),
            example: event_type.example.clone(),
            created_at: rfc3339(event_type.created_at),
            updated_at: rfc3339(event_type.updated_at),
        }
    }
}

/// Register or replace an event type
#[utoipa::path(put, path = "/event-types/{name}", tag = "event types", params(("name" = String, Path)),
    request_body = EventTypeInput, responses((status = 200, body = EventTypeView), (status = 201, body = EventTypeView), (status = 400, body = Problem)))]
pub(super) async fn put(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(name): Id<String>,
    Body(input): Body<EventTypeInput>,
) -> Result<(StatusCode, Json<EventTypeView>), ApiError> {
    let name =
        EventTypeName::parse(&name).map_err(|error| ApiError::field("name", error.to_string()))?;
    refuse_reserved(&name)?;
    let now = api.clock.now();
    let checked = input.checked(&api, "", name, now).await?;
    let edit = api.snapshots.edit().await?;
    let before = edit
        .snapshot
        .event_types
        .get(checked.name.as_str())
        .map(|registered| registered.event_type.clone());
    let event_type = EventType {
        created_at: before.as_ref().map_or(now, |before| before.created_at),
        plugin: before.as_ref().and_then(|before| before.plugin.clone()),
        ..checked
    };
    let view = EventTypeView::from(&event_type);
    let action = match before {
        Some(_) => "event_type.updated",
        None => "event_type.created",
    };
    let mut entry = caller
        .did(&api, action, "event_type", &view.name)
        .after(&view);
    if let Some(before) = &before {
        entry = entry.before(&EventTypeView::from(before));
    }
    let store = api.store.audited(entry);
    store.put_event_type(event_type).await?;
    edit.done().await?;
    let status = if before.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(view)))
}

/// List the event types
#[utoipa::path(get, path = "/event-types", tag = "event types",
    params(("category" = Option<String>, Query), ("plugin" = Option<String>, Query), PageParams),
    responses((status = 200, body = Items<EventTypeView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["category", "plugin"])?;
    let (category, plugin) = (query.one("category")?, query.one("plugin")?);
    let snapshot = api.snapshots.current();
    let wanted = |event_type: &&EventType| {
        category.is_none_or(|category| event_type.category == category)
            && plugin.is_none_or(|plugin| event_type.plugin.as_deref() == Some(plugin))
    };
    let all = snapshot
        .event_types
        .values()
        .map(|registered| &registered.event_type)
        .filter(wanted)
        .collect();
    let key = |event_type: &&EventType| {
        let name = event_type.name.as_str();
        format!("{:020} {name}", event_type.created_at.0)
    };
    let page = query.cut(CURSOR, all, key)?;
    Ok(query.answer(CURSOR, page, key, EventTypeView::from))
}

/// Show an event type
#[utoipa::path(get, path = "/event-types/{name}", tag = "event types", params(("name" = String, Path)),
    responses((status = 200, body = EventTypeView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(name): Id<String>,
) -> Result<Json<EventTypeView>, ApiError> {
    let snapshot = api.snapshots.current();
    let registered = snapshot.event_types.get(&name);
    let registered =
        registered.ok_or_else(|| ApiError::not_found(format!("event type {name:?}")))?;
    Ok(Json(EventTypeView::from(&registered.event_type)))
}

/// A property of a payload.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathView {
    /// As a template writes it: `payload.incident.title`, `payload.tags[]` for the items of a list.
    path: String,
    types: Vec<String>,
    title: Option<String>,
    description: Option<String>,
    example: Option<Value>,
}

/// List the properties of an event type's payload
///
/// From its schema, or from its example where it has none: for template editors.
#[utoipa::path(get, path = "/event-types/{name}/paths", tag = "event types", params(("name" = String, Path)),
    responses((status = 200, body = Items<PathView>), (status = 404, body = Problem)))]
pub(super) async fn list_paths(
    State(api): State<Shared>,
    _: Read,
    Id(name): Id<String>,
) -> Result<Json<Items<PathView>>, ApiError> {
    let snapshot = api.snapshots.current();
    let registered = snapshot.event_types.get(&name);
    let registered =
        registered.ok_or_else(|| ApiError::not_found(format!("event type {name:?}")))?;
    let event_type = &registered.event_type;
    let found = match (&event_type.payload_schema, &event_type.example) {
        (Some(schema), example) => paths::of_schema(schema, example.as_ref()),
        (None, Some(example)) => paths::of_example(example),
        (None, None) => Vec::new(),
    };
    let items = found
        .into_iter()
        .map(|found| PathView {
            path: format!("payload.{}", found.path),
            types: found.types,
            title: found.title,
            description: found.description,
            example: found.example,
        })
        .collect();
    Ok(Json(Items { items, next: None }))
}

/// Delete an event type
#[utoipa::path(delete, path = "/event-types/{name}", tag = "event types", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(name): Id<String>,
) -> Result<StatusCode, ApiError> {
    let missing = || ApiError::not_found(format!("event type {name:?}"));
    let parsed = EventTypeName::parse(&name).map_err(|_| missing())?;
    refuse_reserved(&parsed)?;
    let edit = api.snapshots.edit().await?;
    let previous = edit.snapshot.event_types.get(&name).ok_or_else(missing)?;
    let entry = caller
        .did(&api, "event_type.deleted", "event_type", &name)
        .before(&EventTypeView::from(&previous.event_type));
    let store = api.store.audited(entry);
    if !store.delete_event_type(&parsed).await? {
        return Err(missing());
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The gateway's own types are not for others to change.
pub(super) fn refuse_reserved(name: &EventTypeName) -> Result<(), ApiError> {
    if name.as_str().starts_with(operational::PREFIX) {
        return Err(ApiError::conflict(format!(
            "names that begin with {} are the gateway's own",
            operational::PREFIX
        )));
    }
    Ok(())
}
