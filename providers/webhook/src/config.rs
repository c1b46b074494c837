//! What a subscription to the webhook provider sets.

use hookport_sdk::prelude::*;

/// Settings of one webhook.
#[derive(Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars")]
pub struct Config {
    /// Where to send. A template may stand in path and query; scheme, host and port are literal.
    #[schemars(title = "URL", length(min = 1, max = 8192), extend("format" = "uri-template"))]
    pub url: String,
    /// The HTTP method.
    #[serde(default)]
    pub method: Method,
    /// How the body is written.
    #[serde(default)]
    pub content_type: ContentType,
    /// Credentials for the receiver.
    #[serde(default)]
    pub auth: Auth,
    /// Further headers.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub headers: Vec<Header>,
    /// A JSON template of the body; empty: the standard envelope.
    #[schemars(length(max = 65536))]
    pub body_template: Option<String>,
    /// Deadline of the request in milliseconds.
    #[schemars(title = "Timeout (ms)", range(min = 1, max = 300_000))]
    pub timeout_ms: Option<u32>,
    /// Statuses that are tried again; unset: every status but 2xx and 410.
    pub retry_on_status: Option<Vec<u16>>,
    /// Signs each request (Standard Webhooks): `whsec_` and base64.
    pub signing_secret: Option<Secret>,
    /// JSON Pointer (RFC 6901) to the created object's id in the receiver's answer.
    #[schemars(regex(pattern = r"^(/[^/]*)*$"))]
    pub external_id_pointer: Option<String>,
}

/// The methods that carry a body.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(crate = "hookport_sdk::serde", rename_all = "UPPERCASE")]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub enum Method {
    /// The usual one.
    #[default]
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        }
    }
}

/// How the body is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(crate = "hookport_sdk::serde", rename_all = "lowercase")]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub enum ContentType {
    /// `application/json`.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

impl ContentType {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
        }
    }
}

/// Credentials for the receiver.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    tag = "type",
    rename_all = "lowercase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub enum Auth {
    /// None.
    None {},
    /// `Authorization: Bearer …`.
    Bearer {
        /// The token.
        token: Secret,
    },
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A header of the receiver's own.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: Secret,
    },
}

impl Default for Auth {
    fn default() -> Self {
        Self::None {}
    }
}

/// A header sent with every request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(crate = "hookport_sdk::serde", deny_unknown_fields)]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub struct Header {
    /// Its name.
    #[schemars(regex(pattern = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub name: String,
    /// Its value.
    pub value: String,
}
