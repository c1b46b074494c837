//! Leases and results: exclusive, fenced, counted when recorded, ordered, cancelled, parked.

use super::*;

pub(crate) async fn a_claim_takes_the_oldest_up_to_its_limit(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let mut emitted = Vec::new();
    for ms in 0..5 {
        let at = Timestamp(T0.0 + ms);
        emitted.push(
            fixture
                .emit(store, subscription.id, fixture.event("a.b", at), None)
                .await
                .id,
        );
    }
    assert!(
        fixture
            .claim(store, Timestamp(T0.0 - 1), 10)
            .await
            .is_empty(),
        "nothing is due yet"
    );
    let now = Timestamp(T0.0 + 10);
    let taken: Vec<_> = fixture
        .claim(store, now, 3)
        .await
        .into_iter()
        .map(|leased| leased.id)
        .collect();
    assert_eq!(taken, emitted[..3]);
    let rest: Vec<_> = fixture
        .claim(store, now, 3)
        .await
        .into_iter()
        .map(|leased| leased.id)
        .collect();
    assert_eq!(rest, emitted[3..]);
}

pub(crate) async fn the_oldest_that_is_due_says_how_long_work_waits(store: &dyn Store) {
    let fixture = Fixture::new();
    assert_eq!(store.oldest_due().await.expect("looks"), None);
    fixture.one(store).await;
    assert_eq!(store.oldest_due().await.expect("looks"), Some(T0));
    let leased = fixture.claim_one(store, T0).await;
    let ends = T0.plus(LEASE);
    assert_eq!(store.oldest_due().await.expect("looks"), Some(ends));
    store.record(success(&leased)).await.expect("records");
    assert_eq!(store.oldest_due().await.expect("looks"), None);
}

pub(crate) async fn a_lease_is_exclusive_until_it_ends(store: &dyn Store) {
    let fixture = Fixture::new();
    fixture.one(store).await;
    let first = fixture.claim_one(store, T0).await;
    assert!(
        fixture
            .claim(store, T0.plus(LEASE - Duration::from_millis(1)), 10)
            .await
            .is_empty()
    );
    let second = fixture.claim_one(store, T0.plus(LEASE)).await;
    assert!(second.token > first.token);
    assert_eq!(second.attempt, 1, "a lost lease costs no attempt");
}

pub(crate) async fn a_result_under_a_lost_lease_is_refused(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let first = fixture.claim_one(store, T0).await;
    let second = fixture.claim_one(store, T0.plus(LEASE)).await;
    assert_eq!(
        store.record(success(&first)).await.expect("answers"),
        Recorded::LeaseLost
    );
    assert_eq!(state(store, &delivery).await, DeliveryState::InFlight);
    assert!(store.attempts(delivery.id).await.expect("read").is_empty());
    assert_eq!(
        store.record(success(&second)).await.expect("answers"),
        Recorded::Written
    );
    assert_eq!(
        store.record(success(&second)).await.expect("answers"),
        Recorded::LeaseLost,
        "once only"
    );
    assert_eq!(store.attempts(delivery.id).await.expect("read").len(), 1);
}

pub(crate) async fn attempts_are_counted_when_recorded(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    for expected in 1..=3 {
        let leased = fixture.claim_one(store, T0).await;
        assert_eq!(leased.attempt, expected);
        store
            .record(failure(&leased, Transition::RetryAt(T0)))
            .await
            .expect("records");
    }
    let leased = fixture.claim_one(store, T0).await;
    store
        .record(failure(&leased, Transition::Failed))
        .await
        .expect("records");
    let failed = store
        .delivery(delivery.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!((failed.state, failed.attempts), (DeliveryState::Failed, 4));
    assert_eq!(failed.last_error.as_deref(), Some("provider_error"));
    let numbers: Vec<u32> = store
        .attempts(delivery.id)
        .await
        .expect("read")
        .iter()
        .map(|attempt| attempt.number)
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

pub(crate) async fn what_a_worker_does_not_know_that_it_holds_goes_back(store: &dyn Store) {
    let fixture = Fixture::new();
    fixture.one(store).await;
    fixture.one(store).await;
    let leased = fixture.claim(store, T0, 10).await;
    assert_eq!(leased.len(), 2);
    let other: WorkerId = fixture.id(T0);
    let held = vec![leased[0].id];
    assert_eq!(
        store
            .release_unheld(other, Vec::new(), T0)
            .await
            .expect("releases"),
        0
    );
    let released = store.release_unheld(fixture.worker, held.clone(), T0).await;
    assert_eq!(released.expect("releases"), 1);
    let again = fixture.claim(store, T0, 10).await;
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].id, again[0].attempt), (leased[1].id, 1));
    let all = store.release_unheld(fixture.worker, Vec::new(), T0).await;
    assert_eq!(all.expect("releases"), 2);
}

