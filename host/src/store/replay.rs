//! Replays on record.

use std::sync::Arc;

use async_trait::async_trait;

use super::{CatalogEpoch, Page, Result};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::NewDelivery;
use crate::domain::event::Event;
use crate::domain::id::{EventId, ReplayId};
use crate::domain::replay::{Outcomes, Replay, ReplayState};

/// The next page of a replay: what is to be delivered again.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// Which replay.
    pub replay: Replay,
    /// The events to deliver again, newest first.
    pub events: Vec<Arc<Event>>,
    /// The last event gone through; `None`: there was none.
    pub cursor: Option<EventId>,
    /// Deliveries to be made of them; empty where those that failed are made due again.
    pub deliveries: Vec<NewDelivery>,
    /// Whether there are no more.
    pub is_last: bool,
    /// What the deliveries were matched against.
    pub epoch: CatalogEpoch,
    /// When.
    pub at: Timestamp,
    /// Whether a broker is to be told of the deliveries, by the sweep; else claims find them.
    pub is_queued: bool,
}

/// What became of a [`ReplayStep`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// Written; the replay as it is now.
    Written(Box<Replay>),
    /// Another process went on with it, or it was cancelled: nothing was written.
    Moved,
    /// The catalogue has changed since: match again.
    StaleCatalog,
}

/// Replays.
#[async_trait]
pub trait ReplayStore: Send + Sync + 'static {
    /// Adds one.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn put_replay(&self, replay: Replay) -> Result<()>;

    /// The replay, or `None`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn replay(&self, id: ReplayId) -> Result<Option<Replay>>;

    /// Replays after the cursor `after` (exclusive), newest first; in this state, where one is
    /// given.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn replays(
        &self,
        state: Option<ReplayState>,
        after: Option<ReplayId>,
        limit: usize,
    ) -> Result<Page<Replay>>;

    /// Writes a page's deliveries and moves the replay on, in one transaction, unless it has moved
    /// since. Deliveries that failed are made due again where their subscription is there and on.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn step_replay(&self, step: ReplayStep) -> Result<Stepped>;

    /// Stops one that runs. False: it does not run.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn cancel_replay(&self, id: ReplayId, at: Timestamp) -> Result<bool>;

    /// How many of a replay's deliveries are in which state, of some hundred thousand at most.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn replay_outcomes(&self, id: ReplayId) -> Result<Outcomes>;

    /// How many deliveries of an event failed, to one subscription where one is given.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn failed_of(
        &self,
        event: EventId,
        subscription: Option<crate::domain::id::SubscriptionId>,
    ) -> Result<u64>;
}
