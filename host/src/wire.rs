//! The only file that picks back ends: from a configuration to a running gateway.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, HealthCheck, KeyView, new_key};
use crate::config::{Config, ProcessRole};
use crate::coord::markers::Markers;
use crate::coord::sealed::SealedValues;
use crate::dispatch::key_keeping::KeyKeeper;
use crate::dispatch::rotation::Rotation;
use crate::dispatch::{
    Accepter, DeadLetters, Ids, Programs, Replayer, Retention, Snapshots, StoredDocuments, Worker,
    WorkerConfig, announcements, operational, rotation,
};
use crate::domain::audit::{Actor, NewEntry};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::id::{KeyId, WorkerId};
use crate::domain::key::{ApiKey, Role};
use crate::domain::provider::ProviderId;
use crate::egress::{Egress, EgressConfig};
use crate::ingress::Ingress;
use crate::ingress::limiter::Limiter;
use crate::plugin::compile_child::{CompileLimits, Compiler};
use crate::plugin::engine::{Sandbox, SandboxConfig};
use crate::plugin::registry::{Registry, RegistryConfig};
use crate::queue::broker::Broker;
use crate::store::{Catalog, Store, StoreError};
use crate::telemetry::{Exported, Settings, Traces};
use crate::vault::key::{OTHERS_VARIABLE, VARIABLE, Variables, WhenMissing};
use crate::vault::{KeyRing, Vault};

mod figures;
mod liveness;
mod servers;
mod stores;

use figures::metrics;
pub(crate) use liveness::{hear_of_work, stay_alive};
use servers::{WorkQueue, coord, work_queue};
pub use servers::{rabbit, redis};
pub use stores::{examine_store, fill_store, is_in_use, open_reader, open_store};

/// Calls that the API makes itself: tests of connections, options.
const API_CALLS: u32 = 32;
/// How often a process shows that it lives, over a shared store.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// One that was not seen for so long has lost what it had in flight.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How long a process that ends waits for the store to take its leases back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it waits for the collector to take the last spans.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(2);
/// Where the first start leaves its key.
const ADMIN_KEY_FILE: &str = "admin.key";

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the clock is read"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Identifiers with the system's randomness.
#[must_use]
pub fn ids() -> Ids {
    Ids::new(rand::random)
}

/// What the environment says of master keys.
#[must_use]
pub fn key_variables() -> Variables {
    Variables {
        key: std::env::var(VARIABLE).ok(),
        others: std::env::var(OTHERS_VARIABLE).ok(),
    }
}

/// Where the master key is, unless the environment has it.
#[must_use]
pub fn key_file(config: &Config) -> PathBuf {
    config.data_dir.join("vault.key")
}

/// With a key that opens nothing of what is on record, every delivery would fail.
fn refuse_wrong_keys(catalog: &Catalog, vault: &Vault) -> anyhow::Result<()> {
    let counts = rotation::count(catalog);
    let keys = vault.keys();
    let unknown: Vec<_> = counts
        .keys()
        .filter(|key| !keys.opens.contains(*key))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    if unknown.len() == counts.len() {
        bail!(
            "the master key {} opens none of the secrets on record, which are under {unknown:?}: put the right key into {VARIABLE} or vault.key; the one before goes into {OTHERS_VARIABLE}, or the second line of vault.key",
            keys.seals
        );
    }
    tracing::error!(
        ?unknown,
        "some secrets on record are under keys that are not at hand: put those into {OTHERS_VARIABLE}, or enter the secrets again"
    );
    Ok(())
}

/// The engine, with room for the configured work.
///
/// # Errors
/// When it cannot be set up.
pub fn sandbox(config: &Config) -> anyhow::Result<Arc<Sandbox>> {
    let extra_roots_pem = match &config.egress.extra_ca_file {
        Some(path) => vec![
            fs::read(path).with_context(|| format!("egress.extra_ca_file {}", path.display()))?,
        ],
        None => Vec::new(),
    };
    let egress = Arc::new(Egress::new(&EgressConfig { extra_roots_pem })?);
    let limits = || std::iter::once(&config.limits).chain(config.provider_limits.values());
    let sandbox_config = SandboxConfig {
        calls_max: config.concurrency.saturating_add(API_CALLS),
        memory_bytes_max: limits()
            .map(|limits| limits.memory_bytes_max)
            .max()
            .unwrap_or_default(),
        table_elements_max: limits()
            .map(|limits| limits.table_elements_max)
            .max()
            .unwrap_or_default(),
    };
    Ok(Arc::new(Sandbox::new(sandbox_config, egress)?))
}

