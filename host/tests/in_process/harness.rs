//! A gateway put together from its parts, with fake providers and a clock moved by hand.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use hookport::api::{Api, HealthCheck, new_key, router};
use hookport::coord::Coord;
use hookport::coord::markers::Markers;
use hookport::coord::memory::Memory;
use hookport::dispatch::{
    Accepter, DeadLetters, Ids, Programs, Replayer, Snapshots, Worker, WorkerConfig, operational,
};
use hookport::domain::audit::{Actor, Author};
use hookport::domain::clock::{Clock, Timestamp};
use hookport::domain::key::{ApiKey, Role};
use hookport::domain::provider::{
    ComponentKind, ComponentReport, ComponentState, Descriptor, Documentation, Grant, Permissions,
    ProviderId, ProviderReport, VersionedSchema,
};
use hookport::domain::retry::RetryAdvice;
use hookport::ingress::Ingress;
use hookport::ingress::limiter::Limiter;
use hookport::plugin::source::{Normalized, Sources, Webhook};
use hookport::plugin::transform::Languages;
use hookport::plugin::{
    CallFailure, CallReport, DeliverCall, GrantError, GuestDocument, OptionsCall, Providers,
    Receipt, SelectOption,
};
use hookport::queue::Queue;
use hookport::queue::embedded::EmbeddedQueue;
use hookport::store::CatalogStore as _;
use hookport::store::sqlite::SqliteStore;
use hookport::telemetry::Traces;
use hookport::vault::{MasterKey, Vault};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Longer than anything here takes on a busy machine: a guard against hanging, not a measure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

type Answering = Pin<Box<dyn Future<Output = CallReport<Receipt>> + Send>>;
type Script = Box<dyn Fn(DeliverCall) -> Answering + Send + Sync>;

/// Two providers: `fake` with a connection schema, `plain` without.
pub struct FakeProviders {
    script: Mutex<Arc<Script>>,
    /// Every delivery asked for, in order.
    pub calls: Mutex<Vec<DeliverCall>>,
    /// What options were asked for with.
    pub options_calls: Mutex<Vec<OptionsCall>>,
    /// What the source `fake-source` makes of webhooks.
    pub normalizing: Mutex<Normalizing>,
    /// Whether the program `fail` fails.
    pub failing_programs: AtomicBool,
    /// Makes every report panic.
    pub broken: AtomicBool,
    /// Makes tests of connections and options fail.
    pub failure: Mutex<Option<CallFailure>>,
}

/// A delivered report.
pub fn delivered(external_id: Option<&str>) -> CallReport<Receipt> {
    CallReport {
        result: Ok(Receipt {
            external_id: external_id.map(str::to_owned),
            summary: "delivered".to_owned(),
        }),
        logs: Vec::new(),
        http_status: Some(200),
        unreachable: false,
        version: "1.0.0".into(),
        elapsed: Duration::from_millis(1),
    }
}

/// A failed report.
pub fn failed(failure: CallFailure, http_status: Option<u16>) -> CallReport<Receipt> {
    CallReport {
        result: Err(failure),
        http_status,
        ..delivered(None)
    }
}

type Normalizing = Box<dyn Fn(&Webhook) -> Result<Normalized, CallFailure> + Send + Sync>;

/// What a provider says when the receiver refuses.
pub fn refused(retry: RetryAdvice) -> CallFailure {
    CallFailure::Provider {
        message: "the receiver refused".to_owned(),
        retry,
    }
}

