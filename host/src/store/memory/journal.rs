//! Everything that happened to deliveries, in order, for whoever checks it afterwards.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::domain::clock::Timestamp;
use crate::domain::delivery::{DeliveryState, FencingToken};
use crate::domain::id::DeliveryId;

/// What moved a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was accepted with its event.
    Accepted,
    /// A replay made it.
    Replayed,
    /// A claim leased it at this instant of the claimer's clock.
    Claimed(Timestamp),
    /// A result was written under this token.
    Recorded(FencingToken),
    /// Its lease was given back, or taken from a dead process.
    Released,
    /// Somebody asked for another round: a retry by hand, a replay.
    Asked,
    /// Its subscription was changed.
    Configured,
}

/// A delivery changed its state.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) delivery: DeliveryId,
    pub(crate) why: Why,
    /// `None`: it was not there.
    pub(crate) from: Option<DeliveryState>,
    pub(crate) to: DeliveryState,
    /// Before the change.
    pub(crate) token: FencingToken,
    /// When it was due, or its lease ended, before the change.
    pub(crate) lease_end: Option<Timestamp>,
}

/// Changes with their place in the order of everything.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    changes: Mutex<Vec<(u64, Change)>>,
    next: AtomicU64,
}

impl Journal {
    /// The next place in the order: also for what happens outside of the store.
    pub(crate) fn place(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn write(&self, change: Change) {
        let place = self.place();
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push((place, change));
    }

    /// All changes so far.
    pub(crate) fn changes(&self) -> Vec<(u64, Change)> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.clone()
    }
}
