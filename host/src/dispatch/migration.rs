//! Stored configs and connections, brought up to the schema of a newer component: all of a
//! provider's in one transaction, or none.
//!
//! The component sees handles in the place of secrets. Where a handle is found in what it
//! returned, the secret is sealed anew for that place, which the new schema has to mark as one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::snapshot::{Snapshot, Snapshots, connection_row, subscription_row};
use crate::domain::audit::{Actor, Author, NewEntry};
use crate::domain::clock::Clock;
use crate::domain::provider::{Descriptor, VersionedSchema};
use crate::domain::schema;
use crate::domain::subscription::SealedDocument;
use crate::plugin::DocumentKind;
use crate::plugin::registry::{Documents, GrantStore, MigrationError, Migrator};
use crate::store::{DocumentChanges, GrantRecord, Store, StoreError};
use crate::vault::Vault;

/// Times that a migration begins anew because the catalogue changed meanwhile.
const TRIES_MAX: usize = 20;

/// The documents of a store.
pub struct StoredDocuments {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Of this process; renewed after a migration.
    pub snapshots: Arc<Snapshots>,
    /// Opens and seals their secrets.
    pub vault: Arc<Vault>,
    /// For the time of the change.
    pub clock: Arc<dyn Clock>,
    /// Who this process is, in the audit trail.
    pub process: Actor,
}

fn unavailable(error: &StoreError) -> MigrationError {
    MigrationError::Unavailable(format!("the stored documents cannot be read: {error}"))
}

#[async_trait]
impl Documents for StoredDocuments {
    async fn migrate(
        &self,
        descriptor: &Descriptor,
        guest: &dyn Migrator,
    ) -> Result<usize, MigrationError> {
        for _ in 0..TRIES_MAX {
            let edit = self.snapshots.edit().await;
            let edit = edit.map_err(|error| unavailable(&error))?;
            let changes = self.changes(&edit.snapshot, descriptor, guest).await?;
            let count = changes.subscriptions.len() + changes.connections.len();
            if count == 0 {
                return Ok(0);
            }
            let store = self.store.audited(self.entry(descriptor, &changes));
            let replaced = store.replace_documents(changes).await;
            if replaced.map_err(|error| unavailable(&error))? {
                if let Err(error) = edit.done().await {
                    tracing::warn!(%error, "the migrated documents are read later");
                }
                return Ok(count);
            }
        }
        Err(MigrationError::Unavailable(
            "subscriptions and connections change all the time; migrating is tried again".into(),
        ))
    }

    async fn mark(&self) -> Option<i64> {
        self.store.epoch().await.ok().map(|epoch| epoch.0)
    }
}

#[async_trait]
impl GrantStore for StoredDocuments {
    async fn grants(&self) -> Result<Vec<GrantRecord>, StoreError> {
        self.store.grants().await
    }

    async fn put_grant(&self, grant: GrantRecord, by: Option<Author>) -> Result<(), StoreError> {
        // So that what it was is read before another process changes it.
        let edit = self.snapshots.edit().await?;
        let mut on_record = self.store.grants().await?.into_iter();
        let before = on_record.find(|before| before.provider == grant.provider);
        let (author, action) = match by {
            Some(author) => (author, "grant.changed"),
            None => (self.process.clone().into(), "grant.carried_over"),
        };
        let (now, id) = (self.clock.now(), &grant.provider);
        let mut entry =
            NewEntry::new(now, author, action, "provider", id.as_str()).after(&shown(&grant));
        if let Some(before) = &before {
            entry = entry.before(&shown(before));
        }
        self.store.audited(entry).put_grant(grant).await?;
        edit.done().await
    }
}

/// A grant as the audit trail has it.
fn shown(record: &GrantRecord) -> Value {
    json!({
        "hosts": record.grant.permissions.hosts,
        "exposeSecrets": record.grant.permissions.expose_secrets,
        "allowAddresses": record.grant.allow_addresses,
        "digest": record.digest,
    })
}

