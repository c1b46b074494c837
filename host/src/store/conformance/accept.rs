//! Accepting: durable, whole, once per idempotency key, on the current catalogue only.

use super::*;

pub(crate) async fn what_was_accepted_is_there_and_claimable(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, delivery) = fixture.one(store).await;
    let event = store
        .event(delivery.event_id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(event.system_ids, ["a"]);
    assert_eq!(state(store, &delivery).await, DeliveryState::Pending);
    let leased = fixture.claim_one(store, T0).await;
    assert_eq!((leased.id, leased.attempt), (delivery.id, 1));
    assert_eq!(leased.subscription_id, subscription.id);
    assert_eq!(*leased.event, event);
    assert_eq!(state(store, &delivery).await, DeliveryState::InFlight);
    assert_eq!(
        store.record(success(&leased)).await.expect("records"),
        Recorded::Written
    );
    let done = store
        .delivery(delivery.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (done.state, done.attempts, done.due_at),
        (DeliveryState::Success, 1, None)
    );
    let log = store.attempts(delivery.id).await.expect("read");
    let expected = Attempt {
        number: 1,
        ..attempt(Outcome::Success, "success")
    };
    assert_eq!(log, [expected]);
    assert!(
        fixture
            .claim(store, T0.plus(LEASE * 2), 10)
            .await
            .is_empty()
    );
}

pub(crate) async fn a_batch_is_accepted_whole(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let events: Vec<Event> = (0..150).map(|_| fixture.event("a.b", T0)).collect();
    let deliveries: Vec<NewDelivery> = events
        .iter()
        .map(|event| fixture.delivery(subscription.id, event))
        .collect();
    let batch = request(store, events, deliveries, T0).await;
    assert_eq!(store.accept(batch).await.expect("accepts"), Accepted::New);
    assert_eq!(store.backlog(1_000).await.expect("counts"), 150);
    assert_eq!(
        store.backlog(100).await.expect("counts"),
        100,
        "counted up to the limit"
    );
    assert_eq!(fixture.claim(store, T0, 1_000).await.len(), 150);
}

pub(crate) async fn a_delivery_may_be_leased_as_it_is_accepted(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    let id = subscription.id;
    store.put_subscription(subscription).await.expect("put");
    let lease = Some(FirstLease {
        worker: fixture.worker,
        until: T0.plus(LEASE),
    });
    let mut deliveries = Vec::new();
    for _ in 0..3 {
        let event = fixture.event("a.b", T0);
        let delivery = NewDelivery {
            lease,
            ..fixture.delivery(id, &event)
        };
        let request = request(store, vec![event], vec![delivery.clone()], T0).await;
        assert_eq!(store.accept(request).await.expect("accepts"), Accepted::New);
        assert_eq!(state(store, &delivery).await, DeliveryState::InFlight);
        deliveries.push(delivery);
    }
    assert!(fixture.claim(store, T0, 10).await.is_empty(), "leased");

    // The first ends, the second is given back as one whose answer was lost, the third lapses.
    let held = vec![deliveries[0].id, deliveries[2].id];
    let released = store.release_unheld(fixture.worker, held, T0).await;
    assert_eq!(released.expect("releases"), 1);
    let again = fixture.claim_one(store, T0).await;
    assert_eq!(again.id, deliveries[1].id);
    assert!(again.token > FencingToken::FIRST);
    let first = |delivery: &NewDelivery| LeaseResult {
        id: delivery.id,
        token: FencingToken::FIRST,
        ..success(&again)
    };
    let recorded = store.record(first(&deliveries[0])).await;
    assert_eq!(recorded.expect("records"), Recorded::Written);
    let stale = store.record(first(&deliveries[1])).await;
    assert_eq!(stale.expect("records"), Recorded::LeaseLost);
    let lapsed = fixture.claim(store, T0.plus(LEASE), 10).await;
    assert!(lapsed.iter().any(|leased| leased.id == deliveries[2].id));
    let log = store.attempts(deliveries[0].id).await.expect("read");
    assert_eq!((log.len(), log[0].number), (1, 1));
}

fn keyed(mut request: AcceptRequest, key: &str, body: u8) -> AcceptRequest {
    request.idempotency = Some(IdempotencyKey {
        scope: "key_1".to_owned(),
        key: key.to_owned(),
        body_hash: [body; 32],
    });
    request
}

pub(crate) async fn an_idempotency_key_gives_the_first_events_again(store: &dyn Store) {
    let fixture = Fixture::new();
    let first = fixture.event("a.b", T0);
    let id = first.id;
    let accept = |event: Event, key: &'static str, body: u8| async move {
        let request = keyed(request(store, vec![event], Vec::new(), T0).await, key, body);
        store.accept(request).await.expect("answers")
    };
    assert_eq!(accept(first, "k", 1).await, Accepted::New);
    assert_eq!(
        accept(fixture.event("a.b", T0), "k", 1).await,
        Accepted::Duplicate(vec![id])
    );
    assert_eq!(
        accept(fixture.event("a.b", T0), "k", 2).await,
        Accepted::KeyReused
    );
    assert_eq!(
        accept(fixture.event("a.b", T0), "other", 2).await,
        Accepted::New
    );
    let listed = store
        .events(&EventFilter::default(), None, 10)
        .await
        .expect("lists");
    assert_eq!(
        listed.items.len(),
        2,
        "a refused event leaves nothing behind"
    );
}

pub(crate) async fn an_idempotency_key_holds_among_fifty_callers_at_once(store: &dyn Store) {
    let fixture = Fixture::new();
    let mut requests = Vec::new();
    for _ in 0..50 {
        let request = request(store, vec![fixture.event("a.b", T0)], Vec::new(), T0).await;
        requests.push(keyed(request, "same", 1));
    }
    let answers =
        futures_util::future::join_all(requests.into_iter().map(|request| store.accept(request)))
            .await;
    let new = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Accepted::New)))
        .count();
    assert_eq!(new, 1, "{answers:?}");
    let ids: Vec<&Vec<EventId>> = answers
        .iter()
        .filter_map(|answer| match answer {
            Ok(Accepted::Duplicate(ids)) => Some(ids),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), 49);
    let listed = store
        .events(&EventFilter::default(), None, 10)
        .await
        .expect("lists");
    assert!(ids.iter().all(|ids| **ids == [listed.items[0].id]) && listed.items.len() == 1);
}

pub(crate) async fn a_stale_catalogue_accepts_nothing(store: &dyn Store) {
    let fixture = Fixture::new();
    let before = request(store, vec![fixture.event("a.b", T0)], Vec::new(), T0).await;
    store
        .put_subscription(fixture.subscription(T0))
        .await
        .expect("put");
    assert_eq!(
        store.accept(before).await.expect("answers"),
        Accepted::StaleCatalog
    );
    assert!(
        store
            .events(&EventFilter::default(), None, 10)
            .await
            .expect("lists")
            .items
            .is_empty()
    );
}
