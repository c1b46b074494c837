//! The store in memory, for tests: what the simulation runs over, deterministic and quick.
//!
//! Invariant: it passes the conformance suite like every other back end, so that what the rest of
//! the gateway shows over it, it shows over a database. A [`Defect`] makes it wrong on purpose.
//!
//! Each method is one transaction under one lock. A handle may have a [`Way`] on which commands and
//! answers travel and are lost; without one nothing waits. The clock stands for the database's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};

use super::audit::Effect;
use super::{
    AcceptRequest, Accepted, Catalog, CatalogEpoch, CatalogStore, Claim, ClaimRequest, Connections,
    DeliveryFilter, DeliveryStore, DocumentChanges, EventFilter, GrantRecord, IngressStore, Page,
    ReceiveRequest, Received, Recorded, ReplayStep, ReplayStore, Result, Stepped, Store,
    StoreError, WebhookFilter,
};
use crate::domain::audit::NewEntry;
use crate::domain::circuit::OpenCircuit;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Attempt, Delivery, DeliveryState, FencingToken, LeaseResult};
use crate::domain::event::{Event, EventType, EventTypeName};
use crate::domain::id::{
    ConnectionId, DeliveryId, EventId, KeyId, ReplayId, SourceId, SubscriptionId, WebhookId,
    WorkerId,
};
use crate::domain::key::ApiKey;
use crate::domain::provider::ProviderId;
use crate::domain::replay::{Outcomes, Replay, ReplayState};
use crate::domain::source::{InboundWebhook, Rejection, Source};
use crate::domain::subscription::{Connection, Subscription};

mod audit;
mod claim;
mod dead_letter;
mod defect;
mod job;
mod journal;
mod records;
mod retention;
mod tables;
mod way;

pub(crate) use defect::Defect;
pub(crate) use journal::{Change, Journal, Why};
pub(crate) use tables::{Row, Tables};
pub(crate) use way::{Fate, Way};

/// The database.
struct Shared {
    tables: Mutex<Tables>,
    clock: Arc<dyn Clock>,
    due: Notify,
    several: bool,
}

impl Shared {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on the store.
pub(crate) struct MemoryStore {
    shared: Arc<Shared>,
    way: Option<Arc<dyn Way>>,
    /// Written with each change that is made through this handle.
    entry: Option<NewEntry>,
}

fn lost() -> StoreError {
    StoreError::Unavailable("the connection is lost".into())
}

impl MemoryStore {
    /// An empty store that writes `journal`, wrong in one way where `defect` says so. `several`:
    /// whether several processes may have it open.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        several: bool,
        journal: Arc<Journal>,
        defect: Option<Defect>,
    ) -> Self {
        let shared = Shared {
            tables: Mutex::new(Tables::new(journal, defect)),
            clock,
            due: Notify::new(),
            several,
        };
        Self {
            shared: Arc::new(shared),
            way: None,
            entry: None,
        }
    }

    /// A handle for a process.
    pub(crate) fn by(&self, way: Arc<dyn Way>) -> Self {
        Self {
            shared: self.shared.clone(),
            way: Some(way),
            entry: None,
        }
    }

    /// What it holds, for as long as nobody else looks.
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables()
    }

    /// A transaction that takes this handle's entry along, where it changed something.
    async fn change<T: Effect + Send + 'static>(
        &self,
        transaction: impl Fn(&mut Tables, bool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let entry = self.entry.clone();
        self.transact(move |tables, again| {
            let value = transaction(tables, again)?;
            if let Some(entry) = entry.clone().filter(|_| value.is_change()) {
                tables.append(vec![entry]);
            }
            Ok(value)
        })
        .await
    }

    /// One transaction. On its way it outlives its caller, and may be made twice (then `again`).
    async fn transact<T: Send + 'static>(
        &self,
        transaction: impl Fn(&mut Tables, bool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(way) = &self.way else {
            return transaction(&mut self.tables(), false);
        };
        let fate = way.leave().await;
        let (tell, told) = oneshot::channel();
        let (shared, on_its_way) = (self.shared.clone(), way.clone());
        tokio::spawn(async move {
            let answer = if on_its_way.arrive().await {
                let mut tables = shared.tables();
                let first = transaction(&mut tables, false);
                if fate.redone {
                    transaction(&mut tables, true)
                } else {
                    first
                }
            } else {
                Err(lost())
            };
            let _ = tell.send(answer);
        });
        if fate.disowned {
            return Err(lost());
        }
        // The sender is gone with the database of a process that was killed.
        let answer = told.await.unwrap_or_else(|_| Err(lost()));
        if way.come_back().await {
            answer
        } else {
            Err(lost())
        }
    }
}

