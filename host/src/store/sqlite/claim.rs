//! Claiming: leases on due deliveries, with their events.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{Row as _, SqliteConnection};

use super::batch::{chunks, statement};
use super::row::{IN_FLIGHT, event_from_row, parse};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{FencingToken, LeasedDelivery};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, SubscriptionId};
use crate::domain::provider::ProviderId;
use crate::store::{Claim, ClaimRequest, Result, StoreError};

/// A delivery with an ordering key waits for every earlier one of its key that has work left.
/// In flight with a lapsed lease counts as due: its worker is gone.
const LEASE: &str = "UPDATE deliveries SET state = ?1, due_at = ?2, token = token + 1, worker = ?3, updated_at = ?4 \
     WHERE rowid IN (SELECT d.rowid FROM deliveries d WHERE d.due_at IS NOT NULL AND d.due_at <= ?4 \
       AND (d.ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM deliveries e \
            WHERE e.ordering_key = d.ordering_key AND e.ordering_key IS NOT NULL AND e.state <= 2 AND e.id < d.id)) \
       AND d.subscription_id NOT IN (SELECT value FROM json_each(?6)) \
       ORDER BY d.due_at LIMIT ?5) \
     RETURNING id, event_id, subscription_id, provider, token, attempts";

const EVENTS: &str = "SELECT id, event_type, payload, occurred_at, received_at, correlation_key, system_ids FROM events WHERE (id) IN (VALUES {rows})";
const EXTERNAL_IDS: &str = "SELECT x.subscription_id, x.correlation_key, x.external_id FROM external_ids x WHERE (x.subscription_id, x.correlation_key) IN (VALUES {rows})";

/// A leased row before its event is known.
struct Leased {
    id: DeliveryId,
    event_id: EventId,
    subscription_id: SubscriptionId,
    provider: ProviderId,
    token: FencingToken,
    attempt: u32,
}

pub(super) async fn write(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
) -> Result<Claim> {
    let exclude: Vec<String> = request.exclude.iter().map(ToString::to_string).collect();
    let rows = sqlx::query(LEASE)
        .bind(IN_FLIGHT)
        .bind(request.lease_until.0)
        .bind(request.worker.to_string())
        .bind(request.now.0)
        .bind(i64::try_from(request.limit).unwrap_or(i64::MAX))
        .bind(serde_json::Value::from(exclude).to_string())
        .fetch_all(&mut *connection)
        .await?;
    let mut leased = rows
        .iter()
        .map(|row| {
            let attempts: u32 = row.try_get(5)?;
            Ok(Leased {
                id: parse("deliveries.id", row.try_get(0)?)?,
                event_id: parse("deliveries.event_id", row.try_get(1)?)?,
                subscription_id: parse("deliveries.subscription_id", row.try_get(2)?)?,
                provider: super::row::provider(row.try_get(3)?)?,
                token: FencingToken(row.try_get(4)?),
                attempt: attempts.saturating_add(1),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    leased.sort_unstable_by_key(|leased| leased.id);
    let events = load_events(connection, &leased).await?;
    let external_ids = load_external_ids(connection, &leased, &events).await?;
    let next_due: Option<i64> = sqlx::query_scalar(
        "SELECT due_at FROM deliveries WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let leased = leased
        .into_iter()
        .map(|leased| {
            let event = events.get(&leased.event_id).ok_or_else(|| {
                StoreError::Corrupt(format!("{} has no event {}", leased.id, leased.event_id))
            })?;
            let key = event
                .correlation_key
                .as_ref()
                .map(|key| (leased.subscription_id, key.to_string()));
            Ok(LeasedDelivery {
                id: leased.id,
                token: leased.token,
                subscription_id: leased.subscription_id,
                provider: leased.provider,
                attempt: leased.attempt,
                event: event.clone(),
                external_id: key.and_then(|key| external_ids.get(&key).cloned()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Claim {
        leased,
        next_due: next_due.map(Timestamp),
        epoch: super::catalog::epoch(&mut *connection).await?,
    })
}

async fn load_events(
    connection: &mut SqliteConnection,
    leased: &[Leased],
) -> Result<HashMap<EventId, Arc<Event>>> {
    let mut ids: Vec<EventId> = leased.iter().map(|leased| leased.event_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut events = HashMap::with_capacity(ids.len());
    for chunk in chunks(&ids) {
        let mut query = sqlx::query(statement(EVENTS, 1, chunk.len()));
        for id in chunk {
            query = query.bind(id.to_string());
        }
        for row in query.fetch_all(&mut *connection).await? {
            let event = event_from_row(&row)?;
            events.insert(event.id, Arc::new(event));
        }
    }
    Ok(events)
}

async fn load_external_ids(
    connection: &mut SqliteConnection,
    leased: &[Leased],
    events: &HashMap<EventId, Arc<Event>>,
) -> Result<HashMap<(SubscriptionId, String), String>> {
    let keys: Vec<(SubscriptionId, &str)> = leased
        .iter()
        .filter_map(|leased| {
            let key = events.get(&leased.event_id)?.correlation_key.as_deref()?;
            Some((leased.subscription_id, key))
        })
        .collect();
    let mut found = HashMap::new();
    for chunk in chunks(&keys) {
        let mut query = sqlx::query(statement(EXTERNAL_IDS, 2, chunk.len()));
        for (subscription, key) in chunk {
            query = query.bind(subscription.to_string()).bind(*key);
        }
        for row in query.fetch_all(&mut *connection).await? {
            let subscription = parse("external_ids.subscription_id", row.try_get(0)?)?;
            found.insert((subscription, row.try_get(1)?), row.try_get(2)?);
        }
    }
    Ok(found)
}
