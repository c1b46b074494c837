//! The catalogue as matching and delivering need it: compiled, indexed, secrets opened.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use jsonschema::Validator;

use super::open_source::OpenSource;
use crate::domain::clock::Timestamp;
use crate::domain::event::{Event, EventType};
use crate::domain::id::{ConnectionId, SubscriptionId};
use crate::domain::key::ApiKey;
use crate::domain::schema;
use crate::domain::subscription::{Connection, Subscription};
use crate::plugin::{DocumentKind, GuestDocument};
use crate::store::{Catalog, CatalogEpoch, CatalogStore, StoreError, Turn};
use crate::vault::{Vault, VaultError};

type Opened = OnceLock<Result<GuestDocument, VaultError>>;

/// An event type with its schema compiled.
pub struct RegisteredType {
    /// The type.
    pub event_type: EventType,
    /// `None`: any object.
    pub validator: Option<Validator>,
}

/// A subscription with its config opened when first used.
pub struct Route {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Its name, shared with each call.
    pub name: Arc<str>,
    config: Opened,
}

/// A connection, opened when first used.
pub struct SharedConnection {
    /// The connection.
    pub connection: Arc<Connection>,
    opened: Opened,
}

/// Everything at one epoch.
pub struct Snapshot {
    /// The epoch.
    pub epoch: CatalogEpoch,
    /// Event types by name.
    pub event_types: HashMap<String, Arc<RegisteredType>>,
    /// Subscriptions by identifier.
    pub routes: HashMap<SubscriptionId, Arc<Route>>,
    /// Connections by identifier.
    pub connections: HashMap<ConnectionId, Arc<SharedConnection>>,
    /// Inbound sources by name.
    pub sources: HashMap<String, Arc<OpenSource>>,
    /// Keys by their hash.
    pub keys: HashMap<[u8; 32], ApiKey>,
    /// Subscriptions with a rate or a concurrency of their own.
    pub limited: Vec<Arc<Route>>,
    exact: HashMap<String, Vec<Arc<Route>>>,
    wildcard: Vec<Arc<Route>>,
}

impl Snapshot {
    /// What did not change since `before` is taken over: schemas stay compiled, secrets open.
    pub(super) fn new(catalog: Catalog, before: Option<&Self>) -> Self {
        let event_types = catalog
            .event_types
            .into_iter()
            .map(|event_type| {
                let name = event_type.name.as_str().to_owned();
                let known = before.and_then(|before| before.event_types.get(&name));
                if let Some(known) = known.filter(|known| known.event_type == event_type) {
                    return (name, known.clone());
                }
                // Compiled once when it was registered; a schema that no longer compiles after an
                // upgrade must not stop every event.
                let validator = event_type.payload_schema.as_ref().and_then(|schema| {
                    schema::compile(schema)
                        .inspect_err(|error| {
                            tracing::error!(event_type = event_type.name.as_str(), %error, "the registered schema cannot be used; payloads are accepted unchecked");
                        })
                        .ok()
                });
                (name, Arc::new(RegisteredType { event_type, validator }))
            })
            .collect();
        let mut exact: HashMap<String, Vec<Arc<Route>>> = HashMap::new();
        let mut wildcard = Vec::new();
        let mut limited = Vec::new();
        let mut routes = HashMap::new();
        for subscription in catalog.subscriptions {
            let known = before.and_then(|before| before.routes.get(&subscription.id));
            let route = match known.filter(|known| *known.subscription == subscription) {
                Some(known) => known.clone(),
                None => Arc::new(Route {
                    name: subscription.name.as_str().into(),
                    subscription: Arc::new(subscription),
                    config: OnceLock::new(),
                }),
            };
            match route.subscription.events.exact() {
                Some(name) => exact
                    .entry(name.to_owned())
                    .or_default()
                    .push(route.clone()),
                None => wildcard.push(route.clone()),
            }
            if route.subscription.flow.is_limited() {
                limited.push(route.clone());
            }
            routes.insert(route.subscription.id, route);
        }
        let connections = catalog
            .connections
            .into_iter()
            .map(|connection| {
                let known = before.and_then(|before| before.connections.get(&connection.id));
                let shared = match known.filter(|known| *known.connection == connection) {
                    Some(known) => known.clone(),
                    None => Arc::new(SharedConnection {
                        connection: Arc::new(connection),
                        opened: OnceLock::new(),
                    }),
                };
                (shared.connection.id, shared)
            })
            .collect();
        let sources = catalog
            .sources
            .into_iter()
            .map(|source| {
                let name = source.name.as_str().to_owned();
                let known = before.and_then(|before| before.sources.get(&name));
                let open = match known.filter(|known| *known.source == source) {
                    Some(known) => known.clone(),
                    None => Arc::new(OpenSource::new(source)),
                };
                (name, open)
            })
            .collect();
        Self {
            epoch: catalog.epoch,
            sources,
            event_types,
            routes,
            connections,
            keys: catalog
                .keys
                .into_iter()
                .map(|key| (key.hash, key))
                .collect(),
            limited,
            exact,
            wildcard,
        }
    }

    /// When the subscription or its connection was last changed.
    #[must_use]
    pub fn changed_at(&self, route: &Route) -> Timestamp {
        let subscription = &route.subscription;
        let connection = subscription
            .connection
            .and_then(|id| self.connections.get(&id));
        let connection = connection.map(|shared| shared.connection.updated_at);
        subscription
            .updated_at
            .max(connection.unwrap_or(subscription.updated_at))
    }

