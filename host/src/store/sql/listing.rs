//! Pages of listings, newest first.
//!
//! Invariant: a page costs a bounded number of rows, however long the history is. Where an index
//! leads to the rows that fit, it is followed; otherwise a page looks at the next [`WINDOW`] rows
//! in order, says what it found there, and where to go on.

use sqlx::QueryBuilder;

use super::dialect::{Db, DbPool, DbRow};
use crate::domain::clock::Timestamp;
use crate::store::{Page, Result};

/// Rows that a page looks at where no index leads to those that fit.
pub(super) const WINDOW: i64 = 20_000;

/// Identifiers are ordered by time, so that a range of time is a range of the primary key.
pub(super) fn push_time(
    query: &mut QueryBuilder<Db>,
    column: &str,
    prefix: &str,
    (from, until): (Option<Timestamp>, Option<Timestamp>),
) {
    for (at, operator) in [(from, " >= "), (until, " < ")] {
        if let Some(at) = at {
            query
                .push(" AND ")
                .push(column)
                .push(operator)
                .push_bind(first_id(prefix, at));
        }
    }
}

/// No identifier made at `at` or later is smaller.
pub(super) fn first_id(prefix: &str, at: Timestamp) -> String {
    let ms = u64::try_from(at.0).unwrap_or(0).min((1 << 48) - 1);
    format!("{prefix}_{}", ulid::Ulid::from_parts(ms, 0))
}

pub(super) fn push_after(query: &mut QueryBuilder<Db>, column: &str, after: Option<&str>) {
    if let Some(after) = after {
        query
            .push(" AND ")
            .push(column)
            .push(" < ")
            .push_bind(after.to_owned());
    }
}

pub(super) fn push_floor(query: &mut QueryBuilder<Db>, column: &str, floor: Option<&str>) {
    if let Some(floor) = floor {
        query
            .push(" AND ")
            .push(column)
            .push(" >= ")
            .push_bind(floor.to_owned());
    }
}

/// One more than asked for tells whether there is another page.
pub(super) fn push_order(query: &mut QueryBuilder<Db>, order: &str, limit: usize) {
    query
        .push(" ORDER BY ")
        .push(order)
        .push(" LIMIT ")
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
}

/// Where a look at the rows of `led`, a `SELECT id` with what an index leads by, has to end;
/// `None`: there are fewer.
pub(super) async fn floor(readers: &DbPool, mut led: QueryBuilder<Db>) -> Result<Option<String>> {
    push_end(&mut led);
    Ok(led.build_query_scalar().fetch_optional(readers).await?)
}

pub(super) fn push_end(led: &mut QueryBuilder<Db>) {
    led.push(" ORDER BY id DESC LIMIT 1 OFFSET ")
        .push_bind(WINDOW - 1);
}

pub(super) fn page<T>(
    rows: &[DbRow],
    limit: usize,
    floor: Option<String>,
    convert: impl Fn(&DbRow) -> Result<T>,
) -> Result<Page<T>> {
    let is_full = rows.len() > limit;
    let items = rows
        .iter()
        .take(limit)
        .map(convert)
        .collect::<Result<_>>()?;
    Ok(Page {
        items,
        more: is_full || floor.is_some(),
        resume: floor.filter(|_| !is_full),
    })
}

/// Whether so few deliveries have work left that going through all of them is a page's work.
pub(super) async fn few_are_open(readers: &DbPool) -> Result<bool> {
    let open: i64 = sqlx::query_scalar(COUNT_OPEN)
        .bind(WINDOW)
        .fetch_one(readers)
        .await?;
    Ok(open < WINDOW)
}

pub(super) const COUNT_OPEN: &str =
    "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state <= 2 LIMIT $1) AS open";
