//! Dead letters requeued or discarded in bulk.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Caller, Operate, Read};
use super::dead_letters::{error_prefix, outcome, provider};
use super::error::{ApiError, Problem};
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::replays::{asked, by_name, period, state, subscription};
use crate::domain::clock::rfc3339;
use crate::domain::dead_letter::{DeadLetterAction, DeadLetterFilter, DeadLetterRun};
use crate::domain::delivery::Outcome;
use crate::domain::id::DeadLetterRunId;
use crate::domain::replay::ReplayState;

/// Which dead letters to requeue or discard.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RunInput {
    /// Why, for the record.
    reason: String,
    /// Who asks, for the record; unset: the name of the key.
    requested_by: Option<String>,
    /// By this provider only.
    provider: Option<String>,
    /// To this subscription only.
    subscription_id: Option<String>,
    /// Of this event type only.
    event_type: Option<String>,
    /// Whose event has this correlation key only.
    correlation_key: Option<String>,
    /// Whose last error begins so only.
    error_prefix: Option<String>,
    /// Whose last attempt ended so only.
    outcome: Option<String>,
    /// Given up at or after, RFC 3339.
    from: Option<String>,
    /// Given up before, RFC 3339; unset: now.
    until: Option<String>,
    /// Counts, and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// How many dead letters fit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetterCount {
    dead_letters: u64,
    /// False: there are more than were counted.
    complete: bool,
}

/// Dead letters requeued or discarded in bulk.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunView {
    id: String,
    /// `requeue` or `discard`.
    action: &'static str,
    requested_by: String,
    reason: String,
    provider: Option<String>,
    subscription_id: Option<String>,
    event_type: Option<String>,
    correlation_key: Option<String>,
    error_prefix: Option<String>,
    outcome: Option<&'static str>,
    from: Option<String>,
    until: Option<String>,
    /// `running`: dead letters are gone through; `done`: all that fit are; `cancelled`.
    state: &'static str,
    /// Deliveries requeued or discarded. A requeue leaves those whose subscription is off or gone.
    changed: u64,
    /// How many of those requeued are in which state, counted up to 100,000. Not in listings, and not of
    /// a `discard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<BTreeMap<&'static str, u64>>,
    created_at: String,
    updated_at: String,
}

impl From<DeadLetterRun> for RunView {
    fn from(run: DeadLetterRun) -> Self {
        let filter = run.filter;
        Self {
            id: run.id.to_string(),
            action: run.action.as_str(),
            requested_by: run.requested_by,
            reason: run.reason,
            provider: filter.provider.map(|id| id.to_string()),
            subscription_id: filter.subscription.map(|id| id.to_string()),
            event_type: filter.event_type,
            correlation_key: filter.correlation_key,
            error_prefix: filter.error_prefix,
            outcome: filter.outcome.map(Outcome::as_str),
            from: filter.from.map(rfc3339),
            until: filter.until.map(rfc3339),
            state: run.state.as_str(),
            changed: run.changed,
            outcomes: None,
            created_at: rfc3339(run.created_at),
            updated_at: rfc3339(run.updated_at),
        }
    }
}

async fn begin(
    api: &Shared,
    caller: &Caller,
    action: DeadLetterAction,
    input: RunInput,
) -> Result<Response, ApiError> {
    let (requested_by, reason) = asked(caller, input.requested_by, input.reason)?;
    let now = api.clock.now();
    let (from, until) = period(input.from.as_deref(), input.until.as_deref(), now)?;
    let filter = DeadLetterFilter {
        provider: input
            .provider
            .map(|name| provider("/provider", &name))
            .transpose()?,
        subscription: match action {
            DeadLetterAction::Requeue => subscription(api, input.subscription_id.as_deref())?,
            // Also of a subscription that is gone.
            DeadLetterAction::Discard => input
                .subscription_id
                .map(|id| id.parse())
                .transpose()
                .map_err(|error| ApiError::field("/subscriptionId", format!("{error}")))?,
        },
        event_type: input.event_type,
        correlation_key: input.correlation_key,
        error_prefix: input
            .error_prefix
            .map(|text| error_prefix("/errorPrefix", text))
            .transpose()?,
        outcome: input
            .outcome
            .map(|name| outcome("/outcome", &name))
            .transpose()?,
        from,
        until: Some(until),
    };
    if input.dry_run {
        let (dead_letters, complete) = api.dead_letters.count(&filter).await?;
        return Ok(Json(DeadLetterCount {
            dead_letters,
            complete,
        })
        .into_response());
    }
    let run = DeadLetterRun {
        id: api.ids.next(now),
        action,
        requested_by,
        reason,
        filter,
        state: ReplayState::Running,
        cursor: None,
        changed: 0,
        created_at: now,
        updated_at: now,
    };
    let view = RunView::from(run.clone());
    let entry = caller
        .did(api, "dead_letter_run.started", "dead_letter_run", run.id)
        .after(&view);
    api.store.audited(entry).put_dead_letter_run(run).await?;
    api.dead_letters.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Requeue dead letters
///
/// Goes through the dead letters that fit, from the newest to the oldest, in the background. With
/// `dryRun` it only counts.
#[utoipa::path(post, path = "/dead-letters/requeue", tag = "dead letters", request_body = RunInput,
    responses((status = 200, body = DeadLetterCount), (status = 202, body = RunView), (status = 400, body = Problem)))]
