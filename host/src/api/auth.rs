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
use super::observe::REQUEST_ID;
use crate::dispatch::Snapshot;
use crate::domain::audit::{Actor, Author, NewEntry};
use crate::domain::id::KeyId;
use crate::domain::key::{ApiKey, Role};

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

/// The key that a request came with.
fn identify<'s>(parts: &Parts, snapshot: &'s Snapshot) -> Result<&'s ApiKey, ApiError> {
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
    let key = snapshot.keys.get(&hash(text));
    key.ok_or_else(ApiError::unauthorized)
}

/// Who calls, for what is written into the audit trail about the call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    author: Author,
}

impl Caller {
    fn new(parts: &Parts, key: &ApiKey) -> Self {
        // Every request has one by now that is fit to be kept.
        let request_id = parts.headers.get(&REQUEST_ID);
        let request_id = request_id.and_then(|value| value.to_str().ok());
        Self {
            name: key.name.clone(),
            author: Author {
                actor: Actor::key(key.id, &key.name),
                request_id: request_id.map(str::to_owned),
            },
        }
    }

    /// An entry about what the caller did.
    pub(super) fn did(
        &self,
        api: &Shared,
        action: &'static str,
        target_kind: &'static str,
        target_id: impl std::fmt::Display,
    ) -> NewEntry {
        let author = self.author.clone();
        NewEntry::new(api.clock.now(), author, action, target_kind, target_id)
    }

    /// Who it is, for others to make an entry of.
    pub(super) fn author(self) -> Author {
        self.author
    }
}

/// May read.
pub(super) struct Read;

impl FromRequestParts<Shared> for Read {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let snapshot = api.snapshots.current();
        if identify(parts, &snapshot)?.role < Role::Viewer {
            return Err(ApiError::forbidden("viewer, operator or admin"));
        }
        Ok(Self)
    }
}

/// May do everything.
pub(super) struct Administer(pub(super) Caller);

impl FromRequestParts<Shared> for Administer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let snapshot = api.snapshots.current();
        let key = identify(parts, &snapshot)?;
        if key.role < Role::Admin {
            return Err(ApiError::forbidden("admin"));
        }
        Ok(Self(Caller::new(parts, key)))
    }
}

/// May retry, replay, pause, resume and test.
pub(super) struct Operate(pub(super) Caller);

impl FromRequestParts<Shared> for Operate {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let snapshot = api.snapshots.current();
        let key = identify(parts, &snapshot)?;
        if key.role < Role::Operator {
            return Err(ApiError::forbidden("operator or admin"));
        }
        Ok(Self(Caller::new(parts, key)))
    }
}

/// May emit events. Holds the key's identifier.
pub(super) struct Emitting(pub(super) KeyId);

impl FromRequestParts<Shared> for Emitting {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self, ApiError> {
        let snapshot = api.snapshots.current();
        let key = identify(parts, &snapshot)?;
        if key.role == Role::Viewer {
            return Err(ApiError::forbidden("emitter, operator or admin"));
        }
        Ok(Self(key.id))
    }
}
