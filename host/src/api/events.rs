//! Events: emit, list, show.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Emitting, Read};
use super::error::{ApiError, Problem};
use super::extract::{Id, JsonBytes, parse};
use super::page::{Items, PageParams, Query};
use crate::dispatch::accept::{AcceptedEvent, Outcome};
use crate::dispatch::{AcceptError, Emit, EmittedBy, operational};
use crate::domain::clock::{Timestamp, parse_rfc3339, rfc3339};
use crate::domain::delivery::{Delivery, DeliveryState};
use crate::domain::event::Event;
use crate::domain::id::EventId;
use crate::store::{DeliveryFilter, EventFilter, IdempotencyKey};

const BATCH_MAX: usize = 1_000;
const KEY_BYTES_MAX: usize = 255;
const CORRELATION_KEY_BYTES_MAX: usize = 255;
/// Deliveries shown with an event.
const DELIVERIES_SHOWN_MAX: usize = 1_000;

/// An event to accept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct EventInput {
    /// The name of a registered type.
    r#type: String,
    /// A JSON object that fits the type's schema.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
    /// When it happened, RFC 3339; unset: now.
    occurred_at: Option<String>,
    /// Ties follow-up events to the first one; at most 255 bytes.
    correlation_key: Option<String>,
    /// The system concerned.
    system_id: Option<String>,
    /// The systems concerned.
    #[serde(default)]
    system_ids: Vec<String>,
}

/// One event or several.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documents the body, which is read by hand")]
pub(super) enum EmitInput {
    One(Box<EventInput>),
    Batch(Vec<EventInput>),
}

/// An accepted event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AcceptedView {
    id: String,
    r#type: String,
    received_at: String,
    /// Deliveries created.
    deliveries: usize,
}

impl From<AcceptedEvent> for AcceptedView {
    fn from(event: AcceptedEvent) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.event_type,
            received_at: rfc3339(event.received_at),
            deliveries: event.deliveries,
        }
    }
}

/// Emit an event, or a batch of them: all or none
///
/// When the answer is 202, the events are durable. With an `Idempotency-Key` the same body gets
/// 200 and the first answer's ids.
#[utoipa::path(post, path = "/events", tag = "events", request_body = EmitInput,
    params(("idempotency-key" = Option<String>, Header, description = "At most 255 bytes; remembered for two days or longer")),
    responses((status = 202, body = AcceptedView), (status = 200, body = AcceptedView, description = "A duplicate"),
        (status = 400, body = Problem), (status = 413, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn emit(
    State(api): State<Shared>,
    Emitting(key): Emitting,
    headers: HeaderMap,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    let batch = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let inputs = if batch {
        parse::<Vec<EventInput>>(&bytes)?
    } else {
        vec![parse::<EventInput>(&bytes)?]
    };
    if inputs.len() > BATCH_MAX {
        return Err(ApiError::too_large(format!(
            "a batch has at most {BATCH_MAX} events"
        )));
    }
    if inputs.is_empty() {
        return Err(ApiError::field(
            "",
            "an empty batch: send at least one event",
        ));
    }
    let at = |index: usize| {
        if batch {
            format!("/{index}")
        } else {
            String::new()
        }
    };
    let emits = inputs
        .into_iter()
        .enumerate()
        .map(|(index, input)| emit_from(input, &at(index), api.event_bytes_max))
        .collect::<Result<Vec<_>, _>>()?;
    let by = EmittedBy {
        idempotency: idempotency(&headers, key, &bytes)?,
    };
    let outcome = api
        .accepter
        .accept(&emits, by)
        .await
        .map_err(|error| match error {
            AcceptError::Invalid { index, violations } => {
                ApiError::violations(&at(index), violations)
            }
            other => other.into(),
        })?;
    let (status, mut views) = match outcome {
        Outcome::New(events) => (
            StatusCode::ACCEPTED,
            events.into_iter().map(AcceptedView::from).collect(),
        ),
        Outcome::Duplicate(ids) => (StatusCode::OK, duplicates(&api, &ids).await?),
        Outcome::KeyReused => return Err(ApiError::idempotency_key_reused()),
    };
    if batch {
        return Ok((
            status,
            Json(Items {
                items: views,
                next: None,
            }),
        )
            .into_response());
    }
    Ok((status, Json(views.pop())).into_response())
}

fn emit_from(input: EventInput, at: &str, event_bytes_max: usize) -> Result<Emit, ApiError> {
    if input.r#type.starts_with(operational::PREFIX) {
        return Err(ApiError::field(
            format!("{at}/type"),
            format!(
                "names that begin with {} are the gateway's own",
                operational::PREFIX
            ),
        ));
    }
    if input.payload.get().len() > event_bytes_max {
        return Err(ApiError::too_large(format!(
            "{at}/payload: larger than {event_bytes_max} bytes"
        )));
    }
    let occurred_at = input
        .occurred_at
        .as_deref()
        .map(|text| time(text, &format!("{at}/occurredAt")))
        .transpose()?;
    if input
        .correlation_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > CORRELATION_KEY_BYTES_MAX)
    {
        return Err(ApiError::field(
            format!("{at}/correlationKey"),
            format!("give 1 to {CORRELATION_KEY_BYTES_MAX} bytes, or leave it out"),
        ));
    }
    let mut system_ids = input.system_ids;
    system_ids.extend(input.system_id);
    Ok(Emit {
        event_type: input.r#type,
        payload_text: input.payload.get().into(),
        occurred_at,
        correlation_key: input.correlation_key,
        system_ids,
    })
}

