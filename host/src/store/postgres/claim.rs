//! Claiming: leases on due deliveries, with their events. Several processes claim at once: each
//! passes over what another one is just taking (`SKIP LOCKED`).

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::lanes::{self, Cursor, in_order};
use super::outbox;
use super::row::{IN_FLIGHT, event_from_row, parse, trigger_of, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{FencingToken, LeasedDelivery};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, SubscriptionId};
use crate::domain::job::{JobOrigin, JobQueue, Trigger};
use crate::domain::provider::ProviderId;
use crate::store::{Claim, ClaimRequest, Result, StoreError};

macro_rules! lease {
    ($picked:expr) => {
        lease!($picked, "")
    };
    ($picked:expr, $holder:literal) => {
        concat!(
            "WITH picked AS MATERIALIZED (",
            $picked,
            " FOR UPDATE OF d SKIP LOCKED) \
             UPDATE deliveries l SET state = $1, due_at = $2, token = l.token + 1, worker = $3, updated_at = $4, \
               trigger = CASE l.state WHEN 2 THEN 3 ELSE l.trigger END",
            $holder,
            " \
             FROM picked WHERE l.id = picked.id \
             RETURNING l.id, l.event_id, l.subscription_id, l.provider, l.token, l.attempts, l.trigger, COALESCE(l.queued_at, l.created_at), l.replay_id IS NOT NULL"
        )
    };
}

/// In flight with a lapsed lease counts as due: its worker is gone, and this claim is the sweep.
const LEASE_OLDEST: &str = lease!(concat!(
    "SELECT d.id FROM deliveries d WHERE d.due_at IS NOT NULL AND d.queued_for IS NULL AND d.due_at <= $4 AND ",
    in_order!(),
    " ORDER BY d.due_at LIMIT $5"
));
/// Looked at once more under the lock: another process may have taken it since it was picked. `CASE`
/// hides from the planner that the index of all that is due would do: with nothing due when the table
/// was analysed, it would walk through that for a few rows by their id.
pub(super) const LEASE_PICKED: &str = lease!(
    "SELECT d.id FROM deliveries d WHERE d.id = ANY($5) AND CASE WHEN d.queued_for IS NULL THEN d.due_at END <= $4"
);
/// What a broker told of. When the lease lapses, the sweep finds it.
pub(super) const LEASE_TOLD: &str = lease!(
    concat!(
        "SELECT d.id FROM deliveries d WHERE d.id = ANY($5) AND d.due_at <= $4 AND ",
        in_order!()
    ),
    ", queued_for = $2"
);

/// Whether something is due still, and when something else will be.
const OUTLOOK: &str = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE due_at IS NOT NULL AND queued_for IS NULL AND due_at <= $1), \
     (SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL AND queued_for IS NULL AND due_at > $1)";

const EVENTS: &str = "SELECT id, event_type, payload, occurred_at, received_at, correlation_key, system_ids, trace_parent FROM events WHERE id = ANY($1)";
const EXTERNAL_IDS: &str = "SELECT x.subscription_id, x.correlation_key, x.external_id FROM external_ids x \
     JOIN unnest($1::text[], $2::text[]) AS k (subscription_id, correlation_key) \
     ON x.subscription_id = k.subscription_id AND x.correlation_key = k.correlation_key";

/// How a claim came to a delivery.
#[derive(Clone, Copy)]
enum Found {
    /// By looking.
    InStore,
    /// A broker told of it.
    Told,
}

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
    is_replay: bool,
}

/// The statement with the parameters that all of them have.
fn update<'q>(
    statement: &'static str,
    request: &ClaimRequest,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(statement)
        .bind(IN_FLIGHT)
        .bind(request.lease_until.0)
        .bind(request.worker.to_string())
        .bind(request.now.0)
}

