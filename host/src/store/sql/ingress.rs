//! Inbound webhooks, their events and what was refused.

use sqlx::{QueryBuilder, Row as _};

use super::accept;
use super::dialect::{self, Db, DbConnection, DbPool, DbRow};
use super::listing;
use super::row::{corrupt, json, parse};
use crate::domain::clock::Timestamp;
use crate::domain::id::{EventId, SourceId, WebhookId};
use crate::domain::source::{InboundWebhook, Rejection, WebhookState};
use crate::store::{
    AcceptRequest, Page, ReceiveRequest, Received, Result, StoreError, WebhookFilter,
};

/// Rejections kept of one source.
const REJECTIONS_MAX: i64 = 50;
const COLUMNS: &str =
    "id, source_id, received_at, remote_address, query, headers, state, reason, event_ids";

fn state_code(state: WebhookState) -> i64 {
    match state {
        WebhookState::Accepted => 0,
        WebhookState::Duplicate => 1,
        WebhookState::Ignored => 2,
        WebhookState::Failed => 3,
    }
}

fn state_of(code: i64) -> Result<WebhookState> {
    WebhookState::ALL
        .into_iter()
        .find(|state| state_code(*state) == code)
        .ok_or_else(|| StoreError::Corrupt(format!("inbound_webhooks.state holds {code}")))
}

pub(super) async fn write(
    connection: &mut DbConnection,
    requests: &[&ReceiveRequest],
) -> Result<Vec<Received>> {
    let epoch = super::catalog::epoch_held(connection).await?;
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.push(if request.epoch == epoch {
            receive(connection, request).await?
        } else {
            Received::StaleCatalog
        });
    }
    Ok(answers)
}

async fn receive(connection: &mut DbConnection, request: &ReceiveRequest) -> Result<Received> {
    let at = request.webhook.received_at;
    let mut events = Vec::with_capacity(request.events.len());
    let mut fresh = AcceptRequest {
        events: Vec::new(),
        deliveries: Vec::new(),
        idempotency: None,
        epoch: request.epoch,
        at,
        queued_for: request.queued_for,
    };
    for keyed in &request.events {
        match take_key(connection, &keyed.key, keyed.event.id, at).await? {
            Some(earlier) => events.push(earlier),
            None => {
                events.push(keyed.event.id);
                fresh.events.push(keyed.event.clone());
                let own = request
                    .deliveries
                    .iter()
                    .filter(|delivery| delivery.event_id == keyed.event.id);
                fresh.deliveries.extend(own.cloned());
            }
        }
    }
    if request.events.is_empty() {
        // Known to be accepted before, if there are any.
        events.clone_from(&request.webhook.events);
    }
    let state = match (request.events.is_empty(), fresh.events.is_empty()) {
        (true, _) => request.webhook.state,
        (false, true) => WebhookState::Duplicate,
        (false, false) => WebhookState::Accepted,
    };
    accept::insert_events(connection, &[&fresh]).await?;
    accept::insert_deliveries(connection, &[&fresh]).await?;
    insert(connection, &request.webhook, state, &events).await?;
    Ok(Received::Done { state, events })
}

