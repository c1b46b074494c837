//! Subscriptions that are held back, and the others beside them.

use super::*;
use crate::domain::circuit::OpenCircuit;

/// More than any back end looks at before it goes by subscription.
const BACKLOG: usize = 3_000;

impl Fixture {
    fn capped(&self, limit: usize, caps: Caps) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker,
            now: T0,
            lease_until: T0.plus(LEASE),
            limit,
            caps,
        }
    }

    /// A subscription with so many deliveries of one event.
    async fn with_backlog(&self, store: &dyn Store, deliveries: usize) -> SubscriptionId {
        let subscription = self.subscription(T0);
        let id = subscription.id;
        store.put_subscription(subscription).await.expect("put");
        let event = self.event("a.b", T0);
        let deliveries = (0..deliveries).map(|_| self.delivery(id, &event)).collect();
        let request = request(store, vec![event], deliveries, T0).await;
        assert_eq!(store.accept(request).await.expect("accepts"), Accepted::New);
        id
    }
}

pub(crate) async fn a_claim_passes_over_subscriptions_without_room(store: &dyn Store) {
    let fixture = Fixture::new();
    let (full, _) = fixture.one(store).await;
    let (_, other) = fixture.one(store).await;
    let claim = store.claim(fixture.capped(10, [(full.id, 0)].into())).await;
    let claim = claim.expect("claims");
    assert_eq!(claim.leased.len(), 1);
    assert_eq!(claim.leased[0].id, other.id);
    assert!(claim.held_back, "what was passed over is still due");
    assert_eq!(claim.next_due, Some(T0.plus(LEASE)), "and nothing else is");
    let claim = store.claim(fixture.capped(10, Caps::new())).await;
    let claim = claim.expect("claims");
    assert_eq!(claim.leased.len(), 1);
    assert!(!claim.held_back);
}

pub(crate) async fn a_claim_takes_no_more_than_the_cap(store: &dyn Store) {
    let fixture = Fixture::new();
    let slow = fixture.with_backlog(store, 20).await;
    let other = fixture.with_backlog(store, 5).await;
    let take = async |caps: Caps| {
        let claim = store.claim(fixture.capped(10, caps)).await.expect("claims");
        let of = |id| {
            let leased = claim.leased.iter();
            leased.filter(|leased| leased.subscription_id == id).count()
        };
        (of(slow), of(other), claim.next_due)
    };
    // The oldest ten are all of the slow one: what is beyond its cap leaves room for a next look.
    let (first, _, more) = take([(slow, 3)].into()).await;
    assert_eq!((first, more), (3, Some(T0)));
    assert_eq!(take([(slow, 0)].into()).await, (0, 5, Some(T0.plus(LEASE))));
    assert_eq!(take(Caps::new()).await, (10, 0, Some(T0)));
}

pub(crate) async fn a_long_backlog_held_back_does_not_hide_others(store: &dyn Store) {
    let fixture = Fixture::new();
    let held = fixture.with_backlog(store, BACKLOG).await;
    let slow = fixture.with_backlog(store, 40).await;
    let mut others = Vec::new();
    for _ in 0..70 {
        others.push(fixture.with_backlog(store, 2).await);
    }
    let mut taken: std::collections::HashMap<SubscriptionId, Vec<usize>> = Default::default();
    for round in 0..40 {
        let caps = [(held, 0), (slow, 1)].into();
        let claim = store.claim(fixture.capped(10, caps)).await.expect("claims");
        assert!(claim.leased.len() <= 10);
        let of_slow = claim.leased.iter();
        let of_slow = of_slow
            .filter(|leased| leased.subscription_id == slow)
            .count();
        assert!(of_slow <= 1, "{of_slow}");
        assert!(claim.held_back);
        for leased in claim.leased {
            taken.entry(leased.subscription_id).or_default().push(round);
        }
    }
    assert!(!taken.contains_key(&held));
    assert!(taken[&slow].len() > 1, "it has its turn again");
    for other in &others {
        assert_eq!(taken.get(other).map(Vec::len), Some(2), "{taken:?}");
    }
    // With room again, all of it comes.
    let claim = store.claim(fixture.capped(5_000, Caps::new())).await;
    let leased = claim.expect("claims").leased;
    let came = leased
        .iter()
        .filter(|leased| leased.subscription_id == held);
    assert_eq!(came.count(), BACKLOG);
}