/// The rows leased, and whether there were more.
async fn lease(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
) -> Result<(Vec<PgRow>, bool)> {
    if request.caps.is_empty() {
        let rows = update(LEASE_OLDEST, request)
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
    let rows = update(LEASE_PICKED, request)
        .bind(picked.rows)
        .fetch_all(connection)
        .await?;
    Ok((rows, picked.more))
}

/// When there is something to do next, and whether something is held back.
async fn outlook(
    connection: &mut PgConnection,
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
    connection: &mut PgConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
) -> Result<Claim> {
    let (rows, more) = lease(connection, request, cursor).await?;
    let leased = loaded(connection, request, &rows, Found::InStore).await?;
    let (next_due, held_back) = outlook(connection, request.now, more).await?;
    Ok(Claim {
        leased,
        next_due,
        held_back,
        epoch: super::catalog::epoch(&mut *connection).await?,
        is_doubtful: false,
    })
}

/// Leases what a broker told of.
pub(super) async fn write_of(
    connection: &mut PgConnection,
    request: ClaimRequest,
    ids: Vec<DeliveryId>,
) -> Result<Claim> {
    let told = outbox::texts(&ids);
    let rows = update(LEASE_TOLD, &request)
        .bind(&told)
        .fetch_all(&mut *connection)
        .await?;
    let leased = loaded(connection, &request, &rows, Found::Told).await?;
    let rest: Vec<String> = told
        .into_iter()
        .zip(&ids)
        .filter(|(_, id)| {
            leased
                .binary_search_by_key(*id, |leased| leased.id)
                .is_err()
        })
        .map(|(told, _)| told)
        .collect();
    let held_back = !rest.is_empty() && outbox::hold(connection, rest, request.now).await? > 0;
    Ok(Claim {
        leased,
        next_due: None,
        held_back,
        epoch: super::catalog::epoch(&mut *connection).await?,
        is_doubtful: false,
    })
}

/// Rows that were leased, with their events, in the order of their ids.
async fn loaded(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    rows: &[PgRow],
    found: Found,
) -> Result<Vec<LeasedDelivery>> {
    let mut leased = rows
        .iter()
        .map(|row| {
            let attempts: u32 = unsigned("deliveries.attempts", row.try_get(5)?)?;
            Ok(Leased {
                id: parse("deliveries.id", row.try_get(0)?)?,
                event_id: parse("deliveries.event_id", row.try_get(1)?)?,
                subscription_id: parse("deliveries.subscription_id", row.try_get(2)?)?,
                provider: super::row::provider(row.try_get(3)?)?,
                token: FencingToken(row.try_get(4)?),
                attempt: attempts.saturating_add(1),
                trigger: trigger_of(row.try_get(6)?)?,
                queued_at: Timestamp(row.try_get(7)?),
                is_replay: row.try_get(8)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    leased.sort_unstable_by_key(|leased| leased.id);
    let events = load_events(connection, &leased).await?;
    let external_ids = load_external_ids(connection, &leased, &events).await?;
    leased
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
                    queue: match (found, leased.is_replay) {
                        (Found::InStore, _) => JobQueue::Store,
                        (Found::Told, false) => JobQueue::Process,
                        (Found::Told, true) => JobQueue::Replay,
                    },
                    trigger: leased.trigger,
                    queued_at: leased.queued_at,
                    worker: request.worker,
                },
            })
        })
        .collect::<Result<Vec<_>>>()
}

async fn load_events(
    connection: &mut PgConnection,
    leased: &[Leased],
) -> Result<HashMap<EventId, Arc<Event>>> {
    let mut ids: Vec<EventId> = leased.iter().map(|leased| leased.event_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut events = HashMap::with_capacity(ids.len());
    if ids.is_empty() {
        return Ok(events);
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let rows = sqlx::query(EVENTS)
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let event = event_from_row(&row)?;
        events.insert(event.id, Arc::new(event));
    }
    Ok(events)
}

async fn load_external_ids(
    connection: &mut PgConnection,
    leased: &[Leased],
    events: &HashMap<EventId, Arc<Event>>,
) -> Result<HashMap<(SubscriptionId, String), String>> {
    let (subscriptions, keys): (Vec<String>, Vec<String>) = leased
        .iter()
        .filter_map(|leased| {
            let key = events.get(&leased.event_id)?.correlation_key.as_deref()?;
            Some((leased.subscription_id.to_string(), key.to_owned()))
        })
        .unzip();
    let mut found = HashMap::new();
    if keys.is_empty() {
        return Ok(found);
    }
    let rows = sqlx::query(EXTERNAL_IDS)
        .bind(subscriptions)
        .bind(keys)
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let subscription = parse("external_ids.subscription_id", row.try_get(0)?)?;
        found.insert((subscription, row.try_get(1)?), row.try_get(2)?);
    }
    Ok(found)
}
