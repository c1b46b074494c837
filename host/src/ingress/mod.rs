//! Inbound webhooks: rate limit, verification over the raw bytes, normalisation by the source's
//! component, idempotency, and one transaction for everything that comes of it.
//!
//! Invariant: a webhook is answered as taken only when it is on record, verified, with its events
//! and their deliveries. One that was verified and could not be turned into events is kept, so
//! that it can be tried again. Nothing secret of a webhook is kept or shown to the component that
//! normalises it.

pub mod limiter;
pub mod redaction;
pub mod verification;
pub mod verify;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::coord::markers::MarkerKey;
use crate::dispatch::accept::{self, Accepter, Emit};
use crate::dispatch::open_source::OpenSource;
use crate::dispatch::operational;
use crate::dispatch::snapshot::Snapshot;
use crate::domain::audit::NewEntry;
use crate::domain::clock::{Timestamp, parse_rfc3339};
use crate::domain::event::{Event, EventType, EventTypeName};
use crate::domain::id::{EventId, WebhookId};
use crate::domain::schema::Violation;
use crate::domain::source::{InboundWebhook, Rejection, WebhookState};
use crate::plugin::CallFailure;
use crate::plugin::source::{Normalized, NormalizedEvent, Sources, Webhook};
use crate::queue::Announcement;
use crate::store::{KeyedEvent, ReceiveRequest, Received, Store, StoreError};
use crate::telemetry;
use crate::vault::{Vault, VaultError};
use limiter::Limiter;
use verify::{Message, Scheme, Unverified};

/// How often a changed catalogue is matched again before giving up.
const MATCH_TRIES_MAX: usize = 5;
/// A source registers no further types by itself beyond so many in the catalogue.
const EVENT_TYPES_MAX: usize = 5_000;
/// Longest identifier that a sender gives to what happened, in bytes.
const EXTERNAL_ID_BYTES_MAX: usize = 512;
/// Longest correlation key, in bytes.
const CORRELATION_KEY_BYTES_MAX: usize = 256;

/// A webhook as it came.
#[derive(Debug)]
pub struct Incoming {
    /// From where.
    pub remote_address: IpAddr,
    /// The URL's query, without `?`.
    pub query: String,
    /// Every header.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What became of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its identifier.
    pub id: WebhookId,
    /// What became of it.
    pub state: WebhookState,
    /// Its events, accepted now or before.
    pub events: Vec<EventId>,
    /// Why it was ignored or failed.
    pub reason: Option<String>,
}

/// Why a webhook was not taken; nothing of it is on record but the reason.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no source of that name.
    #[error("there is no source {0:?}")]
    UnknownSource(String),
    /// The source is switched off.
    #[error("the source is switched off")]
    Disabled,
    /// Too many came from this address.
    #[error("too many webhooks from this address")]
    RateLimited {
        /// When the next one is taken.
        retry_after_ms: u64,
    },
    /// It is not from who it says, or too old.
    #[error("{0}")]
    Unverified(String),
    /// A secret of the source cannot be opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store failed; the sender may try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes webhooks.
pub struct Ingress {
    /// Where they are kept.
    pub store: Arc<dyn Store>,
    /// Where types are registered.
    pub catalog: Arc<dyn Store>,
    /// What checks and matches events.
    pub accepter: Arc<Accepter>,
    /// The components.
    pub sources: Arc<dyn Sources>,
    /// What opens secrets.
    pub vault: Arc<Vault>,
    /// What addresses may send.
    pub limiter: Limiter,
}

