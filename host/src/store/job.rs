//! Processing jobs, read from attempts and from deliveries with work left.

use async_trait::async_trait;

use super::{Page, Result};
use crate::domain::clock::Timestamp;
use crate::domain::id::{DeliveryId, WorkerId};
use crate::domain::job::{Job, JobId, JobQueue, JobState, Trigger};

/// Which jobs to list; all given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Found in this queue. An open job's queue is not on record.
    pub queue: Option<JobQueue>,
    /// Made due by this.
    pub trigger: Option<Trigger>,
    /// Of this worker.
    pub worker: Option<WorkerId>,
    /// Of this delivery.
    pub delivery: Option<DeliveryId>,
    /// Of deliveries created at or after.
    pub from: Option<Timestamp>,
    /// Of deliveries created before.
    pub until: Option<Timestamp>,
}

/// Jobs.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Jobs after the cursor `after` (exclusive): newest delivery first, its last attempt first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Page<Job>>;

    /// The job, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn job(&self, id: JobId) -> Result<Option<Job>>;
}
