//! Our own four imports. Each function consults the call's permissions and limits; a test names
//! them all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use futures_util::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;
use wasmtime::component::Resource;

use super::bindings::hookport::provider::{cache, http as wit, log, secrets, types};
use super::cache::{TTL_MAX, shared_cache};
use super::state::{CallShared, CallState, MESSAGE_BYTES_MAX, SecretHandle};
use crate::egress::{EgressBody, EgressError, EgressRequest};

/// What URL and headers may take beside the body.
const HEAD_BYTES: usize = 64 << 10;

/// Standard base64 whose padding may be missing, as people paste it.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Headers of one request. `HeaderMap` panics beyond 32768.
const HEADERS_MAX: usize = 1_000;

impl types::Host for CallState {}

impl secrets::Host for CallState {
    async fn get(&mut self, handle: String) -> wasmtime::Result<Option<Resource<SecretHandle>>> {
        let secret = self.shared.secret(&handle);
        Ok(secret
            .map(|value| self.table.push(SecretHandle(value)))
            .transpose()?)
    }
}

impl secrets::HostSecret for CallState {
    async fn hmac_sha256(
        &mut self,
        secret: Resource<SecretHandle>,
        data: Vec<u8>,
        encoding: secrets::KeyEncoding,
    ) -> wasmtime::Result<Result<Vec<u8>, String>> {
        let text = &self.table.get(&secret)?.0;
        let key = match encoding {
            secrets::KeyEncoding::Raw => text.as_bytes().to_vec(),
            secrets::KeyEncoding::Base64 => {
                let body = text.strip_prefix("whsec_").unwrap_or(text);
                match BASE64_LENIENT.decode(body) {
                    Ok(key) => key,
                    Err(_) => return Ok(Err("the secret is not base64".to_owned())),
                }
            }
        };
        let key = zeroize::Zeroizing::new(key);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
        mac.update(&data);
        Ok(Ok(mac.finalize().into_bytes().to_vec()))
    }

    async fn expose(
        &mut self,
        secret: Resource<SecretHandle>,
    ) -> wasmtime::Result<Result<String, String>> {
        if !self.shared.context.permissions.expose_secrets {
            let text = "secret.expose is not granted to this provider";
            self.shared.deny(text);
            return Ok(Err(text.to_owned()));
        }
        Ok(Ok(self.table.get(&secret)?.0.to_string()))
    }

    async fn drop(&mut self, secret: Resource<SecretHandle>) -> wasmtime::Result<()> {
        self.table.delete(secret)?;
        Ok(())
    }
}

impl log::Host for CallState {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.shared.log(level, message);
        Ok(())
    }
}

impl cache::Host for CallState {
    async fn get(&mut self, key: String) -> wasmtime::Result<Option<Vec<u8>>> {
        let context = &self.shared.context;
        let Some((values, shared_key)) = shared_cache(context, &key) else {
            let scope = &context.cache_scope;
            return Ok(context.cache.get(scope, &key, Instant::now()));
        };
        self.shared.turns.end();
        let opened = values.get(&shared_key).await;
        Ok(opened.map(|opened| opened.value.to_vec()))
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: u64) -> wasmtime::Result<bool> {
        let context = &self.shared.context;
        let ttl = Duration::from_millis(ttl_ms).min(TTL_MAX);
        let shared = shared_cache(context, &key).map(|shared| (shared, value.clone()));
        // What this process put counts against its bound, wherever it is read from.
        let is_set = context.cache.set(
            &context.cache_scope,
            &key,
            value,
            ttl,
            Instant::now(),
            context.limits.cache_bytes_max,
        );
        if let Some(((values, shared_key), value)) = shared.filter(|_| is_set) {
            self.shared.turns.end();
            values.put(&shared_key, &value, ttl).await;
        }
        Ok(is_set)
    }

    async fn delete(&mut self, key: String) -> wasmtime::Result<()> {
        let context = &self.shared.context;
        context.cache.delete(&context.cache_scope, &key);
        if let Some((values, shared_key)) = shared_cache(context, &key) {
            self.shared.turns.end();
            values.remove(&shared_key).await;
        }
        Ok(())
    }
}

impl wit::Host for CallState {
    async fn send(
        &mut self,
        request: wit::Request,
    ) -> wasmtime::Result<Result<wit::Response, wit::Error>> {
        let shared = self.shared.clone();
        if let Err(text) = shared.count_http_call() {
            return Ok(Err(wit::Error::Limit(text)));
        }
        let timeout = request
            .timeout_ms
            .map(|ms| Duration::from_millis(ms.into()));
        let outgoing = match self.fill_in(request)? {
            Ok(outgoing) => outgoing,
            Err(error) => return Ok(Err(error)),
        };
        Ok(exchange(&shared, outgoing, timeout).await)
    }
}

