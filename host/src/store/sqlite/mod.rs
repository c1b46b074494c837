//! SQLite in WAL mode with durable commits: the embedded default.
//!
//! One task owns the writing connection and commits for everyone (`writer`); readers have
//! connections of their own and never wait for it. A lock file beside the database makes sure
//! that one process at a time has it open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{SqliteConnection, SqlitePool};

use super::audit::Effect;
use super::{
    AcceptRequest, Accepted, Catalog, CatalogEpoch, CatalogStore, Claim, ClaimRequest, Condition,
    Connections, DeliveryFilter, DeliveryStore, DocumentChanges, EventFilter, GrantRecord,
    IngressStore, Page, ReceiveRequest, Received, Recorded, ReplayStep, ReplayStore, Result,
    Stepped, Store, StoreError, WebhookFilter,
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
#[cfg(test)]
mod claim_plans;
#[cfg(test)]
mod crash;
mod dialect;
mod examine;
mod lanes;
mod reader;
mod settle;
mod values;

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

pub use reader::SqliteReader;
use writer::Writer;

/// How long a health check waits for the writer.
const PING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);
/// Connections for listings and details.
const READERS: u32 = 4;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{0} is in use by another hookport process: one process at a time can use the embedded database"
    )]
    InUse(PathBuf),
    /// The file system refuses.
    #[error("cannot open {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite refuses.
    #[error("cannot open the database: {0}")]
    Database(sqlx::Error),
    /// A migration failed, or the database is newer than this binary.
    #[error("cannot bring the database up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
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
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    /// Held for as long as the store lives.
    lock: Arc<File>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens or creates the database at `path`, alone, and brings it up to date.
    ///
    /// # Errors
    /// Each kind of [`OpenError`].
    pub async fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let lock = lock(&path.with_extension("lock"))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .statement_cache_capacity(200)
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", "4000")
            .pragma("temp_store", "MEMORY");
        let writing = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        let migrations = migrations();
        let mut connection = writing.acquire().await?.detach();
        if versions::compare(&mut connection, &migrations)
            .await?
            .contracted
        {
            return Err(OpenError::Newer);
        }
        migrations.run(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(
                options
                    .clone()
                    .read_only(true)
                    .pragma("cache_size", "-8192"),
            )
            .await?;
        Ok(Self {
            writer: Writer::start(dialect::Writing {
                connection,
                options,
            }),
            readers,
            lock: Arc::new(lock),
        })
    }
}

impl SqliteStore {
    /// Runs `task` in a transaction of its own. One connection writes here, so that it has its turn
    /// like any other command.
    async fn beside<T, F>(&self, task: F) -> Result<T>
    where
        T: Effect + Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.writer.run(task).await
    }

    /// Looks at the database at `path`, and changes nothing.
    ///
    /// # Errors
    /// Each kind of [`OpenError`]; `InUse` while a gateway runs.
    pub async fn examine(path: &Path) -> std::result::Result<Condition, OpenError> {
        examine::examine(path).await
    }
}

/// Those of a later version are left alone.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations/sqlite");
    migrations.set_ignore_missing(true);
    migrations
}

fn lock(path: &Path) -> std::result::Result<File, OpenError> {
    let io = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(io(error)),
    }
}

#[async_trait]
impl DeliveryStore for SqliteStore {
    async fn accept(&self, request: AcceptRequest) -> Result<Accepted> {
        self.writer.accept(request).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claim> {
        self.writer.claim(request).await
    }

    async fn record(&self, result: LeaseResult) -> Result<Recorded> {
        self.writer.record(result).await
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
        self.writer
            .run(move |connection| Box::pin(record::release_unheld(connection, worker, held, at)))
            .await
    }

    async fn release_all(&self, at: Timestamp) -> Result<u64> {
        self.writer
            .run(move |connection| Box::pin(record::release_all(connection, at)))
            .await
    }

    async fn event(&self, id: EventId) -> Result<Option<Event>> {
        query::event(&self.readers, id).await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Page<Event>> {
        query::events(&self.readers, filter, after, limit).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>> {
        query::delivery(&self.readers, id).await
    }

    async fn attempts(&self, id: DeliveryId) -> Result<Vec<Attempt>> {
        query::attempts(&self.readers, id).await
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        query::deliveries(&self.readers, filter, after, limit).await
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
        query::backlog(&self.readers, at_most).await
    }

    async fn oldest_due(&self) -> Result<Option<Timestamp>> {
        query::oldest_due(&self.readers).await
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
        circuit::all(&self.readers).await
    }
}

#[async_trait]
impl CatalogStore for SqliteStore {
    async fn catalog(&self) -> Result<Catalog> {
        catalog::load(&self.readers).await
    }

    async fn epoch(&self) -> Result<CatalogEpoch> {
        catalog::epoch(&self.readers).await
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
        catalog::grants(&self.readers).await
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
        catalog::keys(&self.readers).await
    }

    async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<bool> {
        self.writer
            .run(move |connection| Box::pin(catalog::revoke_key(connection, id, at)))
            .await
    }
}

#[async_trait]
impl IngressStore for SqliteStore {
    async fn receive(&self, request: ReceiveRequest) -> Result<Received> {
        self.writer.receive(request).await
    }

    async fn webhook(&self, id: WebhookId) -> Result<Option<InboundWebhook>> {
        ingress::webhook(&self.readers, id).await
    }

    async fn webhooks(
        &self,
        filter: &WebhookFilter,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Page<InboundWebhook>> {
        ingress::webhooks(&self.readers, filter, after, limit).await
    }

    async fn reject(&self, rejection: Rejection) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(ingress::reject(connection, rejection)))
            .await
    }

    async fn rejections(&self, source: SourceId) -> Result<Vec<Rejection>> {
        ingress::rejections(&self.readers, source).await
    }
}

#[async_trait]
impl ReplayStore for SqliteStore {
    async fn put_replay(&self, replay: Replay) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(replay::put(connection, replay)))
            .await
    }

    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>> {
        replay::one(&self.readers, id).await
    }

