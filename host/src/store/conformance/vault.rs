//! The keys that processes say they have.

use std::collections::BTreeSet;

use super::*;
use crate::store::ProcessKeys;

pub(crate) async fn what_a_process_says_of_its_keys_is_known_until_it_is_gone(store: &dyn Store) {
    let fixture = Fixture::new();
    let hour = Duration::from_secs(3_600);
    let keys = |process, seals: &str| ProcessKeys {
        process,
        seals: seals.to_owned(),
        opens: BTreeSet::from([seals.to_owned(), "other".to_owned()]),
    };
    let (first, second): (WorkerId, WorkerId) = (fixture.id(T0), fixture.id(T0));
    assert!(store.keys_in_use(hour).await.expect("reads").is_empty());
    store
        .note_keys(keys(first, "a"), hour)
        .await
        .expect("noted");
    store
        .note_keys(keys(second, "a"), hour)
        .await
        .expect("noted");
    store
        .note_keys(keys(first, "b"), hour)
        .await
        .expect("noted");
    let known = store.keys_in_use(Duration::MAX).await.expect("reads");
    assert_eq!(known, [keys(first, "b"), keys(second, "a")]);
    store
        .note_keys(keys(second, "b"), Duration::ZERO)
        .await
        .expect("noted");
    let known = store.keys_in_use(hour).await.expect("reads");
    assert_eq!(known, [keys(second, "b")], "the other one is gone");
}
