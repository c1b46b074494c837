//! What must be true of every run, whatever went wrong in it.

use std::collections::{BTreeMap, BTreeSet};

use super::receiver::is_filtered;
use super::stage::{CONCURRENCY, EVENT_TYPE, RATE, Stage};
use super::world::{Arrival, Call, Emitted, Said, World, lock};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{DeliveryState, FencingToken};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, EventId, SubscriptionId};
use crate::domain::rate::ArrivalTime;
use crate::domain::replay::{ReplayScope, ReplayState};
use crate::store::memory::{Change, Row, Tables, Why};

/// How much a run did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    pub(super) events: usize,
    pub(super) deliveries: usize,
    pub(super) requests: usize,
    /// Requests answered with success after the first one of a delivery.
    pub(super) duplicates: usize,
}

/// A run at its end.
struct Ended<'a> {
    stage: &'a Stage,
    tables: &'a Tables,
    changes: Vec<(u64, Change)>,
    arrivals: Vec<Arrival>,
    calls: Vec<Call>,
    emitted: BTreeMap<u64, Emitted>,
    made_late: Vec<(SubscriptionId, u64)>,
    has_steady_clocks: bool,
    violations: Vec<String>,
}

/// Checks everything.
///
/// # Errors
/// What is violated.
pub(super) fn check(world: &World, stage: &Stage) -> Result<Summary, Vec<String>> {
    let tables = world.store.tables();
    let mut ended = Ended {
        stage,
        tables: &tables,
        changes: world.journal.changes(),
        arrivals: lock(&world.arrivals).clone(),
        calls: lock(&world.calls).clone(),
        emitted: lock(&world.emitted).clone(),
        made_late: lock(&world.made_late).clone(),
        has_steady_clocks: world.plan.has_steady_clocks(),
        violations: Vec::new(),
    };
    ended.leases_and_states();
    ended.events();
    ended.deliveries();
    ended.ends();
    ended.requests();
    ended.order();
    ended.caps();
    if ended.violations.is_empty() {
        Ok(ended.summary())
    } else {
        Err(ended.violations)
    }
}

/// The number that an emitter gave an event; `None`: it is one of the gateway's own.
fn number_of(event: &Event) -> Option<u64> {
    let payload: serde_json::Value = serde_json::from_str(&event.payload).ok()?;
    (event.event_type.as_str() == EVENT_TYPE)
        .then(|| payload["number"].as_u64())
        .flatten()
}

