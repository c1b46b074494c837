//! Dead letters: deliveries that were given up, and what is decided about them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Caller, Operate, Read};
use super::deliveries::{AttemptView, DeliveryView};
use super::error::{ApiError, Problem};
use super::events::EventView;
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::replays::{asked, instant, subscription};
use crate::domain::clock::rfc3339;
use crate::domain::dead_letter::{
    DeadLetterAction, DeadLetterCursor, DeadLetterFilter, DeadLetterRun,
};
use crate::domain::delivery::{Delivery, DeliveryState, Discarded, Outcome};
use crate::domain::id::{DeadLetterRunId, DeliveryId};
use crate::domain::provider::ProviderId;
use crate::domain::replay::ReplayState;

const ERROR_PREFIX_BYTES_MAX: usize = 500;

fn outcome(field: &str, name: &str) -> Result<Outcome, ApiError> {
    Outcome::from_name(name)
        .filter(|outcome| *outcome != Outcome::Success)
        .ok_or_else(|| {
            let known = Outcome::ALL.map(Outcome::as_str);
            let known: Vec<&str> = known
                .into_iter()
                .filter(|name| *name != "success")
                .collect();
            ApiError::field(field, format!("{name:?} is none of {}", known.join(", ")))
        })
}

fn provider(field: &str, name: &str) -> Result<ProviderId, ApiError> {
    ProviderId::parse(name).map_err(|error| ApiError::field(field, error.to_string()))
}

fn error_prefix(field: &str, text: String) -> Result<String, ApiError> {
    if text.len() > ERROR_PREFIX_BYTES_MAX {
        let most = format!("give at most {ERROR_PREFIX_BYTES_MAX} bytes");
        return Err(ApiError::field(field, most));
    }
    Ok(text)
}

fn filter(query: &Query) -> Result<DeadLetterFilter, ApiError> {
    query.only(&[
        "provider",
        "subscriptionId",
        "eventType",
        "correlationKey",
        "errorPrefix",
        "outcome",
        "from",
        "until",
    ])?;
    Ok(DeadLetterFilter {
        provider: query
            .one("provider")?
            .map(|name| provider("provider", name))
            .transpose()?,
        subscription: query.parsed("subscriptionId")?,
        event_type: query.one("eventType")?.map(str::to_owned),
        correlation_key: query.one("correlationKey")?.map(str::to_owned),
        error_prefix: query
            .one("errorPrefix")?
            .map(|text| error_prefix("errorPrefix", text.to_owned()))
            .transpose()?,
        outcome: query
            .one("outcome")?
            .map(|name| outcome("outcome", name))
            .transpose()?,
        from: query.instant("from")?,
        until: query.instant("until")?,
    })
}

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetterView {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// When it was given up.
    failed_at: String,
}

impl From<Delivery> for DeadLetterView {
    fn from(delivery: Delivery) -> Self {
        Self {
            failed_at: rfc3339(delivery.updated_at),
            delivery: delivery.into(),
        }
    }
}

/// A dead letter with its event and its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadLetterDetail {
    #[serde(flatten)]
    dead_letter: DeadLetterView,
    event: Option<EventView>,
    /// Oldest first.
    attempt_log: Vec<AttemptView>,
}

