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
    #[schemars(
        title = "URL",
        length(min = 1, max = 8192),
        extend("format" = "uri-template", "x-template" = true)
    )]
    pub url: String,
    /// The HTTP method.
    #[serde(default)]
    pub method: Method,
    /// How the body is written.
    #[serde(default)]
    pub content_type: ContentType,
    /// What stands around the payload, or around what the body template gives.
    #[serde(default)]
    pub envelope: Envelope,
    /// The attribute `source` of CloudEvents: a URI, or a reference such as `/hookport/berlin`.
    #[serde(default = "default_source")]
    #[schemars(title = "CloudEvents source", length(min = 1, max = 1024))]
    pub cloud_events_source: String,
    /// Credentials for the receiver.
    #[serde(default)]
    pub auth: Auth,
    /// Further headers.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub headers: Vec<Header>,
    /// A JSON template of the body; empty: the payload in its envelope.
    #[schemars(length(max = 65536), extend("x-template" = true))]
    pub body_template: Option<String>,
    /// What is different for later events of a correlation key, once the first delivery gave an
    /// external id.
    pub follow_up: Option<FollowUp>,
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

fn default_source() -> String {
    "/hookport".to_owned()
}

/// The methods. A GET has no body; a DELETE has one where a body template is set.
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
    /// Asks; URL and headers say everything.
    Get,
    /// Removes.
    Delete,
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }
}

/// What stands around the payload.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(crate = "hookport_sdk::serde", rename_all = "camelCase")]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub enum Envelope {
    /// `id`, `type`, `timestamp` and the payload as `data`, unless there is a body template.
    #[default]
    Standard,
    /// CloudEvents 1.0, binary mode: attributes in headers, the payload as the body.
    CloudEventsBinary,
    /// CloudEvents 1.0, structured mode: attributes and payload in one JSON document.
    CloudEventsStructured,
}

/// What takes the place of the same fields of the config.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    crate = "hookport_sdk::serde",
    rename_all = "camelCase",
    deny_unknown_fields
)]
#[schemars(crate = "hookport_sdk::schemars", inline)]
pub struct FollowUp {
    /// Where to send, at the same host: `https://example.com/tickets/{{ delivery.externalId }}`.
    #[schemars(
        title = "URL",
        length(min = 1, max = 8192),
        extend("format" = "uri-template", "x-template" = true)
    )]
    pub url: Option<String>,
    /// The HTTP method.
    pub method: Option<Method>,
    /// A JSON template of the body.
    #[schemars(length(max = 65536), extend("x-template" = true))]
    pub body_template: Option<String>,
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
