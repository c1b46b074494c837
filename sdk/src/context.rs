//! What a provider can do during a call.

use std::time::{Duration, SystemTime};

use crate::error::HttpError;
use crate::http::{Request, Response};
use crate::oauth2::{TokenError, TokenRequest};
use crate::secret::{KeyEncoding, Secret};

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the author.
    Debug,
    /// For the admin.
    Info,
    /// Something to look at.
    Warn,
    /// Something to mend.
    Error,
}

/// Name of a cached value, at most 256 bytes.
pub type CacheKey<'a> = &'a str;

/// The gateway in WebAssembly, [`crate::testing::TestHost`] in tests.
#[doc(hidden)]
pub trait Backend {
    fn send(&self, request: Request) -> Result<Response, HttpError>;
    fn hmac_sha256(
        &self,
        secret: &Secret,
        data: &[u8],
        key: KeyEncoding,
    ) -> Result<Vec<u8>, String>;
    fn expose(&self, secret: &Secret) -> Result<String, String>;
    fn log(&self, level: Level, message: &str);
    fn cache_get(&self, key: &str) -> Option<Vec<u8>>;
    fn cache_set(&self, key: &str, value: &[u8], ttl: Duration) -> bool;
    fn cache_delete(&self, key: &str);
    fn oauth2_token(&self, request: &TokenRequest) -> Result<Secret, TokenError>;
    fn oauth2_forget(&self, request: &TokenRequest);
    fn now(&self) -> SystemTime;
}

/// What a provider can do during a call: send requests, sign, log, remember.
pub struct Context<'a> {
    backend: &'a dyn Backend,
}

impl<'a> Context<'a> {
    pub(crate) fn new(backend: &'a dyn Backend) -> Self {
        Self { backend }
    }

    /// Sends a request to a granted host and waits for the whole answer.
    ///
    /// # Errors
    /// When there is no answer; any status is an answer.
    pub fn send(&self, request: Request) -> Result<Response, HttpError> {
        self.backend.send(request)
    }

    /// HMAC-SHA256 (RFC 2104) of `data` under a secret: 32 bytes.
    ///
    /// # Errors
    /// When the secret is not encoded as `key` says.
    pub fn hmac_sha256(
        &self,
        secret: &Secret,
        data: &[u8],
        key: KeyEncoding,
    ) -> Result<Vec<u8>, String> {
        self.backend.hmac_sha256(secret, data, key)
    }

    /// The text of a secret. Works only where the provider asks for it
    /// ([`crate::Description::expose_secrets`]) and the admin granted it.
    ///
    /// # Errors
    /// When it is not granted.
    pub fn expose(&self, secret: &Secret) -> Result<String, String> {
        self.backend.expose(secret)
    }

    /// A line for the delivery's log.
    pub fn log(&self, level: Level, message: impl AsRef<str>) {
        self.backend.log(level, message.as_ref());
    }

    /// A line at [`Level::Info`].
    pub fn info(&self, message: impl AsRef<str>) {
        self.log(Level::Info, message);
    }

    /// A line at [`Level::Warn`].
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(Level::Warn, message);
    }

    /// A value that an earlier call kept for the same connection (or subscription, without one).
    pub fn cache_get(&self, key: CacheKey) -> Option<Vec<u8>> {
        self.backend.cache_get(key)
    }

    /// Keeps a small value. False when it was not kept: too large, or the cache is full.
    pub fn cache_set(&self, key: CacheKey, value: &[u8], ttl: Duration) -> bool {
        self.backend.cache_set(key, value, ttl)
    }

    /// Forgets a value.
    pub fn cache_delete(&self, key: CacheKey) {
        self.backend.cache_delete(key);
    }

    /// An access token, from the gateway's cache or from the server. It can be used like any
    /// other secret, for the time of this call.
    ///
    /// # Errors
    /// When there is none; the error turns into a [`crate::DeliveryError`] that says whether
    /// trying again helps.
    pub fn oauth2_token(&self, request: &TokenRequest) -> Result<Secret, TokenError> {
        self.backend.oauth2_token(request)
    }

    /// Drops the cached token, as after a 401: the next [`Context::oauth2_token`] asks the server.
    pub fn oauth2_forget(&self, request: &TokenRequest) {
        self.backend.oauth2_forget(request);
    }

    /// The current time.
    pub fn now(&self) -> SystemTime {
        self.backend.now()
    }

    /// Seconds since the Unix epoch.
    pub fn unix_seconds(&self) -> u64 {
        self.now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }
}
