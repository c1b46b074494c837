//! Inbound webhooks and sources.

use super::records::remove;
use super::*;
use crate::store::Expiring;

fn webhook(fixture: &Fixture, source: SourceId, at: Timestamp) -> InboundWebhook {
    InboundWebhook {
        id: fixture.id(at),
        source,
        received_at: at,
        remote_address: "192.0.2.7".parse().expect("an address"),
        query: "a=1".to_owned(),
        headers: vec![("x-kind".to_owned(), "é".to_owned())],
        body: vec![0, 159, 255].into(),
        state: WebhookState::Failed,
        reason: Some("no such type".to_owned()),
        events: Vec::new(),
    }
}

/// A webhook of one event for one subscription.
async fn request(
    fixture: &Fixture,
    store: &dyn Store,
    subscription: SubscriptionId,
    webhook: InboundWebhook,
    key: &str,
) -> ReceiveRequest {
    let event = fixture.event("incident.created", webhook.received_at);
    let delivery = fixture.delivery(subscription, &event);
    ReceiveRequest {
        webhook,
        events: vec![KeyedEvent {
            key: key.to_owned(),
            event: Arc::new(event),
        }],
        deliveries: vec![delivery],
        epoch: store.epoch().await.expect("epoch"),
        queued_for: None,
    }
}

fn done(received: Received) -> (WebhookState, Vec<EventId>) {
    match received {
        Received::Done { state, events } => (state, events),
        Received::StaleCatalog => panic!("stale"),
    }
}

pub(crate) async fn a_webhook_and_its_events_are_on_record_together(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, _) = fixture.one(store).await;
    let source = fixture.id(T0);
    let first = request(
        &fixture,
        store,
        subscription.id,
        webhook(&fixture, source, T0),
        "s:1",
    )
    .await;
    let event = first.events[0].event.clone();
    let (state, events) = done(store.receive(first.clone()).await.expect("received"));
    assert_eq!(
        (state, events.as_slice()),
        (WebhookState::Accepted, &[event.id][..])
    );
    let stored = store.event(event.id).await.expect("read").expect("there");
    assert_eq!(stored, *event);
    assert_eq!(fixture.claim(store, T0, 10).await.len(), 2, "both are due");
    let on_record = store
        .webhook(first.webhook.id)
        .await
        .expect("read")
        .expect("there");
    let expected = InboundWebhook {
        state: WebhookState::Accepted,
        events,
        ..first.webhook
    };
    assert_eq!(on_record, expected);

    let again = request(
        &fixture,
        store,
        subscription.id,
        webhook(&fixture, source, T0),
        "s:1",
    )
    .await;
    let id = again.webhook.id;
    let (state, events) = done(store.receive(again).await.expect("received"));
    assert_eq!(
        (state, events.as_slice()),
        (WebhookState::Duplicate, &[event.id][..])
    );
    let duplicate = store.webhook(id).await.expect("read").expect("there");
    assert!(duplicate.body.is_empty(), "the first one has it");
    assert!(fixture.claim(store, T0, 10).await.is_empty(), "nothing new");

    let mut stale = request(
        &fixture,
        store,
        subscription.id,
        webhook(&fixture, source, T0),
        "s:2",
    )
    .await;
    stale.epoch = CatalogEpoch(stale.epoch.0 - 1);
    let id = stale.webhook.id;
    assert_eq!(
        store.receive(stale).await.expect("received"),
        Received::StaleCatalog
    );
    assert_eq!(store.webhook(id).await.expect("read"), None);
}

