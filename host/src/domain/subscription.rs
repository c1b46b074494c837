//! Subscriptions and connections.

use std::sync::Arc;

use super::circuit::CircuitPolicy;
use super::clock::Timestamp;
use super::event::{Event, EventPattern};
use super::id::{ConnectionId, SubscriptionId};
use super::provider::ProviderId;
use super::rate::Rate;
use super::retry::RetryPolicy;

/// A JSON document whose secret leaves are sealed by the vault: safe to store, not to show.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedDocument {
    /// The schema version it was written for.
    pub version: u32,
    /// The document.
    pub json: serde_json::Value,
}

/// Site-wide shared credentials for one provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Its identifier.
    pub id: ConnectionId,
    /// For people.
    pub name: String,
    /// The provider that it belongs to.
    pub provider: ProviderId,
    /// What the provider's connection schema describes.
    pub document: SealedDocument,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// How often a destination is called at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Attempts in each period, on average.
    pub attempts: u32,
    /// The period.
    pub per: RatePeriod,
    /// Attempts at once.
    pub burst: u32,
}

/// What a rate is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatePeriod {
    /// Seconds.
    Second,
    /// Minutes.
    Minute,
}

impl RateLimit {
    /// The limit as a rate.
    #[must_use]
    pub fn rate(self) -> Rate {
        match self.per {
            RatePeriod::Second => Rate::per_second(self.attempts, self.burst),
            RatePeriod::Minute => Rate::per_minute(self.attempts, self.burst),
        }
    }
}

/// How fast a destination is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `None`: as often as there is something to deliver.
    pub rate: Option<RateLimit>,
    /// Attempts under way at the same time; `None`: the gateway's own share for a subscription.
    pub concurrency: Option<u32>,
    /// When a destination that fails is held back; `None`: never.
    pub circuit: Option<CircuitPolicy>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            rate: None,
            concurrency: None,
            circuit: Some(CircuitPolicy::default()),
        }
    }
}

impl Flow {
    /// Whether claims have to look at what the subscription has under way.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.rate.is_some() || self.concurrency.is_some()
    }
}

/// Which event goes where.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its identifier.
    pub id: SubscriptionId,
    /// For people.
    pub name: String,
    /// The event types wanted.
    pub events: EventPattern,
    /// Who carries the event out.
    pub provider: ProviderId,
    /// What the provider's config schema describes.
    pub config: SealedDocument,
    /// The shared credentials, where the provider has a connection schema.
    pub connection: Option<ConnectionId>,
    /// Systems wanted; empty: all.
    pub system_filter: Vec<String>,
    /// A jq condition that an event must pass.
    pub filter: Option<Arc<str>>,
    /// A jq program that makes the payload for the provider.
    pub transform: Option<Arc<str>>,
    /// Switched off: new events are not matched, queued deliveries are cancelled.
    pub enabled: bool,
    /// Why the gateway itself switched it off.
    pub disabled_reason: Option<String>,
    /// Paused: new events are matched and queued, nothing is sent until it is resumed.
    pub paused: bool,
    /// Deliveries of one correlation key go out in order of acceptance.
    pub ordered: bool,
    /// `None`: the default schedule.
    pub retry: Option<RetryPolicy>,
    /// Wall-clock deadline of one attempt, in milliseconds; `None`: the provider's default.
    pub timeout_ms: Option<u32>,
    /// How fast its destination is called.
    pub flow: Flow,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Subscription {
    /// Whether a delivery of `event` is to be created, as far as the filter has nothing against it.
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.enabled
            && self.events.matches(event.event_type.as_str())
            && (self.system_filter.is_empty()
                || event
                    .system_ids
                    .iter()
                    .any(|id| self.system_filter.contains(id)))
    }

    /// What keeps the deliveries of one correlation key in order, when order is asked for.
    #[must_use]
    pub fn ordering_key(&self, event: &Event) -> Option<Arc<str>> {
        let key = event.correlation_key.as_ref()?;
        self.ordered.then(|| format!("{}:{key}", self.id).into())
    }
}
