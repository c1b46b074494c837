//! The audit trail, and the keys that processes say they have.

use std::time::Duration;

use async_trait::async_trait;

use super::{MemoryStore, Tables, page, within};
use crate::domain::audit::{Anchor, Entry, NewEntry};
use crate::store::{AuditFilter, AuditLog, AuditStore, Page, ProcessKeys, Result, VaultStore};

impl Tables {
    pub(super) fn append(&mut self, entries: Vec<NewEntry>) {
        for mut entry in entries {
            if entry.once {
                let about = |known: &&Entry| {
                    known.target_kind == entry.target_kind && known.target_id == entry.target_id
                };
                let newest = self.trail.iter().rev().find(about);
                if newest.is_some_and(|newest| {
                    newest.action == entry.action && newest.after == entry.after
                }) {
                    continue;
                }
                entry.before = newest.and_then(|newest| newest.after.clone());
            }
            let entry = Entry::following(&self.end(), entry);
            self.trail.push(entry);
        }
    }

    fn end(&self) -> Anchor {
        self.trail.last().map_or(Anchor::START, Entry::anchor)
    }
}

fn wanted(filter: &AuditFilter, entry: &Entry) -> bool {
    let actor = &entry.author.actor;
    let fits =
        |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let action = filter.action.as_deref();
    (fits(&filter.actor, &actor.id) || fits(&filter.actor, &actor.name))
        && action.is_none_or(|action| match action.strip_suffix('*') {
            Some(family) => entry.action.starts_with(family),
            None => entry.action == action,
        })
        && fits(&filter.target, &entry.target_id)
        && fits(&filter.target_kind, &entry.target_kind)
        && within(entry.at, filter.from, filter.until)
}

#[async_trait]
impl AuditLog for MemoryStore {
    async fn audit_entries(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Page<Entry>> {
        let filter = filter.clone();
        self.transact(move |tables, _| {
            let all = tables.trail.iter().map(|entry| (entry.seq, entry.clone()));
            Ok(page(all, after, limit, |entry| wanted(&filter, entry)))
        })
        .await
    }

    async fn audit_entries_above(&self, seq: i64, limit: usize) -> Result<Vec<Entry>> {
        self.transact(move |tables, _| {
            let above = tables.trail.iter().filter(|entry| entry.seq > seq);
            Ok(above.take(limit).cloned().collect())
        })
        .await
    }

    async fn audit_head(&self) -> Result<Anchor> {
        self.transact(move |tables, _| Ok(tables.end())).await
    }
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn append_audit(&self, entries: Vec<NewEntry>) -> Result<()> {
        self.transact(move |tables, _| {
            tables.append(entries.clone());
            Ok(())
        })
        .await
    }
}

fn milliseconds(patience: Duration) -> i64 {
    i64::try_from(patience.as_millis()).unwrap_or(i64::MAX)
}

#[async_trait]
impl VaultStore for MemoryStore {
    async fn note_keys(&self, keys: ProcessKeys, patience: Duration) -> Result<()> {
        let clock = self.shared.clock.clone();
        self.transact(move |tables, _| {
            let now = clock.now();
            let known = &mut tables.process_keys;
            known.insert(keys.process, (keys.clone(), now));
            let gone = now.0.saturating_sub(milliseconds(patience));
            known.retain(|process, (_, seen)| *process == keys.process || seen.0 > gone);
            Ok(())
        })
        .await
    }

    async fn keys_in_use(&self, patience: Duration) -> Result<Vec<ProcessKeys>> {
        let clock = self.shared.clock.clone();
        self.transact(move |tables, _| {
            let gone = clock.now().0.saturating_sub(milliseconds(patience));
            let known = tables.process_keys.values();
            let alive = known.filter(|(_, seen)| seen.0 > gone);
            Ok(alive.map(|(keys, _)| keys.clone()).collect())
        })
        .await
    }
}
