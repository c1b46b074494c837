//! The system of record: traits, and one back end a folder.
//!
//! Invariant: when [`DeliveryStore::accept`] has returned, the events and their deliveries are
//! durable. Every back end passes [`conformance`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::audit::NewEntry;
use crate::domain::circuit::OpenCircuit;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{
    Attempt, Delivery, DeliveryState, FencingToken, LeaseResult, LeasedDelivery, NewDelivery,
};
use crate::domain::event::{Event, EventType, EventTypeName};
use crate::domain::id::{
    ConnectionId, DeliveryId, EventId, KeyId, SourceId, SubscriptionId, WorkerId,
};
use crate::domain::key::ApiKey;
use crate::domain::provider::{Grant, Permissions, ProviderId};
use crate::domain::source::Source;
use crate::domain::subscription::{Connection, SealedDocument, Subscription};

pub mod audit;
#[cfg(test)]
pub mod conformance;
mod dead_letter;
mod ingress;
mod job;
#[cfg(test)]
pub(crate) mod memory;
mod outbox;
#[expect(
    clippy::duplicate_mod,
    reason = "what `sql/` holds is compiled once for each database, against its `dialect`"
)]
pub mod postgres;
mod replay;
mod retention;
pub mod sqlite;
mod vault;

pub use audit::{AuditFilter, AuditLog, AuditStore};
pub use dead_letter::DeadLetterStore;
pub use ingress::{IngressStore, KeyedEvent, ReceiveRequest, Received, WebhookFilter};
pub use job::{JobFilter, JobStore};
pub use outbox::{OutboxStore, Queued, Sweep, Traffic};
pub use replay::{ReplayStep, ReplayStore, Stepped};
pub use retention::{Expiring, RemovalBatch, Removed, RetentionStore};
pub use vault::{ProcessKeys, VaultStore};

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Something else stands in the way: a name taken, a row still referred to.
    #[error("{0}")]
    Conflict(String),
    /// The database did not answer; the same call may succeed later.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no room for more; nothing was written.
    #[error("the database's disk is full: {0}")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored cannot be read back.
    #[error("stored data cannot be read: {0}")]
    Corrupt(String),
}

/// Result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Increases with every change of [`Catalog`] data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CatalogEpoch(pub i64);

/// An `Idempotency-Key` with what it was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Keys of different callers do not meet.
    pub scope: String,
    /// As the caller sent it.
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_hash: [u8; 32],
}

/// Events to be accepted together, all or none.
#[derive(Clone, Debug)]
pub struct AcceptRequest {
    /// The events, in order.
    pub events: Vec<Arc<Event>>,
    /// Their deliveries.
    pub deliveries: Vec<NewDelivery>,
    /// The caller's key, if it sent one.
    pub idempotency: Option<IdempotencyKey>,
    /// The epoch of the catalog that the deliveries were matched against.
    pub epoch: CatalogEpoch,
    /// Creation time of the deliveries; those without a lease are due at once.
    pub at: Timestamp,
    /// When a broker, which is told of them after the commit, has them come out; `None`: no broker
    /// is told, and claims find them.
    pub queued_for: Option<Timestamp>,
}

/// What became of an [`AcceptRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Durable.
    New,
    /// The idempotency key was used before with the same body: the events accepted then.
    Duplicate(Vec<EventId>),
    /// The idempotency key was used before with another body.
    KeyReused,
    /// The catalog has changed since: match again.
    StaleCatalog,
}

/// What to lease.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// For whom.
    pub worker: WorkerId,
    /// Deliveries due at or before this.
    pub now: Timestamp,
    /// When the leases end.
    pub lease_until: Timestamp,
    /// At most so many.
    pub limit: usize,
    /// How much may be taken where that is limited.
    pub caps: Caps,
}

/// At most so many of these subscriptions; 0: passed over.
pub type Caps = HashMap<SubscriptionId, usize>;

/// What a claim found.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Now leased to the caller, oldest due first.
    pub leased: Vec<LeasedDelivery>,
    /// When the next delivery that may be taken is due: now, when there were more than the limit.
    pub next_due: Option<Timestamp>,
    /// Something is due that was not taken: of a subscription at its cap, or behind an earlier one
    /// of its ordering key.
    pub held_back: bool,
    /// The catalog's epoch at that moment.
    pub epoch: CatalogEpoch,
    /// An earlier try failed, and may have leased something all the same.
    pub is_doubtful: bool,
}

