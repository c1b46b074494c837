//! Rows of the past in bulk, made by the database itself: for measurements and for tests of plans.
//!
//! One event a delivery, a second apart, the last one at the end; of a hundred, 96 delivered, one
//! failed after four attempts, one cancelled, one filtered, one discarded.

use sqlx::AssertSqlSafe;

use super::dialect::{self, Backend, DbConnection};
use crate::domain::clock::Timestamp;
use crate::store::Result;

/// Deliveries that one transaction makes.
const BATCH: i64 = 20_000;

impl Backend {
    /// Adds so many deliveries of the past, with their events, attempts and webhooks, the last one ending at
    /// `until`: for measurements over a store with a history.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn fill(&self, deliveries: i64, until: Timestamp) -> Result<()> {
        let mut from = 1;
        while from <= deliveries {
            let to = deliveries.min(from + BATCH - 1);
            self.beside(move |connection| {
                Box::pin(write(connection, (from, to), deliveries, until))
            })
            .await?;
            from = to + 1;
        }
        dialect::tidy(&self.readers).await
    }
}

/// An identifier in SQL: the ULID text of the time `ms`, with a decimal number for its random part.
fn id(prefix: &str, ms: &str, number: &str) -> String {
    let digits: Vec<String> = (0..10)
        .rev()
        .map(|digit| {
            format!(
                "substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ', CAST((({ms}) >> {}) & 31 AS INTEGER) + 1, 1)",
                digit * 5
            )
        })
        .collect();
    let padded = dialect::PADDED.replace("{number}", number);
    format!("'{prefix}_' || {} || {padded}", digits.join(" || "))
}

/// The deliveries numbered `from` to `to` of `total`.
async fn write(
    connection: &mut DbConnection,
    (from, to): (i64, i64),
    total: i64,
    until: Timestamp,
) -> Result<()> {
    let (series, body) = (dialect::SERIES, dialect::NO_BYTES);
    let ms = "($3 + n * 1000)";
    let start = until.0 - total * 1_000;
    let event = id("evt", ms, "n");
    let delivery = id("dlv", ms, "n");
    let subscription = id("sub", "1700000000000", "(n % 200)");
    let webhook = id("whk", ms, "n");
    let source = id("src", "1700000000000", "(n % 20)");
    let worker = id("wrk", "1700000000000", "(n % 4)");
    let statements = [
        format!(
            "INSERT INTO events (id, event_type, payload, occurred_at, received_at, correlation_key, system_ids) \
             SELECT {event}, 'past.type' || (n % 20), '{{\"incident\":{{\"id\":' || n || ',\"title\":\"{title}\"}}}}', {ms}, {ms}, \
             CASE WHEN n % 5 = 0 THEN 'key-' || (n % 100000) END, '[]' FROM ({series}) AS series",
            title = "a title of the past, as long as they come in practice ".repeat(5)
        ),
        format!(
            "INSERT INTO deliveries (id, event_id, event_type, subscription_id, provider, state, attempts, attempts_total, token, last_error, created_at, updated_at, discarded_by, discard_reason) \
             SELECT {delivery}, {event}, 'past.type' || (n % 20), {subscription}, CASE n % 4 WHEN 0 THEN 'slack' WHEN 1 THEN 'jira' ELSE 'webhook' END, \
             CASE n % 100 WHEN 96 THEN 4 WHEN 97 THEN 5 WHEN 98 THEN 6 WHEN 99 THEN 7 ELSE 3 END, \
             CASE n % 100 WHEN 96 THEN 4 WHEN 97 THEN 0 WHEN 98 THEN 0 WHEN 99 THEN 4 ELSE 1 END, \
             CASE n % 100 WHEN 96 THEN 4 WHEN 97 THEN 0 WHEN 98 THEN 0 WHEN 99 THEN 4 ELSE 1 END, 1, \
             CASE WHEN n % 100 IN (96, 99) THEN 'the receiver answered ' || (500 + n % 4) END, {ms}, {ms} + 5, \
             CASE n % 100 WHEN 99 THEN 'someone' END, CASE n % 100 WHEN 99 THEN 'of the past' END FROM ({series}) AS series"
        ),
        format!(
            "INSERT INTO attempts (delivery_id, number, started_at, latency_us, outcome, http_status, provider_version, message, trigger, queue, worker, queued_at) \
             SELECT {delivery}, k.k, {ms} + k.k, 1500, CASE WHEN n % 100 IN (96, 99) THEN 'provider_error' ELSE 'success' END, \
             CASE WHEN n % 100 IN (96, 99) THEN 500 + n % 4 ELSE 200 END, '1.0.0', 'answered', CASE k.k WHEN 1 THEN 0 ELSE 1 END, 0, {worker}, {ms} \
             FROM ({series}) AS series CROSS JOIN (SELECT 1 AS k UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4) AS k \
             WHERE n % 100 IN (96, 99) OR (k.k = 1 AND n % 100 < 96)"
        ),
        format!(
            "INSERT INTO inbound_webhooks (id, source_id, received_at, remote_address, query, headers, body, state, reason, event_ids) \
             SELECT {webhook}, {source}, {ms}, '192.0.2.1', '', '[]', {body}, n % 4, NULL, '[]' FROM ({series}) AS series"
        ),
    ];
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement))
            .bind(from)
            .bind(to)
            .bind(start)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