pub(super) async fn requeue_all(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Body(input): Body<RunInput>,
) -> Result<Response, ApiError> {
    begin(&api, &caller, DeadLetterAction::Requeue, input).await
}

/// Discard dead letters
///
/// Goes through the dead letters that fit, from the newest to the oldest, in the background. With
/// `dryRun` it only counts.
#[utoipa::path(post, path = "/dead-letters/discard", tag = "dead letters", request_body = RunInput,
    responses((status = 200, body = DeadLetterCount), (status = 202, body = RunView), (status = 400, body = Problem)))]
pub(super) async fn discard_all(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Body(input): Body<RunInput>,
) -> Result<Response, ApiError> {
    begin(&api, &caller, DeadLetterAction::Discard, input).await
}

/// List runs over dead letters
#[utoipa::path(get, path = "/dead-letter-runs", tag = "dead letters",
    params(("state" = Option<String>, Query, description = "`running`, `done` or `cancelled`"), PageParams),
    responses((status = 200, body = Items<RunView>), (status = 400, body = Problem)))]
pub(super) async fn list_runs(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["state"])?;
    let (state, after) = (state(&query)?, query.cursor_id(DeadLetterRunId::PREFIX)?);
    let limit = query.limit()?;
    let page = api.store.dead_letter_runs(state, after, limit).await?;
    let key = |run: &DeadLetterRun| run.id.to_string();
    Ok(query.answer(DeadLetterRunId::PREFIX, page, key, RunView::from))
}

/// Show a run over dead letters
#[utoipa::path(get, path = "/dead-letter-runs/{id}", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = RunView), (status = 404, body = Problem)))]
pub(super) async fn get_run(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<DeadLetterRunId>,
) -> Result<Json<RunView>, ApiError> {
    let run = api.store.dead_letter_run(id).await?;
    let run = run.ok_or_else(|| ApiError::not_found(format!("run {id}")))?;
    let outcomes = match run.action {
        DeadLetterAction::Discard => None,
        DeadLetterAction::Requeue => Some(by_name(api.store.dead_letter_outcomes(id).await?)),
    };
    Ok(Json(RunView {
        outcomes,
        ..run.into()
    }))
}

/// Stop a run over dead letters
///
/// What it has changed stays.
#[utoipa::path(post, path = "/dead-letter-runs/{id}/cancel", tag = "dead letters", params(("id" = String, Path)),
    responses((status = 200, body = RunView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn cancel_run(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<DeadLetterRunId>,
) -> Result<Json<RunView>, ApiError> {
    let missing = || ApiError::not_found(format!("run {id}"));
    let before = api.store.dead_letter_run(id).await?.ok_or_else(missing)?;
    let state = before.state.as_str();
    let entry = caller
        .did(&api, "dead_letter_run.cancelled", "dead_letter_run", id)
        .before(&RunView::from(before));
    let store = api.store.audited(entry);
    if !store.cancel_dead_letter_run(id, api.clock.now()).await? {
        return Err(ApiError::conflict(format!(
            "the run is {state}, not running"
        )));
    }
    let run = api.store.dead_letter_run(id).await?.ok_or_else(missing)?;
    Ok(Json(run.into()))
}
