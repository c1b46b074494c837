//! Circuits that several processes share: each is a cell of `coord`, changed by compare and swap.
//!
//! The rules are `domain::circuit`'s; a change is made here on this process's view, and is made again
//! on what another process left when that came first. So exactly one process opens a circuit, takes
//! the probe, or closes it, and that one tells of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Gate, Gates, Judged, Known, PROBE_LOOK, cell};
use crate::coord::{AllCells, Swapped};
use crate::dispatch::snapshot::{Route, Snapshot};
use crate::domain::circuit::{Admission, Change, Circuit, CircuitPolicy, Verdict};
use crate::domain::clock::Timestamp;
use crate::domain::id::SubscriptionId;

/// How often a change is made again before this process goes by its own view.
const TRIES_MAX: usize = 16;
/// A probe is taken for lost so long after its call must have ended.
const PROBE_MARGIN: Duration = Duration::from_secs(5);
/// The deadline of a call whose subscription sets none.
const CALL_USUAL: Duration = Duration::from_secs(30);

impl Gate {
    /// Takes up what stands in `coord`.
    fn adopt(&mut self, id: SubscriptionId, text: Option<String>) {
        let read = text.as_deref().and_then(|text| cell::read(text, id));
        if self.changed_at == Timestamp::default() {
            // Nothing is known of the subscription here.
            self.changed_at = read.as_ref().map_or(self.changed_at, |(_, at)| *at);
        }
        self.circuit = match read {
            Some((circuit, changed_at)) if changed_at == self.changed_at => circuit,
            _ => Circuit::default(),
        };
        self.cell = text;
    }
}

impl Gates {
    /// Changes a circuit as `change` does, here and for all. `None`: it does not apply any more.
    async fn change<T>(
        &self,
        id: SubscriptionId,
        change: impl Fn(&mut Circuit) -> Option<T>,
    ) -> Option<T> {
        let _alone = self.changing.lock().await;
        for _ in 0..TRIES_MAX {
            let (generation, before, after, circuit, answer) = {
                let mut known = self.lock();
                let generation = known.seen.generation.clone();
                let gate = known.gates.entry(id).or_default();
                let mut circuit = gate.circuit.clone();
                let answer = change(&mut circuit)?;
                if circuit == gate.circuit {
                    return Some(answer);
                }
                let after = cell::write(&circuit, gate.changed_at);
                (generation, gate.cell.clone(), after, circuit, answer)
            };
            let name = id.to_string();
            let swapped = self
                .coord
                .swap(&generation, &name, before.as_deref(), after.as_deref());
            match swapped.await {
                Ok(Swapped::Done) => {
                    let mut known = self.lock();
                    let gate = known.gates.entry(id).or_default();
                    (gate.circuit, gate.cell) = (circuit, after);
                    return Some(answer);
                }
                Ok(Swapped::Found(found)) => {
                    self.lock().gates.entry(id).or_default().adopt(id, found);
                }
                Ok(Swapped::OtherGeneration) => {
                    self.look().await;
                }
                Err(_) => break,
            }
        }
        // By this process's own view; the others hear of it with the next change.
        let mut known = self.lock();
        change(&mut known.gates.entry(id).or_default().circuit)
    }

    /// An attempt ended.
    pub(super) async fn judge(
        &self,
        id: SubscriptionId,
        policy: &CircuitPolicy,
        verdict: Verdict,
        probe: bool,
        now: Timestamp,
    ) -> Judged {
        {
            // Most attempts are answered by a destination that answered the one before.
            let known = self.lock();
            let Some(gate) = known.gates.get(&id) else {
                return Judged::default();
            };
            let mut circuit = gate.circuit.clone();
            let held = matches!(verdict, Verdict::Blamed { .. }) && circuit.is_open();
            circuit.judge(id, policy, verdict.clone(), probe, now);
            if circuit == gate.circuit {
                return Judged {
                    change: Change::None,
                    held,
                };
            }
        }
        let blamed = matches!(verdict, Verdict::Blamed { .. });
        let judged = self.change(id, |circuit| {
            let held = blamed && circuit.is_open();
            let change = circuit.judge(id, policy, verdict.clone(), probe, now);
            Some(Judged { change, held })
        });
        judged.await.unwrap_or_default()
    }

