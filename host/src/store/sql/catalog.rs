//! Event types, subscriptions, connections, grants and keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::{Executor, Row as _};

use super::dialect::{self, Db, DbConnection, DbPool, DbRow};
use super::row::{corrupt, event_type_name, json, parse, provider, unsigned};
use crate::domain::clock::Timestamp;
use crate::domain::event::{EventPattern, EventType, EventTypeName};
use crate::domain::id::{ConnectionId, KeyId, SubscriptionId};
use crate::domain::key::{ApiKey, Role};
use crate::domain::provider::{Grant, Permissions, ProviderId};
use crate::domain::retry::RetryPolicy;
use crate::domain::subscription::{Connection, SealedDocument, Subscription};
use crate::store::{Catalog, CatalogEpoch, DocumentChanges, GrantRecord, Result, StoreError};

pub(super) async fn epoch<'e>(executor: impl Executor<'e, Database = Db>) -> Result<CatalogEpoch> {
    let epoch = sqlx::query_scalar("SELECT epoch FROM catalog")
        .fetch_one(executor)
        .await?;
    Ok(CatalogEpoch(epoch))
}

/// The same before a write that was matched against it: nobody changes it before the commit.
pub(super) async fn epoch_held(connection: &mut DbConnection) -> Result<CatalogEpoch> {
    let epoch = sqlx::query_scalar(dialect::HOLD_EPOCH)
        .fetch_one(connection)
        .await?;
    Ok(CatalogEpoch(epoch))
}

