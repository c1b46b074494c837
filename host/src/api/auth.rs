//! API keys: who calls, and what they may do.
//!
//! A key is `hp_` and 256 random bits in base64url. Only its SHA-256 is kept, and keys are found
//! by it, so that no comparison of key texts takes place that could be timed.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::Shared;
use super::error::ApiError;
use crate::domain::id::KeyId;
use crate::domain::key::Role;

const PREFIX: &str = "hp_";

/// A key that was just made: the only time its text exists here.
#[derive(Debug)]
pub struct NewKey {
    /// For the caller.
    pub text: zeroize::Zeroizing<String>,
    /// For the store.
    pub hash: [u8; 32],
}

/// Makes a key.
#[must_use]
pub fn new_key() -> NewKey {
    let bytes: [u8; 32] = rand::random();
    let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    NewKey {
        hash: hash(&text),
        text: text.into(),
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) key: KeyId,
    role: Role,
}

impl Caller {
    fn identify(parts: &Parts, api: &Shared) -> Result<Self, ApiError> {
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let text = header.and_then(|header| {
            let (scheme, text) = header.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(text.trim())
        });
        let text = text
            .filter(|text| text.starts_with(PREFIX))
            .ok_or_else(ApiError::unauthorized)?;
        let snapshot = api.snapshots.current();
        let key = snapshot
            .keys
            .get(&hash(text))
            .ok_or_else(ApiError::unauthorized)?;
        Ok(Self {
            key: key.id,
            role: key.role,
        })
    }
}

macro_rules! permission {
    ($(#[$doc:meta])* $name:ident, $needed:literal, $allowed:expr) => {
        $(#[$doc])*
        pub(super) struct $name(#[expect(dead_code, reason = "its presence is the check")] Caller);

        impl FromRequestParts<Shared> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
                let caller = Caller::identify(parts, api)?;
                let allowed: fn(Role) -> bool = $allowed;
                if allowed(caller.role) { Ok(Self(caller)) } else { Err(ApiError::forbidden($needed)) }
            }
        }
    };
}

permission!(
    /// May read.
    Read,
    "viewer, operator or admin",
    |role| role >= Role::Viewer
);
permission!(
    /// May do everything.
    Administer,
    "admin",
    |role| role == Role::Admin
);

/// May retry, replay, pause, resume and test.
pub(super) struct Operate(pub(super) Caller);

impl FromRequestParts<Shared> for Operate {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let caller = Caller::identify(parts, api)?;
        if caller.role < Role::Operator {
            return Err(ApiError::forbidden("operator or admin"));
        }
        Ok(Self(caller))
    }
}

/// May emit events.
pub(super) struct Emitting(pub(super) Caller);

impl FromRequestParts<Shared> for Emitting {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let caller = Caller::identify(parts, api)?;
        if caller.role == Role::Viewer {
            return Err(ApiError::forbidden("emitter, operator or admin"));
        }
        Ok(Self(caller))
    }
}
