//! Results of leases and their attempts, with as few rows as possible on their way back: each is
//! handed from the database's thread to ours.

use std::collections::HashSet;

use sqlx::Row as _;

use super::batch::Cell;
use super::dialect::{DbConnection, read_rows, write_rows};
use super::record::{logged, outcome, settle_from};
use crate::domain::delivery::LeaseResult;
use crate::store::Result;

/// Rows: id and token, then the columns of [`logged`].
const LOG: &str = "INSERT INTO attempts (delivery_id, number, started_at, latency_us, outcome, http_status, provider_version, message, logs, trigger, queue, worker, queued_at) \
     SELECT d.id, d.attempts_total + 1, v.column3, v.column4, v.column5, v.column6, v.column7, v.column8, v.column9, v.column10, v.column11, v.column12, v.column13 \
     FROM ({rows}) AS v CROSS JOIN deliveries d WHERE d.id = v.column1 AND d.token = v.column2 AND d.state = 2";
/// Rows: id and token.
const HELD: &str = "SELECT d.id FROM ({rows}) AS v CROSS JOIN deliveries d WHERE d.id = v.column1 AND d.token = v.column2 AND d.state = 2";
/// Rows: the columns of [`outcome`].
const SETTLE: &str = settle_from!("({rows})");

/// Writes the results whose lease was still held: `None`: all of them, else those.
pub(super) async fn write(
    connection: &mut DbConnection,
    results: &[&LeaseResult],
) -> Result<Option<HashSet<String>>> {
    let lease = |result: &LeaseResult| -> [Cell<'static>; 2] {
        [result.id.to_string().into(), result.token.0.into()]
    };
    let mut attempts = Vec::with_capacity(results.len());
    for result in results {
        if let Some(attempt) = &result.attempt {
            let [id, token] = lease(result);
            let [a, b, c, d, e, f, g, h, i, j, k] = logged(result, attempt);
            attempts.push([id, token, a, b, c, d, e, f, g, h, i, j, k]);
        }
    }
    let logged = write_rows(connection, LOG, &attempts).await?;
    let all = usize::try_from(logged).is_ok_and(|logged| logged == results.len());
    let held = if all {
        None
    } else {
        let leases: Vec<_> = results.iter().map(|result| lease(result)).collect();
        let rows = read_rows(connection, HELD, &leases).await?;
        let ids = rows.iter().map(|row| Ok(row.try_get(0)?));
        Some(ids.collect::<Result<_>>()?)
    };
    let outcomes: Vec<_> = results.iter().map(|result| outcome(result)).collect();
    write_rows(connection, SETTLE, &outcomes).await?;
    Ok(held)
}
