//! What this process has leased, and what it may have leased without knowing.
//!
//! Invariant: what the store says is held here and is not is given back before the next claim.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{FencingToken, FirstLease, LeaseResult, LeasedDelivery, NewDelivery};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, WorkerId};
use crate::domain::job::{JobOrigin, JobQueue, Trigger};
use crate::store::{Caps, Claim, ClaimRequest, DeliveryStore, Recorded, StoreError};

pub(super) struct Leases<S: ?Sized> {
    pub(super) store: Arc<S>,
    pub(super) clock: Arc<dyn Clock>,
    worker: WorkerId,
    pub(super) lease: Duration,
    /// What was handed out and not settled.
    held: Mutex<HashSet<DeliveryId>>,
    /// Calls whose answer may be lost, so that the store says that something is held here which is
    /// not: how many there were, and up to which all is known.
    doubts: AtomicU64,
    resolved: AtomicU64,
}

impl<S: DeliveryStore + ?Sized> Leases<S> {
    pub(super) fn new(
        store: Arc<S>,
        clock: Arc<dyn Clock>,
        worker: WorkerId,
        lease: Duration,
    ) -> Self {
        Self {
            store,
            clock,
            worker,
            lease,
            held: Mutex::default(),
            doubts: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
        }
    }

    /// What to claim at `now`.
    pub(super) fn request(&self, now: Timestamp, limit: usize, caps: Caps) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker,
            now,
            lease_until: now.plus(self.lease),
            limit,
            caps,
        }
    }

    /// Waits for the answer of `claiming`, and holds what it leased.
    pub(super) async fn claim(
        &self,
        now: Timestamp,
        claiming: impl Future<Output = Result<Claim, StoreError>>,
    ) -> Result<Claim, StoreError> {
        self.release_unheld(now).await?;
        // Until it is answered: this future may be dropped as well.
        let doubt = self.doubt();
        let claim = claiming.await?;
        self.lock()
            .extend(claim.leased.iter().map(|leased| leased.id));
        if !claim.is_doubtful {
            // Unless a result was lost meanwhile, which is another doubt.
            let (before, after) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self
                .resolved
                .compare_exchange(doubt - 1, doubt, before, after);
        }
        Ok(claim)
    }

    /// Records a result; what was held is held no more.
    pub(super) async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError> {
        let id = result.id;
        let recorded = self.store.record(result).await;
        self.lock().remove(&id);
        if recorded.is_err() {
            // It may be settled or not; if not, it is to go back rather than wait for its lease.
            self.doubt();
        }
        recorded
    }

    /// A lease for `delivery`, which is to be written at `now` with its event.
    pub(super) fn lease_new(
        &self,
        event: &Arc<Event>,
        delivery: &mut NewDelivery,
        now: Timestamp,
    ) -> LeasedDelivery {
        delivery.lease = Some(FirstLease {
            worker: self.worker,
            until: now.plus(self.lease),
        });
        // Before the store knows of it: it must not be given back meanwhile.
        self.lock().insert(delivery.id);
        LeasedDelivery {
            id: delivery.id,
            token: FencingToken::FIRST,
            subscription_id: delivery.subscription_id,
            provider: delivery.provider.clone(),
            attempt: 1,
            event: event.clone(),
            external_id: None,
            job: JobOrigin {
                queue: JobQueue::Store,
                trigger: Trigger::Ingest,
                queued_at: now,
                worker: self.worker,
            },
        }
    }

    /// What was leased as it was written is held no more. If it was written, it is given back before
    /// the next claim.
    pub(super) fn withdraw(&self, leased: &[LeasedDelivery], is_doubtful: bool) {
        let mut held = self.lock();
        for leased in leased {
            held.remove(&leased.id);
        }
        drop(held);
        if is_doubtful {
            self.doubt();
        }
    }

    /// Gives leases back.
    pub(super) async fn give_back(&self, leased: &[LeasedDelivery], now: Timestamp) {
        let leases = leased.iter().map(|leased| (leased.id, leased.token));
        let released = self.store.release(leases.collect(), now).await;
        self.withdraw(leased, released.is_err());
        if let Err(error) = released {
            tracing::warn!(%error, "what may not go yet could not be given back at once");
        }
    }

    fn doubt(&self) -> u64 {
        self.doubts.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<DeliveryId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
}
