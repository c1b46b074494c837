//! The import `oauth2`: access tokens fetched and cached by the host (RFC 6749).
//!
//! A token reaches the guest as the handle of a secret, so that neither it nor the credentials
//! behind it are ever in the guest's memory. Tokens are kept per provider and connection, under a
//! hash of the whole request, credentials included: changed credentials never meet an old token.
//! Where processes share values (`coord`), one fetches a token for all, and a server that replaces
//! refresh tokens is followed by all; else neither is kept beyond the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use wasmtime::component::Resource;
use zeroize::Zeroizing;

use super::bindings::hookport::provider::oauth2 as wit;
use super::shared_token::{SharedToken, Turn};
use super::state::{CallShared, CallState, MESSAGE_BYTES_MAX, SecretHandle};
use crate::egress::{EgressBody, EgressError, EgressRequest};

/// A token is dropped so long before it expires: it must outlive the call that it is used in.
const MARGIN: Duration = Duration::from_secs(60);
/// Of an answer that does not say: RFC 6749 recommends `expires_in` and sets no default.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Tokens kept for one provider.
const ENTRIES_MAX: usize = 1_000;
const ANSWER_BYTES_MAX: usize = 256 << 10;
const PARAMETERS_MAX: usize = 50;
/// What a previewed call gets; it never leaves the gateway.
const PREVIEW_TOKEN: &str = "the-access-token-of-a-preview";

type Key = [u8; 32];

/// One token, and whoever fetches it holds the lock: others wait for the same answer.
#[derive(Default)]
struct Slot {
    token: Option<Zeroizing<String>>,
    expires: Option<Instant>,
    /// Of a server that replaced the one it was given.
    refresh_token: Option<Zeroizing<String>>,
}

/// The tokens of one provider.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Slot>>>>,
}

impl TokenCache {
    fn slot(&self, key: Key) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= ENTRIES_MAX && !slots.contains_key(&key) {
            let now = Instant::now();
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(slot) => slot.expires.is_some_and(|expires| expires > now),
                Err(_) => true,
            });
            if slots.len() >= ENTRIES_MAX {
                slots.clear();
            }
        }
        slots.entry(key).or_default().clone()
    }
}

/// A request with its secrets in clear. Never printed.
struct Credentials {
    token_url: String,
    client_id: String,
    client_secret: Zeroizing<String>,
    basic: bool,
    refresh_token: Option<Zeroizing<String>>,
    scopes: Vec<String>,
    parameters: Vec<(String, String)>,
}

