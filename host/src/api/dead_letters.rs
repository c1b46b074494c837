//! Dead letters: deliveries that were given up, and what is decided about them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Operate, Read};
use super::deliveries::{AttemptView, DeliveryView};
use super::error::{ApiError, Problem};
use super::events::EventView;
use super::extract::{Body, Id};
use super::page::{Items, PageParams, Query};
use super::replays::asked;
use crate::domain::clock::rfc3339;
use crate::domain::dead_letter::{DeadLetterAction, DeadLetterCursor, DeadLetterFilter};
use crate::domain::delivery::{Delivery, DeliveryState, Discarded, Outcome};
use crate::domain::id::DeliveryId;
use crate::domain::provider::ProviderId;

const ERROR_PREFIX_BYTES_MAX: usize = 500;

pub(super) fn outcome(field: &str, name: &str) -> Result<Outcome, ApiError> {
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

pub(super) fn provider(field: &str, name: &str) -> Result<ProviderId, ApiError> {
    ProviderId::parse(name).map_err(|error| ApiError::field(field, error.to_string()))
}

pub(super) fn error_prefix(field: &str, text: String) -> Result<String, ApiError> {
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
