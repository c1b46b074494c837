//! What is stored for a provider: a component with a newer schema serves only once it has been
//! brought up to that. And what is granted to it.

use async_trait::async_trait;
use serde_json::Value;

use crate::domain::audit::Author;
use crate::domain::provider::Descriptor;
use crate::plugin::component::LoadedComponent;
use crate::plugin::{CallFailure, DocumentKind, GuestDocument};
use crate::store::{self, GrantRecord};

/// The documents stored for providers.
#[async_trait]
pub trait Documents: Send + Sync + 'static {
    /// Brings all that is stored for the provider up to the versions of `descriptor`, or leaves
    /// all of it as it is. Returns how many documents were changed.
    ///
    /// # Errors
    /// `Refused` with the document and the reason; `Unavailable`.
    async fn migrate(
        &self,
        descriptor: &Descriptor,
        guest: &dyn Migrator,
    ) -> Result<usize, MigrationError>;

    /// A number that is another one after any change of what is stored.
    async fn mark(&self) -> Option<i64>;
}

/// The grants on record.
#[async_trait]
pub trait GrantStore: Send + Sync + 'static {
    /// All of them.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn grants(&self) -> store::Result<Vec<GrantRecord>>;

    /// Creates or replaces by provider, as `by` says; `None`: the gateway by itself.
    ///
    /// # Errors
    /// When it cannot be written.
    async fn put_grant(&self, grant: GrantRecord, by: Option<Author>) -> store::Result<()>;
}

/// Why documents were not migrated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationError {
    /// A document cannot be migrated; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It could not be tried to the end; nothing was changed.
    #[error("{0}")]
    Unavailable(String),
}

/// The component that migrates.
#[async_trait]
pub trait Migrator: Send + Sync {
    /// The document in the component's own version. Secrets are handles before and after.
    async fn migrate(
        &self,
        kind: DocumentKind,
        document: GuestDocument,
    ) -> Result<Value, CallFailure>;
}

#[async_trait]
impl Migrator for LoadedComponent {
    async fn migrate(
        &self,
        kind: DocumentKind,
        document: GuestDocument,
    ) -> Result<Value, CallFailure> {
        Self::migrate(self, kind, document).await.result
    }
}

/// How far a component's documents are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Preparation {
    /// To be looked at.
    #[default]
    Due,
    /// Being migrated.
    UnderWay,
    /// At the component's version.
    Done,
    /// They cannot be, as things are; `mark` says when things are otherwise.
    Refused { reason: String, mark: Option<i64> },
}