impl Credentials {
    fn key(&self, scope: &str) -> Key {
        let mut hash = Sha256::new();
        let refresh = self.refresh_token.as_ref().map_or("", |token| token);
        let fixed = [
            scope,
            &self.token_url,
            &self.client_id,
            &self.client_secret,
            refresh,
        ];
        let scopes = self.scopes.iter().map(String::as_str);
        let parameters = self
            .parameters
            .iter()
            .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        for part in fixed
            .into_iter()
            .chain(scopes)
            .chain(["\0"])
            .chain(parameters)
        {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update([u8::from(self.basic)]);
        hash.finalize().into()
    }

    /// The form of RFC 6749, sections 4.4.2 and 6.
    fn request(&self, refresh_token: Option<&str>) -> Result<EgressRequest, wit::Error> {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        match refresh_token {
            Some(token) => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token),
            None => form.append_pair("grant_type", "client_credentials"),
        };
        if !self.scopes.is_empty() {
            form.append_pair("scope", &self.scopes.join(" "));
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        if self.basic {
            // Both are form-encoded before they are joined: RFC 6749, section 2.3.1.
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let pair = format!(
                "{}:{}",
                encode(&self.client_id),
                encode(&self.client_secret)
            );
            let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|_| wit::Error::Invalid("client-id: not fit for a header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        } else {
            form.append_pair("client_id", &self.client_id);
            form.append_pair("client_secret", &self.client_secret);
        }
        for (name, value) in &self.parameters {
            form.append_pair(name, value);
        }
        Ok(EgressRequest {
            method: Method::POST,
            url: self.token_url.clone(),
            headers,
            body: EgressBody::Bytes(Bytes::from(form.finish())),
            follow_redirects: false,
        })
    }
}

/// RFC 6749, section 5.1. Some servers write the number as text.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

impl wit::Host for CallState {
    async fn token(
        &mut self,
        request: wit::TokenRequest,
    ) -> wasmtime::Result<Result<String, wit::Error>> {
        let credentials = self.credentials(request)?;
        if credentials.parameters.len() + credentials.scopes.len() > PARAMETERS_MAX {
            let text = format!("parameters, scopes: at most {PARAMETERS_MAX}");
            return Ok(Err(wit::Error::Invalid(text)));
        }
        let shared = self.shared.clone();
        Ok(match obtain(&shared, &credentials).await {
            Ok(token) => shared.lend(token).map_err(wit::Error::Limit),
            Err(error) => Err(error),
        })
    }

    async fn forget(&mut self, request: wit::TokenRequest) -> wasmtime::Result<()> {
        let credentials = self.credentials(request)?;
        let context = &self.shared.context;
        let key = credentials.key(&context.cache_scope);
        let slot = context.tokens.slot(key);
        let mut slot = slot.lock().await;
        if let Some(shared) = SharedToken::of(&self.shared, &key) {
            let known = slot.token.as_ref().map(|token| token.as_str());
            shared.forget(known).await;
        }
        (slot.token, slot.expires) = (None, None);
        Ok(())
    }
}

impl CallState {
    fn credentials(&self, request: wit::TokenRequest) -> wasmtime::Result<Credentials> {
        let text = |secret: &Resource<SecretHandle>| -> wasmtime::Result<Zeroizing<String>> {
            Ok(self.table.get(secret)?.0.clone())
        };
        Ok(Credentials {
            client_secret: text(&request.client_secret)?,
            refresh_token: match &request.grant {
                wit::Grant::ClientCredentials => None,
                wit::Grant::RefreshToken(token) => Some(text(token)?),
            },
            token_url: request.token_url,
            client_id: request.client_id,
            basic: request.auth == wit::ClientAuth::Basic,
            scopes: request.scopes,
            parameters: request.parameters,
        })
    }
}

async fn obtain(
    shared: &Arc<CallShared>,
    credentials: &Credentials,
) -> Result<Zeroizing<String>, wit::Error> {
    let context = &shared.context;
    if context.preview.is_some() {
        // A made-up token must not get into the cache, nor a real one be fetched.
        return Ok(Zeroizing::new(PREVIEW_TOKEN.to_owned()));
    }
    let key = credentials.key(&context.cache_scope);
    let slot = context.tokens.slot(key);
    shared.turns.end();
    let mut slot = slot.lock().await;
    if let (Some(token), Some(expires)) = (&slot.token, slot.expires)
        && Instant::now() < expires
    {
        return Ok(token.clone());
    }
    let Some(place) = SharedToken::of(shared, &key) else {
        let lifetime = renew(shared, credentials, &mut slot).await?;
        return Ok(slot.keep(lifetime));
    };
    let proof = match place.turn().await {
        Turn::Given(token, left) => {
            slot.token = Some(token);
            return Ok(slot.keep(left));
        }
        Turn::Fetch(proof) => proof,
    };
    if let Some(latest) = place.refresh_token().await {
        slot.refresh_token = Some(latest);
    }
    let renewed = renew(shared, credentials, &mut slot).await;
    if let (Ok(lifetime), Some(token)) = (&renewed, &slot.token) {
        let refresh = slot.refresh_token.as_ref().map(|token| token.as_str());
        place.give(proof, token, *lifetime, refresh).await;
    }
    place.end(proof).await;
    Ok(slot.keep(renewed?))
}

impl Slot {
    /// Keeps the token for so long, and hands it out.
    fn keep(&mut self, lifetime: Duration) -> Zeroizing<String> {
        self.expires = Some(Instant::now() + lifetime);
        self.token.clone().unwrap_or_default()
    }
}

/// Fetches a token into `slot`: how long it may be used.
async fn renew(
    shared: &Arc<CallShared>,
    credentials: &Credentials,
    slot: &mut Slot,
) -> Result<Duration, wit::Error> {
    let refresh = slot
        .refresh_token
        .clone()
        .or(credentials.refresh_token.clone());
    let granted = fetch(
        shared,
        credentials,
        refresh.as_ref().map(|token| token.as_str()),
    )
    .await?;
    let lifetime = granted
        .expires_in
        .as_ref()
        .and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
        .map_or(LIFETIME_DEFAULT, Duration::from_secs)
        .min(LIFETIME_MAX);
    slot.token = Some(Zeroizing::new(granted.access_token));
    if let Some(token) = granted.refresh_token {
        slot.refresh_token = Some(Zeroizing::new(token));
    }
    Ok(lifetime.saturating_sub(MARGIN.min(lifetime / 2)))
}

async fn fetch(
    shared: &Arc<CallShared>,
    credentials: &Credentials,
    refresh_token: Option<&str>,
) -> Result<Granted, wit::Error> {
    let request = credentials.request(refresh_token)?;
    shared.count_http_call().map_err(wit::Error::Limit)?;
    let mut limits = shared.egress_limits(None);
    limits.response_bytes_max = limits.response_bytes_max.min(ANSWER_BYTES_MAX);
    let refuse = |error: EgressError| refuse(shared, error);
    let sent = shared.send(limits, request).await;
    let mut response = sent.map_err(refuse)?;
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.body.next().await {
        body.extend_from_slice(&chunk.map_err(refuse)?);
    }
    let status = response.status;
    if status.is_success() {
        return granted(&body);
    }
    // The status of the delivery's own request is what the attempt shows; this one only when it
    // is the last.
    shared.saw_status(status.as_u16());
    if status.as_u16() == 429 || status.is_server_error() {
        let seconds = response.headers.get(RETRY_AFTER);
        let seconds = seconds.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        let after_ms = seconds.map(|seconds| seconds.saturating_mul(1_000));
        return Err(wit::Error::Unavailable((status.as_u16(), after_ms)));
    }
    let text = match serde_json::from_slice::<Refused>(&body) {
        Ok(refused) => match refused.error_description {
            Some(description) => format!("{}: {description}", refused.error),
            None => refused.error,
        },
        Err(_) => format!("answered {status}"),
    };
    Err(wit::Error::Refused(
        shared.sanitize(text, MESSAGE_BYTES_MAX),
    ))
}

fn granted(body: &[u8]) -> Result<Granted, wit::Error> {
    let no_token =
        |why: &str| wit::Error::Network(format!("the token endpoint's answer is no token: {why}"));
    // The parser's own words may quote the body.
    let granted: Granted = serde_json::from_slice(body).map_err(|_| {
        no_token("expected a JSON object with access_token (RFC 6749, section 5.1)")
    })?;
    if granted.access_token.is_empty() {
        return Err(no_token("access_token is empty"));
    }
    match granted.token_type.as_deref() {
        None => Ok(granted),
        Some(kind) if kind.eq_ignore_ascii_case("bearer") => Ok(granted),
        Some(_) => Err(no_token("token_type is not Bearer")),
    }
}

fn refuse(shared: &CallShared, error: EgressError) -> wit::Error {
    shared.book(&error);
    let clean = |text: String| shared.sanitize(text, MESSAGE_BYTES_MAX);
    match error {
        EgressError::Denied(text) => wit::Error::Denied(clean(text)),
        EgressError::Invalid(text) => wit::Error::Invalid(clean(text)),
        EgressError::Limit(text) => wit::Error::Limit(text),
        EgressError::Network(text) => wit::Error::Network(clean(text)),
        EgressError::Timeout(_) => wit::Error::Timeout,
    }
}
