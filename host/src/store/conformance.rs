//! What every back end must do: plain functions over `&dyn Store`, each called by a named test of
//! every back end through [`cases`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{
    AcceptRequest, Accepted, CatalogEpoch, ClaimRequest, DeliveryFilter, EventFilter, GrantRecord,
    IdempotencyKey, Recorded, Store, StoreError,
};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{
    Attempt, DeliveryState, LeaseResult, LeasedDelivery, LogLine, NewDelivery, Outcome, Transition,
};
use crate::domain::event::{Event, EventPattern, EventType, EventTypeName};
use crate::domain::id::{ConnectionId, EventId, IdGenerator, KeyId, SubscriptionId, WorkerId};
use crate::domain::key::{ApiKey, Role};
use crate::domain::provider::{Grant, Permissions, ProviderId};
use crate::domain::retry::RetryPolicy;
use crate::domain::subscription::{Connection, SealedDocument, Subscription};

/// Names every case as a test of a back end. `$open` is an async function that gives a guard and
/// a fresh, empty store.
macro_rules! cases {
    ($open:ident: $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (_guard, store) = $open().await;
                $crate::store::conformance::$case(&store).await;
            }
        )+
    };
    ($open:ident) => {
        $crate::store::conformance::cases!($open:
            what_was_accepted_is_there_and_claimable,
            a_batch_is_accepted_whole,
            an_idempotency_key_gives_the_first_events_again,
            an_idempotency_key_holds_among_fifty_callers_at_once,
            a_stale_catalogue_accepts_nothing,
            a_claim_takes_the_oldest_up_to_its_limit,
            a_claim_passes_over_excluded_subscriptions,
            a_lease_is_exclusive_until_it_ends,
            a_result_under_a_lost_lease_is_refused,
            attempts_are_counted_when_recorded,
            a_released_lease_costs_no_attempt,
            all_leases_can_be_ended_at_once,
            a_retry_waits_until_it_is_due,
            an_ordering_key_holds_back_later_deliveries_of_its_own_only,
            an_external_id_comes_back_for_its_correlation_key,
            a_manual_retry_begins_a_new_round,
            switching_off_cancels_what_is_queued_and_what_fails_in_flight,
            pausing_parks_and_resuming_makes_due,
            a_deleted_subscription_cancels_what_is_queued,
            deliveries_are_filtered_before_the_page_is_cut,
            pages_stay_right_while_new_rows_come,
            events_are_listed_by_type_key_and_time,
            every_change_of_the_catalogue_raises_its_epoch,
            the_catalogue_comes_back_as_it_was_put,
            what_is_in_use_cannot_be_deleted,
            grants_and_keys_come_back_as_they_were_put,
        );
    };
}
pub(crate) use cases;

const T0: Timestamp = Timestamp(1_700_000_000_000);
const LEASE: Duration = Duration::from_secs(60);

/// Identifiers of one case.
struct Fixture {
    ids: IdGenerator,
    worker: WorkerId,
}

impl Fixture {
    fn new() -> Self {
        let ids = IdGenerator::default();
        let worker = ids.next(T0, || 1);
        Self { ids, worker }
    }

    fn id<T: From<ulid::Ulid>>(&self, at: Timestamp) -> T {
        self.ids.next(at, || 7)
    }

    fn event(&self, name: &str, at: Timestamp) -> Event {
        Event {
            id: self.id(at),
            event_type: EventTypeName::parse(name).expect("name"),
            payload: json!({"n": 1}).to_string().into(),
            occurred_at: at,
            received_at: at,
            correlation_key: None,
            system_ids: vec!["a".to_owned()],
        }
    }

    fn subscription(&self, at: Timestamp) -> Subscription {
        Subscription {
            id: self.id(at),
            name: "S".to_owned(),
            events: EventPattern::parse("*").expect("pattern"),
            provider: provider(),
            config: SealedDocument {
                version: 1,
                json: json!({"url": "https://example.com/"}),
            },
            connection: None,
            system_filter: vec!["a".to_owned()],
            enabled: true,
            disabled_reason: None,
            paused: false,
            ordered: false,
            retry: Some(RetryPolicy { delays_ms: vec![5] }),
            timeout_ms: Some(1_000),
            created_at: at,
            updated_at: at,
        }
    }

    /// Puts a subscription and accepts one event for it.
    async fn one(&self, store: &dyn Store) -> (Subscription, NewDelivery) {
        let subscription = self.subscription(T0);
        store
            .put_subscription(subscription.clone())
            .await
            .expect("put");
        let delivery = self
            .emit(
                store,
                subscription.id,
                self.event("incident.created", T0),
                None,
            )
            .await;
        (subscription, delivery)
    }

