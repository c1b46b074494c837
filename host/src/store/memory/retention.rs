//! Removing what is old enough.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use super::tables::{Row, Tables};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{EventId, WorkerId};
use crate::domain::replay::ReplayState;
use crate::store::{Expiring, RemovalBatch, Removed, Result, RetentionStore};

/// Removes what `goes`, `limit` rows at most. Returns how many that were.
fn prune<K: Ord + Clone, T>(
    table: &mut BTreeMap<K, T>,
    limit: usize,
    goes: impl Fn(&K, &T) -> bool,
) -> usize {
    let gone = table.iter().filter(|(key, row)| goes(key, row));
    let gone: Vec<K> = gone.map(|(key, _)| key.clone()).take(limit).collect();
    for key in &gone {
        table.remove(key);
    }
    gone.len()
}

impl Tables {
    /// Events that a replay has yet to go through, from the newest to the oldest.
    fn replays_need(&self) -> impl Fn(EventId) -> bool + use<> {
        let replays = self.replays.values();
        let running = replays.filter(|replay| replay.state == ReplayState::Running);
        let needs: Vec<_> = running
            .map(|replay| (replay.filter.event, replay.cursor))
            .collect();
        move |event| {
            needs.iter().any(|(only, cursor)| {
                only.is_none_or(|id| id == event) && cursor.is_none_or(|cursor| cursor >= event)
            })
        }
    }

    fn remove(&mut self, batch: &RemovalBatch) -> usize {
        let (before, limit) = (batch.before, batch.limit);
        match batch.kind {
            Expiring::Deliveries(state) => self.remove_deliveries(state, batch),
            Expiring::Events => {
                let needed = self.replays_need();
                let rows = &self.rows;
                let gone = prune(&mut self.events, limit, |id, event| {
                    let mut deliveries = rows.values().map(|row| row.delivery.event_id);
                    event.received_at < before && !needed(*id) && !deliveries.any(|of| of == *id)
                });
                let events = &self.events;
                self.external_ids.retain(|(_, key), _| {
                    let mut keys = events.values().map(|event| &event.correlation_key);
                    keys.any(|of| of.as_ref() == Some(key))
                });
                gone
            }
            Expiring::Webhooks => prune(&mut self.webhooks, limit, |_, webhook| {
                webhook.received_at < before
            }),
            Expiring::InboundKeys => {
                prune(&mut self.inbound_keys, limit, |_, (_, at)| *at < before)
            }
            Expiring::IdempotencyKeys => {
                prune(&mut self.idempotency, limit, |_, taken| taken.at < before)
            }
            Expiring::Replays => {
                let has_ended = |state, at| state != ReplayState::Running && at < before;
                let runs = prune(&mut self.runs, limit, |_, run| {
                    has_ended(run.state, run.updated_at)
                });
                let left = limit - runs;
                let replays = prune(&mut self.replays, left, |_, replay| {
                    has_ended(replay.state, replay.updated_at)
                });
                runs + replays
            }
        }
    }

    fn remove_deliveries(&mut self, state: DeliveryState, batch: &RemovalBatch) -> usize {
        let mut runs = self.runs.values().map(|run| run.state);
        let is_gone_through =
            state == DeliveryState::Failed && runs.any(|state| state == ReplayState::Running);
        if !state.is_terminal() || is_gone_through {
            return 0;
        }
        let needed = self.replays_need();
        prune(&mut self.rows, batch.limit, |_, Row { delivery, .. }| {
            delivery.state == state
                && delivery.updated_at < batch.before
                && !needed(delivery.event_id)
        })
    }
}

#[async_trait]
impl RetentionStore for MemoryStore {
    async fn hold_duty(
        &self,
        name: &'static str,
        worker: WorkerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool> {
        self.transact(move |tables, _| {
            let (holder, held_until) = *tables.duties.entry(name).or_insert((worker, until));
            let is_free = holder == worker || held_until < now;
            if is_free {
                tables.duties.insert(name, (worker, until));
            }
            Ok(is_free)
        })
        .await
    }

    /// What was looked at and is old enough is gone, so that every batch begins at the oldest.
    async fn remove(&self, batch: RemovalBatch) -> Result<Removed> {
        self.transact(move |tables, _| {
            let records = tables.remove(&batch);
            Ok(Removed {
                records: u64::try_from(records).unwrap_or(u64::MAX),
                next: (records == batch.limit).then(String::new),
            })
        })
        .await
    }
}
