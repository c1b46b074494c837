//! Dead letters: deliveries in state 4, gone through by `deliveries_dead` (time of failure, id).

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Row as _};

use super::dialect::{self, Db, DbConnection, DbPool, DbRow};
use super::listing::{page, push_after, push_order};
use super::row::{DELIVERY_COLUMNS, corrupt, delivery_from_row, json, parse, provider, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::{
    DeadLetterAction, DeadLetterCursor, DeadLetterFilter, DeadLetterRun,
};
use crate::domain::delivery::{Delivery, Discarded, Outcome};
use crate::domain::id::{DeadLetterRunId, DeliveryId};
use crate::domain::replay::ReplayState;
use crate::store::{Page, Result, StoreError};

/// Dead letters that a page looks at where a filter says more than the index: each may cost a look
/// at its last attempt.
const LOOK: i64 = 5_000;
const RUN_COLUMNS: &str = "id, action, requested_by, reason, filter, state, cursor_at, cursor_id, changed, created_at, updated_at";

/// A filter as stored: JSON in one column.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StoredFilter {
    provider: Option<String>,
    subscription: Option<String>,
    event_type: Option<String>,
    correlation_key: Option<String>,
    error_prefix: Option<String>,
    outcome: Option<String>,
    from: Option<i64>,
    until: Option<i64>,
}

fn stored(filter: &DeadLetterFilter) -> Result<String> {
    let filter = StoredFilter {
        provider: filter.provider.as_ref().map(ToString::to_string),
        subscription: filter.subscription.map(|id| id.to_string()),
        event_type: filter.event_type.clone(),
        correlation_key: filter.correlation_key.clone(),
        error_prefix: filter.error_prefix.clone(),
        outcome: filter.outcome.map(|outcome| outcome.as_str().to_owned()),
        from: filter.from.map(|at| at.0),
        until: filter.until.map(|at| at.0),
    };
    serde_json::to_string(&filter).map_err(|error| corrupt(FILTER, &error))
}

const FILTER: &str = "dead_letter_runs.filter";

fn filter_of(text: &str) -> Result<DeadLetterFilter> {
    let stored: StoredFilter = json(FILTER, text)?;
    let outcome = |name: String| {
        Outcome::from_name(&name).ok_or_else(|| corrupt(FILTER, &format_args!("holds {name:?}")))
    };
    Ok(DeadLetterFilter {
        provider: stored.provider.as_deref().map(provider).transpose()?,
        subscription: stored
            .subscription
            .map(|id| parse(FILTER, &id))
            .transpose()?,
        event_type: stored.event_type,
        correlation_key: stored.correlation_key,
        error_prefix: stored.error_prefix,
        outcome: stored.outcome.map(outcome).transpose()?,
        from: stored.from.map(Timestamp),
        until: stored.until.map(Timestamp),
    })
}

fn push_place(
    query: &mut QueryBuilder<Db>,
    operator: &'static str,
    place: Option<DeadLetterCursor>,
) {
    if let Some(place) = place {
        // The time alone as well: a planner does not estimate what a row's comparison leaves.
        query
            .push(" AND updated_at ")
            .push(operator.trim_end_matches('='))
            .push("= ")
            .push_bind(place.failed_at.0)
            .push(" AND (updated_at, id) ")
            .push(operator)
            .push(" (")
            .push_bind(place.failed_at.0)
            .push(", ")
            .push_bind(place.id.to_string())
            .push(")");
    }
}

fn push_range(
    query: &mut QueryBuilder<Db>,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterCursor>,
) {
    if let Some(from) = filter.from {
        query.push(" AND updated_at >= ").push_bind(from.0);
    }
    if let Some(until) = filter.until {
        query.push(" AND updated_at < ").push_bind(until.0);
    }
    push_place(query, "<", after);
}

