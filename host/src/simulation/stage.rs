//! What is configured before a run: an event type, and a subscription of each kind.

use std::sync::Arc;

use serde_json::json;

use super::time::{MachineClock, bits};
use super::world::World;
use crate::dispatch::{Ids, operational};
use crate::domain::circuit::CircuitPolicy;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::event::{EventPattern, EventType, EventTypeName};
use crate::domain::id::SubscriptionId;
use crate::domain::provider::ProviderId;
use crate::domain::retry::RetryPolicy;
use crate::domain::subscription::{Flow, RateLimit, RatePeriod, SealedDocument, Subscription};
use crate::store::CatalogStore as _;

/// What is emitted.
pub(super) const EVENT_TYPE: &str = "sim.event";
/// Attempts at once of the subscription with a concurrency of its own.
pub(super) const CONCURRENCY: u32 = 2;
/// Its rate.
pub(super) const RATE: RateLimit = RateLimit {
    attempts: 2,
    per: RatePeriod::Second,
    burst: 3,
};

/// The subscriptions.
pub(super) struct Stage {
    /// Nothing special.
    pub(super) plain: SubscriptionId,
    /// One correlation key in order.
    pub(super) ordered: SubscriptionId,
    /// With a rate and a concurrency.
    pub(super) limited: SubscriptionId,
    /// With a content filter.
    pub(super) filtered: SubscriptionId,
    /// Its receiver says no for good at times, and it has two attempts.
    pub(super) strict: SubscriptionId,
    /// It may be switched off and deleted.
    pub(super) doomed: SubscriptionId,
}

/// A subscription of [`EVENT_TYPE`].
pub(super) fn subscription(id: SubscriptionId, name: &str, at: Timestamp) -> Subscription {
    Subscription {
        id,
        name: name.to_owned(),
        events: EventPattern::parse(EVENT_TYPE).expect("a pattern"),
        provider: ProviderId::parse("fake").expect("an id"),
        config: SealedDocument {
            version: 1,
            json: json!({}),
        },
        connection: None,
        system_filter: Vec::new(),
        filter: None,
        transform: None,
        enabled: true,
        disabled_reason: None,
        paused: false,
        ordered: false,
        retry: Some(RetryPolicy {
            delays_ms: vec![1_000, 3_000, 10_000],
        }),
        timeout_ms: None,
        flow: Flow {
            circuit: Some(CircuitPolicy {
                failures: 5,
                probe_after_ms: 2_000,
                probe_after_ms_max: 8_000,
            }),
            ..Flow::default()
        },
        created_at: at,
        updated_at: at,
    }
}

impl Stage {
    /// Sets it, straight in the store.
    pub(super) async fn set(world: &World) -> Self {
        let store = &world.store;
        let clock: Arc<dyn Clock> = Arc::new(MachineClock::new(world.time.clone()));
        let ids = Ids::new(bits);
        let now = clock.now();
        let name = EventTypeName::parse(EVENT_TYPE).expect("a name");
        let registered = store.put_event_type(EventType::new(name, now)).await;
        registered.expect("nothing is lost yet");
        let registered = operational::register(store, &clock).await;
        registered.expect("nothing is lost yet");
        let put = async |name: &str, change: &dyn Fn(&mut Subscription)| {
            let id = ids.next(now);
            let mut subscription = subscription(id, name, now);
            change(&mut subscription);
            let put = store.put_subscription(subscription).await;
            put.expect("nothing is lost yet");
            id
        };
        Self {
            plain: put("plain", &|_| {}).await,
            ordered: put("ordered", &|own| own.ordered = true).await,
            limited: put("limited", &|own| {
                own.flow = Flow {
                    rate: Some(RATE),
                    concurrency: Some(CONCURRENCY),
                    circuit: None,
                };
            })
            .await,
            filtered: put("filtered", &|own| own.filter = Some("wanted".into())).await,
            strict: put("strict", &|own| {
                own.retry = Some(RetryPolicy {
                    delays_ms: vec![500],
                });
            })
            .await,
            doomed: put("doomed", &|_| {}).await,
        }
    }
}