/// The newest `limit` after the cursor, and whether there are more.
fn page<K: Ord + Copy, T>(
    all: impl DoubleEndedIterator<Item = (K, T)>,
    after: Option<K>,
    limit: usize,
    wanted: impl Fn(&T) -> bool,
) -> Page<T> {
    let mut items: Vec<T> = all
        .rev()
        .filter(|(id, item)| after.is_none_or(|after| *id < after) && wanted(item))
        .map(|(_, item)| item)
        .take(limit + 1)
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    Page {
        items,
        more,
        resume: None,
    }
}

fn outcomes<'r>(rows: impl Iterator<Item = &'r Row>) -> Outcomes {
    let states: Vec<DeliveryState> = rows.map(|row| row.delivery.state).collect();
    let count = |state| states.iter().filter(|found| **found == state).count();
    let counts = DeliveryState::ALL.map(|state| (state, count(state)));
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    counts
        .map(|(state, count)| (state, u64::try_from(count).unwrap_or(u64::MAX)))
        .collect()
}

fn within(at: Timestamp, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    from.is_none_or(|from| at >= from) && until.is_none_or(|until| at < until)
}

#[async_trait]
impl DeliveryStore for MemoryStore {
    async fn accept(&self, request: AcceptRequest) -> Result<Accepted> {
        let accepted = self.change(move |tables, _| tables.accept(&request));
        let accepted = accepted.await;
        self.shared.due.notify_waiters();
        accepted
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claim> {
        self.transact(move |tables, again| {
            Ok(Claim {
                is_doubtful: again,
                ..tables.claim(&request)
            })
        })
        .await
    }

    async fn record(&self, result: LeaseResult) -> Result<Recorded> {
        self.transact(move |tables, _| {
            let recorded = tables.record(&result);
            if let (Recorded::Written, Some(entry)) = (recorded, &result.entry) {
                tables.append(vec![(**entry).clone()]);
            }
            Ok(recorded)
        })
        .await
    }

    async fn release(&self, leases: Vec<(DeliveryId, FencingToken)>, at: Timestamp) -> Result<()> {
        self.transact(move |tables, _| {
            tables.release(at, |row| leases.contains(&(row.delivery.id, row.token)));
            Ok(())
        })
        .await
    }

    async fn release_unheld(
        &self,
        worker: WorkerId,
        held: Vec<DeliveryId>,
        at: Timestamp,
    ) -> Result<u64> {
        self.transact(move |tables, _| {
            Ok(tables.release(at, |row| {
                row.worker == Some(worker) && !held.contains(&row.delivery.id)
            }))
        })
        .await
    }

    async fn release_all(&self, at: Timestamp) -> Result<u64> {
        self.transact(move |tables, _| Ok(tables.sweep(at, |_| true)))
            .await
    }

    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        self.transact(move |tables, _| {
            let event = tables.events.get(&id);
            Ok(event.map(|event| (**event).clone()))
        })
        .await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Page<Event>> {
        let filter = filter.clone();
        self.transact(move |tables, _| {
            let wanted = |event: &Event| {
                let event_type = filter.event_type.as_deref();
                let key = filter.correlation_key.as_deref();
                event_type.is_none_or(|wanted| wanted == event.event_type.as_str())
                    && key.is_none_or(|wanted| event.correlation_key.as_deref() == Some(wanted))
                    && within(event.received_at, filter.from, filter.until)
            };
            let all = tables.events.iter();
            let all = all.map(|(id, event)| (*id, (**event).clone()));
            Ok(page(all, after, limit, wanted))
        })
        .await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>> {
        self.transact(move |tables, _| Ok(tables.rows.get(&id).map(|row| row.delivery.clone())))
            .await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>> {
        self.transact(move |tables, _| {
            let attempts = tables.rows.get(&id).map(|row| row.attempts.clone());
            Ok(attempts.unwrap_or_default())
        })
        .await
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        let filter = filter.clone();
        self.transact(move |tables, _| {
            let wanted = |delivery: &Delivery| {
                let (event_type, provider) = (&filter.event_type, &filter.provider);
                let subscription = filter.subscription;
                (filter.states.is_empty() || filter.states.contains(&delivery.state))
                    && filter.event.is_none_or(|id| id == delivery.event_id)
                    && subscription.is_none_or(|id| id == delivery.subscription_id)
                    && provider.as_ref().is_none_or(|id| *id == delivery.provider)
                    && event_type
                        .as_ref()
                        .is_none_or(|name| *name == delivery.event_type)
                    && within(delivery.created_at, filter.from, filter.until)
            };
            let all = tables.rows.iter();
            let all = all.map(|(id, row)| (*id, row.delivery.clone()));
            Ok(page(all, after, limit, wanted))
        })
        .await
    }

    async fn retry(&self, id: DeliveryId, at: Timestamp) -> Result<Option<Delivery>> {
        self.change(move |tables, _| tables.retry(id, at)).await
    }

    async fn backlog(&self, at_most: u64) -> Result<u64> {
        self.transact(move |tables, _| {
            let rows = tables.rows.values();
            let waiting = rows.filter(|row| row.delivery.due_at.is_some()).count();
            Ok(u64::try_from(waiting).unwrap_or(u64::MAX).min(at_most))
        })
        .await
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>> {
        self.transact(|tables, _| {
            let rows = tables.rows.values();
            Ok(rows.filter_map(|row| row.delivery.due_at).min())
        })
        .await
    }

    async fn put_circuit(&self, open: OpenCircuit) -> Result<()> {
        self.change(move |tables, _| {
            if tables.subscriptions.contains_key(&open.subscription) {
                tables.circuits.insert(open.subscription, open.clone());
            }
            Ok(())
        })
        .await
    }

    async fn delete_circuit(&self, id: SubscriptionId) -> Result<()> {
        self.change(move |tables, _| {
            tables.circuits.remove(&id);
            Ok(())
        })
        .await
    }

    async fn circuits(&self) -> Result<Vec<OpenCircuit>> {
        self.transact(move |tables, _| Ok(tables.circuits.values().cloned().collect()))
            .await
    }
}

#[async_trait]
impl CatalogStore for MemoryStore {
    async fn catalog(&self) -> Result<Catalog> {
        self.transact(move |tables, _| Ok(tables.catalog())).await
    }

    async fn epoch(&self) -> Result<CatalogEpoch> {
        self.transact(move |tables, _| Ok(CatalogEpoch(tables.epoch)))
            .await
    }

    async fn put_event_type(&self, event_type: EventType) -> Result<()> {
        self.change(move |tables, _| {
            tables.put_event_type(event_type.clone());
            Ok(())
        })
        .await
    }

    async fn put_catalogue(
        &self,
        event_types: Vec<EventType>,
        gone: Vec<EventTypeName>,
    ) -> Result<()> {
        self.change(move |tables, _| {
            for event_type in &event_types {
                tables.put_event_type(event_type.clone());
            }
            for name in &gone {
                tables.retire(name);
            }
            tables.changed();
            Ok(())
        })
        .await
    }

    async fn delete_event_type(&self, name: &EventTypeName) -> Result<bool> {
        let name = name.clone();
        self.change(move |tables, _| tables.delete_event_type(&name))
            .await
    }

    async fn put_subscription(&self, subscription: Subscription) -> Result<()> {
        self.change(move |tables, _| tables.put_subscription(subscription.clone()))
            .await
    }

    async fn delete_subscription(&self, id: SubscriptionId, at: Timestamp) -> Result<bool> {
        self.change(move |tables, _| Ok(tables.delete_subscription(id, at)))
            .await
    }

    async fn put_connection(&self, connection: Connection) -> Result<()> {
        self.change(move |tables, _| {
            tables.put_connection(connection.clone());
            Ok(())
        })
        .await
    }

    async fn delete_connection(&self, id: ConnectionId) -> Result<bool> {
        self.change(move |tables, _| tables.delete_connection(id))
            .await
    }

    async fn put_source(&self, source: Source) -> Result<()> {
        self.change(move |tables, _| tables.put_source(source.clone()))
            .await
    }

    async fn delete_source(&self, id: SourceId) -> Result<bool> {
        self.change(move |tables, _| {
            tables.rejections.retain(|rejection| rejection.source != id);
            tables.changed();
            Ok(tables.sources.remove(&id).is_some())
        })
        .await
    }

    async fn replace_documents(&self, changes: DocumentChanges) -> Result<bool> {
        self.change(move |tables, _| Ok(tables.replace_documents(changes.clone())))
            .await
    }

    async fn grants(&self) -> Result<Vec<GrantRecord>> {
        self.transact(move |tables, _| Ok(tables.grants.values().cloned().collect()))
            .await
    }

    async fn put_grant(&self, grant: GrantRecord) -> Result<()> {
        self.change(move |tables, _| {
            tables.grants.insert(grant.provider.clone(), grant.clone());
            tables.changed();
            Ok(())
        })
        .await
    }

    async fn delete_grant(&self, provider: &ProviderId) -> Result<bool> {
        let provider = provider.clone();
        self.change(move |tables, _| {
            tables.changed();
            Ok(tables.grants.remove(&provider).is_some())
        })
        .await
    }

    async fn put_key(&self, key: ApiKey) -> Result<()> {
        self.change(move |tables, _| {
            tables.put_key(key.clone());
            Ok(())
        })
        .await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.transact(move |tables, _| Ok(tables.keys.values().cloned().collect()))
            .await
    }

    async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<bool> {
        self.change(move |tables, _| Ok(tables.revoke_key(id, at)))
            .await
    }
}

#[async_trait]
impl IngressStore for MemoryStore {
    async fn receive(&self, request: ReceiveRequest) -> Result<Received> {
        let received = self.change(move |tables, _| tables.receive(request.clone()));
        let received = received.await;
        self.shared.due.notify_waiters();
        received
    }

    async fn webhook(&self, id: WebhookId) -> Result<Option<InboundWebhook>> {
        self.transact(move |tables, _| Ok(tables.webhooks.get(&id).cloned()))
            .await
    }

    async fn webhooks(
        &self,
        filter: &WebhookFilter,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Page<InboundWebhook>> {
        let filter = filter.clone();
        self.transact(move |tables, _| {
            let wanted = |webhook: &InboundWebhook| {
                filter.source.is_none_or(|id| id == webhook.source)
                    && filter.state.is_none_or(|state| state == webhook.state)
                    && within(webhook.received_at, filter.from, filter.until)
            };
            let all = tables.webhooks.iter();
            let all = all.map(|(id, webhook)| (*id, webhook.clone()));
            Ok(page(all, after, limit, wanted))
        })
        .await
    }

    async fn reject(&self, rejection: Rejection) -> Result<()> {
        self.transact(move |tables, _| {
            tables.reject(rejection.clone());
            Ok(())
        })
        .await
    }

    async fn rejections(&self, source: SourceId) -> Result<Vec<Rejection>> {
        self.transact(move |tables, _| Ok(tables.rejections_of(source)))
            .await
    }
}

#[async_trait]
impl ReplayStore for MemoryStore {
    async fn put_replay(&self, replay: Replay) -> Result<()> {
        self.change(move |tables, _| {
            tables.replays.insert(replay.id, replay.clone());
            Ok(())
        })
        .await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>> {
        self.transact(move |tables, _| Ok(tables.replays.get(&id).cloned()))
            .await
    }

    async fn replays(
        &self,
        state: Option<ReplayState>,
        after: Option<ReplayId>,
        limit: usize,
    ) -> Result<Page<Replay>> {
        self.transact(move |tables, _| {
            let all = tables.replays.iter();
            let all = all.map(|(id, replay)| (*id, replay.clone()));
            Ok(page(all, after, limit, |replay| {
                state.is_none_or(|state| state == replay.state)
            }))
        })
        .await
    }

    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped> {
        self.transact(move |tables, _| Ok(tables.step_replay(step.clone())))
            .await
    }

    async fn cancel_replay(&self, id: ReplayId, at: Timestamp) -> Result<bool> {
        self.change(move |tables, _| {
            let replay = tables.replays.get_mut(&id);
            let Some(replay) = replay.filter(|replay| replay.state == ReplayState::Running) else {
                return Ok(false);
            };
            replay.state = ReplayState::Cancelled;
            replay.updated_at = at;
            Ok(true)
        })
        .await
    }

    async fn replay_outcomes(&self, id: ReplayId) -> Result<Outcomes> {
        self.transact(move |tables, _| {
            let own = tables.rows.values().filter(|row| row.replay == Some(id));
            Ok(outcomes(own))
        })
        .await
    }

    async fn failed_of(&self, event: EventId, subscription: Option<SubscriptionId>) -> Result<u64> {
        self.transact(move |tables, _| {
            let failed = tables.failed_of(event, subscription).len();
            Ok(u64::try_from(failed).unwrap_or(u64::MAX))
        })
        .await
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn connections(&self) -> Connections {
        Connections {
            open: 0,
            idle: 0,
            max: 0,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        self.shared.several
    }

    async fn keep_alive(&self, worker: WorkerId, patience: Duration) -> Result<u64> {
        let clock = self.shared.clock.clone();
        self.transact(move |tables, _| Ok(tables.keep_alive(worker, patience, clock.now())))
            .await
    }

    async fn heard_of_work(&self) {
        self.shared.due.notified().await;
    }

    fn audited(&self, entry: NewEntry) -> Arc<dyn Store> {
        Arc::new(Self {
            shared: self.shared.clone(),
            way: self.way.clone(),
            entry: Some(entry),
        })
    }
}

mod tests {
    use super::super::conformance;
    use super::*;

    conformance::cases!(open_fresh);

    struct StandingClock;

    impl Clock for StandingClock {
        fn now(&self) -> Timestamp {
            Timestamp(1_700_000_000_000)
        }
    }

    async fn open_fresh() -> ((), MemoryStore) {
        let clock = Arc::new(StandingClock);
        ((), MemoryStore::new(clock, false, Arc::default(), None))
    }
}
