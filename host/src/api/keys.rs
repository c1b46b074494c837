//! API keys.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, new_key};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::subscriptions::check_name;
use crate::domain::clock::rfc3339;
use crate::domain::id::KeyId;
use crate::domain::key::{ApiKey, Role};

/// What makes a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyInput {
    /// Who calls with it.
    name: String,
    /// `admin`, `operator`, `viewer` or `emitter`.
    role: String,
}

/// A key, without its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyView {
    id: String,
    name: String,
    role: &'static str,
    created_at: String,
    revoked_at: Option<String>,
}

impl From<&ApiKey> for KeyView {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            role: key.role.as_str(),
            created_at: rfc3339(key.created_at),
            revoked_at: key.revoked_at.map(rfc3339),
        }
    }
}

/// A new key with its text, which is never shown again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewKeyView {
    #[serde(flatten)]
    view: KeyView,
    key: String,
}

/// Create a key
#[utoipa::path(post, path = "/keys", tag = "keys", request_body = KeyInput, responses((status = 201, body = NewKeyView), (status = 400, body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Body(input): Body<KeyInput>,
) -> Result<Response, ApiError> {
    check_name(&input.name)?;
    let role = Role::from_name(&input.role).ok_or_else(|| {
        let known: Vec<&str> = Role::ALL.into_iter().map(Role::as_str).collect();
        ApiError::field("/role", format!("give one of {}", known.join(", ")))
    })?;
    let now = api.clock.now();
    let new = new_key();
    let key = ApiKey {
        id: api.ids.next(now),
        name: input.name,
        role,
        hash: new.hash,
        created_at: now,
        revoked_at: None,
    };
    let view = KeyView::from(&key);
    let edit = api.snapshots.edit().await?;
    let entry = caller.did(&api, "key.created", "key", key.id).after(&view);
    api.store.audited(entry).put_key(key).await?;
    edit.done().await?;
    let body = Json(NewKeyView {
        view,
        key: new.text.to_string(),
    });
    Ok((
        StatusCode::CREATED,
        [(header::CACHE_CONTROL, "no-store")],
        body,
    )
        .into_response())
}

/// List the keys
#[utoipa::path(get, path = "/keys", tag = "keys", params(PageParams),
    responses((status = 200, body = Items<KeyView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Administer,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let all = api.store.keys().await?;
    let key = |key: &ApiKey| key.id.to_string();
    let page = query.cut(KeyId::PREFIX, all, key)?;
    Ok(query.answer(KeyId::PREFIX, page, key, |key| KeyView::from(&key)))
}

/// Revoke a key
///
/// The last admin key stays: without it nobody could make another.
#[utoipa::path(delete, path = "/keys/{id}", tag = "keys", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn revoke(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<KeyId>,
) -> Result<StatusCode, ApiError> {
    let edit = api.snapshots.edit().await?;
    let mut admins = edit
        .snapshot
        .keys
        .values()
        .filter(|key| key.role == Role::Admin);
    if admins.next().is_some_and(|key| key.id == id) && admins.next().is_none() {
        return Err(ApiError::conflict(
            "this is the last admin key: create another one first",
        ));
    }
    let missing = || ApiError::not_found(format!("key {id} that is not revoked"));
    let mut keys = edit.snapshot.keys.values();
    let key = keys.find(|key| key.id == id).ok_or_else(missing)?;
    let entry = caller
        .did(&api, "key.revoked", "key", id)
        .before(&KeyView::from(key));
    let store = api.store.audited(entry);
    if !store.revoke_key(id, api.clock.now()).await? {
        return Err(missing());
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}