/// What became of a [`LeaseResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Written.
    Written,
    /// The lease was lost or the delivery cancelled meanwhile: nothing was written.
    LeaseLost,
}

/// A page of a listing, newest first.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether there may be more after these.
    pub more: bool,
    /// The key to go on after, where a bounded look ended before the page was full; `None`: after
    /// the last row.
    pub resume: Option<String>,
}

impl<T> Page<T> {
    /// What the next page comes after, if there is one.
    pub fn next(&self, key: impl Fn(&T) -> String) -> Option<String> {
        let after = self.resume.clone().or_else(|| self.items.last().map(key));
        after.filter(|_| self.more)
    }
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of this type exactly.
    pub event_type: Option<String>,
    /// With this correlation key.
    pub correlation_key: Option<String>,
    /// Received at or after.
    pub from: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
}

/// Which deliveries to list. All given conditions hold, before the page is cut.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// In one of these states; empty: any.
    pub states: Vec<DeliveryState>,
    /// Of this event.
    pub event: Option<EventId>,
    /// To this subscription.
    pub subscription: Option<SubscriptionId>,
    /// By this provider.
    pub provider: Option<ProviderId>,
    /// Of this event type exactly.
    pub event_type: Option<String>,
    /// Created at or after.
    pub from: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
}

/// Everything that matching and delivering read, at one epoch.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Its epoch.
    pub epoch: CatalogEpoch,
    /// Registered event types.
    pub event_types: Vec<EventType>,
    /// All subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// All connections.
    pub connections: Vec<Connection>,
    /// All inbound sources.
    pub sources: Vec<Source>,
    /// All API keys that are not revoked.
    pub keys: Vec<ApiKey>,
}

/// Documents brought to another schema version, or sealed under another key.
#[derive(Clone, Debug)]
pub struct DocumentChanges {
    /// Of the catalogue that they were made from.
    pub epoch: CatalogEpoch,
    /// When they were changed; `None`: what they say is the same, as when they are sealed anew.
    pub at: Option<Timestamp>,
    /// Configs.
    pub subscriptions: Vec<(SubscriptionId, SealedDocument)>,
    /// Connections' documents.
    pub connections: Vec<(ConnectionId, SealedDocument)>,
    /// Sources' configs.
    pub source_configs: Vec<(SourceId, SealedDocument)>,
    /// Sources' verifications.
    pub source_verifications: Vec<(SourceId, SealedDocument)>,
}

/// The permissions of a provider on record.
#[derive(Clone, Debug, PartialEq)]
pub struct GrantRecord {
    /// The provider.
    pub provider: ProviderId,
    /// What was granted.
    pub grant: Grant,
    /// What was asked for when it was granted.
    pub asked: Permissions,
    /// SHA-256 of the component it was granted to, hexadecimal.
    pub digest: String,
    /// When.
    pub granted_at: Timestamp,
}