pub(crate) async fn a_released_lease_costs_no_attempt(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    store
        .release(vec![(leased.id, leased.token)], T0)
        .await
        .expect("releases");
    assert_eq!(state(store, &delivery).await, DeliveryState::Pending);
    let again = fixture.claim_one(store, T0).await;
    assert_eq!(again.attempt, 1);
    store
        .release(vec![(leased.id, leased.token)], T0)
        .await
        .expect("an old token does nothing");
    assert_eq!(state(store, &delivery).await, DeliveryState::InFlight);
}

pub(crate) async fn all_leases_can_be_ended_at_once(store: &dyn Store) {
    let fixture = Fixture::new();
    fixture.one(store).await;
    fixture.one(store).await;
    assert_eq!(fixture.claim(store, T0, 10).await.len(), 2);
    assert_eq!(store.release_all(T0).await.expect("releases"), 2);
    assert_eq!(fixture.claim(store, T0, 10).await.len(), 2);
}

pub(crate) async fn a_retry_waits_until_it_is_due(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    let due = T0.plus(Duration::from_secs(5));
    store
        .record(failure(&leased, Transition::RetryAt(due)))
        .await
        .expect("records");
    assert_eq!(state(store, &delivery).await, DeliveryState::Retrying);
    let early = ClaimRequest {
        worker: fixture.worker,
        now: T0,
        lease_until: T0,
        limit: 10,
        caps: Caps::new(),
    };
    let claim = store.claim(early).await.expect("claims");
    assert!(claim.leased.is_empty());
    assert_eq!(claim.next_due, Some(due));
    assert_eq!(fixture.claim_one(store, due).await.attempt, 2);
}

pub(crate) async fn an_ordering_key_holds_back_later_deliveries_of_its_own_only(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let mut emit = Vec::new();
    for key in ["x", "x", "y"] {
        emit.push(
            fixture
                .emit(store, subscription.id, fixture.event("a.b", T0), Some(key))
                .await
                .id,
        );
    }
    let [x1, x2, y1] = emit[..] else {
        unreachable!()
    };
    let first = fixture.claim(store, T0, 10).await;
    assert_eq!(
        first.iter().map(|leased| leased.id).collect::<Vec<_>>(),
        [x1, y1]
    );
    let later = T0.plus(Duration::from_secs(1));
    store
        .record(failure(&first[0], Transition::RetryAt(later)))
        .await
        .expect("records");
    assert!(
        fixture.claim(store, T0, 10).await.is_empty(),
        "a retry holds back too"
    );
    let again = fixture.claim_one(store, later).await;
    store.record(success(&again)).await.expect("records");
    assert_eq!(fixture.claim_one(store, later).await.id, x2);
}