pub(crate) async fn order_holds_beside_a_long_backlog(store: &dyn Store) {
    let fixture = Fixture::new();
    let held = fixture.with_backlog(store, BACKLOG).await;
    let subscription = fixture.subscription(T0);
    let id = subscription.id;
    store.put_subscription(subscription).await.expect("put");
    let mut emitted = Vec::new();
    for key in ["x", "x", "y"] {
        let event = fixture.event("a.b", T0);
        emitted.push(fixture.emit(store, id, event, Some(key)).await.id);
    }
    let claim = store.claim(fixture.capped(10, [(held, 0)].into())).await;
    let leased: Vec<_> = claim.expect("claims").leased;
    let ids: Vec<_> = leased.iter().map(|leased| leased.id).collect();
    assert_eq!(ids, [emitted[0], emitted[2]]);
    store.record(success(&leased[0])).await.expect("records");
    let claim = store.claim(fixture.capped(10, [(held, 0)].into())).await;
    assert_eq!(claim.expect("claims").leased[0].id, emitted[1]);
}

pub(crate) async fn an_attempt_of_a_parked_delivery_is_logged_and_not_counted(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    let probe = failure(&leased, Transition::Parked);
    store.record(probe).await.expect("records");
    let waiting = store.delivery(delivery.id).await.expect("read");
    let waiting = waiting.expect("there");
    assert_eq!((waiting.attempts, waiting.due_at), (0, Some(T0)));
    assert_eq!(waiting.state, DeliveryState::Retrying);
    assert_eq!(waiting.last_error.as_deref(), Some("provider_error"));
    let leased = fixture.claim_one(store, T0).await;
    assert_eq!(leased.attempt, 1);
    store.record(success(&leased)).await.expect("records");
    let log = store.attempts(delivery.id).await.expect("read");
    let numbers: Vec<u32> = log.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2]);
}

pub(crate) async fn what_the_filter_does_not_want_is_at_its_end(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    let id = subscription.id;
    store.put_subscription(subscription).await.expect("put");
    let event = fixture.event("a.b", T0);
    let delivery = fixture.delivery(id, &event);
    let accepted = request(store, vec![event], vec![delivery.clone()], T0).await;
    store.accept(accepted).await.expect("accepts");
    let leased = fixture.claim_one(store, T0).await;
    let filtered = LeaseResult {
        attempt: None,
        transition: Transition::Filtered,
        ..success(&leased)
    };
    store.record(filtered).await.expect("records");
    assert_eq!(state(store, &delivery).await, DeliveryState::Filtered);
    assert!(fixture.claim(store, T0.plus(LEASE), 10).await.is_empty());
    let (_, other) = fixture.one(store).await;
    assert_eq!(fixture.claim_one(store, T0).await.id, other.id);
}

pub(crate) async fn open_circuits_stay_until_they_close_or_something_changes(store: &dyn Store) {
    let fixture = Fixture::new();
    let connection = super::catalog::connection(fixture.id(T0));
    store.put_connection(connection.clone()).await.expect("put");
    let subscription = Subscription {
        connection: Some(connection.id),
        ..fixture.subscription(T0)
    };
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let open = OpenCircuit {
        subscription: subscription.id,
        since: T0,
        reason: "down".to_owned(),
        probes: 0,
        next_probe_at: T0.plus(LEASE),
    };
    let epoch = store.epoch().await.expect("reads");
    let circuits = async || store.circuits().await.expect("reads");
    store.put_circuit(open.clone()).await.expect("put");
    let later = OpenCircuit {
        probes: 2,
        reason: "still down".to_owned(),
        ..open.clone()
    };
    store.put_circuit(later.clone()).await.expect("put");
    assert_eq!(circuits().await, [later]);
    assert_eq!(
        store.epoch().await.expect("reads"),
        epoch,
        "no configuration"
    );
    store
        .delete_circuit(subscription.id)
        .await
        .expect("deletes");
    assert!(circuits().await.is_empty());

    store.put_circuit(open.clone()).await.expect("put");
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    assert!(circuits().await.is_empty(), "the subscription was changed");
    store.put_circuit(open.clone()).await.expect("put");
    store.put_connection(connection).await.expect("put");
    assert!(circuits().await.is_empty(), "its connection was changed");
    store.put_circuit(open.clone()).await.expect("put");
    let deleted = store.delete_subscription(subscription.id, T0).await;
    assert!(deleted.expect("deletes"));
    assert!(circuits().await.is_empty(), "it was deleted");
    store.put_circuit(open).await.expect("does nothing");
    assert!(circuits().await.is_empty());
}
