//! The audit trail.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Shared;
use super::auth::Administer;
use super::error::{ApiError, Problem};
use super::page::{Items, PageParams, Query};
use crate::domain::audit::Entry;
use crate::domain::clock::rfc3339;
use crate::store::AuditFilter;

/// What cursors of this listing begin with.
const CURSOR: &str = "aud";

/// Who did something.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActorView {
    /// `key`, `process` or `command`.
    kind: &'static str,
    /// `key_…`, `wrk_…`, or the user of the operating system.
    id: String,
    /// The key's name, the process's role, the command.
    name: String,
}

/// What something was done to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TargetView {
    kind: String,
    id: String,
}

/// An entry of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryView {
    /// Its number, from 1 without gaps.
    seq: i64,
    at: String,
    actor: ActorView,
    /// `subscription.updated`, …
    action: String,
    target: TargetView,
    /// What the target was; secrets are shown as empty strings.
    #[schema(value_type = Object)]
    before: Option<Box<RawValue>>,
    /// What it became.
    #[schema(value_type = Object)]
    after: Option<Box<RawValue>>,
    request_id: Option<String>,
    /// SHA-256 over the entry and the hash of the one before it, hexadecimal.
    hash: String,
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        // What was written by hand need not be JSON.
        let raw = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        let actor = entry.author.actor;
        Self {
            seq: entry.seq,
            at: rfc3339(entry.at),
            actor: ActorView {
                kind: actor.kind.as_str(),
                id: actor.id,
                name: actor.name,
            },
            action: entry.action,
            target: TargetView {
                kind: entry.target_kind,
                id: entry.target_id,
            },
            before: raw(entry.before),
            after: raw(entry.after),
            request_id: entry.author.request_id,
            hash: entry.hash.to_string(),
        }
    }
}

/// List the audit trail
///
/// Who did what, newest first.
#[utoipa::path(get, path = "/audit", tag = "audit",
    params(
        ("actor" = Option<String>, Query, description = "Its identifier or its name"),
        ("action" = Option<String>, Query, description = "`subscription.updated`, or `subscription.*` for all of a kind"),
        ("target" = Option<String>, Query, description = "The identifier of what it was done to"),
        ("targetKind" = Option<String>, Query, description = "`subscription`, `connection`, `source`, `event_type`, `plugin`, `provider`, `component`, `key`, `replay`, `delivery`, `inbound_webhook`, `queue`, `process`, `vault`"),
        ("from" = Option<String>, Query, description = "At or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<EntryView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Administer,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["actor", "action", "target", "targetKind", "from", "until"])?;
    let action = query.one("action")?;
    if action.is_some_and(|action| action.trim_end_matches(".*").contains('*')) {
        let problem = "give an action, or the beginning of some: subscription.*";
        return Err(ApiError::field("action", problem));
    }
    let filter = AuditFilter {
        actor: query.one("actor")?.map(str::to_owned),
        action: action.map(str::to_owned),
        target: query.one("target")?.map(str::to_owned),
        target_kind: query.one("targetKind")?.map(str::to_owned),
        from: query.instant("from")?,
        until: query.instant("until")?,
    };
    let after = query.cursor_id(CURSOR)?;
    let page = api
        .store
        .audit_entries(&filter, after, query.limit()?)
        .await?;
    let key = |entry: &Entry| entry.seq.to_string();
    Ok(query.answer(CURSOR, page, key, EntryView::from))
}

/// The end of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HeadView {
    /// How many entries there are.
    seq: i64,
    /// Of the newest one.
    hash: String,
    /// Both, for `hookport doctor --audit --expect`: keep it where the gateway cannot write.
    anchor: String,
}

/// Show the end of the audit trail
#[utoipa::path(get, path = "/audit/head", tag = "audit", responses((status = 200, body = HeadView)))]
pub(super) async fn head(
    State(api): State<Shared>,
    _: Administer,
) -> Result<Json<HeadView>, ApiError> {
    let head = api.store.audit_head().await?;
    Ok(Json(HeadView {
        seq: head.seq,
        hash: head.hash.to_string(),
        anchor: head.to_string(),
    }))
}