pub(crate) async fn a_webhook_known_to_be_a_duplicate_names_the_events_of_the_first(
    store: &dyn Store,
) {
    let fixture = Fixture::new();
    let source = fixture.id(T0);
    let first: EventId = fixture.id(T0);
    let webhook = InboundWebhook {
        state: WebhookState::Duplicate,
        reason: None,
        events: vec![first],
        ..webhook(&fixture, source, T0)
    };
    let request = ReceiveRequest {
        webhook: webhook.clone(),
        events: Vec::new(),
        deliveries: Vec::new(),
        queued_for: None,
        epoch: store.epoch().await.expect("epoch"),
    };
    let answer = done(store.receive(request).await.expect("received"));
    assert_eq!(answer, (WebhookState::Duplicate, vec![first]));
    let stored = store.webhook(webhook.id).await.expect("read");
    let stored = stored.expect("there");
    assert_eq!((stored.state, stored.events), answer);
    assert!(stored.body.is_empty(), "the first one has it");
}

pub(crate) async fn what_happened_once_is_accepted_once_among_fifty_webhooks_at_once(
    store: &dyn Store,
) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let source = fixture.id(T0);
    let mut requests = Vec::new();
    for _ in 0..50 {
        let webhook = webhook(&fixture, source, T0);
        requests.push(request(&fixture, store, subscription.id, webhook, "s:1").await);
    }
    let received = requests.into_iter().map(|request| store.receive(request));
    let received = futures_util::future::join_all(received).await;
    let received: Vec<_> = received
        .into_iter()
        .map(|received| done(received.expect("received")))
        .collect();
    let accepted = received
        .iter()
        .filter(|(state, _)| *state == WebhookState::Accepted);
    assert_eq!(accepted.count(), 1);
    assert!(received.iter().all(|(_, events)| *events == received[0].1));
    assert_eq!(fixture.claim(store, T0, 100).await.len(), 1);
}

pub(crate) async fn a_webhook_that_failed_can_take_its_events_later(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, _) = fixture.one(store).await;
    let failed = webhook(&fixture, fixture.id(T0), T0);
    let eventless = ReceiveRequest {
        webhook: failed.clone(),
        events: Vec::new(),
        deliveries: Vec::new(),
        epoch: store.epoch().await.expect("epoch"),
        queued_for: None,
    };
    let (state, events) = done(store.receive(eventless).await.expect("received"));
    assert_eq!((state, events.len()), (WebhookState::Failed, 0));

    let later = InboundWebhook {
        reason: None,
        ..failed.clone()
    };
    let later = request(&fixture, store, subscription.id, later, "s:1").await;
    let (state, _) = done(store.receive(later).await.expect("received"));
    assert_eq!(state, WebhookState::Accepted);
    let stored = store
        .webhook(failed.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (stored.state, stored.reason),
        (WebhookState::Accepted, None)
    );
    assert_eq!(stored.body, failed.body, "as it came");
}

pub(crate) async fn webhooks_are_filtered_before_the_page_is_cut(store: &dyn Store) {
    let fixture = Fixture::new();
    let (a, b): (SourceId, SourceId) = (fixture.id(T0), fixture.id(T0));
    let epoch = store.epoch().await.expect("epoch");
    let mut ids = Vec::new();
    for number in 0..6_i64 {
        let at = Timestamp(T0.0 + number);
        let mut webhook = webhook(&fixture, if number % 2 == 0 { a } else { b }, at);
        if number < 3 {
            webhook.state = WebhookState::Ignored;
        }
        ids.push(webhook.id);
        let request = ReceiveRequest {
            webhook,
            events: Vec::new(),
            deliveries: Vec::new(),
            epoch,
            queued_for: None,
        };
        store.receive(request).await.expect("received");
    }
    let list = |filter: WebhookFilter, after, limit| async move {
        let page = store.webhooks(&filter, after, limit).await.expect("listed");
        let ids: Vec<_> = page.items.iter().map(|webhook| webhook.id).collect();
        (ids, page.more)
    };
    let of_a = WebhookFilter {
        source: Some(a),
        ..WebhookFilter::default()
    };
    assert_eq!(
        list(of_a.clone(), None, 2).await,
        (vec![ids[4], ids[2]], true)
    );
    assert_eq!(list(of_a, Some(ids[2]), 2).await, (vec![ids[0]], false));
    let ignored_late = WebhookFilter {
        state: Some(WebhookState::Ignored),
        from: Some(Timestamp(T0.0 + 1)),
        until: Some(Timestamp(T0.0 + 5)),
        ..WebhookFilter::default()
    };
    assert_eq!(
        list(ignored_late, None, 9).await,
        (vec![ids[2], ids[1]], false)
    );
}