impl FakeProviders {
    fn new() -> Self {
        Self {
            script: Mutex::new(Arc::new(Box::new(|_| {
                Box::pin(std::future::ready(delivered(None)))
            }))),
            calls: Mutex::default(),
            options_calls: Mutex::default(),
            normalizing: Mutex::new(Box::new(|_| Ok(Normalized::Ignored("a ping".to_owned())))),
            failing_programs: AtomicBool::new(true),
            broken: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// What deliveries do from now on.
    pub fn on_deliver<F>(&self, script: impl Fn(DeliverCall) -> F + Send + Sync + 'static)
    where
        F: Future<Output = CallReport<Receipt>> + Send + 'static,
    {
        let script: Script = Box::new(move |call| Box::pin(script(call)));
        *self.script.lock().expect("lock") = Arc::new(script);
    }

    /// What deliveries answer from now on, at once.
    pub fn answer(
        &self,
        answer: impl Fn(&DeliverCall) -> CallReport<Receipt> + Send + Sync + 'static,
    ) {
        self.on_deliver(move |call| std::future::ready(answer(&call)));
    }

    fn known(id: &ProviderId) -> Option<Arc<Descriptor>> {
        let schema = |schema: Value| VersionedSchema { version: 1, schema };
        let config = schema(json!({
            "type": "object",
            "required": ["url"],
            "additionalProperties": false,
            "properties": {
                "url": {"type": "string"},
                "priority": {"type": "integer"},
                "text": {"type": "string", "x-template": true},
                "token": {"type": "string", "x-secret": true},
                "auth": {"type": "object", "properties": {"password": {"type": "string", "x-secret": true}}},
            },
        }));
        let connection = schema(json!({
            "type": "object",
            "required": ["apiToken"],
            "properties": {
                "site": {"type": "string"},
                "apiToken": {"type": "string", "x-secret": true},
            },
        }));
        let connection = match id.as_str() {
            "fake" => Some(connection),
            "plain" => None,
            _ => return None,
        };
        Some(Arc::new(Descriptor {
            kind: ComponentKind::Provider,
            id: id.clone(),
            name: id.to_string(),
            description: String::new(),
            icon: "box".to_owned(),
            version: "1.0.0".to_owned(),
            events: Vec::new(),
            documentation: Documentation::default(),
            config,
            connection,
            permissions: Permissions::default(),
        }))
    }
}

#[async_trait]
impl Sources for FakeProviders {
    fn source(&self, id: &ProviderId) -> Option<Arc<Descriptor>> {
        if id.as_str() != "fake-source" {
            return None;
        }
        let fake = ProviderId::parse("plain").expect("an id");
        let plain = Self::known(&fake).expect("known");
        Some(Arc::new(Descriptor {
            kind: ComponentKind::Source,
            id: id.clone(),
            config: VersionedSchema {
                version: 1,
                schema: json!({"type": "object", "properties": {"key": {"type": "string", "x-secret": true}}}),
            },
            ..(*plain).clone()
        }))
    }

    async fn verify(&self, _: &ProviderId, webhook: Webhook) -> CallReport<()> {
        let key = webhook
            .config
            .secrets
            .get("config#/key")
            .expect("the key is set");
        let sent = webhook.headers.iter().find(|(name, _)| name == "x-token");
        let result = match sent {
            Some((_, token)) if *token == **key => Ok(()),
            _ => Err(refused(RetryAdvice::Never)),
        };
        let mut report = CallReport::failed(CallFailure::Unavailable(String::new()));
        report.result = result;
        report
    }

    async fn normalize(&self, _: &ProviderId, webhook: Webhook) -> CallReport<Normalized> {
        let result = (self.normalizing.lock().expect("lock"))(&webhook);
        let mut report = CallReport::failed(CallFailure::Unavailable(String::new()));
        report.result = result;
        report
    }
}

/// A language of three programs: `severe` passes payloads whose `severity` is `high`, `wrap` puts
/// the payload into an object, and `fail` fails for as long as [`FakeProviders::failing_programs`].
#[async_trait]
impl Languages for FakeProviders {
    async fn check(&self, _: &ProviderId, program: Arc<str>) -> CallReport<()> {
        let mut report = CallReport::failed(CallFailure::Unavailable(String::new()));
        report.result = match &*program {
            "severe" | "wrap" | "fail" => Ok(()),
            other => Err(CallFailure::Provider {
                message: format!("line 1, column 1: no filter `{other}`"),
                retry: RetryAdvice::Never,
            }),
        };
        report
    }

    async fn run(
        &self,
        _: &ProviderId,
        program: Arc<str>,
        input: Arc<str>,
        _: u32,
    ) -> CallReport<Vec<String>> {
        let input: Value = serde_json::from_str(&input).expect("JSON");
        assert!(input["event"]["id"].is_string(), "{input}");
        let mut report = CallReport::failed(CallFailure::Unavailable(String::new()));
        let failing = self.failing_programs.load(Ordering::SeqCst);
        report.result = match &*program {
            "fail" if failing => Err(CallFailure::Limit("the CPU budget is spent".to_owned())),
            "fail" => Ok(vec!["true".to_owned()]),
            "severe" => Ok(vec![(input["payload"]["severity"] == "high").to_string()]),
            _ => Ok(vec![json!({"wrapped": input["payload"]}).to_string()]),
        };
        report
    }
}

#[async_trait]
impl Providers for FakeProviders {
    fn reports(&self) -> Vec<ProviderReport> {
        assert!(
            !self.broken.load(Ordering::SeqCst),
            "a defect that mentions sk-internal-detail"
        );
        ["fake", "plain"]
            .map(|name| ProviderId::parse(name).expect("an id"))
            .into_iter()
            .map(|id| ProviderReport {
                serving: Some(ComponentReport {
                    file: format!("{id}.wasm"),
                    digest: "00".repeat(32),
                    state: ComponentState::Serving,
                    descriptor: Self::known(&id),
                    changed_at: Timestamp(0),
                }),
                candidate: None,
                grant: Some(Grant::default()),
                id,
            })
            .collect()
    }

    fn rejected_files(&self) -> Vec<ComponentReport> {
        vec![ComponentReport {
            file: "broken.wasm".to_owned(),
            digest: "11".repeat(32),
            state: ComponentState::Rejected("not a component".to_owned()),
            descriptor: None,
            changed_at: Timestamp(0),
        }]
    }

    fn descriptor(&self, id: &ProviderId) -> Option<Arc<Descriptor>> {
        Self::known(id)
    }

    async fn deliver(&self, _: &ProviderId, call: DeliverCall) -> CallReport<Receipt> {
        self.calls.lock().expect("lock").push(call.clone());
        let script = self.script.lock().expect("lock").clone();
        script(call).await
    }

    async fn test_connection(&self, _: &ProviderId, _: GuestDocument) -> CallReport<String> {
        let report = delivered(None);
        CallReport {
            result: match self.failure.lock().expect("lock").clone() {
                Some(failure) => Err(failure),
                None => Ok("reached".to_owned()),
            },
            unreachable: false,
            logs: report.logs,
            http_status: report.http_status,
            version: report.version,
            elapsed: report.elapsed,
        }
    }

    async fn options(&self, _: &ProviderId, call: OptionsCall) -> CallReport<Vec<SelectOption>> {
        self.options_calls.lock().expect("lock").push(call);
        match self.failure.lock().expect("lock").clone() {
            Some(failure) => CallReport::failed(failure),
            None => CallReport {
                result: Ok(vec![SelectOption {
                    value: "1".to_owned(),
                    label: "One".to_owned(),
                }]),
                ..CallReport::failed(CallFailure::Unavailable(String::new()))
            },
        }
    }

    fn takes(&self, _: &ProviderId, _: &DeliverCall) -> bool {
        true
    }

    async fn grant(
        &self,
        id: &ProviderId,
        grant: Grant,
        _: Author,
    ) -> Result<ProviderReport, GrantError> {
        let found = self.reports().into_iter().find(|report| report.id == *id);
        found
            .map(|report| ProviderReport {
                grant: Some(grant),
                ..report
            })
            .ok_or_else(|| GrantError::UnknownProvider(id.clone()))
    }
}

/// The parts, and a key of each role.
pub struct Gateway {
    pub store: Arc<SqliteStore>,
    pub queue: Arc<dyn Queue>,
    pub snapshots: Arc<Snapshots>,
    pub providers: Arc<FakeProviders>,
    pub healthy: Arc<AtomicBool>,
    accepter: Arc<Accepter>,
    coord: Arc<dyn Coord>,
    vault: Arc<Vault>,
    clock: Arc<ManualClock>,
    router: Router,
    keys: HashMap<&'static str, String>,
    _dir: tempfile::TempDir,
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub call: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.call, self.text))
    }

