//! Which process opens and seals with which keys: what a rotation of the master key has to know.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::domain::id::WorkerId;

/// The keys of one process, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessKeys {
    /// Which process.
    pub process: WorkerId,
    /// What it seals with.
    pub seals: String,
    /// What it opens with.
    pub opens: BTreeSet<String>,
}

/// What processes say of their keys.
#[async_trait]
pub trait VaultStore: Send + Sync + 'static {
    /// Notes that a process runs with these keys, and forgets those that were not seen for
    /// `patience`, by the database's clock. Zero: all others.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn note_keys(&self, keys: ProcessKeys, patience: Duration) -> Result<()>;

    /// What the processes said that were seen within `patience`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>>;
}
