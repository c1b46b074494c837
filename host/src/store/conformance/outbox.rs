//! What a broker is told of: of the stores that take one.

use super::*;
use crate::domain::id::DeliveryId;
use crate::store::{OutboxStore, Sweep, Traffic};

/// What each case works with.
struct Told<'a> {
    fixture: Fixture,
    store: &'a dyn Store,
    outbox: Arc<dyn OutboxStore>,
    subscription: Subscription,
}

impl<'a> Told<'a> {
    async fn new(store: &'a Arc<dyn Store>) -> Self {
        let fixture = Fixture::new();
        let subscription = fixture.subscription(T0);
        let put = store.put_subscription(subscription.clone());
        put.await.expect("put");
        Self {
            fixture,
            outbox: store.clone().outbox().expect("takes a broker"),
            store: &**store,
            subscription,
        }
    }

    /// Accepts a delivery whose message comes out at `queued_for`.
    async fn accept(&self, queued_for: Timestamp, key: Option<&str>) -> DeliveryId {
        let event = self.fixture.event("a.b", T0);
        let delivery = NewDelivery {
            ordering_key: key.map(Arc::from),
            ..self.fixture.delivery(self.subscription.id, &event)
        };
        let id = delivery.id;
        let mut request = request(self.store, vec![event], vec![delivery], T0).await;
        request.queued_for = Some(queued_for);
        let accepted = self.store.accept(request).await.expect("accepts");
        assert_eq!(accepted, Accepted::New);
        id
    }

    async fn claim_of(&self, now: Timestamp, ids: &[DeliveryId]) -> Claim {
        let request = ClaimRequest {
            worker: self.fixture.worker,
            now,
            lease_until: now.plus(LEASE),
            limit: 0,
            caps: Caps::new(),
        };
        let claim = self.outbox.claim_of(request, ids.to_vec()).await;
        claim.expect("claims")
    }

    /// What the broker should have told of before `before`.
    async fn missing(&self, before: Timestamp) -> Vec<(DeliveryId, Timestamp)> {
        let sweep = Sweep {
            traffic: Traffic::Live,
            before,
            now: before,
            limit: 10,
        };
        let found = self.outbox.sweep(sweep).await.expect("sweeps");
        found.iter().map(|found| (found.id, found.due)).collect()
    }
}

fn after(ms: i64) -> Timestamp {
    Timestamp(T0.0 + ms)
}

pub(crate) async fn what_a_broker_holds_is_claimed_by_name_alone(store: &Arc<dyn Store>) {
    let told = Told::new(store).await;
    let id = told.accept(T0, None).await;
    let other = told.accept(T0, None).await;
    assert!(told.fixture.claim(store.as_ref(), T0, 10).await.is_empty());
    assert_eq!(store.backlog(10).await.expect("counts"), 2);
    let claim = told.claim_of(T0, &[id, id, told.fixture.id(T0)]).await;
    assert_eq!(claim.leased.len(), 1);
    assert_eq!((claim.leased[0].id, claim.held_back), (id, false));
    let again = told.claim_of(T0, &[id, other]).await;
    assert_eq!(again.leased[0].id, other, "the first one is leased");
    assert_eq!((again.leased.len(), again.held_back), (1, false));
}

pub(crate) async fn the_sweep_finds_what_did_not_come_once(store: &Arc<dyn Store>) {
    let told = Told::new(store).await;
    let id = told.accept(after(5), None).await;
    told.accept(after(900), None).await;
    assert_eq!(told.missing(after(5)).await, []);
    assert_eq!(told.missing(after(6)).await, [(id, after(6))]);
    assert_eq!(told.missing(after(6)).await, [], "it is published anew");
    // A lease that lapses is missed like a message.
    let leased = told.claim_of(after(7), &[id]).await;
    assert_eq!(leased.leased.len(), 1);
    let lapsed = after(7).plus(LEASE);
    let found = told.missing(Timestamp(lapsed.0 + 1)).await;
    assert!(found.iter().any(|(found, _)| *found == id), "{found:?}");
    let again = told.claim_of(Timestamp(lapsed.0 + 1), &[id]).await;
    assert!(again.leased[0].token > leased.leased[0].token);
}

pub(crate) async fn a_retry_and_what_is_released_stay_the_brokers(store: &Arc<dyn Store>) {
    let told = Told::new(store).await;
    let id = told.accept(T0, None).await;
    let leased = told.claim_of(T0, &[id]).await.leased.remove(0);
    let due = after(500);
    let retry = failure(&leased, Transition::RetryAt(due));
    assert_eq!(
        store.record(retry).await.expect("records"),
        Recorded::Written
    );
    assert!(told.fixture.claim(store.as_ref(), due, 10).await.is_empty());
    assert!(told.claim_of(after(499), &[id]).await.leased.is_empty());
    assert_eq!(told.missing(due).await, []);
    let leased = told.claim_of(due, &[id]).await.leased.remove(0);
    assert_eq!(leased.attempt, 2);
    let released = store.release(vec![(leased.id, leased.token)], due);
    released.await.expect("releases");
    assert_eq!(told.missing(T0).await, [(id, due)], "at once");
    let leased = told.claim_of(due, &[id]).await.leased.remove(0);
    store.record(success(&leased)).await.expect("records");
    assert_eq!(told.missing(FAR).await, [], "it has ended");
}

pub(crate) async fn what_waits_for_its_order_goes_back_to_the_store(store: &Arc<dyn Store>) {
    let told = Told::new(store).await;
    let first = told.accept(T0, Some("key")).await;
    let second = told.accept(T0, Some("key")).await;
    let claim = told.claim_of(T0, &[first, second]).await;
    assert_eq!((claim.leased.len(), claim.held_back), (1, true));
    assert_eq!(told.missing(FAR).await.len(), 1, "only the leased one");
    assert!(told.fixture.claim(store.as_ref(), T0, 10).await.is_empty());
    let first = success(&claim.leased[0]);
    store.record(first).await.expect("records");
    let claimed = told.fixture.claim_one(store.as_ref(), T0).await;
    assert_eq!(claimed.id, second);
}

pub(crate) async fn what_is_taken_back_or_handed_over_is_claimed(store: &Arc<dyn Store>) {
    let told = Told::new(store).await;
    let first = told.accept(T0, None).await;
    let second = told.accept(T0, None).await;
    let third = told.accept(after(900), None).await;
    told.outbox.take_back(vec![first]).await.expect("takes");
    let claimed = told.fixture.claim_one(store.as_ref(), T0).await;
    assert_eq!(claimed.id, first);
    let handed_over = told.outbox.hand_over(after(1), 10).await;
    assert_eq!(handed_over.expect("hands over"), 1);
    let claimed = told.fixture.claim_one(store.as_ref(), T0).await;
    assert_eq!(claimed.id, second);
    let now = after(900);
    assert!(told.fixture.claim(store.as_ref(), now, 10).await.is_empty());
    assert_eq!(told.claim_of(now, &[third]).await.leased.len(), 1);
}