    async fn emit(
        &self,
        store: &dyn Store,
        subscription: SubscriptionId,
        event: Event,
        ordering_key: Option<&str>,
    ) -> NewDelivery {
        let at = event.received_at;
        let delivery = NewDelivery {
            id: self.id(at),
            event_id: event.id,
            subscription_id: subscription,
            provider: provider(),
            ordering_key: ordering_key.map(Arc::from),
        };
        let request = request(store, vec![event], vec![delivery.clone()], at).await;
        assert_eq!(store.accept(request).await.expect("accepts"), Accepted::New);
        delivery
    }

    async fn claim(&self, store: &dyn Store, now: Timestamp, limit: usize) -> Vec<LeasedDelivery> {
        let request = ClaimRequest {
            worker: self.worker,
            now,
            lease_until: now.plus(LEASE),
            limit,
            exclude: Vec::new(),
        };
        store.claim(request).await.expect("claims").leased
    }

    async fn claim_one(&self, store: &dyn Store, now: Timestamp) -> LeasedDelivery {
        let leased = self.claim(store, now, 10).await;
        assert_eq!(leased.len(), 1, "{leased:?}");
        leased.into_iter().next().expect("one")
    }
}

fn provider() -> ProviderId {
    ProviderId::parse("webhook").expect("id")
}

async fn request(
    store: &dyn Store,
    events: Vec<Event>,
    deliveries: Vec<NewDelivery>,
    at: Timestamp,
) -> AcceptRequest {
    AcceptRequest {
        events: events.into_iter().map(Arc::new).collect(),
        deliveries,
        idempotency: None,
        epoch: store.epoch().await.expect("epoch"),
        at,
    }
}

fn attempt(outcome: Outcome, message: &str) -> Attempt {
    Attempt {
        number: 0,
        started_at: T0,
        latency: Duration::from_micros(1_500),
        outcome,
        http_status: Some(200),
        provider_version: Some("1.0.0".to_owned()),
        message: message.to_owned(),
        logs: vec![LogLine {
            level: "info",
            message: "hello".to_owned(),
        }],
    }
}

fn result(leased: &LeasedDelivery, outcome: Outcome, transition: Transition) -> LeaseResult {
    LeaseResult {
        id: leased.id,
        token: leased.token,
        attempt: Some(attempt(outcome, outcome.as_str())),
        transition,
        at: T0,
    }
}

fn success(leased: &LeasedDelivery) -> LeaseResult {
    result(
        leased,
        Outcome::Success,
        Transition::Success { external_id: None },
    )
}

fn failure(leased: &LeasedDelivery, transition: Transition) -> LeaseResult {
    result(leased, Outcome::ProviderError, transition)
}

async fn state(store: &dyn Store, delivery: &NewDelivery) -> DeliveryState {
    store
        .delivery(delivery.id)
        .await
        .expect("read")
        .expect("there")
        .state
}

