//! What one call owns: the data of its wasmtime store, and what its host functions share.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use opentelemetry::trace::SpanKind;
use tokio::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use zeroize::Zeroizing;

use super::GuestDocument;
use super::cache::GuestCache;
use super::limits::{Limits, StoreLimiter};
use super::oauth2::TokenCache;
use super::sanitize::{SecretSet, sanitize};
use super::stdio::GuestOutput;
use super::turns::{CallTurns, HotCalls};
use super::wasi_http::Hooks;
use crate::coord::sealed::SealedValues;
use crate::domain::delivery::LogLine;
use crate::domain::provider::ProviderId;
use crate::egress::{
    Egress, EgressError, EgressLimits, EgressPolicy, EgressRequest, EgressResponse, HostPattern,
    Preview,
};
use crate::telemetry::Place;

/// Longest error or summary kept of a guest, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// Tells a receiver where it stands in a trace.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Hosts taken of a field that is a list.
const LISTED_HOSTS_MAX: usize = 50;
/// Access tokens that one call may be lent.
const TOKENS_MAX: usize = 8;

/// The host's side of a WIT `secret`.
pub struct SecretHandle(pub(super) Zeroizing<String>);

/// A granted host: a pattern, or the authority of a field of the call's documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// Stands as it is.
    Fixed(HostPattern),
    /// `{config.url}`.
    ConfigField(String),
    /// `{connection.baseUrl}`.
    ConnectionField(String),
}

impl HostRule {
    /// Parses what a provider asks for or an admin grants.
    ///
    /// # Errors
    /// When the text is neither a pattern nor a field reference.
    pub fn parse(text: &str) -> Result<Self, crate::egress::pattern::PatternError> {
        let field = text
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        if let Some(name) = field.and_then(|field| field.strip_prefix("config.")) {
            return Ok(Self::ConfigField(name.to_owned()));
        }
        if let Some(name) = field.and_then(|field| field.strip_prefix("connection.")) {
            return Ok(Self::ConnectionField(name.to_owned()));
        }
        HostPattern::parse(text).map(Self::Fixed)
    }
}

/// What the calls of a provider may do: asked ∩ granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectivePermissions {
    /// Hosts that may be reached.
    pub hosts: Vec<HostRule>,
    /// Whether `secret.expose` works.
    pub expose_secrets: bool,
    /// Prohibited networks that the admin opened.
    pub allow_addresses: Arc<[ipnet::IpNet]>,
}

impl EffectivePermissions {
    /// Nothing: `describe` runs under this.
    #[must_use]
    pub fn none() -> Self {
        Self {
            hosts: Vec::new(),
            expose_secrets: false,
            allow_addresses: Arc::new([]),
        }
    }
}

/// What a call may use, prepared by the registry.
#[derive(Clone)]
pub(super) struct CallContext {
    pub(super) provider: ProviderId,
    pub(super) permissions: Arc<EffectivePermissions>,
    pub(super) limits: Arc<Limits>,
    pub(super) cache: Arc<GuestCache>,
    pub(super) tokens: Arc<TokenCache>,
    pub(super) cache_scope: Arc<str>,
    /// `None`: the caches are this process's own.
    pub(super) shared: Option<Arc<SealedValues>>,
    /// The component's.
    pub(super) version: Arc<str>,
    pub(super) egress: Arc<Egress>,
    pub(super) config: GuestDocument,
    pub(super) connection: Option<GuestDocument>,
    pub(super) timeout: Duration,
    /// Records requests instead of sending them.
    pub(super) preview: Option<Arc<Preview>>,
    /// `None`: the call takes no turns, however long it computes.
    pub(super) hot_calls: Option<HotCalls>,
}

/// Lines kept, and how many were dropped.
#[derive(Default)]
struct Log {
    lines: Vec<LogLine>,
    bytes: usize,
    dropped: usize,
}

/// Shared by the host functions of one call, which may run outside the store (`wasi:http`).
pub(super) struct CallShared {
    pub(super) context: CallContext,
    pub(super) deadline: Instant,
    /// Where its requests stand in a trace; kept here, as `wasi:http` sends from tasks of its own.
    place: Option<Place>,
    http_calls: AtomicU32,
    /// 0: no response yet.
    http_status: AtomicU16,
    /// The last exchange waits for its answer, or got none.
    unanswered: AtomicBool,
    log: Mutex<Log>,
    denied: OnceLock<String>,
    limited: OnceLock<String>,
    policy: OnceLock<EgressPolicy>,
    /// Access tokens lent to this call, each a set of its own: what was handed out is masked from
    /// then on.
    lent: [OnceLock<SecretSet>; TOKENS_MAX],
    pub(super) turns: CallTurns,
}

impl CallShared {
    pub(super) fn new(context: CallContext, place: Option<Place>) -> Self {
        Self {
            place,
            deadline: Instant::now() + context.timeout,
            turns: CallTurns::new(context.hot_calls.clone()),
            context,
            http_calls: AtomicU32::new(0),
            http_status: AtomicU16::new(0),
            unanswered: AtomicBool::new(false),
            log: Mutex::default(),
            denied: OnceLock::new(),
            limited: OnceLock::new(),
            policy: OnceLock::new(),
            lent: [const { OnceLock::new() }; TOKENS_MAX],
        }
    }

