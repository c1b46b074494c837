//! The hostile guest in the real sandbox, and receivers on loopback.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::IntoResponse;
use hookport::domain::clock::Timestamp;
use hookport::domain::event::{Event, EventTypeName};
use hookport::domain::id::IdGenerator;
use hookport::egress::{Egress, EgressConfig};
use hookport::plugin::artefact::TrustedArtefact;
use hookport::plugin::component::{LoadedComponent, describe};
use hookport::plugin::engine::{LoadedCode, Sandbox, SandboxConfig, compile};
use hookport::plugin::limits::Limits;
use hookport::plugin::{
    CallFailure, CallReport, DeliverCall, EffectivePermissions, GuestDocument, HostRule, Receipt,
    SecretSet,
};
use serde_json::{Value, json};

/// What no report may show.
pub const SECRET: &str = "correct/horse \"battery\" staple";
pub const SECRET_HANDLE: &str = "config#/secret";

/// A guard against hanging, far above what any test takes.
pub const HANG: Duration = Duration::from_secs(60);

/// The component as it was built.
pub fn wasm() -> Vec<u8> {
    let folder = std::env::var_os("HOOKPORT_TEST_COMPONENTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-components"),
        PathBuf::from,
    );
    let file = folder.join("hostile.wasm");
    std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run cargo xtask providers --tests",
            file.display()
        )
    })
}

/// Compiled once for all tests.
fn artefact() -> TrustedArtefact {
    static COMPILED: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = COMPILED.get_or_init(|| compile(&wasm()).expect("compiles"));
    TrustedArtefact::vouch(bytes.clone())
}

pub fn sandbox() -> Arc<Sandbox> {
    let egress = Arc::new(Egress::new(&EgressConfig::default()).expect("egress"));
    let config = SandboxConfig {
        calls_max: 16,
        memory_bytes_max: 160 << 20,
        ..SandboxConfig::default()
    };
    Arc::new(Sandbox::new(config, egress).expect("a sandbox"))
}

pub fn code(sandbox: &Sandbox) -> LoadedCode {
    sandbox.load(&artefact()).expect("loads")
}

/// Small, so that the tests are quick.
pub fn limits() -> Limits {
    Limits {
        memory_bytes_max: 32 << 20,
        cpu_ms_max: 400,
        timeout_ms: 20_000,
        http_calls_max: 5,
        request_bytes_max: 1 << 20,
        response_bytes_max: 1 << 20,
        response_header_bytes_max: 16 << 10,
        log_lines_max: 50,
        log_bytes_max: 16 << 10,
        handles_max: 100,
        ..Limits::default()
    }
}

/// What the field `url` names, and nothing else.
pub fn own_url() -> EffectivePermissions {
    EffectivePermissions {
        hosts: vec![HostRule::ConfigField("url".to_owned())],
        expose_secrets: false,
        allow_addresses: Arc::new([]),
    }
}

/// The same, with this machine's addresses opened.
pub fn own_url_on_loopback() -> EffectivePermissions {
    EffectivePermissions {
        allow_addresses: Arc::new(["127.0.0.1/32".parse().expect("a network")]),
        ..own_url()
    }
}

pub async fn load(permissions: EffectivePermissions, limits: Limits) -> LoadedComponent {
    load_into(sandbox(), permissions, limits).await
}

pub async fn load_into(
    sandbox: Arc<Sandbox>,
    permissions: EffectivePermissions,
    limits: Limits,
) -> LoadedComponent {
    let code = code(&sandbox);
    let descriptor = describe(&sandbox, &code).await.expect("describes itself");
    assert_eq!(descriptor.id.as_str(), "hostile");
    LoadedComponent::new(sandbox, code, &descriptor, permissions, limits)
}

