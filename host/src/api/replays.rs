//! Replays: events of the past, delivered again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Caller, Operate, Read};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::subscriptions::NAME_BYTES_MAX;
use crate::domain::clock::{Timestamp, parse_rfc3339, rfc3339};
use crate::domain::event::EventTypeName;
use crate::domain::id::{EventId, ReplayId, SubscriptionId};
use crate::domain::replay::{Outcomes, Replay, ReplayFilter, ReplayScope, ReplayState};

const REASON_BYTES_MAX: usize = 1_000;

/// What to replay of one event.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EventReplayInput {
    /// Why, for the record.
    reason: String,
    /// Who asks, for the record; unset: the name of the key.
    requested_by: Option<String>,
    /// `failed`: the deliveries that failed, under their own ids; `all`: a new delivery to each
    /// subscription that wants the event now.
    deliveries: String,
    /// To this subscription only.
    subscription_id: Option<String>,
}

/// What to replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReplayInput {
    /// Why, for the record.
    reason: String,
    /// Who asks, for the record; unset: the name of the key.
    requested_by: Option<String>,
    /// `failed` or `all`, as for one event.
    deliveries: String,
    /// To this subscription only.
    subscription_id: Option<String>,
    /// Events of this type only.
    event_type: Option<String>,
    /// Events with this correlation key only.
    correlation_key: Option<String>,
    /// Received at or after, RFC 3339.
    from: Option<String>,
    /// Received before, RFC 3339; unset: now.
    until: Option<String>,
    /// Counts, and replays nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What a replay would do.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CountView {
    events: u64,
    deliveries: u64,
    /// False: there are more than were counted.
    complete: bool,
}

/// A replay.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReplayView {
    id: String,
    requested_by: String,
    reason: String,
    /// `failed` or `all`.
    deliveries: &'static str,
    event_id: Option<String>,
    event_type: Option<String>,
    correlation_key: Option<String>,
    subscription_id: Option<String>,
    from: Option<String>,
    until: Option<String>,
    /// `running`: events are gone through; `done`: all its deliveries are made; `cancelled`.
    state: &'static str,
    /// Events gone through.
    events_seen: u64,
    /// Deliveries made due or created.
    deliveries_made: u64,
    /// How many of them are in which state, counted up to 100,000. Not in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<BTreeMap<&'static str, u64>>,
    created_at: String,
    updated_at: String,
}

impl From<Replay> for ReplayView {
    fn from(replay: Replay) -> Self {
        let filter = replay.filter;
        Self {
            id: replay.id.to_string(),
            requested_by: replay.requested_by,
            reason: replay.reason,
            deliveries: replay.scope.as_str(),
            event_id: filter.event.map(|id| id.to_string()),
            event_type: filter.event_type.map(|name| name.as_str().to_owned()),
            correlation_key: filter.correlation_key,
            subscription_id: filter.subscription.map(|id| id.to_string()),
            from: filter.from.map(rfc3339),
            until: filter.until.map(rfc3339),
            state: replay.state.as_str(),
            events_seen: replay.events,
            deliveries_made: replay.deliveries,
            outcomes: None,
            created_at: rfc3339(replay.created_at),
            updated_at: rfc3339(replay.updated_at),
        }
    }
}

fn scope(text: &str) -> Result<ReplayScope, ApiError> {
    ReplayScope::from_name(text)
        .ok_or_else(|| ApiError::field("/deliveries", "give \"failed\" or \"all\""))
}

fn instant(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    text.map(|text| {
        parse_rfc3339(text).ok_or_else(|| {
            ApiError::field(field, "give an RFC 3339 time, as in 2026-01-31T08:00:00Z")
        })
    })
    .transpose()
}

/// From when until when, checked: what comes from now on is never meant.
pub(super) fn period(
    from: Option<&str>,
    until: Option<&str>,
    now: Timestamp,
) -> Result<(Option<Timestamp>, Timestamp), ApiError> {
    let until = instant("/until", until)?.unwrap_or(now).min(now);
    let from = instant("/from", from)?;
    if from.is_some_and(|from| from >= until) {
        return Err(ApiError::field(
            "/from",
            "must be before until, and not in the future",
        ));
    }
    Ok((from, until))
}

/// The `state` that a listing is asked for.
pub(super) fn state(query: &Query) -> Result<Option<ReplayState>, ApiError> {
    let state = query.one("state")?.map(|name| {
        ReplayState::from_name(name)
            .ok_or_else(|| ApiError::field("state", "give running, done or cancelled"))
    });
    state.transpose()
}

/// How many are in which state, by its name.
pub(super) fn by_name(outcomes: Outcomes) -> BTreeMap<&'static str, u64> {
    let outcomes = outcomes.into_iter();
    outcomes
        .map(|(state, count)| (state.as_str(), count))
        .collect()
}

pub(super) fn subscription(
    api: &Shared,
    text: Option<&str>,
) -> Result<Option<SubscriptionId>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let id = text.parse::<SubscriptionId>().ok();
    let known = id.filter(|id| api.snapshots.current().routes.contains_key(id));
    known.map(Some).ok_or_else(|| {
        ApiError::field(
            "/subscriptionId",
            format!("there is no subscription {text}"),
        )
    })
}

