//! Which due deliveries a claim takes while some subscriptions are at their cap.
//!
//! Invariant: the backlog of a subscription that is passed over costs a claim a bounded number of
//! steps. The claim looks at the oldest due deliveries first, as without caps. When those are too
//! many that may not go, it goes on by subscription (lane), each reached through the index by one
//! seek, beginning where the last claim ended, so that every lane has its turn.

use std::collections::HashMap;

use sqlx::{PgConnection, Row as _};

use crate::domain::clock::Timestamp;
use crate::store::{Caps, ClaimRequest, Result};

/// Due deliveries that are looked at before lanes are.
const WINDOW: i64 = 2_048;
/// Lanes that one claim takes from.
const LANES_MAX: usize = 64;

/// A delivery with an ordering key waits for every earlier one of its key that has work left.
macro_rules! in_order {
    () => {
        "(d.ordering_key IS NULL OR NOT EXISTS (SELECT 1 FROM deliveries e \
          WHERE e.ordering_key = d.ordering_key AND e.ordering_key IS NOT NULL AND e.state <= 2 AND e.id < d.id))"
    };
}
pub(super) use in_order;

/// Parameters: now, the window, subscriptions passed over, the limit.
const OLDEST: &str = concat!(
    "SELECT d.id, d.subscription_id FROM (SELECT id, subscription_id, due_at, ordering_key FROM deliveries \
     WHERE due_at IS NOT NULL AND queued_for IS NULL AND due_at <= $1 ORDER BY due_at LIMIT $2) d \
     WHERE d.subscription_id <> ALL($3) AND ",
    in_order!(),
    " ORDER BY d.due_at LIMIT $4"
);

/// Whether there are more due deliveries than the window shows.
const BEYOND: &str = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE due_at IS NOT NULL AND queued_for IS NULL AND due_at <= $1 ORDER BY due_at LIMIT 1 OFFSET $2)";

/// Parameters: begin after, now, subscriptions passed over, the limit.
const LANES: &str = "WITH RECURSIVE lanes (id) AS ( \
       SELECT (SELECT min(subscription_id) FROM deliveries WHERE state <= 2 AND subscription_id > $1) \
       UNION ALL \
       SELECT (SELECT min(n.subscription_id) FROM deliveries n WHERE n.state <= 2 AND n.subscription_id > lanes.id) \
       FROM lanes WHERE lanes.id IS NOT NULL) \
     SELECT id FROM lanes WHERE id IS NOT NULL AND id <> ALL($3) \
       AND EXISTS (SELECT 1 FROM deliveries h WHERE h.state <= 2 AND h.subscription_id = lanes.id AND h.queued_for IS NULL AND h.due_at <= $2) \
     LIMIT $4";

/// Parameters: the lane, now, the limit.
const OF_LANE: &str = concat!(
    "SELECT d.id FROM deliveries d \
     WHERE d.state <= 2 AND d.subscription_id = $1 AND d.queued_for IS NULL AND d.due_at <= $2 AND ",
    in_order!(),
    " ORDER BY d.due_at LIMIT $3"
);

/// Where the next claim by lane begins: after this subscription.
#[derive(Debug, Default)]
pub(super) struct Cursor(String);

/// What may be taken.
#[derive(Debug, Default)]
pub(super) struct Picked {
    /// Identifiers.
    pub(super) rows: Vec<String>,
    /// There may be more that could be taken at once.
    pub(super) more: bool,
}

/// The rows that `request` may have.
pub(super) async fn pick(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
) -> Result<Picked> {
    let caps = request.caps.iter();
    let mut room: HashMap<String, usize> = caps.map(|(id, cap)| (id.to_string(), *cap)).collect();
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    let rows = sqlx::query(OLDEST)
        .bind(request.now.0)
        .bind(WINDOW)
        .bind(passed_over(&request.caps))
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let mut picked = Picked::default();
    for row in &rows {
        let lane: &str = row.try_get(1)?;
        if let Some(room) = room.get_mut(lane) {
            if *room == 0 {
                continue;
            }
            *room -= 1;
        }
        picked.rows.push(row.try_get(0)?);
    }
    // Cut off by the limit, or by the window.
    picked.more = rows.len() >= request.limit
        || sqlx::query_scalar(BEYOND)
            .bind(request.now.0)
            .bind(WINDOW)
            .fetch_one(&mut *connection)
            .await?;
    if picked.more && picked.rows.is_empty() {
        by_lane(connection, request, cursor, &room, &mut picked).await?;
    }
    Ok(picked)
}

async fn by_lane(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    cursor: &mut Cursor,
    room: &HashMap<String, usize>,
    picked: &mut Picked,
) -> Result<()> {
    let lanes = lanes(connection, request, cursor).await?;
    picked.more = lanes.len() == LANES_MAX;
    // A lane gets twice its even share, as many have less than that.
    let share = (request.limit * 2).div_ceil(lanes.len().max(1)).max(1);
    for lane in &lanes {
        let left = request.limit - picked.rows.len();
        if left == 0 {
            picked.more = true;
            break;
        }
        let most = room
            .get(lane)
            .copied()
            .unwrap_or(share)
            .min(share)
            .min(left);
        let rows: Vec<String> = sqlx::query_scalar(OF_LANE)
            .bind(lane)
            .bind(request.now.0)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await?;
        picked.more |= rows.len() == most;
        picked.rows.extend(rows);
        cursor.0.clone_from(lane);
    }
    // Whoever found nothing waits for a change rather than looking again and again.
    picked.more &= !picked.rows.is_empty();
    Ok(())
}

/// Subscriptions with something due, from the cursor on and round to it.
async fn lanes(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    cursor: &Cursor,
) -> Result<Vec<String>> {
    let passed_over = passed_over(&request.caps);
    let mut lanes: Vec<String> = after(connection, &cursor.0, request.now, &passed_over).await?;
    if lanes.len() < LANES_MAX && !cursor.0.is_empty() {
        let around = after(connection, "", request.now, &passed_over).await?;
        let room = LANES_MAX - lanes.len();
        lanes.extend(
            around
                .into_iter()
                .filter(|lane| *lane <= cursor.0)
                .take(room),
        );
    }
    Ok(lanes)
}

async fn after(
    connection: &mut PgConnection,
    lane: &str,
    now: Timestamp,
    passed_over: &[String],
) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar(LANES)
        .bind(lane)
        .bind(now.0)
        .bind(passed_over)
        .bind(i64::try_from(LANES_MAX).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await?)
}

/// The subscriptions without room.
fn passed_over(caps: &Caps) -> Vec<String> {
    caps.iter()
        .filter(|(_, cap)| **cap == 0)
        .map(|(id, _)| id.to_string())
        .collect()
}
