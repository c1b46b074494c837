//! The work queue: what waits, and the broker's dead queue.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::auth::{Operate, Read};
use super::error::{ApiError, Problem};
use super::extract::Body;
use super::page::{Items, Query};
use crate::queue::broker::{Broker, DeadMessage, Depth, Drain};

/// Deliveries that are counted where there is no broker.
const COUNTED_MAX: u64 = 10_000;
/// Messages that one call drains.
const DRAINED_MAX: u64 = 1_000;
const DRAINED_DEFAULT: u64 = 100;

/// A queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueueView {
    /// `process`, `replay` or `dead`; `store` where there is no broker.
    name: &'static str,
    /// How many messages wait; of the store, deliveries that wait or are in flight, counted up to
    /// 10,000.
    messages: u64,
}

impl From<Depth> for QueueView {
    fn from(depth: Depth) -> Self {
        Self {
            name: depth.queue,
            messages: depth.messages,
        }
    }
}

/// The work queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueuesView {
    /// `connected`, `away` (work is claimed from the store until it is back), or `none`: no broker
    /// is configured.
    broker: &'static str,
    queues: Vec<QueueView>,
}

/// A message of the dead queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeadMessageView {
    /// `null`: the message cannot be read.
    delivery_id: Option<String>,
    subscription_id: Option<String>,
    /// `given_up`: the delivery failed; else why the broker took the message out of its queue:
    /// `delivery_limit` (handed out too often without an answer), `rejected` (unreadable).
    reason: String,
}

impl From<DeadMessage> for DeadMessageView {
    fn from(message: DeadMessage) -> Self {
        let (delivery, subscription) = message.told.unzip();
        Self {
            delivery_id: delivery.map(|id| id.to_string()),
            subscription_id: subscription.map(|id| id.to_string()),
            reason: message.reason,
        }
    }
}

/// What to do with the messages of the dead queue.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DrainInput {
    /// `requeue`: deliveries that failed are due again with a fresh round of attempts; `discard`:
    /// the messages are dropped and the deliveries stay as they are.
    action: String,
    /// At most so many messages, up to 1,000; unset: 100.
    limit: Option<u64>,
}

/// What was drained.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DrainedView {
    /// Messages taken out of the queue.
    messages: u64,
    /// Deliveries that are due again.
    requeued: u64,
}

fn broker(api: &Shared) -> Result<&dyn Broker, ApiError> {
    api.broker.as_deref().ok_or_else(|| {
        ApiError::conflict("no broker is configured: see failed deliveries for what was given up")
    })
}

/// Show the work queue
#[utoipa::path(get, path = "/queues", tag = "queues", responses((status = 200, body = QueuesView)))]
pub(super) async fn list(State(api): State<Shared>, _: Read) -> Result<Json<QueuesView>, ApiError> {
    let Some(broker) = &api.broker else {
        let waiting = QueueView {
            name: "store",
            messages: api.store.backlog(COUNTED_MAX).await?,
        };
        return Ok(Json(QueuesView {
            broker: "none",
            queues: vec![waiting],
        }));
    };
    Ok(Json(QueuesView {
        broker: if broker.is_up() { "connected" } else { "away" },
        queues: broker.depths().into_iter().map(QueueView::from).collect(),
    }))
}

/// Look at the dead queue
///
/// The first messages of the broker's dead queue, which stay in it. The deliveries themselves,
/// with their attempts, are among the deliveries that failed.
#[utoipa::path(get, path = "/queues/dead", tag = "queues",
    params(("limit" = Option<u32>, Query, description = "1 to 200, 50 when absent")),
    responses((status = 200, body = Items<DeadMessageView>), (status = 400, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn dead(
    State(api): State<Shared>,
    _: Read,
    query: Query,
) -> Result<Response, ApiError> {
    query.only(&[])?;
    let messages = broker(&api)?.dead(query.limit()?).await?;
    let items = messages.into_iter().map(DeadMessageView::from).collect();
    Ok(Json(Items { items, next: None }).into_response())
}

/// Drain the dead queue
#[utoipa::path(post, path = "/queues/dead/drain", tag = "queues", request_body = DrainInput,
    responses((status = 200, body = DrainedView), (status = 400, body = Problem), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(super) async fn drain(
    State(api): State<Shared>,
    Operate(caller): Operate,
    Body(input): Body<DrainInput>,
) -> Result<Json<DrainedView>, ApiError> {
    let how = match input.action.as_str() {
        "requeue" => Drain::Requeue,
        "discard" => Drain::Discard,
        _ => {
            return Err(ApiError::field(
                "/action",
                "give \"requeue\" or \"discard\"",
            ));
        }
    };
    let limit = input.limit.unwrap_or(DRAINED_DEFAULT);
    if !(1..=DRAINED_MAX).contains(&limit) {
        return Err(ApiError::field(
            "/limit",
            format!("give 1 to {DRAINED_MAX}"),
        ));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let drained = broker(&api)?.drain(how, limit).await?;
    let view = DrainedView {
        messages: drained.messages,
        requeued: drained.requeued,
    };
    let entry = caller
        .did(&api, "queue.drained", "queue", "dead")
        .after(&serde_json::json!({"action": input.action, "drained": view}));
    api.store.append_audit(vec![entry]).await?;
    Ok(Json(view))
}
