//! Dead letters, and the runs over them.

use async_trait::async_trait;

use super::journal::Why;
use super::tables::{Row, Tables};
use super::{MemoryStore, outcomes, page, within};
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::{
    DeadLetterAction, DeadLetterCursor, DeadLetterFilter, DeadLetterRun,
};
use crate::domain::delivery::{Delivery, DeliveryState, Discarded};
use crate::domain::id::{DeadLetterRunId, DeliveryId};
use crate::domain::job::Trigger;
use crate::domain::replay::{Outcomes, ReplayState};
use crate::store::{DeadLetterStore, Page, Result};

impl Tables {
    fn is_dead(&self, id: DeliveryId) -> bool {
        let row = self.rows.get(&id);
        row.is_some_and(|row| row.delivery.state == DeliveryState::Failed)
    }

    fn is_wanted(&self, filter: &DeadLetterFilter, row: &Row) -> bool {
        let (delivery, key) = (&row.delivery, filter.correlation_key.as_deref());
        let event = self.events.get(&delivery.event_id);
        let own_key = event.and_then(|event| event.correlation_key.as_deref());
        let (provider, subscription) = (filter.provider.as_ref(), filter.subscription);
        let (event_type, prefix) = (filter.event_type.as_ref(), filter.error_prefix.as_deref());
        let error = delivery.last_error.as_deref();
        let outcome = row.attempts.last().map(|attempt| attempt.outcome);
        provider.is_none_or(|id| *id == delivery.provider)
            && subscription.is_none_or(|id| id == delivery.subscription_id)
            && event_type.is_none_or(|name| *name == delivery.event_type)
            && key.is_none_or(|key| own_key == Some(key))
            && prefix.is_none_or(|prefix| error.is_some_and(|error| error.starts_with(prefix)))
            && filter.outcome.is_none_or(|wanted| outcome == Some(wanted))
            && within(delivery.updated_at, filter.from, filter.until)
    }

    fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: usize,
    ) -> Page<Delivery> {
        let rows = self.rows.values();
        let dead = rows.filter(|row| {
            row.delivery.state == DeliveryState::Failed && self.is_wanted(filter, row)
        });
        let mut dead: Vec<(DeadLetterCursor, Delivery)> = dead
            .map(|row| ((&row.delivery).into(), row.delivery.clone()))
            .collect();
        dead.sort_unstable_by_key(|(place, _)| *place);
        page(dead.into_iter(), after, limit, |_| true)
    }

    fn requeue(&mut self, id: DeliveryId, run: Option<DeadLetterRunId>, at: Timestamp) -> bool {
        if !self.is_dead(id) {
            return false;
        }
        let subscription = self.rows[&id].delivery.subscription_id;
        if !self.is_enabled(subscription) {
            return false;
        }
        let due = (!self.is_paused(subscription)).then_some(at);
        self.begin_round(id, Trigger::Manual, due, at);
        if let Some(row) = self.rows.get_mut(&id)
            && run.is_some()
        {
            (row.replay, row.run) = (None, run);
        }
        true
    }

    fn discard(&mut self, id: DeliveryId, decision: &Discarded, at: Timestamp) -> bool {
        if !self.is_dead(id) {
            return false;
        }
        self.shift(id, Why::Asked, DeliveryState::Discarded, None, at);
        if let Some(row) = self.rows.get_mut(&id) {
            row.delivery.discarded = Some(decision.clone());
        }
        true
    }

    fn step_run(
        &mut self,
        mut run: DeadLetterRun,
        limit: usize,
        at: Timestamp,
    ) -> Option<DeadLetterRun> {
        let stored = self.runs.get(&run.id)?;
        if stored.state != ReplayState::Running || stored.cursor != run.cursor {
            return None;
        }
        let page = self.dead_letters(&run.filter, run.cursor, limit);
        let decision = Discarded {
            by: run.requested_by.clone(),
            reason: run.reason.clone(),
        };
        for dead in &page.items {
            let changed = match run.action {
                DeadLetterAction::Requeue => self.requeue(dead.id, Some(run.id), at),
                DeadLetterAction::Discard => self.discard(dead.id, &decision, at),
            };
            run.changed += u64::from(changed);
        }
        if page.more {
            run.cursor = page.items.last().map(DeadLetterCursor::from);
        } else {
            run.state = ReplayState::Done;
        }
        run.updated_at = at;
        self.runs.insert(run.id, run.clone());
        Some(run)
    }
}

#[async_trait]
impl DeadLetterStore for MemoryStore {
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        let filter = filter.clone();
        self.transact(move |tables, _| Ok(tables.dead_letters(&filter, after, limit)))
            .await
    }

    async fn requeue_dead_letter(&self, id: DeliveryId, at: Timestamp) -> Result<bool> {
        let requeued = self.change(move |tables, _| Ok(tables.requeue(id, None, at)));
        let requeued = requeued.await;
        self.shared.due.notify_waiters();
        requeued
    }

    async fn discard_dead_letter(
        &self,
        id: DeliveryId,
        decision: Discarded,
        at: Timestamp,
    ) -> Result<bool> {
        self.change(move |tables, _| Ok(tables.discard(id, &decision, at)))
            .await
    }

    async fn put_dead_letter_run(&self, run: DeadLetterRun) -> Result<()> {
        self.change(move |tables, _| {
            tables.runs.insert(run.id, run.clone());
            Ok(())
        })
        .await
    }

    async fn dead_letter_run(&self, id: DeadLetterRunId) -> Result<Option<DeadLetterRun>> {
        self.transact(move |tables, _| Ok(tables.runs.get(&id).cloned()))
            .await
    }

    async fn dead_letter_runs(
        &self,
        state: Option<ReplayState>,
        after: Option<DeadLetterRunId>,
        limit: usize,
    ) -> Result<Page<DeadLetterRun>> {
        self.transact(move |tables, _| {
            let all = tables.runs.iter().map(|(id, run)| (*id, run.clone()));
            Ok(page(all, after, limit, |run| {
                state.is_none_or(|state| state == run.state)
            }))
        })
        .await
    }

    async fn step_dead_letter_run(
        &self,
        run: DeadLetterRun,
        limit: usize,
        at: Timestamp,
    ) -> Result<Option<DeadLetterRun>> {
        let stepped = self.transact(move |tables, _| Ok(tables.step_run(run.clone(), limit, at)));
        let stepped = stepped.await;
        self.shared.due.notify_waiters();
        stepped
    }

    async fn cancel_dead_letter_run(&self, id: DeadLetterRunId, at: Timestamp) -> Result<bool> {
        self.change(move |tables, _| {
            let run = tables.runs.get_mut(&id);
            let Some(run) = run.filter(|run| run.state == ReplayState::Running) else {
                return Ok(false);
            };
            run.state = ReplayState::Cancelled;
            run.updated_at = at;
            Ok(true)
        })
        .await
    }

    async fn dead_letter_outcomes(&self, id: DeadLetterRunId) -> Result<Outcomes> {
        self.transact(move |tables, _| {
            let own = tables.rows.values().filter(|row| row.run == Some(id));
            Ok(outcomes(own))
        })
        .await
    }
}
