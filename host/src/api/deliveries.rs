//! The delivery log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Operate, Read};
use super::error::{ApiError, Problem};
use super::extract::Id;
use super::page::{Items, PageParams, Query};
use crate::domain::clock::rfc3339;
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, LogLine};
use crate::domain::id::DeliveryId;
use crate::domain::provider::ProviderId;
use crate::store::DeliveryFilter;

fn filter(query: &Query) -> Result<DeliveryFilter, ApiError> {
    query.only(&[
        "state",
        "eventId",
        "subscriptionId",
        "provider",
        "eventType",
        "from",
        "until",
    ])?;
    let state = |name: &str| {
        DeliveryState::from_name(name).ok_or_else(|| {
            let known = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
            ApiError::field("state", format!("{name:?} is none of {known}"))
        })
    };
    Ok(DeliveryFilter {
        states: query.all("state").map(state).collect::<Result<_, _>>()?,
        event: query.parsed("eventId")?,
        subscription: query.parsed("subscriptionId")?,
        provider: query
            .one("provider")?
            .map(ProviderId::parse)
            .transpose()
            .map_err(|error| ApiError::field("provider", error.to_string()))?,
        event_type: query.one("eventType")?.map(str::to_owned),
        from: query.instant("from")?,
        until: query.instant("until")?,
    })
}

/// A delivery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryView {
    id: String,
    event_id: String,
    event_type: String,
    subscription_id: String,
    provider: String,
    /// `pending`, `in_flight`, `retrying`, `success`, `failed`, `cancelled`, `filtered` (its
    /// subscription's filter did not want the event at the attempt) or `discarded` (a dead letter
    /// that someone decided to leave undelivered).
    state: &'static str,
    /// Attempts of this round; a manual retry begins a new one.
    attempts: u32,
    /// When the next attempt is due.
    next_attempt_at: Option<String>,
    /// What the receiver calls it.
    external_id: Option<String>,
    /// The last failure.
    last_error: Option<String>,
    /// Who decided to leave it undelivered; `updatedAt` says when.
    discarded_by: Option<String>,
    discard_reason: Option<String>,
    created_at: String,
    updated_at: String,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let waiting = matches!(
            delivery.state,
            DeliveryState::Pending | DeliveryState::Retrying
        );
        let (discarded_by, discard_reason) = delivery
            .discarded
            .map(|decision| (decision.by, decision.reason))
            .unzip();
        Self {
            id: delivery.id.to_string(),
            event_id: delivery.event_id.to_string(),
            event_type: delivery.event_type,
            subscription_id: delivery.subscription_id.to_string(),
            provider: delivery.provider.to_string(),
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            next_attempt_at: delivery.due_at.filter(|_| waiting).map(rfc3339),
            external_id: delivery.external_id,
            last_error: delivery.last_error,
            discarded_by,
            discard_reason,
            created_at: rfc3339(delivery.created_at),
            updated_at: rfc3339(delivery.updated_at),
        }
    }
}

/// A line that the provider logged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLineView {
    /// `debug`, `info`, `warn`, `error`, `stdout` or `stderr`.
    level: &'static str,
    message: String,
}

impl From<LogLine> for LogLineView {
    fn from(line: LogLine) -> Self {
        Self {
            level: line.level,
            message: line.message,
        }
    }
}

/// An attempt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttemptView {
    /// 1 for the first ever made.
    number: u32,
    started_at: String,
    latency_ms: f64,
    /// `success`, `provider_error`, `denied`, `limit_exceeded`, `trap` or `unavailable`.
    outcome: &'static str,
    /// The last status that the receiver answered with.
    http_status: Option<u16>,
    provider_version: Option<String>,
    message: String,
    logs: Vec<LogLineView>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: rfc3339(attempt.started_at),
            latency_ms: (attempt.latency.as_secs_f64() * 1e6).round() / 1e3,
            outcome: attempt.outcome.as_str(),
            http_status: attempt.http_status,
            provider_version: attempt.provider_version,
            message: attempt.message,
            logs: attempt.logs.into_iter().map(LogLineView::from).collect(),
        }
    }
}

/// A delivery with its attempts.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryDetail {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// Oldest first.
    attempt_log: Vec<AttemptView>,
}

/// List deliveries
///
/// A page may have fewer items than asked for, or none, and another one after it: follow `next`.
#[utoipa::path(get, path = "/deliveries", tag = "deliveries",
    params(
        ("state" = Option<Vec<String>>, Query, description = "`pending`, `in_flight`, `retrying`, `success`, `failed`, `cancelled`, `filtered` or `discarded`; repeated: any of them"),
        ("eventId" = Option<String>, Query),
        ("subscriptionId" = Option<String>, Query),
        ("provider" = Option<String>, Query),
        ("eventType" = Option<String>, Query, description = "Of this type exactly"),
        ("from" = Option<String>, Query, description = "Created at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Created before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<DeliveryView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    let (filter, after) = (filter(&query)?, query.cursor_id(DeliveryId::PREFIX)?);
    let page = api.store.deliveries(&filter, after, query.limit()?).await?;
    let key = |delivery: &Delivery| delivery.id.to_string();
    Ok(query.answer(DeliveryId::PREFIX, page, key, DeliveryView::from))
}

/// Show a delivery
#[utoipa::path(get, path = "/deliveries/{id}", tag = "deliveries", params(("id" = String, Path)),
    responses((status = 200, body = DeliveryDetail), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<DeliveryId>,
) -> Result<Json<DeliveryDetail>, ApiError> {
    let delivery = api
        .store
        .delivery(id)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("delivery {id}")))?;
    let attempts = api.store.attempts(id).await?;
    Ok(Json(DeliveryDetail {
        delivery: delivery.into(),
        attempt_log: attempts.into_iter().map(AttemptView::from).collect(),
    }))
}

/// Retry a delivery
///
/// Begins a new round with the full schedule, whatever the delivery's state but in flight or
/// discarded.
#[utoipa::path(post, path = "/deliveries/{id}/retry", tag = "deliveries", params(("id" = String, Path)),
    responses((status = 202, body = DeliveryView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn retry(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Id(id): Id<DeliveryId>,
) -> Result<(StatusCode, Json<DeliveryView>), ApiError> {
    let missing = || ApiError::not_found(format!("delivery {id}"));
    let delivery = api.store.delivery(id).await?.ok_or_else(missing)?;
    let snapshot = api.snapshots.current();
    let route = snapshot.routes.get(&delivery.subscription_id);
    if !route.is_some_and(|route| route.subscription.enabled) {
        return Err(ApiError::conflict(
            "the subscription is switched off or deleted: the delivery would be cancelled at once",
        ));
    }
    let now = api.clock.now();
    let entry = caller
        .did(&api, "delivery.retried", "delivery", id)
        .before(&DeliveryView::from(delivery));
    let store = api.store.audited(entry);
    let delivery = store.retry(id, now).await?.ok_or_else(missing)?;
    api.queue.wake(now);
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}
