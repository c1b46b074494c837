//! A loaded component: its five exports as Rust calls, with types of our own.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::Store;

use super::bindings::Provider;
use super::bindings::hookport::provider::types as wit;
use super::bindings::source::Source;
use super::bindings::transform::Transform;
use super::cache::GuestCache;
use super::call::{self, AsyncCall};
use super::engine::{LoadedCode, Sandbox};
use super::limits::Limits;
use super::oauth2::TokenCache;
use super::shared_options::SharedOptions;
use super::state::{CallContext, CallShared, CallState, EffectivePermissions, MESSAGE_BYTES_MAX};
use super::turns::HotCalls;
use super::world::World;
use super::{
    CallFailure, CallReport, DeliverCall, DocumentKind, GuestDocument, OptionsCall, Receipt,
    SelectOption,
};
use crate::domain::clock;
use crate::domain::event::Event;
use crate::domain::provider::{
    ComponentKind, Descriptor, Documentation, Permissions, ProviderId, VersionedSchema,
};
use crate::domain::retry::RetryAdvice;

const EXTERNAL_ID_BYTES_MAX: usize = 1 << 10;
const OPTIONS_MAX: usize = 1_000;
const OPTION_BYTES_MAX: usize = 512;
const DESCRIPTOR_BYTES_MAX: usize = 1 << 20;

/// What a guest said of itself is not usable: field and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("describe: {0}")]
pub struct DescribeError(String);

/// A component that answers calls under one set of permissions.
pub struct LoadedComponent {
    sandbox: Arc<Sandbox>,
    code: LoadedCode,
    id: ProviderId,
    version: Arc<str>,
    permissions: Arc<EffectivePermissions>,
    limits: Arc<Limits>,
    cache: Arc<GuestCache>,
    tokens: Arc<TokenCache>,
    concurrency: Arc<Semaphore>,
    hot_calls: HotCalls,
}

impl std::fmt::Debug for LoadedComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoadedComponent({} {})", self.id, self.version)
    }
}

impl LoadedComponent {
    /// Code under the identity that it described, with what it may do and spend.
    #[must_use]
    pub fn new(
        sandbox: Arc<Sandbox>,
        code: LoadedCode,
        descriptor: &Descriptor,
        permissions: EffectivePermissions,
        limits: Limits,
    ) -> Self {
        Self {
            sandbox,
            code,
            id: descriptor.id.clone(),
            version: descriptor.version.as_str().into(),
            permissions: Arc::new(permissions),
            concurrency: Arc::new(Semaphore::new(limits.concurrency_max)),
            limits: Arc::new(limits),
            cache: Arc::default(),
            tokens: Arc::default(),
            hot_calls: Arc::default(),
        }
    }

    /// Whether it already answers calls under exactly these permissions.
    #[must_use]
    pub fn permits(&self, permissions: &EffectivePermissions) -> bool {
        *self.permissions == *permissions
    }

    /// Makes one delivery attempt.
    pub async fn deliver(&self, call: DeliverCall) -> CallReport<Receipt> {
        let context = CallContext {
            preview: call.preview.clone(),
            ..self.context(
                call.config.clone(),
                call.connection.clone(),
                call.cache_scope.clone(),
                call.timeout,
            )
        };
        self.run(context, Deliver(call)).await
    }

    /// Tries a connection.
    pub async fn test_connection(&self, connection: GuestDocument) -> CallReport<String> {
        let json = connection.json.clone();
        let context = self.context(
            GuestDocument::default(),
            Some(connection),
            "test".into(),
            None,
        );
        self.run(context, TestConnection(json)).await
    }

    /// Entries of a dropdown.
    pub async fn options(&self, call: OptionsCall) -> CallReport<Vec<SelectOption>> {
        let context = self.context(
            GuestDocument::default(),
            call.connection.clone(),
            call.cache_scope.clone(),
            None,
        );
        let Some(values) = self.sandbox.shared.get() else {
            return self.run(context, Options(call)).await;
        };
        let place = SharedOptions::of(values, &self.id, &self.version, &call);
        if let Some(known) = place.get().await {
            return CallReport {
                result: Ok(known),
                version: self.version.clone(),
                ..CallReport::failed(CallFailure::Unavailable(String::new()))
            };
        }
        let report = self.run(context, Options(call)).await;
        if let Ok(options) = &report.result {
            place.put(options).await;
        }
        report
    }