impl Ingress {
    /// The source that a webhook is for, before anything of its body is read.
    ///
    /// # Errors
    /// `UnknownSource`, `Disabled`, `RateLimited`.
    pub async fn admit(&self, name: &str, from: IpAddr) -> Result<Arc<OpenSource>, Refusal> {
        let snapshot = self.accepter.snapshots.current();
        let limited = |retry_after_ms| Refusal::RateLimited { retry_after_ms };
        let Some(open) = snapshot.sources.get(name) else {
            // Whoever guesses names is slowed down, too.
            self.limiter.admit_unknown(from).await.map_err(limited)?;
            return Err(Refusal::UnknownSource(name.chars().take(64).collect()));
        };
        let source = &open.source;
        self.limiter
            .admit(source.id, source.rate(), from)
            .await
            .map_err(limited)?;
        if !source.enabled {
            return Err(Refusal::Disabled);
        }
        Ok(open.clone())
    }

    /// Verifies a webhook, turns it into events and puts all of it on record.
    ///
    /// # Errors
    /// `Unverified`, `Vault`, `Store`.
    pub async fn receive(&self, open: &OpenSource, incoming: Incoming) -> Result<Receipt, Refusal> {
        let now = self.accepter.clock.now();
        let verification = open.verification(&self.vault)?;
        if let Err(reason) = self.verify(open, &incoming, now).await? {
            let rejection = Rejection {
                source: open.source.id,
                at: now,
                remote_address: incoming.remote_address,
                reason: reason.clone(),
            };
            self.store.reject(rejection).await?;
            return Err(Refusal::Unverified(reason));
        }
        let webhook = InboundWebhook {
            id: self.accepter.ids.next(now),
            source: open.source.id,
            received_at: now,
            remote_address: incoming.remote_address,
            query: redaction::query(&incoming.query, &verification.scheme),
            headers: redaction::headers(&incoming.headers, &verification.scheme),
            body: incoming.body,
            state: WebhookState::Failed,
            reason: None,
            events: Vec::new(),
        };
        self.take(&*self.store, open, webhook).await
    }

    /// Tries a webhook on record again: with the component, the config and the event types of now.
    /// `entry` goes into the audit trail.
    ///
    /// # Errors
    /// `Vault`, `Store`.
    pub async fn retry(
        &self,
        open: &OpenSource,
        webhook: InboundWebhook,
        entry: NewEntry,
    ) -> Result<Receipt, Refusal> {
        let store = self.store.audited(entry);
        self.take(&*store, open, webhook).await
    }

    async fn verify(
        &self,
        open: &OpenSource,
        incoming: &Incoming,
        now: Timestamp,
    ) -> Result<Result<(), String>, VaultError> {
        let verification = open.verification(&self.vault)?;
        if !matches!(verification.scheme, Scheme::Component {}) {
            let message = Message {
                headers: &incoming.headers,
                query: &incoming.query,
                body: &incoming.body,
            };
            let secrets = verification.active(now);
            let verified = verification.scheme.verify(&secrets, message, now);
            return Ok(verified.map_err(|reason| reason.to_string()));
        }
        let webhook = Webhook {
            source: open.source.name.as_str().to_owned(),
            received_at: now,
            query: incoming.query.clone(),
            headers: redaction::all_headers(&incoming.headers),
            body: incoming.body.clone(),
            config: open.config(&self.vault)?,
        };
        let report = self.sources.verify(&open.source.component, webhook).await;
        Ok(report.result.map_err(|failure| match failure {
            CallFailure::Provider { message, .. } => message,
            other => {
                tracing::warn!(source = open.source.name.as_str(), failure = %other, "a source could not verify a webhook");
                Unverified::Mismatch.to_string()
            }
        }))
    }

    async fn take(
        &self,
        store: &dyn Store,
        open: &OpenSource,
        webhook: InboundWebhook,
    ) -> Result<Receipt, Refusal> {
        let Some(mut span) = accept::sending(std::iter::once(open.source.name.as_str())) else {
            return self.take_here(store, open, webhook).await;
        };
        let taken = telemetry::under(Some(&span), self.take_here(store, open, webhook)).await;
        match &taken {
            Ok(receipt) => {
                span.set("hookport.webhook.id", receipt.id.to_string());
                span.set("hookport.webhook.state", receipt.state.as_str());
                accept::tell_ids(&mut span, receipt.events.iter().copied());
            }
            Err(_) => span.fail("store"),
        }
        taken
    }

