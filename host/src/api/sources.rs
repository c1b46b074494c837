//! Inbound sources: where webhooks come in, and how they are verified.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Administer, Caller, Read};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::subscriptions::seal;
use crate::dispatch::open_source::{source_row, verification_row};
use crate::dispatch::{Edit, OpenSource, Snapshot};
use crate::domain::clock::{Timestamp, rfc3339};
use crate::domain::id::SourceId;
use crate::domain::provider::ProviderId;
use crate::domain::source::{Source, SourceName};
use crate::ingress::verification::{self, Change};
use crate::ingress::verify::Scheme;
use crate::vault::document::redact;

const RATE_PER_MINUTE_DEFAULT: u32 = 3_000;
const RATE_PER_MINUTE_MAX: u32 = 1_000_000;
const SECRET_BYTES_MAX: usize = 4 << 10;
const OVERLAP_S_DEFAULT: u32 = 24 * 60 * 60;
const OVERLAP_S_MAX: u32 = 30 * 24 * 60 * 60;

fn rate_default() -> u32 {
    RATE_PER_MINUTE_DEFAULT
}

fn overlap_default() -> u32 {
    OVERLAP_S_DEFAULT
}

fn yes() -> bool {
    true
}

/// What makes a source.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SourceInput {
    /// The last part of the URL: `a-z`, `0-9`, `-` and `_`.
    name: String,
    /// The component that turns webhooks into events.
    component: String,
    /// What the component's config schema describes.
    #[serde(default = "empty")]
    #[schema(value_type = Object)]
    config: Value,
    /// How webhooks are verified.
    verification: Scheme,
    /// The secret of the verification. Left out or empty, those on record stay; otherwise it takes
    /// their place at once. To change it without a gap, rotate it.
    #[serde(default)]
    secret: String,
    /// Webhooks taken from one address in a minute.
    #[serde(default = "rate_default")]
    #[schema(default = rate_default)]
    rate_per_minute: u32,
    #[serde(default = "yes")]
    #[schema(default = yes)]
    enabled: bool,
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A secret of a source, without its value.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretView {
    id: String,
    created_at: String,
    /// When it stops being good; `null`: never.
    expires_at: Option<String>,
}

/// A source.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SourceView {
    id: String,
    name: String,
    /// Where webhooks are sent.
    path: String,
    component: String,
    /// Secrets are shown as empty strings.
    #[schema(value_type = Object)]
    config: Value,
    /// JSON Pointers of the secrets on record in `config`.
    secrets_set: Vec<String>,
    verification: Scheme,
    /// The secrets that are good now.
    secrets: Vec<SecretView>,
    rate_per_minute: u32,
    enabled: bool,
    created_at: String,
    updated_at: String,
}

fn view(source: &Source, now: Timestamp) -> Result<SourceView, ApiError> {
    let shown = redact(&source.config);
    let outline = verification::outline(&source.verification)?;
    Ok(SourceView {
        id: source.id.to_string(),
        name: source.name.as_str().to_owned(),
        path: format!("/api/v1/webhooks/{}", source.name.as_str()),
        component: source.component.to_string(),
        config: shown.json,
        secrets_set: shown.secrets_set,
        verification: outline.scheme,
        secrets: outline
            .secrets
            .into_iter()
            .filter(|(_, info)| info.is_active(now))
            .map(|(id, info)| SecretView {
                id,
                created_at: rfc3339(Timestamp(info.created_at)),
                expires_at: info.expires_at.map(|at| rfc3339(Timestamp(at))),
            })
            .collect(),
        rate_per_minute: source.rate_per_minute,
        enabled: source.enabled,
        created_at: rfc3339(source.created_at),
        updated_at: rfc3339(source.updated_at),
    })
}

fn check_scheme(scheme: &Scheme) -> Result<(), ApiError> {
    scheme
        .check()
        .map_err(|(field, problem)| ApiError::field(format!("/verification/{field}"), problem))
}

fn check_secret(scheme: &Scheme, secret: &str) -> Result<(), ApiError> {
    if !scheme.needs_secret() && !secret.is_empty() {
        return Err(ApiError::field(
            "/secret",
            "this verification has no secret: leave it out",
        ));
    }
    if secret.len() > SECRET_BYTES_MAX {
        return Err(ApiError::field(
            "/secret",
            format!("at most {SECRET_BYTES_MAX} bytes"),
        ));
    }
    scheme
        .check_key(secret)
        .map_err(|problem| ApiError::field("/secret", problem))
}

