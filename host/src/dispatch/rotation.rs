//! Sealing anew, under the current master key, what is under another one: a few documents at a
//! time, while the gateway works.
//!
//! Invariant: a document is replaced as it was read, or not at all. Whoever changes the catalogue
//! meanwhile does it before or after a batch, never between its reading and its writing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::open_source::{source_row, verification_row};
use super::snapshot::{Snapshots, connection_row, subscription_row};
use crate::domain::audit::{Actor, NewEntry};
use crate::domain::clock::Clock;
use crate::domain::id::{ConnectionId, SourceId, SubscriptionId};
use crate::domain::subscription::SealedDocument;
use crate::store::{Catalog, DocumentChanges, Store, StoreError};
use crate::vault::document::keys_of;
use crate::vault::{Vault, VaultError};

/// Documents of one transaction.
const BATCH: usize = 50;
/// Between two of them, so that others have their turn.
const PAUSE: Duration = Duration::from_millis(20);
/// A batch that comes too late is read anew.
const TRIES_MAX: usize = 20;

/// Whose document it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Subscription(SubscriptionId),
    Connection(ConnectionId),
    SourceConfig(SourceId),
    SourceVerification(SourceId),
}

impl Owner {
    /// The identity under which its secrets are sealed.
    fn row(self) -> String {
        match self {
            Self::Subscription(id) => subscription_row(id),
            Self::Connection(id) => connection_row(id),
            Self::SourceConfig(id) => source_row(id),
            Self::SourceVerification(id) => verification_row(id),
        }
    }
}

/// Every place on record where something is sealed. What is added to the catalogue has to be
/// looked at here: nothing is left out by two dots.
fn sealed(catalog: &Catalog) -> Vec<(Owner, &SealedDocument)> {
    let Catalog {
        epoch: _,
        event_types: _,
        subscriptions,
        connections,
        sources,
        keys: _,
    } = catalog;
    let subscriptions = subscriptions
        .iter()
        .map(|found| (Owner::Subscription(found.id), &found.config));
    let connections = connections
        .iter()
        .map(|found| (Owner::Connection(found.id), &found.document));
    let sources = sources.iter().flat_map(|found| {
        [
            (Owner::SourceConfig(found.id), &found.config),
            (Owner::SourceVerification(found.id), &found.verification),
        ]
    });
    subscriptions.chain(connections).chain(sources).collect()
}

/// How many documents have secrets under which key.
#[must_use]
pub fn count(catalog: &Catalog) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, document) in sealed(catalog) {
        for key in keys_of(document) {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Documents that are under the current key now.
    pub documents: usize,
    /// What could not be opened, and why: it is as it was.
    pub unreadable: Vec<String>,
}

/// What seals anew.
pub struct Rotation {
    /// Where documents are.
    pub store: Arc<dyn Store>,
    /// For the turn to change them; those of this process see what is changed.
    pub snapshots: Arc<Snapshots>,
    /// Opens with each of its keys, and seals with the current one.
    pub vault: Arc<Vault>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who does it, in the audit trail.
    pub actor: Actor,
}

impl Rotation {
    /// Seals everything anew that is not under the current key. When this returns, no change is
    /// under way either that was sealed before it began.
    ///
    /// # Cancel safety
    /// What was done stays done; called again, it goes on with the rest.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn run(&self) -> Result<Resealed, StoreError> {
        let mut done = Resealed::default();
        let mut tries = 0;
        loop {
            let edit = self.snapshots.edit().await?;
            let catalog = self.store.catalog().await?;
            let (changes, unreadable) = self.batch(&catalog);
            done.unreadable = unreadable;
            let documents = documents(&changes);
            if documents.is_empty() {
                return Ok(done);
            }
            let seals = self.vault.keys().seals;
            let now = self.clock.now();
            let action = "vault.documents_resealed";
            let entry = NewEntry::new(now, self.actor.clone(), action, "vault", &seals)
                .after(&json!({"documents": documents}));
            let replaced = self.store.audited(entry).replace_documents(changes).await?;
            edit.done().await?;
            if replaced {
                (done.documents, tries) = (done.documents + documents.len(), 0);
                tracing::info!(
                    key = seals,
                    resealed = done.documents,
                    "secrets sealed anew"
                );
            } else {
                tries += 1;
                if tries == TRIES_MAX {
                    return Err(StoreError::Unavailable(
                        "the catalogue changes all the time".into(),
                    ));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The next documents, sealed anew, and those that cannot be opened.
    fn batch(&self, catalog: &Catalog) -> (DocumentChanges, Vec<String>) {
        let mut changes = DocumentChanges {
            epoch: catalog.epoch,
            at: None,
            subscriptions: Vec::new(),
            connections: Vec::new(),
            source_configs: Vec::new(),
            source_verifications: Vec::new(),
        };
        let (mut count, mut unreadable) = (0, Vec::new());
        for (owner, document) in sealed(catalog) {
            let row = owner.row();
            let resealed = match self.vault.reseal(&row, document) {
                Ok(Some(resealed)) => resealed,
                Ok(None) => continue,
                Err(error) => {
                    unreadable.push(unreadable_of(&row, &error));
                    continue;
                }
            };
            match owner {
                Owner::Subscription(id) => changes.subscriptions.push((id, resealed)),
                Owner::Connection(id) => changes.connections.push((id, resealed)),
                Owner::SourceConfig(id) => changes.source_configs.push((id, resealed)),
                Owner::SourceVerification(id) => changes.source_verifications.push((id, resealed)),
            }
            count += 1;
            if count == BATCH {
                break;
            }
        }
        (changes, unreadable)
    }
}

fn unreadable_of(row: &str, error: &VaultError) -> String {
    format!("{row}: {error}")
}

fn documents(changes: &DocumentChanges) -> BTreeSet<String> {
    let subscriptions = changes.subscriptions.iter().map(|(id, _)| id.to_string());
    let connections = changes.connections.iter().map(|(id, _)| id.to_string());
    let configs = changes.source_configs.iter().map(|(id, _)| source_row(*id));
    let verifications = changes
        .source_verifications
        .iter()
        .map(|(id, _)| verification_row(*id));
    subscriptions
        .chain(connections)
        .chain(configs)
        .chain(verifications)
        .collect()
}
