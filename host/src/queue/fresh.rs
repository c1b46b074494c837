//! Deliveries that are leased as they are written, so that nobody has to claim them (ADR 0017).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Room;
use crate::domain::delivery::{LeasedDelivery, NewDelivery};
use crate::domain::id::SubscriptionId;
use crate::store::CatalogEpoch;

/// How much may be leased and not begun, in batches of the worker's: about as much as it has slots for.
const BATCHES_MAX: usize = 4;

/// Whether a delivery may be leased as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// It counts as leased from now on.
    Yes,
    /// It waits for a claim.
    No,
    /// A claim would pass it over.
    HeldBack,
}

/// What was leased by writing it, on its way to the worker.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How much may be leased and not begun; 0: no worker asks.
    room: usize,
    /// Nothing else waits in the store, as of the last look.
    is_first: bool,
    /// How many of these may go, as of the last look: none is leased without another one.
    caps: HashMap<SubscriptionId, usize>,
    /// On their way into the store.
    unwritten: usize,
    written: VecDeque<LeasedDelivery>,
    /// Of the catalogue, when the last one was written.
    epoch: CatalogEpoch,
}

impl Fresh {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker takes up to `limit` at once.
    pub(super) fn asked_for(&self, limit: usize) {
        self.state().room = limit.saturating_mul(BATCHES_MAX);
    }

    /// No worker takes anything any more.
    pub(super) fn close(&self) {
        self.state().room = 0;
    }

    /// A look at the store begins: nothing is known of it.
    pub(super) fn looking(&self, room: &Room) {
        self.state().is_first = false;
        self.hold_back(room);
    }

    /// From now on these may not go without a look.
    pub(super) fn hold_back(&self, room: &Room) {
        let mut state = self.state();
        state.caps.clear();
        for (id, cap) in &room.caps {
            let least = state.caps.entry(*id).or_insert(*cap);
            *least = (*cap).min(*least);
        }
    }

    /// The look found everything that could be taken.
    pub(super) fn looked(&self) {
        self.state().is_first = true;
    }

    /// Whether `delivery` may be leased, if it `may` as far as its event goes; it counts as such.
    pub(super) fn reserve(&self, delivery: &NewDelivery, may: bool) -> Reserved {
        let mut state = self.state();
        let cap = state.caps.get(&delivery.subscription_id);
        if cap == Some(&0) {
            return Reserved::HeldBack;
        }
        let may = may
            && cap.is_none()
            && state.is_first
            && state.unwritten + state.written.len() < state.room
            && delivery.ordering_key.is_none();
        if !may {
            return Reserved::No;
        }
        state.unwritten += 1;
        Reserved::Yes
    }

    /// Some that were reserved are not to come.
    pub(super) fn withdraw(&self, count: usize) {
        let mut state = self.state();
        state.unwritten = state.unwritten.saturating_sub(count);
    }

    /// Some that were reserved are written.
    pub(super) fn put(&self, leased: Vec<LeasedDelivery>, epoch: CatalogEpoch) {
        let mut state = self.state();
        state.unwritten = state.unwritten.saturating_sub(leased.len());
        state.epoch = state.epoch.max(epoch);
        state.written.extend(leased);
    }

    /// Up to `limit`, with the epoch of the last one.
    pub(super) fn take(&self, limit: usize) -> (Vec<LeasedDelivery>, CatalogEpoch) {
        let mut state = self.state();
        let count = limit.min(state.written.len());
        (state.written.drain(..count).collect(), state.epoch)
    }

    /// Whether some are still on their way into the store.
    pub(super) fn is_expecting(&self) -> bool {
        self.state().unwritten > 0
    }
}