pub(super) async fn bump(connection: &mut DbConnection) -> Result<()> {
    sqlx::query("UPDATE catalog SET epoch = epoch + 1")
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn load(readers: &DbPool) -> Result<Catalog> {
    // One read transaction: everything is of one epoch.
    let mut snapshot = readers.begin().await?;
    let epoch = epoch(&mut *snapshot).await?;
    let event_types = sqlx::query("SELECT name, display_name, description, payload_schema, example, created_at, updated_at, category, transform, plugin, retired FROM event_types ORDER BY name")
        .fetch_all(&mut *snapshot)
        .await?;
    let subscriptions = sqlx::query("SELECT id, name, events, provider, config, config_version, connection_id, system_filter, enabled, disabled_reason, paused, ordered, retry_delays_ms, timeout_ms, created_at, updated_at, filter, transform, flow FROM subscriptions ORDER BY id")
        .fetch_all(&mut *snapshot)
        .await?;
    let connections = sqlx::query("SELECT id, name, provider, document, document_version, created_at, updated_at FROM connections ORDER BY id")
        .fetch_all(&mut *snapshot)
        .await?;
    let sources = super::source::load(&mut snapshot).await?;
    let keys = sqlx::query("SELECT id, name, role, hash, created_at, revoked_at FROM api_keys WHERE revoked_at IS NULL")
        .fetch_all(&mut *snapshot)
        .await?;
    Ok(Catalog {
        epoch,
        event_types: event_types
            .iter()
            .map(event_type_from_row)
            .collect::<Result<_>>()?,
        subscriptions: subscriptions
            .iter()
            .map(subscription_from_row)
            .collect::<Result<_>>()?,
        connections: connections
            .iter()
            .map(connection_from_row)
            .collect::<Result<_>>()?,
        sources,
        keys: keys.iter().map(key_from_row).collect::<Result<_>>()?,
    })
}

fn event_type_from_row(row: &DbRow) -> Result<EventType> {
    let optional_json =
        |column: &str, text: Option<&str>| text.map(|text| json(column, text)).transpose();
    Ok(EventType {
        name: event_type_name(row.try_get(0)?)?,
        display_name: row.try_get(1)?,
        description: row.try_get(2)?,
        payload_schema: optional_json("event_types.payload_schema", row.try_get(3)?)?,
        example: optional_json("event_types.example", row.try_get(4)?)?,
        created_at: Timestamp(row.try_get(5)?),
        updated_at: Timestamp(row.try_get(6)?),
        category: row.try_get(7)?,
        transform: row.try_get::<Option<&str>, _>(8)?.map(Arc::from),
        plugin: row.try_get(9)?,
        retired: row.try_get(10)?,
    })
}

fn subscription_from_row(row: &DbRow) -> Result<Subscription> {
    let connection: Option<&str> = row.try_get(6)?;
    let delays: Option<&str> = row.try_get(12)?;
    Ok(Subscription {
        id: parse("subscriptions.id", row.try_get(0)?)?,
        name: row.try_get(1)?,
        events: EventPattern::parse(row.try_get(2)?)
            .map_err(|error| corrupt("subscriptions.events", &error))?,
        provider: provider(row.try_get(3)?)?,
        config: SealedDocument {
            json: json("subscriptions.config", row.try_get(4)?)?,
            version: unsigned("subscriptions.config_version", row.try_get(5)?)?,
        },
        connection: connection
            .map(|id| parse("subscriptions.connection_id", id))
            .transpose()?,
        system_filter: json("subscriptions.system_filter", row.try_get(7)?)?,
        enabled: row.try_get(8)?,
        disabled_reason: row.try_get(9)?,
        paused: row.try_get(10)?,
        ordered: row.try_get(11)?,
        retry: delays
            .map(|delays| json("subscriptions.retry_delays_ms", delays))
            .transpose()?
            .map(|delays_ms| RetryPolicy { delays_ms }),
        timeout_ms: row
            .try_get::<Option<i64>, _>(13)?
            .map(|ms| unsigned("subscriptions.timeout_ms", ms))
            .transpose()?,
        flow: super::flow::from_column(row.try_get(18)?)?,
        created_at: Timestamp(row.try_get(14)?),
        updated_at: Timestamp(row.try_get(15)?),
        filter: row.try_get::<Option<&str>, _>(16)?.map(Arc::from),
        transform: row.try_get::<Option<&str>, _>(17)?.map(Arc::from),
    })
}

fn connection_from_row(row: &DbRow) -> Result<Connection> {
    Ok(Connection {
        id: parse("connections.id", row.try_get(0)?)?,
        name: row.try_get(1)?,
        provider: provider(row.try_get(2)?)?,
        document: SealedDocument {
            json: json("connections.document", row.try_get(3)?)?,
            version: unsigned("connections.document_version", row.try_get(4)?)?,
        },
        created_at: Timestamp(row.try_get(5)?),
        updated_at: Timestamp(row.try_get(6)?),
    })
}

fn key_from_row(row: &DbRow) -> Result<ApiKey> {
    let role: &str = row.try_get(2)?;
    let hash: &[u8] = row.try_get(3)?;
    Ok(ApiKey {
        id: parse("api_keys.id", row.try_get(0)?)?,
        name: row.try_get(1)?,
        role: Role::from_name(role)
            .ok_or_else(|| StoreError::Corrupt(format!("api_keys.role holds {role:?}")))?,
        hash: hash
            .try_into()
            .map_err(|error| corrupt("api_keys.hash", &error))?,
        created_at: Timestamp(row.try_get(4)?),
        revoked_at: row.try_get::<Option<i64>, _>(5)?.map(Timestamp),
    })
}

pub(super) async fn put_event_type(
    connection: &mut DbConnection,
    event_type: EventType,
) -> Result<()> {
    sqlx::query("INSERT INTO event_types (name, display_name, description, payload_schema, example, created_at, updated_at, category, transform, plugin, retired) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (name) DO UPDATE SET display_name = excluded.display_name, description = excluded.description, payload_schema = excluded.payload_schema, example = excluded.example, updated_at = excluded.updated_at, category = excluded.category, transform = excluded.transform, plugin = excluded.plugin, retired = excluded.retired")
        .bind(event_type.name.as_str())
        .bind(event_type.display_name)
        .bind(event_type.description)
        .bind(event_type.payload_schema.map(|schema| schema.to_string()))
        .bind(event_type.example.map(|example| example.to_string()))
        .bind(event_type.created_at.0)
        .bind(event_type.updated_at.0)
        .bind(event_type.category)
        .bind(event_type.transform.as_deref())
        .bind(event_type.plugin)
        .bind(event_type.retired)
        .execute(&mut *connection)
        .await?;
    bump(connection).await
}

/// Puts a plugin's whole catalogue, in one transaction: types that are no longer in it go, or are
/// retired where a subscription names them.
pub(super) async fn put_catalogue(
    connection: &mut DbConnection,
    event_types: Vec<EventType>,
    gone: Vec<EventTypeName>,
) -> Result<()> {
    for event_type in event_types {
        put_event_type(connection, event_type).await?;
    }
    for name in gone {
        let named: Option<i64> = sqlx::query_scalar(
            "SELECT CAST(1 AS BIGINT) FROM subscriptions WHERE events = $1 LIMIT 1",
        )
        .bind(name.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        let change = match named {
            Some(_) => "UPDATE event_types SET retired = TRUE WHERE name = $1",
            None => "DELETE FROM event_types WHERE name = $1",
        };
        sqlx::query(change)
            .bind(name.as_str())
            .execute(&mut *connection)
            .await?;
    }
    bump(connection).await
}

pub(super) async fn delete_event_type(
    connection: &mut DbConnection,
    name: EventTypeName,
) -> Result<bool> {
    let used_by: Option<String> =
        sqlx::query_scalar("SELECT name FROM subscriptions WHERE events = $1 LIMIT 1")
            .bind(name.as_str())
            .fetch_optional(&mut *connection)
            .await?;
    if let Some(subscription) = used_by {
        return Err(StoreError::Conflict(format!(
            "the subscription {subscription:?} names this event type: delete or change it first"
        )));
    }
    let done = sqlx::query("DELETE FROM event_types WHERE name = $1")
        .bind(name.as_str())
        .execute(&mut *connection)
        .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn put_subscription(
    connection: &mut DbConnection,
    subscription: Subscription,
) -> Result<()> {
    if let Some(id) = subscription.connection {
        let found: Option<i64> =
            sqlx::query_scalar("SELECT CAST(1 AS BIGINT) FROM connections WHERE id = $1")
                .bind(id.to_string())
                .fetch_optional(&mut *connection)
                .await?;
        if found.is_none() {
            return Err(StoreError::Conflict(format!(
                "connectionId: there is no connection {id}"
            )));
        }
    }
    let retry = subscription.retry.as_ref();
    sqlx::query("INSERT INTO subscriptions (id, name, events, provider, config, config_version, connection_id, system_filter, enabled, disabled_reason, paused, ordered, retry_delays_ms, timeout_ms, created_at, updated_at, filter, transform, flow) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, events = excluded.events, provider = excluded.provider, config = excluded.config, config_version = excluded.config_version, connection_id = excluded.connection_id, system_filter = excluded.system_filter, enabled = excluded.enabled, disabled_reason = excluded.disabled_reason, paused = excluded.paused, ordered = excluded.ordered, retry_delays_ms = excluded.retry_delays_ms, timeout_ms = excluded.timeout_ms, updated_at = excluded.updated_at, filter = excluded.filter, transform = excluded.transform, flow = excluded.flow")
        .bind(subscription.id.to_string())
        .bind(subscription.name)
        .bind(subscription.events.as_str())
        .bind(subscription.provider.as_str())
        .bind(subscription.config.json.to_string())
        .bind(i64::from(subscription.config.version))
        .bind(subscription.connection.map(|id| id.to_string()))
        .bind(serde_json::Value::from(subscription.system_filter).to_string())
        .bind(subscription.enabled)
        .bind(subscription.disabled_reason)
        .bind(subscription.paused)
        .bind(subscription.ordered)
        .bind(retry.map(|retry| serde_json::Value::from(retry.delays_ms.clone()).to_string()))
        .bind(subscription.timeout_ms.map(i64::from))
        .bind(subscription.created_at.0)
        .bind(subscription.updated_at.0)
        .bind(subscription.filter.as_deref())
        .bind(subscription.transform.as_deref())
        .bind(super::flow::to_column(&subscription.flow))
        .execute(&mut *connection)
        .await?;
    super::circuit::forget(connection, subscription.id).await?;
    let (id, at) = (subscription.id, subscription.updated_at);
    if !subscription.enabled {
        cancel_queued(connection, id, at).await?;
    } else if !subscription.paused {
        unpark(connection, id, at).await?;
    }
    bump(connection).await
}

/// What is in flight is cancelled when its attempt ends without success. What waits is found
/// through the index of what has work left: the subscription's history may be long.
async fn cancel_queued(
    connection: &mut DbConnection,
    id: SubscriptionId,
    at: Timestamp,
) -> Result<()> {
    sqlx::query(dialect::CANCEL_QUEUED)
        .bind(at.0)
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn unpark(connection: &mut DbConnection, id: SubscriptionId, at: Timestamp) -> Result<()> {
    sqlx::query(dialect::UNPARK)
        .bind(at.0)
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn delete_subscription(
    connection: &mut DbConnection,
    id: SubscriptionId,
    at: Timestamp,
) -> Result<bool> {
    cancel_queued(connection, id, at).await?;
    super::circuit::forget(connection, id).await?;
    sqlx::query("DELETE FROM external_ids WHERE subscription_id = $1")
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query("DELETE FROM subscriptions WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn put_connection(
    writer: &mut DbConnection,
    connection: Connection,
) -> Result<()> {
    sqlx::query("INSERT INTO connections (id, name, provider, document, document_version, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, provider = excluded.provider, document = excluded.document, document_version = excluded.document_version, updated_at = excluded.updated_at")
        .bind(connection.id.to_string())
        .bind(connection.name)
        .bind(connection.provider.as_str())
        .bind(connection.document.json.to_string())
        .bind(i64::from(connection.document.version))
        .bind(connection.created_at.0)
        .bind(connection.updated_at.0)
        .execute(&mut *writer)
        .await?;
    super::circuit::forget_users_of(writer, connection.id).await?;
    bump(writer).await
}

pub(super) async fn replace_documents(
    connection: &mut DbConnection,
    changes: DocumentChanges,
) -> Result<bool> {
    if epoch_held(connection).await? != changes.epoch {
        return Ok(false);
    }
    const SUBSCRIPTION: &str = "UPDATE subscriptions SET config = $1, config_version = $2, updated_at = COALESCE($3, updated_at) WHERE id = $4";
    const CONNECTION: &str = "UPDATE connections SET document = $1, document_version = $2, updated_at = COALESCE($3, updated_at) WHERE id = $4";
    const SOURCE: &str = "UPDATE sources SET config = $1, config_version = $2, updated_at = COALESCE($3, updated_at) WHERE id = $4";
    let at = changes.at.map(|at| at.0);
    let subscriptions = changes.subscriptions.into_iter();
    let subscriptions = subscriptions.map(|(id, config)| (SUBSCRIPTION, id.to_string(), config));
    let connections = changes.connections.into_iter();
    let connections = connections.map(|(id, document)| (CONNECTION, id.to_string(), document));
    let sources = changes.source_configs.into_iter();
    let sources = sources.map(|(id, config)| (SOURCE, id.to_string(), config));
    for (statement, id, document) in subscriptions.chain(connections).chain(sources) {
        sqlx::query(statement)
            .bind(document.json.to_string())
            .bind(i64::from(document.version))
            .bind(at)
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    for (id, verification) in changes.source_verifications {
        sqlx::query("UPDATE sources SET verification = $1, updated_at = COALESCE($2, updated_at) WHERE id = $3")
            .bind(verification.json.to_string())
            .bind(at)
            .bind(id.to_string())
            .execute(&mut *connection)
            .await?;
    }
    bump(connection).await?;
    Ok(true)
}

pub(super) async fn delete_connection(
    connection: &mut DbConnection,
    id: ConnectionId,
) -> Result<bool> {
    let used_by: Option<String> =
        sqlx::query_scalar("SELECT name FROM subscriptions WHERE connection_id = $1 LIMIT 1")
            .bind(id.to_string())
            .fetch_optional(&mut *connection)
            .await?;
    if let Some(subscription) = used_by {
        return Err(StoreError::Conflict(format!(
            "the subscription {subscription:?} uses this connection: delete or change it first"
        )));
    }
    let done = sqlx::query("DELETE FROM connections WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *connection)
        .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}

/// Permissions as stored.
#[derive(Serialize, Deserialize)]
struct StoredPermissions {
    hosts: BTreeSet<String>,
    expose_secrets: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredGrant {
    #[serde(flatten)]
    permissions: StoredPermissions,
    allow_addresses: Vec<ipnet::IpNet>,
}

impl From<&Permissions> for StoredPermissions {
    fn from(permissions: &Permissions) -> Self {
        Self {
            hosts: permissions.hosts.clone(),
            expose_secrets: permissions.expose_secrets,
        }
    }
}

impl From<StoredPermissions> for Permissions {
    fn from(stored: StoredPermissions) -> Self {
        Self {
            hosts: stored.hosts,
            expose_secrets: stored.expose_secrets,
        }
    }
}

pub(super) async fn grants(readers: &DbPool) -> Result<Vec<GrantRecord>> {
    let rows = sqlx::query(
        "SELECT provider, granted, asked, digest, granted_at FROM grants ORDER BY provider",
    )
    .fetch_all(readers)
    .await?;
    rows.iter()
        .map(|row| {
            let granted: StoredGrant = json("grants.granted", row.try_get(1)?)?;
            let asked: StoredPermissions = json("grants.asked", row.try_get(2)?)?;
            Ok(GrantRecord {
                provider: provider(row.try_get(0)?)?,
                grant: Grant {
                    permissions: granted.permissions.into(),
                    allow_addresses: granted.allow_addresses,
                },
                asked: asked.into(),
                digest: row.try_get(3)?,
                granted_at: Timestamp(row.try_get(4)?),
            })
        })
        .collect()
}

pub(super) async fn put_grant(connection: &mut DbConnection, grant: GrantRecord) -> Result<()> {
    let granted = StoredGrant {
        permissions: (&grant.grant.permissions).into(),
        allow_addresses: grant.grant.allow_addresses.clone(),
    };
    let text = |value: serde_json::Result<String>| value.map_err(|error| corrupt("grants", &error));
    sqlx::query("INSERT INTO grants (provider, granted, asked, digest, granted_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (provider) DO UPDATE SET granted = excluded.granted, asked = excluded.asked, digest = excluded.digest, granted_at = excluded.granted_at")
        .bind(grant.provider.as_str())
        .bind(text(serde_json::to_string(&granted))?)
        .bind(text(serde_json::to_string(&StoredPermissions::from(&grant.asked)))?)
        .bind(&grant.digest)
        .bind(grant.granted_at.0)
        .execute(&mut *connection)
        .await?;
    bump(connection).await
}

pub(super) async fn delete_grant(
    connection: &mut DbConnection,
    provider: ProviderId,
) -> Result<bool> {
    let done = sqlx::query("DELETE FROM grants WHERE provider = $1")
        .bind(provider.as_str())
        .execute(&mut *connection)
        .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn put_key(connection: &mut DbConnection, key: ApiKey) -> Result<()> {
    sqlx::query("INSERT INTO api_keys (id, name, role, hash, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(key.id.to_string())
        .bind(&key.name)
        .bind(key.role.as_str())
        .bind(&key.hash[..])
        .bind(key.created_at.0)
        .bind(key.revoked_at.map(|at| at.0))
        .execute(&mut *connection)
        .await?;
    bump(connection).await
}

pub(super) async fn keys(readers: &DbPool) -> Result<Vec<ApiKey>> {
    let rows = sqlx::query(
        "SELECT id, name, role, hash, created_at, revoked_at FROM api_keys ORDER BY id",
    )
    .fetch_all(readers)
    .await?;
    rows.iter().map(key_from_row).collect()
}

pub(super) async fn revoke_key(
    connection: &mut DbConnection,
    id: KeyId,
    at: Timestamp,
) -> Result<bool> {
    let done =
        sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL")
            .bind(at.0)
            .bind(id.to_string())
            .execute(&mut *connection)
            .await?;
    bump(connection).await?;
    Ok(done.rows_affected() > 0)
}
