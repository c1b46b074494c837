//! The installed providers: what lies in the providers directory, what of it may be used, and
//! which component answers calls.
//!
//! Invariant: the component that serves a provider is replaced only by one that was verified,
//! compiled, described and granted in full, and in one step; whatever else happens in the
//! directory is reported and changes nothing. A call ends on the component that it began with.
//!
//! [`state`] decides, without I/O; this module reads, compiles, watches and publishes.

mod apart;
mod code_cache;
mod directory;
mod documents;
mod event;
mod grants;
mod load;
mod manifest;
mod state;
mod worlds;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

pub use code_cache::{CodeCache, CodeCacheError, CodeCacheLimits};
pub use documents::{Documents, GrantStore, MigrationError, Migrator};
pub use event::RegistryEvent;
pub use grants::{FileGrant, GRANTS_FILE, InvalidGrant, parse_file as parse_grants_file};
pub use load::inspect;
pub use manifest::Manifest;

use self::documents::Preparation;
use self::load::Loader;
use self::state::{Announcement, Look, State};
use super::compile_child::Compiler;
use super::component::LoadedComponent;
use super::engine::Sandbox;
use super::limits::Limits;
use super::{
    CallFailure, CallReport, DeliverCall, EffectivePermissions, GrantError, GuestDocument,
    OptionsCall, Providers, Receipt, SelectOption,
};
use crate::domain::audit::Author;
use crate::domain::clock::Clock;
use crate::domain::provider::{
    ComponentKind, ComponentReport, ComponentState, Descriptor, Grant, ProviderId, ProviderReport,
};
use crate::store::GrantRecord;

/// More than a directory has files, so that whoever listens misses nothing.
const EVENTS_KEPT: usize = 1_024;
/// Gathers the bursts of events that one copy makes.
const GATHER: Duration = Duration::from_millis(20);
/// A start does not wait longer than so many intervals for a file that goes on changing.
const SETTLING_LOOKS_MAX: u32 = 5;

/// Settings of the registry.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// The providers directory.
    pub directory: PathBuf,
    /// Where compiled code is kept; `None`: nowhere.
    pub cache_directory: Option<PathBuf>,
    /// How much compiled code is kept.
    pub cache_limits: CodeCacheLimits,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// The directory is looked at so often even when nothing was heard of it.
    pub rescan_interval: Duration,
    /// A file that changed lately must stay unchanged for so long before it is read.
    pub settle_interval: Duration,
    /// How long a start waits for components to be compiled before it goes on without them.
    pub startup_wait: Duration,
    /// Limits of calls.
    pub limits: Limits,
    /// Overrides for some providers.
    pub provider_limits: HashMap<ProviderId, Limits>,
}

impl RegistryConfig {
    /// Defaults for a directory and a compiler.
    #[must_use]
    pub fn new(directory: PathBuf, compiler: Compiler) -> Self {
        Self {
            directory,
            cache_directory: None,
            cache_limits: CodeCacheLimits::default(),
            compiler,
            rescan_interval: Duration::from_secs(2),
            settle_interval: Duration::from_millis(200),
            startup_wait: Duration::from_secs(30),
            limits: Limits::default(),
            provider_limits: HashMap::new(),
        }
    }
}

/// The registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The providers directory cannot be read.
    #[error(
        "the providers directory {path} cannot be read: {source}; create it, or name another with --providers"
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The grants on record cannot be read.
    #[error("the grants on record cannot be read: {0}")]
    Store(#[from] crate::store::StoreError),
}

/// A component that answers calls, and under what.
struct Serving {
    version: Arc<state::Version>,
    effective: EffectivePermissions,
    component: LoadedComponent,
}

type ServingMap = HashMap<ProviderId, Arc<Serving>>;

/// The installed providers. Dropping it ends the watching; calls under way go on.
pub struct Registry {
    inner: Arc<Inner>,
    watch: JoinHandle<()>,
    /// Has heard everything since before the first look.
    first_subscriber: Mutex<Option<broadcast::Receiver<RegistryEvent>>>,
    /// Held for its callback.
    _watcher: Option<notify::RecommendedWatcher>,
}

