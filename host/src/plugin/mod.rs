//! The sandbox: load, compile, pre-instantiate and call components.
//!
//! Invariant: a guest holds no ambient authority and no state from an earlier call; whatever it
//! does ends as one of the four kinds of [`CallFailure`], and the gateway goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub mod artefact;
mod bindings;
mod cache;
mod call;
pub mod compile_child;
pub mod component;
pub mod engine;
mod imports;
pub mod limits;
mod oauth2;
pub mod preinitialize;
pub mod registry;
pub mod sanitize;
mod shared_options;
mod shared_token;
pub mod source;
mod state;
mod stdio;
pub mod transform;
mod turns;
mod wasi_http;
mod world;

pub use sanitize::SecretSet;
pub use state::{EffectivePermissions, HostRule};

use crate::domain::audit::Author;
use crate::domain::delivery::{LogLine, Outcome};
use crate::domain::event::Event;
use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::domain::provider::{Descriptor, Grant, ProviderId, ProviderReport};
use crate::domain::retry::RetryAdvice;

/// A document as a guest sees it: secrets replaced by handles.
#[derive(Clone, Default)]
pub struct GuestDocument {
    /// JSON text; a secret field holds `{"$secret": "<handle>"}`.
    pub json: Arc<str>,
    /// The schema version it was written for.
    pub version: u32,
    /// The values behind the handles.
    pub secrets: Arc<SecretSet>,
    /// Values that host patterns may refer to: `config.url` → `https://…`. Non-secret string
    /// leaves of the document's top level, without the `config.`/`connection.` prefix.
    pub fields: Arc<HashMap<String, String>>,
}

impl std::fmt::Debug for GuestDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestDocument")
            .field("version", &self.version)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

/// One delivery attempt.
#[derive(Clone, Debug)]
pub struct DeliverCall {
    /// The event.
    pub event: Arc<Event>,
    /// Stable across attempts.
    pub delivery_id: DeliveryId,
    /// 1 for the first.
    pub attempt: u32,
    /// From an earlier delivery for the same correlation key.
    pub external_id: Option<String>,
    /// The subscription's identifier.
    pub subscription_id: SubscriptionId,
    /// The subscription's name.
    pub subscription_name: Arc<str>,
    /// The subscription's config.
    pub config: GuestDocument,
    /// The connection, where there is one, with the key that its cache is kept under.
    pub connection: Option<GuestDocument>,
    /// Keeps the guest's cache apart: the connection's id, else the subscription's.
    pub cache_scope: Arc<str>,
    /// Wall-clock deadline; `None`: the provider's default.
    pub timeout: Option<Duration>,
    /// Records what would be sent instead of sending it.
    pub preview: Option<Arc<crate::egress::Preview>>,
}

/// A request for the entries of a dropdown.
#[derive(Clone, Debug)]
pub struct OptionsCall {
    /// The field's `x-options-resolver`.
    pub resolver: String,
    /// The connection, where one is chosen.
    pub connection: Option<GuestDocument>,
    /// The form's values so far, secrets removed.
    pub context: serde_json::Value,
    /// What the user typed.
    pub search: Option<String>,
    /// As in [`DeliverCall`].
    pub cache_scope: Arc<str>,
}

/// An entry of a dropdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectOption {
    /// What is stored.
    pub value: String,
    /// What is shown.
    pub label: String,
}

/// What a successful delivery returned; sanitised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The receiver's own identifier.
    pub external_id: Option<String>,
    /// One line for the log.
    pub summary: String,
}

/// Which of the documents a migration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A subscription's config.
    Config,
    /// A connection.
    Connection,
}

/// Why a call did not return a value. Messages are sanitised.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallFailure {
    /// The provider returned an error.
    #[error("{message}")]
    Provider {
        /// What it said.
        message: String,
        /// What it advises.
        retry: RetryAdvice,
    },
    /// The call failed after a capability was denied to it.
    #[error("{0}")]
    Denied(String),
    /// A limit of the sandbox was met.
    #[error("{0}")]
    Limit(String),
    /// The guest trapped.
    #[error("{0}")]
    Trap(String),
    /// No such provider answers calls, and why.
    #[error("{0}")]
    Unavailable(String),
}

