//! PostgreSQL: for one process or many.
//!
//! Concurrent calls share a commit, as over SQLite: one task a process commits what was accepted,
//! another one claims and records. Claims of several processes pass each other by. A process that
//! has not been seen for a while loses its leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{
    AcceptRequest, Accepted, Catalog, CatalogEpoch, CatalogStore, Claim, ClaimRequest, Condition,
    Connections, DeliveryFilter, DeliveryStore, DocumentChanges, EventFilter, GrantRecord,
    IngressStore, OutboxStore, Page, ReceiveRequest, Received, Recorded, ReplayStep, ReplayStore,
    Result, Stepped, Store, StoreError, Turn, WebhookFilter,
};
use crate::domain::audit::NewEntry;
use crate::domain::circuit::OpenCircuit;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Delivery, FencingToken, LeaseResult};
use crate::domain::event::{Event, EventType, EventTypeName};
use crate::domain::id::{
    ConnectionId, DeliveryId, EventId, KeyId, ReplayId, SourceId, SubscriptionId, WebhookId,
    WorkerId,
};
use crate::domain::key::ApiKey;
use crate::domain::provider::ProviderId;
use crate::domain::replay::{Outcomes, Replay, ReplayState};
use crate::domain::source::{InboundWebhook, Rejection, Source};
use crate::domain::subscription::{Connection, Subscription};

mod claim;
mod dialect;
mod examine;
mod lanes;
mod outbox;
mod settle;
#[cfg(test)]
mod tests;
mod workers;

// What is the same for both databases, compiled against this one's `dialect`.
#[path = "../sql/accept.rs"]
mod accept;
#[path = "../sql/audit.rs"]
mod audit;
#[path = "../sql/batch.rs"]
mod batch;
#[path = "../sql/catalog.rs"]
mod catalog;
#[path = "../sql/circuit.rs"]
mod circuit;
#[path = "../sql/dead_letter.rs"]
mod dead_letter;
#[path = "../sql/fill.rs"]
mod fill;
#[path = "../sql/flow.rs"]
mod flow;
#[path = "../sql/ingress.rs"]
mod ingress;
#[path = "../sql/job.rs"]
mod job;
#[path = "../sql/listing.rs"]
mod listing;
#[cfg(test)]
#[path = "../sql/plans.rs"]
mod plans;
#[path = "../sql/query.rs"]
mod query;
#[path = "../sql/record.rs"]
mod record;
#[path = "../sql/records.rs"]
mod records;
#[path = "../sql/replay.rs"]
mod replay;
#[path = "../sql/retention.rs"]
mod retention;
#[path = "../sql/row.rs"]
mod row;
#[path = "../sql/source.rs"]
mod source;
#[path = "../sql/vault.rs"]
mod vault;
#[path = "../sql/versions.rs"]
mod versions;
#[path = "../sql/writer.rs"]
mod writer;

use dialect::in_time;
use writer::Writer;

/// Connections for listings and details, beside the three that write and the one that listens.
const CONNECTIONS: u32 = 12;
/// How long a call waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a health check waits.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// The channel of `NOTIFY`.
const CHANNEL: &str = "hookport_due";
/// The advisory lock of whoever changes the catalogue: "hookport" as a number.
const TURN_LOCK: i64 = i64::from_be_bytes(*b"hookport");
/// The listening connection is asked whether it is still there when nothing came for so long.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// After the listening connection could not be made.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is wrong. It is not repeated, as it may hold a password.
    #[error(
        "the database's URL cannot be read: {0}; it is postgres://user:password@host:port/database"
    )]
    Url(String),
    /// PostgreSQL cannot be reached, or refuses.
    #[error("cannot open the database: {0}")]
    Database(sqlx::Error),
    /// A migration failed, or the database is newer than this binary.
    #[error("cannot bring the database up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    /// It is older than this binary, and migrating at the start was switched off.
    #[error(
        "the database is not up to date: run `hookport migrate`, or start with migrate_at_start = true"
    )]
    Outdated,
    /// A later version has taken away what this binary uses.
    #[error(
        "the database is of a later version, which this binary cannot use any more: start that version, or restore a backup"
    )]
    Newer,
}