impl StoredDocuments {
    fn entry(&self, descriptor: &Descriptor, changes: &DocumentChanges) -> NewEntry {
        let (process, id) = (self.process.clone(), &descriptor.id);
        let action = "provider.documents_migrated";
        let subscriptions = changes.subscriptions.iter().map(|(id, _)| id.to_string());
        let connections = changes.connections.iter().map(|(id, _)| id.to_string());
        NewEntry::new(self.clock.now(), process, action, "provider", id.as_str()).after(&json!({
            "version": descriptor.version,
            "configVersion": descriptor.config.version,
            "connectionVersion": descriptor.connection.as_ref().map(|schema| schema.version),
            "subscriptions": subscriptions.collect::<Vec<_>>(),
            "connections": connections.collect::<Vec<_>>(),
        }))
    }

    async fn changes(
        &self,
        snapshot: &Snapshot,
        descriptor: &Descriptor,
        guest: &dyn Migrator,
    ) -> Result<DocumentChanges, MigrationError> {
        let mut changes = DocumentChanges {
            epoch: snapshot.epoch,
            at: Some(self.clock.now()),
            subscriptions: Vec::new(),
            connections: Vec::new(),
            source_configs: Vec::new(),
            source_verifications: Vec::new(),
        };
        if let Some(schema) = &descriptor.connection {
            for shared in snapshot.connections.values() {
                let connection = &shared.connection;
                if connection.provider != descriptor.id {
                    continue;
                }
                let row = connection_row(connection.id);
                let kind = DocumentKind::Connection;
                let named = format!("connection {} ({})", connection.id, connection.name);
                let before = &connection.document;
                if let Some(after) = self.one(guest, kind, schema, &row, before, &named).await? {
                    changes.connections.push((connection.id, after));
                }
            }
        }
        for route in snapshot.routes.values() {
            let subscription = &route.subscription;
            if subscription.provider != descriptor.id {
                continue;
            }
            let row = subscription_row(subscription.id);
            let kind = DocumentKind::Config;
            let named = format!("subscription {} ({})", subscription.id, subscription.name);
            let (schema, before) = (&descriptor.config, &subscription.config);
            if let Some(after) = self.one(guest, kind, schema, &row, before, &named).await? {
                changes.subscriptions.push((subscription.id, after));
            }
        }
        Ok(changes)
    }

    /// The document in the new version; `None` where it is in that already.
    async fn one(
        &self,
        guest: &dyn Migrator,
        kind: DocumentKind,
        schema: &VersionedSchema,
        row: &str,
        before: &SealedDocument,
        named: &str,
    ) -> Result<Option<SealedDocument>, MigrationError> {
        if before.version == schema.version {
            return Ok(None);
        }
        let refused = |reason: String| {
            MigrationError::Refused(format!(
                "{named} cannot be migrated from version {} to {}: {reason}",
                before.version, schema.version
            ))
        };
        if before.version > schema.version {
            return Err(refused(
                "it is newer than this component; install the newer component again".into(),
            ));
        }
        let opened = self.vault.open_for_guest(row, kind, before);
        let opened = opened.map_err(|error| refused(error.to_string()))?;
        let migrated = guest.migrate(kind, opened).await;
        let migrated = migrated.map_err(|failure| refused(failure.to_string()))?;
        let plain = self
            .vault
            .resolve_handles(row, kind, &schema.schema, before, migrated)
            .map_err(&refused)?;
        let validator = schema::compile(&schema.schema)
            .map_err(|error| refused(format!("the new schema cannot be used: {error}")))?;
        if let Some(violation) = schema::violations(&validator, &plain).into_iter().next() {
            return Err(refused(format!(
                "migrate-config returned what the new schema does not allow: {}: {}",
                violation.pointer, violation.message
            )));
        }
        let sealed = self
            .vault
            .seal_document(row, &schema.schema, schema.version, plain);
        Ok(Some(sealed))
    }
}