impl CallFailure {
    /// The same kind, its text led by what failed; a program's error may pass, so that it is tried
    /// again by the schedule.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        let led = |text: String| format!("{what}: {text}");
        match self {
            Self::Provider { message, .. } => Self::Provider {
                message: led(message),
                retry: RetryAdvice::Default,
            },
            Self::Denied(text) => Self::Denied(led(text)),
            Self::Limit(text) => Self::Limit(led(text)),
            Self::Trap(text) => Self::Trap(led(text)),
            Self::Unavailable(text) => Self::Unavailable(led(text)),
        }
    }
}

/// What a call returned and what was seen of it.
#[derive(Clone, Debug)]
pub struct CallReport<T> {
    /// The value, or why there is none.
    pub result: Result<T, CallFailure>,
    /// What the guest logged.
    pub logs: Vec<LogLine>,
    /// Status of the last HTTP response that the guest received.
    pub http_status: Option<u16>,
    /// The last exchange over HTTP ended without an answer, or was cut off by the deadline while
    /// it waited for one.
    pub unreachable: bool,
    /// Version of the provider called; empty when none was.
    pub version: Arc<str>,
    /// How long the call took.
    pub elapsed: Duration,
}

impl<T> CallReport<T> {
    /// How the call ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.result {
            Ok(_) => Outcome::Success,
            Err(CallFailure::Provider { .. }) => Outcome::ProviderError,
            Err(CallFailure::Denied(_)) => Outcome::Denied,
            Err(CallFailure::Limit(_)) => Outcome::LimitExceeded,
            Err(CallFailure::Trap(_)) => Outcome::Trap,
            Err(CallFailure::Unavailable(_)) => Outcome::Unavailable,
        }
    }

    /// The report of a call that was never made.
    #[must_use]
    pub fn failed(failure: CallFailure) -> Self {
        Self {
            result: Err(failure),
            logs: Vec::new(),
            http_status: None,
            unreachable: false,
            version: "".into(),
            elapsed: Duration::ZERO,
        }
    }
}

/// Why a grant was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No component with that identifier is known.
    #[error("no provider {0} in the providers directory")]
    UnknownProvider(ProviderId),
    /// The grant itself is wrong: field and remedy.
    #[error("{0}")]
    Invalid(String),
    /// The store did not take it.
    #[error("{0}")]
    Unavailable(String),
}

/// The installed providers, as the dispatcher and the API see them.
#[async_trait]
pub trait Providers: Send + Sync + 'static {
    /// Every known provider, by id.
    fn reports(&self) -> Vec<ProviderReport>;

    /// Files that are not (yet) any provider: broken, foreign.
    fn rejected_files(&self) -> Vec<crate::domain::provider::ComponentReport>;

    /// The descriptor of the version that answers calls.
    fn descriptor(&self, id: &ProviderId) -> Option<Arc<Descriptor>>;

    /// Makes one delivery attempt.
    async fn deliver(&self, id: &ProviderId, call: DeliverCall) -> CallReport<Receipt>;

    /// Tries a connection: the provider's own sentence, or its error.
    async fn test_connection(
        &self,
        id: &ProviderId,
        connection: GuestDocument,
    ) -> CallReport<String>;

    /// Entries of a dropdown.
    async fn options(&self, id: &ProviderId, call: OptionsCall) -> CallReport<Vec<SelectOption>>;

    /// Whether the component that answers takes documents of these versions. Older ones it is
    /// given time to migrate: they are those of an edit that was under way while it took over.
    fn takes(&self, id: &ProviderId, call: &DeliverCall) -> bool;

    /// Replaces what is granted, as `by` says; a candidate that waited for it is then loaded.
    async fn grant(
        &self,
        id: &ProviderId,
        grant: Grant,
        by: Author,
    ) -> Result<ProviderReport, GrantError>;
}
