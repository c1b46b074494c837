//! What several processes share beside the store: markers and caches, rates, locks, and small
//! state that all of them follow.
//!
//! Invariant: nothing here is the truth. Whatever is lost, stale or forged costs time or exactness,
//! and never an event or a second one: the store decides ([ADR 0013]). Every back end, and the
//! decorator that falls back from one to another, passes [`conformance`].
//!
//! [ADR 0013]: ../../../docs/adr/0013-redis-is-a-hint.md

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::delivery::FencingToken;
use crate::domain::rate::{ArrivalTime, Rate};

#[cfg(test)]
mod conformance;
pub mod fallback;
pub mod markers;
pub mod memory;
pub mod redis;
pub mod sealed;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum CoordError {
    /// No answer, or no connection: the next call would fare no better.
    #[error("no answer: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An answer that says no: another call may succeed.
    #[error("refused: {0}")]
    Refused(String),
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, CoordError>;

/// A value with the time that is left to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The value.
    pub value: Vec<u8>,
    /// Until it is forgotten.
    pub left: Duration,
}

/// Values that may be forgotten at any time.
#[async_trait]
pub trait Values: Send + Sync + 'static {
    /// The value, or `None`.
    ///
    /// # Errors
    /// Each kind of [`CoordError`], here and below.
    async fn get(&self, key: &str) -> Result<Option<Kept>>;

    /// Puts or replaces a value for `ttl`.
    ///
    /// # Errors
    /// As above.
    async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<()>;

    /// Puts a value where there is none. False: there is one, which stays.
    ///
    /// # Errors
    /// As above.
    async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool>;

    /// Forgets a value.
    ///
    /// # Errors
    /// As above.
    async fn remove(&self, key: &str) -> Result<()>;
}

/// So many calls asked for under a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose. What stands before the last `/` is its family.
    pub key: String,
    /// What it may.
    pub rate: Rate,
    /// How many are wanted.
    pub wanted: usize,
    /// How far beyond now the caller knows its arrival time to be, in microseconds: taken up where
    /// the state was lost.
    pub ahead_us: i64,
}

/// What was booked of an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// So many may go.
    pub granted: usize,
    /// How far beyond now the arrival time is after it, in microseconds.
    pub ahead_us: i64,
}

impl Ask {
    /// Books what there is room for at `state`, which becomes the state after it.
    #[must_use]
    pub fn book(&self, state: &mut ArrivalTime, now_us: i64) -> Booked {
        let known = ArrivalTime::ahead(now_us, self.ahead_us);
        let current = if state.ahead_of(now_us) > 0 {
            *state
        } else {
            known
        };
        let (granted, after) = self.rate.take(current, now_us, self.wanted);
        *state = after;
        Booked {
            granted,
            ahead_us: after.ahead_of(now_us),
        }
    }
}

/// Rates (GCRA) that hold over everyone who asks.
#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Books for each what there is room for, in order, all in one step.
    ///
    /// # Errors
    /// As above.
    async fn book(&self, asks: &[Ask]) -> Result<Vec<Booked>>;
}

/// Locks that end by themselves. Each holder has a token higher than all before; what a lock
/// guards must be right without it, as a holder may be frozen past its end.
#[async_trait]
pub trait Locks: Send + Sync + 'static {
    /// Takes a lock for `ttl`, or `None`: another has it.
    ///
    /// # Errors
    /// As above.
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<FencingToken>>;

    /// Holds it for `ttl` from now. False: it was lost.
    ///
    /// # Errors
    /// As above.
    async fn extend(&self, name: &str, token: FencingToken, ttl: Duration) -> Result<bool>;

    /// Gives it back. False: it was lost.
    ///
    /// # Errors
    /// As above.
    async fn release(&self, name: &str, token: FencingToken) -> Result<bool>;
}

/// How much of the cells somebody has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Another one where everything was lost, or another back end answers.
    pub generation: String,
    /// Rises with every change.
    pub version: u64,
}

/// All cells at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllCells {
    /// Which version.
    pub seen: Seen,
    /// By name.
    pub cells: BTreeMap<String, String>,
}

/// What became of a swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// It is so now.
    Done,
    /// It held something else, and still does.
    Found(Option<String>),
    /// The cells are not those that the caller has seen: look at them first.
    OtherGeneration,
}

/// Small texts that everyone follows, changed by compare and swap. None is empty.
#[async_trait]
pub trait Cells: Send + Sync + 'static {
    /// All of them, unless nothing has changed since `seen`.
    ///
    /// # Errors
    /// As above.
    async fn changes(&self, seen: &Seen) -> Result<Option<AllCells>>;

    /// Changes a cell from `expected` to `new`; `None` is a cell that is not there.
    ///
    /// # Errors
    /// As above; whether it was changed is then not known.
    async fn swap(
        &self,
        generation: &str,
        name: &str,
        expected: Option<&str>,
        new: Option<&str>,
    ) -> Result<Swapped>;
}

/// A whole back end.
#[async_trait]
pub trait Coord: Values + Rates + Locks + Cells {
    /// A round trip.
    ///
    /// # Errors
    /// As above.
    async fn ping(&self) -> Result<()>;

    /// Whether other processes may use it too.
    fn is_shared(&self) -> bool;
}