impl CallState {
    /// Puts the secrets where the guest wants them.
    fn fill_in(
        &self,
        request: wit::Request,
    ) -> wasmtime::Result<Result<EgressRequest, wit::Error>> {
        let invalid = |text: &str| Ok(Err(wit::Error::Invalid(text.to_owned())));
        let Ok(method) = Method::from_bytes(request.method.as_bytes()) else {
            return invalid("method: not an HTTP method");
        };
        let most = self.shared.context.limits.request_bytes_max;
        let mut left = most.saturating_add(HEAD_BYTES);
        let (url, _) = self.join(&request.url, &mut left)?;
        let Ok(url) = String::from_utf8(url) else {
            return invalid("url: not UTF-8");
        };
        if request.headers.len() > HEADERS_MAX {
            let text = format!("a request with more than {HEADERS_MAX} headers");
            self.shared.limit(text.clone());
            return Ok(Err(wit::Error::Limit(text)));
        }
        let mut headers = HeaderMap::with_capacity(request.headers.len() + 1);
        for (name, segments) in &request.headers {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                return invalid("headers: a name is not an HTTP token");
            };
            if super::wasi_http::is_forbidden(&name) {
                return invalid(
                    "headers: host, forwarding and connection headers are set by the gateway",
                );
            }
            let (value, secret) = self.join(segments, &mut left)?;
            let Ok(mut value) = HeaderValue::from_bytes(&value) else {
                return invalid("headers: a value has characters that are not allowed in a header");
            };
            value.set_sensitive(secret);
            headers.append(name, value);
        }
        if let Some(auth) = &request.auth {
            let Ok(value) = self.authorization(auth)? else {
                return invalid("auth: the secret has characters that are not allowed in a header");
            };
            headers.insert(AUTHORIZATION, value);
        }
        let body = match request.body {
            wit::Body::Empty => Vec::new(),
            wit::Body::Bytes(bytes) => bytes,
            wit::Body::Segments(segments) => self.join(&segments, &mut left)?.0,
        };
        let max = self.shared.context.limits.request_bytes_max;
        if body.len() > max {
            let text = format!("the request body is larger than {max} bytes");
            self.shared.limit(text.clone());
            return Ok(Err(wit::Error::Limit(text)));
        }
        Ok(Ok(EgressRequest {
            method,
            url,
            headers,
            body: EgressBody::Bytes(Bytes::from(body)),
            follow_redirects: request.follow_redirects,
        }))
    }

    fn authorization(&self, auth: &wit::Auth) -> wasmtime::Result<Result<HeaderValue, ()>> {
        let text = match auth {
            wit::Auth::Bearer(secret) => format!("Bearer {}", *self.table.get(secret)?.0),
            wit::Auth::Basic((user, secret)) => {
                let pair = format!("{user}:{}", *self.table.get(secret)?.0);
                format!("Basic {}", STANDARD.encode(pair))
            }
        };
        Ok(HeaderValue::from_str(&text)
            .map(|mut value| {
                value.set_sensitive(true);
                value
            })
            .map_err(|_| ()))
    }

    /// Joins segments; says whether a secret is among them. `left` is what the request may still
    /// take: a segment is small in the guest, while the secret that it stands for may be long.
    fn join(
        &self,
        segments: &[wit::Segment],
        left: &mut usize,
    ) -> wasmtime::Result<(Vec<u8>, bool)> {
        let mut joined = Vec::new();
        let mut secret = false;
        for segment in segments {
            match segment {
                wit::Segment::Text(text) => joined.extend_from_slice(text.as_bytes()),
                wit::Segment::Secret(slot) => {
                    secret = true;
                    let value = &self.table.get(&slot.secret)?.0;
                    match slot.encoding {
                        wit::SecretEncoding::Raw => joined.extend_from_slice(value.as_bytes()),
                        wit::SecretEncoding::Percent => joined.extend(
                            utf8_percent_encode(value, NON_ALPHANUMERIC).flat_map(str::bytes),
                        ),
                        wit::SecretEncoding::JsonString => {
                            let quoted = serde_json::Value::from(value.as_str()).to_string();
                            joined.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
                        }
                    }
                }
            }
            if joined.len() > *left {
                let max = self.shared.context.limits.request_bytes_max;
                let text = format!("a request is larger than {max} bytes");
                self.shared.limit(text.clone());
                return Err(wasmtime::Error::msg(text));
            }
        }
        *left -= joined.len();
        Ok((joined, secret))
    }
}

async fn exchange(
    shared: &Arc<CallShared>,
    request: EgressRequest,
    timeout: Option<Duration>,
) -> Result<wit::Response, wit::Error> {
    shared.turns.end();
    shared.await_answer();
    let sent = shared.send(shared.egress_limits(timeout), request).await;
    let mut response = sent.map_err(|error| refuse(shared, error))?;
    shared.saw_status(response.status.as_u16());
    let mut body = Vec::new();
    while let Some(chunk) = response.body.next().await {
        let chunk = chunk.map_err(|error| refuse(shared, error))?;
        body.extend_from_slice(&chunk);
    }
    let masking = shared.has_secrets();
    let headers = response
        .headers
        .iter()
        .map(|(name, value)| {
            let value = if masking {
                String::from_utf8_lossy(&shared.mask_bytes(value.as_bytes().to_vec())).into_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            (name.as_str().to_owned(), value)
        })
        .collect();
    Ok(wit::Response {
        status: response.status.as_u16(),
        headers,
        body: if masking {
            shared.mask_bytes(body)
        } else {
            body
        },
    })
}

/// Books the refusal and words it for the guest, which may quote it: a URL that held a secret
/// must not come back in it.
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
