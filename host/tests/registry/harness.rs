//! A registry over a directory of its own, and components made to measure.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hookport::domain::audit::{Actor, Author};
use hookport::domain::clock::{Clock, Timestamp};
use hookport::domain::event::{Event, EventTypeName};
use hookport::domain::provider::{ComponentState, Grant, Permissions, ProviderId, ProviderReport};
use hookport::egress::Egress;
use hookport::egress::client::EgressConfig;
use hookport::plugin::compile_child::{CompileLimits, Compiler, SUBCOMMAND};
use hookport::plugin::engine::{Sandbox, SandboxConfig};
use hookport::plugin::registry::{
    Documents, GrantStore, MigrationError, Migrator, Registry, RegistryConfig,
};
use hookport::plugin::{DeliverCall, GrantError, GuestDocument, Providers};
use hookport::store::{GrantRecord, Result, StoreError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use ulid::Ulid;

/// Guards against a hang; no test depends on how long something takes.
const PATIENCE: Duration = Duration::from_secs(90);

/// A component out of WAT.
pub fn component(inside: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {inside})")).expect("a component")
}

/// A component with one function that keeps a compiler busy: every variable lives through every
/// block.
pub fn slow_to_compile() -> Vec<u8> {
    use std::fmt::Write;
    let (variables, blocks) = (3_000, 3_000);
    let mut body = String::new();
    for at in 0..blocks {
        let (a, b) = (at % variables, (at * 7 + 1) % variables);
        write!(
            body,
            "(if (local.get {a}) (then (local.set {b} (i32.add (local.get {a}) (local.get {b})))))"
        )
        .expect("a string");
    }
    let locals = "i32 ".repeat(variables);
    component(&format!(
        "(core module (func (export \"f\") (param i32) (result i32) (local {locals}) (loop $l {body} (br_if $l (local.get 0))) (local.get 1)))"
    ))
}

/// What `tests/guests/shape` is made to say of itself.
pub struct Shape(Value);

impl Shape {
    pub fn new(id: &str, version: &str) -> Self {
        Self(json!({"id": id, "version": version}))
    }

    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        self.0["hosts"] = json!(hosts);
        self
    }

    pub fn expose(mut self) -> Self {
        self.0["expose"] = json!(true);
        self
    }

    pub fn spin(mut self) -> Self {
        self.0["spin"] = json!(true);
        self
    }

    pub fn schema(mut self, schema: Value) -> Self {
        self.0["schema"] = schema;
        self
    }

    pub fn wasm(&self) -> Vec<u8> {
        const MARKER: &[u8] = b"hookport-shape:";
        let mut bytes = guest("shape");
        let at = bytes
            .windows(MARKER.len())
            .position(|window| window == MARKER)
            .expect("the marker")
            + MARKER.len();
        let text = self.0.to_string();
        let room = &mut bytes[at..at + 2_048 - MARKER.len()];
        assert!(text.len() <= room.len(), "too long: {text}");
        room.fill(b' ');
        room[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    /// With a manifest appended as a custom section.
    pub fn manifest(&self, id: &str, version: &str, contract: &str) -> Vec<u8> {
        let mut bytes = self.wasm();
        let name = "hookport-manifest";
        let text = json!({"id": id, "version": version, "contract": contract}).to_string();
        let mut section = vec![u8::try_from(name.len()).expect("short")];
        section.extend(name.bytes().chain(text.bytes()));
        let size = section.len();
        assert!((128..1 << 14).contains(&size) || size < 128);
        bytes.push(0);
        if size < 128 {
            bytes.push(u8::try_from(size).expect("short"));
        } else {
            // LEB128 in two bytes.
            bytes.push(u8::try_from(size & 0x7f).expect("low") | 0x80);
            bytes.push(u8::try_from(size >> 7).expect("high"));
        }
        bytes.extend(section);
        bytes
    }
}

fn guest(name: &str) -> Vec<u8> {
    let folder = std::env::var_os("HOOKPORT_TEST_COMPONENTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-components"),
        PathBuf::from,
    );
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: run cargo xtask providers --tests",
            path.display()
        )
    })
}

pub fn provider(id: &str) -> ProviderId {
    ProviderId::parse(id).expect("an id")
}

pub fn grant(hosts: &[&str], allow_addresses: &[&str]) -> Grant {
    Grant {
        permissions: Permissions {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            expose_secrets: false,
        },
        allow_addresses: allow_addresses
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect(),
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "file times are the system's, so the test's clock must be, too"
        )]
        let now = std::time::SystemTime::now();
        let since = now
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        Timestamp(i64::try_from(since.as_millis()).expect("in range"))
    }
}