pub(crate) async fn an_external_id_comes_back_for_its_correlation_key(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    let other = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    store.put_subscription(other.clone()).await.expect("put");
    let event = |key: &str| Event {
        correlation_key: Some(key.into()),
        ..fixture.event("a.b", T0)
    };
    fixture
        .emit(store, subscription.id, event("inc-1"), None)
        .await;
    let first = fixture.claim_one(store, T0).await;
    assert_eq!(first.external_id, None);
    let external_id = Some("T-1".to_owned());
    store
        .record(result(
            &first,
            Outcome::Success,
            Transition::Success {
                external_id: external_id.clone(),
            },
        ))
        .await
        .expect("records");
    fixture
        .emit(store, subscription.id, event("inc-1"), None)
        .await;
    let follow_up = fixture.claim_one(store, T0).await;
    assert_eq!(follow_up.external_id, external_id);
    store.record(success(&follow_up)).await.expect("records");
    for (id, key) in [(subscription.id, "inc-2"), (other.id, "inc-1")] {
        fixture.emit(store, id, event(key), None).await;
        let leased = fixture.claim_one(store, T0).await;
        assert_eq!(leased.external_id, None, "{id} {key}");
        store.record(success(&leased)).await.expect("records");
    }
    let shown = store
        .delivery(first.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(shown.external_id, external_id);
}

pub(crate) async fn a_manual_retry_begins_a_new_round(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    let refused = store.retry(delivery.id, T0).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    store
        .record(failure(&leased, Transition::Failed))
        .await
        .expect("records");
    let again = store
        .retry(delivery.id, T0)
        .await
        .expect("retries")
        .expect("there");
    assert_eq!((again.state, again.attempts), (DeliveryState::Pending, 0));
    let leased = fixture.claim_one(store, T0).await;
    assert_eq!(leased.attempt, 1);
    store.record(success(&leased)).await.expect("records");
    let numbers: Vec<u32> = store
        .attempts(delivery.id)
        .await
        .expect("read")
        .iter()
        .map(|attempt| attempt.number)
        .collect();
    assert_eq!(numbers, [1, 2], "the log goes on");
    let unknown = fixture.id(T0);
    assert!(store.retry(unknown, T0).await.expect("answers").is_none());
}

pub(crate) async fn switching_off_cancels_what_is_queued_and_what_fails_in_flight(
    store: &dyn Store,
) {
    let fixture = Fixture::new();
    let (mut subscription, in_flight) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    let queued = fixture
        .emit(store, subscription.id, fixture.event("a.b", T0), None)
        .await;
    subscription.enabled = false;
    store.put_subscription(subscription).await.expect("put");
    assert_eq!(state(store, &queued).await, DeliveryState::Cancelled);
    assert_eq!(state(store, &in_flight).await, DeliveryState::InFlight);
    store
        .record(failure(&leased, Transition::RetryAt(T0)))
        .await
        .expect("records");
    assert_eq!(state(store, &in_flight).await, DeliveryState::Cancelled);
    assert_eq!(
        store.attempts(in_flight.id).await.expect("read").len(),
        1,
        "the attempt was made"
    );
    assert!(fixture.claim(store, T0.plus(LEASE), 10).await.is_empty());
}

pub(crate) async fn pausing_parks_and_resuming_makes_due(store: &dyn Store) {
    let fixture = Fixture::new();
    let (mut subscription, delivery) = fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    subscription.paused = true;
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let parked = LeaseResult {
        attempt: None,
        transition: Transition::Parked,
        ..success(&leased)
    };
    store.record(parked).await.expect("records");
    let waiting = store
        .delivery(delivery.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!((waiting.due_at, waiting.attempts), (None, 0));
    assert!(
        fixture
            .claim(store, T0.plus(LEASE * 9), 10)
            .await
            .is_empty()
    );
    subscription.paused = false;
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let leased = fixture.claim_one(store, T0).await;
    // Parked by a worker that has not heard of the resumption: due at once.
    let parked = LeaseResult {
        attempt: None,
        transition: Transition::Parked,
        ..success(&leased)
    };
    store.record(parked).await.expect("records");
    assert_eq!(fixture.claim_one(store, T0).await.attempt, 1);
}

pub(crate) async fn a_deleted_subscription_cancels_what_is_queued(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, delivery) = fixture.one(store).await;
    assert!(
        store
            .delete_subscription(subscription.id, T0)
            .await
            .expect("deletes")
    );
    assert!(
        !store
            .delete_subscription(subscription.id, T0)
            .await
            .expect("answers")
    );
    assert_eq!(state(store, &delivery).await, DeliveryState::Cancelled);
}
