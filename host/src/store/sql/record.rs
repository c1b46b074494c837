//! Recording: results of leases, released leases, manual retries.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Row as _};

use super::batch::{chunks, statement};
use super::dialect::{Db, DbConnection};
use super::row::{CANCELLED, FAILED, FILTERED, IN_FLIGHT, PENDING, RETRYING, SUCCESS};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, FencingToken, LeaseResult, Outcome, Transition};
use crate::domain::id::{DeliveryId, WorkerId};
use crate::store::{Recorded, Result, StoreError};

/// Columns of a row: id, token, state, due_at, attempts made (0 or 1), external_id, last_error,
/// at, attempts counted (0 or 1). An unfinished delivery whose subscription has been switched off or deleted meanwhile is
/// cancelled instead; one whose subscription was paused waits. Who held it holds it further
/// (`queued_for`): the message of a retry comes out when it is due.
const SETTLE: &str = "UPDATE deliveries SET \
       state = CASE WHEN v.column3 <= 2 AND NOT EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled) THEN 5 ELSE v.column3 END, \
       due_at = CASE WHEN v.column3 > 2 THEN NULL \
         WHEN NOT EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.enabled) THEN NULL \
         WHEN EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = deliveries.subscription_id AND s.paused) THEN NULL \
         ELSE COALESCE(v.column4, v.column8) END, \
       attempts = attempts + v.column9, attempts_total = attempts_total + v.column5, \
       queued_for = CASE WHEN queued_for IS NULL THEN NULL ELSE COALESCE(v.column4, v.column8) END, external_id = COALESCE(v.column6, external_id), last_error = v.column7, worker = NULL, updated_at = v.column8 \
     FROM (VALUES {rows}) AS v \
     WHERE deliveries.id = v.column1 AND deliveries.token = v.column2 AND deliveries.state = 2 \
     RETURNING id, attempts_total";

const INSERT_ATTEMPTS: &str = "INSERT INTO attempts (delivery_id, number, started_at, latency_us, outcome, http_status, provider_version, message, logs) VALUES {rows}";

/// Columns of a row: delivery id, external id.
const KEEP_EXTERNAL_ID: &str = "INSERT INTO external_ids (subscription_id, correlation_key, external_id) \
     SELECT d.subscription_id, e.correlation_key, $2 FROM deliveries d JOIN events e ON e.id = d.event_id \
     WHERE d.id = $1 AND e.correlation_key IS NOT NULL \
     ON CONFLICT (subscription_id, correlation_key) DO UPDATE SET external_id = excluded.external_id";

pub(super) async fn write(
    connection: &mut DbConnection,
    results: &[&LeaseResult],
) -> Result<Vec<Recorded>> {
    let numbers = settle(connection, results).await?;
    let written: Vec<(&LeaseResult, i64)> = results
        .iter()
        .filter_map(|result| Some((*result, *numbers.get(&result.id.to_string())?)))
        .collect();
    insert_attempts(connection, &written).await?;
    for (result, _) in &written {
        if let Transition::Success {
            external_id: Some(external_id),
        } = &result.transition
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
            if numbers.contains_key(&result.id.to_string()) {
                Recorded::Written
            } else {
                Recorded::LeaseLost
            }
        })
        .collect())
}

/// The deliveries whose lease was still held, with their attempts in all.
async fn settle(
    connection: &mut DbConnection,
    results: &[&LeaseResult],
) -> Result<HashMap<String, i64>> {
    let mut numbers = HashMap::with_capacity(results.len());
    for chunk in chunks(results) {
        let mut query = sqlx::query(statement(SETTLE, 9, chunk.len()));
        for result in chunk {
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
            query = query
                .bind(result.id.to_string())
                .bind(result.token.0)
                .bind(state)
                .bind(due_at)
                .bind(i64::from(result.attempt.is_some()))
                .bind(external_id)
                .bind(last_error(result.attempt.as_ref()))
                .bind(result.at.0)
                .bind(i64::from(counted(result)));
        }
        for row in query.fetch_all(&mut *connection).await? {
            numbers.insert(row.try_get(0)?, row.try_get(1)?);
        }
    }
    Ok(numbers)
}

fn counted(result: &LeaseResult) -> bool {
    result.attempt.is_some() && result.transition != Transition::Parked
}

fn last_error(attempt: Option<&Attempt>) -> Option<&str> {
    attempt
        .filter(|attempt| attempt.outcome != Outcome::Success)
        .map(|attempt| attempt.message.as_str())
}

async fn insert_attempts(
    connection: &mut DbConnection,
    written: &[(&LeaseResult, i64)],
) -> Result<()> {
    let made: Vec<(DeliveryId, i64, &Attempt)> = written
        .iter()
        .filter_map(|(result, number)| Some((result.id, *number, result.attempt.as_ref()?)))
        .collect();
    for chunk in chunks(&made) {
        let mut query = sqlx::query(statement(INSERT_ATTEMPTS, 9, chunk.len()));
        for (id, number, attempt) in chunk {
            query = query
                .bind(id.to_string())
                .bind(number)
                .bind(attempt.started_at.0)
                .bind(i64::try_from(attempt.latency.as_micros()).unwrap_or(i64::MAX))
                .bind(attempt.outcome.as_str())
                .bind(attempt.http_status.map(i64::from))
                .bind(attempt.provider_version.as_deref())
                .bind(attempt.message.as_str())
                .bind(logs_json(attempt));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
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
    Ok(query.build().execute(connection).await?.rows_affected())
}

pub(super) async fn release_all(connection: &mut DbConnection, at: Timestamp) -> Result<u64> {
    let done = sqlx::query("UPDATE deliveries SET state = CASE attempts WHEN 0 THEN $1 ELSE $2 END, due_at = $3, queued_for = queued_for * 0, worker = NULL, updated_at = $3 WHERE due_at IS NOT NULL AND state = $4")
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
        Some(_) => {}
    }
    sqlx::query("UPDATE deliveries SET state = $1, attempts = 0, due_at = $2, queued_for = queued_for * 0, updated_at = $2 WHERE id = $3")
        .bind(PENDING)
        .bind(at.0)
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    Ok(true)
}
