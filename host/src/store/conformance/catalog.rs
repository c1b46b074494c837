//! The catalogue: comes back as it was put, raises its epoch, keeps what is in use.

use super::*;

fn event_type(name: &str) -> EventType {
    EventType {
        display_name: "N".to_owned(),
        category: "c".to_owned(),
        plugin: Some("p".to_owned()),
        transform: Some(".payload".into()),
        payload_schema: Some(json!({"type": "object"})),
        example: Some(json!({"a": 1})),
        ..EventType::new(EventTypeName::parse(name).expect("name"), T0)
    }
}

pub(super) fn connection(id: ConnectionId) -> Connection {
    Connection {
        id,
        name: "C".to_owned(),
        provider: provider(),
        document: SealedDocument {
            version: 2,
            json: json!({"token": {"$sealed": "v1.x.y"}}),
        },
        created_at: T0,
        updated_at: T0,
    }
}

fn key(id: KeyId, hash: u8) -> ApiKey {
    ApiKey {
        id,
        name: "K".to_owned(),
        role: Role::Operator,
        hash: [hash; 32],
        created_at: T0,
        revoked_at: None,
    }
}

fn grant() -> GrantRecord {
    GrantRecord {
        provider: provider(),
        grant: Grant {
            permissions: Permissions {
                hosts: ["{config.url}".to_owned()].into(),
                expose_secrets: true,
            },
            allow_addresses: vec!["127.0.0.0/8".parse().expect("net")],
        },
        asked: Permissions {
            hosts: ["{config.url}".to_owned()].into(),
            expose_secrets: false,
        },
        digest: "abc".to_owned(),
        granted_at: T0,
    }
}

pub(crate) async fn every_change_of_the_catalogue_raises_its_epoch(store: &dyn Store) {
    let fixture = Fixture::new();
    let mut last = store.epoch().await.expect("epoch");
    let mut raised = async |what: &str| {
        let now = store.epoch().await.expect("epoch");
        assert!(now > last, "{what}");
        last = now;
    };
    let subscription = fixture.subscription(T0);
    let connection_id = fixture.id(T0);
    let key_id = fixture.id(T0);
    store.put_event_type(event_type("a.b")).await.expect("put");
    raised("put_event_type").await;
    store
        .put_connection(connection(connection_id))
        .await
        .expect("put");
    raised("put_connection").await;
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    raised("put_subscription").await;
    store.put_grant(grant()).await.expect("put");
    raised("put_grant").await;
    store.put_key(key(key_id, 1)).await.expect("put");
    raised("put_key").await;
    assert!(store.revoke_key(key_id, T0).await.expect("revokes"));
    raised("revoke_key").await;
    assert!(
        store
            .delete_subscription(subscription.id, T0)
            .await
            .expect("deletes")
    );
    raised("delete_subscription").await;
    assert!(
        store
            .delete_connection(connection_id)
            .await
            .expect("deletes")
    );
    raised("delete_connection").await;
    assert!(store.delete_grant(&provider()).await.expect("deletes"));
    raised("delete_grant").await;
    let name = EventTypeName::parse("a.b").expect("name");
    assert!(store.delete_event_type(&name).await.expect("deletes"));
    raised("delete_event_type").await;
}

pub(crate) async fn the_catalogue_comes_back_as_it_was_put(store: &dyn Store) {
    let fixture = Fixture::new();
    assert_eq!(store.catalog().await.expect("reads").epoch, CatalogEpoch(0));
    let connection = connection(fixture.id(T0));
    let subscription = Subscription {
        connection: Some(connection.id),
        disabled_reason: Some("gone".to_owned()),
        ordered: true,
        filter: Some(".payload.n > 1".into()),
        transform: Some(".payload".into()),
        flow: Flow {
            rate: Some(RateLimit {
                attempts: 5,
                per: RatePeriod::Minute,
                burst: 2,
            }),
            concurrency: Some(3),
            circuit: None,
        },
        ..fixture.subscription(T0)
    };
    let of_second = Subscription {
        flow: Flow {
            rate: subscription.flow.rate.map(|rate| RateLimit {
                per: RatePeriod::Second,
                ..rate
            }),
            ..Flow::default()
        },
        ..fixture.subscription(T0)
    };
    store.put_connection(connection.clone()).await.expect("put");
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    store
        .put_subscription(of_second.clone())
        .await
        .expect("put");
    store.put_event_type(event_type("a.b")).await.expect("put");
    let later = EventType {
        display_name: "Other".to_owned(),
        transform: Some("{n}".into()),
        created_at: Timestamp(5),
        ..event_type("a.b")
    };
    store.put_event_type(later).await.expect("replaces");
    let key = key(fixture.id(T0), 1);
    store.put_key(key.clone()).await.expect("put");
    let catalog = store.catalog().await.expect("reads");
    assert_eq!(catalog.subscriptions, [subscription, of_second]);
    assert_eq!(catalog.connections, [connection]);
    assert_eq!(catalog.keys, [key]);
    let kept = EventType {
        display_name: "Other".to_owned(),
        transform: Some("{n}".into()),
        ..event_type("a.b")
    };
    assert_eq!(catalog.event_types, [kept], "created_at stays");
}