    /// The subscriptions that want `event`.
    pub fn matching<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = &'a Subscription> {
        let exact = self.exact.get(event.event_type.as_str());
        exact
            .into_iter()
            .flatten()
            .chain(&self.wildcard)
            .map(|route| &*route.subscription)
            .filter(|subscription| subscription.wants(event))
    }
}

impl Route {
    /// The config for a guest.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn config(&self, vault: &Vault) -> Result<GuestDocument, VaultError> {
        let opened = self.config.get_or_init(|| {
            let row = subscription_row(self.subscription.id);
            vault.open_for_guest(&row, DocumentKind::Config, &self.subscription.config)
        });
        opened.clone()
    }
}

impl SharedConnection {
    /// The connection for a guest.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn open(&self, vault: &Vault) -> Result<GuestDocument, VaultError> {
        let opened = self.opened.get_or_init(|| {
            let row = connection_row(self.connection.id);
            vault.open_for_guest(&row, DocumentKind::Connection, &self.connection.document)
        });
        opened.clone()
    }
}

/// The identity under which a subscription's secrets are sealed.
#[must_use]
pub fn subscription_row(id: SubscriptionId) -> String {
    format!("subscription/{id}")
}

/// The identity under which a connection's secrets are sealed.
#[must_use]
pub fn connection_row(id: ConnectionId) -> String {
    format!("connection/{id}")
}

/// The current snapshot, renewed when the catalogue has changed.
pub struct Snapshots {
    store: Arc<dyn CatalogStore>,
    current: ArcSwap<Snapshot>,
    renewing: tokio::sync::Mutex<()>,
    editing: tokio::sync::Mutex<()>,
}

/// The right to change the catalogue, alone in this process and among all that share the store:
/// what was read under it is not overtaken by another change.
pub struct Edit<'a> {
    snapshots: &'a Snapshots,
    /// What stands on record.
    pub snapshot: Arc<Snapshot>,
    _turn: Turn,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Edit<'_> {
    /// Shows the change to everyone.
    ///
    /// # Errors
    /// When the store is unavailable: the change is seen with the next renewal.
    pub async fn done(self) -> Result<(), StoreError> {
        self.snapshots.renew().await.map(drop)
    }
}

impl Snapshots {
    /// Loads the first one.
    ///
    /// # Errors
    /// When the store is unavailable or cannot be read.
    pub async fn load(store: Arc<dyn CatalogStore>) -> Result<Self, StoreError> {
        let snapshot = Snapshot::new(store.catalog().await?, None);
        Ok(Self {
            store,
            current: ArcSwap::from_pointee(snapshot),
            renewing: tokio::sync::Mutex::default(),
            editing: tokio::sync::Mutex::default(),
        })
    }

    /// The one at hand.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// One at least as new as `epoch`.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn at(&self, epoch: CatalogEpoch) -> Result<Arc<Snapshot>, StoreError> {
        let current = self.current();
        if current.epoch >= epoch {
            return Ok(current);
        }
        self.renew_from(current.epoch).await
    }

    /// One as new as the store: the one at hand, when nothing has changed.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn latest(&self) -> Result<Arc<Snapshot>, StoreError> {
        self.at(self.store.epoch().await?).await
    }

    /// A fresh one, after a change of one's own.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn renew(&self) -> Result<Arc<Snapshot>, StoreError> {
        self.renew_from(self.current().epoch).await
    }

    /// Begins a change.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn edit(&self) -> Result<Edit<'_>, StoreError> {
        // First among this process's own, so that it holds one connection at most for that.
        let alone = self.editing.lock().await;
        let turn = self.store.turn().await?;
        Ok(Edit {
            snapshot: self.latest().await?,
            snapshots: self,
            _turn: turn,
            _alone: alone,
        })
    }

    async fn renew_from(&self, seen: CatalogEpoch) -> Result<Arc<Snapshot>, StoreError> {
        let _alone = self.renewing.lock().await;
        let current = self.current();
        if current.epoch > seen && current.epoch == self.store.epoch().await? {
            return Ok(current);
        }
        let catalog = self.store.catalog().await?;
        let fresh = Arc::new(Snapshot::new(catalog, Some(&current)));
        self.current.store(fresh.clone());
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::event::EventTypeName;

    fn event_type(name: &str, description: &str) -> EventType {
        EventType {
            description: description.to_owned(),
            payload_schema: Some(json!({"type": "object"})),
            ..EventType::new(EventTypeName::parse(name).expect("a name"), Timestamp(1))
        }
    }

    #[test]
    fn what_did_not_change_is_taken_over() {
        let catalog = |description: &str| Catalog {
            event_types: vec![event_type("a.same", ""), event_type("a.other", description)],
            ..Catalog::default()
        };
        let before = Snapshot::new(catalog("before"), None);
        let after = Snapshot::new(catalog("after"), Some(&before));
        let same = |name: &str| Arc::ptr_eq(&before.event_types[name], &after.event_types[name]);
        assert!(same("a.same"));
        assert!(!same("a.other"));
        assert_eq!(after.event_types["a.other"].event_type.description, "after");
    }
}