/// Events and deliveries: the hot path and the delivery log.
#[async_trait]
pub trait DeliveryStore: Send + Sync + 'static {
    /// Writes events and deliveries in one durable transaction. Concurrent calls share a commit.
    ///
    /// # Errors
    /// `Unavailable`: nothing was accepted as far as the caller may claim.
    async fn accept(&self, request: AcceptRequest) -> Result<Accepted>;

    /// Leases deliveries that are due: pending, retrying, or in flight with an expired lease. A delivery whose ordering key has an earlier
    /// delivery that is not terminal is passed over. Attempts are not counted here: a lease lost
    /// with its worker costs no attempt.
    ///
    /// # Cancel safety
    /// When the future is dropped, deliveries may stay leased until `lease_until`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn claim(&self, request: ClaimRequest) -> Result<Claim>;

    /// Writes the result of a lease, durably; concurrent calls share a commit. Keeps the external
    /// id of a success for the subscription and the event's correlation key.
    ///
    /// # Errors
    /// `Unavailable`: the lease goes on until it expires.
    async fn record(&self, result: LeaseResult) -> Result<Recorded>;

    /// Gives leases back without a result: due at once, no attempt counted.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn release(&self, leases: Vec<(DeliveryId, FencingToken)>, at: Timestamp) -> Result<()>;

    /// Gives back what `worker` holds beside `held`: what a claim leased whose answer was lost.
    /// Returns how many that were.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn release_unheld(
        &self,
        worker: WorkerId,
        held: Vec<DeliveryId>,
        at: Timestamp,
    ) -> Result<u64>;

    /// Ends every lease. Only for a process that knows it is alone on the store.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn release_all(&self, at: Timestamp) -> Result<u64>;

    /// The event, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn event(&self, id: EventId) -> Result<Option<Event>>;

    /// Events after the cursor `after` (exclusive), newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Page<Event>>;

    /// The delivery, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>>;

    /// Its attempts, oldest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>>;

    /// Deliveries after the cursor `after` (exclusive), newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Delivery>>;

    /// Makes a delivery due now with a fresh round of attempts, whatever its state but in flight
    /// (then `Conflict`). `None`: no such delivery.
    ///
    /// # Errors
    /// `Conflict`, `Unavailable`.
    async fn retry(&self, id: DeliveryId, at: Timestamp) -> Result<Option<Delivery>>;

    /// How many deliveries wait or are in flight, counted up to `at_most`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn backlog(&self, at_most: u64) -> Result<u64>;

    /// When the oldest delivery that waits or is in flight is or was due; `None`: there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn oldest_due(&self) -> Result<Option<Timestamp>>;

    /// Keeps an open circuit, replacing what is known of it. Without its subscription it is not
    /// kept. A change of the subscription, or of its connection, forgets it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_circuit(&self, open: OpenCircuit) -> Result<()>;

    /// The circuit has closed.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_circuit(&self, id: SubscriptionId) -> Result<()>;

    /// All circuits that are open.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn circuits(&self) -> Result<Vec<OpenCircuit>>;
}

/// The right to change the catalogue; given back when it is dropped.
#[derive(Default)]
pub struct Turn(Option<Box<dyn std::any::Any + Send + Sync>>);

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Turn").field(&self.0.is_some()).finish()
    }
}

/// Event types, subscriptions, connections, grants and keys. Every change raises the epoch.
#[async_trait]
pub trait CatalogStore: Send + Sync + 'static {
    /// Everything at one epoch.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn catalog(&self) -> Result<Catalog>;

    /// Waits for the right to change what was read of the catalogue before, alone among all
    /// processes that share the store. Writing it unread does not need the right.
    ///
    /// # Errors
    /// `Unavailable`, also when others do not give it back in time.
    async fn turn(&self) -> Result<Turn> {
        Ok(Turn::default())
    }

    /// The current epoch: a cheap question whether a catalog at hand is still good.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn epoch(&self) -> Result<CatalogEpoch>;

    /// Creates or replaces (keeping `created_at`).
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_event_type(&self, event_type: EventType) -> Result<()>;

    /// Creates or replaces several, and takes `gone` away, in one transaction. One that a
    /// subscription names exactly is retired instead.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_catalogue(
        &self,
        event_types: Vec<EventType>,
        gone: Vec<EventTypeName>,
    ) -> Result<()>;

    /// False: there was none.
    ///
    /// # Errors
    /// `Conflict` when a subscription names it exactly; `Unavailable`.
    async fn delete_event_type(&self, name: &EventTypeName) -> Result<bool>;

    /// Creates or replaces by id. Switching off cancels what is queued.
    ///
    /// # Errors
    /// `Conflict` when the connection does not exist; `Unavailable`.
    async fn put_subscription(&self, subscription: Subscription) -> Result<()>;

    /// Deletes it and cancels what is queued; its deliveries stay in the log. False: there was
    /// none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_subscription(&self, id: SubscriptionId, at: Timestamp) -> Result<bool>;

    /// Creates or replaces by id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_connection(&self, connection: Connection) -> Result<()>;

    /// False: there was none.
    ///
    /// # Errors
    /// `Conflict` while a subscription uses it; `Unavailable`.
    async fn delete_connection(&self, id: ConnectionId) -> Result<bool>;

    /// Creates or replaces by id.
    ///
    /// # Errors
    /// `Conflict` when another source has the name; `Unavailable`.
    async fn put_source(&self, source: Source) -> Result<()>;

    /// Deletes it; its webhooks stay in the log. False: there was none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_source(&self, id: SourceId) -> Result<bool>;

    /// Replaces documents in one transaction, unless the catalogue has another epoch by now
    /// (then false, and nothing is changed). Nothing else of a subscription changes.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn replace_documents(&self, changes: DocumentChanges) -> Result<bool>;

    /// All grants on record.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn grants(&self) -> Result<Vec<GrantRecord>>;

    /// Creates or replaces by provider.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_grant(&self, grant: GrantRecord) -> Result<()>;

    /// False: there was none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete_grant(&self, provider: &ProviderId) -> Result<bool>;

    /// Adds a key.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_key(&self, key: ApiKey) -> Result<()>;

    /// All keys, revoked ones too.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn keys(&self) -> Result<Vec<ApiKey>>;

    /// False: there was none, or it was revoked already.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<bool>;
}