    /// Secrets of the config and of the connection, and access tokens.
    pub(super) fn secret_sets(&self) -> Vec<&SecretSet> {
        let connection = self.context.connection.as_ref();
        std::iter::once(&*self.context.config.secrets)
            .chain(connection.map(|document| &*document.secrets))
            .chain(self.lent.iter().filter_map(OnceLock::get))
            .filter(|set| !set.is_empty())
            .collect()
    }

    /// Lends an access token to this call; returns its handle. The error is for the guest.
    pub(super) fn lend(&self, token: Zeroizing<String>) -> Result<String, String> {
        for (number, place) in self.lent.iter().enumerate() {
            let handle = format!("oauth2#{number}");
            if let Some(set) = place.get() {
                match set.get(&handle) {
                    Some(lent) if **lent == *token => return Ok(handle),
                    _ => continue,
                }
            }
            let set = SecretSet::new([(handle.clone(), token.clone())].into());
            if place.set(set).is_ok() {
                return Ok(handle);
            }
        }
        let text = format!("more than {TOKENS_MAX} access tokens in one call");
        self.limit(text.clone());
        Err(text)
    }

    /// The secret behind a handle of either document.
    pub(super) fn secret(&self, handle: &str) -> Option<Zeroizing<String>> {
        self.secret_sets()
            .into_iter()
            .find_map(|set| set.get(handle))
            .cloned()
    }

    /// Guest text made fit for logs and answers.
    pub(super) fn sanitize(&self, text: String, bytes_max: usize) -> String {
        sanitize(text, &self.secret_sets(), bytes_max)
    }

