//! Connections: shared credentials of a provider.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, Caller, Operate, Read};
use super::deliveries::LogLineView;
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::subscriptions::{check_name, seal, serving};
use crate::dispatch::snapshot::connection_row;
use crate::dispatch::{Edit, Snapshot};
use crate::domain::clock::rfc3339;
use crate::domain::id::ConnectionId;
use crate::domain::subscription::Connection;
use crate::vault::document::redact;

/// What makes a connection.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ConnectionInput {
    name: String,
    provider: String,
    /// What the provider's connection schema describes.
    #[schema(value_type = Object)]
    settings: Value,
}

/// A connection.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConnectionView {
    id: String,
    name: String,
    provider: String,
    /// Secrets are shown as empty strings.
    #[schema(value_type = Object)]
    settings: Value,
    /// JSON Pointers of the secrets on record.
    secrets_set: Vec<String>,
    created_at: String,
    updated_at: String,
}

impl From<&Connection> for ConnectionView {
    fn from(connection: &Connection) -> Self {
        let shown = redact(&connection.document);
        Self {
            id: connection.id.to_string(),
            name: connection.name.clone(),
            provider: connection.provider.to_string(),
            settings: shown.json,
            secrets_set: shown.secrets_set,
            created_at: rfc3339(connection.created_at),
            updated_at: rfc3339(connection.updated_at),
        }
    }
}

fn connection(
    api: &Shared,
    id: ConnectionId,
    input: ConnectionInput,
    previous: Option<&Connection>,
) -> Result<Connection, ApiError> {
    check_name(&input.name)?;
    let (provider, descriptor) = serving(api, &input.provider)?;
    let schema = descriptor
        .connection
        .as_ref()
        .ok_or_else(|| ApiError::field("/provider", format!("{provider} has no connections")))?;
    if let Some(previous) = previous
        && previous.provider != provider
    {
        return Err(ApiError::field(
            "/provider",
            format!(
                "a connection stays with its provider, {}",
                previous.provider
            ),
        ));
    }
    let document = seal(
        api,
        &connection_row(id),
        "/settings",
        schema,
        input.settings,
        previous.map(|previous| &previous.document),
    )?;
    let now = api.clock.now();
    Ok(Connection {
        id,
        name: input.name,
        provider,
        document,
        created_at: previous.map_or(now, |previous| previous.created_at),
        updated_at: now,
    })
}

fn find(snapshot: &Snapshot, id: ConnectionId) -> Result<Connection, ApiError> {
    let shared = snapshot.connections.get(&id);
    let shared = shared.ok_or_else(|| ApiError::not_found(format!("connection {id}")))?;
    Ok((*shared.connection).clone())
}

/// Puts it on record, with the entry about it: `action` of what was `before`.
async fn store(
    api: &Shared,
    edit: Edit<'_>,
    (caller, action): (&Caller, &'static str),
    before: Option<&Connection>,
    connection: Connection,
) -> Result<Json<ConnectionView>, ApiError> {
    let view = ConnectionView::from(&connection);
    let mut entry = caller
        .did(api, action, "connection", connection.id)
        .after(&view);
    if let Some(before) = before {
        entry = entry.before(&ConnectionView::from(before));
    }
    let store = api.store.audited(entry);
    store.put_connection(connection).await?;
    edit.done().await?;
    Ok(Json(view))
}

/// Create a connection
#[utoipa::path(post, path = "/connections", tag = "connections",
    request_body = ConnectionInput, responses((status = 201, body = ConnectionView), (status = 400, body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Body(input): Body<ConnectionInput>,
) -> Result<(StatusCode, Json<ConnectionView>), ApiError> {
    let edit = api.snapshots.edit().await?;
    let id = api.ids.next(api.clock.now());
    let connection = connection(&api, id, input, None)?;
    let by = (&caller, "connection.created");
    let stored = store(&api, edit, by, None, connection).await?;
    Ok((StatusCode::CREATED, stored))
}

/// List the connections
#[utoipa::path(get, path = "/connections", tag = "connections", params(PageParams),
    responses((status = 200, body = Items<ConnectionView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let snapshot = api.snapshots.current();
    let all = snapshot
        .connections
        .values()
        .map(|shared| &*shared.connection)
        .collect();
    let key = |connection: &&Connection| connection.id.to_string();
    let page = query.cut(ConnectionId::PREFIX, all, key)?;
    Ok(query.answer(ConnectionId::PREFIX, page, key, ConnectionView::from))
}

/// Show a connection
#[utoipa::path(get, path = "/connections/{id}", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = ConnectionView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<ConnectionId>,
) -> Result<Json<ConnectionView>, ApiError> {
    Ok(Json(ConnectionView::from(&find(
        &api.snapshots.current(),
        id,
    )?)))
}

/// Replace a connection
///
/// A secret left as an empty string keeps the one on record.
#[utoipa::path(put, path = "/connections/{id}", tag = "connections", params(("id" = String, Path)),
    request_body = ConnectionInput, responses((status = 200, body = ConnectionView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn replace(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<ConnectionId>,
    Body(input): Body<ConnectionInput>,
) -> Result<Json<ConnectionView>, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?;
    let connection = connection(&api, id, input, Some(&previous))?;
    let by = (&caller, "connection.updated");
    store(&api, edit, by, Some(&previous), connection).await
}

/// Delete a connection
#[utoipa::path(delete, path = "/connections/{id}", tag = "connections", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<ConnectionId>,
) -> Result<StatusCode, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?;
    let entry = caller
        .did(&api, "connection.deleted", "connection", id)
        .before(&ConnectionView::from(&previous));
    if !api.store.audited(entry).delete_connection(id).await? {
        return Err(ApiError::not_found(format!("connection {id}")));
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a test of a connection found.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TestView {
    ok: bool,
    /// What was reached, or what to mend.
    message: String,
    /// The last status that the other side answered with.
    http_status: Option<u16>,
    logs: Vec<LogLineView>,
}

/// Test a connection
#[utoipa::path(post, path = "/connections/{id}/test", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = TestView), (status = 404, body = Problem)))]
pub(super) async fn test(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<ConnectionId>,
) -> Result<Json<TestView>, ApiError> {
    let snapshot = api.snapshots.current();
    let shared = snapshot.connections.get(&id);
    let shared = shared.ok_or_else(|| ApiError::not_found(format!("connection {id}")))?;
    let document = shared.open(&api.vault)?;
    let report = api
        .providers
        .test_connection(&shared.connection.provider, document)
        .await;
    let ok = report.result.is_ok();
    let entry = caller
        .did(&api, "connection.tested", "connection", id)
        .after(&serde_json::json!({"ok": ok, "httpStatus": report.http_status}));
    api.store.append_audit(vec![entry]).await?;
    Ok(Json(TestView {
        ok,
        message: report.result.unwrap_or_else(|failure| failure.to_string()),
        http_status: report.http_status,
        logs: report.logs.into_iter().map(LogLineView::from).collect(),
    }))
}