/// A pool of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open.
    pub open: u32,
    /// Of these, in nobody's hands.
    pub idle: u32,
    /// The most that are opened.
    pub max: u32,
}

impl Connections {
    fn of<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> Self {
        Self {
            open: pool.size(),
            idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
            max: pool.options().get_max_connections(),
        }
    }
}

/// How a database's migrations compare with those of this binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Known here and not applied there.
    pub missing: usize,
    /// Applied there by a later version and not known here.
    pub unknown: usize,
    /// One of these took away what this binary uses.
    pub contracted: bool,
}

/// A database as it is found, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is, with its version.
    pub server: String,
    /// Its migrations.
    pub versions: Versions,
    /// What may not be done there and has to be.
    pub lacking: Option<&'static str>,
    /// Its clock, where it has one of its own.
    pub clock: Option<Timestamp>,
}

/// A whole system of record.
#[async_trait]
pub trait Store:
    DeliveryStore
    + CatalogStore
    + IngressStore
    + ReplayStore
    + DeadLetterStore
    + JobStore
    + RetentionStore
    + AuditStore
    + VaultStore
{
    /// A round trip to the database.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn ping(&self) -> Result<()>;

    /// How its connections are used; over SQLite those for reading, beside the one that writes.
    fn connections(&self) -> Connections;

    /// Whether other processes may have it open too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Notes that `worker` lives, and makes due what workers hold that were not seen for `patience`.
    /// Returns how many deliveries that were.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn keep_alive(&self, worker: WorkerId, patience: Duration) -> Result<u64> {
        let _ = (worker, patience);
        Ok(0)
    }

    /// This store for one change: when something is changed through it, `entry` is added to the
    /// audit trail in the same transaction; when nothing is (there was none, it is refused), it is
    /// not. Claims and results of leases are no such changes: results bring their own entry.
    fn audited(&self, entry: NewEntry) -> Arc<dyn Store>;

    /// What a broker in front of it needs; `None`: it takes none, as it is not shared.
    fn outbox(self: Arc<Self>) -> Option<Arc<dyn OutboxStore>> {
        None
    }

    /// Returns when another process may have accepted something. Hints only: some are missed.
    async fn heard_of_work(&self) {
        std::future::pending().await
    }
}

/// What can be read of a store that a gateway may have open.
#[async_trait]
pub trait ReadStore: AuditLog + 'static {
    /// [`CatalogStore::catalog`].
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn read_catalog(&self) -> Result<Catalog>;

    /// [`VaultStore::keys_in_use`].
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn read_keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>>;
}

/// SQLite's `SQLITE_FULL` and `SQLITE_IOERR_SHMSIZE`, PostgreSQL's `disk_full`.
const FULL: [&str; 3] = ["13", "4874", "53100"];

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        if database
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| FULL.contains(&&*code))
        {
            return Self::Full(Box::new(error));
        }
        match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                Self::Corrupt(error.to_string())
            }
            other => Self::Unavailable(Box::new(other)),
        }
    }
}
