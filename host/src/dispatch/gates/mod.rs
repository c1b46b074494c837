//! What a destination takes: its rate, its attempts under way, and whether it is there at all.
//!
//! Invariant: whatever is held back stays in the store as it is, or goes back there without an
//! attempt. A gate says how many deliveries of its subscription a claim may take, so that what waits
//! costs nothing and keeps its order.
//!
//! What claims are made by is this process's view of rates and circuits. What was claimed is then
//! booked and let through by `coord`, where other processes do the same: a rate holds over all of
//! them, a circuit opens for all, and one of them probes. Only subscriptions with a rate, and those
//! whose destination failed, are asked about. The attempts under way are this process's own.
//!
//! Open circuits are on record in the store as well, and taken up after a restart.

mod cell;
mod circuits;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::snapshot::{Route, Snapshot};
use crate::coord::{Ask, Booked, Coord, Seen};
use crate::domain::circuit::{Admission, Change, Circuit, CircuitPolicy, OpenCircuit, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::LeasedDelivery;
use crate::domain::id::SubscriptionId;
use crate::domain::rate::{ArrivalTime, Rate};
use crate::domain::subscription::{Flow, RateLimit};
use crate::queue::Room;
use crate::store::Caps;

/// When what is held back by another process's probe is looked at again.
const PROBE_LOOK: Duration = Duration::from_secs(1);

/// The gates of all subscriptions that something is known of.
pub(super) struct Gates {
    coord: Arc<dyn Coord>,
    known: Mutex<Known>,
    /// One change of a circuit at a time: the next one builds on it.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    gates: HashMap<SubscriptionId, Gate>,
    /// Circuits closed by a change; a result on its way to the store may have put them back there.
    forgotten: Vec<SubscriptionId>,
    /// How much of the shared circuits.
    seen: Seen,
}

#[derive(Debug, Default)]
struct Gate {
    in_flight: usize,
    arrival: ArrivalTime,
    circuit: Circuit,
    /// What stands for it in `coord`, as far as known.
    cell: Option<String>,
    /// Of the subscription and its connection, when the circuit was last looked at.
    changed_at: Timestamp,
    /// A claim that was made could not have had all that it might take: its concurrency stood against it.
    full: bool,
}

impl Gate {
    /// As good as one never seen.
    fn is_idle(&self, now: Timestamp) -> bool {
        self.in_flight == 0
            && self.circuit.is_pristine()
            && self.cell.is_none()
            && self.arrival.is_past(now)
    }

    /// What rate and concurrency leave, and when time alone makes it more.
    fn left(&self, flow: &Flow, now: Timestamp, limit: usize) -> (usize, Option<Timestamp>) {
        let slots = flow.concurrency.map_or(limit, |most| {
            usize::try_from(most)
                .unwrap_or(usize::MAX)
                .saturating_sub(self.in_flight)
        });
        if slots == 0 {
            return (0, None);
        }
        let Some(rate) = flow.rate.map(RateLimit::rate) else {
            return (slots, None);
        };
        match rate.room(self.arrival, now, limit) {
            Ok(room) => (room.min(slots), None),
            Err(wait_ms) => (0, Some(now.plus(Duration::from_millis(wait_ms)))),
        }
    }

    /// A changed subscription or connection may work: its circuit closes. True: it was open.
    fn notice(&mut self, changed_at: Timestamp) -> bool {
        let open = self.circuit.is_open();
        let changed = self.changed_at != changed_at;
        if changed {
            self.changed_at = changed_at;
            self.circuit = Circuit::default();
        }
        changed && open
    }
}

/// Whether a claimed delivery may go.
pub(super) enum Entry {
    /// Its subscription is gone.
    Unrouted,
    /// It sets out.
    Pass(Passage),
    /// It goes back, and is looked at again then.
    Held(Timestamp),
}

/// A delivery that was let through; when it is dropped unjudged, it said nothing.
pub(super) struct Passage {
    gates: Arc<Gates>,
    id: SubscriptionId,
    policy: Option<CircuitPolicy>,
    probe: bool,
    ended: bool,
}

/// How an attempt bears on its circuit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// What changed.
    pub(super) change: Change,
    /// The destination is held back: the delivery waits, and its attempt is not counted.
    pub(super) held: bool,
}

