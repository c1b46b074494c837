//! Recording: results of leases, released leases, manual retries.

use sqlx::QueryBuilder;

use super::batch::Cell;
use super::dialect::{self, Db, DbConnection};
use super::row::{
    CANCELLED, DISCARDED, FAILED, FILTERED, IN_FLIGHT, PENDING, RETRYING, SUCCESS, queue_code,
    trigger_code,
};
use super::settle;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, FencingToken, LeaseResult, Outcome, Transition};
use crate::domain::id::{DeliveryId, WorkerId};
use crate::store::{Recorded, Result, StoreError};

/// What becomes of the rows of `deliveries` that rows `v` are the results of; `v` begins with the
/// columns of [`outcome`]. An unfinished delivery whose subscription has been switched off or deleted
/// meanwhile is cancelled instead; one whose subscription was paused waits. Who held it holds it
/// further (`queued_for`): the message of a retry comes out when it is due. `+ 0` hides from the planner
/// that the index of what is open would do: it was small when PostgreSQL analysed the table, and to walk
/// through it for every row costs as much as is open.
macro_rules! settle_from {
    ($rows:literal) => {
        concat!(
            "UPDATE deliveries SET \
               state = CASE WHEN v.column3 <= 2 AND NOT EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled) THEN 5 ELSE v.column3 END, \
               due_at = CASE WHEN v.column3 > 2 THEN NULL \
                 WHEN NOT EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled) THEN NULL \
                 WHEN EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.paused) THEN NULL \
                 ELSE COALESCE(v.column4, v.column8) END, \
               attempts = attempts + v.column9, attempts_total = attempts_total + v.column5, \
               trigger = CASE WHEN v.column3 <= 2 AND v.column5 > 0 THEN 1 ELSE trigger END, \
               queued_at = CASE WHEN v.column3 <= 2 THEN COALESCE(v.column4, v.column8) ELSE queued_at END, \
               queued_for = CASE WHEN queued_for IS NULL THEN NULL ELSE COALESCE(v.column4, v.column8) END, \
               external_id = COALESCE(v.column6, external_id), last_error = v.column7, worker = NULL, updated_at = v.column8 \
             FROM ",
            $rows,
            " AS v WHERE deliveries.id = v.column1 AND deliveries.token = v.column2 AND deliveries.state + 0 = 2"
        )
    };
}
pub(super) use settle_from;

/// Columns of a row: delivery id, external id.
const KEEP_EXTERNAL_ID: &str = "INSERT INTO external_ids (subscription_id, correlation_key, external_id) \
     SELECT d.subscription_id, e.correlation_key, $2 FROM deliveries d JOIN events e ON e.id = d.event_id \
     WHERE d.id = $1 AND e.correlation_key IS NOT NULL \
     ON CONFLICT (subscription_id, correlation_key) DO UPDATE SET external_id = excluded.external_id";

