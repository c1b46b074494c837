//! The queue over the store: claims are leases in the store, wake-ups are in process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::fresh::Fresh;
use super::leases::Leases;
use super::passed_over::PassedOver;
use super::{Batch, Queue, Room};
use crate::domain::clock::{Clock, Timestamp, within};
use crate::domain::delivery::{LeaseResult, LeasedDelivery, NewDelivery, Transition};
use crate::domain::event::Event;
use crate::domain::id::{SubscriptionId, WorkerId};
use crate::store::{DeliveryStore, Recorded, StoreError};

/// A look at the store without a wake-up: what became due by a clock step or by another path.
pub(super) const IDLE_LOOK: Duration = Duration::from_secs(1);

/// Nothing is known to be due.
const NEVER: i64 = i64::MAX;

/// A queue for one process.
pub struct EmbeddedQueue<S: ?Sized> {
    pub(super) leases: Leases<S>,
    fresh: Fresh,
    passed_over: PassedOver,
    wake: Notify,
    /// When the next delivery is due, as far as known, in milliseconds.
    next_due: AtomicI64,
    /// When the store was last looked at, in milliseconds.
    looked_at: AtomicI64,
    /// Whose turn it is when there is work on both sides.
    look_first: AtomicBool,
}

impl<S: DeliveryStore + ?Sized> EmbeddedQueue<S> {
    /// A queue whose leases last `lease`: longer than any call's deadline.
    pub fn new(store: Arc<S>, clock: Arc<dyn Clock>, worker: WorkerId, lease: Duration) -> Self {
        Self {
            leases: Leases::new(store, clock, worker, lease),
            fresh: Fresh::default(),
            passed_over: PassedOver::default(),
            wake: Notify::new(),
            looked_at: AtomicI64::new(i64::MIN),
            look_first: AtomicBool::new(true),
            // The store may hold work from before.
            next_due: AtomicI64::new(i64::MIN),
        }
    }

