//! Inbound sources, and the webhooks that they receive.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::Timestamp;
use super::event::NameError;
use super::id::{EventId, SourceId, WebhookId};
use super::provider::ProviderId;
use super::rate::Rate;
use super::subscription::SealedDocument;

/// The name of a source, the last part of its URL: 1 to 64 characters of `a`–`z`, `0`–`9`, `-` and
/// `_`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(Arc<str>);

impl SourceName {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When `text` is not of the form above.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        };
        let first = text
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric);
        if first && text.len() <= 64 && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        Err(NameError(
            "use 1 to 64 of a-z, 0-9, - and _, starting with a letter or digit",
        ))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where webhooks of one sender come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its identifier.
    pub id: SourceId,
    /// The last part of its URL.
    pub name: SourceName,
    /// The component that turns its webhooks into events.
    pub component: ProviderId,
    /// What the component's config schema describes.
    pub config: SealedDocument,
    /// How webhooks are verified, with the secrets for it.
    pub verification: SealedDocument,
    /// Webhooks taken from one address in a minute.
    pub rate_per_minute: u32,
    /// Switched off: webhooks are refused.
    pub enabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Source {
    /// What one address may send: the rate, and ten seconds' worth at once, at least 20.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate::per_minute(self.rate_per_minute, (self.rate_per_minute / 6).max(20))
    }
}

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WebhookState {
    /// At least one event of it was new.
    Accepted,
    /// All its events had been accepted before.
    Duplicate,
    /// There was nothing to emit.
    Ignored,
    /// It could not be turned into events; it can be tried again.
    Failed,
}

impl WebhookState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Duplicate, Self::Ignored, Self::Failed];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }
}

/// A verified webhook on record.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundWebhook {
    /// Its identifier.
    pub id: WebhookId,
    /// The source that received it.
    pub source: SourceId,
    /// When.
    pub received_at: Timestamp,
    /// From where.
    pub remote_address: IpAddr,
    /// The URL's query, secrets removed.
    pub query: String,
    /// Names in lower case, secrets and signatures removed.
    pub headers: Vec<(String, String)>,
    /// As it came; empty for a duplicate.
    pub body: Bytes,
    /// What became of it.
    pub state: WebhookState,
    /// Why it was ignored or failed.
    pub reason: Option<String>,
    /// Its events, accepted now or before.
    pub events: Vec<EventId>,
}

/// A webhook that was not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The source that refused it.
    pub source: SourceId,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub remote_address: IpAddr,
    /// Why, without any secret.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for text in ["github", "acme-eu_2", "2nd"] {
            assert!(SourceName::parse(text).is_ok(), "{text}");
        }
        for text in ["", "-a", "A", "a/b", "a.b", &"a".repeat(65)] {
            assert!(SourceName::parse(text).is_err(), "{text}");
        }
    }
}