    /// Brings a document up to the current schema version.
    pub async fn migrate(
        &self,
        kind: DocumentKind,
        document: GuestDocument,
    ) -> CallReport<serde_json::Value> {
        let call = Migrate {
            kind,
            from: document.version,
            json: document.json.clone(),
        };
        let (config, connection) = match kind {
            DocumentKind::Config => (document, None),
            DocumentKind::Connection => (GuestDocument::default(), Some(document)),
        };
        let context = self.context(config, connection, "migrate".into(), None);
        self.run(context, call).await
    }

    pub(super) fn context(
        &self,
        config: GuestDocument,
        connection: Option<GuestDocument>,
        cache_scope: Arc<str>,
        timeout: Option<Duration>,
    ) -> CallContext {
        CallContext {
            provider: self.id.clone(),
            permissions: self.permissions.clone(),
            limits: self.limits.clone(),
            cache: self.cache.clone(),
            tokens: self.tokens.clone(),
            cache_scope,
            shared: self.sandbox.shared.get().cloned(),
            version: self.version.clone(),
            egress: self.sandbox.egress.clone(),
            config,
            connection,
            timeout: timeout
                .unwrap_or_else(|| Duration::from_millis(self.limits.timeout_ms.into())),
            preview: None,
            hot_calls: Some(self.hot_calls.clone()),
        }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        context: CallContext,
        body: impl AsyncCall<T>,
    ) -> CallReport<T> {
        let Ok(_permit) = self.concurrency.acquire().await else {
            return CallReport::failed(CallFailure::Unavailable("shut down".to_owned()));
        };
        call::run(
            &self.sandbox,
            &self.code,
            context,
            self.version.clone(),
            body,
        )
        .await
    }
}

/// Asks a component who it is, with nothing granted, within the default limits.
///
/// # Errors
/// The call's failure, or what is wrong with the answer.
pub async fn describe(sandbox: &Sandbox, code: &LoadedCode) -> Result<Descriptor, CallFailure> {
    let context = CallContext {
        provider: ProviderId::parse("unknown")
            .map_err(|error| CallFailure::Unavailable(error.to_string()))?,
        permissions: Arc::new(EffectivePermissions::none()),
        limits: Arc::new(Limits {
            http_calls_max: 0,
            timeout_ms: 5_000,
            ..Limits::default()
        }),
        cache: Arc::default(),
        tokens: Arc::default(),
        cache_scope: "describe".into(),
        shared: None,
        version: "".into(),
        egress: sandbox.egress.clone(),
        config: GuestDocument::default(),
        connection: None,
        timeout: Duration::from_secs(5),
        preview: None,
        // It runs once for a file, after a compilation that took longer. With pauses it would depend on
        // the gateway's load whether what it computes fits into the deadline.
        hot_calls: None,
    };
    let none: Arc<str> = "".into();
    let report = match code.pre.kind() {
        ComponentKind::Provider => {
            call::run(sandbox, code, context, none, Describe::<Provider>::new()).await
        }
        ComponentKind::Source => {
            call::run(sandbox, code, context, none, Describe::<Source>::new()).await
        }
        ComponentKind::Transform => {
            call::run(sandbox, code, context, none, Describe::<Transform>::new()).await
        }
    };
    let described = report.result?;
    descriptor(code.pre.kind(), described).map_err(|error| CallFailure::Provider {
        message: error.to_string(),
        retry: RetryAdvice::Never,
    })
}

struct Describe<W>(PhantomData<fn() -> W>);

impl<W> Describe<W> {
    fn new() -> Self {
        Self(PhantomData)
    }
}

impl<W: World> AsyncCall<wit::Descriptor> for Describe<W> {
    type World = W;

    async fn call(
        self,
        instance: &W,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<wit::Descriptor, CallFailure>> {
        Ok(Ok(instance.describe(store).await?))
    }
}

struct Deliver(DeliverCall);

impl AsyncCall<Receipt> for Deliver {
    type World = Provider;

