//! Carrying out runs over dead letters: batch by batch, from the newest failure to the oldest, each
//! batch in one transaction that moves the run on. As with replays, a process that dies in between
//! loses nothing, and several that work on the same run do each batch once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::domain::clock::Clock;
use crate::domain::dead_letter::{
    DeadLetterAction, DeadLetterCursor, DeadLetterFilter, DeadLetterRun,
};
use crate::domain::replay::ReplayState;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{Store, StoreError};

/// Dead letters of one batch.
const BATCH: usize = 200;
/// Between two batches, so that the traffic of the day has its turn.
const PAUSE: Duration = Duration::from_millis(20);
/// Runs looked at in one round.
const RUNS_MAX: usize = 20;
/// A look without being told: what another process was doing when it died.
const LOOK: Duration = Duration::from_secs(2);
/// Dead letters of one page of a dry run, and pages that it counts.
const COUNTED_PAGE: usize = 500;
const COUNTED_PAGES_MAX: usize = 20;

/// Requeues and discards dead letters in bulk.
pub struct DeadLetters {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Whom to wake.
    pub queue: Arc<dyn Queue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Told of new runs.
    pub wake: Notify,
}

impl DeadLetters {
    /// Carries out what is on record until told to stop.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let round_and_rest = async {
                self.round().await;
                let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = round_and_rest => {}
            }
        }
    }

    async fn round(&self) {
        let running = self
            .store
            .dead_letter_runs(Some(ReplayState::Running), None, RUNS_MAX);
        let running = match running.await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "runs over dead letters wait for the store");
                return;
            }
        };
        for run in running.items {
            let id = run.id;
            if let Err(error) = self.carry_out(run).await {
                tracing::warn!(run = %id, %error, "the run over dead letters stopped for a moment");
            }
        }
    }

    async fn carry_out(&self, mut run: DeadLetterRun) -> Result<(), StoreError> {
        let id = run.id;
        while run.state == ReplayState::Running {
            let now = self.clock.now();
            let before = run.changed;
            let stepped = match self.store.step_dead_letter_run(run, BATCH, now).await? {
                Some(stepped) => {
                    let changed = stepped.changed - before;
                    self.metrics.settled(stepped.action.as_str(), changed);
                    Some(stepped)
                }
                None => self.store.dead_letter_run(id).await?,
            };
            let Some(stepped) = stepped else {
                return Ok(());
            };
            if stepped.action == DeadLetterAction::Requeue {
                self.queue.wake(now);
            }
            run = stepped;
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(run = %id, action = run.action.as_str(), changed = run.changed, state = run.state.as_str(), "run over dead letters ended");
        Ok(())
    }

    /// How many dead letters fit, counted up to some thousands, and whether that is all of them.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn count(&self, filter: &DeadLetterFilter) -> Result<(u64, bool), StoreError> {
        let (mut count, mut after) = (0, None);
        for _ in 0..COUNTED_PAGES_MAX {
            let page = self.store.dead_letters(filter, after, COUNTED_PAGE).await?;
            count += u64::try_from(page.items.len()).unwrap_or(u64::MAX);
            let next = page.next(|delivery| DeadLetterCursor::from(delivery).to_string());
            match next {
                None => return Ok((count, true)),
                Some(next) => after = next.parse().ok(),
            }
        }
        Ok((count, false))
    }
}
