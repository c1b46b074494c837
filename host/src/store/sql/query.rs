//! Listings and details, on the readers.

use sqlx::{AssertSqlSafe, QueryBuilder, Row as _};

use super::dialect::{self, Db, DbPool, DbRow};
use super::row::{DELIVERY_COLUMNS, delivery_from_row, event_from_row, json, state_code, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, LogLine, Outcome};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId};
use crate::store::{DeliveryFilter, EventFilter, Page, Result, StoreError};

const EVENT_COLUMNS: &str =
    "id, event_type, payload, occurred_at, received_at, correlation_key, system_ids, trace_parent";

/// Levels that a log line can have, to turn stored text into the static names of the domain.
const LEVELS: [&str; 6] = ["debug", "info", "warn", "error", "stdout", "stderr"];

pub(super) async fn event(readers: &DbPool, id: EventId) -> Result<Option<Event>> {
    let sql = format!("SELECT {EVENT_COLUMNS} FROM events WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(event_from_row).transpose()
}

pub(super) async fn events(
    readers: &DbPool,
    filter: &EventFilter,
    after: Option<EventId>,
    limit: usize,
) -> Result<Page<Event>> {
    let mut query = events_query(filter, after, limit);
    let rows = query.build().fetch_all(readers).await?;
    page(&rows, limit, event_from_row)
}

fn events_query(filter: &EventFilter, after: Option<EventId>, limit: usize) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!("SELECT {EVENT_COLUMNS} FROM events WHERE TRUE"));
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if let Some(key) = &filter.correlation_key {
        query
            .push(" AND correlation_key IS NOT NULL AND correlation_key = ")
            .push_bind(key.clone());
    }
    push_time(&mut query, EventId::PREFIX, filter.from, filter.until);
    push_page(&mut query, after.map(|id| id.to_string()), limit);
    query
}

/// Identifiers are ordered by time, so that a range of time is a range of the primary key.
fn push_time(
    query: &mut QueryBuilder<Db>,
    prefix: &str,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) {
    let bound = |at: Timestamp| {
        let ms = u64::try_from(at.0).unwrap_or(0).min((1 << 48) - 1);
        format!("{prefix}_{}", ulid::Ulid::from_parts(ms, 0))
    };
    if let Some(from) = from {
        query.push(" AND id >= ").push_bind(bound(from));
    }
    if let Some(until) = until {
        query.push(" AND id < ").push_bind(bound(until));
    }
}

fn push_page(query: &mut QueryBuilder<Db>, after: Option<String>, limit: usize) {
    if let Some(after) = after {
        query.push(" AND id < ").push_bind(after);
    }
    // One more than asked for tells whether there is another page.
    query
        .push(" ORDER BY id DESC LIMIT ")
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
}

fn page<T>(rows: &[DbRow], limit: usize, convert: impl Fn(&DbRow) -> Result<T>) -> Result<Page<T>> {
    let items = rows
        .iter()
        .take(limit)
        .map(convert)
        .collect::<Result<_>>()?;
    Ok(Page {
        items,
        more: rows.len() > limit,
    })
}

pub(super) async fn delivery(readers: &DbPool, id: DeliveryId) -> Result<Option<Delivery>> {
    let sql = format!("SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(id.to_string())
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(delivery_from_row).transpose()
}

pub(super) async fn deliveries(
    readers: &DbPool,
    filter: &DeliveryFilter,
    after: Option<DeliveryId>,
    limit: usize,
) -> Result<Page<Delivery>> {
    let mut query = deliveries_query(filter, after, limit);
    let rows = query.build().fetch_all(readers).await?;
    page(&rows, limit, delivery_from_row)
}

pub(super) fn deliveries_query(
    filter: &DeliveryFilter,
    after: Option<DeliveryId>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!(
        "SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE TRUE"
    ));
    if let Some(event) = filter.event {
        query.push(" AND event_id = ").push_bind(event.to_string());
    }
    if let Some(subscription) = filter.subscription {
        query
            .push(" AND subscription_id = ")
            .push_bind(subscription.to_string());
    }
    if let Some(provider) = &filter.provider {
        query
            .push(" AND provider = ")
            .push_bind(provider.as_str().to_owned());
    }
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if filter.states == [DeliveryState::Failed] {
        // As a literal, so that the partial index of dead letters serves it.
        query.push(" AND state = 4");
    } else if !filter.states.is_empty() {
        query.push(" AND state IN (");
        let mut states = query.separated(", ");
        for state in &filter.states {
            states.push_bind(state_code(*state));
        }
        query.push(")");
        if !filter.states.iter().any(|state| state.is_terminal()) {
            // Through the index of what has work left: the history may be long.
            query.push(dialect::WITH_WORK_LEFT);
        }
    }
    push_time(&mut query, DeliveryId::PREFIX, filter.from, filter.until);
    push_page(&mut query, after.map(|id| id.to_string()), limit);
    query
}

pub(super) async fn attempts(readers: &DbPool, id: DeliveryId) -> Result<Vec<Attempt>> {
    let rows = sqlx::query("SELECT number, started_at, latency_us, outcome, http_status, provider_version, message, logs FROM attempts WHERE delivery_id = $1 ORDER BY number")
        .bind(id.to_string())
        .fetch_all(readers)
        .await?;
    rows.iter().map(attempt_from_row).collect()
}

fn attempt_from_row(row: &DbRow) -> Result<Attempt> {
    let outcome: &str = row.try_get(3)?;
    let logs: Option<&str> = row.try_get(7)?;
    let lines: Vec<[String; 2]> =
        logs.map_or(Ok(Vec::new()), |logs| json("attempts.logs", logs))?;
    Ok(Attempt {
        number: unsigned("attempts.number", row.try_get(0)?)?,
        started_at: Timestamp(row.try_get(1)?),
        latency: std::time::Duration::from_micros(
            u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0),
        ),
        outcome: Outcome::from_name(outcome)
            .ok_or_else(|| StoreError::Corrupt(format!("attempts.outcome holds {outcome:?}")))?,
        http_status: row
            .try_get::<Option<i64>, _>(4)?
            .map(|status| unsigned("attempts.http_status", status))
            .transpose()?,
        provider_version: row.try_get(5)?,
        message: row.try_get(6)?,
        logs: lines
            .into_iter()
            .map(|[level, message]| LogLine {
                level: LEVELS
                    .into_iter()
                    .find(|name| *name == level)
                    .unwrap_or("info"),
                message,
            })
            .collect(),
    })
}

pub(super) async fn backlog(readers: &DbPool, at_most: u64) -> Result<u64> {
    let count: i64 = sqlx::query_scalar(dialect::BACKLOG)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
        .fetch_one(readers)
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// One look at the claim index, however long the backlog.
pub(super) async fn oldest_due(readers: &DbPool) -> Result<Option<Timestamp>> {
    let due: Option<i64> =
        sqlx::query_scalar("SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL")
            .fetch_one(readers)
            .await?;
    Ok(due.map(Timestamp))
}
