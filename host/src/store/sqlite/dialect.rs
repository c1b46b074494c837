//! What SQLite has of its own, for the statements that both databases share.

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions};
use sqlx::{Connection as _, Sqlite, SqliteConnection, SqlitePool, SqliteTransaction};

use super::batch::Cell;
use super::values::{chunks, size_for, statement};
use crate::store::Result;

pub(super) type Backend = super::SqliteStore;
pub(super) type Db = Sqlite;
pub(super) type DbConnection = SqliteConnection;
pub(super) type DbPool = SqlitePool;
pub(super) type DbRow = sqlx::sqlite::SqliteRow;

/// A file answers.
pub(super) async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    work.await
}

/// Nobody else writes while this transaction does.
pub(super) const HOLD_EPOCH: &str = "SELECT epoch FROM catalog";
pub(super) const HOLD_AUDIT_HEAD: &str = "SELECT seq, hash FROM audit_head";
/// Milliseconds since the Unix epoch, by the database's clock.
pub(super) const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
/// This process is the only one, and knows.
pub(super) const ANNOUNCE: Option<&str> = None;
/// Whether migrations were ever applied.
pub(super) const IS_MIGRATED: &str =
    "SELECT count(*) > 0 FROM sqlite_schema WHERE name = '_sqlx_migrations'";
/// Nobody else writes while this transaction does.
pub(super) const FOR_UPDATE: &str = "";
pub(super) const FOR_KEY_SHARE: &str = "";
/// The numbers from the first parameter to the second, as `n`.
pub(super) const SERIES: &str = "WITH RECURSIVE numbers (n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $2) SELECT n FROM numbers";
/// No bytes.
pub(super) const NO_BYTES: &str = "x''";
pub(super) const PADDED: &str = "printf('%016d', {number})";
pub(super) const CANCEL_QUEUED: &str = "UPDATE deliveries INDEXED BY deliveries_lane SET state = 5, due_at = NULL, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND state <> 2";
pub(super) const UNPARK: &str = "UPDATE deliveries INDEXED BY deliveries_lane SET due_at = $1, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND due_at IS NULL";
pub(super) const WITH_WORK_LEFT: &str =
    " AND rowid IN (SELECT rowid FROM deliveries WHERE state <= 2)";
pub(super) const BACKLOG: &str =
    "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE due_at IS NOT NULL LIMIT $1) AS waiting";
pub(super) const FORGET_REJECTIONS: &str = "DELETE FROM source_rejections WHERE source_id = $1 AND rowid NOT IN (SELECT rowid FROM source_rejections WHERE source_id = $1 ORDER BY rowid DESC LIMIT $2)";
pub(super) const REJECTIONS: &str = "SELECT at, remote_address, reason FROM source_rejections WHERE source_id = $1 ORDER BY rowid DESC";

#[cfg(test)]
pub(super) const EXPLAIN: &str = "EXPLAIN QUERY PLAN";
#[cfg(test)]
pub(super) const PLAN_COLUMN: usize = 3;
/// Without an index. (What goes through an index says `USING`; the table of attempts is one.)
#[cfg(test)]
pub(super) const SCANS: [&str; 5] = [
    "SCAN deliveries\n",
    "SCAN events\n",
    "SCAN inbound_webhooks\n",
    "SCAN d\n",
    "SCAN e\n",
];
#[cfg(test)]
pub(super) const SORTS: [&str; 1] = ["TEMP B-TREE"];

/// Nothing is to be done: plans do not depend on what the tables hold.
pub(super) async fn tidy(_: &SqlitePool) -> Result<()> {
    Ok(())
}

/// Runs `template` for all `rows`, which stand where it has `{rows}`; returns how many rows of the
/// table that touched.
pub(super) async fn write_rows<const COLUMNS: usize>(
    connection: &mut DbConnection,
    template: &'static str,
    rows: &[[Cell<'_>; COLUMNS]],
) -> Result<u64> {
    let mut touched = 0;
    for chunk in chunks(rows) {
        let done = bound(template, chunk).execute(&mut *connection).await?;
        touched += done.rows_affected();
    }
    Ok(touched)
}

/// As [`write_rows`], for what the statement returns.
pub(super) async fn read_rows<const COLUMNS: usize>(
    connection: &mut DbConnection,
    template: &'static str,
    rows: &[[Cell<'_>; COLUMNS]],
) -> Result<Vec<DbRow>> {
    let mut returned = Vec::new();
    for chunk in chunks(rows) {
        returned.extend(bound(template, chunk).fetch_all(&mut *connection).await?);
    }
    Ok(returned)
}

fn bound<'q, const COLUMNS: usize>(
    template: &'static str,
    rows: &'q [[Cell<'_>; COLUMNS]],
) -> Query<'q, Db, SqliteArguments> {
    let size = size_for(rows.len());
    let mut query = sqlx::query(statement(template, COLUMNS, size));
    for cell in rows.iter().flatten() {
        query = match cell {
            Cell::Text(text) => query.bind(text.as_deref()),
            Cell::Number(number) => query.bind(number),
        };
    }
    for _ in rows.len() * COLUMNS..size * COLUMNS {
        query = query.bind(None::<i64>);
    }
    query
}

/// The one connection that writes.
pub(super) struct Writing {
    pub(super) connection: SqliteConnection,
    /// To make it anew.
    pub(super) options: SqliteConnectOptions,
}

impl Writing {
    pub(super) async fn begin(&mut self) -> Result<SqliteTransaction<'_>> {
        // On a full disk SQLite rolls back by itself, and the driver goes on counting the
        // transaction as open: nothing more could be begun.
        if self.connection.is_in_transaction() {
            // Unless its rollback is still on the way.
            self.connection.ping().await?;
        }
        if self.connection.is_in_transaction() {
            let fresh = SqliteConnection::connect_with(&self.options).await?;
            let stuck = std::mem::replace(&mut self.connection, fresh);
            if let Err(error) = stuck.close().await {
                tracing::warn!(%error, "the connection that was given up did not close cleanly");
            }
        }
        Ok(self.connection.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The transaction was committed.
    pub(super) fn committed(&mut self) {}

    /// Leaves the file tidy.
    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database did not close cleanly");
        }
    }
}
