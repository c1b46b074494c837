//! Replays: their records, and the deliveries that they make due or create.

use sqlx::{QueryBuilder, Row as _};

use super::dialect::{Db, DbConnection, DbPool, DbRow};
use super::row::{corrupt, event_type_name, parse, state_of, unsigned};
use super::{accept, retention};
use crate::domain::clock::Timestamp;
use crate::domain::id::{EventId, ReplayId, SubscriptionId};
use crate::domain::replay::{Outcomes, Replay, ReplayFilter, ReplayScope, ReplayState};
use crate::store::{AcceptRequest, Page, ReplayStep, Result, Stepped};

/// A message that was to come out long ago, so that the next sweep publishes it.
const UNPUBLISHED: Timestamp = Timestamp(0);

const COLUMNS: &str = "id, requested_by, reason, scope, event_id, event_type, correlation_key, received_from, received_until, subscription_id, state, cursor, events, deliveries, created_at, updated_at";

/// Deliveries whose outcomes are counted.
const OUTCOMES_MAX: i64 = 100_000;

const INSERT: &str = "INSERT INTO replays (id, requested_by, reason, scope, event_id, event_type, correlation_key, received_from, received_until, subscription_id, state, cursor, events, deliveries, created_at, updated_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

/// Parameters: now, the replay, the event, the subscription or NULL, when a broker has it come out
/// or NULL.
const MAKE_DUE: &str = "UPDATE deliveries SET state = 0, attempts = 0, updated_at = $1, replay_id = $2, trigger = 2, queued_at = $1, queued_for = $5, \
       due_at = CASE WHEN EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.paused) THEN NULL ELSE $1 END \
     WHERE event_id = $3 AND state = 4 AND ($4 IS NULL OR subscription_id = $4) \
       AND EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled)";

pub(super) async fn put(connection: &mut DbConnection, replay: Replay) -> Result<()> {
    let filter = replay.filter;
    sqlx::query(INSERT)
        .bind(replay.id.to_string())
        .bind(replay.requested_by)
        .bind(replay.reason)
        .bind(replay.scope.as_str())
        .bind(filter.event.map(|id| id.to_string()))
        .bind(filter.event_type.map(|name| name.as_str().to_owned()))
        .bind(filter.correlation_key)
        .bind(filter.from.map(|at| at.0))
        .bind(filter.until.map(|at| at.0))
        .bind(filter.subscription.map(|id| id.to_string()))
        .bind(replay.state.as_str())
        .bind(replay.cursor.map(|id| id.to_string()))
        .bind(i64::try_from(replay.events).unwrap_or(i64::MAX))
        .bind(i64::try_from(replay.deliveries).unwrap_or(i64::MAX))
        .bind(replay.created_at.0)
        .bind(replay.updated_at.0)
        .execute(connection)
        .await?;
    Ok(())
}

fn from_row(row: &DbRow) -> Result<Replay> {
    let id = |column: &str, text: Option<&str>| text.map(|text| parse(column, text)).transpose();
    let event_type: Option<&str> = row.try_get(5)?;
    let (scope, state): (&str, &str) = (row.try_get(3)?, row.try_get(10)?);
    let at =
        |index: usize| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(index)?.map(Timestamp));
    let subscription: Option<&str> = row.try_get(9)?;
    Ok(Replay {
        id: parse("replays.id", row.try_get(0)?)?,
        requested_by: row.try_get(1)?,
        reason: row.try_get(2)?,
        scope: ReplayScope::from_name(scope)
            .ok_or_else(|| corrupt("replays.scope", &format_args!("holds {scope:?}")))?,
        filter: ReplayFilter {
            event: id("replays.event_id", row.try_get(4)?)?,
            event_type: event_type.map(event_type_name).transpose()?,
            correlation_key: row.try_get(6)?,
            from: at(7)?,
            until: at(8)?,
            subscription: subscription
                .map(|id| parse("replays.subscription_id", id))
                .transpose()?,
        },
        state: ReplayState::from_name(state)
            .ok_or_else(|| corrupt("replays.state", &format_args!("holds {state:?}")))?,
        cursor: id("replays.cursor", row.try_get(11)?)?,
        events: unsigned("replays.events", row.try_get(12)?)?,
        deliveries: unsigned("replays.deliveries", row.try_get(13)?)?,
        created_at: Timestamp(row.try_get(14)?),
        updated_at: Timestamp(row.try_get(15)?),
    })
}

pub(super) async fn one(readers: &DbPool, id: ReplayId) -> Result<Option<Replay>> {
    let row = QueryBuilder::<Db>::new("SELECT ")
        .push(COLUMNS)
        .push(" FROM replays WHERE id = ")
        .push_bind(id.to_string())
        .build()
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(from_row).transpose()
}

pub(super) async fn list(
    readers: &DbPool,
    state: Option<ReplayState>,
    after: Option<ReplayId>,
    limit: usize,
) -> Result<Page<Replay>> {
    let mut query = QueryBuilder::<Db>::new("SELECT ");
    query.push(COLUMNS).push(" FROM replays WHERE TRUE");
    if let Some(state) = state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    if let Some(after) = after {
        query.push(" AND id < ").push_bind(after.to_string());
    }
    let more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    query.push(" ORDER BY id DESC LIMIT ").push_bind(more);
    let rows = query.build().fetch_all(readers).await?;
    Ok(Page {
        items: rows
            .iter()
            .take(limit)
            .map(from_row)
            .collect::<Result<_>>()?,
        more: rows.len() > limit,
        resume: None,
    })
}

