//! Deliveries that are leased as they are written, so that nobody has to claim them (ADR 0017).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Room;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{LeasedDelivery, NewDelivery};
use crate::domain::id::SubscriptionId;
use crate::store::CatalogEpoch;

/// How much may be leased and not begun, in the largest batches of the worker's: twice its slots.
const BATCHES_MAX: usize = 4;
/// What has waited for so long goes back: another process may have room for it.
const WAITS_MAX: Duration = Duration::from_millis(250);
/// A subscription that was held back for less may go on at any moment: what it has stays leased.
const HELD_MAX: Duration = Duration::from_millis(100);

/// What was leased by writing it, on its way to the worker.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How much may be leased and not begun; 0: no worker asks.
    room: usize,
    caps: HashMap<SubscriptionId, Cap>,
    /// On their way into the store.
    unwritten: usize,
    /// With the time since when they wait.
    written: VecDeque<(Timestamp, LeasedDelivery)>,
    /// Of the catalogue, when the last one was written.
    epoch: CatalogEpoch,
}

/// What may go of a subscription.
#[derive(Clone, Copy, Debug)]
struct Cap {
    left: usize,
    /// No more than one might go at any look ever since.
    since: Timestamp,
}

impl Cap {
    fn is_old(self, now: Timestamp) -> bool {
        now.since(self.since) >= HELD_MAX
    }
}

/// What a worker gets.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) leased: Vec<LeasedDelivery>,
    /// Is to be given back to the store.
    pub(super) back: Vec<LeasedDelivery>,
    pub(super) epoch: CatalogEpoch,
}

impl Fresh {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker takes up to `limit` at once.
    pub(super) fn asked_for(&self, limit: usize) {
        let mut state = self.state();
        state.room = limit.saturating_mul(BATCHES_MAX).max(state.room);
    }

    /// No worker takes anything any more.
    pub(super) fn close(&self) {
        self.state().room = 0;
    }

    /// How much may go from now on.
    pub(super) fn hold_back(&self, room: &Room, now: Timestamp) {
        let mut state = self.state();
        let before = std::mem::take(&mut state.caps);
        for (id, left) in &room.caps {
            // Where several may go at once, calls end at a good pace, and what is leased goes soon.
            let since = match before.get(id) {
                Some(cap) if *left < 2 => cap.since,
                _ => now,
            };
            state.caps.insert(*id, Cap { left: *left, since });
        }
    }

    /// These have room again, as much as the next look finds.
    pub(super) fn let_go(&self, subscriptions: &[SubscriptionId]) {
        let mut state = self.state();
        for id in subscriptions {
            state.caps.remove(id);
        }
    }

    /// Whether none of these may go without another look.
    pub(super) fn are_held_back(&self, subscriptions: &[SubscriptionId]) -> bool {
        let state = self.state();
        let mut caps = subscriptions.iter().map(|id| state.caps.get(id));
        caps.all(|cap| cap.is_some_and(|cap| cap.left == 0))
    }

    /// Whether `delivery` may be leased; it counts as such.
    pub(super) fn reserve(&self, delivery: &NewDelivery, now: Timestamp) -> bool {
        let mut state = self.state();
        let cap = state.caps.get(&delivery.subscription_id);
        let may = state.unwritten + state.written.len() < state.room
            && delivery.ordering_key.is_none()
            && cap.is_none_or(|cap| !cap.is_old(now));
        state.unwritten += usize::from(may);
        may
    }

    /// Some that were reserved are not to come.
    pub(super) fn withdraw(&self, count: usize) {
        let mut state = self.state();
        state.unwritten = state.unwritten.saturating_sub(count);
    }

    /// Some that were reserved are written.
    pub(super) fn put(&self, leased: Vec<LeasedDelivery>, epoch: CatalogEpoch, now: Timestamp) {
        let mut state = self.state();
        state.unwritten = state.unwritten.saturating_sub(leased.len());
        state.epoch = state.epoch.max(epoch);
        let written = leased.into_iter().map(|delivery| (now, delivery));
        state.written.extend(written);
    }

    /// Whether there is anything to take.
    pub(super) fn is_empty(&self) -> bool {
        self.state().written.is_empty()
    }

    /// Up to `limit` that may go, however long they waited. What is held back stays for a moment; what is
    /// held back for longer, or has waited too long for a slot, is to go back. How long it was on its way
    /// into the store does not count: what goes back makes work for a store that is slow.
    pub(super) fn take(&self, limit: usize, now: Timestamp) -> Taken {
        let mut state = self.state();
        let mut taken = Taken {
            epoch: state.epoch,
            ..Taken::default()
        };
        let mut caps = state.caps.clone();
        for (since, delivery) in std::mem::take(&mut state.written) {
            let cap = caps.get_mut(&delivery.subscription_id);
            let is_held = cap.as_ref().is_some_and(|cap| cap.left == 0);
            let is_late = now.since(since) >= WAITS_MAX;
            if !is_held && taken.leased.len() < limit {
                if let Some(cap) = cap {
                    cap.left -= 1;
                }
                taken.leased.push(delivery);
            } else if is_late || (is_held && cap.as_ref().is_some_and(|cap| cap.is_old(now))) {
                taken.back.push(delivery);
            } else {
                state.written.push_back((since, delivery));
            }
        }
        taken
    }

    /// All of it.
    pub(super) fn take_all(&self) -> Vec<LeasedDelivery> {
        let written = std::mem::take(&mut self.state().written);
        written.into_iter().map(|(_, delivery)| delivery).collect()
    }

    /// Whether some are still on their way into the store.
    pub(super) fn is_expecting(&self) -> bool {
        self.state().unwritten > 0
    }
}