pub(crate) async fn what_is_in_use_cannot_be_deleted(store: &dyn Store) {
    let fixture = Fixture::new();
    let connection = connection(fixture.id(T0));
    let subscription = Subscription {
        connection: Some(connection.id),
        events: EventPattern::parse("a.b").expect("pattern"),
        ..fixture.subscription(T0)
    };
    let missing = store.put_subscription(subscription.clone()).await;
    assert!(
        matches!(missing, Err(StoreError::Conflict(_))),
        "{missing:?}"
    );
    store.put_event_type(event_type("a.b")).await.expect("put");
    store.put_connection(connection.clone()).await.expect("put");
    store.put_subscription(subscription).await.expect("put");
    let refused = store.delete_connection(connection.id).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    let name = EventTypeName::parse("a.b").expect("name");
    let refused = store.delete_event_type(&name).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    let unknown = EventTypeName::parse("a.unknown").expect("name");
    assert!(!store.delete_event_type(&unknown).await.expect("answers"));
}

pub(crate) async fn grants_and_keys_come_back_as_they_were_put(store: &dyn Store) {
    let fixture = Fixture::new();
    store.put_grant(grant()).await.expect("put");
    assert_eq!(store.grants().await.expect("reads"), [grant()]);
    let narrower = GrantRecord {
        digest: "def".to_owned(),
        ..grant()
    };
    store.put_grant(narrower.clone()).await.expect("replaces");
    assert_eq!(store.grants().await.expect("reads"), [narrower]);
    let key = key(fixture.id(T0), 1);
    store.put_key(key.clone()).await.expect("put");
    assert!(store.revoke_key(key.id, T0).await.expect("revokes"));
    assert!(
        !store.revoke_key(key.id, T0).await.expect("answers"),
        "once only"
    );
    let revoked = ApiKey {
        revoked_at: Some(T0),
        ..key
    };
    assert_eq!(store.keys().await.expect("reads"), [revoked]);
    assert!(store.catalog().await.expect("reads").keys.is_empty());
}

pub(crate) async fn documents_are_replaced_all_or_none(store: &dyn Store) {
    let fixture = Fixture::new();
    let shared = connection(fixture.id(T0));
    store.put_connection(shared.clone()).await.expect("put");
    let subscription = Subscription {
        connection: Some(shared.id),
        paused: true,
        ..fixture.subscription(T0)
    };
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let source = source(fixture.id(T0), "acme");
    store.put_source(source.clone()).await.expect("put");
    let document = |version| SealedDocument {
        version,
        json: json!({"version": version}),
    };
    let at = T0.plus(Duration::from_secs(60));
    let changes = |epoch, at| DocumentChanges {
        epoch,
        at,
        subscriptions: vec![(subscription.id, document(7))],
        connections: vec![(shared.id, document(8))],
        source_configs: vec![(source.id, document(9))],
        source_verifications: vec![(source.id, document(1))],
    };
    let epoch = store.epoch().await.expect("epoch");
    let stale = CatalogEpoch(epoch.0 - 1);
    assert!(
        !store
            .replace_documents(changes(stale, Some(at)))
            .await
            .expect("answers")
    );
    let before = store.catalog().await.expect("loads");
    assert_eq!(before.epoch, epoch);
    assert_eq!(before.subscriptions, std::slice::from_ref(&subscription));
    assert_eq!(before.connections, std::slice::from_ref(&shared));

    assert!(
        store
            .replace_documents(changes(epoch, Some(at)))
            .await
            .expect("answers")
    );
    let after = store.catalog().await.expect("loads");
    assert!(after.epoch > epoch);
    let expected = Subscription {
        config: document(7),
        updated_at: at,
        ..subscription
    };
    assert_eq!(after.subscriptions, [expected]);
    assert_eq!(after.connections[0].document, document(8));
    let replaced = Source {
        config: document(9),
        verification: document(1),
        updated_at: at,
        ..source
    };
    assert_eq!(after.sources, [replaced]);
    // Sealed anew: nobody sees a change.
    let resealed = store.replace_documents(changes(after.epoch, None)).await;
    assert!(resealed.expect("answers"));
    let last = store.catalog().await.expect("loads");
    assert_eq!(last.subscriptions, after.subscriptions);
    assert_eq!(last.connections, after.connections);
    assert_eq!(last.sources, after.sources);
    assert!(last.epoch > after.epoch);
}