fn source(
    api: &Shared,
    id: SourceId,
    input: SourceInput,
    previous: Option<&Source>,
) -> Result<Source, ApiError> {
    let name = SourceName::parse(&input.name)
        .map_err(|error| ApiError::field("/name", error.to_string()))?;
    let component = ProviderId::parse(&input.component)
        .map_err(|error| ApiError::field("/component", error.to_string()))?;
    let descriptor = api.ingress.sources.source(&component).ok_or_else(|| {
        ApiError::field(
            "/component",
            format!("no source {component} is serving: see GET /api/v1/providers"),
        )
    })?;
    check_scheme(&input.verification)?;
    check_secret(&input.verification, &input.secret)?;
    if !(1..=RATE_PER_MINUTE_MAX).contains(&input.rate_per_minute) {
        return Err(ApiError::field(
            "/ratePerMinute",
            format!("give 1 to {RATE_PER_MINUTE_MAX}"),
        ));
    }
    let kept = previous.filter(|previous| previous.component == component);
    let config = seal(
        api,
        &source_row(id),
        "/config",
        &descriptor.config,
        input.config,
        kept.map(|previous| &previous.config),
    )?;
    let now = api.clock.now();
    let before = previous.map(|previous| &previous.verification);
    let add = api.ids.next::<SourceId>(now).to_string();
    let change = Change {
        add: (!input.secret.is_empty()).then_some((add.as_str(), input.secret.as_str())),
        scheme: input.verification,
        others_until: None,
        now,
    };
    let needs_secret = change.scheme.needs_secret();
    let verification = change.apply(&api.vault, &verification_row(id), before)?;
    if needs_secret && verification::outline(&verification)?.secrets.is_empty() {
        return Err(ApiError::field(
            "/secret",
            "this verification needs a secret",
        ));
    }
    Ok(Source {
        id,
        name,
        component,
        config,
        verification,
        rate_per_minute: input.rate_per_minute,
        enabled: input.enabled,
        created_at: previous.map_or(now, |previous| previous.created_at),
        updated_at: now,
    })
}

/// The source of that identifier.
pub(super) fn find(snapshot: &Snapshot, id: SourceId) -> Result<&OpenSource, ApiError> {
    let mut open = snapshot.sources.values();
    let found = open.find(|open| open.source.id == id);
    found
        .map(|open| &**open)
        .ok_or_else(|| ApiError::not_found(format!("source {id}")))
}