// Both say what they come from themselves: as a source it would be repeated.
impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<sqlx::migrate::MigrateError> for OpenError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migrate(error)
    }
}

/// The store.
pub struct PostgresStore {
    /// Accepts, and changes the catalogue.
    writer: Writer,
    /// Claims and records.
    leases: Writer,
    /// Claims and sweeps for a broker.
    outbox: Writer,
    readers: PgPool,
    due: Arc<Notify>,
    listening: Arc<Listening>,
}

/// Listens for as long as it lives.
struct Listening(JoinHandle<()>);

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn options(url: &str) -> std::result::Result<PgConnectOptions, OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::Url("it begins with something else".to_owned()));
    }
    // sqlx says what is wrong with it and repeats none of it.
    let options: PgConnectOptions = url
        .parse()
        .map_err(|error: sqlx::Error| OpenError::Url(error.to_string()))?;
    Ok(options
        .application_name("hookport")
        .statement_cache_capacity(300)
        .options([
            ("statement_timeout", "30000"),
            ("lock_timeout", "10000"),
            ("idle_in_transaction_session_timeout", "30000"),
        ]))
}

fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // The pool asks as well, and for ever: a connection that fell silent would be lost to it.
        .after_release(|connection, _| {
            Box::pin(async move {
                let answered = tokio::time::timeout(PING_TIMEOUT, connection.ping()).await;
                answered.map_err(std::io::Error::from)??;
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

impl PostgresStore {
    /// Opens the database at `url`; brings it up to date where `migrate` says so.
    ///
    /// # Errors
    /// Each kind of [`OpenError`].
    pub async fn open(url: &str, migrate: bool) -> std::result::Result<Self, OpenError> {
        let options = options(url)?;
        let readers = pool(options.clone(), CONNECTIONS);
        let migrations = migrations();
        let mut connection = readers.acquire().await?;
        let versions = versions::compare(&mut connection, &migrations).await?;
        drop(connection);
        if versions.contracted {
            return Err(OpenError::Newer);
        }
        if migrate {
            // Takes a lock: of several processes that start, one does it and the others wait.
            migrations.run(&readers).await?;
        } else if versions.missing > 0 {
            return Err(OpenError::Outdated);
        }
        let due = Arc::new(Notify::new());
        let accepting = dialect::Writing::new(options.clone());
        let own = accepting.server_process();
        Ok(Self {
            writer: Writer::start(accepting),
            leases: Writer::start(dialect::Writing::new(options.clone())),
            outbox: Writer::start(dialect::Writing::new(options.clone())),
            listening: Arc::new(Listening(tokio::spawn(listen(options, due.clone(), own)))),
            due,
            readers,
        })
    }

    /// Looks at the database at `url`, and changes nothing.
    ///
    /// # Errors
    /// Each kind of [`OpenError`].
    pub async fn examine(url: &str) -> std::result::Result<Condition, OpenError> {
        examine::examine(url).await
    }

    /// Brings the database at `url` up to date.
    ///
    /// # Errors
    /// Each kind of [`OpenError`].
    pub async fn migrate(url: &str) -> std::result::Result<(), OpenError> {
        migrations().run(&pool(options(url)?, 1)).await?;
        Ok(())
    }
}

impl PostgresStore {
    /// Runs `task` in a transaction beside those of the writers: what is accepted does not wait for
    /// it.
    async fn beside<T, F>(&self, task: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>>,
    {
        let mut transaction = self.readers.begin().await?;
        let value = task(&mut transaction).await?;
        transaction.commit().await?;
        Ok(value)
    }
}

/// Those of a later version are left alone.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations/postgres");
    migrations.set_ignore_missing(true);
    migrations
}

/// Hears of what other processes accepted, for as long as the store lives.
async fn listen(options: PgConnectOptions, due: Arc<Notify>, own: Arc<AtomicU32>) {
    loop {
        let heard = async {
            let mut listener = PgListener::connect_with(&pool(options.clone(), 1)).await?;
            listener.listen(CHANNEL).await?;
            loop {
                let Ok(heard) = tokio::time::timeout(SILENT_AFTER, listener.recv()).await else {
                    let asked = listener.execute("SELECT 1");
                    let answered = tokio::time::timeout(PING_TIMEOUT, asked).await;
                    answered.map_err(std::io::Error::from)??;
                    continue;
                };
                if heard?.process_id() != own.load(Ordering::Relaxed) {
                    due.notify_one();
                }
            }
        };
        let heard: std::result::Result<(), sqlx::Error> = heard.await;
        if let Err(error) = heard {
            tracing::debug!(%error, "not told of new deliveries for a moment; they are looked for every second");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

#[async_trait]
impl DeliveryStore for PostgresStore {
    async fn accept(&self, request: AcceptRequest) -> Result<Accepted> {
        self.writer.accept(request).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claim> {
        self.leases.claim(request).await
    }

    async fn record(&self, result: LeaseResult) -> Result<Recorded> {
        self.leases.record(result).await
    }

    async fn release(&self, leases: Vec<(DeliveryId, FencingToken)>, at: Timestamp) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(record::release(connection, leases, at)))
            .await
    }

    async fn release_unheld(
        &self,
        worker: WorkerId,
        held: Vec<DeliveryId>,
        at: Timestamp,
    ) -> Result<u64> {
        self.leases
            .run(move |connection| Box::pin(record::release_unheld(connection, worker, held, at)))
            .await
    }

    async fn release_all(&self, at: Timestamp) -> Result<u64> {
        self.writer
            .run(move |connection| Box::pin(record::release_all(connection, at)))
            .await
    }

    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        in_time(query::event(&self.readers, id)).await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Page<Event>> {
        in_time(query::events(&self.readers, filter, after, limit)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>> {
        in_time(query::delivery(&self.readers, id)).await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>> {
        in_time(query::attempts(&self.readers, id)).await
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        in_time(query::deliveries(&self.readers, filter, after, limit)).await
    }

    async fn retry(&self, id: DeliveryId, at: Timestamp) -> Result<Option<Delivery>> {
        let found = self
            .writer
            .run(move |connection| Box::pin(record::retry(connection, id, at)))
            .await?;
        if found {
            self.delivery(id).await
        } else {
            Ok(None)
        }
    }

    async fn backlog(&self, at_most: u64) -> Result<u64> {
        in_time(query::backlog(&self.readers, at_most)).await
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>> {
        in_time(query::oldest_due(&self.readers)).await
    }

    async fn put_circuit(&self, open: OpenCircuit) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(circuit::put(connection, open)))
            .await
    }

    async fn delete_circuit(&self, id: SubscriptionId) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(circuit::forget(connection, id)))
            .await
    }

    async fn circuits(&self) -> Result<Vec<OpenCircuit>> {
        in_time(circuit::all(&self.readers)).await
    }
}

#[async_trait]
impl CatalogStore for PostgresStore {
    async fn catalog(&self) -> Result<Catalog> {
        in_time(catalog::load(&self.readers)).await
    }

    async fn turn(&self) -> Result<Turn> {
        in_time(async {
            // Ends with its transaction, however that ends.
            let mut held = self.readers.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(TURN_LOCK)
                .execute(&mut *held)
                .await?;
            Ok(Turn(Some(Box::new(held))))
        })
        .await
    }

    async fn epoch(&self) -> Result<CatalogEpoch> {
        in_time(catalog::epoch(&self.readers)).await
    }

    async fn put_event_type(&self, event_type: EventType) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(catalog::put_event_type(connection, event_type)))
            .await
    }

    async fn put_catalogue(
        &self,
        event_types: Vec<EventType>,
        gone: Vec<EventTypeName>,
    ) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(catalog::put_catalogue(connection, event_types, gone)))
            .await
    }

    async fn delete_event_type(&self, name: &EventTypeName) -> Result<bool> {
        let name = name.clone();
        self.writer
            .run(move |connection| Box::pin(catalog::delete_event_type(connection, name)))
            .await
    }

    async fn replace_documents(&self, changes: DocumentChanges) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(catalog::replace_documents(connection, changes)))
            .await
    }

    async fn put_subscription(&self, subscription: Subscription) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(catalog::put_subscription(connection, subscription)))
            .await
    }

    async fn delete_subscription(&self, id: SubscriptionId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(catalog::delete_subscription(connection, id, at)))
            .await
    }

    async fn put_connection(&self, connection: Connection) -> Result<()> {
        self.writer
            .run(move |writer| Box::pin(catalog::put_connection(writer, connection)))
            .await
    }

    async fn delete_connection(&self, id: ConnectionId) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(catalog::delete_connection(connection, id)))
            .await
    }

    async fn put_source(&self, source: Source) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(source::put(connection, source)))
            .await
    }

    async fn delete_source(&self, id: SourceId) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(source::delete(connection, id)))
            .await
    }

    async fn grants(&self) -> Result<Vec<GrantRecord>> {
        in_time(catalog::grants(&self.readers)).await
    }

    async fn put_grant(&self, grant: GrantRecord) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(catalog::put_grant(connection, grant)))
            .await
    }

    async fn delete_grant(&self, provider: &ProviderId) -> Result<bool> {
        let provider = provider.clone();
        self.writer
            .run(move |connection| Box::pin(catalog::delete_grant(connection, provider)))
            .await
    }

    async fn put_key(&self, key: ApiKey) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(catalog::put_key(connection, key)))
            .await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        in_time(catalog::keys(&self.readers)).await
    }

    async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(catalog::revoke_key(connection, id, at)))
            .await
    }
}

