//! The audit trail: appending at the end of the chain, and reading it.
//!
//! Whoever appends holds the head's row until the commit, so that entries of several processes
//! follow one another. It is the last thing that a transaction does: nothing is waited for while
//! the head is held.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row as _};

use super::dialect::{self, Backend, Db, DbConnection, DbPool, DbRow, in_time};
use super::listing;
use super::row::corrupt;
use crate::domain::audit::{Actor, ActorKind, Anchor, Author, Entry, EntryHash, NewEntry};
use crate::domain::clock::Timestamp;
use crate::store::{AuditFilter, AuditLog, AuditStore, Page, Result, StoreError};

const INSERT: &str = "INSERT INTO audit_entries (seq, at, actor_kind, actor_id, actor_name, request_id, action, target_kind, target_id, state_before, state_after, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
const SELECT: &str = "SELECT seq, at, actor_kind, actor_id, actor_name, request_id, action, target_kind, target_id, state_before, state_after, hash FROM audit_entries";

#[async_trait]
impl AuditLog for Backend {
    async fn audit_entries(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Page<Entry>> {
        in_time(list(&self.readers, filter, after, limit)).await
    }

    async fn audit_entries_above(&self, seq: i64, limit: usize) -> Result<Vec<Entry>> {
        in_time(above(&self.readers, seq, limit)).await
    }

    async fn audit_head(&self) -> Result<Anchor> {
        in_time(head(&self.readers)).await
    }
}

#[async_trait]
impl AuditStore for Backend {
    async fn append_audit(&self, entries: Vec<NewEntry>) -> Result<()> {
        self.writer
            .run(move |connection| Box::pin(append(connection, entries)))
            .await
    }
}

pub(super) async fn append(connection: &mut DbConnection, entries: Vec<NewEntry>) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut last = head_row(
        sqlx::query(dialect::HOLD_AUDIT_HEAD)
            .fetch_optional(&mut *connection)
            .await?,
    )?;
    let head = last;
    for mut entry in entries {
        if entry.once && !says_something_new(connection, &mut entry).await? {
            continue;
        }
        let entry = Entry::following(&last, entry);
        insert(connection, &entry).await?;
        last = entry.anchor();
    }
    if last != head {
        sqlx::query("UPDATE audit_head SET seq = $1, hash = $2")
            .bind(last.seq)
            .bind(&last.hash.0[..])
            .execute(connection)
            .await?;
    }
    Ok(())
}

async fn insert(connection: &mut DbConnection, entry: &Entry) -> Result<()> {
    let actor = &entry.author.actor;
    sqlx::query(INSERT)
        .bind(entry.seq)
        .bind(entry.at.0)
        .bind(actor.kind.as_str())
        .bind(&actor.id)
        .bind(&actor.name)
        .bind(&entry.author.request_id)
        .bind(&entry.action)
        .bind(&entry.target_kind)
        .bind(&entry.target_id)
        .bind(&entry.before)
        .bind(&entry.after)
        .bind(&entry.hash.0[..])
        .execute(connection)
        .await?;
    Ok(())
}

/// Fills in what its target was by the newest entry about it.
async fn says_something_new(connection: &mut DbConnection, entry: &mut NewEntry) -> Result<bool> {
    let newest = sqlx::query("SELECT action, state_after FROM audit_entries WHERE target_kind = $1 AND target_id = $2 ORDER BY seq DESC LIMIT 1")
        .bind(entry.target_kind)
        .bind(&entry.target_id)
        .fetch_optional(connection)
        .await?;
    let Some(newest) = newest else {
        return Ok(true);
    };
    let (action, after): (&str, Option<String>) = (newest.try_get(0)?, newest.try_get(1)?);
    if action == entry.action && after == entry.after {
        return Ok(false);
    }
    entry.before = after;
    Ok(true)
}

fn hash(bytes: &[u8]) -> Result<EntryHash> {
    let bytes = bytes
        .try_into()
        .map_err(|error| corrupt("audit hash", &error))?;
    Ok(EntryHash(bytes))
}

fn head_row(row: Option<DbRow>) -> Result<Anchor> {
    let row = row.ok_or_else(|| StoreError::Corrupt("audit_head holds no row".to_owned()))?;
    Ok(Anchor {
        seq: row.try_get(0)?,
        hash: hash(row.try_get(1)?)?,
    })
}

pub(super) async fn head(readers: &DbPool) -> Result<Anchor> {
    let row = sqlx::query("SELECT seq, hash FROM audit_head")
        .fetch_optional(readers)
        .await?;
    head_row(row)
}

fn entry_from_row(row: &DbRow) -> Result<Entry> {
    let kind: &str = row.try_get(2)?;
    Ok(Entry {
        seq: row.try_get(0)?,
        at: Timestamp(row.try_get(1)?),
        author: Author {
            actor: Actor {
                kind: ActorKind::from_name(kind).ok_or_else(|| {
                    StoreError::Corrupt(format!("audit_entries.actor_kind holds {kind:?}"))
                })?,
                id: row.try_get(3)?,
                name: row.try_get(4)?,
            },
            request_id: row.try_get(5)?,
        },
        action: row.try_get(6)?,
        target_kind: row.try_get(7)?,
        target_id: row.try_get(8)?,
        before: row.try_get(9)?,
        after: row.try_get(10)?,
        hash: hash(row.try_get(11)?)?,
    })
}

pub(super) async fn above(readers: &DbPool, seq: i64, limit: usize) -> Result<Vec<Entry>> {
    let rows = QueryBuilder::<Db>::new(SELECT)
        .push(" WHERE seq > ")
        .push_bind(seq)
        .push(" ORDER BY seq LIMIT ")
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .build()
        .fetch_all(readers)
        .await?;
    rows.iter().map(entry_from_row).collect()
}

pub(super) async fn list(
    readers: &DbPool,
    filter: &AuditFilter,
    after: Option<i64>,
    limit: usize,
) -> Result<Page<Entry>> {
    let mut query = QueryBuilder::<Db>::new(SELECT);
    query.push(" WHERE TRUE");
    if let Some(actor) = &filter.actor {
        query
            .push(" AND (actor_id = ")
            .push_bind(actor.clone())
            .push(" OR actor_name = ")
            .push_bind(actor.clone())
            .push(")");
    }
    if let Some(action) = &filter.action {
        match action.strip_suffix('*') {
            // Up to the character after the dot, as a range that the index serves.
            Some(family) => query
                .push(" AND action >= ")
                .push_bind(family.to_owned())
                .push(" AND action < ")
                .push_bind(format!("{}/", family.trim_end_matches('.'))),
            None => query.push(" AND action = ").push_bind(action.clone()),
        };
    }
    if let Some(target) = &filter.target {
        query.push(" AND target_id = ").push_bind(target.clone());
    }
    if let Some(kind) = &filter.target_kind {
        query.push(" AND target_kind = ").push_bind(kind.clone());
    }
    if let Some(from) = filter.from {
        query.push(" AND at >= ").push_bind(from.0);
    }
    if let Some(until) = filter.until {
        query.push(" AND at < ").push_bind(until.0);
    }
    if let Some(after) = after {
        query.push(" AND seq < ").push_bind(after);
    }
    let more = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    query.push(" ORDER BY seq DESC LIMIT ").push_bind(more);
    let rows = query.build().fetch_all(readers).await?;
    listing::page(&rows, limit, None, entry_from_row)
}
