//! What every queue must do: plain functions over a queue and the store behind it, each called by a
//! named test of every queue through [`cases`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::{Announcement, Batch, Queue, Room};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{LeaseResult, LeasedDelivery, NewDelivery, Transition};
use crate::domain::event::{Event, EventTypeName};
use crate::domain::id::{DeliveryId, IdGenerator, SubscriptionId};
use crate::domain::provider::ProviderId;
use crate::store::{AcceptRequest, Store};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl ManualClock {
    /// At an arbitrary instant.
    pub(crate) fn new() -> Self {
        Self(AtomicI64::new(1_700_000_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// What a case works with.
pub(crate) struct Parts {
    pub(crate) queue: Arc<dyn Queue>,
    /// Starts the one of another process.
    pub(crate) other: Box<dyn Fn() -> Arc<dyn Queue> + Send + Sync>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The clock where it is moved by hand; a broker keeps time of its own.
    pub(crate) manual: Option<Arc<ManualClock>>,
}

/// Names every case as a test of a queue. `$parts` is an async function that gives a guard and the
/// parts; `$check` is asked afterwards whether the guard saw what it should.
macro_rules! cases {
    ($parts:ident, $check:ident: $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let (guard, parts) = $parts().await;
                $crate::queue::conformance::$case(&parts).await;
                $check(&guard);
            }
        )+
    };
    ($parts:ident, $check:ident) => {
        $crate::queue::conformance::cases!($parts, $check:
            work_comes_once_and_wakes_a_waiter,
            what_was_there_before_the_queue_is_found,
            a_settled_retry_comes_when_it_is_due,
            a_short_retry_does_not_wait_behind_a_long_one,
            what_has_ended_does_not_come_again,
            a_lapsed_lease_comes_back,
            two_processes_never_have_the_same_lease,
            an_ordering_key_lets_one_go_at_a_time,
            an_excluded_subscription_does_not_hold_up_others,
            a_cap_is_kept_and_the_rest_comes_when_there_is_room,
        );
    };
}
pub(crate) use cases;

/// How long leases last here.
pub(crate) const LEASE: Duration = Duration::from_secs(8);
/// Longer than any queue takes to notice something.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter than that, long enough for a queue that does not wait.
const MOMENT: Duration = Duration::from_millis(300);

pub(super) fn any() -> Room {
    Room::default()
}

pub(super) fn capped(id: SubscriptionId, cap: usize) -> Room {
    Room {
        caps: [(id, cap)].into(),
        more_at: None,
    }
}

impl Parts {
    /// Lets time go by.
    pub(super) async fn pass(&self, by: Duration) {
        match &self.manual {
            Some(clock) => {
                let ms = i64::try_from(by.as_millis()).expect("short");
                clock.0.fetch_add(ms, Ordering::Relaxed);
            }
            None => tokio::time::sleep(by).await,
        }
    }

    pub(super) async fn emit_to(
        &self,
        ids: &IdGenerator,
        subscription: SubscriptionId,
        ordering_key: Option<&str>,
    ) -> DeliveryId {
        let (announcement, request) = self.write(ids, subscription, ordering_key).await;
        announcement.make(request.epoch);
        request.deliveries[0].id
    }

    /// Accepts one, and goes away before the answer.
    pub(super) async fn emit_unheard(
        &self,
        ids: &IdGenerator,
        subscription: SubscriptionId,
    ) -> DeliveryId {
        let (announcement, request) = self.write(ids, subscription, None).await;
        drop(announcement);
        request.deliveries[0].id
    }

    async fn write(
        &self,
        ids: &IdGenerator,
        subscription: SubscriptionId,
        ordering_key: Option<&str>,
    ) -> (Announcement<'_>, AcceptRequest) {
        let now = self.clock.now();
        let event = Event {
            id: ids.next(now, || 1),
            event_type: EventTypeName::parse("a.b").expect("name"),
            payload: "{}".into(),
            occurred_at: now,
            received_at: now,
            correlation_key: None,
            system_ids: Vec::new(),
            trace: None,
        };
        let mut deliveries = vec![NewDelivery {
            id: ids.next(now, || 1),
            event_id: event.id,
            subscription_id: subscription,
            provider: ProviderId::parse("webhook").expect("id"),
            ordering_key: ordering_key.map(Arc::from),
            lease: None,
        }];
        let events = vec![Arc::new(event)];
        let announcement = Announcement::new(&*self.queue, &events, &mut deliveries, now);
        let request = AcceptRequest {
            events,
            deliveries,
            idempotency: None,
            epoch: self.store.epoch().await.expect("epoch"),
            at: now,
            queued_for: announcement.queued_for(),
        };
        self.store.accept(request.clone()).await.expect("accepts");
        (announcement, request)
    }

    /// A delivery of a new subscription, which is on record: without it, what is not at its end is
    /// cancelled.
    pub(crate) async fn emit(&self, ids: &IdGenerator) -> SubscriptionId {
        let subscription = ids.next(self.clock.now(), || 1);
        put_subscription(self, subscription).await;
        self.emit_to(ids, subscription, None).await;
        subscription
    }

    pub(crate) async fn settle(&self, leased: &LeasedDelivery, transition: Transition) {
        let result = LeaseResult {
            id: leased.id,
            token: leased.token,
            attempt: None,
            transition,
            job: leased.job,
            at: self.clock.now(),
            entry: None,
        };
        self.queue.settle(result).await.expect("settles");
    }

    async fn succeed(&self, leased: &LeasedDelivery) {
        let success = Transition::Success { external_id: None };
        self.settle(leased, success).await;
    }

    async fn retry_in(&self, leased: &LeasedDelivery, delay: Duration) -> Timestamp {
        let due = self.clock.now().plus(delay);
        self.settle(leased, Transition::RetryAt(due)).await;
        due
    }

    /// The next batch, waited for.
    pub(crate) async fn next(&self) -> Vec<LeasedDelivery> {
        self.next_with(&any).await
    }

    pub(super) async fn next_with(&self, room: &(dyn Fn() -> Room + Sync)) -> Vec<LeasedDelivery> {
        let batch = tokio::time::timeout(PATIENCE, self.queue.next(10, room)).await;
        batch.expect("in time").expect("works").leased
    }

    /// Exactly `count`, in as many batches as it takes.
    pub(crate) async fn take(&self, count: usize) -> Vec<LeasedDelivery> {
        let mut leased = Vec::new();
        while leased.len() < count {
            leased.extend(self.next().await);
        }
        assert_eq!(leased.len(), count);
        leased
    }

    pub(crate) async fn nothing_comes(&self, room: &(dyn Fn() -> Room + Sync)) -> bool {
        tokio::time::timeout(MOMENT, self.queue.next(10, room))
            .await
            .is_err()
    }
}

pub(crate) async fn work_comes_once_and_wakes_a_waiter(parts: &Parts) {
    let ids = IdGenerator::default();
    assert!(parts.nothing_comes(&any).await);
    let (leased, _) = tokio::join!(parts.next(), async {
        tokio::time::sleep(MOMENT).await;
        parts.emit(&ids).await
    });
    assert_eq!(leased.len(), 1);
    assert!(parts.nothing_comes(&any).await, "it is leased");
}

pub(crate) async fn what_was_there_before_the_queue_is_found(parts: &Parts) {
    parts.emit(&IdGenerator::default()).await;
    assert_eq!(parts.next().await.len(), 1);
}

pub(crate) async fn a_settled_retry_comes_when_it_is_due(parts: &Parts) {
    parts.emit(&IdGenerator::default()).await;
    let leased = parts.take(1).await.remove(0);
    let due = parts.retry_in(&leased, Duration::from_millis(3_700)).await;
    assert!(parts.nothing_comes(&any).await);
    parts.pass(Duration::from_millis(3_700)).await;
    assert_eq!(parts.take(1).await[0].id, leased.id);
    assert!(parts.clock.now() >= due, "not before its time");
}

pub(crate) async fn a_short_retry_does_not_wait_behind_a_long_one(parts: &Parts) {
    let ids = IdGenerator::default();
    parts.emit(&ids).await;
    parts.emit(&ids).await;
    let both = parts.take(2).await;
    parts.retry_in(&both[0], Duration::from_secs(3_600)).await;
    parts.retry_in(&both[1], Duration::from_millis(2_100)).await;
    parts.pass(Duration::from_millis(2_100)).await;
    assert_eq!(parts.take(1).await[0].id, both[1].id);
    assert!(parts.nothing_comes(&any).await);
}

pub(crate) async fn what_has_ended_does_not_come_again(parts: &Parts) {
    let ids = IdGenerator::default();
    parts.emit(&ids).await;
    parts.emit(&ids).await;
    let both = parts.take(2).await;
    parts.succeed(&both[0]).await;
    parts.settle(&both[1], Transition::Failed).await;
    parts.pass(LEASE + Duration::from_secs(2)).await;
    assert!(parts.nothing_comes(&any).await);
}

pub(crate) async fn a_lapsed_lease_comes_back(parts: &Parts) {
    parts.emit(&IdGenerator::default()).await;
    let first = parts.next().await.remove(0);
    parts.pass(LEASE).await;
    let second = parts.next().await.remove(0);
    assert_eq!(second.id, first.id);
    assert!(second.token > first.token);
}

pub(crate) async fn two_processes_never_have_the_same_lease(parts: &Parts) {
    let ids = IdGenerator::default();
    for _ in 0..40 {
        parts.emit(&ids).await;
    }
    let taking = |queue: Arc<dyn Queue>| async move {
        let mut leased = Vec::new();
        // Until nothing comes for a while.
        while let Ok(batch) = tokio::time::timeout(MOMENT * 5, queue.next(3, &any)).await {
            let Batch { leased: some, .. } = batch.expect("works");
            leased.extend(some.into_iter().map(|leased| leased.id));
        }
        leased
    };
    let (mut mine, other) = tokio::join!(taking(parts.queue.clone()), taking((parts.other)()));
    mine.extend(other);
    mine.sort_unstable();
    let count = mine.len();
    mine.dedup();
    assert_eq!((mine.len(), count), (40, 40));
}

pub(crate) async fn an_ordering_key_lets_one_go_at_a_time(parts: &Parts) {
    let ids = IdGenerator::default();
    let subscription = ids.next(parts.clock.now(), || 1);
    put_subscription(parts, subscription).await;
    for _ in 0..3 {
        parts.emit_to(&ids, subscription, Some("key")).await;
    }
    let mut last = None;
    for _ in 0..3 {
        let leased = parts.take(1).await.remove(0);
        assert!(last < Some(leased.id), "in the order of acceptance");
        assert!(parts.nothing_comes(&any).await, "the next one waits");
        parts.succeed(&leased).await;
        parts.queue.wake(parts.clock.now());
        last = Some(leased.id);
    }
    assert!(parts.nothing_comes(&any).await);
}

pub(crate) async fn an_excluded_subscription_does_not_hold_up_others(parts: &Parts) {
    let ids = IdGenerator::default();
    let full = parts.emit(&ids).await;
    let other = parts.emit(&ids).await;
    let leased = parts.next_with(&move || capped(full, 0)).await;
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].subscription_id, other);
    // Room again, and a wake-up: the rest comes without waiting for an idle look.
    parts.queue.wake(parts.clock.now());
    assert_eq!(parts.next().await[0].subscription_id, full);
}