    /// The same, under the span that is current.
    async fn take_here(
        &self,
        store: &dyn Store,
        open: &OpenSource,
        mut webhook: InboundWebhook,
    ) -> Result<Receipt, Refusal> {
        let call = Webhook {
            source: open.source.name.as_str().to_owned(),
            received_at: webhook.received_at,
            query: webhook.query.clone(),
            headers: webhook.headers.clone(),
            body: webhook.body.clone(),
            config: open.config(&self.vault)?,
        };
        let report = self.sources.normalize(&open.source.component, call).await;
        let normalized = match report.result {
            Ok(Normalized::Events(events)) if !events.is_empty() => Ok(events),
            Ok(Normalized::Events(_)) => Err((
                WebhookState::Ignored,
                "the source found no event in it".to_owned(),
            )),
            Ok(Normalized::Ignored(reason)) => Err((WebhookState::Ignored, reason)),
            Err(failure) => Err((WebhookState::Failed, failure.to_string())),
        };
        let normalized = match normalized {
            Ok(events) => events,
            Err((state, reason)) => {
                (webhook.state, webhook.reason) = (state, Some(reason));
                return self.store_eventless(store, webhook).await;
            }
        };
        let keys = match keys(open, &webhook, &normalized) {
            Ok(keys) => keys,
            Err(reason) => {
                (webhook.state, webhook.reason) = (WebhookState::Failed, Some(reason));
                return self.store_eventless(store, webhook).await;
            }
        };
        if let Some(events) = self.known(&keys).await {
            webhook.state = WebhookState::Duplicate;
            (webhook.reason, webhook.events) = (None, events);
            return self.store_eventless(store, webhook).await;
        }
        self.register_missing(open, &normalized).await?;
        let mut snapshot = self.accepter.snapshots.current();
        for _ in 0..MATCH_TRIES_MAX {
            let events = self.events(&snapshot, &webhook, &normalized, &keys).await;
            let events = match events {
                Ok(events) => events,
                Err(reason) => {
                    (webhook.state, webhook.reason) = (WebhookState::Failed, Some(reason));
                    return self.store_eventless(store, webhook).await;
                }
            };
            let plain: Vec<Arc<Event>> = events.iter().map(|keyed| keyed.event.clone()).collect();
            let received_at = webhook.received_at;
            let mut deliveries = self.accepter.fan_out(&snapshot, &plain, received_at).await;
            let queue = &*self.accepter.queue;
            let mut announcement = Announcement::new(queue, &plain, &mut deliveries, received_at);
            let request = ReceiveRequest {
                deliveries,
                webhook: InboundWebhook {
                    reason: None,
                    ..webhook.clone()
                },
                events,
                epoch: snapshot.epoch,
                queued_for: announcement.queued_for(),
            };
            let commit = accept::committing();
            let received = store.receive(request).await?;
            drop(commit);
            match received {
                Received::Done { state, events } => {
                    if state == WebhookState::Accepted {
                        announcement.keep(&events);
                        announcement.make(snapshot.epoch);
                    } else {
                        announcement.withdraw();
                    }
                    for (key, event) in keys.iter().zip(&events) {
                        let marker = marker(key);
                        self.accepter.markers.remember(marker, &[*event]);
                    }
                    return Ok(Receipt {
                        id: webhook.id,
                        state,
                        events,
                        reason: None,
                    });
                }
                Received::StaleCatalog => {
                    announcement.withdraw();
                    snapshot = self.accepter.snapshots.renew().await?;
                }
            }
        }
        Err(catalogue_unsteady().into())
    }

    /// The events of a webhook all of whose keys have a marker.
    async fn known(&self, keys: &[String]) -> Option<Vec<EventId>> {
        let mut events = Vec::with_capacity(keys.len());
        for key in keys {
            let known = self.accepter.markers.known(&marker(key)).await?;
            events.extend(known.first());
        }
        Some(events)
    }

