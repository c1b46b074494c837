//! The traits of the other two worlds: inbound sources, and languages of filters and transforms.

use serde::de::DeserializeOwned;
use serde_json::Value;

use schemars::JsonSchema;

use crate::context::Context;
use crate::describe::Description;

/// An inbound source: turns the webhooks of one kind of sender into events.
///
/// There is no `self`: every call runs in a fresh instance, and none can reach the network. The
/// gateway has verified a webhook before [`Source::normalize`] sees it.
///
/// ```
/// use hookport_sdk::prelude::*;
/// use hookport_sdk::{NormalizeError, NormalizedEvent, Source, Webhook};
///
/// /// What an admin sets for the source.
/// #[derive(Deserialize, JsonSchema)]
/// struct Config {
///     /// Put before the type that the sender gives.
///     #[serde(default)]
///     prefix: String,
/// }
///
/// struct Acme;
///
/// impl Source for Acme {
///     type Config = Config;
///
///     fn describe() -> Description {
///         Description::new("Acme", "Webhooks of Acme")
///     }
///
///     fn normalize(
///         _: &Context,
///         webhook: &Webhook<Self>,
///     ) -> Result<Vec<NormalizedEvent>, NormalizeError> {
///         let body = webhook.json()?;
///         let kind = body["type"].as_str().ok_or(NormalizeError::Invalid("type: missing".into()))?;
///         let event = NormalizedEvent::new(format!("{}{kind}", webhook.config.prefix), body.clone());
///         Ok(vec![event])
///     }
/// }
///
/// hookport_sdk::export_source!(Acme, id: "acme");
///
/// // In a test:
/// use hookport_sdk::testing::{TestHost, TestWebhook};
/// let webhook = TestWebhook::new(r#"{"type": "pump.failed"}"#);
/// let config = serde_json::json!({"prefix": "acme."});
/// let events = TestHost::new().normalize::<Acme>(&config, &webhook).unwrap();
/// assert_eq!(events[0].event_type, "acme.pump.failed");
/// ```
pub trait Source: Sized {
    /// What an admin sets for each source that is set up.
    type Config: DeserializeOwned + JsonSchema;

    /// Raise it when the schema changes.
    const CONFIG_VERSION: u32 = 1;

    /// Who the source is. Only name, texts, icon, events and documentation matter.
    fn describe() -> Description;

    /// The verification scheme that the sender uses, as the gateway's API writes it, for example
    /// `{"scheme": "github"}`. Proposed when a source is set up.
    fn verification() -> Option<Value> {
        None
    }

    /// Checks a webhook whose sender uses a scheme that the gateway does not have: with
    /// [`Context::hmac_sha256`] and the secrets of the config. Called only where the source is
    /// set up so.
    ///
    /// # Errors
    /// With the reason, which is put on record: never quote a secret or an expected signature.
    fn verify(ctx: &Context, webhook: &Webhook<Self>) -> Result<(), String> {
        let _ = (ctx, webhook);
        Err(
            "this source has no verification of its own: choose one of the gateway's schemes"
                .into(),
        )
    }

    /// The events of a verified webhook.
    ///
    /// # Errors
    /// When there is nothing to emit, or the webhook is not what the sender sends.
    fn normalize(
        ctx: &Context,
        webhook: &Webhook<Self>,
    ) -> Result<Vec<NormalizedEvent>, NormalizeError>;
}

/// An inbound webhook.
pub struct Webhook<S: Source> {
    /// The name under which the source is set up.
    pub source: String,
    /// When it arrived, RFC 3339.
    pub received_at: String,
    /// The query of the URL, without `?`.
    pub query: String,
    /// Names in lower case; for [`Source::normalize`] without credentials and signatures.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
    /// The source's config.
    pub config: S::Config,
}

impl<S: Source> Webhook<S> {
    /// The first header of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value, NormalizeError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| NormalizeError::Invalid(format!("the body is not JSON: {error}")))
    }
}

/// An event that a webhook tells of.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalizedEvent {
    /// The sender's own identifier of what happened: the same for each repetition, so that it is
    /// accepted once. Without one the hash of the body takes its place.
    pub external_id: Option<String>,
    /// Fully qualified: `issue.opened`.
    pub event_type: String,
    /// RFC 3339; without one: when the webhook arrived.
    pub occurred_at: Option<String>,
    /// Ties the events of one subject together.
    pub correlation_key: Option<String>,
    /// The systems that it concerns.
    pub system_ids: Vec<String>,
    /// The payload.
    pub payload: Value,
}

impl NormalizedEvent {
    /// An event with nothing but a type and a payload.
    pub fn new(event_type: impl Into<String>, payload: Value) -> Self {
        Self {
            external_id: None,
            event_type: event_type.into(),
            occurred_at: None,
            correlation_key: None,
            system_ids: Vec::new(),
            payload,
        }
    }
}

/// Why a webhook makes no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NormalizeError {
    /// There is nothing to emit: a ping, an action that no one can subscribe to.
    #[error("{0}")]
    Ignored(String),
    /// Not what the sender sends: field and remedy.
    #[error("{0}")]
    Invalid(String),
}

/// A language for filters and transforms: small programs over JSON.
pub trait Language {
    /// Who the language is. Only name and texts matter.
    fn describe() -> Description;

    /// Whether the text is a program.
    ///
    /// # Errors
    /// With what is wrong, where.
    fn check(program: &str) -> Result<(), String>;

    /// The outputs of a program for an input, all JSON text; at most `outputs_max` of them.
    ///
    /// # Errors
    /// What the program says, or what is wrong with it.
    fn run(program: &str, input: &str, outputs_max: usize) -> Result<Vec<String>, String>;
}
