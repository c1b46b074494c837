//! Secrets: used, never seen.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

/// A secret field of a config or connection. It can be put into a request or sign data; its text
/// stays with the gateway. The field's schema carries `x-secret`, so that the gateway encrypts it
/// and a form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    handle: String,
}

impl Secret {
    #[cfg(target_family = "wasm")]
    pub(crate) fn of_handle(handle: String) -> Self {
        Self { handle }
    }

    pub(crate) fn handle(&self) -> &str {
        &self.handle
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.handle)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Marker {
            #[serde(rename = "$secret")]
            handle: String,
        }
        Marker::deserialize(deserializer).map(|marker| Self {
            handle: marker.handle,
        })
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "x-secret": true})
    }
}

/// How a secret is written where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Raw,
    /// Percent-encoded, for a URL or a form.
    Percent,
    /// Escaped for the inside of a JSON string.
    JsonString,
}

/// How the text of a secret becomes the key of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    /// Its UTF-8 bytes.
    Raw,
    /// Base64, with an optional `whsec_` prefix (Standard Webhooks).
    Base64,
}
