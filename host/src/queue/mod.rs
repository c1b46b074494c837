//! The work queue: who delivers what, and when.
//!
//! Invariant: a delivery that was handed out stays leased in the store until its result is
//! recorded there; the queue only says where to look, so nothing is lost with it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::{LeaseResult, LeasedDelivery, NewDelivery};
use crate::domain::event::Event;
use crate::domain::id::{EventId, SubscriptionId};
use crate::store::{Caps, CatalogEpoch, Queued, Recorded, StoreError};

pub mod broker;
#[cfg(test)]
pub mod conformance;
pub mod embedded;
mod fresh;
mod leases;
mod passed_over;
pub mod rabbitmq;

/// Deliveries leased to the caller.
#[derive(Clone, Debug)]
pub struct Batch {
    /// At least one.
    pub leased: Vec<LeasedDelivery>,
    /// The catalog's epoch when they were leased: older configuration must not be used.
    pub epoch: CatalogEpoch,
}

/// What may be taken.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// How much where that is limited.
    pub caps: Caps,
    /// When there is more room for one of them, as far as time alone makes it.
    pub more_at: Option<Timestamp>,
}

/// A source of leased deliveries.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Waits until at least one delivery is due and leases up to `limit` of them. `room` is
    /// asked at each look for what may be taken.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; a lease already taken runs out.
    ///
    /// # Errors
    /// When the store or the broker is unavailable: wait and call again.
    async fn next(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Batch, StoreError>;

    /// Records the result in the store and settles the delivery with the queue.
    ///
    /// # Errors
    /// When the store is unavailable: the lease runs out and the delivery returns.
    async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError>;

    /// A hint, after a commit: deliveries became due at `due`.
    fn wake(&self, due: Timestamp);

    /// There is room again for these: what was passed over for want of it may go.
    fn room_again(&self, subscriptions: &[SubscriptionId], now: Timestamp) {
        let _ = subscriptions;
        self.wake(now);
    }

    /// Before `deliveries` of `events` are written: gives leases to those that can be carried out here
    /// at once, and returns these. Each is then handed over or withdrawn.
    fn lease_new(
        &self,
        events: &[Arc<Event>],
        deliveries: &mut [NewDelivery],
        now: Timestamp,
    ) -> Vec<LeasedDelivery> {
        let _ = (events, deliveries, now);
        Vec::new()
    }

    /// After the commit: deliveries of `subscriptions` are due at `due`, and nobody has them.
    fn written(&self, subscriptions: &[SubscriptionId], due: Timestamp) {
        let _ = subscriptions;
        self.wake(due);
    }

    /// After the commit: what [`Queue::lease_new`] leased.
    fn hand_over(&self, batch: Batch) {
        let _ = batch;
    }

    /// What [`Queue::lease_new`] leased was not written, or nobody knows whether it was.
    fn withdraw(&self, leased: &[LeasedDelivery], is_doubtful: bool) {
        let _ = (leased, is_doubtful);
    }

    /// Leases no more by itself, and returns what was handed over to it and to nobody else yet.
    async fn stop(&self) -> Vec<LeasedDelivery> {
        Vec::new()
    }

    /// Whether a broker is told of deliveries that are written now.
    fn is_told(&self) -> bool {
        false
    }

    /// After a commit, where [`Queue::is_told`]: tells of deliveries. Never waits, never fails: what
    /// was not told is found.
    fn tell(&self, deliveries: Vec<Queued>) {
        let _ = deliveries;
    }
}

/// Deliveries that are being written, and whom to tell of them. Dropped before it is known what became
/// of them, it leaves the store's word to count.
pub struct Announcement<'q> {
    queue: &'q dyn Queue,
    due: Timestamp,
    /// Whose deliveries have no lease.
    waiting: Vec<SubscriptionId>,
    /// For the broker, where one is told.
    told: Option<Vec<Queued>>,
    /// What has its lease, and sets out from here.
    leased: Vec<LeasedDelivery>,
}

impl<'q> Announcement<'q> {
    /// Before they are written, due at `due`; some get their lease.
    #[must_use]
    pub fn new(
        queue: &'q dyn Queue,
        events: &[Arc<Event>],
        deliveries: &mut [NewDelivery],
        due: Timestamp,
    ) -> Self {
        let leased = queue.lease_new(events, deliveries, due);
        let waiting = deliveries.iter().filter(|new| new.lease.is_none());
        let queued = |delivery: &NewDelivery| Queued {
            id: delivery.id,
            subscription_id: delivery.subscription_id,
            due,
        };
        Self {
            queue,
            due,
            waiting: waiting.map(|new| new.subscription_id).collect(),
            told: queue
                .is_told()
                .then(|| deliveries.iter().map(queued).collect()),
            leased,
        }
    }

    /// What to write of them: when a broker has them come out.
    #[must_use]
    pub fn queued_for(&self) -> Option<Timestamp> {
        self.told.as_ref().map(|_| self.due)
    }

    /// Only the deliveries of `events` were written.
    pub fn keep(&mut self, events: &[EventId]) {
        let unwritten: Vec<_> = self
            .leased
            .extract_if(.., |leased| !events.contains(&leased.event.id))
            .collect();
        if !unwritten.is_empty() {
            self.queue.withdraw(&unwritten, false);
        }
    }

    /// After the commit, at `epoch`.
    pub fn make(mut self, epoch: CatalogEpoch) {
        let leased = std::mem::take(&mut self.leased);
        if !leased.is_empty() {
            self.queue.hand_over(Batch { leased, epoch });
        }
        match self.told.take() {
            _ if self.waiting.is_empty() => {}
            Some(told) => self.queue.tell(told),
            None => self.queue.written(&self.waiting, self.due),
        }
    }

    /// Nothing was written.
    pub fn withdraw(mut self) {
        self.end(false);
    }

    fn end(&mut self, is_doubtful: bool) {
        let leased = std::mem::take(&mut self.leased);
        if !leased.is_empty() {
            self.queue.withdraw(&leased, is_doubtful);
        }
    }
}

impl Drop for Announcement<'_> {
    fn drop(&mut self) {
        self.end(true);
    }
}
