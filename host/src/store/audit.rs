//! The audit trail on record.

use async_trait::async_trait;

use super::{Accepted, Claim, Page, Received, Removed, Result, Stepped, StoreError};
use crate::domain::audit::{Anchor, Broken, Entry, Follower, NewEntry};
use crate::domain::clock::Timestamp;

/// Entries read at one time when the chain is followed.
const PAGE: usize = 500;

/// Which entries to list. All given conditions hold, before the page is cut.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Done by the actor of this identifier or name.
    pub actor: Option<String>,
    /// This action, or where it ends in `.*` all that begin so.
    pub action: Option<String>,
    /// Done to the thing of this identifier.
    pub target: Option<String>,
    /// Done to things of this kind.
    pub target_kind: Option<String>,
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

/// What can be read of the trail.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Entries after the cursor `after` (exclusive), newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn audit_entries(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Page<Entry>>;

    /// Entries with a number above `seq`, by number, whatever numbers there are.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn audit_entries_above(&self, seq: i64, limit: usize) -> Result<Vec<Entry>>;

    /// The end of the chain, as it is kept apart from the entries.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn audit_head(&self) -> Result<Anchor>;
}

/// The audit trail. Entries about a change are written with it: see [`super::Store::audited`].
#[async_trait]
pub trait AuditStore: AuditLog + 'static {
    /// Adds entries at the end of the chain, in one transaction. For what is no change of the
    /// store.
    ///
    /// # Errors
    /// `Unavailable`: none was added.
    async fn append_audit(&self, entries: Vec<NewEntry>) -> Result<()>;
}

/// Why the trail cannot be vouched for.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is not what was written.
    #[error("{0}")]
    Broken(#[from] Broken),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Follows the whole chain, a page at a time, while others may go on adding to it. Returns its
/// end, which can be kept elsewhere and given as `expected` later.
///
/// # Errors
/// `Broken` with the first number that is wrong; what the store answers.
pub async fn check(
    log: &dyn AuditLog,
    expected: Option<Anchor>,
) -> std::result::Result<Anchor, CheckError> {
    // What is added from here on has higher numbers, and need not be read.
    let head = log.audit_head().await?;
    let mut follower = Follower::default();
    let mut above = i64::MIN;
    loop {
        let page = log.audit_entries_above(above, PAGE).await?;
        for entry in &page {
            follower.follow(entry)?;
            for known in [Some(head), expected].into_iter().flatten() {
                if known.seq == entry.seq && known.hash != entry.hash {
                    return Err(Broken::Unexpected(entry.seq).into());
                }
            }
        }
        match page.last() {
            Some(last) => above = last.seq,
            None => break,
        }
    }
    let last = follower.last();
    // Read after the entries: it covers all that were seen.
    let latest = log.audit_head().await?;
    let reached = [Some(head), expected].into_iter().flatten();
    if let Some(known) = reached.max_by_key(|known| known.seq)
        && known.seq > last.seq
    {
        return Err(Broken::Missing(last.seq + 1).into());
    }
    if last.seq > latest.seq {
        return Err(Broken::Inserted(latest.seq + 1).into());
    }
    Ok(last)
}

/// Whether something was changed, which is what entries are written about.
pub(super) trait Effect {
    /// What a change returned says so.
    fn is_change(&self) -> bool;
}

impl Effect for () {
    fn is_change(&self) -> bool {
        true
    }
}

impl Effect for bool {
    fn is_change(&self) -> bool {
        *self
    }
}

impl Effect for u64 {
    fn is_change(&self) -> bool {
        *self > 0
    }
}

impl<T> Effect for Option<T> {
    fn is_change(&self) -> bool {
        self.is_some()
    }
}

impl<T> Effect for Vec<T> {
    fn is_change(&self) -> bool {
        !self.is_empty()
    }
}

impl Effect for Claim {
    fn is_change(&self) -> bool {
        !self.leased.is_empty()
    }
}

impl Effect for Accepted {
    fn is_change(&self) -> bool {
        *self == Self::New
    }
}

impl Effect for Received {
    fn is_change(&self) -> bool {
        !matches!(self, Self::StaleCatalog)
    }
}

impl Effect for Removed {
    fn is_change(&self) -> bool {
        self.records > 0
    }
}

impl Effect for Stepped {
    fn is_change(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}