pub(super) async fn write(
    connection: &mut DbConnection,
    results: &[&LeaseResult],
) -> Result<Vec<Recorded>> {
    let held = settle::write(connection, results).await?;
    let is_held = |result: &LeaseResult| {
        let held = held.as_ref();
        held.is_none_or(|held| held.contains(&result.id.to_string()))
    };
    for result in results {
        if let Transition::Success {
            external_id: Some(external_id),
        } = &result.transition
            && is_held(result)
        {
            sqlx::query(KEEP_EXTERNAL_ID)
                .bind(result.id.to_string())
                .bind(external_id)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(results
        .iter()
        .map(|result| {
            if is_held(result) {
                Recorded::Written
            } else {
                Recorded::LeaseLost
            }
        })
        .collect())
}

/// Columns: id, token, state, due_at, attempts made (0 or 1), external_id, last_error, at, attempts
/// counted (0 or 1).
pub(super) fn outcome(result: &LeaseResult) -> [Cell<'_>; 9] {
    let (state, due_at) = match &result.transition {
        Transition::Success { .. } => (SUCCESS, None),
        Transition::RetryAt(at) => (RETRYING, Some(at.0)),
        Transition::Failed => (FAILED, None),
        Transition::Cancelled => (CANCELLED, None),
        Transition::Filtered => (FILTERED, None),
        Transition::Parked => (RETRYING, None),
    };
    let external_id = match &result.transition {
        Transition::Success { external_id } => external_id.as_deref(),
        _ => None,
    };
    [
        result.id.to_string().into(),
        result.token.0.into(),
        state.into(),
        due_at.into(),
        i64::from(result.attempt.is_some()).into(),
        external_id.into(),
        last_error(result.attempt.as_ref()).into(),
        result.at.0.into(),
        i64::from(counted(result)).into(),
    ]
}

/// Columns: started_at, latency_us, outcome, http_status, provider_version, message, logs, trigger,
/// queue, worker, queued_at.
pub(super) fn logged<'r>(result: &LeaseResult, attempt: &'r Attempt) -> [Cell<'r>; 11] {
    [
        attempt.started_at.0.into(),
        i64::try_from(attempt.latency.as_micros())
            .unwrap_or(i64::MAX)
            .into(),
        attempt.outcome.as_str().into(),
        attempt.http_status.map(i64::from).into(),
        attempt.provider_version.as_deref().into(),
        attempt.message.as_str().into(),
        logs_json(attempt).into(),
        trigger_code(result.job.trigger).into(),
        queue_code(result.job.queue).into(),
        result.job.worker.to_string().into(),
        result.job.queued_at.0.into(),
    ]
}

fn counted(result: &LeaseResult) -> bool {
    result.attempt.is_some() && result.transition != Transition::Parked
}

fn last_error(attempt: Option<&Attempt>) -> Option<&str> {
    attempt
        .filter(|attempt| attempt.outcome != Outcome::Success)
        .map(|attempt| attempt.message.as_str())
}

fn logs_json(attempt: &Attempt) -> Option<String> {
    if attempt.logs.is_empty() {
        return None;
    }
    let lines: Vec<[&str; 2]> = attempt
        .logs
        .iter()
        .map(|line| [line.level, line.message.as_str()])
        .collect();
    serde_json::to_string(&lines).ok()
}

/// What a broker held is due for the next sweep (`queued_for * 0`), what the store held stays with it.
pub(super) async fn release(
    connection: &mut DbConnection,
    leases: Vec<(DeliveryId, FencingToken)>,
    at: Timestamp,
) -> Result<()> {
    for (id, token) in leases {
        sqlx::query("UPDATE deliveries SET state = CASE attempts WHEN 0 THEN $1 ELSE $2 END, due_at = $3, queued_for = queued_for * 0, worker = NULL, updated_at = $3 WHERE id = $4 AND token = $5 AND state = $6")
            .bind(PENDING)
            .bind(RETRYING)
            .bind(at.0)
            .bind(id.to_string())
            .bind(token.0)
            .bind(IN_FLIGHT)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn release_unheld(
    connection: &mut DbConnection,
    worker: WorkerId,
    held: Vec<DeliveryId>,
    at: Timestamp,
) -> Result<u64> {
    let mut query = QueryBuilder::<Db>::new(
        "UPDATE deliveries SET state = CASE attempts WHEN 0 THEN 0 ELSE 1 END, worker = NULL, queued_for = queued_for * 0, due_at = ",
    );
    query
        .push_bind(at.0)
        .push(", updated_at = ")
        .push_bind(at.0)
        .push(" WHERE due_at IS NOT NULL AND state = 2 AND worker = ")
        .push_bind(worker.to_string());
    if !held.is_empty() {
        query.push(" AND id NOT IN (");
        let mut ids = query.separated(", ");
        for id in held {
            ids.push_bind(id.to_string());
        }
        query.push(")");
    }
    let released = query
        .build()
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if let Some(announce) = dialect::ANNOUNCE
        && released > 0
    {
        // Others know these as leased for long.
        sqlx::query(announce).execute(connection).await?;
    }
    Ok(released)
}

pub(super) async fn release_all(connection: &mut DbConnection, at: Timestamp) -> Result<u64> {
    let done = sqlx::query("UPDATE deliveries SET state = CASE attempts WHEN 0 THEN $1 ELSE $2 END, due_at = $3, queued_for = queued_for * 0, worker = NULL, updated_at = $3, trigger = 3 WHERE due_at IS NOT NULL AND state = $4")
        .bind(PENDING)
        .bind(RETRYING)
        .bind(at.0)
        .bind(IN_FLIGHT)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// False: no such delivery.
pub(super) async fn retry(
    connection: &mut DbConnection,
    id: DeliveryId,
    at: Timestamp,
) -> Result<bool> {
    let state: Option<i64> = sqlx::query_scalar("SELECT state FROM deliveries WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *connection)
        .await?;
    match state {
        None => return Ok(false),
        Some(IN_FLIGHT) => {
            return Err(StoreError::Conflict(
                "the delivery is in flight: wait for its attempt to end".to_owned(),
            ));
        }
        Some(DISCARDED) => {
            return Err(StoreError::Conflict(
                "the delivery was discarded, and stays undelivered".to_owned(),
            ));
        }
        Some(_) => {}
    }
    sqlx::query("UPDATE deliveries SET state = $1, attempts = 0, due_at = $2, queued_for = queued_for * 0, updated_at = $2, trigger = 4, queued_at = $2 WHERE id = $3")
        .bind(PENDING)
        .bind(at.0)
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    Ok(true)
}
