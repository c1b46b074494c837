//! What PostgreSQL has of its own, for the statements that both databases share.

use sqlx::{PgConnection, PgPool, PgTransaction, Postgres};

use crate::store::Result;

pub(super) type Db = Postgres;
pub(super) type DbConnection = PgConnection;
pub(super) type DbPool = PgPool;
pub(super) type DbRow = sqlx::postgres::PgRow;

/// Many may hold it at once; whoever changes the catalogue waits for their commits.
pub(super) const HOLD_EPOCH: &str = "SELECT epoch FROM catalog FOR SHARE";
/// Tells the workers of all processes that there is something to claim.
pub(super) const ANNOUNCE: Option<&str> = Some("NOTIFY hookport_due");
pub(super) const CANCEL_QUEUED: &str = "UPDATE deliveries SET state = 5, due_at = NULL, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND state <> 2";
pub(super) const UNPARK: &str = "UPDATE deliveries SET due_at = $1, queued_for = queued_for * 0, updated_at = $1 WHERE subscription_id = $2 AND state <= 2 AND due_at IS NULL";
pub(super) const WITH_WORK_LEFT: &str = " AND state <= 2";
pub(super) const BACKLOG: &str = "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state <= 2 AND due_at IS NOT NULL LIMIT $1) AS waiting";
pub(super) const FORGET_REJECTIONS: &str = "DELETE FROM source_rejections WHERE source_id = $1 AND number NOT IN (SELECT number FROM source_rejections WHERE source_id = $1 ORDER BY number DESC LIMIT $2)";
pub(super) const REJECTIONS: &str = "SELECT at, remote_address, reason FROM source_rejections WHERE source_id = $1 ORDER BY number DESC";

/// A pool: a connection that broke is replaced.
pub(super) struct Writing(pub(super) PgPool);

impl Writing {
    pub(super) async fn begin(&mut self) -> Result<PgTransaction<'_>> {
        Ok(self.0.begin().await?)
    }

    /// The pool's other users go on.
    pub(super) async fn close(self) {}
}
