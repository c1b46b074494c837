//! The ingress part of the system of record: webhooks, their events, what was refused.

use std::sync::Arc;

use async_trait::async_trait;

use super::{CatalogEpoch, Page, Result};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::NewDelivery;
use crate::domain::event::Event;
use crate::domain::id::{EventId, SourceId, WebhookId};
use crate::domain::source::{InboundWebhook, Rejection, WebhookState};

/// An event of a webhook with what makes it unique.
#[derive(Clone, Debug)]
pub struct KeyedEvent {
    /// `source:external-id` or `source:payload:sha256`.
    pub key: String,
    /// The event.
    pub event: Arc<Event>,
}

/// A webhook to be put on record with its events, all or nothing.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// The webhook. When it has events, its state and its list of events are decided by the store:
    /// those whose key is known are not accepted again. When it has none, both are kept as they are.
    pub webhook: InboundWebhook,
    /// The events.
    pub events: Vec<KeyedEvent>,
    /// The deliveries of the events.
    pub deliveries: Vec<NewDelivery>,
    /// The epoch of the catalog that the deliveries were matched against.
    pub epoch: CatalogEpoch,
    /// When a broker, which is told of them after the commit, has them come out.
    pub queued_for: Option<Timestamp>,
}

/// What became of a [`ReceiveRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// On record.
    Done {
        /// What became of the webhook.
        state: WebhookState,
        /// Its events, in order, accepted now or before.
        events: Vec<EventId>,
    },
    /// The catalog has changed since: match again.
    StaleCatalog,
}

/// Which webhooks to list. All given conditions hold, before the page is cut.
#[derive(Clone, Debug, Default)]
pub struct WebhookFilter {
    /// Of this source.
    pub source: Option<SourceId>,
    /// In this state.
    pub state: Option<WebhookState>,
    /// Received at or after.
    pub from: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
}

/// Inbound webhooks.
#[async_trait]
pub trait IngressStore: Send + Sync + 'static {
    /// Writes a webhook, its new events and their deliveries in one durable transaction; a webhook
    /// with that identifier is replaced. Concurrent calls share a commit.
    ///
    /// # Errors
    /// `Unavailable`: nothing is on record as far as the caller may claim.
    async fn receive(&self, request: ReceiveRequest) -> Result<Received>;

    /// The webhook, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn webhook(&self, id: WebhookId) -> Result<Option<InboundWebhook>>;

    /// Webhooks after the cursor `after` (exclusive), newest first, without their bodies.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn webhooks(
        &self,
        filter: &WebhookFilter,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Page<InboundWebhook>>;

    /// Notes a webhook that was refused. Only the last few of each source are kept.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn reject(&self, rejection: Rejection) -> Result<()>;

    /// What a source refused last, newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn rejections(&self, source: SourceId) -> Result<Vec<Rejection>>;
}
