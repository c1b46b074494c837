//! Open circuits, so that a restart finds them open.

use sqlx::Row as _;

use super::dialect::{DbConnection, DbPool};
use super::row::{parse, unsigned};
use crate::domain::circuit::OpenCircuit;
use crate::domain::clock::Timestamp;
use crate::domain::id::{ConnectionId, SubscriptionId};
use crate::store::Result;

pub(super) async fn put(connection: &mut DbConnection, circuit: OpenCircuit) -> Result<()> {
    sqlx::query("INSERT INTO circuits (subscription_id, since, reason, probes, next_probe_at) \
         SELECT $1, $2, $3, $4, $5 WHERE EXISTS (SELECT 1 FROM subscriptions WHERE id = $1) \
         ON CONFLICT (subscription_id) DO UPDATE SET since = excluded.since, reason = excluded.reason, probes = excluded.probes, next_probe_at = excluded.next_probe_at")
        .bind(circuit.subscription.to_string())
        .bind(circuit.since.0)
        .bind(circuit.reason)
        .bind(i64::from(circuit.probes))
        .bind(circuit.next_probe_at.0)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn forget(connection: &mut DbConnection, id: SubscriptionId) -> Result<()> {
    sqlx::query("DELETE FROM circuits WHERE subscription_id = $1")
        .bind(id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn forget_users_of(
    connection: &mut DbConnection,
    shared: ConnectionId,
) -> Result<()> {
    sqlx::query("DELETE FROM circuits WHERE subscription_id IN (SELECT id FROM subscriptions WHERE connection_id = $1)")
        .bind(shared.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn all(readers: &DbPool) -> Result<Vec<OpenCircuit>> {
    let rows = sqlx::query("SELECT subscription_id, since, reason, probes, next_probe_at FROM circuits ORDER BY subscription_id")
        .fetch_all(readers)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(OpenCircuit {
                subscription: parse("circuits.subscription_id", row.try_get(0)?)?,
                since: Timestamp(row.try_get(1)?),
                reason: row.try_get(2)?,
                probes: unsigned("circuits.probes", row.try_get(3)?)?,
                next_probe_at: Timestamp(row.try_get(4)?),
            })
        })
        .collect()
}