/// Who asks and why, checked.
pub(super) fn asked(
    caller: &Caller,
    requested_by: Option<String>,
    reason: String,
) -> Result<(String, String), ApiError> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
        return Err(ApiError::field(
            "/reason",
            format!("give 1 to {REASON_BYTES_MAX} bytes"),
        ));
    }
    let by = requested_by.unwrap_or_else(|| caller.name.clone());
    if by.trim().is_empty() || by.len() > NAME_BYTES_MAX {
        return Err(ApiError::field(
            "/requestedBy",
            format!("give 1 to {NAME_BYTES_MAX} bytes"),
        ));
    }
    Ok((by, reason))
}

async fn begin(
    api: &Shared,
    caller: &Caller,
    (requested_by, reason): (String, String),
    scope: ReplayScope,
    filter: ReplayFilter,
) -> Result<Response, ApiError> {
    let now = api.clock.now();
    let replay = Replay {
        id: api.ids.next(now),
        requested_by,
        reason,
        scope,
        filter,
        state: ReplayState::Running,
        cursor: None,
        events: 0,
        deliveries: 0,
        created_at: now,
        updated_at: now,
    };
    let view = ReplayView::from(replay.clone());
    let entry = caller
        .did(api, "replay.started", "replay", replay.id)
        .after(&view);
    api.store.audited(entry).put_replay(replay).await?;
    api.replayer.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Replay an event
///
/// A replayed delivery has the full schedule of attempts.
#[utoipa::path(post, path = "/events/{id}/replay", tag = "replays", params(("id" = String, Path)),
    request_body = EventReplayInput, responses((status = 202, body = ReplayView), (status = 400, body = Problem), (status = 404, body = Problem)))]
pub(super) async fn replay_event(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<EventId>,
    Body(input): Body<EventReplayInput>,
) -> Result<Response, ApiError> {
    let asked = asked(&caller, input.requested_by, input.reason)?;
    let scope = scope(&input.deliveries)?;
    let filter = ReplayFilter {
        event: Some(id),
        subscription: subscription(&api, input.subscription_id.as_deref())?,
        ..ReplayFilter::default()
    };
    if api.store.event(id).await?.is_none() {
        return Err(ApiError::not_found(format!("event {id}")));
    }
    begin(&api, &caller, asked, scope, filter).await
}

/// Replay events
///
/// Goes through the events that fit, from the newest to the oldest, in the background. With
/// `dryRun` it only counts.
#[utoipa::path(post, path = "/replays", tag = "replays", request_body = ReplayInput,
    responses((status = 200, body = CountView), (status = 202, body = ReplayView), (status = 400, body = Problem)))]
pub(super) async fn create(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Body(input): Body<ReplayInput>,
) -> Result<Response, ApiError> {
    let asked = asked(&caller, input.requested_by, input.reason)?;
    let scope = scope(&input.deliveries)?;
    let event_type = input
        .event_type
        .as_deref()
        .map(EventTypeName::parse)
        .transpose()
        .map_err(|error| ApiError::field("/eventType", error.to_string()))?;
    let now = api.clock.now();
    let (from, until) = period(input.from.as_deref(), input.until.as_deref(), now)?;
    let filter = ReplayFilter {
        event: None,
        event_type,
        correlation_key: input.correlation_key,
        from,
        until: Some(until),
        subscription: subscription(&api, input.subscription_id.as_deref())?,
    };
    if input.dry_run {
        let count = api.replayer.count(&filter, scope).await?;
        return Ok(Json(CountView {
            events: count.events,
            deliveries: count.deliveries,
            complete: count.is_complete,
        })
        .into_response());
    }
    begin(&api, &caller, asked, scope, filter).await
}

/// List replays
#[utoipa::path(get, path = "/replays", tag = "replays",
    params(("state" = Option<String>, Query, description = "`running`, `done` or `cancelled`"), PageParams),
    responses((status = 200, body = Items<ReplayView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["state"])?;
    let (state, after) = (state(&query)?, query.cursor_id(ReplayId::PREFIX)?);
    let page = api.store.replays(state, after, query.limit()?).await?;
    let key = |replay: &Replay| replay.id.to_string();
    Ok(query.answer(ReplayId::PREFIX, page, key, ReplayView::from))
}

/// Show a replay
#[utoipa::path(get, path = "/replays/{id}", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, body = ReplayView), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<ReplayId>,
) -> Result<Json<ReplayView>, ApiError> {
    let replay = api.store.replay(id).await?;
    let replay = replay.ok_or_else(|| ApiError::not_found(format!("replay {id}")))?;
    let outcomes = api.store.replay_outcomes(id).await?;
    Ok(Json(ReplayView {
        outcomes: Some(by_name(outcomes)),
        ..replay.into()
    }))
}

/// Stop a replay
///
/// What it has made stays.
#[utoipa::path(post, path = "/replays/{id}/cancel", tag = "replays", params(("id" = String, Path)),
    responses((status = 200, body = ReplayView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn cancel(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<ReplayId>,
) -> Result<Json<ReplayView>, ApiError> {
    let missing = || ApiError::not_found(format!("replay {id}"));
    let before = api.store.replay(id).await?.ok_or_else(missing)?;
    let state = before.state.as_str();
    let entry = caller
        .did(&api, "replay.cancelled", "replay", id)
        .before(&ReplayView::from(before));
    let store = api.store.audited(entry);
    if !store.cancel_replay(id, api.clock.now()).await? {
        return Err(ApiError::conflict(format!(
            "the replay is {state}, not running"
        )));
    }
    let replay = api.store.replay(id).await?.ok_or_else(missing)?;
    Ok(Json(replay.into()))
}
