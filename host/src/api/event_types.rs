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
use crate::dispatch::operational;
use crate::domain::clock::rfc3339;
use crate::domain::event::{EventType, EventTypeName};
use crate::domain::schema;

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
    /// JSON Schema (draft 2020-12) of the payload; unset: any object.
    payload_schema: Option<Value>,
    /// A payload to show and to preview with.
    example: Option<Value>,
}

/// A registered event type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventTypeView {
    /// Fully qualified: `incident.created`.
    name: String,
    display_name: String,
    description: String,
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
    _: Administer,
    Id(name): Id<String>,
    Body(input): Body<EventTypeInput>,
) -> Result<(StatusCode, Json<EventTypeView>), ApiError> {
    let name =
        EventTypeName::parse(&name).map_err(|error| ApiError::field("name", error.to_string()))?;
    refuse_reserved(&name)?;
    if let Some(schema) = &input.payload_schema {
        let validator = schema::compile(schema)
            .map_err(|error| ApiError::field("/payloadSchema", error.to_string()))?;
        if let Some(example) = &input.example {
            let violations = schema::violations(&validator, example);
            if !violations.is_empty() {
                return Err(ApiError::violations("/example", violations));
            }
        }
    }
    let now = api.clock.now();
    let edit = api.snapshots.edit().await?;
    let before = edit
        .snapshot
        .event_types
        .get(name.as_str())
        .map(|registered| registered.event_type.created_at);
    let event_type = EventType {
        display_name: input
            .display_name
            .unwrap_or_else(|| name.as_str().to_owned()),
        name,
        description: input.description,
        payload_schema: input.payload_schema,
        example: input.example,
        created_at: before.unwrap_or(now),
        updated_at: now,
    };
    let view = EventTypeView::from(&event_type);
    api.store.put_event_type(event_type).await?;
    edit.done().await?;
    let status = if before.is_some() {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(view)))
}

/// List the event types
#[utoipa::path(get, path = "/event-types", tag = "event types", params(PageParams),
    responses((status = 200, body = Items<EventTypeView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let snapshot = api.snapshots.current();
    let all = snapshot
        .event_types
        .values()
        .map(|registered| &registered.event_type)
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

/// Delete an event type
#[utoipa::path(delete, path = "/event-types/{name}", tag = "event types", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    _: Administer,
    Id(name): Id<String>,
) -> Result<StatusCode, ApiError> {
    let missing = || ApiError::not_found(format!("event type {name:?}"));
    let parsed = EventTypeName::parse(&name).map_err(|_| missing())?;
    refuse_reserved(&parsed)?;
    let edit = api.snapshots.edit().await?;
    if !api.store.delete_event_type(&parsed).await? {
        return Err(missing());
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The gateway's own types are not for others to change.
fn refuse_reserved(name: &EventTypeName) -> Result<(), ApiError> {
    if name.as_str().starts_with(operational::PREFIX) {
        return Err(ApiError::conflict(format!(
            "names that begin with {} are the gateway's own",
            operational::PREFIX
        )));
    }
    Ok(())
}
