//! What a destination takes: its rate, its attempts under way, and whether it is there at all.
//!
//! Invariant: whatever is held back stays in the store as it is. A gate only says how many
//! deliveries of its subscription a claim may take, so that what waits costs nothing, loses no
//! attempt and keeps its order.
//!
//! Open circuits are on record and taken up after a restart. The count of failures in a row, the
//! state of a rate and the attempts under way are this process's own, and begin anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::snapshot::{Route, Snapshot};
use crate::domain::circuit::{Admission, Change, Circuit, CircuitPolicy, OpenCircuit, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::id::SubscriptionId;
use crate::domain::rate::ArrivalTime;
use crate::domain::subscription::{Flow, RateLimit};
use crate::queue::Room;

/// The gates of all subscriptions that something is known of.
#[derive(Debug, Default)]
pub(super) struct Gates {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    gates: HashMap<SubscriptionId, Gate>,
    /// Circuits closed by a change; a result on its way to the store may have put them back there.
    forgotten: Vec<SubscriptionId>,
}

#[derive(Debug, Default)]
struct Gate {
    in_flight: usize,
    arrival: ArrivalTime,
    circuit: Circuit,
    /// Of the subscription and its connection, when the circuit was last looked at.
    changed_at: Timestamp,
    /// It was at its concurrency when a claim was made.
    full: bool,
}

impl Gate {
    /// As good as one never seen.
    fn is_idle(&self, now: Timestamp) -> bool {
        self.in_flight == 0 && self.circuit.is_pristine() && self.arrival.is_past(now)
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
        let Known { gates, forgotten } = &mut *known;
        gates.retain(|id, gate| {
            match snapshot.routes.get(id) {
                Some(route) if gate.notice(snapshot.changed_at(route)) => forgotten.push(*id),
                Some(_) => {}
                None if gate.in_flight == 0 => return false,
                None => {}
            }
            !gate.is_idle(now)
        });
        let mut caps = HashMap::new();
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
            match gates.get_mut(&id) {
                Some(gate) => {
                    let (left, until) = gate.left(&route.subscription.flow, now, limit);
                    gate.full |= left == 0 && until.is_none();
                    hold(id, left, until);
                }
                None => {
                    let (left, until) = Gate::default().left(&route.subscription.flow, now, limit);
                    hold(id, left, until);
                }
            }
        }
        for (id, gate) in gates {
            match gate.circuit.admission(now) {
                Admission::All => {}
                Admission::Probe => hold(*id, 1, None),
                Admission::NobodyUntil(until) => hold(*id, 0, until),
            }
        }
        Room {
            caps: caps.into_iter().collect(),
            more_at,
        }
    }

    /// A claimed delivery sets out.
    pub(super) fn pass(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        route: &Route,
        now: Timestamp,
    ) -> Passage {
        let flow = &route.subscription.flow;
        let id = route.subscription.id;
        let mut known = self.lock();
        let Known { gates, forgotten } = &mut *known;
        let gate = gates.entry(id).or_default();
        if gate.notice(snapshot.changed_at(route)) {
            forgotten.push(id);
        }
        gate.in_flight += 1;
        if let Some(limit) = flow.rate {
            gate.arrival = limit.rate().book(gate.arrival, now);
        }
        Passage {
            gates: self.clone(),
            id,
            policy: flow.circuit,
            probe: gate.circuit.set_out(),
            ended: false,
        }
    }
}

impl Passage {
    /// The attempt ended.
    pub(super) fn judge(&mut self, verdict: Verdict, now: Timestamp) -> Judged {
        let mut known = self.gates.lock();
        let blamed = matches!(verdict, Verdict::Blamed { .. });
        let (Some(policy), Some(gate)) = (self.policy, known.gates.get_mut(&self.id)) else {
            return Judged::default();
        };
        let before = gate.circuit.is_open();
        let change = gate
            .circuit
            .judge(self.id, &policy, verdict, self.probe, now);
        self.probe = false;
        Judged {
            held: blamed && before,
            change,
        }
    }