pub struct Bench {
    pub home: TempDir,
    pub registry: Arc<Registry>,
    pub store: Arc<MemoryGrants>,
    sandbox: Arc<Sandbox>,
    settle_interval: Duration,
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_settling(Duration::from_millis(100)).await
    }

    pub async fn start_settling(settle_interval: Duration) -> Self {
        let home = TempDir::new().expect("a directory");
        std::fs::create_dir(home.path().join("providers")).expect("created");
        let egress = Egress::new(&EgressConfig::default()).expect("egress");
        let config = SandboxConfig {
            calls_max: 8,
            ..SandboxConfig::default()
        };
        let sandbox = Arc::new(Sandbox::new(config, Arc::new(egress)).expect("a sandbox"));
        let store = Arc::new(MemoryGrants::default());
        let compiler = real_compiler(CompileLimits::default());
        let registry = open(home.path(), compiler, settle_interval, &sandbox, &store).await;
        Self {
            home,
            registry,
            store,
            sandbox,
            settle_interval,
        }
    }

    pub async fn restart(&mut self) {
        self.restart_limited(CompileLimits::default()).await;
    }

    pub async fn restart_limited(&mut self, limits: CompileLimits) {
        self.restart_with(real_compiler(limits)).await;
    }

    /// With a compiler that fails whenever it is used.
    pub async fn restart_without_compiler(&mut self) {
        let compiler =
            Compiler::with_program("/bin/false".into(), Vec::new(), CompileLimits::default());
        self.restart_with(compiler).await;
    }

    pub async fn write_while_stopped(&mut self, change: impl FnOnce(&Self)) {
        // Watches a directory of its own meanwhile.
        let elsewhere = TempDir::new().expect("a directory");
        std::fs::create_dir(elsewhere.path().join("providers")).expect("created");
        let compiler = real_compiler(CompileLimits::default());
        self.registry = open(
            elsewhere.path(),
            compiler,
            self.settle_interval,
            &self.sandbox,
            &self.store,
        )
        .await;
        change(self);
        self.restart().await;
    }

    async fn restart_with(&mut self, compiler: Compiler) {
        let registry = open(
            self.home.path(),
            compiler,
            self.settle_interval,
            &self.sandbox,
            &self.store,
        )
        .await;
        self.registry = registry;
    }

    pub fn providers(&self) -> PathBuf {
        self.home.path().join("providers")
    }

    /// Puts a file in place at once, as a careful copy does.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let part = self.home.path().join("part");
        std::fs::write(&part, bytes).expect("written");
        std::fs::rename(&part, self.providers().join(name)).expect("renamed");
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.providers().join(name)).expect("removed");
    }

    pub fn cached_artefacts(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.home.path().join("code-cache"))
            .expect("a cache")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "artefact"))
            .collect()
    }

    pub async fn until(&self, what: &str, done: impl Fn(&Registry) -> bool) {
        self.until_some(what, |registry| done(registry).then_some(()))
            .await;
    }

    pub async fn until_some<T>(&self, what: &str, look: impl Fn(&Registry) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = look(&self.registry) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!(
                "never: {what}; {:#?} {:#?}",
                self.registry.reports(),
                self.registry.rejected_files()
            ),
        }
    }

    fn report(registry: &Registry, id: &str) -> Option<ProviderReport> {
        let mut reports = registry.reports().into_iter();
        reports.find(|report| report.id.as_str() == id)
    }

    pub async fn serves(&self, id: &str, version: &str) {
        self.until(&format!("{id} {version} serves"), |registry| {
            registry
                .descriptor(&provider(id))
                .is_some_and(|descriptor| descriptor.version == version)
        })
        .await;
    }

    pub async fn waits(&self, id: &str, version: &str) {
        self.until(&format!("{id} {version} waits"), |registry| {
            let candidate = Self::report(registry, id).and_then(|report| report.candidate);
            candidate.is_some_and(|candidate| {
                candidate.state == ComponentState::AwaitingGrant
                    && candidate.descriptor.is_some_and(|d| d.version == version)
            })
        })
        .await;
    }

    pub async fn rejection(&self, file: &str) -> String {
        self.until_some(&format!("{file} is refused"), |registry| {
            let mut files = registry.rejected_files().into_iter();
            match files.find(|report| report.file == file)?.state {
                ComponentState::Rejected(reason) => Some(reason),
                _ => None,
            }
        })
        .await
    }

    pub async fn candidate_rejection(&self, id: &str) -> String {
        self.until_some(
            &format!("{id}'s candidate is refused"),
            |registry| match Self::report(registry, id)?.candidate?.state {
                ComponentState::Rejected(reason) => Some(reason),
                _ => None,
            },
        )
        .await
    }

    pub fn serving_digest(&self, id: &str) -> Option<String> {
        Some(Self::report(&self.registry, id)?.serving?.digest)
    }

    pub async fn grant(
        &self,
        id: &str,
        hosts: &[&str],
    ) -> std::result::Result<ProviderReport, GrantError> {
        self.registry
            .grant(&provider(id), grant(hosts, &[]), somebody())
            .await
    }

    /// The receipt's summary, or the failure in words.
    pub async fn deliver(
        &self,
        id: &str,
        url: Option<&str>,
    ) -> std::result::Result<String, String> {
        deliver(self.registry.clone(), id, url).await
    }

    pub fn caller(&self, id: &str) -> Caller {
        Caller {
            registry: self.registry.clone(),
            id: id.to_owned(),
        }
    }

    pub fn deliver_in_background(
        &self,
        id: &str,
        url: &str,
    ) -> JoinHandle<std::result::Result<String, String>> {
        let (registry, id, url) = (self.registry.clone(), id.to_owned(), url.to_owned());
        tokio::spawn(async move { deliver(registry, &id, Some(&url)).await })
    }
}