pub(super) async fn step(connection: &mut DbConnection, step: ReplayStep) -> Result<Stepped> {
    if super::catalog::epoch_held(connection).await? != step.epoch {
        return Ok(Stepped::StaleCatalog);
    }
    let mut replay = step.replay;
    let expected = replay.cursor;
    replay.cursor = step.cursor.or(expected);
    if step.is_last {
        replay.state = ReplayState::Done;
    }
    // Whoever moves it on first has it; for the others nothing is found.
    let moved = sqlx::query("UPDATE replays SET cursor = $1, state = $2, updated_at = $3 WHERE id = $4 AND state = 'running' AND COALESCE(cursor, '') = $5")
        .bind(replay.cursor.map(|id| id.to_string()))
        .bind(replay.state.as_str())
        .bind(step.at.0)
        .bind(replay.id.to_string())
        .bind(expected.map_or(String::new(), |id| id.to_string()))
        .execute(&mut *connection)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(Stepped::Moved);
    }
    let queued_for = step.is_queued.then_some(UNPUBLISHED);
    let mut made = 0;
    match replay.scope {
        ReplayScope::Failed => {
            for event in &step.events {
                let due = sqlx::query(MAKE_DUE)
                    .bind(step.at.0)
                    .bind(replay.id.to_string())
                    .bind(event.id.to_string())
                    .bind(replay.filter.subscription.map(|id| id.to_string()))
                    .bind(queued_for.map(|at| at.0))
                    .execute(&mut *connection)
                    .await?;
                made += due.rows_affected();
            }
        }
        ReplayScope::All => {
            let ids: Vec<EventId> = step.events.iter().map(|event| event.id).collect();
            // One may have been removed for its age since the page was planned.
            let held = retention::held_events(&mut *connection, &ids).await?;
            let mut deliveries = step.deliveries;
            deliveries.retain(|delivery| held.contains(&delivery.event_id));
            made += u64::try_from(deliveries.len()).unwrap_or(u64::MAX);
            create(
                connection,
                replay.id,
                &step.events,
                deliveries,
                step.epoch,
                step.at,
                queued_for,
            )
            .await?;
        }
    }
    replay.events += u64::try_from(step.events.len()).unwrap_or(u64::MAX);
    replay.deliveries += made;
    replay.updated_at = step.at;
    sqlx::query("UPDATE replays SET events = $1, deliveries = $2 WHERE id = $3")
        .bind(i64::try_from(replay.events).unwrap_or(i64::MAX))
        .bind(i64::try_from(replay.deliveries).unwrap_or(i64::MAX))
        .bind(replay.id.to_string())
        .execute(connection)
        .await?;
    Ok(Stepped::Written(Box::new(replay)))
}

async fn create(
    connection: &mut DbConnection,
    replay: ReplayId,
    events: &[std::sync::Arc<crate::domain::event::Event>],
    deliveries: Vec<crate::domain::delivery::NewDelivery>,
    epoch: crate::store::CatalogEpoch,
    at: Timestamp,
    queued_for: Option<Timestamp>,
) -> Result<()> {
    let request = AcceptRequest {
        events: events.to_vec(),
        deliveries,
        idempotency: None,
        epoch,
        at,
        queued_for,
    };
    accept::insert_deliveries(connection, &[&request]).await?;
    for delivery in &request.deliveries {
        // Parked, where the subscription is paused: it was not yet when accepting alone made them.
        sqlx::query("UPDATE deliveries SET replay_id = $1, trigger = 2 WHERE id = $2")
            .bind(replay.to_string())
            .bind(delivery.id.to_string())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn cancel(
    connection: &mut DbConnection,
    id: ReplayId,
    at: Timestamp,
) -> Result<bool> {
    let done = sqlx::query("UPDATE replays SET state = 'cancelled', updated_at = $1 WHERE id = $2 AND state = 'running'")
        .bind(at.0)
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Of a replay, or of dead letters requeued in bulk.
pub(super) async fn outcomes(readers: &DbPool, id: impl std::fmt::Display) -> Result<Outcomes> {
    let rows = sqlx::query(
        "SELECT state, count(*) FROM (SELECT state FROM deliveries WHERE replay_id = $1 LIMIT $2) AS made GROUP BY state ORDER BY state",
    )
    .bind(id.to_string())
    .bind(OUTCOMES_MAX)
    .fetch_all(readers)
    .await?;
    rows.iter()
        .map(|row| {
            Ok((
                state_of(row.try_get(0)?)?,
                unsigned("count", row.try_get(1)?)?,
            ))
        })
        .collect()
}

pub(super) async fn failed_of(
    readers: &DbPool,
    event: EventId,
    subscription: Option<SubscriptionId>,
) -> Result<u64> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM deliveries WHERE event_id = $1 AND state = 4 AND ($2 IS NULL OR subscription_id = $2)")
        .bind(event.to_string())
        .bind(subscription.map(|id| id.to_string()))
        .fetch_one(readers)
        .await?;
    unsigned("count", count)
}