pub(crate) async fn a_cap_is_kept_and_the_rest_comes_when_there_is_room(parts: &Parts) {
    let ids = IdGenerator::default();
    let subscription = parts.emit(&ids).await;
    for _ in 0..5 {
        parts.emit_to(&ids, subscription, None).await;
    }
    let mut all = parts.next_with(&move || capped(subscription, 1)).await;
    assert_eq!(all.len(), 1);
    assert!(parts.nothing_comes(&move || capped(subscription, 0)).await);
    parts.queue.wake(parts.clock.now());
    all.extend(parts.take(5).await);
    all.sort_unstable_by_key(|leased| leased.id);
    all.dedup_by_key(|leased| leased.id);
    assert_eq!(all.len(), 6);
}

pub(super) async fn put_subscription(parts: &Parts, id: SubscriptionId) {
    use crate::domain::event::EventPattern;
    use crate::domain::subscription::{Flow, SealedDocument, Subscription};
    let now = parts.clock.now();
    let subscription = Subscription {
        id,
        name: "S".to_owned(),
        events: EventPattern::parse("*").expect("pattern"),
        provider: ProviderId::parse("webhook").expect("id"),
        config: SealedDocument {
            version: 1,
            json: serde_json::json!({}),
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
        flow: Flow::default(),
        created_at: now,
        updated_at: now,
    };
    parts
        .store
        .put_subscription(subscription)
        .await
        .expect("put");
}
