//! Accepting events: validate, match, fan out, commit.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::trace::SpanKind;
use serde_json::Value;

use super::programs::Programs;
use super::snapshot::{Snapshot, Snapshots};
use super::{Ids, operational};
use crate::coord::markers::{MarkerKey, Markers};
use crate::domain::audit::{Actor, NewEntry};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::NewDelivery;
use crate::domain::event::{Event, EventTypeName};
use crate::domain::id::{DeliveryId, EventId};
use crate::domain::schema::{self, Violation};
use crate::domain::subscription::Subscription;
use crate::metrics::Metrics;
use crate::queue::{Announcement, Queue};
use crate::store::{AcceptRequest, Accepted, IdempotencyKey, Store, StoreError};
use crate::telemetry::{self, Span};

/// Deepest nesting of a payload.
const DEPTH_MAX: usize = 64;
/// System identifiers of one event.
const SYSTEM_IDS_MAX: usize = 1_000;
/// How often a changed catalogue is matched again before giving up.
const MATCH_TRIES_MAX: usize = 5;

/// An event to be accepted, as the API got it.
#[derive(Clone, Debug)]
pub struct Emit {
    /// The name of its type.
    pub event_type: String,
    /// The payload's text as it came.
    pub payload_text: Box<str>,
    /// When it happened; `None`: now.
    pub occurred_at: Option<Timestamp>,
    /// Ties follow-up events to the first one.
    pub correlation_key: Option<String>,
    /// Systems named beside the payload.
    pub system_ids: Vec<String>,
}

/// Who emits, for idempotency.
#[derive(Clone, Debug)]
pub struct EmittedBy {
    /// The caller's own key and its scope, when it sent one.
    pub idempotency: Option<IdempotencyKey>,
}

/// An event accepted now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// Its identifier.
    pub id: EventId,
    /// Its type.
    pub event_type: String,
    /// When it was accepted.
    pub received_at: Timestamp,
    /// Deliveries created.
    pub deliveries: usize,
}

/// What became of the events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable.
    New(Vec<AcceptedEvent>),
    /// The same call was made before; these are its events.
    Duplicate(Vec<EventId>),
    /// The idempotency key was used with another body.
    KeyReused,
}

/// Why events were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// An event is wrong.
    #[error("the event is not acceptable")]
    Invalid {
        /// Its index in the batch.
        index: usize,
        /// What is wrong, by JSON Pointer within the event.
        violations: Vec<Violation>,
    },
    /// The store failed; nothing was accepted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Accepts events.
pub struct Accepter {
    /// Where to.
    pub store: Arc<dyn Store>,
    /// Whom to wake.
    pub queue: Arc<dyn Queue>,
    /// What is registered.
    pub snapshots: Arc<Snapshots>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Identifiers.
    pub ids: Arc<Ids>,
    /// What filters and transforms.
    pub programs: Arc<Programs>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known to have been accepted before.
    pub markers: Markers,
    /// Who this process is, in the audit trail.
    pub process: Actor,
}

/// The same key with another body has another marker, and so none: the store sees to it.
fn marker(idempotency: &IdempotencyKey) -> MarkerKey {
    let IdempotencyKey {
        scope,
        key,
        body_hash,
    } = idempotency;
    MarkerKey::new(&[b"event", scope.as_bytes(), key.as_bytes(), body_hash])
}

impl Accepter {
    /// Accepts `emits` together, all or none. When this returns `New`, they are durable.
    ///
    /// # Errors
    /// `Invalid` for the first event that is wrong; `Store`.
    pub async fn accept(&self, emits: &[Emit], by: EmittedBy) -> Result<Outcome, AcceptError> {
        let Some(mut span) = sending(emits.iter().map(|emit| &*emit.event_type)) else {
            return self.accept_here(emits, by).await;
        };
        let accepted = telemetry::under(Some(&span), self.accept_here(emits, by)).await;
        match &accepted {
            Ok(Outcome::New(events)) => tell_ids(&mut span, events.iter().map(|event| event.id)),
            Ok(Outcome::Duplicate(_)) => span.set("hookport.duplicate", true),
            Ok(Outcome::KeyReused) => span.fail("idempotency_key_reused"),
            Err(AcceptError::Invalid { .. }) => span.fail("invalid"),
            Err(AcceptError::Store(_)) => span.fail("store"),
        }
        accepted
    }

