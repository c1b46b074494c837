//! Removing what is old enough, in batches that go through each kind once, from the oldest on.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, QueryBuilder, Row as _};

use super::dialect::{self, Db, DbConnection};
use super::listing::first_id;
use super::row::state_code;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::{DeliveryId, EventId, WorkerId};
use crate::store::{Expiring, RemovalBatch, Removed, Result};

/// A replay under way has yet to go through the event. Coarse on purpose: what is kept for a moment
/// longer does not matter.
macro_rules! replay_needs {
    ($event:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM replays r WHERE r.state = 'running' AND (r.event_id IS NULL OR r.event_id = ",
            $event,
            ") AND (r.cursor IS NULL OR r.cursor >= ",
            $event,
            "))"
        )
    };
}

/// Parameters: the place, the first identifier that is too young, the number of rows.
pub(super) const OLD_EVENTS: &str = concat!(
    "SELECT e.id, NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id) AND NOT ",
    replay_needs!("e.id"),
    " FROM events e WHERE e.id > $1 AND e.id < $2 ORDER BY e.id LIMIT $3"
);

/// A delivery that comes to its end is not created later than that: the primary key, or a partial
/// index in its order, leads to all that can be old enough. Parameters: the place, the first
/// identifier that is too young, the number of rows, the age.
pub(super) fn old_deliveries(state: DeliveryState) -> String {
    let code = state_code(state);
    // As literals, so that the partial indexes serve.
    let lead = match state {
        DeliveryState::Success => "",
        DeliveryState::Failed => "AND d.state = 4 ",
        _ => "AND d.state >= 5 ",
    };
    let runs = match state {
        DeliveryState::Failed => {
            " AND NOT EXISTS (SELECT 1 FROM dead_letter_runs l WHERE l.state = 'running')"
        }
        _ => "",
    };
    format!(
        "SELECT d.id, d.state = {code} AND d.updated_at < $4 AND NOT {}{runs} \
         FROM deliveries d WHERE d.id > $1 AND d.id < $2 {lead}ORDER BY d.id LIMIT $3",
        replay_needs!("d.event_id")
    )
}

pub(super) async fn hold_duty(
    connection: &mut DbConnection,
    name: &'static str,
    worker: WorkerId,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool> {
    let held = sqlx::query("INSERT INTO duties (name, worker, held_until) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET worker = excluded.worker, held_until = excluded.held_until \
         WHERE duties.worker = excluded.worker OR duties.held_until < $4")
        .bind(name)
        .bind(worker.to_string())
        .bind(until.0)
        .bind(now.0)
        .execute(connection)
        .await?;
    Ok(held.rows_affected() > 0)
}

pub(super) async fn remove(connection: &mut DbConnection, batch: RemovalBatch) -> Result<Removed> {
    match batch.kind {
        Expiring::Deliveries(state) => deliveries(connection, state, &batch).await,
        Expiring::Events => events(connection, &batch).await,
        Expiring::Webhooks => {
            by_age(connection, &batch, "DELETE FROM inbound_webhooks WHERE id IN (SELECT id FROM inbound_webhooks WHERE received_at < $1 ORDER BY received_at LIMIT $2)").await
        }
        Expiring::InboundKeys => {
            by_age(connection, &batch, "DELETE FROM inbound_keys WHERE key IN (SELECT key FROM inbound_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)").await
        }
        Expiring::IdempotencyKeys => {
            by_age(connection, &batch, "DELETE FROM idempotency_keys WHERE (scope, key) IN (SELECT scope, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)").await
        }
        Expiring::Replays => {
            let runs = by_age(connection, &batch, "DELETE FROM dead_letter_runs WHERE id IN (SELECT id FROM dead_letter_runs WHERE state <> 'running' AND updated_at < $1 ORDER BY id LIMIT $2)").await?;
            let replays = by_age(connection, &batch, "DELETE FROM replays WHERE id IN (SELECT id FROM replays WHERE state <> 'running' AND updated_at < $1 ORDER BY id LIMIT $2)").await?;
            Ok(Removed {
                records: runs.records + replays.records,
                next: runs.next.or(replays.next),
            })
        }
    }
}

/// Parameters of `delete`: the age, the number of rows. What it found is gone, so that the next
/// batch begins where this one did.
async fn by_age(
    connection: &mut DbConnection,
    batch: &RemovalBatch,
    delete: &'static str,
) -> Result<Removed> {
    let done = sqlx::query(delete)
        .bind(batch.before.0)
        .bind(limit(batch))
        .execute(connection)
        .await?;
    let records = done.rows_affected();
    let is_full = usize::try_from(records).is_ok_and(|records| records >= batch.limit);
    Ok(Removed {
        records,
        next: is_full.then(String::new),
    })
}

fn limit(batch: &RemovalBatch) -> i64 {
    i64::try_from(batch.limit).unwrap_or(i64::MAX)
}

/// What a batch has looked at.
struct Looked {
    /// Old enough.
    ids: Vec<String>,
    /// Where to go on.
    next: Option<String>,
}

async fn look(
    connection: &mut DbConnection,
    sql: String,
    batch: &RemovalBatch,
    prefix: &str,
) -> Result<Looked> {
    let takes_age = sql.contains("$4");
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(batch.after.clone().unwrap_or_default())
        .bind(first_id(prefix, batch.before))
        .bind(limit(batch));
    if takes_age {
        query = query.bind(batch.before.0);
    }
    let rows = query.fetch_all(connection).await?;
    let mut looked = Looked {
        ids: Vec::new(),
        next: None,
    };
    for row in &rows {
        if row.try_get(1)? {
            looked.ids.push(row.try_get(0)?);
        }
    }
    if rows.len() >= batch.limit {
        looked.next = rows.last().map(|row| row.try_get(0)).transpose()?;
    }
    Ok(looked)
}

fn push_ids<'i>(query: &mut QueryBuilder<Db>, ids: impl IntoIterator<Item = &'i String>) {
    query.push(" IN (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.clone());
    }
    query.push(")");
}