/// Puts it on record, with the entry about it: `action` of what was `before`.
async fn store(
    api: &Shared,
    edit: Edit<'_>,
    (caller, action): (&Caller, &'static str),
    before: Option<&Source>,
    source: Source,
) -> Result<Json<SourceView>, ApiError> {
    let now = api.clock.now();
    let shown = view(&source, now)?;
    let mut entry = caller.did(api, action, "source", source.id).after(&shown);
    if let Some(before) = before {
        entry = entry.before(&view(before, now)?);
    }
    let store = api.store.audited(entry);
    store.put_source(source).await?;
    edit.done().await?;
    Ok(Json(shown))
}

/// Create a source
#[utoipa::path(post, path = "/sources", tag = "sources",
    request_body = SourceInput, responses((status = 201, body = SourceView), (status = 400, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Body(input): Body<SourceInput>,
) -> Result<(StatusCode, Json<SourceView>), ApiError> {
    let edit = api.snapshots.edit().await?;
    let id = api.ids.next(api.clock.now());
    let source = source(&api, id, input, None)?;
    let by = (&caller, "source.created");
    let stored = store(&api, edit, by, None, source).await?;
    Ok((StatusCode::CREATED, stored))
}

/// List the sources
#[utoipa::path(get, path = "/sources", tag = "sources", params(PageParams),
    responses((status = 200, body = Items<SourceView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let snapshot = api.snapshots.current();
    let now = api.clock.now();
    let all = snapshot
        .sources
        .values()
        .map(|open| view(&open.source, now))
        .collect::<Result<Vec<_>, _>>()?;
    let key = |source: &SourceView| source.id.clone();
    let page = query.cut(SourceId::PREFIX, all, key)?;
    Ok(query.answer(SourceId::PREFIX, page, key, |source| source))
}

/// Show a source
#[utoipa::path(get, path = "/sources/{id}", tag = "sources", params(("id" = String, Path)),
    responses((status = 200, body = SourceView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<SourceId>,
) -> Result<Json<SourceView>, ApiError> {
    let snapshot = api.snapshots.current();
    view(&find(&snapshot, id)?.source, api.clock.now()).map(Json)
}

/// Replace a source
///
/// Secrets of `config` left as empty strings keep those on record.
#[utoipa::path(put, path = "/sources/{id}", tag = "sources", params(("id" = String, Path)),
    request_body = SourceInput, responses((status = 200, body = SourceView), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn replace(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SourceId>,
    Body(input): Body<SourceInput>,
) -> Result<Json<SourceView>, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?.source.clone();
    let source = source(&api, id, input, Some(&previous))?;
    let by = (&caller, "source.updated");
    store(&api, edit, by, Some(&previous), source).await
}

/// Delete a source
///
/// Its webhooks stay on record.
#[utoipa::path(delete, path = "/sources/{id}", tag = "sources", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn delete(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SourceId>,
) -> Result<StatusCode, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = &find(&edit.snapshot, id)?.source;
    let entry = caller
        .did(&api, "source.deleted", "source", id)
        .before(&view(previous, api.clock.now())?);
    if !api.store.audited(entry).delete_source(id).await? {
        return Err(ApiError::not_found(format!("source {id}")));
    }
    edit.done().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new secret.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RotateInput {
    secret: String,
    /// How long the secrets before it stay good, in seconds.
    #[serde(default = "overlap_default")]
    #[schema(default = overlap_default)]
    overlap_seconds: u32,
}

/// Rotate the secret of a source
///
/// The new one is good at once; those before it stay good for the overlap, so that no webhook is
/// refused while the sender is changed over.
#[utoipa::path(post, path = "/sources/{id}/rotate-secret", tag = "sources", params(("id" = String, Path)),
    request_body = RotateInput, responses((status = 200, body = SourceView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn rotate(
    State(api): State<Shared>,
    Administer(caller): Administer,
    Id(id): Id<SourceId>,
    Body(input): Body<RotateInput>,
) -> Result<Json<SourceView>, ApiError> {
    let edit = api.snapshots.edit().await?;
    let previous = find(&edit.snapshot, id)?.source.clone();
    let mut source = (*previous).clone();
    let scheme = verification::outline(&source.verification)?.scheme;
    if input.secret.is_empty() {
        return Err(ApiError::field("/secret", "give the new secret"));
    }
    if input.overlap_seconds > OVERLAP_S_MAX {
        return Err(ApiError::field(
            "/overlapSeconds",
            format!("at most {OVERLAP_S_MAX}, which is 30 days"),
        ));
    }
    check_secret(&scheme, &input.secret)?;
    let now = api.clock.now();
    let added = api.ids.next::<SourceId>(now).to_string();
    let change = Change {
        scheme,
        add: Some((&added, &input.secret)),
        others_until: Some(now.plus(Duration::from_secs(input.overlap_seconds.into()))),
        now,
    };
    let row = verification_row(id);
    source.verification = change.apply(&api.vault, &row, Some(&source.verification))?;
    source.updated_at = now;
    let by = (&caller, "source.secret_rotated");
    store(&api, edit, by, Some(&previous), source).await
}

/// A webhook that was refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RejectionView {
    at: String,
    remote_address: String,
    reason: String,
}

/// What a source refused last
///
/// Webhooks that were not verified, newest first, without their bodies. What was verified is
/// listed by `GET /api/v1/inbound-webhooks`.
#[utoipa::path(get, path = "/sources/{id}/rejections", tag = "sources", params(("id" = String, Path)),
    responses((status = 200, body = Items<RejectionView>), (status = 404, body = Problem)))]
pub(super) async fn rejections(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<SourceId>,
) -> Result<Json<Items<RejectionView>>, ApiError> {
    find(&api.snapshots.current(), id)?;
    let rejections = api.store.rejections(id).await?;
    Ok(Json(Items {
        items: rejections
            .into_iter()
            .map(|rejection| RejectionView {
                at: rfc3339(rejection.at),
                remote_address: rejection.remote_address.to_string(),
                reason: rejection.reason,
            })
            .collect(),
        next: None,
    }))
}
