//! The audit trail: one chain, whoever adds to it; an entry with its change, or neither.

use super::*;
use crate::domain::audit::{Actor, Anchor, Author, Entry, NewEntry};
use crate::store::AuditFilter;
use crate::store::audit::check;

fn author(name: &str) -> Author {
    Author {
        actor: Actor::command(7, name),
        request_id: Some("req-1".to_owned()),
    }
}

fn entry(action: &'static str, kind: &'static str, target: &str) -> NewEntry {
    NewEntry::new(T0, author("a test"), action, kind, target).after(&json!({"name": "é"}))
}

async fn all(store: &dyn Store) -> Vec<Entry> {
    store
        .audit_entries_above(i64::MIN, 1_000)
        .await
        .expect("reads")
}

async fn actions(store: &dyn Store) -> Vec<String> {
    let all = all(store).await.into_iter();
    all.map(|entry| entry.action).collect()
}

pub(crate) async fn entries_are_listed_by_each_filter_a_page_at_a_time(store: &dyn Store) {
    assert_eq!(store.audit_head().await.expect("reads"), Anchor::START);
    let later = NewEntry {
        at: Timestamp(T0.0 + 10),
        author: author("another").actor.into(),
        ..entry("source.created", "source", "c")
    };
    let entries = vec![
        entry("key.created", "key", "a").before(&json!(null)),
        entry("key.revoked", "key", "b"),
        later,
        entry("keys.other", "key", "a"),
    ];
    store.append_audit(entries).await.expect("adds");
    let check_filter = async |filter: AuditFilter, expected: &[i64]| {
        let page = store.audit_entries(&filter, None, 10).await.expect("lists");
        let found: Vec<i64> = page.items.iter().map(|entry| entry.seq).collect();
        assert_eq!(found, expected, "{filter:?}");
        assert!(!page.more);
    };
    let any = AuditFilter::default;
    let some = |text: &str| Some(text.to_owned());
    check_filter(any(), &[4, 3, 2, 1]).await;
    for actor in ["another", "uid:7"] {
        let expected: &[i64] = if actor == "another" {
            &[3]
        } else {
            &[4, 3, 2, 1]
        };
        let filter = AuditFilter {
            actor: some(actor),
            ..any()
        };
        check_filter(filter, expected).await;
    }
    let action = |text| AuditFilter {
        action: some(text),
        ..any()
    };
    check_filter(action("key.created"), &[1]).await;
    check_filter(action("key.*"), &[2, 1]).await;
    check_filter(action("nothing.*"), &[]).await;
    check_filter(
        AuditFilter {
            target: some("a"),
            ..any()
        },
        &[4, 1],
    )
    .await;
    check_filter(
        AuditFilter {
            target_kind: some("source"),
            ..any()
        },
        &[3],
    )
    .await;
    let at = Some(Timestamp(T0.0 + 10));
    check_filter(AuditFilter { from: at, ..any() }, &[3]).await;
    check_filter(AuditFilter { until: at, ..any() }, &[4, 2, 1]).await;
    let first = store.audit_entries(&any(), None, 3).await.expect("lists");
    assert!(first.more);
    let after = first.items.last().map(|entry| entry.seq);
    let rest = store.audit_entries(&any(), after, 3).await.expect("lists");
    assert_eq!((rest.items.len(), rest.more), (1, false));
    let oldest = &rest.items[0];
    assert_eq!(oldest.author, author("a test"));
    assert_eq!(oldest.before.as_deref(), Some("null"));
    assert_eq!(oldest.after.as_deref(), Some(r#"{"name":"é"}"#));
    let end = check(store, None).await.expect("whole");
    assert_eq!(end, store.audit_head().await.expect("reads"));
    assert_eq!(
        check(store, Some(oldest.anchor())).await.expect("whole"),
        end
    );
    let of_another_trail = Anchor {
        seq: 2,
        ..oldest.anchor()
    };
    assert!(check(store, Some(of_another_trail)).await.is_err());
    let beyond = Anchor { seq: 5, ..end };
    assert!(check(store, Some(beyond)).await.is_err());
}

pub(crate) async fn a_change_and_its_entry_are_written_together_or_not_at_all(store: &dyn Store) {
    let fixture = Fixture::new();
    let did = |action| store.audited(entry(action, "subscription", "s"));
    let subscription = fixture.subscription(T0);
    did("created")
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let shared = connection(fixture.id(T0));
    let refused = Subscription {
        connection: Some(shared.id),
        ..subscription.clone()
    };
    did("refused")
        .put_subscription(refused)
        .await
        .expect_err("there is no such connection");
    let gone = fixture.id(T0);
    assert!(
        !did("not there")
            .delete_subscription(gone, T0)
            .await
            .expect("answers")
    );
    assert!(
        !did("not there")
            .delete_source(fixture.id(T0))
            .await
            .expect("answers")
    );
    assert!(
        !did("not there")
            .revoke_key(fixture.id(T0), T0)
            .await
            .expect("answers")
    );
    let retried = did("not there").retry(fixture.id(T0), T0).await;
    assert_eq!(retried.expect("answers"), None);
    let event = fixture.event("incident.created", T0);
    let mut accepted = request(store, vec![event], Vec::new(), T0).await;
    let epoch = accepted.epoch;
    accepted.epoch = CatalogEpoch(epoch.0 - 1);
    let stale = did("stale")
        .accept(accepted.clone())
        .await
        .expect("answers");
    assert_eq!(stale, Accepted::StaleCatalog);
    accepted.epoch = epoch;
    let new = did("accepted").accept(accepted).await.expect("accepts");
    assert_eq!(new, Accepted::New);
    assert!(
        did("deleted")
            .delete_subscription(subscription.id, T0)
            .await
            .expect("deletes")
    );
    assert_eq!(actions(store).await, ["created", "accepted", "deleted"]);
    check(store, None).await.expect("whole");
}

pub(crate) async fn a_delivery_that_is_given_up_brings_its_entry(store: &dyn Store) {
    let fixture = Fixture::new();
    fixture.one(store).await;
    let leased = fixture.claim_one(store, T0).await;
    let given_up = LeaseResult {
        entry: Some(Box::new(entry("given_up", "delivery", "d"))),
        ..failure(&leased, Transition::Failed)
    };
    let written = store.record(given_up.clone()).await.expect("records");
    assert_eq!(written, Recorded::Written);
    let again = store.record(given_up).await.expect("answers");
    assert_eq!(again, Recorded::LeaseLost);
    assert_eq!(
        actions(store).await,
        ["given_up"],
        "nothing of a lost lease"
    );
}

pub(crate) async fn entries_added_at_once_make_one_chain(store: &dyn Store) {
    added_at_once(&[store]).await;
}

/// Many tasks add through several handles, some with a change, some without one.
pub(crate) async fn added_at_once(stores: &[&dyn Store]) {
    let fixture = Fixture::new();
    let adding = (0..60_usize).map(|index| {
        let store = stores[index % stores.len()];
        let subscription = fixture.subscription(T0);
        async move {
            let target = index.to_string();
            if index % 3 == 0 {
                let store = store.audited(entry("put", "subscription", &target));
                store.put_subscription(subscription).await.expect("put");
            } else {
                let entries = vec![
                    entry("first", "key", &target),
                    entry("second", "key", &target),
                ];
                store.append_audit(entries).await.expect("adds");
            }
        }
    });
    futures_util::future::join_all(adding).await;
    let end = check(stores[0], None).await.expect("whole");
    assert_eq!(end.seq, 20 + 2 * 40);
    let entries = all(stores[0]).await;
    for first in entries.iter().filter(|entry| entry.action == "first") {
        let index = usize::try_from(first.seq).expect("positive");
        assert_eq!(
            entries[index].target_id, first.target_id,
            "they stay together"
        );
    }
}

pub(crate) async fn what_was_said_before_is_not_said_again(store: &dyn Store) {
    let seen = |version: u32| {
        entry("component.serving", "component", "a.wasm")
            .after(&json!({"version": version}))
            .once()
    };
    for version in [1, 1, 2, 2, 1] {
        let entries = vec![seen(version), entry("key.created", "key", "k")];
        store.append_audit(entries).await.expect("adds");
    }
    let all = all(store).await.into_iter();
    let said: Vec<_> = all
        .filter(|entry| entry.target_kind == "component")
        .map(|entry| (entry.before, entry.after))
        .collect();
    let version = |version: u32| Some(json!({"version": version}).to_string());
    let expected = [
        (None, version(1)),
        (version(1), version(2)),
        (version(2), version(1)),
    ];
    assert_eq!(said, expected);
    check(store, None).await.expect("whole");
}