    /// Claims, if something is due as far as known.
    pub(super) async fn look(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Option<Batch>, StoreError> {
        let now = self.leases.clock.now();
        if self.next_due.load(Ordering::Acquire) > now.0 && !self.is_idle(now) {
            return Ok(None);
        }
        // Set before the claim: a wake-up during it must not be overwritten.
        self.next_due.store(NEVER, Ordering::Release);
        self.looked_at.store(now.0, Ordering::Release);
        self.passed_over.begin();
        let caps = self.ask(room, now).caps;
        let request = self.leases.request(now, limit, caps.clone());
        let claimed = self.leases.claim(now, self.leases.store.claim(request));
        let claim = match claimed.await {
            Ok(claim) => claim,
            Err(error) => {
                self.wake(now);
                return Err(error);
            }
        };
        self.passed_over.end(&caps, &claim);
        // Held back by its ordering key or its subscription's cap: whoever ends that wakes
        // the queue, if it is not time itself.
        let again = claim.held_back.then(|| now.plus(IDLE_LOOK));
        if let Some(due) = claim.next_due.into_iter().chain(again).min() {
            self.next_due.fetch_min(due.0, Ordering::AcqRel);
        }
        Ok((!claim.leased.is_empty()).then_some(Batch {
            leased: claim.leased,
            epoch: claim.epoch,
        }))
    }

    /// What may be taken now; it goes for what is written meanwhile, too.
    fn ask(&self, room: &(dyn Fn() -> Room + Sync), now: Timestamp) -> Room {
        let room = room();
        self.fresh.hold_back(&room, now);
        if let Some(more_at) = room.more_at {
            self.next_due.fetch_min(more_at.0, Ordering::AcqRel);
        }
        room
    }

    /// What was leased as it was written and may go now.
    async fn take_fresh(&self, limit: usize, room: &(dyn Fn() -> Room + Sync)) -> Option<Batch> {
        if self.fresh.is_empty() {
            return None;
        }
        let now = self.leases.clock.now();
        self.ask(room, now);
        let taken = self.fresh.take(limit, now);
        if !taken.back.is_empty() {
            self.leases.give_back(&taken.back, now).await;
            self.wake(now);
        }
        let (leased, epoch) = (taken.leased, taken.epoch);
        (!leased.is_empty()).then_some(Batch { leased, epoch })
    }

    /// Whether nobody has looked for a while: another process may have made something due, with its
    /// hint lost. The clock may have been set back.
    fn is_idle(&self, now: Timestamp) -> bool {
        let looked_at = Timestamp(self.looked_at.load(Ordering::Acquire));
        looked_at.plus(IDLE_LOOK) <= now || now < looked_at
    }

    /// Ends the wait, without a look at the store.
    pub(super) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Waits until something may be due.
    pub(super) async fn wait(&self) {
        let due = self.next_due.load(Ordering::Acquire);
        let until_due = Timestamp(due).since(self.leases.clock.now());
        // A timer that fires a moment early would make for an empty claim.
        let pause = (until_due + Duration::from_millis(1)).min(IDLE_LOOK);
        let woken = within(&*self.leases.clock, pause, self.wake.notified()).await;
        if woken.is_none() {
            // It is due, or nobody has looked for a while.
            self.next_due.store(i64::MIN, Ordering::Release);
        }
    }
}

#[async_trait]
impl<S: DeliveryStore + ?Sized> Queue for EmbeddedQueue<S> {
    async fn next(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Batch, StoreError> {
        self.fresh.asked_for(limit);
        loop {
            // By turns: neither waits for the other to run out.
            let look_first = self.look_first.fetch_xor(true, Ordering::Relaxed);
            for is_look in [look_first, !look_first] {
                let batch = if is_look {
                    self.look(limit, room).await?
                } else {
                    self.take_fresh(limit, room).await
                };
                if let Some(batch) = batch {
                    return Ok(batch);
                }
            }
            self.wait().await;
        }
    }

    async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError> {
        let due = match result.transition {
            Transition::RetryAt(at) => Some(at),
            _ => None,
        };
        let recorded = self.leases.settle(result).await?;
        if let Some(due) = due {
            self.wake(due);
        }
        Ok(recorded)
    }

    fn wake(&self, due: Timestamp) {
        let before = self.next_due.fetch_min(due.0, Ordering::AcqRel);
        if due.0 < before {
            self.wake.notify_one();
        }
    }

    fn room_again(&self, subscriptions: &[SubscriptionId], now: Timestamp) {
        self.fresh.let_go(subscriptions);
        if self.passed_over.has_any(subscriptions) {
            self.wake(now);
        } else if !self.fresh.is_empty() {
            self.wake.notify_one();
        }
    }

    fn lease_new(
        &self,
        events: &[Arc<Event>],
        deliveries: &mut [NewDelivery],
        now: Timestamp,
    ) -> Vec<LeasedDelivery> {
        let mut leased = Vec::new();
        for delivery in deliveries {
            let mut events = events.iter();
            let event = events.find(|event| event.id == delivery.event_id);
            // What an earlier event left for a later one is in the store.
            let Some(event) = event.filter(|event| event.correlation_key.is_none()) else {
                continue;
            };
            if self.fresh.reserve(delivery, now) {
                leased.push(self.leases.lease_new(event, delivery, now));
            }
        }
        leased
    }

    fn written(&self, subscriptions: &[SubscriptionId], due: Timestamp) {
        // Whoever lets such a subscription go on says so.
        if self.fresh.are_held_back(subscriptions) {
            self.passed_over.add(subscriptions);
        } else {
            self.wake(due);
        }
    }

    fn hand_over(&self, batch: Batch) {
        let now = self.leases.clock.now();
        self.fresh.put(batch.leased, batch.epoch, now);
        self.wake.notify_one();
    }

    fn withdraw(&self, leased: &[LeasedDelivery], is_doubtful: bool) {
        self.leases.withdraw(leased, is_doubtful);
        self.fresh.withdraw(leased.len());
        self.wake.notify_one();
    }

    async fn stop(&self) -> Vec<LeasedDelivery> {
        self.fresh.close();
        while self.fresh.is_expecting() {
            self.wake.notified().await;
        }
        self.fresh.take_all()
    }
}

#[cfg(test)]
mod tests {
    use hookport_test_servers::Postgres;

