//! Verification schemes: is this webhook from who it says, and fresh?
//!
//! Pure: secrets, headers, body and time are parameters. Invariants: signatures and tokens are
//! compared in constant time over the raw bytes; every active secret is tried, so that a secret
//! can be rotated without a gap; no reason quotes a secret or an expected signature. A replay
//! within the tolerance is not this module's business: idempotency keys make it harmless.

mod signature;
#[cfg(test)]
mod tests;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::domain::clock::Timestamp;
use signature::{Signed, Timed};

/// Standard Webhooks, Stripe and Slack all propose five minutes.
const TOLERANCE_S_DEFAULT: u32 = 300;

/// How the bytes of a signature or key are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Encoding {
    /// Hexadecimal, either case.
    #[default]
    Hex,
    /// Base64, standard alphabet, padding optional.
    Base64,
}

/// How the secret's text becomes the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeyEncoding {
    /// Its UTF-8 bytes.
    #[default]
    Raw,
    /// What it decodes to.
    Hex,
    /// What it decodes to, an optional `whsec_` removed.
    Base64,
}

/// A timestamp that is part of what is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignedTimestamp {
    /// The header that holds it: seconds since the Unix epoch.
    pub header: String,
    /// What is signed, with `{timestamp}` and `{body}`: for example `{timestamp}.{body}`.
    pub content: String,
    /// How far it may be from now, in seconds.
    #[serde(default = "tolerance_default")]
    #[schema(default = tolerance_default)]
    pub tolerance_seconds: u32,
}

fn tolerance_default() -> u32 {
    TOLERANCE_S_DEFAULT
}

/// How webhooks are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    tag = "scheme",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Scheme {
    /// Not at all: whoever knows the URL can send.
    None {},
    /// By the source's component.
    Component {},
    /// HMAC-SHA256 (RFC 2104) of the raw body, or of timestamp and body.
    HmacSha256 {
        /// The header that holds the signature.
        header: String,
        /// What stands before it: `sha256=`.
        #[serde(default)]
        prefix: String,
        /// How it is written.
        #[serde(default)]
        encoding: Encoding,
        /// How the secret becomes the key.
        #[serde(default)]
        key_encoding: KeyEncoding,
        /// A signed timestamp, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timestamp: Option<SignedTimestamp>,
    },
    /// A secret that both sides know, in a header or in the query.
    SharedToken {
        /// The header that holds it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        header: Option<String>,
        /// What stands before it in the header: `Bearer `.
        #[serde(default)]
        prefix: String,
        /// The parameter of the query that holds it, where there is no header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        query: Option<String>,
    },
    /// HTTP Basic (RFC 7617); the secret is the password.
    Basic {
        /// The user name.
        username: String,
    },
    /// Standard Webhooks: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
    StandardWebhooks {
        /// How far the timestamp may be from now, in seconds.
        #[serde(default = "tolerance_default")]
        #[schema(default = tolerance_default)]
        tolerance_seconds: u32,
    },
    /// GitHub: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.
    Github {},
    /// Stripe: <https://docs.stripe.com/webhooks#verify-manually>.
    Stripe {
        /// How far the timestamp may be from now, in seconds.
        #[serde(default = "tolerance_default")]
        #[schema(default = tolerance_default)]
        tolerance_seconds: u32,
    },
    /// Slack: <https://docs.slack.dev/authentication/verifying-requests-from-slack>.
    Slack {
        /// How far the timestamp may be from now, in seconds.
        #[serde(default = "tolerance_default")]
        #[schema(default = tolerance_default)]
        tolerance_seconds: u32,
    },
}

/// Why a webhook was not verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The source has no secret that is still good.
    #[error("the source has no active secret: rotate it")]
    NoSecret,
    /// A header is missing.
    #[error("the header {0} is missing")]
    MissingHeader(String),
    /// A header that must be unique is not.
    #[error("the header {0} is there more than once")]
    DuplicateHeader(String),
    /// The query lacks the token.
    #[error("the query parameter {0} is missing")]
    MissingParameter(String),
    /// A value is not written as it must be.
    #[error("{0} is not as it must be: expected {1}")]
    Malformed(String, &'static str),
    /// The timestamp is too far from now.
    #[error(
        "the timestamp is {age_seconds} s from now, more than the tolerance of {tolerance_seconds} s"
    )]
    Stale {
        /// How far, either way.
        age_seconds: u64,
        /// How far it may be.
        tolerance_seconds: u32,
    },
    /// A secret cannot be used as a key.
    #[error("an active secret is not encoded as the scheme says: rotate it")]
    UnusableSecret,
    /// It is not from who it says, or it was changed.
    #[error("no active secret matches")]
    Mismatch,
}