struct Inner {
    config: RegistryConfig,
    sandbox: Arc<Sandbox>,
    store: Arc<dyn GrantStore>,
    documents: Arc<dyn Documents>,
    clock: Arc<dyn Clock>,
    loader: Loader,
    state: Mutex<State>,
    serving: ArcSwap<ServingMap>,
    events: broadcast::Sender<RegistryEvent>,
    wake: Arc<Notify>,
    /// Grants reach the store one after the other, in the order in which they count here.
    grant_writes: tokio::sync::Mutex<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.inner.config.directory.display())
    }
}

impl Registry {
    /// Loads what the directory holds, all at once, and goes on watching it. Returns when each
    /// file is loaded or refused, or after `startup_wait`: what is still being compiled then
    /// joins later.
    ///
    /// # Errors
    /// When the directory or the grants on record cannot be read. A code cache that cannot be
    /// used is reported and done without.
    pub async fn start(
        config: RegistryConfig,
        sandbox: Arc<Sandbox>,
        store: Arc<dyn GrantStore>,
        documents: Arc<dyn Documents>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let started = Instant::now();
        let unreadable = |source| StartError::Directory {
            path: config.directory.clone(),
            source,
        };
        std::fs::read_dir(&config.directory).map_err(unreadable)?;
        let stored = store.grants().await?;
        let wake = Arc::new(Notify::new());
        // Watching begins before the first look, so that nothing falls between.
        let watcher = watch(&config.directory, wake.clone());
        let inner = Arc::new(Inner {
            loader: Loader::new(&config, sandbox.clone()),
            state: Mutex::new(State::new(stored, config.settle_interval)),
            serving: ArcSwap::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            config,
            sandbox,
            store,
            documents,
            clock,
            wake,
            grant_writes: tokio::sync::Mutex::default(),
        });
        let first_subscriber = inner.events.subscribe();
        match tokio::time::timeout(inner.config.startup_wait, inner.load_all()).await {
            Ok(loaded) => loaded.map_err(unreadable_of(&inner))?,
            Err(_) => {
                tracing::warn!("some components are still being compiled; starting without them");
            }
        }
        inner.lock().release();
        let prepared = futures_util::future::join_all(inner.settle());
        if tokio::time::timeout(inner.config.startup_wait, prepared)
            .await
            .is_err()
        {
            tracing::warn!(
                "some documents are still being migrated; starting without their providers"
            );
        }
        tracing::info!(
            directory = %inner.config.directory.display(),
            serving = inner.serving.load().len(),
            elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "providers loaded"
        );
        let watch = tokio::spawn(run(inner.clone()));
        Ok(Self {
            inner,
            watch,
            first_subscriber: Mutex::new(Some(first_subscriber)),
            _watcher: watcher,
        })
    }

    /// Events from now on; for the first subscriber also those of the start.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<RegistryEvent> {
        let first = self
            .first_subscriber
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        first.unwrap_or_else(|| self.inner.events.subscribe())
    }

    /// Looks at the directory now instead of at the next change or interval.
    pub fn rescan(&self) {
        self.inner.wake.notify_one();
    }

    fn descriptor_of(&self, kind: ComponentKind, id: &ProviderId) -> Option<Arc<Descriptor>> {
        let serving = self.inner.serving.load();
        let descriptor = &serving.get(id)?.version.descriptor;
        (descriptor.kind == kind).then(|| descriptor.clone())
    }

    fn serving(&self, id: &ProviderId) -> Result<Arc<Serving>, CallFailure> {
        match self.inner.serving.load().get(id) {
            Some(serving) => Ok(serving.clone()),
            None => Err(CallFailure::Unavailable(self.inner.lock().why_not(id))),
        }
    }
}

fn unreadable_of(inner: &Arc<Inner>) -> impl Fn(std::io::Error) -> StartError {
    let path = inner.config.directory.clone();
    move |source| StartError::Directory {
        path: path.clone(),
        source,
    }
}

