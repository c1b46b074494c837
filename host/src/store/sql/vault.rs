//! The keys that processes seal and open with.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Row as _};

use super::dialect::{Backend, DbConnection, DbPool, NOW_MS, in_time};
use super::row::{json, parse};
use crate::store::{Catalog, ProcessKeys, ReadStore, Result, VaultStore};

#[async_trait]
impl VaultStore for Backend {
    async fn note_keys(&self, keys: ProcessKeys, patience: Duration) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(note(connection, keys, patience)))
            .await
    }

    async fn keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>> {
        in_time(in_use(&self.readers, patience)).await
    }
}

#[async_trait]
impl ReadStore for Backend {
    async fn read_catalog(&self) -> Result<Catalog> {
        in_time(super::catalog::load(&self.readers)).await
    }

    async fn read_keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>> {
        in_time(in_use(&self.readers, patience)).await
    }
}

fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX)
}

async fn note(connection: &mut DbConnection, keys: ProcessKeys, patience: Duration) -> Result<()> {
    let process = keys.process.to_string();
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO vault_processes (id, seals, opens, seen_at) VALUES ($1, $2, $3, {NOW_MS}) \
         ON CONFLICT (id) DO UPDATE SET seals = excluded.seals, opens = excluded.opens, seen_at = excluded.seen_at"
    )))
    .bind(&process)
    .bind(keys.seals)
    .bind(serde_json::Value::from_iter(keys.opens).to_string())
    .execute(&mut *connection)
    .await?;
    sqlx::query(AssertSqlSafe(format!(
        "DELETE FROM vault_processes WHERE id <> $1 AND seen_at <= {NOW_MS} - $2"
    )))
    .bind(process)
    .bind(milliseconds(patience))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn in_use(readers: &DbPool, patience: Duration) -> Result<Vec<ProcessKeys>> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT id, seals, opens FROM vault_processes WHERE seen_at > {NOW_MS} - $1 ORDER BY id"
    )))
    .bind(milliseconds(patience))
    .fetch_all(readers)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(ProcessKeys {
                process: parse("vault_processes.id", row.try_get(0)?)?,
                seals: row.try_get(1)?,
                opens: json("vault_processes.opens", row.try_get(2)?)?,
            })
        })
        .collect()
}