/// A running gateway.
pub struct Gateway {
    /// Where the API listens.
    pub address: SocketAddr,
    /// No new work; not ready.
    stop: watch::Sender<bool>,
    /// The listener closes.
    close: watch::Sender<bool>,
    /// What is under way is broken off.
    cut: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
    working: JoinHandle<()>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    worker: WorkerId,
    traces: Traces,
    grace: Duration,
    drain: Duration,
    process: Actor,
}

impl Gateway {
    /// Starts everything; when this returns, the API answers.
    ///
    /// # Errors
    /// With what to mend.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let store = open_store(&config).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids = Arc::new(ids());
        let (variables, key_file) = (key_variables(), key_file(&config));
        let when_missing = if store.is_shared() {
            WhenMissing::Refuse
        } else {
            WhenMissing::Create
        };
        let ring = KeyRing::load(&variables, &key_file, when_missing)?;
        let vault = Arc::new(Vault::new(&ring.sealing, &ring.others));
        refuse_wrong_keys(&store.catalog().await?, &vault)?;
        let worker_id: WorkerId = ids.next(clock.now());
        let process = Actor::process(worker_id, config.role.as_str());
        record_process(&*store, &*clock, &process, "process.started").await?;
        first_key(&*store, &clock, &ids, &config.data_dir, &process).await?;
        operational::register(&*store, &clock).await?;
        if !store.is_shared() {
            // This process is alone on the store: whoever held leases is gone.
            let released = store.release_all(clock.now()).await?;
            if released > 0 {
                tracing::info!(
                    released,
                    "deliveries that an earlier process left in flight are due again"
                );
            }
        }

        let snapshots = Arc::new(Snapshots::load(store.clone()).await?);
        let documents = Arc::new(StoredDocuments {
            store: store.clone(),
            snapshots: snapshots.clone(),
            vault: vault.clone(),
            clock: clock.clone(),
            process: process.clone(),
        });
        let sandbox = sandbox(&config)?;
        let exported = Exported::default();
        let mut metrics = metrics(&sandbox, &store, &exported);
        let settings = Settings {
            endpoint: config.telemetry.otlp_endpoint.clone(),
            service_name: config.telemetry.service_name.clone(),
            instance: worker_id.to_string(),
            sample_ratio: config.telemetry.sample_ratio,
            propagate: config.telemetry.propagate,
        };
        let traces = Traces::start(settings, exported, clock.clone(), rand::random)?;
        let WorkQueue { queue, broker } =
            work_queue(&config, &store, &clock, worker_id, &mut metrics)?;
        let metrics = Arc::new(metrics);
        let (coord, redis_check) = coord(&config, &clock, &metrics).await?;
        if let Some(values) = SealedValues::shared(coord.clone(), vault.clone()) {
            sandbox.share(values);
        }
        let registry = registry(&config, sandbox, documents, clock.clone()).await?;
        let keeper = KeyKeeper {
            file: variables.key.is_none().then_some(key_file),
            variables,
            rotation: Rotation {
                store: store.clone(),
                snapshots: snapshots.clone(),
                vault: vault.clone(),
                clock: clock.clone(),
                actor: process.clone(),
            },
            process: worker_id,
            is_shared: store.is_shared(),
        };
        tokio::spawn(keeper.run());
        if store.is_shared() {
            // Before the first claim: what a process holds that nobody ever saw would wait for the
            // end of its lease.
            store.keep_alive(worker_id, DEAD_AFTER).await?;
            tokio::spawn(stay_alive(
                store.clone(),
                worker_id,
                queue.clone(),
                clock.clone(),
                metrics.clone(),
            ));
            tokio::spawn(hear_of_work(store.clone(), queue.clone(), clock.clone()));
        }
        let accepter = Arc::new(Accepter {
            store: store.clone(),
            queue: queue.clone(),
            snapshots: snapshots.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            programs: Arc::new(Programs::new(registry.clone())),
            metrics: metrics.clone(),
            markers: Markers::new(coord.clone(), store.clone()),
            process: process.clone(),
        });
        tokio::spawn(announcements::pass_on(
            registry.subscribe(),
            accepter.clone(),
        ));
        let replayer = Arc::new(Replayer {
            store: store.clone(),
            queue: queue.clone(),
            accepter: accepter.clone(),
            coord: coord.clone(),
            clock: clock.clone(),
            wake: tokio::sync::Notify::new(),
        });
        let dead_letters = Arc::new(DeadLetters {
            store: store.clone(),
            queue: queue.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            wake: tokio::sync::Notify::new(),
        });
        let retention = Retention {
            store: store.clone(),
            clock: clock.clone(),
            worker: worker_id,
            ages: config.retention.ages(),
            every: Duration::from_millis(config.retention.every_ms),
            metrics: metrics.clone(),
        };
        let worker = Arc::new(Worker {
            queue: queue.clone(),
            providers: registry.clone(),
            snapshots: snapshots.clone(),
            catalog: store.clone(),
            vault: vault.clone(),
            accepter: accepter.clone(),
            coord: coord.clone(),
            clock: clock.clone(),
            jitter: rand::random,
            traces: traces.clone(),
            config: WorkerConfig {
                concurrency: usize::try_from(config.concurrency)?,
                concurrency_per_subscription: usize::try_from(config.concurrency_per_subscription)?,
            },
        });
        let (stop, stopping) = watch::channel(false);
        let (close, mut closing) = watch::channel(false);
        let cut = CancellationToken::new();
        let role = config.role;
        let working = if role == ProcessRole::Api {
            // What this process accepts, others deliver.
            tokio::spawn(async {})
        } else {
            tokio::spawn(replayer.clone().run(stopping.clone()));
            tokio::spawn(dead_letters.clone().run(stopping.clone()));
            tokio::spawn(retention.run(stopping.clone()));
            tokio::spawn(worker.run(stopping.clone(), cut.clone()))
        };

