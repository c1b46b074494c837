//! What PostgreSQL has of its own, for the statements that both databases share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnectOptions};
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection, PgPool, PgTransaction, Postgres};

use super::batch::{Cell, text_of};
use crate::store::{Result, StoreError};

pub(super) type Backend = super::PostgresStore;
pub(super) type Db = Postgres;
pub(super) type DbConnection = PgConnection;
pub(super) type DbPool = PgPool;
pub(super) type DbRow = sqlx::postgres::PgRow;

/// Many may hold it at once; whoever changes the catalogue waits for their commits.
pub(super) const HOLD_EPOCH: &str = "SELECT epoch FROM catalog FOR SHARE";
/// One holds it, the others wait for its commit.
pub(super) const HOLD_AUDIT_HEAD: &str = "SELECT seq, hash FROM audit_head FOR UPDATE";
/// Milliseconds since the Unix epoch, by the database's clock.
pub(super) const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// Tells the workers of all processes that there is something to claim.
pub(super) const ANNOUNCE: Option<&str> = Some("NOTIFY hookport_due");
/// Whether migrations were ever applied.
pub(super) const IS_MIGRATED: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
pub(super) const FOR_UPDATE: &str = " ORDER BY id FOR UPDATE";
pub(super) const FOR_KEY_SHARE: &str = " ORDER BY id FOR KEY SHARE";
/// The numbers from the first parameter to the second, as `n`.
pub(super) const SERIES: &str = "SELECT generate_series($1::bigint, $2::bigint) AS n";
/// No bytes.
pub(super) const NO_BYTES: &str = "''::bytea";
pub(super) const PADDED: &str = "lpad(({number})::text, 16, '0')";
pub(super) const CANCEL_QUEUED: &str = "UPDATE deliveries SET state = 5, due_at = NULL, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND state <> 2";
pub(super) const UNPARK: &str = "UPDATE deliveries SET due_at = $1, queued_for = queued_for * 0, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND due_at IS NULL";
pub(super) const WITH_WORK_LEFT: &str = " AND state <= 2";
pub(super) const BACKLOG: &str = "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state <= 2 AND due_at IS NOT NULL LIMIT $1) AS waiting";
pub(super) const FORGET_REJECTIONS: &str = "DELETE FROM source_rejections WHERE source_id = $1 AND number NOT IN (SELECT number FROM source_rejections WHERE source_id = $1 ORDER BY number DESC LIMIT $2)";
pub(super) const REJECTIONS: &str = "SELECT at, remote_address, reason FROM source_rejections WHERE source_id = $1 ORDER BY number DESC";

#[cfg(test)]
pub(super) const EXPLAIN: &str = "EXPLAIN";
#[cfg(test)]
pub(super) const PLAN_COLUMN: usize = 0;
#[cfg(test)]
pub(super) const SCANS: [&str; 3] = [
    "Seq Scan on deliveries",
    "Seq Scan on events",
    "Seq Scan on attempts",
];
#[cfg(test)]
pub(super) const SORTS: [&str; 1] = ["Sort"];

/// What autovacuum does in time, at once.
pub(super) async fn tidy(readers: &PgPool) -> Result<()> {
    let mut connection = readers.acquire().await?.detach();
    for statement in ["SET statement_timeout = 0", "VACUUM ANALYZE"] {
        sqlx::raw_sql(statement).execute(&mut connection).await?;
    }
    Ok(())
}

