//! Replays: each page once, whoever makes it, and the deliveries that it makes.

use super::*;
use crate::domain::id::ReplayId;
use crate::domain::replay::{Replay, ReplayFilter, ReplayScope, ReplayState};
use crate::store::{ReplayStep, Stepped};

fn replay(id: ReplayId, scope: ReplayScope) -> Replay {
    Replay {
        id,
        requested_by: "Kim".to_owned(),
        reason: "a receiver lost them".to_owned(),
        scope,
        filter: ReplayFilter {
            event_type: Some(EventTypeName::parse("incident.created").expect("name")),
            correlation_key: Some("k".to_owned()),
            from: Some(T0),
            until: Some(T0.plus(LEASE)),
            ..ReplayFilter::default()
        },
        state: ReplayState::Running,
        cursor: None,
        events: 0,
        deliveries: 0,
        created_at: T0,
        updated_at: T0,
    }
}

async fn step(
    store: &dyn Store,
    replay: &Replay,
    events: Vec<Arc<Event>>,
    deliveries: Vec<NewDelivery>,
    is_last: bool,
) -> Stepped {
    let step = ReplayStep {
        replay: replay.clone(),
        cursor: events.last().map(|event| event.id),
        events,
        deliveries,
        is_last,
        epoch: store.epoch().await.expect("epoch"),
        at: T0.plus(LEASE),
        is_queued: false,
    };
    store.step_replay(step).await.expect("steps")
}

pub(crate) async fn a_replay_makes_due_what_failed_and_each_page_once(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, delivery) = fixture.one(store).await;
    let leased = fixture.claim(store, T0, 1).await.remove(0);
    let failed = LeaseResult {
        id: leased.id,
        token: leased.token,
        attempt: None,
        transition: Transition::Failed,
        job: leased.job,
        at: T0,
        entry: None,
    };
    store.record(failed).await.expect("records");
    let count = store.failed_of(delivery.event_id, None).await;
    assert_eq!(count.expect("counts"), 1);
    let asked = replay(fixture.id(T0), ReplayScope::Failed);
    store.put_replay(asked.clone()).await.expect("put");
    assert_eq!(
        store.replay(asked.id).await.expect("found"),
        Some(asked.clone())
    );

    let event = leased.event.clone();
    let Stepped::Written(moved) = step(store, &asked, vec![event.clone()], Vec::new(), false).await
    else {
        panic!("not written");
    };
    assert_eq!(
        (moved.events, moved.deliveries, moved.cursor),
        (1, 1, Some(event.id))
    );
    // Another process that planned the same page comes too late.
    let again = step(store, &asked, vec![event], Vec::new(), false).await;
    assert_eq!(again, Stepped::Moved);
    let Stepped::Written(ended) = step(store, &moved, Vec::new(), Vec::new(), true).await else {
        panic!("not written");
    };
    assert_eq!(ended.state, ReplayState::Done);
    assert_eq!(store.replay(asked.id).await.expect("found"), Some(*ended));
    let due = store
        .delivery(delivery.id)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!((due.state, due.attempts), (DeliveryState::Pending, 0));
    assert_eq!(due.subscription_id, subscription.id);
    let outcomes = store.replay_outcomes(asked.id).await.expect("counted");
    assert_eq!(outcomes, [(DeliveryState::Pending, 1)]);
    assert!(!store.cancel_replay(asked.id, T0).await.expect("answers"));
}

pub(crate) async fn a_replay_creates_deliveries_under_the_current_catalogue_only(
    store: &dyn Store,
) {
    let fixture = Fixture::new();
    let (subscription, delivery) = fixture.one(store).await;
    let event = store
        .event(delivery.event_id)
        .await
        .expect("reads")
        .expect("there");
    let event = Arc::new(event);
    let asked = replay(fixture.id(T0), ReplayScope::All);
    store.put_replay(asked.clone()).await.expect("put");
    let new = NewDelivery {
        id: fixture.id(T0),
        ..delivery
    };
    let stale = ReplayStep {
        replay: asked.clone(),
        events: vec![event.clone()],
        cursor: Some(event.id),
        deliveries: vec![new.clone()],
        is_last: true,
        epoch: CatalogEpoch(store.epoch().await.expect("epoch").0 - 1),
        at: T0,
        is_queued: false,
    };
    assert_eq!(
        store.step_replay(stale).await.expect("answers"),
        Stepped::StaleCatalog
    );
    let stepped = step(store, &asked, vec![event], vec![new.clone()], true).await;
    assert!(matches!(stepped, Stepped::Written(_)), "{stepped:?}");
    let made = store.delivery(new.id).await.expect("reads").expect("there");
    assert_eq!(
        (made.state, made.subscription_id),
        (DeliveryState::Pending, subscription.id)
    );
    let running = store
        .replays(Some(ReplayState::Running), None, 10)
        .await
        .expect("lists");
    assert!(running.items.is_empty());
    let second = replay(fixture.id(T0), ReplayScope::All);
    store.put_replay(second.clone()).await.expect("put");
    let all = store.replays(None, None, 1).await.expect("lists");
    assert_eq!((all.items[0].id, all.more), (second.id, true));
    assert!(store.cancel_replay(second.id, T0).await.expect("answers"));
    let late = step(store, &second, Vec::new(), Vec::new(), true).await;
    assert_eq!(late, Stepped::Moved, "a cancelled one goes no further");
}