    use super::super::conformance::{self, LEASE, ManualClock, Parts, any, capped};
    use super::*;
    use crate::domain::delivery::{DeliveryState, FencingToken};
    use crate::domain::id::DeliveryId;
    use crate::domain::id::IdGenerator;
    use crate::store::Store;
    use crate::store::postgres::PostgresStore;
    use crate::store::sqlite::SqliteStore;

    fn parts(store: Arc<dyn Store>) -> Parts {
        let manual = Arc::new(ManualClock::new());
        let clock: Arc<dyn Clock> = manual.clone();
        let ids = IdGenerator::default();
        let queue = {
            let (store, clock) = (store.clone(), clock.clone());
            move || -> Arc<dyn Queue> {
                let worker = ids.next(clock.now(), || 1);
                let (store, clock) = (store.clone(), clock.clone());
                Arc::new(EmbeddedQueue::new(store, clock, worker, LEASE))
            }
        };
        Parts {
            queue: queue(),
            other: Box::new(queue),
            store: store.clone(),
            clock: clock.clone(),
            manual: Some(manual),
        }
    }

    fn unchecked<T>(_: &T) {}

    async fn state(parts: &Parts, id: DeliveryId) -> DeliveryState {
        let delivery = parts.store.delivery(id).await.expect("reads");
        delivery.expect("there").state
    }

    /// What is written while a worker waits needs no claim, unless something stands against it.
    async fn leases_what_is_written(parts: Parts) {
        let ids = IdGenerator::default();
        let mut subscriptions = Vec::new();
        for _ in 0..3 {
            let id = ids.next(parts.clock.now(), || 1);
            conformance::put_subscription(&parts, id).await;
            subscriptions.push(id);
        }
        let [plain, full, ordered] = subscriptions[..] else {
            panic!("three");
        };
        let emit = |id, key| parts.emit_to(&ids, id, key);

        let early = emit(plain, None).await;
        assert_eq!(state(&parts, early).await, DeliveryState::Pending);
        let leased = parts.take(1).await.remove(0);
        assert_eq!((leased.id, leased.token), (early, FencingToken::FIRST));

        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        let first = emit(plain, None).await;
        assert_eq!(state(&parts, first).await, DeliveryState::InFlight);
        let kept_in_order = emit(ordered, Some("key")).await;
        assert_eq!(state(&parts, kept_in_order).await, DeliveryState::Pending);
        let later = emit(plain, None).await;
        assert_eq!(state(&parts, later).await, DeliveryState::InFlight);
        let mut taken: Vec<_> = parts.take(3).await.iter().map(|one| one.id).collect();
        taken.sort_unstable();
        assert_eq!(taken, [first, kept_in_order, later], "both by turns");

        // One more than a worker takes at once: the others go, however long they waited.
        for _ in 0..11 {
            emit(plain, None).await;
        }
        parts.pass(Duration::from_millis(250)).await;
        let leased = parts.take(10).await;
        assert!(leased.iter().all(|one| one.token == FencingToken::FIRST));
        let leased = parts.take(1).await.remove(0);
        assert!(leased.token > FencingToken::FIRST, "it went back");

        parts.queue.wake(parts.clock.now());
        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        let held_back = emit(full, None).await;
        assert_eq!(state(&parts, held_back).await, DeliveryState::InFlight);
        assert_eq!(parts.take(1).await[0].id, held_back);

        // It became full after the look: it waits for a moment, and is given back after that.
        parts.queue.wake(parts.clock.now());
        assert!(parts.nothing_comes(&any).await);
        let crowded = emit(full, None).await;
        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        assert_eq!(state(&parts, crowded).await, DeliveryState::InFlight);
        parts.pass(Duration::from_millis(100)).await;
        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        assert_eq!(state(&parts, crowded).await, DeliveryState::Pending);
        let still = emit(full, None).await;
        assert_eq!(state(&parts, still).await, DeliveryState::Pending);
        parts.queue.room_again(&[full], parts.clock.now());
        let leased = parts.take(2).await;
        assert_eq!((leased[0].id, leased[1].id), (crowded, still));
        assert!(leased[0].token > FencingToken::FIRST);

        // Near its share for long, and going.
        parts.queue.wake(parts.clock.now());
        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        parts.pass(Duration::from_millis(100)).await;
        parts.queue.wake(parts.clock.now());
        assert!(parts.nothing_comes(&move || capped(full, 2)).await);
        let going = emit(full, None).await;
        assert_eq!(state(&parts, going).await, DeliveryState::InFlight);
        assert_eq!(parts.take(1).await[0].id, going);

        // It was held back, and has room since.
        parts.queue.wake(parts.clock.now());
        assert!(parts.nothing_comes(&move || capped(full, 0)).await);
        parts.pass(Duration::from_millis(100)).await;
        parts.queue.room_again(&[full], parts.clock.now());
        let roomy = emit(full, None).await;
        assert_eq!(state(&parts, roomy).await, DeliveryState::InFlight);
        assert_eq!(parts.take(1).await[0].id, roomy);

        let left = emit(plain, None).await;
        let stopped = parts.queue.stop().await;
        assert_eq!(stopped.len(), 1);
        assert_eq!(stopped[0].id, left);
        let after = emit(plain, None).await;
        assert_eq!(state(&parts, after).await, DeliveryState::Pending);
    }