    async fn call(
        self,
        provider: &Provider,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<Receipt, CallFailure>> {
        let delivery = wit_delivery(&self.0);
        let answer = provider.call_deliver(&mut *store, &delivery).await?;
        let shared = &store.data().shared;
        Ok(match answer {
            Ok(receipt) => receipt_within_caps(receipt, |text, max| shared.sanitize(text, max)),
            Err(error) => Err(CallFailure::Provider {
                message: shared.sanitize(error.message, MESSAGE_BYTES_MAX),
                retry: match error.retry {
                    wit::Retry::Default => RetryAdvice::Default,
                    wit::Retry::After(ms) => RetryAdvice::After(Duration::from_millis(ms)),
                    wit::Retry::Never => RetryAdvice::Never,
                },
            }),
        })
    }
}

fn receipt_within_caps(
    receipt: wit::Receipt,
    sanitize: impl Fn(String, usize) -> String,
) -> Result<Receipt, CallFailure> {
    if receipt
        .external_id
        .as_ref()
        .is_some_and(|id| id.len() > EXTERNAL_ID_BYTES_MAX)
    {
        return Err(CallFailure::Limit(format!(
            "the receipt's external id is longer than {EXTERNAL_ID_BYTES_MAX} bytes"
        )));
    }
    Ok(Receipt {
        external_id: receipt
            .external_id
            .map(|id| sanitize(id, EXTERNAL_ID_BYTES_MAX)),
        summary: sanitize(receipt.summary, MESSAGE_BYTES_MAX),
    })
}

struct TestConnection(Arc<str>);

impl AsyncCall<String> for TestConnection {
    type World = Provider;

    async fn call(
        self,
        provider: &Provider,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<String, CallFailure>> {
        let answer = provider
            .call_test_connection(&mut *store, &self.0.to_string())
            .await?;
        Ok(own_words(store, answer))
    }
}

struct Options(OptionsCall);

impl AsyncCall<Vec<SelectOption>> for Options {
    type World = Provider;

    async fn call(
        self,
        provider: &Provider,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<Vec<SelectOption>, CallFailure>> {
        let request = wit::OptionsRequest {
            resolver: self.0.resolver,
            connection: self.0.connection.map(|document| document.json.to_string()),
            context: self.0.context.to_string(),
            search: self.0.search,
        };
        let answer = provider
            .call_get_connection_options(&mut *store, &request)
            .await?;
        let shared = &store.data().shared;
        Ok(match answer {
            Ok(options) => Ok(options
                .into_iter()
                .take(OPTIONS_MAX)
                .map(|option| SelectOption {
                    value: shared.sanitize(option.value, OPTION_BYTES_MAX),
                    label: shared.sanitize(option.label, OPTION_BYTES_MAX),
                })
                .collect()),
            Err(message) => own_words(store, Err(message)).map(|_: String| Vec::new()),
        })
    }
}

struct Migrate {
    kind: DocumentKind,
    from: u32,
    json: Arc<str>,
}

impl AsyncCall<serde_json::Value> for Migrate {
    type World = Provider;

