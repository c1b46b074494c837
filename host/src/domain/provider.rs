//! Providers, what they ask for, and what is granted.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::clock::Timestamp;

/// The identifier that a provider gives itself: lower-case letters, digits and `-`, starting with
/// a letter, at most 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderId(Arc<str>);

/// The text cannot identify a provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a provider id is 1 to 64 characters of a-z, 0-9 and -, starting with a letter")]
pub struct ProviderIdError;

impl ProviderId {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When `text` is not of the form above.
    pub fn parse(text: &str) -> Result<Self, ProviderIdError> {
        let ok = text.len() <= 64
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(text.into()))
        } else {
            Err(ProviderIdError)
        }
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON Schema with a version of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionedSchema {
    /// Increases when stored documents need migrating.
    pub version: u32,
    /// Draft 2020-12.
    pub schema: serde_json::Value,
}

/// How to set a provider up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documentation {
    /// Markdown.
    pub setup_guide: String,
    /// What the receiver gets.
    pub example_payload: Option<serde_json::Value>,
    /// Name and meaning of each HTTP header sent.
    pub headers: Vec<(String, String)>,
    /// Further reading.
    pub link: Option<String>,
}

/// What a provider asks for, or is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Host patterns: `[scheme://]host[:port]`, `*.example.com`, `*`, `{config.field}`,
    /// `{connection.field}`.
    pub hosts: BTreeSet<String>,
    /// Whether `secret.expose` works.
    pub expose_secrets: bool,
}

impl Permissions {
    /// Whether everything in `self` is in `granted` too.
    #[must_use]
    pub fn within(&self, granted: &Self) -> bool {
        self.hosts.is_subset(&granted.hosts) && (granted.expose_secrets || !self.expose_secrets)
    }
}

/// What the admin allows a provider. It is pinned to what was asked for when it was given: an
/// upgrade that asks for more is not within it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The permissions granted.
    pub permissions: Permissions,
    /// Networks that are otherwise prohibited (loopback, private, …) and allowed for this
    /// provider. Only an admin can give them; a provider cannot ask.
    pub allow_addresses: Vec<IpNet>,
}

/// What a component does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComponentKind {
    /// Carries events out.
    #[default]
    Provider,
    /// Turns inbound webhooks into events.
    Source,
    /// Runs the programs of a language: filters and transforms.
    Transform,
}

impl ComponentKind {
    /// As the API and the contract write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Source => "source",
            Self::Transform => "transform",
        }
    }
}

impl std::fmt::Display for ComponentKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a provider says it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// The world it was built for.
    pub kind: ComponentKind,
    /// Its identifier.
    pub id: ProviderId,
    /// For people.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The name of a Lucide icon.
    pub icon: String,
    /// Its version.
    pub version: String,
    /// Event types it is meant for; empty: any.
    pub events: Vec<String>,
    /// How to set it up.
    pub documentation: Documentation,
    /// Of a subscription's config.
    pub config: VersionedSchema,
    /// Of a connection, where it has one.
    pub connection: Option<VersionedSchema>,
    /// What it asks for.
    pub permissions: Permissions,
}

/// Where an installed component stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComponentState {
    /// Being compiled or checked.
    Loading,
    /// Answers calls.
    Serving,
    /// Asks for more than is granted; the version before, if any, goes on serving.
    AwaitingGrant,
    /// Cannot be used, and why; the version before, if any, goes on serving.
    Rejected(String),
}

/// One component file in the providers directory, as last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentReport {
    /// File name in the directory.
    pub file: String,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// Where it stands.
    pub state: ComponentState,
    /// What it said of itself, when it got that far.
    pub descriptor: Option<Arc<Descriptor>>,
    /// When this was last seen to change.
    pub changed_at: Timestamp,
}

/// A provider as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderReport {
    /// Its identifier.
    pub id: ProviderId,
    /// The version that answers calls, if one does.
    pub serving: Option<ComponentReport>,
    /// A newer or refused version, if there is one.
    pub candidate: Option<ComponentReport>,
    /// What is granted now.
    pub grant: Option<Grant>,
}