/// Calls a provider from a task of its own.
pub struct Caller {
    registry: Arc<Registry>,
    id: String,
}

impl Caller {
    pub async fn deliver(&self) -> std::result::Result<String, String> {
        deliver(self.registry.clone(), &self.id, None).await
    }
}

async fn deliver(
    registry: Arc<Registry>,
    id: &str,
    url: Option<&str>,
) -> std::result::Result<String, String> {
    let fields: HashMap<String, String> = url
        .iter()
        .map(|url| ("url".to_owned(), (*url).to_owned()))
        .collect();
    let event = Event {
        id: Ulid::nil().into(),
        event_type: EventTypeName::parse("incident.created").expect("a name"),
        payload: "{}".into(),
        occurred_at: Timestamp(0),
        received_at: Timestamp(0),
        correlation_key: None,
        system_ids: Vec::new(),
        trace: None,
    };
    let call = DeliverCall {
        event: Arc::new(event),
        delivery_id: Ulid::nil().into(),
        attempt: 1,
        external_id: None,
        subscription_id: Ulid::nil().into(),
        subscription_name: "test".into(),
        config: GuestDocument {
            json: json!({"url": url}).to_string().into(),
            version: 1,
            fields: Arc::new(fields),
            ..GuestDocument::default()
        },
        connection: None,
        cache_scope: "test".into(),
        timeout: Some(PATIENCE),
        preview: None,
    };
    let report = registry.deliver(&provider(id), call).await;
    report
        .result
        .map(|receipt| receipt.summary)
        .map_err(|failure| failure.to_string())
}

fn real_compiler(limits: CompileLimits) -> Compiler {
    Compiler::with_program(
        env!("CARGO_BIN_EXE_hookport").into(),
        vec![SUBCOMMAND.into()],
        limits,
    )
}

async fn open(
    home: &Path,
    compiler: Compiler,
    settle_interval: Duration,
    sandbox: &Arc<Sandbox>,
    store: &Arc<MemoryGrants>,
) -> Arc<Registry> {
    let config = RegistryConfig {
        cache_directory: Some(home.join("code-cache")),
        settle_interval,
        rescan_interval: Duration::from_millis(500),
        ..RegistryConfig::new(home.join("providers"), compiler)
    };
    let clock = Arc::new(SystemClock);
    let documents = Arc::new(NoDocuments);
    let registry = Registry::start(config, sandbox.clone(), store.clone(), documents, clock).await;
    Arc::new(registry.expect("starts"))
}

/// Answers 204 to whoever comes, once the gate is open.
pub struct GatedServer {
    port: u16,
    gate: Arc<Semaphore>,
    entered: Arc<Semaphore>,
    awaited: AtomicUsize,
}

impl GatedServer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (gate_of_all, entered_by_all) = (gate.clone(), entered.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (gate, entered) = (gate_of_all.clone(), entered_by_all.clone());
                tokio::spawn(async move {
                    let mut request = [0; 4_096];
                    let _ = stream.read(&mut request).await;
                    entered.add_permits(1);
                    let _open = gate.acquire().await;
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        Self {
            port,
            gate,
            entered,
            awaited: AtomicUsize::new(0),
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Waits for one more request than before.
    pub async fn entered(&self) {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let one = tokio::time::timeout(PATIENCE, self.entered.acquire()).await;
        one.expect("a request in time").expect("open").forget();
    }

    pub fn open(&self) {
        self.gate.add_permits(1_000);
    }
}

/// Nothing is stored.
struct NoDocuments;

#[async_trait]
impl Documents for NoDocuments {
    async fn migrate(
        &self,
        _: &hookport::domain::provider::Descriptor,
        _: &dyn Migrator,
    ) -> std::result::Result<usize, MigrationError> {
        Ok(0)
    }

    async fn mark(&self) -> Option<i64> {
        Some(0)
    }
}

/// Grants in memory, which can be made to fail.
#[derive(Default)]
pub struct MemoryGrants {
    records: Mutex<HashMap<ProviderId, GrantRecord>>,
    failing: AtomicBool,
}

impl MemoryGrants {
    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub fn digest_of(&self, id: &str) -> Option<String> {
        let records = self.records.lock().expect("unpoisoned");
        Some(records.get(&provider(id))?.digest.clone())
    }
}

#[async_trait]
impl GrantStore for MemoryGrants {
    async fn grants(&self) -> Result<Vec<GrantRecord>> {
        Ok(self
            .records
            .lock()
            .expect("unpoisoned")
            .values()
            .cloned()
            .collect())
    }

    async fn put_grant(&self, grant: GrantRecord, _: Option<Author>) -> Result<()> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("not in this test".into()));
        }
        let mut records = self.records.lock().expect("unpoisoned");
        records.insert(grant.provider.clone(), grant);
        Ok(())
    }
}

/// Whoever grants.
pub fn somebody() -> Author {
    Actor::command(0, "a test").into()
}