#[async_trait]
impl IngressStore for PostgresStore {
    async fn receive(&self, request: ReceiveRequest) -> Result<Received> {
        self.writer.receive(request).await
    }

    async fn webhook(&self, id: WebhookId) -> Result<Option<InboundWebhook>> {
        in_time(ingress::webhook(&self.readers, id)).await
    }

    async fn webhooks(
        &self,
        filter: &WebhookFilter,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Page<InboundWebhook>> {
        in_time(ingress::webhooks(&self.readers, filter, after, limit)).await
    }

    async fn reject(&self, rejection: Rejection) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(ingress::reject(connection, rejection)))
            .await
    }

    async fn rejections(&self, source: SourceId) -> Result<Vec<Rejection>> {
        in_time(ingress::rejections(&self.readers, source)).await
    }
}

#[async_trait]
impl ReplayStore for PostgresStore {
    async fn put_replay(&self, replay: Replay) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(replay::put(connection, replay)))
            .await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>> {
        in_time(replay::one(&self.readers, id)).await
    }

    async fn replays(
        &self,
        state: Option<ReplayState>,
        after: Option<ReplayId>,
        limit: usize,
    ) -> Result<Page<Replay>> {
        in_time(replay::list(&self.readers, state, after, limit)).await
    }

    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped> {
        self.writer
            .run(move |connection| Box::pin(replay::step(connection, step)))
            .await
    }

    async fn cancel_replay(&self, id: ReplayId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(replay::cancel(connection, id, at)))
            .await
    }

    async fn replay_outcomes(&self, id: ReplayId) -> Result<Outcomes> {
        in_time(replay::outcomes(&self.readers, id)).await
    }

    async fn failed_of(&self, event: EventId, subscription: Option<SubscriptionId>) -> Result<u64> {
        in_time(replay::failed_of(&self.readers, event, subscription)).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn connections(&self) -> Connections {
        Connections::of(&self.readers)
    }

    async fn ping(&self) -> Result<()> {
        let answered = tokio::time::timeout(PING_TIMEOUT, async {
            sqlx::query("SELECT 1").execute(&self.readers).await
        });
        let answered = answered
            .await
            .map_err(|_| StoreError::Unavailable("PostgreSQL does not answer".into()))?;
        answered?;
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn keep_alive(&self, worker: WorkerId, patience: Duration) -> Result<u64> {
        let patience = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
        self.writer
            .run(move |connection| Box::pin(workers::keep_alive(connection, worker, patience)))
            .await
    }

    fn outbox(self: Arc<Self>) -> Option<Arc<dyn OutboxStore>> {
        Some(self)
    }

    async fn heard_of_work(&self) {
        self.due.notified().await;
    }

    fn audited(&self, entry: NewEntry) -> Arc<dyn Store> {
        Arc::new(Self {
            writer: self.writer.audited(entry),
            leases: self.leases.clone(),
            outbox: self.outbox.clone(),
            readers: self.readers.clone(),
            due: self.due.clone(),
            listening: self.listening.clone(),
        })
    }
}