/// Runs `template` for all `rows`, which stand where it has `{rows}`; returns how many rows of the
/// table that touched. They travel as an array a column, so that any number of them is one statement.
pub(super) async fn write_rows<const COLUMNS: usize>(
    connection: &mut DbConnection,
    template: &'static str,
    rows: &[[Cell<'_>; COLUMNS]],
) -> Result<u64> {
    match rows.first() {
        None => Ok(0),
        Some(first) => {
            let done = bound(template, first, rows).execute(connection).await?;
            Ok(done.rows_affected())
        }
    }
}

/// As [`write_rows`], for what the statement returns.
pub(super) async fn read_rows<const COLUMNS: usize>(
    connection: &mut DbConnection,
    template: &'static str,
    rows: &[[Cell<'_>; COLUMNS]],
) -> Result<Vec<DbRow>> {
    match rows.first() {
        None => Ok(Vec::new()),
        Some(first) => Ok(bound(template, first, rows).fetch_all(connection).await?),
    }
}

fn bound<'q, const COLUMNS: usize>(
    template: &'static str,
    first: &[Cell<'_>; COLUMNS],
    rows: &'q [[Cell<'_>; COLUMNS]],
) -> Query<'q, Db, PgArguments> {
    let mut query = sqlx::query(text_of(template, COLUMNS, || unnest(first)));
    for (column, kind) in first.iter().enumerate() {
        query = match kind {
            Cell::Text(_) => {
                let texts = rows.iter().map(|row| match &row[column] {
                    Cell::Text(text) => text.as_deref(),
                    Cell::Number(_) => None,
                });
                query.bind(texts.collect::<Vec<Option<&str>>>())
            }
            Cell::Number(_) => {
                let numbers = rows.iter().map(|row| match row[column] {
                    Cell::Number(number) => number,
                    Cell::Text(_) => None,
                });
                query.bind(numbers.collect::<Vec<Option<i64>>>())
            }
        };
    }
    query
}

/// Rows like `row` from an array a column, their columns named as those of `VALUES` are.
pub(super) fn unnest(row: &[Cell<'_>]) -> String {
    let columns = row.iter().zip(1..);
    let (arrays, names): (Vec<_>, Vec<_>) = columns
        .map(|(cell, number)| {
            let kind = match cell {
                Cell::Text(_) => "text",
                Cell::Number(_) => "bigint",
            };
            (format!("${number}::{kind}[]"), format!("column{number}"))
        })
        .unzip();
    format!(
        "SELECT * FROM unnest({}) AS r ({})",
        arrays.join(", "),
        names.join(", ")
    )
}

/// How long a transaction or a read may take: longer than the server lets a statement run, so that
/// only a connection that fell silent is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was idle for longer is asked whether it is still there.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How the statements of the hot path are planned: once, and along their indexes. Left to itself the
/// planner goes by the size that a table had when it looked, and reads tables from end to end that
/// were empty then.
pub(super) const PLANNING: [(&str, &str); 6] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // The costs that these settings stand for would let it compile every statement.
    ("jit", "off"),
];

/// A connection of its own, made anew after anything went wrong with it. The pool would ask the
/// server at each taking and giving back whether it is still there.
pub(super) struct Writing {
    options: PgConnectOptions,
    kept: Option<PgConnection>,
    /// When its last transaction was committed; `None`: it was not.
    committed_at: Option<Instant>,
    /// The server's process behind it, as it names itself in notifications.
    server_process: Arc<AtomicU32>,
}

/// Gives `work` up when its connection has fallen silent. What it wrote may have been committed then,
/// as after any lost answer, and the next one gets a connection of its own.
///
/// # Errors
/// Those of `work`; `Unavailable`.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            let text = "the database did not answer in time";
            Err(StoreError::Unavailable(text.into()))
        })
}

impl Writing {
    pub(super) fn new(options: PgConnectOptions) -> Self {
        Self {
            options: options.options(PLANNING),
            kept: None,
            committed_at: None,
            server_process: Arc::default(),
        }
    }

    /// Which process sends the notifications of what is written here, kept up to date.
    pub(super) fn server_process(&self) -> Arc<AtomicU32> {
        self.server_process.clone()
    }

    pub(super) async fn begin(&mut self) -> Result<PgTransaction<'_>> {
        let kept = match (self.kept.take(), self.committed_at.take()) {
            (Some(kept), Some(at)) if at.elapsed() < IDLE_MAX => kept,
            (Some(mut kept), Some(_)) => match kept.ping().await {
                Ok(()) => kept,
                Err(_) => self.connect().await?,
            },
            _ => self.connect().await?,
        };
        Ok(self.kept.insert(kept).begin().await?)
    }

    async fn connect(&self) -> Result<PgConnection> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
                .fetch_one(&mut connection)
                .await?;
            let process = u32::try_from(process).unwrap_or_default();
            self.server_process.store(process, Ordering::Relaxed);
            Ok(connection)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| {
                let text = "no connection could be made in time";
                Err(StoreError::Unavailable(text.into()))
            })
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {
        self.committed_at = Some(Instant::now());
    }

    pub(super) async fn close(self) {
        if let Some(kept) = self.kept
            && let Err(error) = kept.close().await
        {
            tracing::debug!(%error, "a connection did not close cleanly");
        }
    }
}
