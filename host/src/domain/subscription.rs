//! Subscriptions and connections.

use std::sync::Arc;

use super::clock::Timestamp;
use super::event::{Event, EventPattern};
use super::id::{ConnectionId, SubscriptionId};
use super::provider::ProviderId;
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
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Subscription {
    /// Whether a delivery of `event` is to be created.
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
