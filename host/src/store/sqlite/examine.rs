//! The database as it is, for `hookport doctor`: nothing is created or migrated.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use super::{OpenError, migrations, versions};
use crate::store::Condition;

/// What is at `path`, where no process has it open.
///
/// # Errors
/// Each kind of [`OpenError`].
pub(super) async fn examine(path: &Path) -> Result<Condition, OpenError> {
    let _lock = super::lock(&path.with_extension("lock"))?;
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await?;
    let condition = condition(&mut connection).await;
    connection.close().await?;
    Ok(condition?)
}

async fn condition(connection: &mut SqliteConnection) -> Result<Condition, sqlx::Error> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut *connection)
        .await?;
    let versions = versions::compare(connection, &migrations()).await?;
    // A file that can be read and not written shows at the first write alone.
    let writable = sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await;
    if writable.is_ok() {
        sqlx::query("ROLLBACK").execute(connection).await?;
    }
    Ok(Condition {
        server: format!("SQLite {version}"),
        versions,
        lacking: writable.err().map(|_| "write to it"),
        clock: None,
    })
}
