//! The verification of a source as it is stored: a scheme, and secrets that can be rotated.
//!
//! Secrets are kept under identifiers of their own, so that one that is added does not move the
//! others: `{"scheme": {…}, "secrets": {"<id>": {"value": …, "createdAt": ms, "expiresAt": ms}}}`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::verify::Scheme;
use crate::domain::clock::Timestamp;
use crate::domain::subscription::SealedDocument;
use crate::plugin::DocumentKind;
use crate::vault::{Vault, VaultError};

/// What of the document is secret.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({"properties": {"secrets": {"additionalProperties": {
        "properties": {"value": {"type": "string", "x-secret": true}},
    }}}})
});
const VERSION: u32 = 1;

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretInfo {
    /// When it was added, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When it stops being good, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl SecretInfo {
    /// Whether it is good at `now`.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires| now.0 < expires)
    }
}

/// A scheme and the state of its secrets, readable without opening them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The scheme.
    pub scheme: Scheme,
    /// The secrets by identifier, oldest first.
    pub secrets: BTreeMap<String, SecretInfo>,
}

#[derive(Deserialize)]
struct StoredSecret {
    #[serde(flatten)]
    info: SecretInfo,
    value: Value,
}

#[derive(Deserialize)]
struct Stored {
    scheme: Scheme,
    #[serde(default)]
    secrets: BTreeMap<String, StoredSecret>,
}

fn stored(json: &Value) -> Result<Stored, VaultError> {
    serde_json::from_value(json.clone())
        .map_err(|_| VaultError::Tampered("/verification".to_owned()))
}

/// What is on record, without the values of secrets.
///
/// # Errors
/// When it is not a verification.
pub fn outline(document: &SealedDocument) -> Result<Outline, VaultError> {
    let stored = stored(&document.json)?;
    let secrets = stored.secrets.into_iter();
    Ok(Outline {
        scheme: stored.scheme,
        secrets: secrets.map(|(id, secret)| (id, secret.info)).collect(),
    })
}

/// A verification ready for use.
#[derive(Clone)]
pub struct Verification {
    /// The scheme.
    pub scheme: Scheme,
    secrets: Vec<(SecretInfo, Zeroizing<String>)>,
}

impl Verification {
    /// Opens what is on record under the identity `row`.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn open(vault: &Vault, row: &str, document: &SealedDocument) -> Result<Self, VaultError> {
        let opened = vault.open_for_guest(row, DocumentKind::Config, document)?;
        let json = serde_json::from_str(&opened.json).unwrap_or_default();
        let stored = stored(&json)?;
        let secrets = stored
            .secrets
            .into_values()
            .filter_map(|secret| {
                let handle = secret.value["$secret"].as_str()?;
                Some((secret.info, opened.secrets.get(handle)?.clone()))
            })
            .collect();
        Ok(Self {
            scheme: stored.scheme,
            secrets,
        })
    }

    /// The secrets that are good at `now`.
    #[must_use]
    pub fn active(&self, now: Timestamp) -> Vec<Zeroizing<String>> {
        let active = self.secrets.iter().filter(|(info, _)| info.is_active(now));
        active.map(|(_, value)| value.clone()).collect()
    }
}

/// A change of what is on record.
pub struct Change<'a> {
    /// The scheme from now on.
    pub scheme: Scheme,
    /// A secret to add, with its identifier.
    pub add: Option<(&'a str, &'a str)>,
    /// Until when the secrets before it stay good; `None`: they go at once. Without a secret to
    /// add, all stay as they are.
    pub others_until: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

impl Change<'_> {
    /// What is to be put on record, sealed under the identity `row`.
    ///
    /// # Errors
    /// When what is on record cannot be read.
    pub fn apply(
        self,
        vault: &Vault,
        row: &str,
        before: Option<&SealedDocument>,
    ) -> Result<SealedDocument, VaultError> {
        let mut secrets = serde_json::Map::new();
        if let Some(before) = before {
            for (id, secret) in stored(&before.json)?.secrets {
                let mut info = secret.info;
                if self.add.is_some() {
                    let until = self.others_until.map_or(0, |until| until.0);
                    info.expires_at = Some(info.expires_at.map_or(until, |at| at.min(until)));
                }
                if info.is_active(self.now) {
                    secrets.insert(id, sealed_entry(&info, secret.value));
                }
            }
        }
        if let Some((id, value)) = self.add {
            let info = SecretInfo {
                created_at: self.now.0,
                expires_at: None,
            };
            secrets.insert(id.to_owned(), sealed_entry(&info, Value::from(value)));
        }
        let plain = json!({"scheme": self.scheme, "secrets": secrets});
        Ok(vault.seal_document(row, &SCHEMA, VERSION, plain))
    }
}

fn sealed_entry(info: &SecretInfo, value: Value) -> Value {
    let mut entry = json!(info);
    entry["value"] = value;
    entry
}