    /// The body, when the status is the expected one.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.call, self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The problem document, when it is one of that status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        let media_type = self.headers.get(header::CONTENT_TYPE);
        assert_eq!(
            media_type.map(|value| value.as_bytes()),
            Some(&b"application/problem+json"[..]),
            "{}",
            self.call
        );
        assert_eq!(problem["code"], code, "{}: {}", self.call, self.text);
        assert_eq!(problem["status"], status, "{}", self.call);
        problem
    }
}

impl Gateway {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = SqliteStore::open(&dir.path().join("hookport.db")).await;
        let store = Arc::new(store.expect("a store"));
        let clock = Arc::new(ManualClock(AtomicI64::new(1_700_000_000_000)));
        let dyn_clock: Arc<dyn Clock> = clock.clone();
        let ids = Arc::new(Ids::new(rand::random));
        let mut keys = HashMap::new();
        for role in Role::ALL {
            let new = new_key();
            let key = ApiKey {
                id: ids.next(clock.now()),
                name: role.as_str().to_owned(),
                role,
                hash: new.hash,
                created_at: clock.now(),
                revoked_at: None,
            };
            store.put_key(key).await.expect("a key");
            keys.insert(role.as_str(), new.text.to_string());
        }
        operational::register(&*store, &dyn_clock)
            .await
            .expect("registered");
        let queue: Arc<dyn Queue> = Arc::new(EmbeddedQueue::new(
            store.clone(),
            dyn_clock.clone(),
            ids.next(clock.now()),
            Duration::from_secs(60),
        ));
        let snapshots = Arc::new(Snapshots::load(store.clone()).await.expect("a snapshot"));
        let providers = Arc::new(FakeProviders::new());
        let coord: Arc<dyn Coord> = Arc::new(Memory::new(dyn_clock.clone()));
        let accepter = Arc::new(Accepter {
            store: store.clone(),
            queue: queue.clone(),
            snapshots: snapshots.clone(),
            clock: dyn_clock.clone(),
            ids: ids.clone(),
            programs: Arc::new(Programs::new(providers.clone())),
            metrics: Arc::default(),
            markers: Markers::new(coord.clone(), store.clone()),
            process: Actor::process(ids.next(clock.now()), "all"),
        });
        let vault = Arc::new(Vault::new(&MasterKey::from_bytes([7; 32]), &[]));
        let healthy = Arc::new(AtomicBool::new(true));
        let asked = healthy.clone();
        let ingress = Arc::new(Ingress {
            store: store.clone(),
            catalog: store.clone(),
            accepter: accepter.clone(),
            sources: providers.clone(),
            vault: vault.clone(),
            limiter: Limiter::new(coord.clone()),
        });
        let replayer = Arc::new(Replayer {
            store: store.clone(),
            queue: queue.clone(),
            accepter: accepter.clone(),
            coord: coord.clone(),
            clock: dyn_clock.clone(),
            wake: tokio::sync::Notify::new(),
        });
        let dead_letters = Arc::new(DeadLetters {
            store: store.clone(),
            queue: queue.clone(),
            clock: dyn_clock.clone(),
            metrics: accepter.metrics.clone(),
            wake: tokio::sync::Notify::new(),
        });
        let api = Arc::new(Api {
            ingress,
            replayer,
            dead_letters,
            trusted_proxies: Vec::new(),
            store: store.clone(),
            queue: queue.clone(),
            broker: None,
            snapshots: snapshots.clone(),
            accepter: accepter.clone(),
            providers: providers.clone(),
            vault: vault.clone(),
            clock: dyn_clock,
            ids,
            checks: vec![HealthCheck {
                name: "worker",
                check: Arc::new(move || {
                    if asked.load(Ordering::SeqCst) {
                        Ok("claiming".to_owned())
                    } else {
                        Err("stuck".to_owned())
                    }
                }),
            }],
            traces: Traces::default(),
            // Nothing tells this gateway to stop.
            stopping: watch::channel(false).1,
            event_bytes_max: 1 << 20,
            batch_bytes_max: 10 << 20,
        });
        Self {
            store,
            queue,
            snapshots,
            providers,
            healthy,
            accepter,
            coord,
            vault,
            clock,
            router: router(api),
            keys,
            _dir: dir,
        }
    }

    /// A worker on this gateway; it stops when the sender is dropped or says so.
    pub fn work(&self, config: WorkerConfig) -> Working {
        let worker = Arc::new(Worker {
            queue: self.queue.clone(),
            providers: self.providers.clone(),
            snapshots: self.snapshots.clone(),
            catalog: self.store.clone(),
            vault: self.vault.clone(),
            accepter: self.accepter.clone(),
            coord: self.coord.clone(),
            clock: self.clock.clone(),
            jitter: || 0.0,
            traces: Traces::default(),
            config,
        });
        let (stop, stopping) = watch::channel(false);
        Working {
            stop,
            task: tokio::spawn(worker.run(stopping, CancellationToken::new())),
        }
    }

    /// Moves the clock and lets the queue look.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).expect("in range");
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
        self.queue.wake(self.clock.now());
    }

    /// Any request under the key of a role; `""`: none.
    pub async fn send(&self, role: &str, request: Request<Body>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let call = format!("{} {} as {role:?}", parts.method, parts.uri);
        if let Some(key) = self.keys.get(role) {
            let value = format!("Bearer {key}").parse().expect("a header");
            parts.headers.insert(header::AUTHORIZATION, value);
        }
        let request = Request::from_parts(parts, body);
        let response = self.router.clone().oneshot(request).await;
        let (parts, body) = response.expect("infallible").into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        Answer {
            call,
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// A request with a JSON body, as an admin.
    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send("admin", json_request(method, path, body.to_string()))
            .await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json("PUT", path, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("admin", bare_request("GET", path)).await
    }

    pub async fn act(&self, path: &str) -> Answer {
        self.send("admin", bare_request("POST", path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("admin", bare_request("DELETE", path)).await
    }

    /// Registers `incident.created` and others that take any object.
    pub async fn register(&self, names: &[&str]) {
        for name in names {
            let answer = self.put(&format!("/event-types/{name}"), &json!({})).await;
            assert!(answer.status < 300, "{}", answer.text);
        }
    }

    /// Creates a subscription of `incident.created` at the provider `fake`, with `changes`.
    pub async fn subscribe(&self, changes: Value) -> Value {
        let mut subscription = subscription();
        for (name, value) in changes.as_object().expect("an object") {
            subscription[name] = value.clone();
        }
        self.post("/subscriptions", &subscription).await.expect(201)
    }

    /// Emits an event of `incident.created` with one delivery and returns the delivery's id.
    pub async fn emit(&self, changes: Value) -> String {
        let mut event = json!({"type": "incident.created", "payload": {}});
        for (name, value) in changes.as_object().expect("an object") {
            event[name] = value.clone();
        }
        let accepted = self.post("/events", &event).await.expect(202);
        assert_eq!(accepted["deliveries"], 1, "{accepted}");
        let path = format!("/events/{}", accepted["id"].as_str().expect("an id"));
        let event = self.get(&path).await.expect(200);
        let id = event["deliveries"][0]["id"].as_str();
        id.expect("a delivery").to_owned()
    }

    /// Waits until the document at `path` is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Value::Null;
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                seen = self.get(path).await.expect(200);
                if wanted(&seen) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let found = found.await;
        assert!(found.is_ok(), "{path}: waited in vain, last seen {seen}");
        seen
    }

    pub async fn delivery_in(&self, id: &str, state: &str) -> Value {
        self.until(&format!("/deliveries/{id}"), |delivery| {
            delivery["state"] == state
        })
        .await
    }

    /// Waits until the delivery has that many attempts on record and is at rest.
    pub async fn attempted(&self, id: &str, attempts: usize) -> Value {
        self.until(&format!("/deliveries/{id}"), |delivery| {
            delivery["attemptLog"].as_array().map(Vec::len) == Some(attempts)
                // The delivery is read before its attempts.
                && !["pending", "in_flight"].map(Value::from).contains(&delivery["state"])
        })
        .await
    }
}

/// A running worker.
pub struct Working {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Working {
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("the worker stops").expect("without a panic");
    }
}

pub const CONFIG: WorkerConfig = WorkerConfig {
    concurrency: 16,
    concurrency_per_subscription: 8,
};

pub fn subscription() -> Value {
    json!({
        "name": "a subscription",
        "events": "incident.created",
        "provider": "fake",
        "config": {"url": "https://receiver.test/"},
        "retry": {"delaysMs": [1_000, 2_000]},
    })
}

fn uri(path: &str) -> String {
    format!("/api/v1{path}")
}

pub fn bare_request(method: &str, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(uri(path));
    request.body(Body::empty()).expect("a request")
}

pub fn json_request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri(path))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a request")
}

/// Every operation of the OpenAPI document: method, path with parameters filled in, the operation.
pub fn operations() -> Vec<(String, String, Value)> {
    let document: Value = serde_json::from_str(&hookport::api::openapi()).expect("a document");
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.strip_prefix("/api/v1").expect("the base");
        let prefix = match path.split('/').nth(1) {
            Some("events") => "evt_",
            Some("deliveries" | "dead-letters") => "dlv_",
            Some("dead-letter-runs") => "dlr_",
            Some("subscriptions") => "sub_",
            Some("connections") => "con_",
            Some("keys") => "key_",
            Some("sources") => "src_",
            Some("inbound-webhooks") => "whk_",
            _ => "nobody-",
        };
        let id = format!("{prefix}{}", "0".repeat(26));
        let path = path
            .replace("{id}", &id)
            .replace("{name}", "no.such")
            .replace("{source}", "nobody");
        for method in ["get", "put", "post", "delete"] {
            if let Some(operation) = item.get(method) {
                found.push((method.to_uppercase(), path.clone(), operation.clone()));
            }
        }
    }
    assert!(found.len() > 25, "{}", found.len());
    found
}
