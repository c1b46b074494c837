//! A source of the snapshot, its config and secrets opened when first used.

use std::sync::{Arc, OnceLock};

use crate::domain::id::SourceId;
use crate::domain::source::Source;
use crate::ingress::verification::Verification;
use crate::plugin::{DocumentKind, GuestDocument};
use crate::vault::{Vault, VaultError};

/// A source.
pub struct OpenSource {
    /// As on record.
    pub source: Arc<Source>,
    config: OnceLock<Result<GuestDocument, VaultError>>,
    verification: OnceLock<Result<Verification, VaultError>>,
}

impl OpenSource {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            config: OnceLock::new(),
            verification: OnceLock::new(),
        }
    }

    /// The config for the component.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn config(&self, vault: &Vault) -> Result<GuestDocument, VaultError> {
        let opened = self.config.get_or_init(|| {
            let row = source_row(self.source.id);
            vault.open_for_guest(&row, DocumentKind::Config, &self.source.config)
        });
        opened.clone()
    }

    /// The scheme with its secrets.
    ///
    /// # Errors
    /// When a secret cannot be opened.
    pub fn verification(&self, vault: &Vault) -> Result<Verification, VaultError> {
        let opened = self.verification.get_or_init(|| {
            let row = verification_row(self.source.id);
            Verification::open(vault, &row, &self.source.verification)
        });
        opened.clone()
    }
}

/// The identity under which the secrets of a source's config are sealed.
#[must_use]
pub fn source_row(id: SourceId) -> String {
    format!("source/{id}")
}

/// The identity under which the secrets of a source's verification are sealed.
#[must_use]
pub fn verification_row(id: SourceId) -> String {
    format!("source/{id}/verification")
}
