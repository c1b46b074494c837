//! The trait that a provider implements, and what it is given.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::context::Context;
use crate::describe::Description;
use crate::error::DeliveryError;

/// A provider: carries events out to one kind of system.
///
/// There is no `self`: every call runs in a fresh instance, so there is no state to keep.
///
/// `Config` and `Connection` are plain serde types; their JSON Schema makes the form that an admin
/// fills in. Beside [`crate::Secret`] (`x-secret`), schemars attributes add what the form needs:
///
/// ```
/// # use hookport_sdk::prelude::*;
/// #[derive(Deserialize, JsonSchema)]
/// struct Config {
///     #[schemars(extend("x-options-resolver" = "channels", "x-searchable" = true))]
///     channel: String,
///     #[schemars(extend("x-options-resolver" = "threads", "x-depends-on" = ["channel"]))]
///     thread: Option<String>,
///     #[serde(default)]
///     #[schemars(extend("x-hidden" = true))]
///     internal: bool,
/// }
/// ```
pub trait Provider: Sized {
    /// What each subscription sets.
    type Config: DeserializeOwned + JsonSchema;
    /// Shared, site-wide credentials; [`NoConnection`] where there are none.
    type Connection: DeserializeOwned + JsonSchema;

    /// Raise it when stored configs need [`Provider::migrate`].
    const CONFIG_VERSION: u32 = 1;
    /// Raise it when stored connections need [`Provider::migrate`].
    const CONNECTION_VERSION: u32 = 1;

    /// Who the provider is and what it asks for.
    fn describe() -> Description;

    /// Carries one event out. The delivery id is stable across attempts: pass it on as an
    /// idempotency key where the receiver takes one.
    ///
    /// # Errors
    /// With a sentence for the delivery log and whether trying again helps.
    fn deliver(ctx: &Context, delivery: &Delivery<Self>) -> Result<Receipt, DeliveryError>;

    /// Tries the credentials of a connection; a sentence on what was reached.
    ///
    /// # Errors
    /// With a sentence on what to mend.
    fn test_connection(ctx: &Context, connection: &Self::Connection) -> Result<String, String> {
        let _ = (ctx, connection);
        Ok("The settings are well-formed; this provider has nothing more to test.".into())
    }

    /// Entries of a dropdown: a field whose schema has `x-options-resolver`.
    ///
    /// # Errors
    /// With a sentence that the form shows.
    fn options(
        ctx: &Context,
        request: &OptionsRequest<Self::Connection>,
    ) -> Result<Vec<SelectOption>, String> {
        let _ = ctx;
        Err(format!(
            "this provider has no options for {:?}",
            request.resolver
        ))
    }

    /// Brings a stored document of an older version up to the current one. A secret in it is
    /// `{"$secret": …}`: move it as it is.
    ///
    /// # Errors
    /// When there is no way up from `from_version`.
    fn migrate(kind: DocumentKind, from_version: u32, document: Value) -> Result<Value, String> {
        let current = match kind {
            DocumentKind::Config => Self::CONFIG_VERSION,
            DocumentKind::Connection => Self::CONNECTION_VERSION,
        };
        if from_version == current {
            Ok(document)
        } else {
            Err(format!(
                "no migration from version {from_version} to {current}"
            ))
        }
    }
}

/// The connection type of a provider that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoConnection {}

impl<'de> Deserialize<'de> for NoConnection {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("this provider has no connection"))
    }
}

impl JsonSchema for NoConnection {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NoConnection".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        false.into()
    }
}

/// Which of the two documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A subscription's config.
    Config,
    /// A connection.
    Connection,
}

/// The event to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The gateway's identifier of the event.
    pub id: String,
    /// Fully qualified: `incident.created`.
    pub event_type: String,
    /// The payload as JSON text.
    pub payload_json: String,
    /// When it occurred, RFC 3339.
    pub timestamp: String,
    /// Stable across the attempts of this delivery: the receiver's idempotency key.
    pub delivery_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Ties follow-up events to the first one.
    pub correlation_key: Option<String>,
    /// What an earlier delivery of this subscription returned for the same correlation key.
    pub external_id: Option<String>,
}

impl Event {
    /// The payload, parsed.
    ///
    /// # Errors
    /// When it is not JSON, which the gateway has checked.
    pub fn payload(&self) -> Result<Value, DeliveryError> {
        serde_json::from_str(&self.payload_json)
            .map_err(|error| DeliveryError::permanent(format!("the payload is not JSON: {error}")))
    }
}

/// The subscription that the event matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// One delivery attempt.
pub struct Delivery<P: Provider> {
    /// The event.
    pub event: Event,
    /// The subscription.
    pub subscription: Subscription,
    /// The subscription's config.
    pub config: P::Config,
    /// The connection, where the subscription names one.
    pub connection: Option<P::Connection>,
}

/// A successful delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The receiver's own identifier of what was created; at most 1 KiB. It is handed back with
    /// later events of the same correlation key.
    pub external_id: Option<String>,
    /// One line for the delivery log.
    pub summary: String,
}

impl Receipt {
    /// A receipt with one line for the delivery log.
    pub fn new(summary: impl Into<String>) -> Self {
        Self {
            external_id: None,
            summary: summary.into(),
        }
    }

    /// With the receiver's own identifier.
    pub fn external_id(mut self, id: impl Into<String>) -> Self {
        self.external_id = Some(id.into());
        self
    }
}

/// A form asks for the entries of a dropdown.
pub struct OptionsRequest<C> {
    /// The field's `x-options-resolver`.
    pub resolver: String,
    /// The connection, where one is chosen.
    pub connection: Option<C>,
    /// The form's values so far; secrets are left out.
    pub context: Value,
    /// What the user typed, for `x-searchable` fields.
    pub search: Option<String>,
}

/// An entry of a dropdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectOption {
    /// What is stored.
    pub value: String,
    /// What is shown.
    pub label: String,
}

impl SelectOption {
    /// An entry.
    pub fn new(value: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            label: label.into(),
        }
    }
}
