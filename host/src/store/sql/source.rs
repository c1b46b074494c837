//! Inbound sources, part of the catalogue.

use sqlx::Row as _;

use super::catalog::bump;
use super::dialect::{DbConnection, DbRow};
use super::row::{corrupt, json, parse, provider, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::id::SourceId;
use crate::domain::source::{Source, SourceName};
use crate::domain::subscription::SealedDocument;
use crate::store::{Result, StoreError};

/// The verification document has no schema version of its own yet.
const VERIFICATION_VERSION: u32 = 1;

pub(super) async fn load(connection: &mut DbConnection) -> Result<Vec<Source>> {
    let rows = sqlx::query("SELECT id, name, component, config, config_version, verification, rate_per_minute, enabled, created_at, updated_at FROM sources ORDER BY id")
        .fetch_all(connection)
        .await?;
    rows.iter().map(source_from_row).collect()
}

fn source_from_row(row: &DbRow) -> Result<Source> {
    Ok(Source {
        id: parse("sources.id", row.try_get(0)?)?,
        name: SourceName::parse(row.try_get(1)?)
            .map_err(|error| corrupt("sources.name", &error))?,
        component: provider(row.try_get(2)?)?,
        config: SealedDocument {
            json: json("sources.config", row.try_get(3)?)?,
            version: unsigned("sources.config_version", row.try_get(4)?)?,
        },
        verification: SealedDocument {
            json: json("sources.verification", row.try_get(5)?)?,
            version: VERIFICATION_VERSION,
        },
        rate_per_minute: unsigned("sources.rate_per_minute", row.try_get(6)?)?,
        enabled: row.try_get(7)?,
        created_at: Timestamp(row.try_get(8)?),
        updated_at: Timestamp(row.try_get(9)?),
    })
}

pub(super) async fn put(connection: &mut DbConnection, source: Source) -> Result<()> {
    let taken: Option<i64> =
        sqlx::query_scalar("SELECT CAST(1 AS BIGINT) FROM sources WHERE name = $1 AND id <> $2")
            .bind(source.name.as_str())
            .bind(source.id.to_string())
            .fetch_optional(&mut *connection)
            .await?;
    if taken.is_some() {
        return Err(StoreError::Conflict(format!(
            "name: there is a source {:?} already",
            source.name.as_str()
        )));
    }
    sqlx::query("INSERT INTO sources (id, name, component, config, config_version, verification, rate_per_minute, enabled, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, component = excluded.component, config = excluded.config, config_version = excluded.config_version, verification = excluded.verification, rate_per_minute = excluded.rate_per_minute, enabled = excluded.enabled, updated_at = excluded.updated_at")
        .bind(source.id.to_string())
        .bind(source.name.as_str())
        .bind(source.component.as_str())
        .bind(source.config.json.to_string())
        .bind(i64::from(source.config.version))
        .bind(source.verification.json.to_string())
        .bind(i64::from(source.rate_per_minute))
        .bind(source.enabled)
        .bind(source.created_at.0)
        .bind(source.updated_at.0)
        .execute(&mut *connection)
        .await?;
    bump(connection).await
}

pub(super) async fn delete(connection: &mut DbConnection, id: SourceId) -> Result<bool> {
    sqlx::query("DELETE FROM source_rejections WHERE source_id = $1")
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query("DELETE FROM sources WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}