    async fn replays(
        &self,
        state: Option<ReplayState>,
        after: Option<ReplayId>,
        limit: usize,
    ) -> Result<Page<Replay>> {
        replay::list(&self.readers, state, after, limit).await
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
        replay::outcomes(&self.readers, id).await
    }

    async fn failed_of(&self, event: EventId, subscription: Option<SubscriptionId>) -> Result<u64> {
        replay::failed_of(&self.readers, event, subscription).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn connections(&self) -> Connections {
        Connections::of(&self.readers)
    }

    async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        // The writer is what matters: a full disk shows there, and nowhere else.
        let write = self.writer.run(|connection| {
            Box::pin(async move {
                sqlx::query("UPDATE catalog SET epoch = epoch")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        });
        tokio::time::timeout(PING_TIMEOUT, write)
            .await
            .map_err(|_| StoreError::Unavailable("the writer does not answer".into()))?
    }

    fn audited(&self, entry: NewEntry) -> Arc<dyn Store> {
        Arc::new(Self {
            writer: self.writer.audited(entry),
            readers: self.readers.clone(),
            lock: self.lock.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    conformance::cases!(open_temporary);

    #[tokio::test]
    async fn a_later_version_that_expanded_is_opened_and_one_that_contracted_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("later.db");
        drop(SqliteStore::open(&path).await.expect("opens"));
        let apply = async |version: i64, description: &str| {
            let options = SqliteConnectOptions::new().filename(&path);
            let pool = SqlitePool::connect_with(options).await.expect("opens");
            sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, x'00', 0)")
                .bind(version)
                .bind(description)
                .execute(&pool)
                .await
                .expect("noted");
            pool.close().await;
        };
        apply(9_001, "colours").await;
        drop(SqliteStore::open(&path).await.expect("opens"));
        apply(9_002, "contract colours").await;
        let refused = SqliteStore::open(&path).await.expect_err("refused");
        assert!(matches!(refused, OpenError::Newer), "{refused}");
        let found = SqliteStore::examine(&path).await.expect("looks");
        assert_eq!(found.versions.unknown, 2);
        assert_eq!(found.versions.missing, 0);
        assert!(found.versions.contracted);
    }

    async fn open_temporary() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = SqliteStore::open(&dir.path().join("test.db"))
            .await
            .expect("opens");
        (dir, store)
    }

    #[tokio::test]
    async fn the_audit_trail_is_only_added_to() {
        let (_dir, store) = open_temporary().await;
        conformance::added_at_once(&[&store]).await;
        for statement in [
            "UPDATE audit_entries SET action = 'x' WHERE seq = 1",
            "DELETE FROM audit_entries WHERE seq = 1",
            "INSERT OR REPLACE INTO audit_entries SELECT * FROM audit_entries WHERE seq = 1",
            "UPDATE audit_head SET seq = seq - 1",
            "UPDATE audit_head SET hash = zeroblob(32)",
            "DELETE FROM audit_head",
            "INSERT OR REPLACE INTO audit_head VALUES (1, 0, zeroblob(32))",
        ] {
            let refused = store.writer.run(move |connection| {
                Box::pin(async move {
                    sqlx::query(statement).execute(connection).await?;
                    Ok(())
                })
            });
            let error = refused.await.expect_err(statement).to_string();
            assert!(error.contains("audit"), "{statement}: {error}");
        }
    }

    #[tokio::test]
    async fn a_second_opener_is_refused_with_the_reason() {
        let (dir, _store) = open_temporary().await;
        let error = SqliteStore::open(&dir.path().join("test.db"))
            .await
            .expect_err("in use");
        assert!(matches!(error, OpenError::InUse(_)), "{error}");
    }

    #[tokio::test]
    async fn hot_queries_use_their_indexes() {
        let (_dir, store) = open_temporary().await;
        claim_plans::check(&store.readers).await;
        let filled = store.fill(plans::DELIVERIES, plans::UNTIL).await;
        filled.expect("fills");
        plans::check(&store.readers).await;
    }
}