pub async fn what_was_accepted_is_there_and_claimable(store: &dyn Store) {
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

pub async fn a_batch_is_accepted_whole(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let events: Vec<Event> = (0..150).map(|_| fixture.event("a.b", T0)).collect();
    let deliveries: Vec<NewDelivery> = events
        .iter()
        .map(|event| NewDelivery {
            id: fixture.id(T0),
            event_id: event.id,
            subscription_id: subscription.id,
            provider: provider(),
            ordering_key: None,
        })
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

fn keyed(mut request: AcceptRequest, key: &str, body: u8) -> AcceptRequest {
    request.idempotency = Some(IdempotencyKey {
        scope: "key_1".to_owned(),
        key: key.to_owned(),
        body_hash: [body; 32],
    });
    request
}

pub async fn an_idempotency_key_gives_the_first_events_again(store: &dyn Store) {
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

pub async fn an_idempotency_key_holds_among_fifty_callers_at_once(store: &dyn Store) {
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

pub async fn a_stale_catalogue_accepts_nothing(store: &dyn Store) {
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

pub async fn a_claim_takes_the_oldest_up_to_its_limit(store: &dyn Store) {
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

pub async fn a_claim_passes_over_excluded_subscriptions(store: &dyn Store) {
    let fixture = Fixture::new();
    let (full, _) = fixture.one(store).await;
    let (_, other) = fixture.one(store).await;
    let request = |exclude: Vec<SubscriptionId>| ClaimRequest {
        worker: fixture.worker,
        now: T0,
        lease_until: T0.plus(LEASE),
        limit: 10,
        exclude,
    };
    let claim = store.claim(request(vec![full.id])).await.expect("claims");
    assert_eq!(claim.leased.len(), 1);
    assert_eq!(claim.leased[0].id, other.id);
    assert_eq!(
        claim.next_due,
        Some(T0),
        "what was passed over is still due"
    );
    assert_eq!(
        store
            .claim(request(Vec::new()))
            .await
            .expect("claims")
            .leased
            .len(),
        1
    );
}

pub async fn a_lease_is_exclusive_until_it_ends(store: &dyn Store) {
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

pub async fn a_result_under_a_lost_lease_is_refused(store: &dyn Store) {
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

pub async fn attempts_are_counted_when_recorded(store: &dyn Store) {
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

pub async fn a_released_lease_costs_no_attempt(store: &dyn Store) {
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

pub async fn all_leases_can_be_ended_at_once(store: &dyn Store) {
    let fixture = Fixture::new();
    fixture.one(store).await;
    fixture.one(store).await;
    assert_eq!(fixture.claim(store, T0, 10).await.len(), 2);
    assert_eq!(store.release_all(T0).await.expect("releases"), 2);
    assert_eq!(fixture.claim(store, T0, 10).await.len(), 2);
}

pub async fn a_retry_waits_until_it_is_due(store: &dyn Store) {
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
        exclude: Vec::new(),
    };
    let claim = store.claim(early).await.expect("claims");
    assert!(claim.leased.is_empty());
    assert_eq!(claim.next_due, Some(due));
    assert_eq!(fixture.claim_one(store, due).await.attempt, 2);
}

pub async fn an_ordering_key_holds_back_later_deliveries_of_its_own_only(store: &dyn Store) {
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

pub async fn an_external_id_comes_back_for_its_correlation_key(store: &dyn Store) {
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

pub async fn a_manual_retry_begins_a_new_round(store: &dyn Store) {
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

pub async fn switching_off_cancels_what_is_queued_and_what_fails_in_flight(store: &dyn Store) {
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

pub async fn pausing_parks_and_resuming_makes_due(store: &dyn Store) {
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

pub async fn a_deleted_subscription_cancels_what_is_queued(store: &dyn Store) {
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

pub async fn deliveries_are_filtered_before_the_page_is_cut(store: &dyn Store) {
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

pub async fn pages_stay_right_while_new_rows_come(store: &dyn Store) {
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

pub async fn events_are_listed_by_type_key_and_time(store: &dyn Store) {
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

fn event_type(name: &str) -> EventType {
    EventType {
        name: EventTypeName::parse(name).expect("name"),
        display_name: "N".to_owned(),
        description: String::new(),
        payload_schema: Some(json!({"type": "object"})),
        example: Some(json!({"a": 1})),
        created_at: T0,
        updated_at: T0,
    }
}

fn connection(id: ConnectionId) -> Connection {
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

pub async fn every_change_of_the_catalogue_raises_its_epoch(store: &dyn Store) {
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

pub async fn the_catalogue_comes_back_as_it_was_put(store: &dyn Store) {
    let fixture = Fixture::new();
    assert_eq!(store.catalog().await.expect("reads").epoch, CatalogEpoch(0));
    let connection = connection(fixture.id(T0));
    let subscription = Subscription {
        connection: Some(connection.id),
        disabled_reason: Some("gone".to_owned()),
        ordered: true,
        ..fixture.subscription(T0)
    };
    store.put_connection(connection.clone()).await.expect("put");
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    store.put_event_type(event_type("a.b")).await.expect("put");
    let later = EventType {
        display_name: "Other".to_owned(),
        created_at: Timestamp(5),
        ..event_type("a.b")
    };
    store.put_event_type(later).await.expect("replaces");
    let key = key(fixture.id(T0), 1);
    store.put_key(key.clone()).await.expect("put");
    let catalog = store.catalog().await.expect("reads");
    assert_eq!(catalog.subscriptions, [subscription]);
    assert_eq!(catalog.connections, [connection]);
    assert_eq!(catalog.keys, [key]);
    let kept = EventType {
        display_name: "Other".to_owned(),
        ..event_type("a.b")
    };
    assert_eq!(catalog.event_types, [kept], "created_at stays");
}

pub async fn what_is_in_use_cannot_be_deleted(store: &dyn Store) {
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

pub async fn grants_and_keys_come_back_as_they_were_put(store: &dyn Store) {
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