/// Takes `key` for `event`, or says which event has it.
async fn take_key(
    connection: &mut DbConnection,
    key: &str,
    event: EventId,
    at: Timestamp,
) -> Result<Option<EventId>> {
    let taken = sqlx::query(
        "INSERT INTO inbound_keys (key, event_id, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(key)
    .bind(event.to_string())
    .bind(at.0)
    .execute(&mut *connection)
    .await?;
    if taken.rows_affected() > 0 {
        return Ok(None);
    }
    let earlier: String = sqlx::query_scalar("SELECT event_id FROM inbound_keys WHERE key = $1")
        .bind(key)
        .fetch_one(&mut *connection)
        .await?;
    parse("inbound_keys.event_id", &earlier).map(Some)
}

async fn insert(
    connection: &mut DbConnection,
    webhook: &InboundWebhook,
    state: WebhookState,
    events: &[EventId],
) -> Result<()> {
    let body: &[u8] = match state {
        WebhookState::Duplicate => &[],
        _ => &webhook.body,
    };
    let headers = serde_json::to_string(&webhook.headers)
        .map_err(|error| corrupt("inbound_webhooks.headers", &error))?;
    let events: Vec<String> = events.iter().map(ToString::to_string).collect();
    sqlx::query("INSERT INTO inbound_webhooks (id, source_id, received_at, remote_address, query, headers, body, state, reason, event_ids) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, event_ids = excluded.event_ids")
        .bind(webhook.id.to_string())
        .bind(webhook.source.to_string())
        .bind(webhook.received_at.0)
        .bind(webhook.remote_address.to_string())
        .bind(&webhook.query)
        .bind(headers)
        .bind(body)
        .bind(state_code(state))
        .bind(&webhook.reason)
        .bind(serde_json::Value::from(events).to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Columns: [`COLUMNS`], then the body where it was asked for.
fn webhook_from_row(row: &DbRow) -> Result<InboundWebhook> {
    let events: Vec<String> = json("inbound_webhooks.event_ids", row.try_get(8)?)?;
    let body: Option<&[u8]> = row.try_get("body").ok();
    Ok(InboundWebhook {
        id: parse("inbound_webhooks.id", row.try_get(0)?)?,
        source: parse("inbound_webhooks.source_id", row.try_get(1)?)?,
        received_at: Timestamp(row.try_get(2)?),
        remote_address: parse("inbound_webhooks.remote_address", row.try_get(3)?)?,
        query: row.try_get(4)?,
        headers: json("inbound_webhooks.headers", row.try_get(5)?)?,
        body: body.unwrap_or_default().to_vec().into(),
        state: state_of(row.try_get(6)?)?,
        reason: row.try_get(7)?,
        events: events
            .iter()
            .map(|id| parse("inbound_webhooks.event_ids", id))
            .collect::<Result<_>>()?,
    })
}

pub(super) async fn webhook(readers: &DbPool, id: WebhookId) -> Result<Option<InboundWebhook>> {
    let row = QueryBuilder::<Db>::new("SELECT ")
        .push(COLUMNS)
        .push(", body FROM inbound_webhooks WHERE id = ")
        .push_bind(id.to_string())
        .build()
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(webhook_from_row).transpose()
}

pub(super) async fn webhooks(
    readers: &DbPool,
    filter: &WebhookFilter,
    after: Option<WebhookId>,
    limit: usize,
) -> Result<Page<InboundWebhook>> {
    let after = after.map(|id| id.to_string());
    let floor = match filter.state {
        None => None,
        Some(_) => listing::floor(readers, webhooks_led(filter, after.as_deref())).await?,
    };
    let mut query = webhooks_query(filter, after.as_deref(), floor.as_deref(), limit);
    let rows = query.build().fetch_all(readers).await?;
    listing::page(&rows, limit, floor, webhook_from_row)
}

/// What a page may look at, where only some of a source's, or of all, are wanted.
pub(super) fn webhooks_led(filter: &WebhookFilter, after: Option<&str>) -> QueryBuilder<Db> {
    let mut led = QueryBuilder::new("SELECT id FROM inbound_webhooks WHERE TRUE");
    push_webhooks(&mut led, filter, after);
    led
}

fn push_webhooks(query: &mut QueryBuilder<Db>, filter: &WebhookFilter, after: Option<&str>) {
    if let Some(source) = filter.source {
        query
            .push(" AND source_id = ")
            .push_bind(source.to_string());
    }
    // An identifier is made when its webhook is received.
    listing::push_time(query, "id", WebhookId::PREFIX, (filter.from, filter.until));
    listing::push_after(query, "id", after);
}

pub(super) fn webhooks_query(
    filter: &WebhookFilter,
    after: Option<&str>,
    floor: Option<&str>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!("SELECT {COLUMNS} FROM inbound_webhooks WHERE TRUE"));
    push_webhooks(&mut query, filter, after);
    if let Some(state) = filter.state {
        query.push(" AND state = ").push_bind(state_code(state));
    }
    listing::push_floor(&mut query, "id", floor);
    listing::push_order(&mut query, "id DESC", limit);
    query
}

pub(super) async fn reject(connection: &mut DbConnection, rejection: Rejection) -> Result<()> {
    sqlx::query(
        "INSERT INTO source_rejections (source_id, at, remote_address, reason) VALUES ($1, $2, $3, $4)",
    )
    .bind(rejection.source.to_string())
    .bind(rejection.at.0)
    .bind(rejection.remote_address.to_string())
    .bind(&rejection.reason)
    .execute(&mut *connection)
    .await?;
    sqlx::query(dialect::FORGET_REJECTIONS)
        .bind(rejection.source.to_string())
        .bind(REJECTIONS_MAX)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

pub(super) async fn rejections(readers: &DbPool, source: SourceId) -> Result<Vec<Rejection>> {
    let rows = sqlx::query(dialect::REJECTIONS)
        .bind(source.to_string())
        .fetch_all(readers)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Rejection {
                source,
                at: Timestamp(row.try_get(0)?),
                remote_address: parse("source_rejections.remote_address", row.try_get(1)?)?,
                reason: row.try_get(2)?,
            })
        })
        .collect()
}