/// A document as the dispatcher prepares it.
pub fn document(mut plan: Value) -> GuestDocument {
    let fields: HashMap<_, _> = plan
        .as_object()
        .expect("an object")
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    plan["secret"] = json!({"$secret": SECRET_HANDLE});
    let secrets = [(SECRET_HANDLE.to_owned(), SECRET.to_owned().into())];
    GuestDocument {
        json: plan.to_string().into(),
        version: 1,
        secrets: Arc::new(SecretSet::new(secrets.into())),
        fields: Arc::new(fields),
    }
}

pub fn call(plan: Value) -> DeliverCall {
    let ids = IdGenerator::default();
    let now = Timestamp(1_704_067_200_000);
    DeliverCall {
        event: Arc::new(Event {
            id: ids.next(now, || 1),
            event_type: EventTypeName::parse("incident.created").expect("a name"),
            payload: "{}".into(),
            occurred_at: now,
            received_at: now,
            correlation_key: None,
            system_ids: Vec::new(),
            trace: None,
        }),
        delivery_id: ids.next(now, || 1),
        attempt: 1,
        external_id: None,
        subscription_id: ids.next(now, || 1),
        subscription_name: "Test".into(),
        config: document(plan),
        connection: None,
        cache_scope: "test".into(),
        timeout: None,
        preview: None,
    }
}

/// One delivery, which must end.
pub async fn deliver(component: &LoadedComponent, plan: Value) -> CallReport<Receipt> {
    tokio::time::timeout(HANG, component.deliver(call(plan)))
        .await
        .expect("the call ends")
}

/// The text of a failure of kind `Limit`.
pub fn limit<T: std::fmt::Debug>(report: &CallReport<T>) -> &str {
    match &report.result {
        Err(CallFailure::Limit(text)) => text,
        other => panic!("not a limit: {other:?}"),
    }
}

/// The text of a failure of kind `Denied`.
pub fn denied<T: std::fmt::Debug>(report: &CallReport<T>) -> &str {
    match &report.result {
        Err(CallFailure::Denied(text)) => text,
        other => panic!("not denied: {other:?}"),
    }
}

/// The text of a failure of kind `Trap`.
pub fn trap<T: std::fmt::Debug>(report: &CallReport<T>) -> &str {
    match &report.result {
        Err(CallFailure::Trap(text)) => text,
        other => panic!("not a trap: {other:?}"),
    }
}

/// The summary of a call that succeeded.
pub fn summary(report: &CallReport<Receipt>) -> &str {
    match &report.result {
        Ok(receipt) => &receipt.summary,
        other => panic!("no receipt: {other:?}"),
    }
}

/// A server on loopback with the number of connections that it took.
pub struct Receiver {
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in", self.port)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Takes connections and never says a word.
    pub async fn silent() -> Self {
        Self::start(|connection| async move {
            let _connection = connection;
            std::future::pending::<()>().await;
        })
        .await
    }

    /// Answers every request with `answer`, the head included.
    pub async fn saying(answer: String) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let answer: Arc<str> = answer.into();
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                let mut head = [0; 4096];
                let _ = connection.read(&mut head).await;
                let _ = connection.write_all(answer.as_bytes()).await;
            }
        })
        .await
    }

    async fn start<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(connection));
            }
        });
        Self { port, connections }
    }
}

/// `200` without a body.
pub fn fine() -> String {
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
}

/// A receiver that hands back everything it got, and `x-key` reversed.
pub async fn echo() -> String {
    async fn answer(uri: Uri, headers: HeaderMap, body: String) -> impl IntoResponse {
        let key = headers
            .get("x-key")
            .map(|value| value.as_bytes().to_vec())
            .unwrap_or_default();
        let reversed: Vec<u8> = key.iter().rev().copied().collect();
        let mut back = HeaderMap::new();
        back.insert(
            "x-plain",
            HeaderValue::from_bytes(&key).expect("a header value"),
        );
        back.insert(
            "x-reversed",
            HeaderValue::from_bytes(&reversed).expect("a header value"),
        );
        let authorization = headers.get(header::AUTHORIZATION);
        let text = format!(
            "{uri} {} {body} {:?}",
            String::from_utf8_lossy(&key),
            authorization
        );
        (back, text)
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/in")
}