        let listener = tokio::net::TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let ingress = Arc::new(Ingress {
            store: store.clone(),
            catalog: store.clone(),
            accepter: accepter.clone(),
            sources: registry.clone(),
            vault: vault.clone(),
            limiter: Limiter::new(coord),
        });
        let api = Arc::new(Api {
            ingress,
            trusted_proxies: config.trusted_proxies,
            store: store.clone(),
            queue,
            snapshots,
            accepter,
            replayer,
            dead_letters,
            providers: registry.clone(),
            vault,
            clock: clock.clone(),
            ids,
            checks: checks(
                registry,
                config.providers_dir.clone(),
                stopping.clone(),
                broker.clone(),
            )
            .into_iter()
            .chain(redis_check)
            .collect(),
            broker,
            traces: traces.clone(),
            stopping,
            event_bytes_max: config.event_bytes_max,
            batch_bytes_max: config.batch_bytes_max,
        });
        let router = match role {
            ProcessRole::Worker => api::health_router(api),
            ProcessRole::All | ProcessRole::Api => api::router(api),
        };
        let drain = Duration::from_millis(config.shutdown_timeout_ms);
        let closed = async move {
            let _ = closing.wait_for(|close| *close).await;
        };
        let serving = tokio::spawn(api::serve(listener, router, closed, drain));
        Ok(Self {
            address,
            stop,
            close,
            cut,
            serving,
            working,
            store,
            clock,
            worker: worker_id,
            traces,
            grace: Duration::from_millis(config.shutdown_grace_ms),
            drain,
            process,
        })
    }

    /// Not ready and claiming no more, lets what is under way end within the configured time,
    /// breaks off and releases the rest, and closes the listener last. `hurry` ends the waiting.
    pub async fn stop(self, hurry: CancellationToken) {
        let _ = self.stop.send(true);
        let mut working = self.working;
        let drained = async {
            tokio::time::sleep(self.grace).await;
            let _ = (&mut working).await;
        };
        let drained = tokio::select! {
            drained = tokio::time::timeout(self.drain, drained) => drained.is_ok(),
            () = hurry.cancelled() => false,
        };
        if !drained {
            self.cut.cancel();
            if !working.is_finished() {
                let _ = tokio::time::timeout(RELEASE_TIMEOUT, working).await;
            }
        }
        // What was broken off, and what a claim leased whose answer nobody waited for.
        let released = self
            .store
            .release_unheld(self.worker, Vec::new(), self.clock.now());
        match tokio::time::timeout(RELEASE_TIMEOUT, released).await {
            Ok(Ok(0)) => {}
            Ok(Ok(released)) => {
                tracing::info!(
                    released,
                    "deliveries that did not end in time are due again"
                );
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    "the store does not take leases back; they are due again when it is seen that this process has ended"
                );
            }
        }
        let _ = self.close.send(true);
        tokio::select! {
            _ = tokio::time::timeout(self.drain, self.serving) => {}
            () = hurry.cancelled() => {}
        }
        self.traces.stop(LAST_SPANS_TIMEOUT).await;
        let stopped = record_process(&*self.store, &*self.clock, &self.process, "process.stopped");
        if let Err(error) = stopped.await {
            tracing::warn!(%error, "that this process stopped is not in the audit trail");
        }
    }
}

