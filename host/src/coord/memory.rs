//! In this process alone: what everything falls back to, and all there is without Redis.
//!
//! The memory is bounded. When too many values are kept, all are forgotten; when too many keys have
//! a rate, those that are new share one allowance a family.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    AllCells, Ask, Booked, Cells, Coord, Kept, Locks, Rates, Result, Seen, Swapped, Values,
};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::FencingToken;
use crate::domain::rate::ArrivalTime;

const VALUES_MAX: usize = 20_000;
const VALUE_BYTES_MAX: usize = 32 << 20;
const RATES_MAX: usize = 50_000;
/// There is one, for as long as the process lives.
const GENERATION: &str = "memory";

struct Entry {
    value: Vec<u8>,
    until: Timestamp,
}

#[derive(Default)]
struct Inner {
    values: HashMap<String, Entry>,
    value_bytes: usize,
    rates: HashMap<String, ArrivalTime>,
    locks: HashMap<String, (FencingToken, Timestamp)>,
    last_token: i64,
    cells: BTreeMap<String, String>,
    version: u64,
}

/// The back end.
pub struct Memory {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.values.remove(key) {
            self.value_bytes -= key.len() + entry.value.len();
        }
    }

    fn alive(&mut self, key: &str, now: Timestamp) -> Option<&Entry> {
        if self.values.get(key)?.until <= now {
            self.remove(key);
        }
        self.values.get(key)
    }

    fn put(&mut self, key: &str, value: &[u8], now: Timestamp, ttl: Duration) {
        self.remove(key);
        let bytes = key.len() + value.len();
        let is_full = |inner: &Self| {
            inner.values.len() >= VALUES_MAX || inner.value_bytes + bytes > VALUE_BYTES_MAX
        };
        if is_full(self) {
            let past = self.values.iter().filter(|(_, entry)| entry.until <= now);
            let past: Vec<String> = past.map(|(key, _)| key.clone()).collect();
            for key in past {
                self.remove(&key);
            }
        }
        if is_full(self) {
            self.values.clear();
            self.value_bytes = 0;
        }
        self.value_bytes += bytes;
        let entry = Entry {
            value: value.to_vec(),
            until: now.plus(ttl),
        };
        self.values.insert(key.to_owned(), entry);
    }

    /// The state of a key's rate; where there is no room for another, of its family's.
    fn rate(&mut self, key: &str, now: Timestamp) -> &mut ArrivalTime {
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(key) {
            self.rates.retain(|_, state| !state.is_past(now));
            if self.rates.len() >= RATES_MAX {
                let family = key.rsplit_once('/').map_or(key, |(family, _)| family);
                return self.rates.entry(format!("{family}/")).or_default();
            }
        }
        self.rates.entry(key.to_owned()).or_default()
    }

    fn holds(&self, name: &str, token: FencingToken, now: Timestamp) -> bool {
        let held = self.locks.get(name);
        held.is_some_and(|(holder, until)| *holder == token && *until > now)
    }
}

#[async_trait]
impl Values for Memory {
    async fn get(&self, key: &str) -> Result<Option<Kept>> {
        let now = self.clock.now();
        let mut inner = self.lock();
        Ok(inner.alive(key, now).map(|entry| Kept {
            value: entry.value.clone(),
            left: entry.until.since(now),
        }))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<()> {
        self.lock().put(key, value, self.clock.now(), ttl);
        Ok(())
    }

    async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let is_new = inner.alive(key, now).is_none();
        if is_new {
            inner.put(key, value, now, ttl);
        }
        Ok(is_new)
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}

#[async_trait]
impl Rates for Memory {
    async fn book(&self, asks: &[Ask]) -> Result<Vec<Booked>> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let booked = asks.iter().map(|ask| {
            let state = inner.rate(&ask.key, now);
            ask.book(state, now.0.saturating_mul(1_000))
        });
        Ok(booked.collect())
    }
}

#[async_trait]
impl Locks for Memory {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<FencingToken>> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.locks.retain(|_, (_, until)| *until > now);
        if inner.locks.contains_key(name) {
            return Ok(None);
        }
        inner.last_token += 1;
        let token = FencingToken(inner.last_token);
        inner.locks.insert(name.to_owned(), (token, now.plus(ttl)));
        Ok(Some(token))
    }

    async fn extend(&self, name: &str, token: FencingToken, ttl: Duration) -> Result<bool> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let holds = inner.holds(name, token, now);
        if holds {
            inner.locks.insert(name.to_owned(), (token, now.plus(ttl)));
        }
        Ok(holds)
    }

    async fn release(&self, name: &str, token: FencingToken) -> Result<bool> {
        let mut inner = self.lock();
        let holds = inner.holds(name, token, self.clock.now());
        if holds {
            inner.locks.remove(name);
        }
        Ok(holds)
    }
}

#[async_trait]
impl Cells for Memory {
    async fn changes(&self, seen: &Seen) -> Result<Option<AllCells>> {
        let inner = self.lock();
        let current = Seen {
            generation: GENERATION.to_owned(),
            version: inner.version,
        };
        Ok((*seen != current).then(|| AllCells {
            seen: current,
            cells: inner.cells.clone(),
        }))
    }

    async fn swap(
        &self,
        generation: &str,
        name: &str,
        expected: Option<&str>,
        new: Option<&str>,
    ) -> Result<Swapped> {
        if generation != GENERATION {
            return Ok(Swapped::OtherGeneration);
        }
        let mut inner = self.lock();
        let found = inner.cells.get(name);
        if found.map(String::as_str) != expected {
            return Ok(Swapped::Found(found.cloned()));
        }
        match new {
            Some(new) => inner.cells.insert(name.to_owned(), new.to_owned()),
            None => inner.cells.remove(name),
        };
        inner.version += 1;
        Ok(Swapped::Done)
    }
}

#[async_trait]
impl Coord for Memory {
    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coord::conformance;
    use crate::domain::rate::Rate;
    use crate::wire::SystemClock;

    async fn open() -> ((), Arc<dyn Coord>) {
        ((), Arc::new(Memory::new(Arc::new(SystemClock))))
    }

    conformance::cases!(open);

    #[tokio::test]
    async fn a_flood_of_keys_does_not_grow_the_memory() {
        let memory = Memory::new(Arc::new(SystemClock));
        let mut refused = 0;
        for number in 0..60_000_u32 {
            let ask = Ask {
                key: format!("flood/{number}"),
                rate: Rate::per_minute(1, 1),
                wanted: 1,
                ahead_us: 0,
            };
            let booked = memory.book(&[ask]).await.expect("booked");
            refused += usize::from(booked[0].granted == 0);
            memory
                .put(&number.to_string(), b"value", Duration::from_secs(60))
                .await
                .expect("put");
        }
        let inner = memory.lock();
        let kept = inner.rates.len();
        assert!(kept <= RATES_MAX + 1, "{kept}");
        assert_eq!(refused, 60_000 - kept);
        assert!(inner.values.len() <= VALUES_MAX);
        let bytes: usize = inner
            .values
            .iter()
            .map(|(key, entry)| key.len() + entry.value.len())
            .sum();
        assert_eq!(bytes, inner.value_bytes);
    }
}