/// What a page may look at, where it has to be bounded: few events share a correlation key.
pub(super) fn led(
    filter: &DeadLetterFilter,
    after: Option<DeadLetterCursor>,
) -> Option<QueryBuilder<Db>> {
    let says_more = filter.provider.is_some()
        || filter.subscription.is_some()
        || filter.event_type.is_some()
        || filter.error_prefix.is_some()
        || filter.outcome.is_some();
    if !says_more || filter.correlation_key.is_some() {
        return None;
    }
    let mut led = QueryBuilder::new("SELECT updated_at, id FROM deliveries WHERE state = 4");
    push_range(&mut led, filter, after);
    led.push(" ORDER BY updated_at DESC, id DESC LIMIT 1 OFFSET ")
        .push_bind(LOOK - 1);
    Some(led)
}

pub(super) fn query(
    filter: &DeadLetterFilter,
    after: Option<DeadLetterCursor>,
    floor: Option<DeadLetterCursor>,
    limit: usize,
) -> QueryBuilder<Db> {
    let mut query = QueryBuilder::new(format!(
        "SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE state = 4"
    ));
    push_range(&mut query, filter, after);
    push_place(&mut query, ">=", floor);
    if let Some(provider) = &filter.provider {
        query
            .push(" AND provider = ")
            .push_bind(provider.as_str().to_owned());
    }
    if let Some(subscription) = filter.subscription {
        query
            .push(" AND subscription_id = ")
            .push_bind(subscription.to_string());
    }
    if let Some(event_type) = &filter.event_type {
        query
            .push(" AND event_type = ")
            .push_bind(event_type.clone());
    }
    if let Some(key) = &filter.correlation_key {
        query
            .push(" AND event_id IN (SELECT e.id FROM events e WHERE e.correlation_key IS NOT NULL AND e.correlation_key = ")
            .push_bind(key.clone())
            .push(")");
    }
    if let Some(prefix) = &filter.error_prefix {
        let length = i32::try_from(prefix.chars().count()).unwrap_or(i32::MAX);
        query
            .push(" AND substr(last_error, 1, ")
            .push_bind(length)
            .push(") = ")
            .push_bind(prefix.clone());
    }
    if let Some(outcome) = filter.outcome {
        query
            // A value a row, not a join: a planner might begin with all failed attempts there are.
            .push(" AND (SELECT a.outcome FROM attempts a WHERE a.delivery_id = deliveries.id AND a.number = deliveries.attempts_total) = ")
            .push_bind(outcome.as_str());
    }
    push_order(&mut query, "updated_at DESC, id DESC", limit);
    query
}

fn place_from_row(row: &DbRow) -> Result<DeadLetterCursor> {
    Ok(DeadLetterCursor {
        failed_at: Timestamp(row.try_get(0)?),
        id: parse("deliveries.id", row.try_get(1)?)?,
    })
}

pub(super) async fn list(
    readers: &DbPool,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterCursor>,
    limit: usize,
) -> Result<Page<Delivery>> {
    let mut connection = readers.acquire().await?;
    look(&mut connection, filter, after, limit).await
}

async fn look(
    connection: &mut DbConnection,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterCursor>,
    limit: usize,
) -> Result<Page<Delivery>> {
    let floor = match led(filter, after) {
        Some(mut led) => led.build().fetch_optional(&mut *connection).await?,
        None => None,
    };
    let floor = floor.as_ref().map(place_from_row).transpose()?;
    let mut query = query(filter, after, floor, limit);
    let rows = query.build().fetch_all(connection).await?;
    let floor = floor.map(|place| place.to_string());
    page(&rows, limit, floor, delivery_from_row)
}