    /// The same, under the span that is current.
    async fn accept_here(&self, emits: &[Emit], by: EmittedBy) -> Result<Outcome, AcceptError> {
        let begun = Instant::now();
        let marker = by.idempotency.as_ref().map(marker);
        if let Some(marker) = &marker
            && let Some(ids) = self.markers.known(marker).await
        {
            return Ok(Outcome::Duplicate(ids));
        }
        let mut snapshot = self.snapshots.current();
        for _ in 0..MATCH_TRIES_MAX {
            let now = self.clock.now();
            let events = self.events(&snapshot, emits, now).await;
            let events = match events {
                Ok(events) => events,
                // The type may have been registered a moment ago, by another process.
                Err(error) => {
                    let latest = self.snapshots.latest().await?;
                    if latest.epoch == snapshot.epoch {
                        return Err(error);
                    }
                    snapshot = latest;
                    continue;
                }
            };
            let mut deliveries = self.fan_out(&snapshot, &events, now).await;
            let accepted: Vec<AcceptedEvent> = events
                .iter()
                .map(|event| AcceptedEvent {
                    id: event.id,
                    event_type: event.event_type.as_str().to_owned(),
                    received_at: now,
                    deliveries: deliveries
                        .iter()
                        .filter(|delivery| delivery.event_id == event.id)
                        .count(),
                })
                .collect();
            let announcement = Announcement::new(&*self.queue, &events, &mut deliveries, now);
            let commit = committing();
            let answer = self
                .store
                .accept(AcceptRequest {
                    events,
                    deliveries,
                    idempotency: by.idempotency.clone(),
                    epoch: snapshot.epoch,
                    at: now,
                    queued_for: announcement.queued_for(),
                })
                .await?;
            drop(commit);
            match answer {
                Accepted::New => {
                    self.metrics.accepted(emits.len(), begun.elapsed());
                    for event in &accepted {
                        tracing::debug!(event = %event.id, deliveries = event.deliveries, "accepted");
                    }
                    announcement.make(snapshot.epoch);
                    if let Some(marker) = marker {
                        let ids: Vec<EventId> = accepted.iter().map(|event| event.id).collect();
                        self.markers.remember(marker, &ids);
                    }
                    return Ok(Outcome::New(accepted));
                }
                Accepted::Duplicate(ids) => {
                    announcement.withdraw();
                    if let Some(marker) = marker {
                        self.markers.remember(marker, &ids);
                    }
                    return Ok(Outcome::Duplicate(ids));
                }
                Accepted::KeyReused => {
                    announcement.withdraw();
                    return Ok(Outcome::KeyReused);
                }
                Accepted::StaleCatalog => {
                    announcement.withdraw();
                    snapshot = self.snapshots.renew().await?;
                }
            }
        }
        Err(AcceptError::Store(StoreError::Unavailable(
            "the catalogue kept changing while the event was matched".into(),
        )))
    }

    /// Accepts an event for one subscription alone. `entry` goes into the audit trail.
    ///
    /// # Errors
    /// `Store`.
    pub async fn accept_for(
        &self,
        event: Event,
        subscription: &Subscription,
        entry: NewEntry,
    ) -> Result<(EventId, DeliveryId), AcceptError> {
        let store = self.store.audited(entry);
        let (now, event) = (event.received_at, Arc::new(event));
        let delivery = NewDelivery {
            id: self.ids.next(now),
            event_id: event.id,
            subscription_id: subscription.id,
            provider: subscription.provider.clone(),
            ordering_key: subscription.ordering_key(&event),
            lease: None,
        };
        for _ in 0..MATCH_TRIES_MAX {
            let epoch = self.snapshots.latest().await?.epoch;
            let (events, mut deliveries) = (vec![event.clone()], vec![delivery.clone()]);
            let announcement = Announcement::new(&*self.queue, &events, &mut deliveries, now);
            let request = AcceptRequest {
                events,
                deliveries,
                idempotency: None,
                epoch,
                at: now,
                queued_for: announcement.queued_for(),
            };
            if store.accept(request).await? == Accepted::New {
                announcement.make(epoch);
                return Ok((event.id, delivery.id));
            }
            announcement.withdraw();
        }
        Err(AcceptError::Store(StoreError::Unavailable(
            "the catalogue kept changing".into(),
        )))
    }