pub(crate) async fn only_the_last_rejections_of_a_source_are_kept(store: &dyn Store) {
    let fixture = Fixture::new();
    let (a, b): (SourceId, SourceId) = (fixture.id(T0), fixture.id(T0));
    let rejection = |source, number: i64| Rejection {
        source,
        at: Timestamp(T0.0 + number),
        remote_address: "2001:db8::1".parse().expect("an address"),
        reason: format!("number {number}"),
    };
    store.reject(rejection(b, 0)).await.expect("noted");
    for number in 0..60 {
        store.reject(rejection(a, number)).await.expect("noted");
    }
    let kept = store.rejections(a).await.expect("listed");
    assert_eq!(kept.len(), 50);
    assert_eq!(kept[0], rejection(a, 59));
    assert_eq!(kept[49], rejection(a, 10));
    assert_eq!(
        store.rejections(b).await.expect("listed"),
        [rejection(b, 0)]
    );
}

pub(super) fn source(id: SourceId, name: &str) -> Source {
    let document = |json| SealedDocument { version: 1, json };
    Source {
        id,
        name: SourceName::parse(name).expect("a name"),
        component: ProviderId::parse("acme").expect("an id"),
        config: document(json!({"a": 1})),
        verification: document(json!({"scheme": {"scheme": "none"}})),
        rate_per_minute: 60,
        enabled: true,
        created_at: T0,
        updated_at: T0,
    }
}

pub(crate) async fn sources_come_back_as_they_were_put_and_names_are_unique(store: &dyn Store) {
    let fixture = Fixture::new();
    let before = store.epoch().await.expect("epoch");
    let mut source = source(fixture.id(T0), "acme");
    store.put_source(source.clone()).await.expect("put");
    assert!(store.epoch().await.expect("epoch") > before);
    source.enabled = false;
    source.name = SourceName::parse("acme-eu").expect("a name");
    store.put_source(source.clone()).await.expect("replaced");
    assert_eq!(
        store.catalog().await.expect("catalog").sources,
        [source.clone()]
    );

    let twin = Source {
        id: fixture.id(T0),
        ..source.clone()
    };
    let refused = store.put_source(twin).await.expect_err("the name is taken");
    assert!(matches!(refused, StoreError::Conflict(_)), "{refused}");
    assert!(store.delete_source(source.id).await.expect("deleted"));
    assert!(!store.delete_source(source.id).await.expect("gone"));
}

pub(crate) async fn old_webhooks_and_their_keys_are_removed(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, _) = fixture.one(store).await;
    let source = fixture.id(T0);
    let later = T0.plus(LEASE);
    let receive = async |at, key| {
        let webhook = webhook(&fixture, source, at);
        let id = webhook.id;
        let request = request(&fixture, store, subscription.id, webhook, key).await;
        (id, done(store.receive(request).await.expect("received")).0)
    };
    let (old, _) = receive(T0, "s:1").await;
    let (young, _) = receive(later, "s:2").await;
    assert_eq!(remove(store, Expiring::Webhooks, later).await, 1);
    assert_eq!(store.webhook(old).await.expect("reads"), None);
    assert!(store.webhook(young).await.expect("reads").is_some());
    assert_eq!(receive(later, "s:1").await.1, WebhookState::Duplicate);
    assert_eq!(remove(store, Expiring::InboundKeys, later).await, 1);
    assert_eq!(receive(later, "s:1").await.1, WebhookState::Accepted);
    assert_eq!(receive(later, "s:2").await.1, WebhookState::Duplicate);
}
