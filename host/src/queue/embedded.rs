//! The queue over the store: claims are leases in the store, wake-ups are in process.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::leases::Leases;
use super::{Batch, Queue, Room};
use crate::domain::clock::{Clock, Timestamp, within};
use crate::domain::delivery::{LeaseResult, Transition};
use crate::domain::id::WorkerId;
use crate::store::{DeliveryStore, Recorded, StoreError};

/// A look at the store without a wake-up: what became due by a clock step or by another path.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Nothing is known to be due.
const NEVER: i64 = i64::MAX;

/// A queue for one process.
pub struct EmbeddedQueue<S: ?Sized> {
    pub(super) leases: Leases<S>,
    wake: Notify,
    /// When the next delivery is due, as far as known, in milliseconds.
    next_due: AtomicI64,
}

impl<S: DeliveryStore + ?Sized> EmbeddedQueue<S> {
    /// A queue whose leases last `lease`: longer than any call's deadline.
    pub fn new(store: Arc<S>, clock: Arc<dyn Clock>, worker: WorkerId, lease: Duration) -> Self {
        Self {
            leases: Leases::new(store, clock, worker, lease),
            wake: Notify::new(),
            // The store may hold work from before.
            next_due: AtomicI64::new(i64::MIN),
        }
    }

    /// Claims, if something is due as far as known.
    pub(super) async fn look(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Option<Batch>, StoreError> {
        let now = self.leases.clock.now();
        if self.next_due.load(Ordering::Acquire) > now.0 {
            return Ok(None);
        }
        // Set before the claim: a wake-up during it must not be overwritten.
        self.next_due.store(NEVER, Ordering::Release);
        let Room { caps, more_at } = room();
        let request = self.leases.request(now, limit, caps);
        let claimed = self.leases.claim(now, self.leases.store.claim(request));
        let claim = match claimed.await {
            Ok(claim) => claim,
            Err(error) => {
                self.wake(now);
                return Err(error);
            }
        };
        // Held back by its ordering key or its subscription's cap: whoever ends that wakes
        // the queue, if it is not time itself.
        let sooner = [more_at, Some(now.plus(IDLE_LOOK))];
        let sooner = sooner.into_iter().flatten().filter(|_| claim.held_back);
        if let Some(due) = claim.next_due.into_iter().chain(sooner).min() {
            self.next_due.fetch_min(due.0, Ordering::AcqRel);
        }
        Ok((!claim.leased.is_empty()).then_some(Batch {
            leased: claim.leased,
            epoch: claim.epoch,
        }))
    }

    /// Waits until something may be due.
    pub(super) async fn wait(&self) {
        let due = self.next_due.load(Ordering::Acquire);
        let until_due = Timestamp(due).since(self.leases.clock.now());
        // A timer that fires a moment early would make for an empty claim.
        let pause = (until_due + Duration::from_millis(1)).min(IDLE_LOOK);
        let woken = within(&*self.leases.clock, pause, self.wake.notified()).await;
        if woken.is_none() {
            // It is due; or the idle look: another process may have made something due sooner than
            // this one knows, with its hint lost.
            self.next_due.store(i64::MIN, Ordering::Release);
        }
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
            if let Some(batch) = self.look(limit, room).await? {
                return Ok(batch);
            }
            self.wait().await;
        }
    }

    async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError> {
        let due = match result.transition {
            Transition::RetryAt(at) => Some(at),
            _ => None,
        };
        let recorded = self.leases.settle(result).await?;
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
    use hookport_test_servers::Postgres;

    use super::super::conformance::{self, LEASE, ManualClock, Parts};
    use super::*;
    use crate::domain::id::IdGenerator;
    use crate::store::Store;
    use crate::store::postgres::PostgresStore;
    use crate::store::sqlite::SqliteStore;

    fn parts(store: Arc<dyn Store>) -> Parts {
        let manual = Arc::new(ManualClock::new());
        let clock: Arc<dyn Clock> = manual.clone();
        let ids = IdGenerator::default();
        let queue = {
            let (store, clock) = (store.clone(), clock.clone());
            move || -> Arc<dyn Queue> {
                let worker = ids.next(clock.now(), || 1);
                let (store, clock) = (store.clone(), clock.clone());
                Arc::new(EmbeddedQueue::new(store, clock, worker, LEASE))
            }
        };
        Parts {
            queue: queue(),
            other: Box::new(queue),
            store: store.clone(),
            clock: clock.clone(),
            manual: Some(manual),
        }
    }

    fn unchecked<T>(_: &T) {}

    mod over_sqlite {
        use super::*;

        async fn fresh() -> (tempfile::TempDir, Parts) {
            let dir = tempfile::tempdir().expect("dir");
            let store = SqliteStore::open(&dir.path().join("queue.db")).await;
            (dir, parts(Arc::new(store.expect("opens"))))
        }

        conformance::cases!(fresh, unchecked);
    }

    mod over_postgres {
        use super::*;

        async fn fresh() -> ((), Parts) {
            let url = tokio::task::spawn_blocking(|| Postgres::shared().database());
            let store = PostgresStore::open(&url.await.expect("a database"), true).await;
            ((), parts(Arc::new(store.expect("opens"))))
        }

        conformance::cases!(fresh, unchecked);
    }
}
