//! The catalogue, inbound webhooks and replays.

use super::journal::Why;
use super::tables::Tables;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::{EventType, EventTypeName};
use crate::domain::id::{ConnectionId, DeliveryId, EventId, KeyId, SourceId, SubscriptionId};
use crate::domain::job::Trigger;
use crate::domain::key::ApiKey;
use crate::domain::replay::{ReplayScope, ReplayState};
use crate::domain::source::{Rejection, Source, WebhookState};
use crate::domain::subscription::{Connection, Subscription};
use crate::store::{
    Catalog, CatalogEpoch, DocumentChanges, ReceiveRequest, Received, ReplayStep, Result, Stepped,
    StoreError,
};

/// Rejections kept of one source.
const REJECTIONS_MAX: usize = 50;

impl Tables {
    pub(crate) fn catalog(&self) -> Catalog {
        let keys = self.keys.values().filter(|key| key.revoked_at.is_none());
        Catalog {
            epoch: CatalogEpoch(self.epoch),
            event_types: self.event_types.values().cloned().collect(),
            subscriptions: self.subscriptions.values().cloned().collect(),
            connections: self.connections.values().cloned().collect(),
            sources: self.sources.values().cloned().collect(),
            keys: keys.cloned().collect(),
        }
    }

    pub(super) fn changed(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn put_event_type(&mut self, event_type: EventType) {
        let name = event_type.name.as_str().to_owned();
        let before = self.event_types.get(&name);
        let created_at = before.map_or(event_type.created_at, |before| before.created_at);
        let event_type = EventType {
            created_at,
            ..event_type
        };
        self.event_types.insert(name, event_type);
        self.changed();
    }

    fn is_named(&self, name: &EventTypeName) -> bool {
        let mut patterns = self.subscriptions.values().map(|one| one.events.exact());
        patterns.any(|exact| exact == Some(name.as_str()))
    }

    pub(super) fn retire(&mut self, name: &EventTypeName) {
        if !self.is_named(name) {
            self.event_types.remove(name.as_str());
        } else if let Some(event_type) = self.event_types.get_mut(name.as_str()) {
            event_type.retired = true;
        }
    }

    pub(super) fn delete_event_type(&mut self, name: &EventTypeName) -> Result<bool> {
        if self.is_named(name) {
            return Err(StoreError::Conflict("a subscription names it".to_owned()));
        }
        self.changed();
        Ok(self.event_types.remove(name.as_str()).is_some())
    }

    pub(crate) fn put_subscription(&mut self, subscription: Subscription) -> Result<()> {
        let connection = subscription.connection;
        if connection.is_some_and(|id| !self.connections.contains_key(&id)) {
            return Err(StoreError::Conflict(
                "there is no such connection".to_owned(),
            ));
        }
        let (id, at) = (subscription.id, subscription.updated_at);
        let before = self.subscriptions.get(&id);
        let created_at = before.map_or(subscription.created_at, |before| before.created_at);
        let (enabled, paused) = (subscription.enabled, subscription.paused);
        let subscription = Subscription {
            created_at,
            ..subscription
        };
        self.subscriptions.insert(id, subscription);
        self.circuits.remove(&id);
        if !enabled {
            self.cancel_queued(id, at);
        } else if !paused {
            for parked in self.waiting(id) {
                let row = &self.rows[&parked].delivery;
                if row.due_at.is_none() {
                    self.shift(parked, Why::Configured, row.state, Some(at), at);
                }
            }
        }
        self.changed();
        Ok(())
    }

    /// Deliveries of a subscription that are neither in flight nor at their end.
    fn waiting(&self, id: SubscriptionId) -> Vec<DeliveryId> {
        let own = self.rows.iter().filter(|(_, row)| {
            row.delivery.subscription_id == id
                && row.is_open()
                && row.delivery.state != DeliveryState::InFlight
        });
        own.map(|(id, _)| *id).collect()
    }

    fn cancel_queued(&mut self, id: SubscriptionId, at: Timestamp) {
        for waiting in self.waiting(id) {
            self.shift(waiting, Why::Configured, DeliveryState::Cancelled, None, at);
        }
    }

    pub(super) fn delete_subscription(&mut self, id: SubscriptionId, at: Timestamp) -> bool {
        self.cancel_queued(id, at);
        self.circuits.remove(&id);
        self.external_ids.retain(|(of, _), _| *of != id);
        self.changed();
        self.subscriptions.remove(&id).is_some()
    }

    pub(super) fn put_connection(&mut self, connection: Connection) {
        let id = connection.id;
        let users = self.subscriptions.values();
        for user in users.filter(|user| user.connection == Some(id)) {
            self.circuits.remove(&user.id);
        }
        self.connections.insert(id, connection);
        self.changed();
    }

    pub(super) fn delete_connection(&mut self, id: ConnectionId) -> Result<bool> {
        let mut users = self.subscriptions.values().map(|user| user.connection);
        if users.any(|used| used == Some(id)) {
            return Err(StoreError::Conflict("a subscription uses it".to_owned()));
        }
        self.changed();
        Ok(self.connections.remove(&id).is_some())
    }

    pub(super) fn put_source(&mut self, source: Source) -> Result<()> {
        let mut others = self.sources.values().filter(|other| other.id != source.id);
        if others.any(|other| other.name == source.name) {
            return Err(StoreError::Conflict("the name is taken".to_owned()));
        }
        self.sources.insert(source.id, source);
        self.changed();
        Ok(())
    }

    pub(super) fn replace_documents(&mut self, changes: DocumentChanges) -> bool {
        if changes.epoch.0 != self.epoch {
            return false;
        }
        for (id, config) in changes.subscriptions {
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.config = config;
                subscription.updated_at = changes.at.unwrap_or(subscription.updated_at);
            }
        }
        for (id, document) in changes.connections {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.document = document;
                connection.updated_at = changes.at.unwrap_or(connection.updated_at);
            }
        }
        for (id, config) in changes.source_configs {
            if let Some(source) = self.sources.get_mut(&id) {
                source.config = config;
                source.updated_at = changes.at.unwrap_or(source.updated_at);
            }
        }
        for (id, verification) in changes.source_verifications {
            if let Some(source) = self.sources.get_mut(&id) {
                source.verification = verification;
                source.updated_at = changes.at.unwrap_or(source.updated_at);
            }
        }
        self.changed();
        true
    }

    pub(super) fn put_key(&mut self, key: ApiKey) {
        self.keys.insert(key.id, key);
        self.changed();
    }

    pub(super) fn revoke_key(&mut self, id: KeyId, at: Timestamp) -> bool {
        self.changed();
        let key = self.keys.get_mut(&id);
        let Some(key) = key.filter(|key| key.revoked_at.is_none()) else {
            return false;
        };
        key.revoked_at = Some(at);
        true
    }

    pub(super) fn receive(&mut self, request: ReceiveRequest) -> Result<Received> {
        if request.epoch.0 != self.epoch {
            return Ok(Received::StaleCatalog);
        }
        let at = request.webhook.received_at;
        let (mut ids, mut fresh): (Vec<EventId>, _) = (Vec::new(), Vec::new());
        for keyed in &request.events {
            let taken = self.inbound_keys.entry(keyed.key.clone());
            let (id, _) = *taken.or_insert((keyed.event.id, at));
            ids.push(id);
            if id == keyed.event.id {
                fresh.push(keyed.event.clone());
            }
        }
        if request.events.is_empty() {
            ids.clone_from(&request.webhook.events);
        }
        let mut deliveries = request.deliveries;
        deliveries.retain(|new| fresh.iter().any(|event| event.id == new.event_id));
        self.insert(&fresh, &deliveries, at)?;
        let state = match (request.events.is_empty(), fresh.is_empty()) {
            (true, _) => request.webhook.state,
            (false, true) => WebhookState::Duplicate,
            (false, false) => WebhookState::Accepted,
        };
        let mut webhook = request.webhook;
        if let Some(before) = self.webhooks.get(&webhook.id) {
            webhook.body.clone_from(&before.body);
        } else if state == WebhookState::Duplicate {
            webhook.body = bytes::Bytes::new();
        }
        webhook.state = state;
        webhook.events.clone_from(&ids);
        self.webhooks.insert(webhook.id, webhook);
        Ok(Received::Done { state, events: ids })
    }

    pub(super) fn reject(&mut self, rejection: Rejection) {
        let source = rejection.source;
        self.rejections.push(rejection);
        let mut beyond = self
            .rejections_of(source)
            .len()
            .saturating_sub(REJECTIONS_MAX);
        self.rejections.retain(|rejection| {
            let goes = rejection.source == source && beyond > 0;
            beyond -= usize::from(goes);
            !goes
        });
    }

    pub(super) fn rejections_of(&self, source: SourceId) -> Vec<Rejection> {
        let own = self.rejections.iter().rev();
        own.filter(|rejection| rejection.source == source)
            .cloned()
            .collect()
    }

    pub(super) fn step_replay(&mut self, step: ReplayStep) -> Stepped {
        if step.epoch.0 != self.epoch {
            return Stepped::StaleCatalog;
        }
        let stored = self.replays.get(&step.replay.id);
        let stands = stored.is_some_and(|stored| {
            stored.state == ReplayState::Running && stored.cursor == step.replay.cursor
        });
        if !stands {
            return Stepped::Moved;
        }
        let mut replay = step.replay;
        replay.cursor = step.cursor.or(replay.cursor);
        if step.is_last {
            replay.state = ReplayState::Done;
        }
        let mut made = 0;
        for new in &step.deliveries {
            // Its event may have been removed for its age since the page was planned.
            if self.events.contains_key(&new.event_id) {
                self.create(new, Some(replay.id), step.at);
                made += 1;
            }
        }
        if replay.scope == ReplayScope::Failed {
            let only = replay.filter.subscription;
            for event in &step.events {
                for id in self.failed_of(event.id, only) {
                    let subscription = self.rows[&id].delivery.subscription_id;
                    if self.is_enabled(subscription) {
                        let due = (!self.is_paused(subscription)).then_some(step.at);
                        self.begin_round(id, Trigger::Replay, due, step.at);
                        if let Some(row) = self.rows.get_mut(&id) {
                            (row.replay, row.run) = (Some(replay.id), None);
                        }
                        made += 1;
                    }
                }
            }
        }
        replay.events += u64::try_from(step.events.len()).unwrap_or(u64::MAX);
        replay.deliveries += made;
        replay.updated_at = step.at;
        self.replays.insert(replay.id, replay.clone());
        Stepped::Written(Box::new(replay))
    }

    pub(super) fn failed_of(
        &self,
        event: EventId,
        subscription: Option<SubscriptionId>,
    ) -> Vec<DeliveryId> {
        let failed = self.rows.values().map(|row| &row.delivery);
        failed
            .filter(|delivery| delivery.event_id == event)
            .filter(|delivery| delivery.state == DeliveryState::Failed)
            .filter(|delivery| subscription.is_none_or(|id| id == delivery.subscription_id))
            .map(|delivery| delivery.id)
            .collect()
    }
}
