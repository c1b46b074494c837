//! Which deliveries a broker holds: `queued_for`, through the indexes of the sweep.

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};

use super::row::parse;
use super::{PostgresStore, claim};
use crate::domain::clock::Timestamp;
use crate::domain::id::DeliveryId;
use crate::store::{Claim, ClaimRequest, OutboxStore, Queued, Result, Sweep, Traffic};

/// Parameters: the messages' time at the latest, the limit, now.
macro_rules! sweep {
    ($traffic:literal) => {
        concat!(
            "WITH missing AS MATERIALIZED (SELECT id FROM deliveries \
               WHERE queued_for IS NOT NULL AND due_at IS NOT NULL AND ",
            $traffic,
            " AND queued_for < $1 ORDER BY queued_for LIMIT $2 FOR UPDATE SKIP LOCKED) \
             UPDATE deliveries d SET queued_for = GREATEST(d.due_at, $3) FROM missing WHERE d.id = missing.id \
             RETURNING d.id, d.subscription_id, d.queued_for"
        )
    };
}
const SWEEP_LIVE: &str = sweep!("replay_id IS NULL");
const SWEEP_REPLAYS: &str = sweep!("replay_id IS NOT NULL");

/// Parameters: the messages' time at the latest, the limit.
macro_rules! hand_over {
    ($traffic:literal) => {
        concat!(
            "UPDATE deliveries SET queued_for = NULL WHERE id IN (SELECT id FROM deliveries \
               WHERE queued_for IS NOT NULL AND due_at IS NOT NULL AND ",
            $traffic,
            " AND queued_for < $1 ORDER BY queued_for LIMIT $2 FOR UPDATE SKIP LOCKED)"
        )
    };
}
const HAND_OVER: [&str; 2] = [
    hand_over!("replay_id IS NULL"),
    hand_over!("replay_id IS NOT NULL"),
];

/// In the order of their ids, so that two processes do not wait for each other in a circle.
const TAKE_BACK: &str = "UPDATE deliveries SET queued_for = NULL WHERE id IN (SELECT id FROM deliveries \
       WHERE id = ANY($1) AND due_at IS NOT NULL AND queued_for IS NOT NULL ORDER BY id FOR UPDATE)";

#[async_trait]
impl OutboxStore for PostgresStore {
    async fn claim_of(&self, request: ClaimRequest, ids: Vec<DeliveryId>) -> Result<Claim> {
        self.outbox
            .run(move |connection| Box::pin(claim::write_of(connection, request, ids)))
            .await
    }

    async fn sweep(&self, sweep: Sweep) -> Result<Vec<Queued>> {
        self.outbox
            .run(move |connection| Box::pin(self::sweep(connection, sweep)))
            .await
    }

    async fn hand_over(&self, before: Timestamp, limit: usize) -> Result<u64> {
        self.outbox
            .run(move |connection| Box::pin(self::hand_over(connection, before, limit)))
            .await
    }

    async fn take_back(&self, ids: Vec<DeliveryId>) -> Result<()> {
        self.outbox
            .run(move |connection| Box::pin(self::take_back(connection, ids)))
            .await
    }
}

/// What is due and was not leased waits behind another one; what is locked, another process has.
const HOLD: &str = "UPDATE deliveries SET queued_for = NULL WHERE id IN (SELECT id FROM deliveries \
       WHERE id = ANY($1) AND due_at <= $2 ORDER BY id FOR UPDATE SKIP LOCKED)";

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

async fn sweep(connection: &mut PgConnection, sweep: Sweep) -> Result<Vec<Queued>> {
    let statement = match sweep.traffic {
        Traffic::Live => SWEEP_LIVE,
        Traffic::Replays => SWEEP_REPLAYS,
    };
    let rows = sqlx::query(statement)
        .bind(sweep.before.0)
        .bind(limit(sweep.limit))
        .bind(sweep.now.0)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Queued {
                id: parse("deliveries.id", row.try_get(0)?)?,
                subscription_id: parse("deliveries.subscription_id", row.try_get(1)?)?,
                due: Timestamp(row.try_get(2)?),
            })
        })
        .collect()
}

async fn hand_over(
    connection: &mut PgConnection,
    before: Timestamp,
    at_most: usize,
) -> Result<u64> {
    let mut count = 0;
    for statement in HAND_OVER {
        let done = sqlx::query(statement)
            .bind(before.0)
            .bind(limit(at_most))
            .execute(&mut *connection)
            .await?;
        count += done.rows_affected();
    }
    Ok(count)
}

async fn take_back(connection: &mut PgConnection, ids: Vec<DeliveryId>) -> Result<()> {
    sqlx::query(TAKE_BACK)
        .bind(texts(&ids))
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns how many are held back.
pub(super) async fn hold(
    connection: &mut PgConnection,
    ids: Vec<String>,
    now: Timestamp,
) -> Result<u64> {
    let held = sqlx::query(HOLD)
        .bind(ids)
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(held.rows_affected())
}

pub(super) fn texts(ids: &[DeliveryId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}
