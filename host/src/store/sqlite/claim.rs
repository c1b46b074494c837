//! Claiming: leases on due deliveries, with their events.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::dialect::read_rows;
use super::lanes::{self, Cursor, in_order};
use super::row::{IN_FLIGHT, event_from_row, parse, trigger_of};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{FencingToken, LeasedDelivery};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, SubscriptionId};
use crate::domain::job::{JobOrigin, JobQueue, Trigger};
use crate::domain::provider::ProviderId;
use crate::store::{Claim, ClaimRequest, Result, StoreError};

/// What becomes of a row that is leased.
macro_rules! lease {
    () => {
        "UPDATE deliveries SET state = ?1, due_at = ?2, token = token + 1, worker = ?3, updated_at = ?4, trigger = CASE state WHEN 2 THEN 3 ELSE trigger END WHERE rowid IN "
    };
}
macro_rules! returning {
    () => {
        " RETURNING id, event_id, subscription_id, provider, token, attempts, trigger, COALESCE(queued_at, created_at)"
    };
}

/// In flight with a lapsed lease counts as due: its worker is gone, and this claim is the sweep.
const LEASE_OLDEST: &str = concat!(
    lease!(),
    "(SELECT d.rowid FROM deliveries d WHERE d.due_at IS NOT NULL AND d.due_at <= ?4 AND ",
    in_order!(),
    " ORDER BY d.due_at LIMIT ?5)",
    returning!()
);
const LEASE_PICKED: &str = concat!(lease!(), "(SELECT value FROM json_each(?5))", returning!());

/// Whether something is due still, and when something else will be.
const OUTLOOK: &str = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE due_at IS NOT NULL AND due_at <= ?1), \
     (SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL AND due_at > ?1)";

const EVENTS: &str = "SELECT e.id, e.event_type, e.payload, e.occurred_at, e.received_at, e.correlation_key, e.system_ids, e.trace_parent \
     FROM ({rows}) AS v CROSS JOIN events e WHERE e.id = v.column1";
const EXTERNAL_IDS: &str = "SELECT x.subscription_id, x.correlation_key, x.external_id \
     FROM ({rows}) AS v CROSS JOIN external_ids x WHERE x.subscription_id = v.column1 AND x.correlation_key = v.column2";

/// A leased row before its event is known.
struct Leased {
    id: DeliveryId,
    event_id: EventId,
    subscription_id: SubscriptionId,
    provider: ProviderId,
    token: FencingToken,
    attempt: u32,
    trigger: Trigger,
    queued_at: Timestamp,
}

/// The rows leased, and whether there were more.
async fn lease(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
) -> Result<(Vec<SqliteRow>, bool)> {
    let update = |statement: &'static str| {
        sqlx::query(statement)
            .bind(IN_FLIGHT)
            .bind(request.lease_until.0)
            .bind(request.worker.to_string())
            .bind(request.now.0)
    };
    if request.caps.is_empty() {
        let rows = update(LEASE_OLDEST)
            .bind(i64::try_from(request.limit).unwrap_or(i64::MAX))
            .fetch_all(connection)
            .await?;
        let more = rows.len() >= request.limit;
        return Ok((rows, more));
    }
    let picked = lanes::pick(connection, request, cursor).await?;
    if picked.rows.is_empty() {
        return Ok((Vec::new(), false));
    }
    let rows = update(LEASE_PICKED)
        .bind(serde_json::Value::from(picked.rows).to_string())
        .fetch_all(connection)
        .await?;
    Ok((rows, picked.more))
}

/// When there is something to do next, and whether something is held back.
async fn outlook(
    connection: &mut SqliteConnection,
    now: Timestamp,
    more: bool,
) -> Result<(Option<Timestamp>, bool)> {
    let row = sqlx::query(OUTLOOK)
        .bind(now.0)
        .fetch_one(connection)
        .await?;
    let held_back = row.try_get(0)?;
    let next: Option<i64> = row.try_get(1)?;
    let next = if more && held_back {
        Some(now)
    } else {
        next.map(Timestamp)
    };
    Ok((next, held_back))
}

pub(super) async fn write(
    connection: &mut SqliteConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
) -> Result<Claim> {
    let (rows, more) = lease(connection, request, cursor).await?;
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
                trigger: trigger_of(row.try_get(6)?)?,
                queued_at: Timestamp(row.try_get(7)?),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    leased.sort_unstable_by_key(|leased| leased.id);
    let events = load_events(connection, &leased).await?;
    let external_ids = load_external_ids(connection, &leased, &events).await?;
    let (next_due, held_back) = outlook(connection, request.now, more).await?;
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
                job: JobOrigin {
                    queue: JobQueue::Store,
                    trigger: leased.trigger,
                    queued_at: leased.queued_at,
                    worker: request.worker,
                },
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Claim {
        leased,
        next_due,
        held_back,
        epoch: super::catalog::epoch(&mut *connection).await?,
        is_doubtful: false,
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
    let rows: Vec<_> = ids.iter().map(|id| [id.to_string().into()]).collect();
    for row in read_rows(connection, EVENTS, &rows).await? {
        let event = event_from_row(&row)?;
        events.insert(event.id, Arc::new(event));
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
    let rows: Vec<_> = keys
        .iter()
        .map(|(subscription, key)| [subscription.to_string().into(), (*key).into()])
        .collect();
    for row in read_rows(connection, EXTERNAL_IDS, &rows).await? {
        let subscription = parse("external_ids.subscription_id", row.try_get(0)?)?;
        found.insert((subscription, row.try_get(1)?), row.try_get(2)?);
    }
    Ok(found)
}
