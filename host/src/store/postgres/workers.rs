//! Which processes claim. By the database's clock, so that theirs need not agree.

use sqlx::PgConnection;

use super::dialect::{ANNOUNCE, NOW_MS};
use super::row::{IN_FLIGHT, PENDING, RETRYING};
use crate::domain::id::WorkerId;
use crate::store::Result;

/// Notes that `worker` lives, and makes due what the dead hold: those not seen for `patience_ms`.
/// Returns how many deliveries that were.
pub(super) async fn keep_alive(
    connection: &mut PgConnection,
    worker: WorkerId,
    patience_ms: i64,
) -> Result<u64> {
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO workers (id, seen_at) VALUES ($1, {NOW_MS}) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
    )))
    .bind(worker.to_string())
    .execute(&mut *connection)
    .await?;
    let dead: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "DELETE FROM workers WHERE id IN (SELECT id FROM workers WHERE seen_at < {NOW_MS} - $1 FOR UPDATE SKIP LOCKED) RETURNING id"
    )))
    .bind(patience_ms)
    .fetch_all(&mut *connection)
    .await?;
    if dead.is_empty() {
        return Ok(0);
    }
    let released = sqlx::query(sqlx::AssertSqlSafe(format!(
        "UPDATE deliveries SET state = CASE attempts WHEN 0 THEN $1 ELSE $2 END, due_at = {NOW_MS}, queued_for = queued_for * 0, worker = NULL, updated_at = {NOW_MS}, trigger = 3 \
         WHERE state <= 2 AND state = $3 AND due_at IS NOT NULL AND worker = ANY($4)"
    )))
    .bind(PENDING)
    .bind(RETRYING)
    .bind(IN_FLIGHT)
    .bind(dead)
    .execute(&mut *connection)
    .await?;
    if let Some(announce) = ANNOUNCE
        && released.rows_affected() > 0
    {
        // Workers know these as leased for long, and whoever noticed may not be one.
        sqlx::query(announce).execute(connection).await?;
    }
    Ok(released.rows_affected())
}