    /// Emits one of the gateway's own events. A failure is logged: there is nobody to tell.
    pub async fn emit_operational(&self, event_type: &str, payload: Value) {
        let emit = Emit {
            event_type: event_type.to_owned(),
            payload_text: payload.to_string().into(),
            occurred_at: None,
            correlation_key: None,
            system_ids: Vec::new(),
        };
        if let Err(error) = self.accept(&[emit], EmittedBy { idempotency: None }).await {
            tracing::warn!(%error, event_type, "an operational event could not be emitted");
        }
    }

    async fn events(
        &self,
        snapshot: &Snapshot,
        emits: &[Emit],
        now: Timestamp,
    ) -> Result<Vec<Arc<Event>>, AcceptError> {
        let mut events = Vec::with_capacity(emits.len());
        for (index, emit) in emits.iter().enumerate() {
            let event = self.event(snapshot, emit, now).await;
            events.push(event.map_err(|violations| AcceptError::Invalid { index, violations })?);
        }
        Ok(events)
    }

    /// An event that may be accepted, or what is wrong with it. Where its type has a transform,
    /// what comes out of it is the payload, and what the schema describes.
    pub(crate) async fn event(
        &self,
        snapshot: &Snapshot,
        emit: &Emit,
        now: Timestamp,
    ) -> Result<Arc<Event>, Vec<Violation>> {
        let event = self.untransformed(snapshot, emit, now)?;
        let Some(registered) = snapshot.event_types.get(&emit.event_type) else {
            return Ok(event);
        };
        let Some(program) = &registered.event_type.transform else {
            return Ok(event);
        };
        let fail = |message: String| Violation {
            pointer: "/payload".to_owned(),
            message: format!("the transform of {}: {message}", emit.event_type),
        };
        let payload = self.programs.transform(program, &event).await;
        let payload = payload.map_err(|failure| vec![fail(failure.to_string())])?;
        if let Some(validator) = &registered.validator {
            let value = serde_json::from_str(&payload).unwrap_or_default();
            let violations = schema::violations(validator, &value);
            if let Some(first) = violations.first() {
                let place = &first.pointer;
                return Err(vec![fail(format!("makes {place}: {}", first.message))]);
            }
        }
        Ok(Arc::new(Event {
            payload,
            ..(*event).clone()
        }))
    }

    fn untransformed(
        &self,
        snapshot: &Snapshot,
        emit: &Emit,
        now: Timestamp,
    ) -> Result<Arc<Event>, Vec<Violation>> {
        let fail = |pointer: &str, message: String| {
            Err(vec![Violation {
                pointer: pointer.to_owned(),
                message,
            }])
        };
        let Some(registered) = snapshot.event_types.get(&emit.event_type) else {
            return fail("/type", unknown_type(snapshot, &emit.event_type));
        };
        let payload: Value = match serde_json::from_str(&emit.payload_text) {
            Ok(payload) => payload,
            Err(error) => return fail("/payload", format!("not JSON: {error}")),
        };
        if !payload.is_object() {
            return fail("/payload", "must be a JSON object".to_owned());
        }
        if depth(&payload) > DEPTH_MAX {
            return fail("/payload", format!("nested deeper than {DEPTH_MAX} levels"));
        }
        if registered.event_type.transform.is_none()
            && let Some(validator) = &registered.validator
            && !validator.is_valid(&payload)
        {
            let mut violations = schema::violations(validator, &payload);
            for violation in &mut violations {
                violation.pointer.insert_str(0, "/payload");
            }
            return Err(violations);
        }
        let system_ids = system_ids(&payload, &emit.system_ids);
        if system_ids.len() > SYSTEM_IDS_MAX {
            return fail("/systemIds", format!("more than {SYSTEM_IDS_MAX} systems"));
        }
        Ok(Arc::new(Event {
            id: self.ids.next(now),
            event_type: registered.event_type.name.clone(),
            payload: Arc::from(&*emit.payload_text),
            occurred_at: emit.occurred_at.unwrap_or(now),
            received_at: now,
            correlation_key: emit.correlation_key.as_deref().map(Arc::from),
            system_ids,
            trace: telemetry::current().map(|place| place.parent()),
        }))
    }

