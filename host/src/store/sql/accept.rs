//! Accepting: idempotency keys, events and deliveries.

use sqlx::Row as _;

use super::dialect::{self, DbConnection, write_rows};
use super::row::{IN_FLIGHT, PENDING, corrupt};
use crate::domain::delivery::FencingToken;
use crate::domain::event::Event;
use crate::domain::id::EventId;
use crate::store::{AcceptRequest, Accepted, IdempotencyKey, Result};

const INSERT_EVENTS: &str = "INSERT INTO events (id, event_type, payload, occurred_at, received_at, correlation_key, system_ids, trace_parent) {rows}";
const INSERT_DELIVERIES: &str = "INSERT INTO deliveries (id, event_id, event_type, subscription_id, provider, state, due_at, ordering_key, created_at, updated_at, queued_for, token, worker) {rows}";

pub(super) async fn write(
    connection: &mut DbConnection,
    requests: &[&AcceptRequest],
) -> Result<Vec<Accepted>> {
    let epoch = super::catalog::epoch_held(connection).await?;
    let mut answers = Vec::with_capacity(requests.len());
    let mut fresh = Vec::with_capacity(requests.len());
    for request in requests {
        let answer = if request.epoch != epoch {
            Accepted::StaleCatalog
        } else if let Some(key) = &request.idempotency {
            take_key(connection, key, request).await?
        } else {
            Accepted::New
        };
        if answer == Accepted::New {
            fresh.push(*request);
        }
        answers.push(answer);
    }
    insert_events(connection, &fresh).await?;
    insert_deliveries(connection, &fresh).await?;
    Ok(answers)
}

async fn take_key(
    connection: &mut DbConnection,
    key: &IdempotencyKey,
    request: &AcceptRequest,
) -> Result<Accepted> {
    let ids: Vec<String> = request
        .events
        .iter()
        .map(|event| event.id.to_string())
        .collect();
    let taken = sqlx::query("INSERT INTO idempotency_keys (scope, key, body_hash, event_ids, created_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
        .bind(&key.scope)
        .bind(&key.key)
        .bind(&key.body_hash[..])
        .bind(serde_json::Value::from(ids).to_string())
        .bind(request.at.0)
        .execute(&mut *connection)
        .await?;
    if taken.rows_affected() == 0 {
        return earlier(connection, key).await;
    }
    Ok(Accepted::New)
}

/// What the key was used for.
async fn earlier(connection: &mut DbConnection, key: &IdempotencyKey) -> Result<Accepted> {
    let row = sqlx::query(
        "SELECT body_hash, event_ids FROM idempotency_keys WHERE scope = $1 AND key = $2",
    )
    .bind(&key.scope)
    .bind(&key.key)
    .fetch_one(&mut *connection)
    .await?;
    let hash: &[u8] = row.try_get(0)?;
    if hash != key.body_hash {
        return Ok(Accepted::KeyReused);
    }
    let ids: Vec<String> = serde_json::from_str(row.try_get(1)?)
        .map_err(|error| corrupt("idempotency_keys.event_ids", &error))?;
    let ids = ids
        .iter()
        .map(|id| id.parse::<EventId>())
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| corrupt("idempotency_keys.event_ids", &error))?;
    Ok(Accepted::Duplicate(ids))
}

pub(super) async fn insert_events(
    connection: &mut DbConnection,
    requests: &[&AcceptRequest],
) -> Result<()> {
    let events = requests.iter().flat_map(|request| &request.events);
    let rows: Vec<_> = events
        .map(|event| {
            [
                event.id.to_string().into(),
                event.event_type.as_str().into(),
                (&*event.payload).into(),
                event.occurred_at.0.into(),
                event.received_at.0.into(),
                event.correlation_key.as_deref().into(),
                system_ids_json(event).into(),
                event.trace.map(|trace| trace.to_string()).into(),
            ]
        })
        .collect();
    write_rows(connection, INSERT_EVENTS, &rows).await?;
    Ok(())
}

fn system_ids_json(event: &Event) -> String {
    if event.system_ids.is_empty() {
        return "[]".to_owned();
    }
    serde_json::Value::from(event.system_ids.clone()).to_string()
}

pub(super) async fn insert_deliveries(
    connection: &mut DbConnection,
    requests: &[&AcceptRequest],
) -> Result<()> {
    let deliveries = requests.iter().flat_map(|request| {
        let own = request.deliveries.iter();
        own.map(move |delivery| (request, delivery))
    });
    let rows: Vec<_> = deliveries
        .map(|(request, delivery)| {
            let mut events = request.events.iter();
            let event = events.find(|event| event.id == delivery.event_id);
            let lease = delivery.lease;
            [
                delivery.id.to_string().into(),
                delivery.event_id.to_string().into(),
                event.map_or("", |event| event.event_type.as_str()).into(),
                delivery.subscription_id.to_string().into(),
                delivery.provider.as_str().into(),
                lease.map_or(PENDING, |_| IN_FLIGHT).into(),
                lease.map_or(request.at, |lease| lease.until).0.into(),
                delivery.ordering_key.as_deref().into(),
                request.at.0.into(),
                request.at.0.into(),
                request.queued_for.map(|at| at.0).into(),
                lease.map_or(0, |_| FencingToken::FIRST.0).into(),
                lease.map(|lease| lease.worker.to_string()).into(),
            ]
        })
        .collect();
    write_rows(connection, INSERT_DELIVERIES, &rows).await?;
    // What a broker is told of, and what has its lease, needs no other announcement.
    let mut unqueued = requests
        .iter()
        .filter(|request| request.queued_for.is_none())
        .flat_map(|request| &request.deliveries);
    if let Some(announce) = dialect::ANNOUNCE
        && unqueued.any(|delivery| delivery.lease.is_none())
    {
        sqlx::query(announce).execute(connection).await?;
    }
    Ok(())
}
