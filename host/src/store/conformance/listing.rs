//! Listings: filtered before the page is cut, by cursor.

use super::*;

pub(crate) async fn deliveries_are_filtered_before_the_page_is_cut(store: &dyn Store) {
    let fixture = Fixture::new();
    let (wanted, other) = (fixture.subscription(T0), fixture.subscription(T0));
    store.put_subscription(wanted.clone()).await.expect("put");
    store.put_subscription(other.clone()).await.expect("put");
    let mut ids = Vec::new();
    for n in 0..30 {
        let at = Timestamp(T0.0 + n);
        let id = if n % 10 == 0 { wanted.id } else { other.id };
        let name = if n % 2 == 0 { "a.even" } else { "a.odd" };
        let delivery = fixture.emit(store, id, fixture.event(name, at), None).await;
        if id == wanted.id {
            ids.push(delivery.id);
        }
    }
    let filter = DeliveryFilter {
        subscription: Some(wanted.id),
        ..DeliveryFilter::default()
    };
    let page = store.deliveries(&filter, None, 2).await.expect("lists");
    assert!(page.more);
    let first: Vec<_> = page.items.iter().map(|delivery| delivery.id).collect();
    assert_eq!(first, [ids[2], ids[1]], "newest first");
    let page = store
        .deliveries(&filter, Some(ids[1]), 2)
        .await
        .expect("lists");
    assert!(!page.more && page.items.len() == 1 && page.items[0].id == ids[0]);
    let count = |filter: DeliveryFilter| async move {
        store
            .deliveries(&filter, None, 100)
            .await
            .expect("lists")
            .items
            .len()
    };
    let all = DeliveryFilter::default;
    assert_eq!(
        count(DeliveryFilter {
            event_type: Some("a.odd".to_owned()),
            ..all()
        })
        .await,
        15
    );
    assert_eq!(
        count(DeliveryFilter {
            states: vec![DeliveryState::Failed],
            ..all()
        })
        .await,
        0
    );
    assert_eq!(
        count(DeliveryFilter {
            states: vec![DeliveryState::Pending, DeliveryState::Failed],
            ..all()
        })
        .await,
        30
    );
    let from = Some(Timestamp(T0.0 + 10));
    let until = Some(Timestamp(T0.0 + 15));
    assert_eq!(
        count(DeliveryFilter {
            from,
            until,
            ..all()
        })
        .await,
        5
    );
    assert_eq!(
        count(DeliveryFilter {
            provider: Some(ProviderId::parse("slack").expect("id")),
            ..all()
        })
        .await,
        0
    );
}

pub(crate) async fn pages_stay_right_while_new_rows_come(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    for n in 0..10 {
        fixture
            .emit(
                store,
                subscription.id,
                fixture.event("a.b", Timestamp(T0.0 + n)),
                None,
            )
            .await;
    }
    let all = DeliveryFilter::default();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.deliveries(&all, after, 3).await.expect("lists");
        seen.extend(page.items.iter().map(|delivery| delivery.id));
        after = seen.last().copied();
        fixture
            .emit(
                store,
                subscription.id,
                fixture.event("a.b", Timestamp(T0.0 + 99)),
                None,
            )
            .await;
        if !page.more {
            break;
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!(seen.len(), 10);
    assert_eq!(seen, sorted);
}

pub(crate) async fn events_are_listed_by_type_key_and_time(store: &dyn Store) {
    let fixture = Fixture::new();
    for n in 0..6 {
        let at = Timestamp(T0.0 + n);
        let event = Event {
            correlation_key: (n == 3).then(|| "k".into()),
            ..fixture.event(if n < 4 { "a.b" } else { "a.c" }, at)
        };
        let accept = request(store, vec![event], Vec::new(), at).await;
        store.accept(accept).await.expect("accepts");
    }
    let count = |filter: EventFilter| async move {
        store
            .events(&filter, None, 100)
            .await
            .expect("lists")
            .items
            .len()
    };
    let all = EventFilter::default;
    assert_eq!(count(all()).await, 6);
    assert_eq!(
        count(EventFilter {
            event_type: Some("a.c".to_owned()),
            ..all()
        })
        .await,
        2
    );
    assert_eq!(
        count(EventFilter {
            correlation_key: Some("k".to_owned()),
            ..all()
        })
        .await,
        1
    );
    let (from, until) = (Some(Timestamp(T0.0 + 1)), Some(Timestamp(T0.0 + 3)));
    assert_eq!(
        count(EventFilter {
            from,
            until,
            ..all()
        })
        .await,
        2
    );
}