/// A time in a request.
fn time(text: &str, field: &str) -> Result<Timestamp, ApiError> {
    parse_rfc3339(text)
        .ok_or_else(|| ApiError::field(field, "write RFC 3339, as in 2026-01-31T08:00:00Z"))
}

fn idempotency(
    headers: &HeaderMap,
    key: crate::domain::id::KeyId,
    body: &[u8],
) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| (1..=KEY_BYTES_MAX).contains(&text.len()));
    let text = text.ok_or_else(|| {
        ApiError::field(
            "Idempotency-Key",
            format!("give 1 to {KEY_BYTES_MAX} visible ASCII characters"),
        )
    })?;
    Ok(Some(IdempotencyKey {
        scope: key.to_string(),
        key: text.to_owned(),
        body_hash: Sha256::digest(body).into(),
    }))
}

async fn duplicates(api: &Shared, ids: &[EventId]) -> Result<Vec<AcceptedView>, ApiError> {
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(event) = api.store.event(*id).await? else {
            continue;
        };
        let deliveries = deliveries_of(api, *id).await?.len();
        views.push(AcceptedView {
            id: event.id.to_string(),
            r#type: event.event_type.as_str().to_owned(),
            received_at: rfc3339(event.received_at),
            deliveries,
        });
    }
    Ok(views)
}

async fn deliveries_of(api: &Shared, id: EventId) -> Result<Vec<Delivery>, ApiError> {
    let filter = DeliveryFilter {
        event: Some(id),
        ..DeliveryFilter::default()
    };
    Ok(api
        .store
        .deliveries(&filter, None, DELIVERIES_SHOWN_MAX)
        .await?
        .items)
}

/// An event as listed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView {
    id: String,
    r#type: String,
    #[schema(value_type = Object)]
    payload: Option<Box<RawValue>>,
    occurred_at: String,
    received_at: String,
    correlation_key: Option<String>,
    system_ids: Vec<String>,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            id: event.id.to_string(),
            r#type: event.event_type.as_str().to_owned(),
            payload: RawValue::from_string(event.payload.to_string()).ok(),
            occurred_at: rfc3339(event.occurred_at),
            received_at: rfc3339(event.received_at),
            correlation_key: event.correlation_key.map(|key| key.to_string()),
            system_ids: event.system_ids,
        }
    }
}

/// List events
///
/// A page may have fewer items than asked for, or none, and another one after it: follow `next`.
#[utoipa::path(get, path = "/events", tag = "events",
    params(
        ("type" = Option<String>, Query, description = "Of this type exactly"),
        ("correlationKey" = Option<String>, Query),
        ("from" = Option<String>, Query, description = "Received at or after, RFC 3339"),
        ("until" = Option<String>, Query, description = "Received before, RFC 3339"),
        PageParams,
    ),
    responses((status = 200, body = Items<EventView>), (status = 400, body = Problem)))]
pub(super) async fn list(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&["type", "correlationKey", "from", "until"])?;
    let filter = EventFilter {
        event_type: query.one("type")?.map(str::to_owned),
        correlation_key: query.one("correlationKey")?.map(str::to_owned),
        from: query.instant("from")?,
        until: query.instant("until")?,
    };
    let after = query.cursor_id(EventId::PREFIX)?;
    let page = api.store.events(&filter, after, query.limit()?).await?;
    let key = |event: &Event| event.id.to_string();
    Ok(query.answer(EventId::PREFIX, page, key, EventView::from))
}

/// A delivery of an event, in short.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventDelivery {
    id: String,
    subscription_id: String,
    state: &'static str,
    attempts: u32,
}

/// An event with its deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventDetail {
    #[serde(flatten)]
    event: EventView,
    /// `unmatched`, `in_progress`, `delivered` or `failed`.
    status: &'static str,
    deliveries: Vec<EventDelivery>,
}

/// Show an event
#[utoipa::path(get, path = "/events/{id}", tag = "events", params(("id" = String, Path)),
    responses((status = 200, body = EventDetail), (status = 404, body = Problem)))]
pub(super) async fn get(
    State(api): State<Shared>,
    _: Read,
    Id(id): Id<EventId>,
) -> Result<Json<EventDetail>, ApiError> {
    let event = api
        .store
        .event(id)
        .await?
        .ok_or_else(|| ApiError::not_found(format!("event {id}")))?;
    let deliveries = deliveries_of(&api, id).await?;
    Ok(Json(EventDetail {
        status: status(&deliveries),
        deliveries: deliveries
            .iter()
            .map(|delivery| EventDelivery {
                id: delivery.id.to_string(),
                subscription_id: delivery.subscription_id.to_string(),
                state: delivery.state.as_str(),
                attempts: delivery.attempts,
            })
            .collect(),
        event: event.into(),
    }))
}

fn status(deliveries: &[Delivery]) -> &'static str {
    let any = |state| deliveries.iter().any(|delivery| delivery.state == state);
    let mut states = deliveries.iter().map(|delivery| delivery.state);
    // What its filter did not want at the attempt might as well not have been matched.
    if states.clone().all(|state| state == DeliveryState::Filtered) {
        "unmatched"
    } else if states.any(|state| !state.is_terminal()) {
        "in_progress"
    } else if any(DeliveryState::Failed)
        || any(DeliveryState::Cancelled)
        || any(DeliveryState::Discarded)
    {
        "failed"
    } else {
        "delivered"
    }
}
