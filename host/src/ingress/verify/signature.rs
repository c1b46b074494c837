//! HMAC-SHA256 signatures: the general form and the shapes of well-known senders.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Encoding, KeyEncoding, Message, SignedTimestamp, Unverified, malformed, the_header};
use crate::domain::clock::Timestamp;

const SIGNATURE_BYTES: usize = 32;
/// Signatures looked at in one header: a sender has one for each of its active secrets.
const SIGNATURES_MAX: usize = 10;

const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signature, if the text is a whole one: a truncated one is none.
pub(super) fn decode(text: &str, encoding: Encoding) -> Option<[u8; SIGNATURE_BYTES]> {
    bytes(text, encoding)?.try_into().ok()
}

fn bytes(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Base64 => BASE64_LENIENT.decode(text).ok(),
        Encoding::Hex if text.len().is_multiple_of(2) => text
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
            })
            .collect(),
        Encoding::Hex => None,
    }
}

pub(super) fn key(secret: &str, encoding: KeyEncoding) -> Option<Zeroizing<Vec<u8>>> {
    match encoding {
        KeyEncoding::Raw => Some(secret.as_bytes().to_vec()),
        KeyEncoding::Hex => bytes(secret, Encoding::Hex),
        KeyEncoding::Base64 => bytes(
            secret.strip_prefix("whsec_").unwrap_or(secret),
            Encoding::Base64,
        ),
    }
    .map(Zeroizing::new)
}

/// What is signed: the body between what stands before and after it.
pub(super) struct Signed<'a> {
    before: String,
    body: &'a [u8],
    after: String,
}

impl<'a> Signed<'a> {
    pub(super) fn body(body: &'a [u8]) -> Self {
        Self {
            before: String::new(),
            body,
            after: String::new(),
        }
    }

    fn after(before: String, body: &'a [u8]) -> Self {
        Self {
            before,
            ..Self::body(body)
        }
    }

    /// Whether any of the signatures is made with any of the secrets.
    pub(super) fn matches(
        &self,
        secrets: &[Zeroizing<String>],
        encoding: KeyEncoding,
        signatures: &[[u8; SIGNATURE_BYTES]],
    ) -> Result<(), Unverified> {
        let mut unusable = 0;
        for secret in secrets {
            let usable =
                key(secret, encoding).and_then(|key| Hmac::<Sha256>::new_from_slice(&key).ok());
            let Some(mut mac) = usable else {
                unusable += 1;
                continue;
            };
            mac.update(self.before.as_bytes());
            mac.update(self.body);
            mac.update(self.after.as_bytes());
            // `verify_slice` compares in constant time.
            let made =
                |signature: &[u8; SIGNATURE_BYTES]| mac.clone().verify_slice(signature).is_ok();
            if signatures.iter().any(made) {
                return Ok(());
            }
        }
        if unusable == secrets.len() {
            return Err(Unverified::UnusableSecret);
        }
        Err(Unverified::Mismatch)
    }
}

/// A timestamp that was found fresh; it is trusted once the signature over it is verified.
pub(super) struct Timed<'a> {
    timestamp: &'a str,
    content: &'a str,
}

impl<'a> Timed<'a> {
    pub(super) fn of(
        scheme: &'a SignedTimestamp,
        headers: &'a HeaderMap,
        now: Timestamp,
    ) -> Result<Self, Unverified> {
        let timestamp = the_header(headers, &scheme.header)?;
        check_fresh(&scheme.header, timestamp, scheme.tolerance_seconds, now)?;
        Ok(Self {
            timestamp,
            content: &scheme.content,
        })
    }

    pub(super) fn content<'b>(&self, body: &'b [u8]) -> Signed<'b> {
        let (before, after) = self
            .content
            .split_once("{body}")
            .unwrap_or((self.content, ""));
        let fill = |text: &str| text.replace("{timestamp}", self.timestamp);
        Signed {
            before: fill(before),
            body,
            after: fill(after),
        }
    }
}

fn check_fresh(
    name: &str,
    timestamp: &str,
    tolerance_seconds: u32,
    now: Timestamp,
) -> Result<(), Unverified> {
    let seconds: i64 = timestamp
        .parse()
        .map_err(|_| malformed(name, "seconds since the Unix epoch"))?;
    let age_seconds = now.0.div_euclid(1_000).abs_diff(seconds);
    if age_seconds > u64::from(tolerance_seconds) {
        return Err(Unverified::Stale {
            age_seconds,
            tolerance_seconds,
        });
    }
    Ok(())
}