async fn requeue(
    connection: &mut DbConnection,
    ids: &[DeliveryId],
    run: Option<DeadLetterRunId>,
    at: Timestamp,
) -> Result<u64> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut query = QueryBuilder::<Db>::new(
        "UPDATE deliveries SET state = 0, attempts = 0, trigger = 4, queued_for = queued_for * 0, updated_at = ",
    );
    query
        .push_bind(at.0)
        .push(", queued_at = ")
        .push_bind(at.0)
        // Parked, where the subscription is paused.
        .push(", due_at = CASE WHEN EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.paused) THEN NULL ELSE ")
        .push_bind(at.0)
        .push(" END");
    if let Some(run) = run {
        query.push(", replay_id = ").push_bind(run.to_string());
    }
    query.push(" WHERE state = 4 AND EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled)");
    push_ids(&mut query, ids);
    let done = query.build().execute(&mut *connection).await?;
    if let Some(announce) = dialect::ANNOUNCE {
        sqlx::query(announce).execute(connection).await?;
    }
    Ok(done.rows_affected())
}

fn push_ids(query: &mut QueryBuilder<Db>, ids: &[DeliveryId]) {
    query.push(" AND id IN (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.to_string());
    }
    query.push(")");
}

async fn discard(
    connection: &mut DbConnection,
    ids: &[DeliveryId],
    decision: &Discarded,
    at: Timestamp,
) -> Result<u64> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut query =
        QueryBuilder::<Db>::new("UPDATE deliveries SET state = 7, due_at = NULL, discarded_by = ");
    query
        .push_bind(decision.by.clone())
        .push(", discard_reason = ")
        .push_bind(decision.reason.clone())
        .push(", updated_at = ")
        .push_bind(at.0)
        .push(" WHERE state = 4");
    push_ids(&mut query, ids);
    let done = query.build().execute(connection).await?;
    Ok(done.rows_affected())
}

pub(super) async fn requeue_one(
    connection: &mut DbConnection,
    id: DeliveryId,
    at: Timestamp,
) -> Result<bool> {
    Ok(requeue(connection, &[id], None, at).await? > 0)
}

pub(super) async fn discard_one(
    connection: &mut DbConnection,
    id: DeliveryId,
    decision: Discarded,
    at: Timestamp,
) -> Result<bool> {
    Ok(discard(connection, &[id], &decision, at).await? > 0)
}

