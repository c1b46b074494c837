//! The work queue: who delivers what, and when.
//!
//! Invariant: a delivery that was handed out stays leased in the store until its result is
//! recorded there; the queue only says where to look, so nothing is lost with it.

use async_trait::async_trait;

use crate::domain::clock::Timestamp;
use crate::domain::delivery::{LeaseResult, LeasedDelivery, NewDelivery};
use crate::domain::id::SubscriptionId;
use crate::store::{CatalogEpoch, Queued, Recorded, StoreError};

pub mod broker;
#[cfg(test)]
pub mod conformance;
pub mod embedded;
mod leases;
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
    /// At most so many of these subscriptions; 0: none.
    pub caps: Vec<(SubscriptionId, usize)>,
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

/// Deliveries that are being written, and whom to tell of them.
#[derive(Debug)]
pub struct Announcement {
    due: Timestamp,
    /// Nothing needs to be told.
    is_empty: bool,
    /// For the broker, where one is told.
    told: Option<Vec<Queued>>,
}

impl Announcement {
    /// Before they are written, due at `due`.
    #[must_use]
    pub fn new(queue: &dyn Queue, deliveries: &[NewDelivery], due: Timestamp) -> Self {
        let queued = |delivery: &NewDelivery| Queued {
            id: delivery.id,
            subscription_id: delivery.subscription_id,
            due,
        };
        Self {
            due,
            is_empty: deliveries.is_empty(),
            told: queue
                .is_told()
                .then(|| deliveries.iter().map(queued).collect()),
        }
    }

    /// What to write of them: when a broker has them come out.
    #[must_use]
    pub fn queued_for(&self) -> Option<Timestamp> {
        self.told.as_ref().map(|_| self.due)
    }

    /// After the commit.
    pub fn make(self, queue: &dyn Queue) {
        match self.told {
            _ if self.is_empty => {}
            Some(told) => queue.tell(told),
            None => queue.wake(self.due),
        }
    }
}