    async fn call(
        self,
        provider: &Provider,
        store: &mut Store<CallState>,
    ) -> wasmtime::Result<Result<serde_json::Value, CallFailure>> {
        let kind = match self.kind {
            DocumentKind::Config => wit::DocumentKind::Config,
            DocumentKind::Connection => wit::DocumentKind::Connection,
        };
        let answer = provider
            .call_migrate_config(&mut *store, kind, self.from, &self.json.to_string())
            .await?;
        let shared = &store.data().shared;
        Ok(match answer {
            // Not sanitised: a migrated document is stored as it is, or not at all.
            Ok(json) => match serde_json::from_str(&json) {
                Ok(document) if leaks(shared, &self.json, &document) => Err(CallFailure::Denied(
                    "the document that migrate-config returned holds the text of a secret, which would be stored unencrypted"
                        .to_owned(),
                )),
                Ok(document) => Ok(document),
                Err(error) => Err(CallFailure::Provider {
                    message: format!("migrate-config returned no JSON: {error}"),
                    retry: RetryAdvice::Never,
                }),
            },
            Err(message) => own_words(store, Err(message)).map(serde_json::Value::from),
        })
    }
}

/// Whether a migrated document holds a secret in plain text. A guest sees only handles, but a
/// receiver may have told it more. Text that stood in the document before is the admin's own.
fn leaks(shared: &CallShared, before: &str, after: &serde_json::Value) -> bool {
    let holds = |text: &str| {
        let sets = shared.secret_sets();
        sets.iter()
            .any(|set| set.mask_bytes(text.as_bytes()).is_some())
    };
    // Printed anew, so that escapes hide nothing.
    holds(&after.to_string()) && !holds(before)
}

/// A plain answer of the guest, sanitised.
fn own_words(
    store: &Store<CallState>,
    answer: Result<String, String>,
) -> Result<String, CallFailure> {
    let shared = &store.data().shared;
    match answer {
        Ok(text) => Ok(shared.sanitize(text, MESSAGE_BYTES_MAX)),
        Err(text) => Err(CallFailure::Provider {
            message: shared.sanitize(text, MESSAGE_BYTES_MAX),
            retry: RetryAdvice::Default,
        }),
    }
}

fn wit_delivery(call: &DeliverCall) -> wit::Delivery {
    wit::Delivery {
        event: wit_event(&call.event, call),
        subscription: wit::Subscription {
            id: call.subscription_id.to_string(),
            name: call.subscription_name.to_string(),
        },
        config: call.config.json.to_string(),
        connection: call
            .connection
            .as_ref()
            .map(|document| document.json.to_string()),
    }
}

fn wit_event(event: &Event, call: &DeliverCall) -> wit::Event {
    wit::Event {
        id: event.id.to_string(),
        event_type: event.event_type.as_str().to_owned(),
        payload: event.payload.to_string(),
        timestamp: clock::rfc3339(event.occurred_at),
        delivery_id: call.delivery_id.to_string(),
        attempt: call.attempt,
        correlation_key: event.correlation_key.as_ref().map(ToString::to_string),
        external_id: call.external_id.clone(),
    }
}

fn descriptor(kind: ComponentKind, wit: wit::Descriptor) -> Result<Descriptor, DescribeError> {
    let fail = |text: String| Err(DescribeError(text));
    let schema_bytes = wit.config.schema.len()
        + wit
            .connection
            .as_ref()
            .map_or(0, |schema| schema.schema.len());
    let text_bytes = wit.description.len() + wit.documentation.setup_guide.len();
    if schema_bytes + text_bytes > DESCRIPTOR_BYTES_MAX {
        return fail(format!(
            "schemas and texts are larger than {DESCRIPTOR_BYTES_MAX} bytes"
        ));
    }
    let id = match ProviderId::parse(&wit.id) {
        Ok(id) => id,
        Err(error) => return fail(format!("id: {error}")),
    };
    if wit.name.is_empty() || wit.name.len() > 100 {
        return fail("name: give 1 to 100 bytes".to_owned());
    }
    if !is_semver(&wit.version) {
        return fail("version: write a semantic version, as in 1.2.3".to_owned());
    }
    for host in &wit.permissions.hosts {
        if let Err(error) = super::HostRule::parse(host) {
            return fail(format!("permissions.hosts: {error}"));
        }
    }
    let asks = !wit.permissions.hosts.is_empty() || wit.permissions.expose_secrets;
    if kind != ComponentKind::Provider && (asks || wit.connection.is_some()) {
        return fail(format!(
            "permissions, connection: a {kind} has none; leave them empty"
        ));
    }
    Ok(Descriptor {
        kind,
        id,
        name: wit.name,
        description: wit.description,
        icon: wit.icon,
        version: wit.version,
        events: wit.events,
        documentation: Documentation {
            setup_guide: wit.documentation.setup_guide,
            example_payload: wit
                .documentation
                .example_payload
                .and_then(|json| serde_json::from_str(&json).ok()),
            headers: wit.documentation.headers,
            link: wit.documentation.link,
        },
        config: versioned("config", wit.config)?,
        connection: wit
            .connection
            .map(|schema| versioned("connection", schema))
            .transpose()?,
        permissions: Permissions {
            hosts: wit.permissions.hosts.into_iter().collect(),
            expose_secrets: wit.permissions.expose_secrets,
        },
    })
}

fn versioned(field: &str, wit: wit::VersionedSchema) -> Result<VersionedSchema, DescribeError> {
    let schema: serde_json::Value = serde_json::from_str(&wit.schema)
        .map_err(|error| DescribeError(format!("{field}.schema: not JSON: {error}")))?;
    if !schema.is_object() {
        return Err(DescribeError(format!(
            "{field}.schema: must be a JSON object"
        )));
    }
    crate::domain::schema::compile(&schema)
        .map_err(|error| DescribeError(format!("{field}.schema: {error}")))?;
    crate::vault::document::check_schema(&schema)
        .map_err(|error| DescribeError(format!("{field}.schema: {error}")))?;
    Ok(VersionedSchema {
        version: wit.version,
        schema,
    })
}

/// `major.minor.patch`, with an optional pre-release or build part (<https://semver.org>).
fn is_semver(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or("");
    let mut parts = 0;
    let numeric = core.split('.').all(|part| {
        parts += 1;
        !part.is_empty() && part.len() < 10 && part.bytes().all(|b| b.is_ascii_digit())
    });
    numeric && parts == 3 && text.len() <= 64
}