    /// The delivery is at rest again. True: others of its subscription wait for its place.
    pub(super) fn end(mut self, now: Timestamp) -> bool {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::event::EventPattern;
    use crate::domain::provider::ProviderId;
    use crate::domain::subscription::{RatePeriod, SealedDocument, Subscription};
    use crate::store::Catalog;

    const LIMIT: usize = 16;

    fn snapshot(flow: Flow, updated_at: i64) -> Snapshot {
        let subscription = Subscription {
            id: ulid::Ulid(7).into(),
            name: "S".to_owned(),
            events: EventPattern::parse("*").expect("a pattern"),
            provider: ProviderId::parse("webhook").expect("an id"),
            config: SealedDocument {
                version: 1,
                json: json!({}),
            },
            connection: None,
            system_filter: Vec::new(),
            filter: None,
            transform: None,
            enabled: true,
            disabled_reason: None,
            paused: false,
            ordered: false,
            retry: None,
            timeout_ms: None,
            flow,
            created_at: Timestamp(1),
            updated_at: Timestamp(updated_at),
        };
        let catalog = Catalog {
            subscriptions: vec![subscription],
            ..Catalog::default()
        };
        Snapshot::new(catalog, None)
    }

    /// The cap of the one subscription, and when there is more room.
    fn room(gates: &Gates, snapshot: &Snapshot, now: i64) -> (Option<usize>, Option<i64>) {
        let room = gates.room(snapshot, Timestamp(now), LIMIT);
        assert!(room.caps.len() <= 1);
        (
            room.caps.first().map(|(_, cap)| *cap),
            room.more_at.map(|at| at.0),
        )
    }

    fn pass(gates: &Arc<Gates>, snapshot: &Snapshot, now: i64) -> Passage {
        let route = snapshot.routes.values().next().expect("one");
        gates.pass(snapshot, route, Timestamp(now))
    }

    fn fail(gates: &Arc<Gates>, snapshot: &Snapshot, now: i64) -> Judged {
        let mut passage = pass(gates, snapshot, now);
        let verdict = Verdict::Blamed {
            reason: "down".to_owned(),
            not_before: None,
        };
        let judged = passage.judge(verdict, Timestamp(now));
        passage.end(Timestamp(now));
        judged
    }

    fn tight() -> Flow {
        Flow {
            circuit: Some(CircuitPolicy {
                failures: 2,
                probe_after_ms: 100,
                probe_after_ms_max: 100,
            }),
            ..Flow::default()
        }
    }

    #[test]
    fn a_rate_leaves_room_as_time_goes_by() {
        let flow = Flow {
            rate: Some(RateLimit {
                attempts: 10,
                per: RatePeriod::Second,
                burst: 2,
            }),
            ..Flow::default()
        };
        let (gates, snapshot) = (Arc::new(Gates::default()), snapshot(flow, 1));
        assert_eq!(room(&gates, &snapshot, 1_000), (Some(2), None));
        for _ in 0..2 {
            pass(&gates, &snapshot, 1_000).end(Timestamp(1_000));
        }
        assert_eq!(room(&gates, &snapshot, 1_000), (Some(0), Some(1_100)));
        assert_eq!(room(&gates, &snapshot, 1_100), (Some(1), None));
        assert_eq!(room(&gates, &snapshot, 1_200), (Some(2), None));
        assert!(
            gates.lock().gates.is_empty(),
            "nothing is kept for the idle"
        );
    }

    #[test]
    fn a_place_that_becomes_free_is_told_of_to_who_waited() {
        let flow = Flow {
            concurrency: Some(2),
            ..Flow::default()
        };
        let (gates, snapshot) = (Arc::new(Gates::default()), snapshot(flow, 1));
        let first = pass(&gates, &snapshot, 0);
        assert_eq!(room(&gates, &snapshot, 0), (Some(1), None));
        let second = pass(&gates, &snapshot, 0);
        assert_eq!(room(&gates, &snapshot, 0), (Some(0), None));
        assert!(first.end(Timestamp(0)));
        assert!(!second.end(Timestamp(0)), "once is enough");
        assert_eq!(room(&gates, &snapshot, 0), (Some(2), None));
    }

    #[test]
    fn an_open_circuit_holds_back_all_but_its_probe() {
        let (gates, snapshot) = (Arc::new(Gates::default()), snapshot(tight(), 1));
        assert_eq!(room(&gates, &snapshot, 0), (None, None));
        let straggler = pass(&gates, &snapshot, 0);
        assert!(!fail(&gates, &snapshot, 0).held);
        let opened = fail(&gates, &snapshot, 0);
        assert!(matches!(opened.change, Change::Opened(_)) && !opened.held);
        assert_eq!(room(&gates, &snapshot, 0), (Some(0), Some(100)));
        let probe = pass(&gates, &snapshot, 100);
        assert_eq!(room(&gates, &snapshot, 150), (Some(0), None));
        drop(probe);
        assert_eq!(room(&gates, &snapshot, 150), (Some(1), None), "it was lost");
        assert!(
            fail(&gates, &snapshot, 150).held,
            "a probe costs no attempt"
        );
        assert_eq!(room(&gates, &snapshot, 150), (Some(0), Some(250)));
        let mut late = straggler;
        let judged = late.judge(Verdict::Answered, Timestamp(160));
        assert!(matches!(judged.change, Change::Closed(_)));
        assert_eq!(room(&gates, &snapshot, 160), (None, None));
    }

    #[test]
    fn a_change_of_the_subscription_closes_its_circuit() {
        let gates = Arc::new(Gates::default());
        let before = snapshot(tight(), 1);
        for _ in 0..2 {
            fail(&gates, &before, 0);
        }
        assert_eq!(room(&gates, &before, 0).0, Some(0));
        assert!(gates.take_forgotten().is_empty());
        let after = snapshot(tight(), 2);
        assert_eq!(room(&gates, &after, 0), (None, None));
        assert_eq!(gates.take_forgotten().len(), 1);
    }

    #[test]
    fn circuits_on_record_are_taken_up() {
        let (gates, snapshot) = (Arc::new(Gates::default()), snapshot(tight(), 1));
        let open = OpenCircuit {
            subscription: *snapshot.routes.keys().next().expect("one"),
            since: Timestamp(5),
            reason: "down".to_owned(),
            probes: 3,
            next_probe_at: Timestamp(70),
        };
        gates.restore(vec![open], &snapshot);
        assert_eq!(room(&gates, &snapshot, 69), (Some(0), Some(70)));
        assert_eq!(room(&gates, &snapshot, 70), (Some(1), None));
    }
}