/// `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,<base64> v1,<base64>`, over
/// `id.timestamp.body`. Svix sends the same under names of its own.
pub(super) fn standard_webhooks(
    secrets: &[Zeroizing<String>],
    message: Message<'_>,
    tolerance_seconds: u32,
    now: Timestamp,
) -> Result<(), Unverified> {
    let ours = message.headers.contains_key("webhook-signature");
    let svix = message.headers.contains_key("svix-signature");
    let family = if svix && !ours { "svix" } else { "webhook" };
    let header = |part: &str| the_header(message.headers, &format!("{family}-{part}"));
    let (id, timestamp, text) = (header("id")?, header("timestamp")?, header("signature")?);
    let name = format!("{family}-timestamp");
    check_fresh(&name, timestamp, tolerance_seconds, now)?;
    let signatures: Vec<_> = text
        .split(' ')
        .take(SIGNATURES_MAX)
        .filter_map(|one| decode(one.strip_prefix("v1,")?, Encoding::Base64))
        .collect();
    if signatures.is_empty() {
        let name = format!("{family}-signature");
        return Err(malformed(&name, "v1, and 32 bytes in base64"));
    }
    Signed::after(format!("{id}.{timestamp}."), message.body).matches(
        secrets,
        KeyEncoding::Base64,
        &signatures,
    )
}

/// `X-Hub-Signature-256: sha256=<hex>` over the body. The SHA-1 header beside it is not looked at.
pub(super) fn github(
    secrets: &[Zeroizing<String>],
    message: Message<'_>,
) -> Result<(), Unverified> {
    let name = "x-hub-signature-256";
    let text = the_header(message.headers, name)?;
    let signature = text
        .strip_prefix("sha256=")
        .and_then(|text| decode(text, Encoding::Hex))
        .ok_or_else(|| malformed(name, "sha256= and 64 hexadecimal digits"))?;
    Signed::body(message.body).matches(secrets, KeyEncoding::Raw, &[signature])
}

/// `Stripe-Signature: t=<seconds>,v1=<hex>,v1=<hex>` over `t.body`. Other schemes in it, such as
/// `v0` of test events, are not looked at.
pub(super) fn stripe(
    secrets: &[Zeroizing<String>],
    message: Message<'_>,
    tolerance_seconds: u32,
    now: Timestamp,
) -> Result<(), Unverified> {
    let name = "stripe-signature";
    let text = the_header(message.headers, name)?;
    let parts = || {
        text.split(',')
            .filter_map(|part| part.trim().split_once('='))
    };
    let mut timestamps = parts()
        .filter(|(key, _)| *key == "t")
        .map(|(_, value)| value);
    let (Some(timestamp), None) = (timestamps.next(), timestamps.next()) else {
        return Err(malformed(name, "one t="));
    };
    check_fresh(name, timestamp, tolerance_seconds, now)?;
    let signatures: Vec<_> = parts()
        .filter(|(key, _)| *key == "v1")
        .take(SIGNATURES_MAX)
        .filter_map(|(_, value)| decode(value, Encoding::Hex))
        .collect();
    if signatures.is_empty() {
        return Err(malformed(name, "v1= and 64 hexadecimal digits"));
    }
    Signed::after(format!("{timestamp}."), message.body).matches(
        secrets,
        KeyEncoding::Raw,
        &signatures,
    )
}

/// `X-Slack-Signature: v0=<hex>` over `v0:timestamp:body`.
pub(super) fn slack(
    secrets: &[Zeroizing<String>],
    message: Message<'_>,
    tolerance_seconds: u32,
    now: Timestamp,
) -> Result<(), Unverified> {
    let timestamp = the_header(message.headers, "x-slack-request-timestamp")?;
    check_fresh(
        "x-slack-request-timestamp",
        timestamp,
        tolerance_seconds,
        now,
    )?;
    let name = "x-slack-signature";
    let signature = the_header(message.headers, name)?
        .strip_prefix("v0=")
        .and_then(|text| decode(text, Encoding::Hex))
        .ok_or_else(|| malformed(name, "v0= and 64 hexadecimal digits"))?;
    Signed::after(format!("v0:{timestamp}:"), message.body).matches(
        secrets,
        KeyEncoding::Raw,
        &[signature],
    )
}
