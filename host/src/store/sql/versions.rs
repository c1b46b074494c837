//! Which migrations a database has seen, beside those that this binary knows.
//!
//! Migrations expand first and contract later, so that a binary works on a database of the version
//! after it. One that takes away what such a binary uses begins its name with `contract`.

use super::dialect::{self, DbConnection};
use crate::store::Versions;

/// Compares; changes nothing.
pub(super) async fn compare(
    connection: &mut DbConnection,
    known: &sqlx::migrate::Migrator,
) -> Result<Versions, sqlx::Error> {
    let is_recorded: bool = sqlx::query_scalar(dialect::IS_MIGRATED)
        .fetch_one(&mut *connection)
        .await?;
    let seen: Vec<(i64, String)> = if is_recorded {
        sqlx::query_as("SELECT version, description FROM _sqlx_migrations WHERE success")
            .fetch_all(connection)
            .await?
    } else {
        Vec::new()
    };
    let unknown = seen
        .iter()
        .filter(|(version, _)| !known.version_exists(*version));
    Ok(Versions {
        missing: known
            .iter()
            .filter(|migration| {
                seen.iter()
                    .all(|(version, _)| *version != migration.version)
            })
            .count(),
        unknown: unknown.clone().count(),
        contracted: unknown
            .clone()
            .any(|(_, description)| description.starts_with("contract")),
    })
}