    /// Puts a webhook on record that makes no event.
    async fn store_eventless(
        &self,
        store: &dyn Store,
        webhook: InboundWebhook,
    ) -> Result<Receipt, Refusal> {
        for _ in 0..MATCH_TRIES_MAX {
            let request = ReceiveRequest {
                webhook: webhook.clone(),
                events: Vec::new(),
                deliveries: Vec::new(),
                epoch: self.accepter.snapshots.latest().await?.epoch,
                queued_for: None,
            };
            if let Received::Done { state, events } = store.receive(request).await? {
                return Ok(Receipt {
                    id: webhook.id,
                    state,
                    events,
                    reason: webhook.reason,
                });
            }
        }
        Err(catalogue_unsteady().into())
    }

    /// Registers types that a source emits and nobody registered, without a schema: a webhook is
    /// not to be lost because a sender has invented a new type.
    async fn register_missing(
        &self,
        open: &OpenSource,
        events: &[NormalizedEvent],
    ) -> Result<(), StoreError> {
        let known = |snapshot: &Snapshot, name: &str| snapshot.event_types.contains_key(name);
        let current = self.accepter.snapshots.current();
        if events
            .iter()
            .all(|event| known(&current, &event.event_type))
        {
            return Ok(());
        }
        let edit = self.accepter.snapshots.edit().await?;
        let room = EVENT_TYPES_MAX.saturating_sub(edit.snapshot.event_types.len());
        let mut names: Vec<_> = events
            .iter()
            .filter(|event| !known(&edit.snapshot, &event.event_type))
            .filter(|event| !event.event_type.starts_with(operational::PREFIX))
            .filter_map(|event| EventTypeName::parse(&event.event_type).ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        let now = self.accepter.clock.now();
        for name in names.into_iter().take(room) {
            let event_type = EventType {
                description: format!("First seen from the source {}.", open.source.name.as_str()),
                ..EventType::new(name, now)
            };
            let name = event_type.name.as_str();
            let process = self.accepter.process.clone();
            let seen = json!({"name": name, "source": open.source.name.as_str()});
            let entry = NewEntry::new(now, process, "event_type.created", "event_type", name);
            let store = self.catalog.audited(entry.after(&seen));
            store.put_event_type(event_type).await?;
        }
        edit.done().await
    }

    /// The events of a webhook, or why there are none.
    async fn events(
        &self,
        snapshot: &Snapshot,
        webhook: &InboundWebhook,
        normalized: &[NormalizedEvent],
        keys: &[String],
    ) -> Result<Vec<KeyedEvent>, String> {
        let mut keyed = Vec::with_capacity(normalized.len());
        for (index, (event, key)) in normalized.iter().zip(keys).enumerate() {
            let emit = emit(event).map_err(|reason| format!("event {index}: {reason}"))?;
            let prepared = self
                .accepter
                .event(snapshot, &emit, webhook.received_at)
                .await
                .map_err(|violations| format!("event {index}: {}", first(&violations)))?;
            keyed.push(KeyedEvent {
                key: key.clone(),
                event: prepared,
            });
        }
        Ok(keyed)
    }
}

/// What makes each event of a webhook unique, or why one is not.
fn keys(
    open: &OpenSource,
    webhook: &InboundWebhook,
    normalized: &[NormalizedEvent],
) -> Result<Vec<String>, String> {
    let name = open.source.name.as_str();
    let mut keys: Vec<String> = Vec::with_capacity(normalized.len());
    for (index, event) in normalized.iter().enumerate() {
        let key = match &event.external_id {
            Some(id) => format!("{name}:{id}"),
            None if index == 0 => format!("{name}:payload:{}", payload_hash(&webhook.body)),
            None => format!("{name}:payload:{}:{index}", payload_hash(&webhook.body)),
        };
        if keys.contains(&key) {
            return Err(format!(
                "event {index}: external-id: the same as an earlier event's of this webhook"
            ));
        }
        keys.push(key);
    }
    Ok(keys)
}

fn marker(key: &str) -> MarkerKey {
    MarkerKey::new(&[b"webhook", key.as_bytes()])
}

fn catalogue_unsteady() -> StoreError {
    StoreError::Unavailable("the catalogue kept changing while the webhook was matched".into())
}

fn first(violations: &[Violation]) -> String {
    violations.first().map_or_else(String::new, |violation| {
        format!("{}: {}", violation.pointer, violation.message)
    })
}

/// Checks what a component returned, and makes of it what the API would have got.
fn emit(event: &NormalizedEvent) -> Result<Emit, String> {
    if event.event_type.starts_with(operational::PREFIX) {
        return Err(format!(
            "event-type: {} is the gateway's own",
            operational::PREFIX
        ));
    }
    let external_id = event.external_id.as_deref().unwrap_or("-");
    if external_id.is_empty() || external_id.len() > EXTERNAL_ID_BYTES_MAX {
        return Err(format!(
            "external-id: give 1 to {EXTERNAL_ID_BYTES_MAX} bytes"
        ));
    }
    let correlation_key = event.correlation_key.as_deref().unwrap_or("-");
    if correlation_key.is_empty() || correlation_key.len() > CORRELATION_KEY_BYTES_MAX {
        return Err(format!(
            "correlation-key: give 1 to {CORRELATION_KEY_BYTES_MAX} bytes"
        ));
    }
    let occurred_at = match event.occurred_at.as_deref() {
        None => None,
        Some(text) => Some(parse_rfc3339(text).ok_or("occurred-at: not an RFC 3339 timestamp")?),
    };
    Ok(Emit {
        event_type: event.event_type.clone(),
        payload_text: event.payload.as_str().into(),
        occurred_at,
        correlation_key: event.correlation_key.clone(),
        system_ids: event.system_ids.clone(),
    })
}

/// SHA-256 of the body's canonical JSON: members sorted, no blanks. A body that is no JSON counts
/// as it is.
#[must_use]
pub fn payload_hash(body: &[u8]) -> String {
    let digest = match serde_json::from_slice::<Value>(body) {
        Ok(value) => Sha256::digest(canonical(value).to_string()),
        Err(_) => Sha256::digest(body),
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn canonical(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted = members.into_iter();
            Value::Object(
                sorted
                    .map(|(name, member)| (name, canonical(member)))
                    .collect(),
            )
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_payload_does_not_depend_on_order_or_blanks() {
        let hash = payload_hash(br#"{"b": [1, {"y": 1, "x": 2}], "a": null}"#);
        assert_eq!(hash, payload_hash(br#"{"a":null,"b":[1,{"x":2,"y":1}]}"#));
        assert_ne!(hash, payload_hash(br#"{"a":null,"b":[{"x":2,"y":1},1]}"#));
        assert_ne!(payload_hash(b"not json"), payload_hash(b"not json "));
    }

    #[test]
    fn nonsense_of_a_component_is_named() {
        let event = NormalizedEvent {
            external_id: Some("1".to_owned()),
            event_type: "a.b".to_owned(),
            occurred_at: Some("2024-01-01T00:00:00Z".to_owned()),
            correlation_key: None,
            system_ids: Vec::new(),
            payload: "{}".to_owned(),
        };
        assert!(emit(&event).is_ok());
        let check = |event: NormalizedEvent, field: &str| {
            let refused = emit(&event).expect_err(field);
            assert!(refused.starts_with(field), "{refused}");
        };
        let (long, empty) = ("x".repeat(600), String::new());
        check(
            NormalizedEvent {
                external_id: Some(long.clone()),
                ..event.clone()
            },
            "external-id",
        );
        check(
            NormalizedEvent {
                correlation_key: Some(empty),
                ..event.clone()
            },
            "correlation-key",
        );
        check(
            NormalizedEvent {
                occurred_at: Some("yesterday".to_owned()),
                ..event
            },
            "occurred-at",
        );
    }
}
