//! The delivery log.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::auth::{Operate, Read};
use super::error::{ApiError, Problem};
use super::events::time;
use super::extract::{Id, Params};
use super::page::{self, Items, PageParams};
use crate::domain::clock::rfc3339;
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, LogLine};
use crate::domain::id::DeliveryId;
use crate::domain::provider::ProviderId;
use crate::store::DeliveryFilter;

/// Which deliveries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryParams {
    /// `pending`, `in_flight`, `retrying`, `success`, `failed`, `cancelled`; several with commas.
    state: Option<String>,
    event_id: Option<String>,
    subscription_id: Option<String>,
    provider: Option<String>,
    event_type: Option<String>,
    /// Created at or after, RFC 3339.
    from: Option<String>,
    /// Created before, RFC 3339.
    until: Option<String>,
}

impl DeliveryParams {
    fn filter(self) -> Result<DeliveryFilter, ApiError> {
        let states = self
            .state
            .as_deref()
            .unwrap_or("")
            .split(',')
            .filter(|name| !name.is_empty());
        let states = states
            .map(|name| {
                DeliveryState::from_name(name).ok_or_else(|| {
                    let known: Vec<&str> = DeliveryState::ALL
                        .into_iter()
                        .map(DeliveryState::as_str)
                        .collect();
                    ApiError::field("state", format!("{name:?} is none of {}", known.join(", ")))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(DeliveryFilter {
            states,
            event: parsed(self.event_id.as_deref(), "eventId")?,
            subscription: parsed(self.subscription_id.as_deref(), "subscriptionId")?,
            provider: self
                .provider
                .map(|id| {
                    ProviderId::parse(&id)
                        .map_err(|error| ApiError::field("provider", error.to_string()))
                })
                .transpose()?,
            event_type: self.event_type,
            from: self
                .from
                .as_deref()
                .map(|text| time(text, "from"))
                .transpose()?,
            until: self
                .until
                .as_deref()
                .map(|text| time(text, "until"))
                .transpose()?,
        })
    }
}

fn parsed<T>(text: Option<&str>, field: &str) -> Result<Option<T>, ApiError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.map(str::parse)
        .transpose()
        .map_err(|error: T::Err| ApiError::field(field, error.to_string()))
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
    /// `pending`, `in_flight`, `retrying`, `success`, `failed` or `cancelled`.
    state: &'static str,
    /// Attempts of this round; a manual retry begins a new one.
    attempts: u32,
    /// When the next attempt is due.
    next_attempt_at: Option<String>,
    /// What the receiver calls it.
    external_id: Option<String>,
    /// The last failure.
    last_error: Option<String>,
    created_at: String,
    updated_at: String,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let waiting = matches!(
            delivery.state,
            DeliveryState::Pending | DeliveryState::Retrying
        );
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
#[utoipa::path(get, path = "/deliveries", tag = "deliveries", params(DeliveryParams, PageParams),
    responses((status = 200, body = Items<DeliveryView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    uri: Uri,
    Params(params): Params<DeliveryParams>,
    Params(at): Params<PageParams>,
) -> Result<Response, ApiError> {
    let filter = params.filter()?;
    let found = api
        .store
        .deliveries(&filter, at.after()?, at.limit()?)
        .await?;
    let last = found
        .items
        .last()
        .map(|delivery| delivery.id)
        .filter(|_| found.more);
    Ok(page::answer(
        &uri,
        found.items.into_iter().map(DeliveryView::from).collect(),
        last,
    ))
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
/// Begins a new round with the full schedule, whatever the delivery's state but in flight.
#[utoipa::path(post, path = "/deliveries/{id}/retry", tag = "deliveries", params(("id" = String, Path)),
    responses((status = 202, body = DeliveryView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn retry(
    State(api): State<Shared>,
    _: Operate,
    Id(id): Id<DeliveryId>,
) -> Result<(StatusCode, Json<DeliveryView>), ApiError> {
    let now = api.clock.now();
    let delivery = api
        .store
        .retry(id, now)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("delivery {id}")))?;
    api.queue.wake(now);
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}
