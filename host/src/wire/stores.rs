//! The system of record that is configured: opened, read beside a gateway, looked at, filled.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::Context as _;

use super::SystemClock;
use crate::config::Config;
use crate::domain::clock::Clock as _;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{self, SqliteReader, SqliteStore};
use crate::store::{Condition, ReadStore, Store};

/// Opens the store: the shared one that is configured, or the embedded one below `data_dir`,
/// creating what is missing.
///
/// # Errors
/// When the directory or the database cannot be opened.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let data_dir = &config.data_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("data_dir {}", data_dir.display()))?;
    Ok(match &config.store.url {
        Some(url) => Arc::new(PostgresStore::open(url, config.store.migrate_at_start).await?),
        None => Arc::new(SqliteStore::open(&data_dir.join("hookport.db")).await?),
    })
}

/// Adds deliveries of the past to the store that is configured, for measurements: the last one ends
/// now.
///
/// # Errors
/// When the database cannot be opened or written.
pub async fn fill_store(config: &Config, deliveries: i64) -> anyhow::Result<()> {
    let until = SystemClock.now();
    match &config.store.url {
        Some(url) => {
            let store = PostgresStore::open(url, config.store.migrate_at_start).await?;
            store.fill(deliveries, until).await?;
        }
        None => {
            let store = SqliteStore::open(&config.data_dir.join("hookport.db")).await?;
            store.fill(deliveries, until).await?;
        }
    }
    Ok(())
}

/// Opens the store to be read, also while a gateway has it.
///
/// # Errors
/// When the database cannot be opened.
pub async fn open_reader(config: &Config) -> anyhow::Result<Arc<dyn ReadStore>> {
    Ok(match &config.store.url {
        Some(url) => Arc::new(PostgresStore::open(url, false).await?),
        None => Arc::new(SqliteReader::open(&config.data_dir.join("hookport.db")).await?),
    })
}

/// Whether the database could not be opened because a running process has it.
#[must_use]
pub fn is_in_use(error: &anyhow::Error) -> bool {
    let found = error.downcast_ref::<sqlite::OpenError>();
    matches!(found, Some(sqlite::OpenError::InUse(_)))
}

/// What is found of the store that is configured, unchanged; `None`: there is none yet.
///
/// # Errors
/// When it cannot be looked at.
pub async fn examine_store(config: &Config) -> anyhow::Result<Option<Condition>> {
    if let Some(url) = &config.store.url {
        return Ok(Some(PostgresStore::examine(url).await?));
    }
    let path = config.data_dir.join("hookport.db");
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(SqliteStore::examine(&path).await?))
}
