//! Calls of the world `source`: what the ingress asks of a component.

use std::sync::Arc;

use async_trait::async_trait;
use wasmtime::Store;

use super::bindings::source::Source;
use super::bindings::source::hookport::provider::inbound as wit;
use super::call::AsyncCall;
use super::component::LoadedComponent;
use super::state::{CallState, MESSAGE_BYTES_MAX};
use super::{CallFailure, CallReport, GuestDocument};
use crate::domain::clock::{self, Timestamp};
use crate::domain::provider::{Descriptor, ProviderId};
use crate::domain::retry::RetryAdvice;

/// Events of one webhook.
const EVENTS_MAX: usize = 100;

/// An inbound webhook for a source.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// The name under which the source is set up.
    pub source: String,
    /// When it arrived.
    pub received_at: Timestamp,
    /// The URL's query, without `?`.
    pub query: String,
    /// Names in lower case. Credentials and signatures only for `verify`.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: bytes::Bytes,
    /// The source's config.
    pub config: GuestDocument,
}

/// An event as a source tells it; nothing of it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormalizedEvent {
    /// The sender's identifier of what happened.
    pub external_id: Option<String>,
    /// Fully qualified type.
    pub event_type: String,
    /// RFC 3339.
    pub occurred_at: Option<String>,
    /// Ties events of one subject together.
    pub correlation_key: Option<String>,
    /// The systems concerned.
    pub system_ids: Vec<String>,
    /// JSON text.
    pub payload: String,
}

/// What a webhook came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// These events.
    Events(Vec<NormalizedEvent>),
    /// Nothing to emit, and why; sanitised.
    Ignored(String),
}

/// The installed sources, as the ingress sees them.
#[async_trait]
pub trait Sources: Send + Sync + 'static {
    /// The descriptor of the source that answers calls.
    fn source(&self, id: &ProviderId) -> Option<Arc<Descriptor>>;

    /// Has the component verify a webhook. `Provider` failures hold the reason.
    async fn verify(&self, id: &ProviderId, webhook: Webhook) -> CallReport<()>;

    /// The events of a verified webhook.
    async fn normalize(&self, id: &ProviderId, webhook: Webhook) -> CallReport<Normalized>;
}

impl LoadedComponent {
    /// Has the component verify a webhook.
    pub async fn verify(&self, webhook: Webhook) -> CallReport<()> {
        let context = self.context(webhook.config.clone(), None, "verify".into(), None);
        self.run(context, Verify(webhook)).await
    }

    /// The events of a verified webhook.
    pub async fn normalize(&self, webhook: Webhook) -> CallReport<Normalized> {
        let context = self.context(webhook.config.clone(), None, "normalize".into(), None);
        self.run(context, Normalize(webhook)).await
    }
}

impl From<Webhook> for wit::Webhook {
    fn from(webhook: Webhook) -> Self {
        Self {
            source: webhook.source,
            received_at: clock::rfc3339(webhook.received_at),
            query: webhook.query,
            headers: webhook.headers,
            body: webhook.body.to_vec(),
            config: webhook.config.json.to_string(),
        }
    }
}

struct Verify(Webhook);

impl AsyncCall<()> for Verify {
    type World = Source;

    async fn call(
        self,
        source: &Source,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<(), CallFailure>> {
        let answer = source.call_verify(&mut *store, &self.0.into()).await?;
        Ok(answer.map_err(|text| own_error(store, text)))
    }
}

struct Normalize(Webhook);

impl AsyncCall<Normalized> for Normalize {
    type World = Source;

    async fn call(
        self,
        source: &Source,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<Normalized, CallFailure>> {
        let answer = source.call_normalize(&mut *store, &self.0.into()).await?;
        Ok(match answer {
            Ok(events) if events.len() > EVENTS_MAX => Err(CallFailure::Limit(format!(
                "{} events from one webhook, more than {EVENTS_MAX}",
                events.len()
            ))),
            Ok(events) => Ok(Normalized::Events(
                events.into_iter().map(NormalizedEvent::from).collect(),
            )),
            Err(wit::NormalizeError::Ignored(text)) => Ok(Normalized::Ignored(
                store.data().shared.sanitize(text, MESSAGE_BYTES_MAX),
            )),
            Err(wit::NormalizeError::Invalid(text)) => Err(own_error(store, text)),
        })
    }
}

impl From<wit::NormalizedEvent> for NormalizedEvent {
    fn from(event: wit::NormalizedEvent) -> Self {
        Self {
            external_id: event.external_id,
            event_type: event.event_type,
            occurred_at: event.occurred_at,
            correlation_key: event.correlation_key,
            system_ids: event.system_ids,
            payload: event.payload,
        }
    }
}

fn own_error(store: &Store<CallState>, text: String) -> CallFailure {
    CallFailure::Provider {
        message: store.data().shared.sanitize(text, MESSAGE_BYTES_MAX),
        retry: RetryAdvice::Never,
    }
}