async fn deliveries(
    connection: &mut DbConnection,
    state: DeliveryState,
    batch: &RemovalBatch,
) -> Result<Removed> {
    if !state.is_terminal() {
        return Ok(Removed::default());
    }
    let looked = look(
        &mut *connection,
        old_deliveries(state),
        batch,
        DeliveryId::PREFIX,
    )
    .await?;
    if looked.ids.is_empty() {
        return Ok(Removed {
            records: 0,
            next: looked.next,
        });
    }
    // Asked once more of the row that is locked: it may have been made due meanwhile.
    let mut delete = QueryBuilder::<Db>::new("DELETE FROM deliveries WHERE state = ");
    delete
        .push_bind(state_code(state))
        .push(" AND updated_at < ")
        .push_bind(batch.before.0)
        .push(" AND id");
    push_ids(&mut delete, &looked.ids);
    delete.push(" RETURNING id");
    let gone: Vec<String> = delete
        .build_query_scalar()
        .fetch_all(&mut *connection)
        .await?;
    if !gone.is_empty() {
        let mut delete = QueryBuilder::<Db>::new("DELETE FROM attempts WHERE delivery_id");
        push_ids(&mut delete, &gone);
        delete.build().execute(connection).await?;
    }
    Ok(Removed {
        records: u64::try_from(gone.len()).unwrap_or(u64::MAX),
        next: looked.next,
    })
}

/// With the last event of a correlation key its external ids go: a later one begins anew.
async fn events(connection: &mut DbConnection, batch: &RemovalBatch) -> Result<Removed> {
    let looked = look(
        &mut *connection,
        OLD_EVENTS.to_owned(),
        batch,
        EventId::PREFIX,
    )
    .await?;
    if looked.ids.is_empty() {
        return Ok(Removed {
            records: 0,
            next: looked.next,
        });
    }
    // Locked before it is asked again whether they have deliveries: a replay that makes some
    // holds the event until it has committed.
    let mut lock = QueryBuilder::<Db>::new("SELECT id FROM events WHERE id");
    push_ids(&mut lock, &looked.ids);
    lock.push(dialect::FOR_UPDATE);
    lock.build().fetch_all(&mut *connection).await?;
    let mut delete = QueryBuilder::<Db>::new(
        "DELETE FROM events WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = events.id) AND id",
    );
    push_ids(&mut delete, &looked.ids);
    delete.push(" RETURNING correlation_key");
    let gone: Vec<Option<String>> = delete
        .build_query_scalar()
        .fetch_all(&mut *connection)
        .await?;
    let records = u64::try_from(gone.len()).unwrap_or(u64::MAX);
    let keys: BTreeSet<String> = gone.into_iter().flatten().collect();
    if !keys.is_empty() {
        let mut delete = QueryBuilder::<Db>::new(
            "DELETE FROM external_ids WHERE NOT EXISTS \
             (SELECT 1 FROM events e WHERE e.correlation_key = external_ids.correlation_key) AND correlation_key",
        );
        push_ids(&mut delete, &keys);
        delete.build().execute(connection).await?;
    }
    Ok(Removed {
        records,
        next: looked.next,
    })
}

/// Which of the events are there still; held, where others write too, until the transaction ends.
pub(super) async fn held_events(
    connection: &mut DbConnection,
    ids: &[EventId],
) -> Result<Vec<EventId>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let mut query = QueryBuilder::<Db>::new("SELECT id FROM events WHERE id");
    push_ids(&mut query, &ids);
    query.push(dialect::FOR_KEY_SHARE);
    let rows: Vec<String> = query.build_query_scalar().fetch_all(connection).await?;
    rows.iter()
        .map(|id| super::row::parse("events.id", id))
        .collect()
}
