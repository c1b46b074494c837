//! The database as it is, for `hookport doctor`: nothing is created or migrated.

use sqlx::PgConnection;

use super::{OpenError, migrations, versions};
use crate::domain::clock::Timestamp;
use crate::store::Condition;

/// What is at `url`.
///
/// # Errors
/// Each kind of [`OpenError`].
pub(super) async fn examine(url: &str) -> Result<Condition, OpenError> {
    let pool = super::pool(super::options(url)?, 1);
    let mut connection = pool.acquire().await?;
    let condition = condition(&mut connection).await;
    drop(connection);
    pool.close().await;
    Ok(condition?)
}

async fn condition(connection: &mut PgConnection) -> Result<Condition, sqlx::Error> {
    let version: String = sqlx::query_scalar("SHOW server_version")
        .fetch_one(&mut *connection)
        .await?;
    let clock: i64 =
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            .fetch_one(&mut *connection)
            .await?;
    Ok(Condition {
        server: format!("PostgreSQL {version}"),
        versions: versions::compare(connection, &migrations()).await?,
        lacking: lacking(connection).await?,
        clock: Some(Timestamp(clock)),
    })
}

/// A right that is missing: to make tables where there are none yet, else to use them.
async fn lacking(connection: &mut PgConnection) -> Result<Option<&'static str>, sqlx::Error> {
    let uses: Option<bool> = sqlx::query_scalar(
        "SELECT bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace",
    )
    .fetch_one(&mut *connection)
    .await?;
    if let Some(uses) = uses {
        return Ok((!uses).then_some("read and write every table"));
    }
    let creates: bool =
        sqlx::query_scalar("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            .fetch_one(connection)
            .await?;
    Ok((!creates).then_some("create tables in its schema"))
}