pub(super) async fn put_run(connection: &mut DbConnection, run: DeadLetterRun) -> Result<()> {
    sqlx::query("INSERT INTO dead_letter_runs (id, action, requested_by, reason, filter, state, cursor_at, cursor_id, changed, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(run.id.to_string())
        .bind(run.action.as_str())
        .bind(run.requested_by)
        .bind(run.reason)
        .bind(stored(&run.filter)?)
        .bind(run.state.as_str())
        .bind(run.cursor.map(|place| place.failed_at.0))
        .bind(run.cursor.map(|place| place.id.to_string()))
        .bind(i64::try_from(run.changed).unwrap_or(i64::MAX))
        .bind(run.created_at.0)
        .bind(run.updated_at.0)
        .execute(connection)
        .await?;
    Ok(())
}

fn run_from_row(row: &DbRow) -> Result<DeadLetterRun> {
    let (action, state): (&str, &str) = (row.try_get(1)?, row.try_get(5)?);
    let (at, id): (Option<i64>, Option<&str>) = (row.try_get(6)?, row.try_get(7)?);
    let place = |(at, id)| {
        Ok::<_, StoreError>(DeadLetterCursor {
            failed_at: Timestamp(at),
            id: parse("dead_letter_runs.cursor_id", id)?,
        })
    };
    Ok(DeadLetterRun {
        id: parse("dead_letter_runs.id", row.try_get(0)?)?,
        action: DeadLetterAction::from_name(action)
            .ok_or_else(|| corrupt("dead_letter_runs.action", &format_args!("{action:?}")))?,
        requested_by: row.try_get(2)?,
        reason: row.try_get(3)?,
        filter: filter_of(row.try_get(4)?)?,
        state: ReplayState::from_name(state)
            .ok_or_else(|| corrupt("dead_letter_runs.state", &format_args!("{state:?}")))?,
        cursor: at.zip(id).map(place).transpose()?,
        changed: unsigned("dead_letter_runs.changed", row.try_get(8)?)?,
        created_at: Timestamp(row.try_get(9)?),
        updated_at: Timestamp(row.try_get(10)?),
    })
}

pub(super) async fn run(readers: &DbPool, id: DeadLetterRunId) -> Result<Option<DeadLetterRun>> {
    let row = QueryBuilder::<Db>::new("SELECT ")
        .push(RUN_COLUMNS)
        .push(" FROM dead_letter_runs WHERE id = ")
        .push_bind(id.to_string())
        .build()
        .fetch_optional(readers)
        .await?;
    row.as_ref().map(run_from_row).transpose()
}

pub(super) async fn runs(
    readers: &DbPool,
    state: Option<ReplayState>,
    after: Option<DeadLetterRunId>,
    limit: usize,
) -> Result<Page<DeadLetterRun>> {
    let mut query = QueryBuilder::<Db>::new("SELECT ");
    query
        .push(RUN_COLUMNS)
        .push(" FROM dead_letter_runs WHERE TRUE");
    if let Some(state) = state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    push_after(&mut query, "id", after.map(|id| id.to_string()).as_deref());
    push_order(&mut query, "id DESC", limit);
    let rows = query.build().fetch_all(readers).await?;
    page(&rows, limit, None, run_from_row)
}

pub(super) async fn step(
    connection: &mut DbConnection,
    mut run: DeadLetterRun,
    limit: usize,
    at: Timestamp,
) -> Result<Option<DeadLetterRun>> {
    // Whoever moves it on first has it; for the others nothing is found.
    let held = sqlx::query("UPDATE dead_letter_runs SET updated_at = $1 WHERE id = $2 AND state = 'running' AND COALESCE(cursor_at, 0) = $3 AND COALESCE(cursor_id, '') = $4")
        .bind(at.0)
        .bind(run.id.to_string())
        .bind(run.cursor.map_or(0, |place| place.failed_at.0))
        .bind(run.cursor.map_or(String::new(), |place| place.id.to_string()))
        .execute(&mut *connection)
        .await?;
    if held.rows_affected() == 0 {
        return Ok(None);
    }
    let page = look(&mut *connection, &run.filter, run.cursor, limit).await?;
    let ids: Vec<DeliveryId> = page.items.iter().map(|delivery| delivery.id).collect();
    run.changed += match run.action {
        DeadLetterAction::Requeue => requeue(&mut *connection, &ids, Some(run.id), at).await?,
        DeadLetterAction::Discard => {
            let decision = Discarded {
                by: run.requested_by.clone(),
                reason: run.reason.clone(),
            };
            discard(&mut *connection, &ids, &decision, at).await?
        }
    };
    match page.next(|delivery| DeadLetterCursor::from(delivery).to_string()) {
        Some(place) => run.cursor = Some(parse("dead_letter_runs.cursor_id", &place)?),
        None => run.state = ReplayState::Done,
    }
    run.updated_at = at;
    sqlx::query("UPDATE dead_letter_runs SET cursor_at = $1, cursor_id = $2, state = $3, changed = $4 WHERE id = $5")
        .bind(run.cursor.map(|place| place.failed_at.0))
        .bind(run.cursor.map(|place| place.id.to_string()))
        .bind(run.state.as_str())
        .bind(i64::try_from(run.changed).unwrap_or(i64::MAX))
        .bind(run.id.to_string())
        .execute(connection)
        .await?;
    Ok(Some(run))
}

pub(super) async fn cancel(
    connection: &mut DbConnection,
    id: DeadLetterRunId,
    at: Timestamp,
) -> Result<bool> {
    let done = sqlx::query("UPDATE dead_letter_runs SET state = 'cancelled', updated_at = $1 WHERE id = $2 AND state = 'running'")
        .bind(at.0)
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}
