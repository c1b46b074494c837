//! What every queue must do: plain functions over a queue and the store behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::{Queue, Room};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{LeaseResult, Transition};
use crate::domain::event::{Event, EventTypeName};
use crate::domain::id::{IdGenerator, SubscriptionId};
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

    fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).expect("short");
        self.0.fetch_add(ms, Ordering::Relaxed);
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
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
}

/// Longer than any queue takes to notice something.
const PATIENCE: Duration = Duration::from_secs(10);
/// Shorter than that, long enough for a queue that does not wait.
const MOMENT: Duration = Duration::from_millis(50);

fn any() -> Room {
    Room::default()
}

async fn emit(parts: &Parts, ids: &IdGenerator) -> SubscriptionId {
    let now = parts.clock.now();
    let subscription: SubscriptionId = ids.next(now, || 1);
    let event = Event {
        id: ids.next(now, || 1),
        event_type: EventTypeName::parse("a.b").expect("name"),
        payload: "{}".into(),
        occurred_at: now,
        received_at: now,
        correlation_key: None,
        system_ids: Vec::new(),
    };
    let delivery = crate::domain::delivery::NewDelivery {
        id: ids.next(now, || 1),
        event_id: event.id,
        subscription_id: subscription,
        provider: ProviderId::parse("webhook").expect("id"),
        ordering_key: None,
    };
    let request = AcceptRequest {
        events: vec![Arc::new(event)],
        deliveries: vec![delivery],
        idempotency: None,
        epoch: parts.store.epoch().await.expect("epoch"),
        at: now,
    };
    parts.store.accept(request).await.expect("accepts");
    parts.queue.wake(now);
    subscription
}

async fn next(parts: &Parts) -> Vec<crate::domain::delivery::LeasedDelivery> {
    let batch = tokio::time::timeout(PATIENCE, parts.queue.next(10, &any)).await;
    batch.expect("in time").expect("works").leased
}

async fn nothing_comes(parts: &Parts) -> bool {
    tokio::time::timeout(MOMENT, parts.queue.next(10, &any))
        .await
        .is_err()
}

pub(crate) async fn work_comes_once_and_wakes_a_waiter(parts: &Parts) {
    let ids = IdGenerator::default();
    assert!(nothing_comes(parts).await);
    let (leased, _) = tokio::join!(next(parts), async {
        tokio::time::sleep(MOMENT).await;
        emit(parts, &ids).await
    });
    assert_eq!(leased.len(), 1);
    assert!(nothing_comes(parts).await, "it is leased");
}

pub(crate) async fn what_was_there_before_the_queue_is_found(parts: &Parts) {
    emit(parts, &IdGenerator::default()).await;
    assert_eq!(next(parts).await.len(), 1);
}

pub(crate) async fn a_settled_retry_comes_when_it_is_due(parts: &Parts) {
    emit(parts, &IdGenerator::default()).await;
    let leased = next(parts).await.remove(0);
    let due = parts.clock.now().plus(Duration::from_secs(60));
    let result = LeaseResult {
        id: leased.id,
        token: leased.token,
        attempt: None,
        transition: Transition::RetryAt(due),
        at: parts.clock.now(),
    };
    // Without a subscription the delivery would be cancelled.
    put_subscription(parts, leased.subscription_id).await;
    parts.queue.settle(result).await.expect("settles");
    assert!(nothing_comes(parts).await);
    parts.clock.advance(Duration::from_secs(60));
    assert_eq!(next(parts).await[0].id, leased.id);
}

pub(crate) async fn a_lapsed_lease_comes_back(parts: &Parts) {
    emit(parts, &IdGenerator::default()).await;
    let first = next(parts).await.remove(0);
    parts.clock.advance(Duration::from_secs(3_600));
    let second = next(parts).await.remove(0);
    assert_eq!(second.id, first.id);
    assert!(second.token > first.token);
}

pub(crate) async fn an_excluded_subscription_does_not_hold_up_others(parts: &Parts) {
    let ids = IdGenerator::default();
    let full = emit(parts, &ids).await;
    let other = emit(parts, &ids).await;
    let room = move || Room {
        caps: vec![(full, 0)],
        more_at: None,
    };
    let batch = tokio::time::timeout(PATIENCE, parts.queue.next(10, &room)).await;
    let leased = batch.expect("in time").expect("works").leased;
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].subscription_id, other);
    // Room again, and a wake-up: the rest comes without waiting for an idle look.
    parts.queue.wake(parts.clock.now());
    assert_eq!(next(parts).await[0].subscription_id, full);
}

async fn put_subscription(parts: &Parts, id: SubscriptionId) {
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