impl Ended<'_> {
    fn expect(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(violation());
        }
    }

    /// Attempts of one round that the policy allows.
    fn attempts_max(&self, id: SubscriptionId) -> u32 {
        if id == self.stage.strict { 2 } else { 4 }
    }

    /// Every change was allowed in the state that it found: leases are exclusive, each has one
    /// result at most, and what has ended begins again only when somebody asks.
    fn leases_and_states(&mut self) {
        let mut states: BTreeMap<DeliveryId, DeliveryState> = BTreeMap::new();
        let mut results: BTreeSet<(DeliveryId, FencingToken)> = BTreeSet::new();
        for (place, change) in std::mem::take(&mut self.changes) {
            let id = change.delivery;
            let told = || format!("at {place}: {change:?}");
            let ended = change.from.is_some_and(DeliveryState::is_terminal);
            self.expect(!ended || change.why == Why::Asked, || {
                format!("an ended delivery begins again: {}", told())
            });
            match change.why {
                Why::Claimed(now) => {
                    let free = change.lease_end.is_some_and(|due| due <= now);
                    self.expect(free, || format!("leased to two: {}", told()));
                    let earlier = self.first_open_before(id, &states);
                    self.expect(earlier.is_none(), || {
                        format!("out of order, {earlier:?} is open: {}", told())
                    });
                }
                Why::Recorded(token) => {
                    let held = change.from == Some(DeliveryState::InFlight);
                    self.expect(held && token == change.token, || {
                        format!("recorded under a lost lease: {}", told())
                    });
                    self.expect(results.insert((id, token)), || {
                        format!("two results of one lease: {}", told())
                    });
                }
                Why::Released => {
                    let held = change.from == Some(DeliveryState::InFlight);
                    self.expect(held, || format!("released without a lease: {}", told()));
                }
                Why::Accepted | Why::Replayed | Why::Asked | Why::Configured => {}
            }
            states.insert(id, change.to);
            self.changes.push((place, change));
        }
    }

    /// An earlier delivery of the same ordering key that has not ended.
    fn first_open_before(
        &self,
        id: DeliveryId,
        states: &BTreeMap<DeliveryId, DeliveryState>,
    ) -> Option<DeliveryId> {
        let key = self.tables.rows.get(&id)?.ordering_key.as_ref()?;
        let mut earlier = states.range(..id).filter(|(_, state)| !state.is_terminal());
        let earlier = earlier.find(|(id, _)| self.ordering_key(**id) == Some(key));
        earlier.map(|(id, _)| *id)
    }

    fn ordering_key(&self, id: DeliveryId) -> Option<&std::sync::Arc<str>> {
        self.tables.rows.get(&id)?.ordering_key.as_ref()
    }

    /// What was answered is on record, once; nothing is that was not emitted.
    fn events(&mut self) {
        let mut found: BTreeMap<u64, Vec<EventId>> = BTreeMap::new();
        for (id, event) in &self.tables.events {
            if let Some(number) = number_of(event) {
                found.entry(number).or_default().push(*id);
            }
        }
        for (number, emitted) in self.emitted.clone() {
            let ids = found.remove(&number).unwrap_or_default();
            self.expect(ids.len() <= 1, || {
                format!("event {number} was accepted twice: {ids:?}")
            });
            if let Some(id) = emitted.id {
                self.expect(ids.contains(&id), || {
                    format!("event {number} was answered and lost: {emitted:?}, found {ids:?}")
                });
            }
            self.expect(!emitted.keyed || emitted.id.is_some(), || {
                format!("event {number} was never answered")
            });
        }
        self.expect(found.is_empty(), || {
            format!("nobody emitted the events {found:?}")
        });
    }

    /// Each event has one delivery to each subscription that was there, and those of replays.
    fn deliveries(&mut self) {
        let mut made: BTreeMap<(EventId, SubscriptionId), [usize; 2]> = BTreeMap::new();
        for (_, change) in &self.changes {
            let index = match change.why {
                Why::Accepted => 0,
                Why::Replayed => 1,
                _ => continue,
            };
            if let Some(row) = self.tables.rows.get(&change.delivery) {
                let to = (row.delivery.event_id, row.delivery.subscription_id);
                made.entry(to).or_default()[index] += 1;
            }
        }
        let replays = self.tables.replays.values();
        let replays = replays.filter(|replay| replay.scope == ReplayScope::All);
        let replays = replays.count();
        for (to, [accepted, replayed]) in &made {
            self.expect(*accepted <= 1 && *replayed <= replays, || {
                format!("{to:?} was made {accepted} and {replayed} times")
            });
        }
        let (tables, stage) = (self.tables, self.stage);
        for (id, event) in &tables.events {
            let Some(number) = number_of(event) else {
                continue;
            };
            let begun = self.emitted.get(&number).map_or(0, |emitted| emitted.begun);
            let late = self.made_late.iter().filter(|(_, place)| *place < begun);
            let mut wanting: Vec<SubscriptionId> = late.map(|(id, _)| *id).collect();
            wanting.extend([stage.plain, stage.ordered, stage.limited, stage.strict]);
            if !is_filtered(number) {
                wanting.push(stage.filtered);
            }
            for subscription in wanting {
                let is_made = made.contains_key(&(*id, subscription));
                self.expect(is_made, || {
                    format!("event {number} has no delivery to {subscription}")
                });
            }
        }
    }

    /// Everything has ended, as the policy and the receivers would have it.
    fn ends(&mut self) {
        for replay in self.tables.replays.values() {
            let running = replay.state == ReplayState::Running;
            self.expect(!running, || format!("still running: {replay:?}"));
        }
        for row in self.tables.rows.values() {
            self.end(row);
        }
    }

    fn end(&mut self, row: &Row) {
        let own = &row.delivery;
        let (id, stage) = (own.subscription_id, self.stage);
        let told = || format!("{own:?}");
        let most = self.attempts_max(id);
        let said = |wanted: &[Said]| {
            let mut to_it = self.arrivals.iter().filter(|sent| sent.delivery == own.id);
            to_it.any(|sent| wanted.contains(&sent.said))
        };
        let allowed = match own.state {
            DeliveryState::Success => said(&[Said::Yes]),
            DeliveryState::Failed => own.attempts == most || said(&[Said::No, Said::Gone]),
            DeliveryState::Cancelled => id == stage.doomed,
            DeliveryState::Filtered => id == stage.filtered,
            // Nobody discards anything here.
            DeliveryState::Discarded
            | DeliveryState::Pending
            | DeliveryState::InFlight
            | DeliveryState::Retrying => false,
        };
        self.expect(allowed, || format!("it cannot end like this: {}", told()));
        self.expect(own.attempts <= most, || {
            format!("more attempts than its policy: {}", told())
        });
        let numbers: Vec<u32> = row.attempts.iter().map(|attempt| attempt.number).collect();
        let without_gaps = numbers
            .iter()
            .zip(1..)
            .all(|(found, number)| *found == number);
        self.expect(without_gaps, || {
            format!("attempts are numbered {numbers:?}: {}", told())
        });
    }

    /// Receivers got nothing but what was to be delivered.
    fn requests(&mut self) {
        let tables = self.tables;
        for sent in self.arrivals.clone() {
            let told = || format!("{sent:?}");
            let row = tables.rows.get(&sent.delivery);
            let known = row.is_some_and(|row| {
                row.delivery.event_id == sent.event
                    && row.delivery.subscription_id == sent.subscription
            });
            self.expect(known, || format!("invented: {}", told()));
            let most = self.attempts_max(sent.subscription);
            self.expect((1..=most).contains(&sent.attempt), || {
                format!("an attempt beyond the policy: {}", told())
            });
            let event = tables.events.get(&sent.event);
            let number = event.and_then(|event| number_of(event)).unwrap_or(1);
            let unwanted = sent.subscription == self.stage.filtered && is_filtered(number);
            self.expect(!unwanted, || {
                format!("the filter does not want it: {}", told())
            });
        }
    }

    /// Where the clocks agree, order is the order of acceptance as the emitter saw it. That what
    /// comes later waits is part of [`Self::leases_and_states`].
    fn order(&mut self) {
        if !self.has_steady_clocks {
            return;
        }
        let mut last: BTreeMap<String, (EventId, u64)> = BTreeMap::new();
        for (number, emitted) in self.emitted.clone() {
            let (Some(id), Some(answered), true) = (emitted.id, emitted.answered, emitted.at_once)
            else {
                continue;
            };
            let before = last.insert(emitted.correlation_key, (id, answered));
            if let Some((before, answered)) = before {
                self.expect(answered < emitted.begun && before < id, || {
                    format!("event {number} ({id}) comes after {before}")
                });
            }
        }
    }

    /// One run of one process does no more at once, and no more in a while, than the subscription
    /// takes.
    fn caps(&mut self) {
        let mut arrivals: BTreeMap<usize, ArrivalTime> = BTreeMap::new();
        let most = usize::try_from(CONCURRENCY).unwrap_or(usize::MAX);
        for call in self.calls.clone() {
            if call.subscription != self.stage.limited {
                continue;
            }
            let told = || format!("{call:?}");
            self.expect(call.under_way <= most, || format!("too many: {}", told()));
            let state = arrivals.entry(call.incarnation).or_default();
            let now = Timestamp(i64::try_from(call.begun_at_ms).unwrap_or(i64::MAX));
            let room = RATE.rate().room(*state, now, 1);
            *state = RATE.rate().book(*state, now);
            let in_time = room.is_ok() || !self.has_steady_clocks;
            self.expect(in_time, || format!("too soon, by {room:?} ms: {}", told()));
        }
    }

    fn summary(&self) -> Summary {
        let mut answered: BTreeMap<DeliveryId, usize> = BTreeMap::new();
        for sent in self.arrivals.iter().filter(|sent| sent.said == Said::Yes) {
            *answered.entry(sent.delivery).or_default() += 1;
        }
        Summary {
            events: self.tables.events.len(),
            deliveries: self.tables.rows.len(),
            requests: self.arrivals.len(),
            duplicates: answered.values().map(|times| times - 1).sum(),
        }
    }
}
