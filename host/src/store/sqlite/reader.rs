//! The database of a gateway that may be running: to be read beside it, never to be written.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::{OpenError, audit, catalog, vault};
use crate::domain::audit::{Anchor, Entry};
use crate::store::{AuditFilter, AuditLog, Catalog, Page, ProcessKeys, ReadStore, Result};

/// What can be read beside the process that has the database.
#[derive(Debug)]
pub struct SqliteReader {
    readers: SqlitePool,
}

impl SqliteReader {
    /// Opens the database at `path`, which has to be there, as it is.
    ///
    /// # Errors
    /// When it is not there, or SQLite refuses.
    pub async fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        std::fs::metadata(path).map_err(|source| OpenError::Io {
            path: path.to_owned(),
            source,
        })?;
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let readers = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        Ok(Self { readers })
    }
}

#[async_trait]
impl AuditLog for SqliteReader {
    async fn audit_entries(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Page<Entry>> {
        audit::list(&self.readers, filter, after, limit).await
    }

    async fn audit_entries_above(&self, seq: i64, limit: usize) -> Result<Vec<Entry>> {
        audit::above(&self.readers, seq, limit).await
    }

    async fn audit_head(&self) -> Result<Anchor> {
        audit::head(&self.readers).await
    }
}

#[async_trait]
impl ReadStore for SqliteReader {
    async fn read_catalog(&self) -> Result<Catalog> {
        catalog::load(&self.readers).await
    }

    async fn read_keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>> {
        vault::in_use(&self.readers, patience).await
    }
}
