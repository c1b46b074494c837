//! Dead letters: listed by the time of failure, requeued and discarded, one or many.

use async_trait::async_trait;

use super::{Page, Result};
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::{DeadLetterCursor, DeadLetterFilter, DeadLetterRun};
use crate::domain::delivery::{Delivery, Discarded};
use crate::domain::id::{DeadLetterRunId, DeliveryId};
use crate::domain::replay::{Outcomes, ReplayState};

/// Dead letters.
#[async_trait]
pub trait DeadLetterStore: Send + Sync + 'static {
    /// Dead letters after the cursor `after` (exclusive), newest failure first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: usize,
    ) -> Result<Page<Delivery>>;

    /// Makes a dead letter due, with a fresh round of attempts. False: it is none (any more), or
    /// its subscription is off or gone; nothing was changed.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn requeue_dead_letter(&self, id: DeliveryId, at: Timestamp) -> Result<bool>;

    /// Leaves a dead letter undelivered for good. False: it is none (any more).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn discard_dead_letter(
        &self,
        id: DeliveryId,
        decision: Discarded,
        at: Timestamp,
    ) -> Result<bool>;

    /// Adds a run.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_dead_letter_run(&self, run: DeadLetterRun) -> Result<()>;

    /// The run, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead_letter_run(&self, id: DeadLetterRunId) -> Result<Option<DeadLetterRun>>;

    /// Runs after the cursor `after` (exclusive), newest first; in this state, where one is given.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead_letter_runs(
        &self,
        state: Option<ReplayState>,
        after: Option<DeadLetterRunId>,
        limit: usize,
    ) -> Result<Page<DeadLetterRun>>;

    /// Does what the run asks for with its next `limit` dead letters and moves it on, in one
    /// transaction. The run as it is then; `None`: another process went on with it, or it was
    /// cancelled, and nothing was written.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn step_dead_letter_run(
        &self,
        run: DeadLetterRun,
        limit: usize,
        at: Timestamp,
    ) -> Result<Option<DeadLetterRun>>;

    /// Stops one that runs. False: it does not run.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn cancel_dead_letter_run(&self, id: DeadLetterRunId, at: Timestamp) -> Result<bool>;

    /// How many of the deliveries that a run requeued are in which state.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead_letter_outcomes(&self, id: DeadLetterRunId) -> Result<Outcomes>;
}
