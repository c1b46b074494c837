//! What every back end must do: plain functions over `&dyn Store`, each called by a named test of
//! every back end through [`cases`].

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{
    AcceptRequest, Accepted, Caps, CatalogEpoch, Claim, ClaimRequest, DeliveryFilter,
    DocumentChanges, EventFilter, GrantRecord, IdempotencyKey, KeyedEvent, ReceiveRequest,
    Received, Recorded, Store, StoreError, WebhookFilter,
};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{
    Attempt, DeliveryState, FencingToken, FirstLease, LeaseResult, LeasedDelivery, LogLine,
    NewDelivery, Outcome, Transition,
};
use crate::domain::event::{Event, EventPattern, EventType, EventTypeName};
use crate::domain::id::{
    ConnectionId, EventId, IdGenerator, KeyId, SourceId, SubscriptionId, WorkerId,
};
use crate::domain::key::{ApiKey, Role};
use crate::domain::provider::{Grant, Permissions, ProviderId};
use crate::domain::retry::RetryPolicy;
use crate::domain::source::{InboundWebhook, Rejection, Source, SourceName, WebhookState};
use crate::domain::subscription::{
    Connection, Flow, RateLimit, RatePeriod, SealedDocument, Subscription,
};
use crate::domain::trace::TraceParent;

mod accept;
mod audit;
mod catalog;
mod holding;
mod ingress;
mod lease;
mod listing;
mod outbox;
mod records;
mod replay;
mod vault;

pub(crate) use accept::*;
pub(crate) use audit::*;
pub(crate) use catalog::*;
pub(crate) use holding::*;
pub(crate) use ingress::*;
pub(crate) use lease::*;
pub(crate) use listing::*;
pub(crate) use outbox::*;
pub(crate) use records::*;
pub(crate) use replay::*;
pub(crate) use vault::*;

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
            a_delivery_may_be_leased_as_it_is_accepted,
            an_idempotency_key_gives_the_first_events_again,
            an_idempotency_key_holds_among_fifty_callers_at_once,
            a_stale_catalogue_accepts_nothing,
            documents_are_replaced_all_or_none,
            entries_are_listed_by_each_filter_a_page_at_a_time,
            a_change_and_its_entry_are_written_together_or_not_at_all,
            a_delivery_that_is_given_up_brings_its_entry,
            entries_added_at_once_make_one_chain,
            what_was_said_before_is_not_said_again,
            what_a_process_says_of_its_keys_is_known_until_it_is_gone,
            a_replay_makes_due_what_failed_and_each_page_once,
            a_replay_creates_deliveries_under_the_current_catalogue_only,
            dead_letters_are_listed_by_failure_and_filtered,
            a_requeued_dead_letter_has_a_full_round_and_only_where_it_can_go,
            a_discarded_dead_letter_is_at_its_end,
            a_run_goes_through_dead_letters_once_whoever_carries_it_out,
            jobs_tell_what_made_them_due_and_who_did_them,
            jobs_are_filtered_and_paged,
            what_is_old_and_at_its_end_is_removed_and_nothing_else,
            what_a_replay_needs_stays_until_it_has_gone_through_it,
            old_idempotency_keys_are_removed,
            external_ids_go_with_the_last_event_of_their_key,
            old_webhooks_and_their_keys_are_removed,
            a_duty_is_one_process_s_at_a_time,
            a_claim_takes_the_oldest_up_to_its_limit,
            the_oldest_that_is_due_says_how_long_work_waits,
            a_claim_passes_over_subscriptions_without_room,
            a_claim_takes_no_more_than_the_cap,
            a_long_backlog_held_back_does_not_hide_others,
            order_holds_beside_a_long_backlog,
            an_attempt_of_a_parked_delivery_is_logged_and_not_counted,
            what_the_filter_does_not_want_is_at_its_end,
            open_circuits_stay_until_they_close_or_something_changes,
            a_lease_is_exclusive_until_it_ends,
            a_result_under_a_lost_lease_is_refused,
            attempts_are_counted_when_recorded,
            a_released_lease_costs_no_attempt,
            what_a_worker_does_not_know_that_it_holds_goes_back,
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
            a_webhook_and_its_events_are_on_record_together,
            what_happened_once_is_accepted_once_among_fifty_webhooks_at_once,
            a_webhook_known_to_be_a_duplicate_names_the_events_of_the_first,
            a_webhook_that_failed_can_take_its_events_later,
            webhooks_are_filtered_before_the_page_is_cut,
            only_the_last_rejections_of_a_source_are_kept,
            sources_come_back_as_they_were_put_and_names_are_unique,
        );
    };
}
pub(crate) use cases;

const T0: Timestamp = Timestamp(1_700_000_000_000);
const LEASE: Duration = Duration::from_secs(60);

/// Beyond any lease of a real clock.
const FAR: Timestamp = Timestamp(5_000_000_000_000);

/// A delivery that `worker` has leased for ever.
pub(crate) async fn leased_by(store: &dyn Store, worker: WorkerId) -> LeasedDelivery {
    let fixture = Fixture::new();
    fixture.one(store).await;
    let request = ClaimRequest {
        worker,
        now: T0,
        lease_until: FAR,
        limit: 10,
        caps: Caps::new(),
    };
    let mut claim = store.claim(request).await.expect("claims");
    claim.leased.pop().expect("a delivery")
}

/// What `worker` can have well before [`FAR`].
pub(crate) async fn claim_by(store: &dyn Store, worker: WorkerId) -> Claim {
    let request = ClaimRequest {
        worker,
        now: Timestamp(FAR.0 - 1_000_000_000),
        lease_until: FAR,
        limit: 10,
        caps: Caps::new(),
    };
    store.claim(request).await.expect("claims")
}

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
            trace: Some(TraceParent {
                trace: 0x4bf9_2f35,
                span: 7,
                sampled: true,
            }),
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
            filter: Some(".payload.n == 1".into()),
            transform: Some("{n: .payload.n}".into()),
            enabled: true,
            disabled_reason: None,
            paused: false,
            ordered: false,
            retry: Some(RetryPolicy { delays_ms: vec![5] }),
            timeout_ms: Some(1_000),
            flow: Flow::default(),
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

    /// A delivery of `event`, due at once.
    fn delivery(&self, subscription: SubscriptionId, event: &Event) -> NewDelivery {
        NewDelivery {
            id: self.id(event.received_at),
            event_id: event.id,
            subscription_id: subscription,
            provider: provider(),
            ordering_key: None,
            lease: None,
        }
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
            ordering_key: ordering_key.map(Arc::from),
            ..self.delivery(subscription, &event)
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
            caps: Caps::new(),
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
        queued_for: None,
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
        job: leased.job,
        at: T0,
        entry: None,
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
