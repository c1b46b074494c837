//! Deliveries that are leased as they are written, so that nobody has to claim them (ADR 0017).

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Room;
use crate::domain::delivery::{LeasedDelivery, NewDelivery};
use crate::domain::id::SubscriptionId;
use crate::store::CatalogEpoch;

/// How much may be leased and not begun, in batches of the worker's: about as much as it has slots for.
const BATCHES_MAX: usize = 4;

/// What was leased by writing it, on its way to the worker.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How much may be leased and not begun; 0: no worker asks.
    room: usize,
    /// Nothing else waits in the store, as of the last look.
    is_first: bool,
    /// What may not go without a look.
    capped: HashSet<SubscriptionId>,
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
        state.capped.clear();
        state.capped.extend(room.caps.iter().map(|(id, _)| *id));
    }

    /// The look found everything that could be taken.
    pub(super) fn looked(&self) {
        self.state().is_first = true;
    }

    /// Whether `delivery` may be leased; it counts as such.
    pub(super) fn reserve(&self, delivery: &NewDelivery) -> bool {
        let mut state = self.state();
        let may = state.is_first
            && state.unwritten + state.written.len() < state.room
            && delivery.ordering_key.is_none()
            && !state.capped.contains(&delivery.subscription_id);
        state.unwritten += usize::from(may);
        may
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