/// Puts on record that this process begins or ends.
async fn record_process(
    store: &dyn Store,
    clock: &dyn Clock,
    process: &Actor,
    action: &'static str,
) -> Result<(), StoreError> {
    let shown = json!({"version": env!("CARGO_PKG_VERSION"), "role": process.name});
    let (now, id) = (clock.now(), &process.id);
    let entry = NewEntry::new(now, process.clone(), action, "process", id).after(&shown);
    store.append_audit(vec![entry]).await
}

/// Where work comes from.
async fn registry(
    config: &Config,
    sandbox: Arc<Sandbox>,
    documents: Arc<StoredDocuments>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<Registry>> {
    let directory = config.providers_dir.clone();
    fs::create_dir_all(&directory)
        .with_context(|| format!("providers_dir {}", directory.display()))?;
    let compiler = Compiler::new(CompileLimits::default())?;
    let provider_limits = config
        .provider_limits
        .iter()
        .map(|(id, limits)| {
            let id = ProviderId::parse(id).with_context(|| format!("provider_limits.{id}"))?;
            Ok((id, limits.clone()))
        })
        .collect::<anyhow::Result<_>>()?;
    let registry_config = RegistryConfig {
        cache_directory: Some(config.data_dir.join("code-cache")),
        limits: config.limits.clone(),
        provider_limits,
        ..RegistryConfig::new(directory, compiler)
    };
    let registry = Registry::start(
        registry_config,
        sandbox,
        documents.clone(),
        documents,
        clock,
    )
    .await?;
    Ok(Arc::new(registry))
}

/// On the very first start there is nobody who could make a key: one is made and left in a file
/// that only its owner can read.
async fn first_key(
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
    ids: &Ids,
    data_dir: &Path,
    process: &Actor,
) -> anyhow::Result<()> {
    if !store.keys().await?.is_empty() {
        return Ok(());
    }
    let now = clock.now();
    let new = new_key();
    let path = data_dir.join(ADMIN_KEY_FILE);
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    writeln!(file, "{}", *new.text)?;
    file.sync_all()?;
    let key = ApiKey {
        id: ids.next::<KeyId>(now),
        name: "first admin".to_owned(),
        role: Role::Admin,
        hash: new.hash,
        created_at: now,
        revoked_at: None,
    };
    let entry = NewEntry::new(now, process.clone(), "key.created", "key", key.id)
        .after(&KeyView::from(&key));
    store.audited(entry).put_key(key).await?;
    tracing::warn!(path = %path.display(), "FIRST START: an admin key was created and written to this file. Make keys of your own with it, then revoke it and delete the file");
    Ok(())
}

fn checks(
    registry: Arc<Registry>,
    directory: PathBuf,
    stopping: watch::Receiver<bool>,
    broker: Option<Arc<dyn Broker>>,
) -> Vec<HealthCheck> {
    let providers = HealthCheck {
        name: "providers",
        check: Arc::new(move || {
            if fs::read_dir(&directory).is_err() {
                return Err("the providers directory cannot be read".to_owned());
            }
            let reports = crate::plugin::Providers::reports(&*registry);
            let serving = reports
                .iter()
                .filter(|report| report.serving.is_some())
                .count();
            Ok(format!("{serving} of {} serving", reports.len()))
        }),
    };
    let worker = HealthCheck {
        name: "worker",
        check: Arc::new(move || {
            if *stopping.borrow() {
                Err("shutting down".to_owned())
            } else {
                Ok("claiming".to_owned())
            }
        }),
    };
    let broker = broker.map(|broker| HealthCheck {
        name: "broker",
        // The gateway works without it.
        check: Arc::new(move || {
            if !broker.is_up() {
                return Ok("away; work is claimed from the store".to_owned());
            }
            let depths = broker.depths().into_iter();
            let depths: Vec<String> = depths
                .map(|depth| format!("{} {}", depth.messages, depth.queue))
                .collect();
            Ok(format!("connected; messages: {}", depths.join(", ")))
        }),
    });
    [providers, worker].into_iter().chain(broker).collect()
}