/// What came in.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Every header.
    pub headers: &'a HeaderMap,
    /// The URL's query, without `?`.
    pub query: &'a str,
    /// As it came.
    pub body: &'a [u8],
}

impl Scheme {
    /// Whether a secret belongs to it.
    #[must_use]
    pub fn needs_secret(&self) -> bool {
        !matches!(self, Self::None {} | Self::Component {})
    }

    /// Checks what serde cannot: field and remedy.
    ///
    /// # Errors
    /// With the field and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let header = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        match self {
            Self::HmacSha256 {
                header: name,
                timestamp,
                ..
            } => {
                if !header(name) {
                    return Err(("header", "not the name of a header"));
                }
                let Some(timestamp) = timestamp else {
                    return Ok(());
                };
                if !header(&timestamp.header) {
                    return Err(("timestamp/header", "not the name of a header"));
                }
                let content = &timestamp.content;
                if content.matches("{body}").count() != 1 || !content.contains("{timestamp}") {
                    return Err((
                        "timestamp/content",
                        "must hold {timestamp} and, once, {body}: what is not signed can be changed",
                    ));
                }
                Ok(())
            }
            Self::SharedToken {
                header: Some(name),
                query: None,
                ..
            } if header(name) => Ok(()),
            Self::SharedToken {
                header: None,
                query: Some(name),
                ..
            } if !name.is_empty() => Ok(()),
            Self::SharedToken { .. } => Err((
                "header",
                "give the name of a header, or of a query parameter",
            )),
            Self::Basic { username } if username.contains(':') => {
                Err(("username", "a user name holds no colon (RFC 7617)"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a secret can be used as a key.
    ///
    /// # Errors
    /// How it must be written.
    pub fn check_key(&self, secret: &str) -> Result<(), &'static str> {
        let encoding = match self {
            Self::HmacSha256 { key_encoding, .. } => *key_encoding,
            Self::StandardWebhooks { .. } => KeyEncoding::Base64,
            _ => return Ok(()),
        };
        match (signature::key(secret, encoding), encoding) {
            (Some(_), _) => Ok(()),
            (None, KeyEncoding::Hex) => Err("must be hexadecimal"),
            (None, _) => Err("must be base64, with or without whsec_ before it"),
        }
    }

    /// The headers that hold signatures and tokens, in lower case.
    #[must_use]
    pub fn secret_headers(&self) -> Vec<String> {
        let named: &[&str] = match self {
            Self::None {} | Self::Component {} => &[],
            Self::HmacSha256 { header, .. }
            | Self::SharedToken {
                header: Some(header),
                ..
            } => {
                return vec![header.to_ascii_lowercase()];
            }
            Self::SharedToken { header: None, .. } => &[],
            Self::Basic { .. } => &["authorization"],
            Self::StandardWebhooks { .. } => &["webhook-signature", "svix-signature"],
            Self::Github {} => &["x-hub-signature-256", "x-hub-signature"],
            Self::Stripe { .. } => &["stripe-signature"],
            Self::Slack { .. } => &["x-slack-signature"],
        };
        named.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Verifies a message. `Component` is not this function's: it counts as a mismatch.
    ///
    /// # Errors
    /// With the reason, which holds no secret.
    pub fn verify(
        &self,
        secrets: &[Zeroizing<String>],
        message: Message<'_>,
        now: Timestamp,
    ) -> Result<(), Unverified> {
        if self.needs_secret() && secrets.is_empty() {
            return Err(Unverified::NoSecret);
        }
        match self {
            Self::None {} => Ok(()),
            Self::Component {} => Err(Unverified::Mismatch),
            Self::HmacSha256 {
                header,
                prefix,
                encoding,
                key_encoding,
                timestamp,
            } => {
                let text = the_header(message.headers, header)?;
                let text = text.strip_prefix(prefix.as_str());
                let text = text.ok_or_else(|| malformed(header, "the prefix of the scheme"))?;
                let signature = signature::decode(text.trim(), *encoding)
                    .ok_or_else(|| malformed(header, "32 bytes, encoded as the scheme says"))?;
                let timed = timestamp
                    .as_ref()
                    .map(|timestamp| Timed::of(timestamp, message.headers, now))
                    .transpose()?;
                let signed = match &timed {
                    Some(timed) => timed.content(message.body),
                    None => Signed::body(message.body),
                };
                signed.matches(secrets, *key_encoding, &[signature])
            }
            Self::SharedToken {
                header,
                prefix,
                query,
            } => shared_token(
                secrets,
                message,
                header.as_deref(),
                prefix,
                query.as_deref(),
            ),
            Self::Basic { username } => basic(secrets, message.headers, username),
            Self::StandardWebhooks { tolerance_seconds } => {
                signature::standard_webhooks(secrets, message, *tolerance_seconds, now)
            }
            Self::Github {} => signature::github(secrets, message),
            Self::Stripe { tolerance_seconds } => {
                signature::stripe(secrets, message, *tolerance_seconds, now)
            }
            Self::Slack { tolerance_seconds } => {
                signature::slack(secrets, message, *tolerance_seconds, now)
            }
        }
    }
}

fn malformed(name: &str, expected: &'static str) -> Unverified {
    Unverified::Malformed(name.to_owned(), expected)
}

/// The one value of a header. Two would let a sender show one to us and another to someone else.
fn the_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unverified> {
    let mut values = headers.get_all(name).iter();
    let first = values
        .next()
        .ok_or_else(|| Unverified::MissingHeader(name.to_owned()))?;
    if values.next().is_some() {
        return Err(Unverified::DuplicateHeader(name.to_owned()));
    }
    first.to_str().map_err(|_| malformed(name, "plain text"))
}

fn any_equal(secrets: &[Zeroizing<String>], given: &[u8]) -> Result<(), Unverified> {
    // Every secret is compared, whichever matches.
    let found = secrets
        .iter()
        .fold(subtle::Choice::from(0), |found, secret| {
            found | secret.as_bytes().ct_eq(given)
        });
    if bool::from(found) {
        Ok(())
    } else {
        Err(Unverified::Mismatch)
    }
}

fn shared_token(
    secrets: &[Zeroizing<String>],
    message: Message<'_>,
    header: Option<&str>,
    prefix: &str,
    query: Option<&str>,
) -> Result<(), Unverified> {
    if let Some(name) = header {
        let text = the_header(message.headers, name)?;
        let token = text.strip_prefix(prefix);
        let token = token.ok_or_else(|| malformed(name, "the prefix of the scheme"))?;
        return any_equal(secrets, token.as_bytes());
    }
    let name = query.unwrap_or_default();
    let mut found = url::form_urlencoded::parse(message.query.as_bytes())
        .filter(|(key, _)| key.as_ref() == name)
        .map(|(_, value)| value);
    let token = found
        .next()
        .ok_or_else(|| Unverified::MissingParameter(name.to_owned()))?;
    if found.next().is_some() {
        return Err(malformed(name, "one value"));
    }
    any_equal(secrets, token.as_bytes())
}

fn basic(
    secrets: &[Zeroizing<String>],
    headers: &HeaderMap,
    username: &str,
) -> Result<(), Unverified> {
    use base64::Engine as _;
    let name = AUTHORIZATION.as_str();
    let text = the_header(headers, name)?;
    let expected = "Basic credentials (RFC 7617)";
    let encoded = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .ok_or_else(|| malformed(name, expected))?
        .1;
    let pair = base64::engine::general_purpose::STANDARD
        .decode(encoded.trim())
        .map(Zeroizing::new)
        .map_err(|_| malformed(name, expected))?;
    let whole: Vec<Zeroizing<String>> = secrets
        .iter()
        .map(|secret| Zeroizing::new(format!("{username}:{}", secret.as_str())))
        .collect();
    any_equal(&whole, &pair)
}