    /// Bytes from a receiver with this call's secrets masked, unless the guest may see them.
    pub(super) fn mask_bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if !self.context.permissions.expose_secrets {
            for set in self.secret_sets() {
                if let Some(masked) = set.mask_bytes(&bytes) {
                    bytes = masked;
                }
            }
        }
        bytes
    }

    /// Whether anything in this call would have to be masked.
    pub(super) fn has_secrets(&self) -> bool {
        !self.context.permissions.expose_secrets && !self.secret_sets().is_empty()
    }

    /// Keeps a line within the caps.
    pub(super) fn log(&self, level: &'static str, message: String) {
        let limits = &self.context.limits;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.lines.len() >= limits.log_lines_max || log.bytes >= limits.log_bytes_max {
            log.dropped += 1;
            return;
        }
        let message = self.sanitize(message, limits.log_bytes_max - log.bytes);
        log.bytes += message.len();
        log.lines.push(LogLine { level, message });
    }

    /// The lines kept; the last one says how many were dropped.
    pub(super) fn take_log(&self) -> Vec<LogLine> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = std::mem::take(&mut log.lines);
        if log.dropped > 0 {
            lines.push(LogLine {
                level: "warn",
                message: format!(
                    "{} more lines were dropped: the log of a call is capped",
                    log.dropped
                ),
            });
        }
        lines
    }

    /// Remembers the first capability that was denied.
    pub(super) fn deny(&self, what: impl Into<String>) {
        let _ = self.denied.set(what.into());
    }

    pub(super) fn denied(&self) -> Option<&str> {
        self.denied.get().map(String::as_str)
    }

    /// Remembers the first limit that was met.
    pub(super) fn limit(&self, what: impl Into<String>) {
        let _ = self.limited.set(what.into());
    }

    pub(super) fn limited(&self) -> Option<&str> {
        self.limited.get().map(String::as_str)
    }

    /// Counts one HTTP request; the error is for the guest.
    pub(super) fn count_http_call(&self) -> Result<(), String> {
        let max = self.context.limits.http_calls_max;
        if self.http_calls.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(());
        }
        let text = format!("more than {max} HTTP requests in one call");
        self.limit(text.clone());
        Err(text)
    }

    /// Remembers what an exchange was refused for.
    pub(super) fn book(&self, error: &crate::egress::EgressError) {
        use crate::egress::EgressError;
        let unanswered = matches!(error, EgressError::Network(_) | EgressError::Timeout(_));
        self.unanswered.store(unanswered, Ordering::Relaxed);
        match error {
            EgressError::Denied(text) => self.deny(text.clone()),
            EgressError::Limit(text) => self.limit(text.clone()),
            EgressError::Invalid(_) | EgressError::Network(_) | EgressError::Timeout(_) => {}
        }
    }

    /// A request is on its way.
    pub(super) fn await_answer(&self) {
        self.unanswered.store(true, Ordering::Relaxed);
    }

    /// Whether the last request got no answer.
    pub(super) fn unreachable(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed)
    }

    pub(super) fn saw_status(&self, status: u16) {
        self.unanswered.store(false, Ordering::Relaxed);
        self.http_status.store(status, Ordering::Relaxed);
    }

    pub(super) fn http_status(&self) -> Option<u16> {
        match self.http_status.load(Ordering::Relaxed) {
            0 => None,
            status => Some(status),
        }
    }

    /// Limits of one exchange: what is left of the call, or less when asked for.
    pub(super) fn egress_limits(&self, timeout: Option<Duration>) -> EgressLimits {
        let left = self.deadline.saturating_duration_since(Instant::now());
        EgressLimits {
            timeout: timeout.map_or(left, |wanted| wanted.min(left)),
            response_bytes_max: self.context.limits.response_bytes_max,
            response_header_bytes_max: self.context.limits.response_header_bytes_max,
        }
    }

    /// Sends within a span that names the authority and no more of the URL.
    async fn send_traced(
        &self,
        limits: EgressLimits,
        mut request: EgressRequest,
    ) -> Result<EgressResponse, EgressError> {
        let egress = &self.context.egress;
        let Some(place) = &self.place else {
            return egress.send(self.policy(), limits, request).await;
        };
        let method = request.method.as_str();
        let mut span = place.child(SpanKind::Client, method.to_owned());
        span.set("http.request.method", method.to_owned());
        if let Ok(url) = url::Url::parse(&request.url) {
            span.set("url.scheme", url.scheme().to_owned());
            if let Some(host) = url.host_str() {
                span.set("server.address", host.to_owned());
            }
            if let Some(port) = url.port_or_known_default() {
                span.set("server.port", i64::from(port));
            }
        }
        if span.propagates()
            && let Ok(value) = HeaderValue::from_str(&span.context().to_string())
        {
            request.headers.entry(TRACE_PARENT).or_insert(value);
        }
        let sent = egress.send(self.policy(), limits, request).await;
        match &sent {
            Ok(response) => {
                let status = response.status.as_u16();
                span.set("http.response.status_code", i64::from(status));
                if status >= 400 {
                    span.fail(status.to_string());
                }
            }
            Err(error) => span.fail(error.kind()),
        }
        sent
    }

    /// The one way out for every HTTP import.
    pub(super) async fn send(
        &self,
        limits: EgressLimits,
        request: EgressRequest,
    ) -> Result<EgressResponse, EgressError> {
        let Some(preview) = &self.context.preview else {
            return self.send_traced(limits, request).await;
        };
        let mask = |bytes: &[u8]| {
            let sets = self.secret_sets();
            sets.iter().fold(bytes.to_vec(), |bytes, set| {
                set.mask_bytes(&bytes).unwrap_or(bytes)
            })
        };
        preview.send(self.policy(), request, mask).await
    }

    /// The egress policy of this call, its field references resolved. A reference to a field
    /// that holds no usable URL grants nothing; the reason goes to the delivery's log.
    pub(super) fn policy(&self) -> &EgressPolicy {
        self.policy.get_or_init(|| {
            let permissions = &self.context.permissions;
            let hosts = permissions
                .hosts
                .iter()
                .flat_map(|rule| self.resolve(rule))
                .collect();
            EgressPolicy {
                provider: self.context.provider.clone(),
                hosts,
                allow_addresses: permissions.allow_addresses.clone(),
            }
        })
    }

    fn resolve(&self, rule: &HostRule) -> Vec<HostPattern> {
        let (kind, document, field) = match rule {
            HostRule::Fixed(pattern) => return vec![pattern.clone()],
            HostRule::ConfigField(field) => ("config", Some(&self.context.config), field),
            HostRule::ConnectionField(field) => {
                ("connection", self.context.connection.as_ref(), field)
            }
        };
        let Some(fields) = document.map(|document| &document.fields) else {
            return Vec::new();
        };
        // The items of a list are fields named by their index.
        let items =
            (0..LISTED_HOSTS_MAX).map_while(|index| fields.get(&format!("{field}.{index}")));
        let values = fields.get(field.as_str()).into_iter().chain(items);
        values
            .filter_map(|value| match HostPattern::authority_of(value) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    let text = format!("{{{kind}.{field}}} grants no host: {error}");
                    self.log("warn", text);
                    None
                }
            })
            .collect()
    }
}

/// The data of a call's wasmtime store.
pub(super) struct CallState {
    pub(super) shared: Arc<CallShared>,
    pub(super) limiter: StoreLimiter,
    pub(super) table: ResourceTable,
    /// Epoch ticks left.
    pub(super) ticks_left: u32,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
}

impl CallState {
    pub(super) fn new(shared: Arc<CallShared>, ticks: u32) -> Self {
        let limits = &shared.context.limits;
        let wasi = WasiCtxBuilder::new()
            .stdout(GuestOutput::new("stdout", shared.clone()))
            .stderr(GuestOutput::new("stderr", shared.clone()))
            .allow_tcp(false)
            .allow_udp(false)
            .max_random_size(64 << 10)
            .build();
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(limits.response_header_bytes_max.saturating_mul(2));
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles_max);
        Self {
            limiter: StoreLimiter::new(limits),
            table,
            ticks_left: ticks,
            wasi,
            http,
            hooks: Hooks::new(shared.clone()),
            shared,
        }
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for CallState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}