    /// A claimed delivery of an open circuit: the probe, or held back.
    pub(super) async fn probe(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        route: &Route,
        now: Timestamp,
    ) -> Entry {
        let subscription = &route.subscription;
        let call = subscription.timeout_ms.map_or(CALL_USUAL, |ms| {
            CALL_USUAL.max(Duration::from_millis(ms.into()))
        });
        let until = now.plus(call + PROBE_MARGIN);
        let taken = self.change(subscription.id, |circuit| match circuit.admission(now) {
            Admission::Probe => circuit.set_out(now, until).then_some(()),
            Admission::All | Admission::NobodyUntil(_) => None,
        });
        if taken.await.is_some() {
            let mut known = self.lock();
            known.gates.entry(subscription.id).or_default().in_flight += 1;
            return Entry::Pass(self.passage(route, true));
        }
        // It may have closed meanwhile.
        if let Some(passage) = self.pass(snapshot, route, now) {
            return Entry::Pass(passage);
        }
        let known = self.lock();
        let gate = known.gates.get(&subscription.id);
        let later = match gate.map(|gate| gate.circuit.admission(now)) {
            Some(Admission::NobodyUntil(Some(at))) => at,
            _ => now.plus(PROBE_LOOK),
        };
        Entry::Held(later)
    }

    /// Looks at what other processes made of circuits. True: something is different.
    pub(in crate::dispatch) async fn refresh(&self) -> bool {
        let _alone = self.changing.lock().await;
        let changed = self.look().await;
        self.clear_away().await;
        changed
    }

    async fn look(&self) -> bool {
        let seen = self.lock().seen.clone();
        let Ok(Some(all)) = self.coord.changes(&seen).await else {
            return false;
        };
        let generation = all.seen.generation.clone();
        let missing = self.lock().merge(all);
        for (id, before, open) in missing {
            let name = id.to_string();
            let swapped = self
                .coord
                .swap(&generation, &name, before.as_deref(), Some(&open));
            if let Ok(Swapped::Done) = swapped.await {
                self.lock().gates.entry(id).or_default().cell = Some(open);
            }
        }
        true
    }

    /// Removes cells that say nothing any more: of subscriptions that were changed or deleted.
    async fn clear_away(&self) {
        let (generation, idle) = {
            let known = self.lock();
            let idle = known.gates.iter().filter_map(|(id, gate)| {
                let cell = gate.cell.as_ref().filter(|_| gate.circuit.is_pristine());
                cell.map(|cell| (*id, cell.clone()))
            });
            (known.seen.generation.clone(), idle.collect::<Vec<_>>())
        };
        for (id, cell) in idle {
            let name = id.to_string();
            let swapped = self.coord.swap(&generation, &name, Some(&cell), None).await;
            let mut known = self.lock();
            let Some(gate) = known.gates.get_mut(&id) else {
                continue;
            };
            match swapped {
                Ok(Swapped::Done) => gate.cell = None,
                Ok(Swapped::Found(found)) => gate.adopt(id, found),
                Ok(Swapped::OtherGeneration) | Err(_) => return,
            }
        }
    }
}

impl Known {
    /// Takes up all cells. Returns the circuits that are open here and missing there, as everything
    /// there is lost or another back end answers: with what is there in their place.
    fn merge(&mut self, all: AllCells) -> Vec<(SubscriptionId, Option<String>, String)> {
        let is_same = self.seen.generation == all.seen.generation;
        self.seen = all.seen;
        let mut cells = all.cells;
        let mut missing = Vec::new();
        for (id, gate) in &mut self.gates {
            let text = cells.remove(&id.to_string());
            let own = (gate.circuit.clone(), gate.changed_at);
            gate.adopt(*id, text);
            if !is_same && own.0.is_open() && !gate.circuit.is_open() {
                (gate.circuit, gate.changed_at) = own;
                let open = cell::write(&gate.circuit, gate.changed_at);
                missing.extend(open.map(|open| (*id, gate.cell.clone(), open)));
            }
        }
        for (name, text) in cells {
            if let Ok(id) = name.parse::<SubscriptionId>() {
                self.gates.entry(id).or_default().adopt(id, Some(text));
            }
        }
        missing
    }
}
