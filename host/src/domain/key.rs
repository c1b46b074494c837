//! API keys and their roles.

use super::clock::Timestamp;
use super::id::KeyId;

/// What the holder of a key may do; each role but the emitter includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Emit events, and nothing else.
    Emitter,
    /// Read everything.
    Viewer,
    /// Also emit events, retry deliveries, pause and resume subscriptions, test connections.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Emitter, Self::Viewer, Self::Operator, Self::Admin];

    /// The name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Emitter => "emitter",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// An API key as stored: never the key itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its identifier.
    pub id: KeyId,
    /// Who calls with it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the key. Keys carry 256 random bits, so that no slow hash is needed.
    pub hash: [u8; 32],
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}
