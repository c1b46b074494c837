//! The queue over the store: claims are leases in the store, wake-ups are in process.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Batch, Queue, Room};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{LeaseResult, LeasedDelivery, Transition};
use crate::domain::id::{DeliveryId, WorkerId};
use crate::store::{ClaimRequest, DeliveryStore, Recorded, StoreError};

/// A look at the store without a wake-up: what became due by a clock step or by another path.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Nothing is known to be due.
const NEVER: i64 = i64::MAX;

/// A queue for one process.
pub struct EmbeddedQueue<S: ?Sized> {
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    worker: WorkerId,
    lease: Duration,
    wake: Notify,
    /// What was handed out and not settled.
    held: Mutex<HashSet<DeliveryId>>,
    /// Calls whose answer may be lost, so that the store says that something is held here which is
    /// not: how many there were, and up to which all is known.
    doubts: AtomicU64,
    resolved: AtomicU64,
    /// When the next delivery is due, as far as known, in milliseconds.
    next_due: AtomicI64,
}

impl<S: DeliveryStore + ?Sized> EmbeddedQueue<S> {
    /// A queue whose leases last `lease`: longer than any call's deadline.
    pub fn new(store: Arc<S>, clock: Arc<dyn Clock>, worker: WorkerId, lease: Duration) -> Self {
        Self {
            store,
            clock,
            worker,
            lease,
            wake: Notify::new(),
            held: Mutex::default(),
            doubts: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
            // The store may hold work from before.
            next_due: AtomicI64::new(i64::MIN),
        }
    }

    fn doubt(&self) -> u64 {
        self.doubts.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<DeliveryId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, leased: &[LeasedDelivery]) {
        self.lock().extend(leased.iter().map(|leased| leased.id));
    }

    /// Gives back what the store says is held here and is not.
    async fn release_unheld(&self, now: Timestamp) -> Result<(), StoreError> {
        let doubts = self.doubts.load(Ordering::Acquire);
        if doubts == self.resolved.load(Ordering::Acquire) {
            return Ok(());
        }
        let held = self.lock().iter().copied().collect();
        let released = self.store.release_unheld(self.worker, held, now).await?;
        if released > 0 {
            tracing::info!(
                released,
                "deliveries whose claim was not answered are due again"
            );
        }
        self.resolved.fetch_max(doubts, Ordering::AcqRel);
        Ok(())
    }

    async fn wait(&self) {
        let due = self.next_due.load(Ordering::Acquire);
        let until_due = Timestamp(due).since(self.clock.now());
        // A timer that fires a moment early would make for an empty claim.
        let pause = (until_due + Duration::from_millis(1)).min(IDLE_LOOK);
        let _ = tokio::time::timeout(pause, self.wake.notified()).await;
    }
}

#[async_trait]
impl<S: DeliveryStore + ?Sized> Queue for EmbeddedQueue<S> {
    async fn next(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Batch, StoreError> {
        loop {
            let now = self.clock.now();
            if self.next_due.load(Ordering::Acquire) <= now.0 {
                // Set before the claim: a wake-up during it must not be overwritten.
                self.next_due.store(NEVER, Ordering::Release);
                let Room { caps, more_at } = room();
                if let Err(error) = self.release_unheld(now).await {
                    self.wake(now);
                    return Err(error);
                }
                // Until it is answered: this future may be dropped as well.
                let doubt = self.doubt();
                let claimed = self
                    .store
                    .claim(ClaimRequest {
                        worker: self.worker,
                        now,
                        lease_until: now.plus(self.lease),
                        limit,
                        caps,
                    })
                    .await;
                let claim = match claimed {
                    Ok(claim) => claim,
                    Err(error) => {
                        self.wake(now);
                        return Err(error);
                    }
                };
                self.hold(&claim.leased);
                if !claim.is_doubtful {
                    // Unless a result was lost meanwhile, which is another doubt.
                    let (before, after) = (Ordering::AcqRel, Ordering::Acquire);
                    let _ = self
                        .resolved
                        .compare_exchange(doubt - 1, doubt, before, after);
                }
                // Held back by its ordering key or its subscription's cap: whoever ends that wakes
                // the queue, if it is not time itself.
                let sooner = [more_at, Some(now.plus(IDLE_LOOK))];
                let sooner = sooner.into_iter().flatten().filter(|_| claim.held_back);
                if let Some(due) = claim.next_due.into_iter().chain(sooner).min() {
                    self.next_due.fetch_min(due.0, Ordering::AcqRel);
                }
                if !claim.leased.is_empty() {
                    return Ok(Batch {
                        leased: claim.leased,
                        epoch: claim.epoch,
                    });
                }
            }
            self.wait().await;
            if self.next_due.load(Ordering::Acquire) == NEVER {
                // The idle look.
                self.next_due.store(i64::MIN, Ordering::Release);
            }
        }
    }

    async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError> {
        let due = match result.transition {
            Transition::RetryAt(at) => Some(at),
            _ => None,
        };
        let id = result.id;
        let recorded = self.store.record(result).await;
        self.lock().remove(&id);
        if recorded.is_err() {
            // It may be settled or not; if not, it is to go back rather than wait for its lease.
            self.doubt();
        }
        let recorded = recorded?;
        if let Some(due) = due {
            self.wake(due);
        }
        Ok(recorded)
    }

    fn wake(&self, due: Timestamp) {
        let before = self.next_due.fetch_min(due.0, Ordering::AcqRel);
        if due.0 < before {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, ManualClock, Parts};
    use super::*;
    use crate::domain::id::IdGenerator;
    use crate::store::sqlite::SqliteStore;

    async fn parts() -> (tempfile::TempDir, Parts) {
        let dir = tempfile::tempdir().expect("dir");
        let store = SqliteStore::open(&dir.path().join("queue.db"))
            .await
            .expect("opens");
        let store = Arc::new(store);
        let clock = Arc::new(ManualClock::new());
        let worker = IdGenerator::default().next(clock.now(), || 1);
        let lease = Duration::from_secs(600);
        let queue = EmbeddedQueue::new(
            store.clone(),
            clock.clone() as Arc<dyn Clock>,
            worker,
            lease,
        );
        let queue = Arc::new(queue);
        (
            dir,
            Parts {
                queue,
                store,
                clock,
            },
        )
    }

    macro_rules! cases {
        ($($case:ident),+ $(,)?) => {
            $(
                #[tokio::test]
                async fn $case() {
                    let (_dir, parts) = parts().await;
                    conformance::$case(&parts).await;
                }
            )+
        };
    }

    cases!(
        work_comes_once_and_wakes_a_waiter,
        what_was_there_before_the_queue_is_found,
        a_settled_retry_comes_when_it_is_due,
        a_lapsed_lease_comes_back,
        an_excluded_subscription_does_not_hold_up_others,
    );
}