/// List dead letters
///
/// By the time of failure, newest first. A page may have fewer items than asked for, or none, and
/// another one after it: follow `next`.
#[utoipa::path(get, path = "/dead-letters", tag = "dead letters",
    params(
        ("provider" = Option<String>, Query),
        ("subscriptionId" = Option<String>, Query),
        ("eventType" = Option<String>, Query, description = "Of this type exactly"),
        ("correlationKey" = Option<String>, Query),
        ("errorPrefix" = Option<String>, Query, description = "Whose last error begins so"),
        ("outcome" = Option<String>, Query, description = "Whose last attempt ended so: `provider_error`, `denied`, `limit_exceeded`, `trap` or `unavailable`"),
        ("from" = Option<String>, Query, description = "Given up at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Given up before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<DeadLetterView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    let (filter, after) = (filter(&query)?, query.cursor_id("dead")?);
    let page = api
        .store
        .dead_letters(&filter, after, query.limit()?)
        .await?;
    let key = |delivery: &Delivery| DeadLetterCursor::from(delivery).to_string();
    Ok(query.answer("dead", page, key, DeadLetterView::from))
}

/// The delivery, when it is a dead letter.
async fn found(api: &Shared, id: DeliveryId) -> Result<Delivery, ApiError> {
    let delivery = api.store.delivery(id).await?;
    let delivery = delivery.ok_or_else(|| ApiError::not_found(format!("delivery {id}")))?;
    if delivery.state != DeliveryState::Failed {
        return Err(not_dead(&delivery));
    }
    Ok(delivery)
}

fn not_dead(delivery: &Delivery) -> ApiError {
    let state = delivery.state.as_str();
    ApiError::conflict(format!("the delivery is {state}: it is no dead letter"))
}

/// Show a dead letter
///
/// With its event and all attempts.
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "dead letters", params(("id" = String, Path, description = "The delivery")),
    responses((status = 200, body = DeadLetterDetail), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<DeliveryId>,
) -> Result<Json<DeadLetterDetail>, ApiError> {
    let delivery = found(&api, id).await?;
    let event = api.store.event(delivery.event_id).await?;
    let attempts = api.store.attempts(id).await?;
    Ok(Json(DeadLetterDetail {
        dead_letter: delivery.into(),
        event: event.map(EventView::from),
        attempt_log: attempts.into_iter().map(AttemptView::from).collect(),
    }))
}

/// Requeue a dead letter
///
/// It is due at once, under its own id, with the full schedule of attempts.
#[utoipa::path(post, path = "/dead-letters/{id}/requeue", tag = "dead letters", params(("id" = String, Path, description = "The delivery")),
    responses((status = 202, body = DeliveryView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn requeue(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<DeliveryId>,
) -> Result<(StatusCode, Json<DeliveryView>), ApiError> {
    let delivery = found(&api, id).await?;
    let now = api.clock.now();
    let entry = caller
        .did(&api, "delivery.requeued", "delivery", id)
        .before(&DeliveryView::from(delivery));
    let store = api.store.audited(entry);
    if !store.requeue_dead_letter(id, now).await? {
        // Unless someone else was faster.
        found(&api, id).await?;
        return Err(ApiError::conflict(
            "the subscription is switched off or deleted: switch it on, or discard the dead letter",
        ));
    }
    api.queue.wake(now);
    changed(&api, id, DeadLetterAction::Requeue)
        .await
        .map(|view| (StatusCode::ACCEPTED, view))
}

/// Why a dead letter is discarded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DiscardInput {
    /// Why, for the record.
    reason: String,
    /// Who decides, for the record; unset: the name of the key.
    requested_by: Option<String>,
}

/// Discard a dead letter
///
/// It stays on record as `discarded`, with who decided so and why, and cannot be retried.
#[utoipa::path(post, path = "/dead-letters/{id}/discard", tag = "dead letters", params(("id" = String, Path, description = "The delivery")),
    request_body = DiscardInput,
    responses((status = 200, body = DeliveryView), (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn discard(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<DeliveryId>,
    Body(input): Body<DiscardInput>,
) -> Result<Json<DeliveryView>, ApiError> {
    let (by, reason) = asked(&caller, input.requested_by, input.reason)?;
    let delivery = found(&api, id).await?;
    let now = api.clock.now();
    let decision = Discarded { by, reason };
    let after = Delivery {
        state: DeliveryState::Discarded,
        discarded: Some(decision.clone()),
        updated_at: now,
        ..delivery.clone()
    };
    let entry = caller
        .did(&api, "delivery.discarded", "delivery", id)
        .before(&DeliveryView::from(delivery))
        .after(&DeliveryView::from(after));
    let store = api.store.audited(entry);
    if !store.discard_dead_letter(id, decision, now).await? {
        let delivery = api.store.delivery(id).await?;
        let delivery = delivery.ok_or_else(|| ApiError::not_found(format!("delivery {id}")))?;
        return Err(not_dead(&delivery));
    }
    changed(&api, id, DeadLetterAction::Discard).await
}

async fn changed(
    api: &Shared,
    id: DeliveryId,
    action: DeadLetterAction,
) -> Result<Json<DeliveryView>, ApiError> {
    api.accepter.metrics.settled(action.as_str(), 1);
    let delivery = api.store.delivery(id).await?;
    let delivery = delivery.ok_or_else(|| ApiError::not_found(format!("delivery {id}")))?;
    Ok(Json(delivery.into()))
}

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
    // What fails from now on is not meant.
    let until = instant("/until", input.until.as_deref())?
        .unwrap_or(now)
        .min(now);
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
        from: instant("/from", input.from.as_deref())?,
        until: Some(until),
    };
    if filter.from.is_some_and(|from| from >= until) {
        return Err(ApiError::field(
            "/from",
            "must be before until, and not in the future",
        ));
    }
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
    let state = query.one("state")?.map(|name| {
        ReplayState::from_name(name)
            .ok_or_else(|| ApiError::field("state", "give running, done or cancelled"))
    });
    let after = query.cursor_id(DeadLetterRunId::PREFIX)?;
    let page = api
        .store
        .dead_letter_runs(state.transpose()?, after, query.limit()?)
        .await?;
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
        DeadLetterAction::Requeue => {
            let outcomes = api.store.dead_letter_outcomes(id).await?;
            let named = outcomes
                .into_iter()
                .map(|(state, count)| (state.as_str(), count));
            Some(named.collect())
        }
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