    /// A caller that went away before the answer leaves a lease that nobody holds.
    async fn doubts_what_nobody_waited_for(parts: Parts) {
        let ids = IdGenerator::default();
        let id = ids.next(parts.clock.now(), || 1);
        conformance::put_subscription(&parts, id).await;
        assert!(parts.nothing_comes(&any).await);
        let delivery = parts.emit_unheard(&ids, id).await;
        assert_eq!(state(&parts, delivery).await, DeliveryState::InFlight);
        parts.queue.wake(parts.clock.now());
        assert_eq!(parts.take(1).await[0].id, delivery);
    }

    mod over_sqlite {
        use super::*;

        async fn fresh() -> (tempfile::TempDir, Parts) {
            let dir = tempfile::tempdir().expect("dir");
            let store = SqliteStore::open(&dir.path().join("queue.db")).await;
            (dir, parts(Arc::new(store.expect("opens"))))
        }

        conformance::cases!(fresh, unchecked);

        #[tokio::test(flavor = "multi_thread")]
        async fn leases_what_is_written_for_a_worker_that_waits() {
            let (_dir, parts) = fresh().await;
            leases_what_is_written(parts).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn gives_back_what_was_written_for_nobody() {
            let (_dir, parts) = fresh().await;
            doubts_what_nobody_waited_for(parts).await;
        }
    }

    mod over_postgres {
        use super::*;

        async fn fresh() -> ((), Parts) {
            let url = tokio::task::spawn_blocking(|| Postgres::shared().database());
            let store = PostgresStore::open(&url.await.expect("a database"), true).await;
            ((), parts(Arc::new(store.expect("opens"))))
        }

        conformance::cases!(fresh, unchecked);

        #[tokio::test(flavor = "multi_thread")]
        async fn leases_what_is_written_for_a_worker_that_waits() {
            leases_what_is_written(fresh().await.1).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn gives_back_what_was_written_for_nobody() {
            doubts_what_nobody_waited_for(fresh().await.1).await;
        }
    }
}