/// Hears of changes in the directory, where the system can tell.
fn watch(directory: &std::path::Path, wake: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Our own reading makes access events; only the end of a write among them counts.
        let counts = match event {
            Ok(event) => match event.kind {
                EventKind::Access(kind) => {
                    kind == notify::event::AccessKind::Close(notify::event::AccessMode::Write)
                }
                _ => true,
            },
            Err(_) => true,
        };
        if counts {
            wake.notify_one();
        }
    };
    let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(
                directory = %directory.display(), %error,
                "changes of the providers directory are not told by the system; it is looked at in intervals"
            );
            None
        }
    }
}

async fn run(inner: Arc<Inner>) {
    let mut listed = true;
    loop {
        let wait = if inner.lock().unsettled() {
            inner.config.settle_interval
        } else {
            inner.config.rescan_interval
        };
        if tokio::time::timeout(wait, inner.wake.notified())
            .await
            .is_ok()
        {
            tokio::time::sleep(GATHER).await;
        }
        match inner.look().await {
            Ok(_) => listed = true,
            Err(error) => {
                if std::mem::replace(&mut listed, false) {
                    tracing::error!(
                        directory = %inner.config.directory.display(), %error,
                        "the providers directory cannot be read; the providers loaded go on serving"
                    );
                }
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the directory once and starts loading what is new and stable.
    async fn look(self: &Arc<Self>) -> std::io::Result<Vec<JoinHandle<()>>> {
        self.reconsider().await;
        let directory = self.config.directory.clone();
        let seen_grants = self.lock().grants_signature();
        let (found, grants) = tokio::task::spawn_blocking(move || {
            directory::scan(&directory).map(|found| (found, grants::look(&directory, seen_grants)))
        })
        .await
        .map_err(std::io::Error::other)??;
        let now = self.clock.now();
        let to_load = {
            let mut state = self.lock();
            if let Some((signature, read)) = grants {
                state.take_grants_file(signature, read, now);
            }
            state.look(found, now, Instant::now())
        };
        let loads = to_load
            .into_iter()
            .map(|look| {
                let (file, generation) = (look.file.clone(), look.generation);
                let task = tokio::spawn(self.clone().load(look));
                self.lock().started(&file, generation, task.abort_handle());
                task
            })
            .collect();
        self.settle();
        Ok(loads)
    }

    /// Loads what is there, waiting for files that were put there just now to be complete.
    async fn load_all(self: &Arc<Self>) -> std::io::Result<()> {
        let mut loads = self.look().await?;
        for _ in 0..SETTLING_LOOKS_MAX {
            if !self.lock().unsettled() {
                break;
            }
            tokio::time::sleep(self.config.settle_interval).await;
            loads.extend(self.look().await?);
        }
        futures_util::future::join_all(loads).await;
        Ok(())
    }

    async fn load(self: Arc<Self>, look: Look) {
        let outcome = self.loader.load(&look).await;
        self.lock().loaded(&look, outcome);
        self.settle();
    }

    /// Decides anew what serves, publishes it, and tells. Returns the migrations begun, each of
    /// which decides once more at its end.
    fn settle(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let mut state = self.lock();
        let Some(settled) = state.settle(self.clock.now()) else {
            return Vec::new();
        };
        let before = self.serving.load();
        let mut changed = before.len() != settled.serving.len();
        let mut after = ServingMap::with_capacity(settled.serving.len());
        for (id, (version, effective)) in settled.serving {
            let kept = before.get(&id).filter(|serving| {
                Arc::ptr_eq(&serving.version, &version) && serving.effective == effective
            });
            let serving = match kept {
                Some(serving) => serving.clone(),
                None => {
                    changed = true;
                    Arc::new(self.serve(version, effective))
                }
            };
            after.insert(id, serving);
        }
        let served = before.iter();
        let stopped: Vec<_> = served.filter(|(id, _)| !after.contains_key(*id)).collect();
        if changed {
            self.serving.store(Arc::new(after));
        }
        // Published under the lock, so that events come in the order of what they tell.
        for (id, serving) in stopped {
            self.announce_stopped(id, &serving.version, state.why_not(id));
        }
        for announcement in settled.announcements {
            self.announce(announcement);
        }
        if changed {
            self.tell(RegistryEvent::Changed);
        }
        drop(state);
        if !settled.carried_over.is_empty() {
            tokio::spawn(self.clone().pin_anew(settled.carried_over));
        }
        let due = settled.to_prepare.into_iter();
        due.map(|version| tokio::spawn(self.clone().prepare(version)))
            .collect()
    }

    /// Brings what is stored for the provider up to this component's schema.
    async fn prepare(self: Arc<Self>, version: Arc<state::Version>) {
        let mark = self.documents.mark().await;
        let descriptor = &version.descriptor;
        let guest = self.serve(version.clone(), EffectivePermissions::none());
        let migrated = self.documents.migrate(descriptor, &guest.component).await;
        let id = &descriptor.id;
        version.set_preparation(match migrated {
            Ok(0) => Preparation::Done,
            Ok(count) => {
                let version = &descriptor.version;
                tracing::info!(provider = %id, version, count, "stored documents migrated");
                Preparation::Done
            }
            Err(MigrationError::Refused(reason)) => Preparation::Refused { reason, mark },
            Err(MigrationError::Unavailable(reason)) => {
                tracing::warn!(provider = %id, reason, "stored documents could not be migrated; tried again");
                // Not at once, but with the next look at the directory.
                Preparation::Refused { reason, mark: None }
            }
        });
        self.settle();
    }

    /// Documents of an older version were seen although the component serves.
    fn prepare_again(self: Arc<Self>, version: &Arc<state::Version>) {
        // What was refused is reconsidered when something stored has changed.
        if matches!(version.preparation(), Preparation::Done | Preparation::Due) {
            version.set_preparation(Preparation::UnderWay);
            tokio::spawn(self.prepare(version.clone()));
        }
    }

    /// Tries refused migrations again once something stored has changed.
    async fn reconsider(&self) {
        let refused = self.lock().refused_migrations();
        if refused.is_empty() {
            return;
        }
        let now = self.documents.mark().await;
        for version in refused {
            if let Preparation::Refused { mark, .. } = version.preparation()
                && (mark.is_none() || mark != now)
            {
                version.set_preparation(Preparation::Due);
            }
        }
    }

    /// Keeps on record which component a grant was carried over to.
    async fn pin_anew(self: Arc<Self>, records: Vec<GrantRecord>) {
        for record in records {
            let _turn = self.grant_writes.lock().await;
            if !self.lock().is_current(&record) {
                continue;
            }
            let provider = record.provider.clone();
            if let Err(error) = self.store.put_grant(record, None).await {
                tracing::warn!(%provider, %error, "a grant that was carried over is not on record; it is carried over again at the next start");
            }
        }
    }

    fn serve(&self, version: Arc<state::Version>, effective: EffectivePermissions) -> Serving {
        let descriptor = &version.descriptor;
        let limits = match self.config.provider_limits.get(&descriptor.id) {
            Some(limits) => limits.clone(),
            None => self.config.limits.for_kind(descriptor.kind),
        };
        Serving {
            component: LoadedComponent::new(
                self.sandbox.clone(),
                version.code.clone(),
                &version.descriptor,
                effective.clone(),
                limits,
            ),
            version,
            effective,
        }
    }

    fn announce(&self, announcement: Announcement) {
        let Announcement {
            provider,
            report,
            missing,
        } = announcement;
        let id = provider.as_ref().map(ProviderId::as_str);
        let file = report.file.as_str();
        let digest = report.digest.as_str();
        match &report.state {
            ComponentState::Loading => {}
            ComponentState::Serving => {
                let version = report.descriptor.as_ref().map(|d| d.version.as_str());
                tracing::info!(provider = id, version, file, digest, "provider serving");
                if let Some(provider) = provider {
                    self.tell(RegistryEvent::Serving { provider, report });
                }
            }
            ComponentState::AwaitingGrant => {
                tracing::warn!(
                    provider = id,
                    file,
                    digest,
                    missing = missing.join(", "),
                    "the component asks for more than is granted and waits: grant it through the API (PUT /api/v1/providers/{{id}}/grant) or in {GRANTS_FILE}"
                );
                if let Some(provider) = provider {
                    self.tell(RegistryEvent::AwaitingGrant {
                        provider,
                        missing,
                        report,
                    });
                }
            }
            ComponentState::Rejected(reason) => {
                tracing::warn!(provider = id, file, digest, reason, "component refused");
                self.tell(RegistryEvent::Failed { provider, report });
            }
        }
    }

    fn announce_stopped(&self, id: &ProviderId, version: &state::Version, reason: String) {
        let report = version.report(self.clock.now());
        let (file, digest) = (&report.file, &report.digest);
        tracing::warn!(provider = %id, file, digest, reason, "provider serves no more");
        self.tell(RegistryEvent::Stopped {
            provider: id.clone(),
            report,
            reason,
        });
    }

    fn tell(&self, event: RegistryEvent) {
        // Fails only when nobody listens.
        let _ = self.events.send(event);
    }
}

#[async_trait]
impl Providers for Registry {
    fn reports(&self) -> Vec<ProviderReport> {
        self.inner.lock().reports()
    }

    fn rejected_files(&self) -> Vec<ComponentReport> {
        self.inner.lock().rejected_files()
    }

    fn descriptor(&self, id: &ProviderId) -> Option<Arc<Descriptor>> {
        self.descriptor_of(ComponentKind::Provider, id)
    }

    async fn deliver(&self, id: &ProviderId, call: DeliverCall) -> CallReport<Receipt> {
        match self.serving(id) {
            Ok(serving) => serving.component.deliver(call).await,
            Err(failure) => CallReport::failed(failure),
        }
    }

    async fn test_connection(
        &self,
        id: &ProviderId,
        connection: GuestDocument,
    ) -> CallReport<String> {
        match self.serving(id) {
            Ok(serving) => serving.component.test_connection(connection).await,
            Err(failure) => CallReport::failed(failure),
        }
    }

    async fn options(&self, id: &ProviderId, call: OptionsCall) -> CallReport<Vec<SelectOption>> {
        match self.serving(id) {
            Ok(serving) => serving.component.options(call).await,
            Err(failure) => CallReport::failed(failure),
        }
    }

    fn takes(&self, id: &ProviderId, call: &DeliverCall) -> bool {
        let Ok(serving) = self.serving(id) else {
            return true; // The call itself says why nobody answers.
        };
        let descriptor = &serving.version.descriptor;
        let connection = call.connection.as_ref().zip(descriptor.connection.as_ref());
        let versions = [
            (call.config.version, descriptor.config.version),
            connection.map_or((0, 0), |(call, own)| (call.version, own.version)),
        ];
        if versions.iter().any(|(stored, own)| stored < own) {
            self.inner.clone().prepare_again(&serving.version);
        }
        versions.iter().all(|(stored, own)| stored == own)
    }

    async fn grant(
        &self,
        id: &ProviderId,
        grant: Grant,
        by: Author,
    ) -> Result<ProviderReport, GrantError> {
        grants::check(&grant).map_err(|error| GrantError::Invalid(error.to_string()))?;
        let inner = &self.inner;
        let unknown = || GrantError::UnknownProvider(id.clone());
        let turn = inner.grant_writes.lock().await;
        let version = inner.lock().newest(id).ok_or_else(unknown)?;
        let record = GrantRecord {
            provider: id.clone(),
            grant,
            asked: version.descriptor.permissions.clone(),
            digest: version.digest.clone(),
            granted_at: inner.clock.now(),
        };
        inner
            .store
            .put_grant(record.clone(), Some(by))
            .await
            .map_err(|error| GrantError::Unavailable(error.to_string()))?;
        inner.lock().take_grant(record);
        drop(turn);
        futures_util::future::join_all(inner.settle()).await;
        let report = inner.lock().report(id);
        report.ok_or_else(unknown)
    }
}