    /// A delivery for each subscription that wants an event. A filter that cannot tell now lets the
    /// event through: it is asked again at the attempt, where its failure is seen and retried.
    pub(crate) async fn fan_out(
        &self,
        snapshot: &Snapshot,
        events: &[Arc<Event>],
        now: Timestamp,
    ) -> Vec<NewDelivery> {
        let mut deliveries = Vec::new();
        for event in events {
            for subscription in snapshot.matching(event) {
                if let Some(filter) = &subscription.filter
                    && matches!(self.programs.passes(filter, event).await, Ok(false))
                {
                    continue;
                }
                deliveries.push(NewDelivery {
                    id: self.ids.next(now),
                    event_id: event.id,
                    subscription_id: subscription.id,
                    provider: subscription.provider.clone(),
                    ordering_key: subscription.ordering_key(event),
                    lease: None,
                });
            }
        }
        deliveries
    }
}

/// The span of accepting events of these types, under the one that is current; attempts are made
/// below it (<https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>).
pub(crate) fn sending<'a>(types: impl ExactSizeIterator<Item = &'a str>) -> Option<Span> {
    let place = telemetry::current()?;
    let count = i64::try_from(types.len()).unwrap_or(i64::MAX);
    let mut types: Vec<&str> = types.collect();
    types.dedup();
    let name = match types[..] {
        [one] => format!("send {one}"),
        _ => "send".to_owned(),
    };
    let mut span = place.child(SpanKind::Producer, name);
    span.set("messaging.system", "hookport");
    span.set("messaging.operation.type", "send");
    span.set("messaging.operation.name", "accept");
    if let [one] = types[..] {
        span.set("messaging.destination.name", one.to_owned());
    }
    if count > 1 {
        span.set("messaging.batch.message_count", count);
    }
    Some(span)
}

/// Names the event that was accepted; those of a batch are named by the attempts below.
pub(crate) fn tell_ids(span: &mut Span, mut events: impl ExactSizeIterator<Item = EventId>) {
    if events.len() == 1
        && let Some(id) = events.next()
    {
        span.set("messaging.message.id", id.to_string());
    }
}

/// The span of a transaction, under the one that is current.
pub(crate) fn committing() -> Option<Span> {
    Some(telemetry::current()?.child(SpanKind::Internal, "commit"))
}

/// Says which registered type is meant, if one is near.
pub fn unknown_type(snapshot: &Snapshot, name: &str) -> String {
    if let Err(error) = EventTypeName::parse(name) {
        return format!("not an event type: {error}");
    }
    let nearest = snapshot
        .event_types
        .keys()
        .filter(|known| !known.starts_with(operational::PREFIX))
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= 4 => {
            format!("no event type {name:?} is registered; did you mean {known:?}?")
        }
        _ => format!(
            "no event type {name:?} is registered: register it with PUT /api/v1/event-types/{name}"
        ),
    }
}

/// Levels of nesting; a scalar has none.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The systems concerned: named beside the payload, and in its `systemId` and `systemIds[]`.
fn system_ids(payload: &Value, beside: &[String]) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let one = payload.get("systemId").and_then(text);
    let many = payload.get("systemIds").and_then(Value::as_array);
    let mut ids: Vec<String> = beside
        .iter()
        .cloned()
        .chain(one)
        .chain(many.into_iter().flatten().filter_map(text))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn systems_come_from_the_envelope_and_from_both_payload_fields() {
        let payload = json!({"systemId": "a", "systemIds": ["b", 3, null, "a"]});
        assert_eq!(
            system_ids(&payload, &["c".to_owned()]),
            ["3", "a", "b", "c"]
        );
        assert!(system_ids(&json!({"systemIds": "a"}), &[]).is_empty());
    }

    #[test]
    fn nesting_is_counted() {
        assert_eq!(depth(&json!(1)), 0);
        assert_eq!(depth(&json!({"a": [1, {"b": 2}]})), 3);
    }
}
