//! Results of leases and their attempts, in one statement.

use std::collections::HashSet;

use sqlx::Row as _;

use super::batch::Cell;
use super::dialect::{DbConnection, read_rows};
use super::record::{logged, outcome, settle_from};
use crate::domain::delivery::LeaseResult;
use crate::store::Result;

/// Rows: the columns of [`outcome`], then those of [`logged`]. The update returns what the attempt needs:
/// a join of its result with the rows would be a nested loop, as neither has statistics.
pub(super) const SETTLE: &str = concat!(
    "WITH v AS MATERIALIZED ({rows}), settled AS (",
    settle_from!("v"),
    " RETURNING deliveries.id, deliveries.attempts_total, v.column5, v.column10, v.column11, v.column12, v.column13, v.column14, v.column15, v.column16, v.column17, v.column18, v.column19, v.column20), \
     logged AS (INSERT INTO attempts (delivery_id, number, started_at, latency_us, outcome, http_status, provider_version, message, logs, trigger, queue, worker, queued_at) \
       SELECT id, attempts_total, column10, column11, column12, column13, column14, column15, column16, column17, column18, column19, column20 \
       FROM settled WHERE column5 = 1) \
     SELECT id FROM settled"
);

/// Writes the results whose lease was still held: `None`: all of them, else those.
pub(super) async fn write(
    connection: &mut DbConnection,
    results: &[&LeaseResult],
) -> Result<Option<HashSet<String>>> {
    let rows: Vec<[Cell<'_>; 20]> = results
        .iter()
        .map(|result| {
            let [a, b, c, d, e, f, g, h, i] = outcome(result);
            let [j, k, l, m, n, o, p, q, r, s, t] = match &result.attempt {
                Some(attempt) => logged(result, attempt),
                None => [
                    Cell::Number(None),
                    Cell::Number(None),
                    Cell::Text(None),
                    Cell::Number(None),
                    Cell::Text(None),
                    Cell::Text(None),
                    Cell::Text(None),
                    Cell::Number(None),
                    Cell::Number(None),
                    Cell::Text(None),
                    Cell::Number(None),
                ],
            };
            [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]
        })
        .collect();
    let rows = read_rows(connection, SETTLE, &rows).await?;
    if rows.len() == results.len() {
        return Ok(None);
    }
    let ids = rows.iter().map(|row| Ok(row.try_get(0)?));
    Ok(Some(ids.collect::<Result<_>>()?))
}