impl Gates {
    /// No gate, and what is shared of them.
    pub(super) fn new(coord: Arc<dyn Coord>) -> Self {
        Self {
            coord,
            known: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Circuits that have no place on record any more.
    pub(super) fn take_forgotten(&self) -> Vec<SubscriptionId> {
        std::mem::take(&mut self.lock().forgotten)
    }

    /// Takes up the circuits on record.
    pub(super) fn restore(&self, open: Vec<OpenCircuit>, snapshot: &Snapshot) {
        let mut known = self.lock();
        for open in open {
            if let Some(route) = snapshot.routes.get(&open.subscription) {
                let gate = known.gates.entry(open.subscription).or_default();
                gate.changed_at = snapshot.changed_at(route);
                gate.circuit = Circuit::restored(open);
            }
        }
    }

    /// How many deliveries a claim of `limit` may take of those that are held back.
    pub(super) fn room(&self, snapshot: &Snapshot, now: Timestamp, limit: usize) -> Room {
        let mut known = self.lock();
        let Known {
            gates, forgotten, ..
        } = &mut *known;
        gates.retain(|id, gate| {
            match snapshot.routes.get(id) {
                Some(route) if gate.notice(snapshot.changed_at(route)) => forgotten.push(*id),
                Some(_) => {}
                // Its cell is cleared away before it is forgotten.
                None => gate.circuit = Circuit::default(),
            }
            !gate.is_idle(now)
        });
        let idle = Gate::default();
        let mut caps = Caps::new();
        let mut more_at = None;
        let mut hold = |id, left: usize, until: Option<Timestamp>| {
            if left < limit {
                let cap = caps.entry(id).or_insert(left);
                *cap = left.min(*cap);
            }
            more_at = more_at.into_iter().chain(until).min();
        };
        for route in &snapshot.limited {
            let id = route.subscription.id;
            let flow = &route.subscription.flow;
            let gate = gates.get(&id);
            let (left, until) = gate.unwrap_or(&idle).left(flow, now, limit);
            if flow.concurrency.is_some() && left < limit && until.is_none() {
                gates.entry(id).or_default().full = true;
            }
            hold(id, left, until);
        }
        for (id, gate) in gates {
            match gate.circuit.admission(now) {
                Admission::All => {}
                Admission::Probe => hold(*id, 1, None),
                Admission::NobodyUntil(until) => hold(*id, 0, until),
            }
        }
        Room { caps, more_at }
    }

    /// Which of the claimed deliveries set out, in order.
    pub(super) async fn admit(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        leased: &[LeasedDelivery],
        now: Timestamp,
    ) -> Vec<Entry> {
        let mut budgets = self.book(snapshot, leased, now).await;
        let mut entries = Vec::with_capacity(leased.len());
        for leased in leased {
            let id = leased.subscription_id;
            let Some(route) = snapshot.routes.get(&id) else {
                entries.push(Entry::Unrouted);
                continue;
            };
            if let Some(budget) = budgets.get_mut(&id) {
                if budget.granted == 0 {
                    let wait_ms = budget.rate.wait_ms(budget.ahead_us).max(1);
                    let until = now.plus(Duration::from_millis(wait_ms));
                    entries.push(Entry::Held(until));
                    continue;
                }
                budget.granted -= 1;
            }
            let entry = match self.pass(snapshot, route, now) {
                Some(passage) => Entry::Pass(passage),
                None => self.probe(snapshot, route, now).await,
            };
            entries.push(entry);
        }
        entries
    }

    /// Books the claimed deliveries of subscriptions that have a rate.
    async fn book(
        &self,
        snapshot: &Snapshot,
        leased: &[LeasedDelivery],
        now: Timestamp,
    ) -> HashMap<SubscriptionId, Budget> {
        let mut wanted: HashMap<SubscriptionId, (Rate, usize)> = HashMap::new();
        for leased in leased {
            let route = snapshot.routes.get(&leased.subscription_id);
            if let Some(limit) = route.and_then(|route| route.subscription.flow.rate) {
                let entry = wanted.entry(leased.subscription_id);
                entry.or_insert_with(|| (limit.rate(), 0)).1 += 1;
            }
        }
        if wanted.is_empty() {
            return HashMap::new();
        }
        let now_us = now.0.saturating_mul(1_000);
        let wanted: Vec<_> = wanted.into_iter().collect();
        let asks: Vec<Ask> = {
            let known = self.lock();
            let ask = |(id, (rate, wanted)): &(SubscriptionId, (Rate, usize))| Ask {
                key: format!("subscription/{id}"),
                rate: *rate,
                wanted: *wanted,
                ahead_us: known
                    .gates
                    .get(id)
                    .map_or(0, |gate| gate.arrival.ahead_of(now_us)),
            };
            wanted.iter().map(ask).collect()
        };
        // Nobody to ask: the claim was made by this process's own view of the rate.
        let alone = |ask: &Ask| Booked {
            granted: ask.wanted,
            ahead_us: ask.ahead_us.saturating_add(
                i64::try_from(ask.wanted)
                    .unwrap_or(i64::MAX)
                    .saturating_mul(ask.rate.interval_us()),
            ),
        };
        let booked = match self.coord.book(&asks).await {
            Ok(booked) => booked,
            Err(_) => asks.iter().map(alone).collect(),
        };
        let mut known = self.lock();
        wanted
            .into_iter()
            .zip(booked)
            .map(|((id, (rate, _)), booked)| {
                let gate = known.gates.entry(id).or_default();
                gate.arrival = ArrivalTime::ahead(now_us, booked.ahead_us);
                let budget = Budget {
                    rate,
                    granted: booked.granted,
                    ahead_us: booked.ahead_us,
                };
                (id, budget)
            })
            .collect()
    }

    /// A claimed delivery sets out, unless its circuit is open.
    fn pass(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        route: &Route,
        now: Timestamp,
    ) -> Option<Passage> {
        let id = route.subscription.id;
        let mut known = self.lock();
        let Known {
            gates, forgotten, ..
        } = &mut *known;
        let gate = gates.entry(id).or_default();
        if gate.notice(snapshot.changed_at(route)) {
            forgotten.push(id);
        }
        if gate.circuit.admission(now) != Admission::All {
            return None;
        }
        gate.in_flight += 1;
        Some(self.passage(route, false))
    }

    fn passage(self: &Arc<Self>, route: &Route, probe: bool) -> Passage {
        Passage {
            gates: self.clone(),
            id: route.subscription.id,
            policy: route.subscription.flow.circuit,
            probe,
            ended: false,
        }
    }
}

/// What is left of a rate for the deliveries of a claim.
struct Budget {
    rate: Rate,
    granted: usize,
    ahead_us: i64,
}

impl Passage {
    /// The attempt ended.
    pub(super) async fn judge(&mut self, verdict: Verdict, now: Timestamp) -> Judged {
        let Some(policy) = self.policy else {
            return Judged::default();
        };
        let probe = std::mem::take(&mut self.probe);
        let gates = self.gates.clone();
        gates.judge(self.id, &policy, verdict, probe, now).await
    }

    /// The delivery is at rest again. True: others of its subscription wait for its place.
    pub(super) async fn end(mut self, now: Timestamp) -> bool {
        if self.probe {
            self.judge(Verdict::Unknown, now).await;
        }
        self.leave(now)
    }

    fn leave(&mut self, now: Timestamp) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return false;
        }
        let mut known = self.gates.lock();
        let Some(gate) = known.gates.get_mut(&self.id) else {
            return false;
        };
        gate.in_flight = gate.in_flight.saturating_sub(1);
        if self.probe {
            let policy = self.policy.unwrap_or_default();
            gate.circuit.probe_was_lost(&policy, now);
        }
        let wanted = std::mem::take(&mut gate.full);
        if gate.is_idle(now) {
            known.gates.remove(&self.id);
        }
        wanted
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.leave(Timestamp(0));
    }
}
