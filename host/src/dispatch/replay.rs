//! Carrying replays out: page by page, from the newest event to the oldest, each page in one
//! transaction that moves the replay on. A process that dies in between loses nothing; several
//! that work on the same replay do each page once. So that they rather do not, the one at it has a
//! lock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::accept::Accepter;
use super::operational;
use crate::coord::Coord;
use crate::domain::clock::{Clock, within};
use crate::domain::delivery::{FencingToken, NewDelivery};
use crate::domain::event::Event;
use crate::domain::id::EventId;
use crate::domain::replay::{Replay, ReplayFilter, ReplayScope, ReplayState};
use crate::queue::Queue;
use crate::store::{EventFilter, ReplayStep, Stepped, Store, StoreError};

/// Events of one page.
const PAGE: usize = 100;
/// Replays looked at in one round.
const REPLAYS_MAX: usize = 20;
/// A look without being told: what another process was doing when it died.
const LOOK: Duration = Duration::from_secs(2);
/// How long the lock of a replay outlives the process that works on it.
const LOCK: Duration = Duration::from_secs(15);
/// Pages that a dry run counts.
const COUNTED_PAGES_MAX: usize = 100;

/// Replays events.
pub struct Replayer {
    /// Where events and replays are.
    pub store: Arc<dyn Store>,
    /// Whom to wake.
    pub queue: Arc<dyn Queue>,
    /// Matches events against subscriptions.
    pub accepter: Arc<Accepter>,
    /// Where one process tells the others that it is at a replay.
    pub coord: Arc<dyn Coord>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Told of new replays.
    pub wake: Notify,
}

/// What a replay would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Events gone through.
    pub events: u64,
    /// Deliveries made due or created.
    pub deliveries: u64,
    /// Whether that is all of them.
    pub is_complete: bool,
}

/// A page of a replay's events with what is to be delivered.
struct Planned {
    events: Vec<Arc<Event>>,
    cursor: Option<EventId>,
    deliveries: Vec<NewDelivery>,
    is_last: bool,
}

impl Replayer {
    /// Carries out what is on record until told to stop.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.round() => {}
            }
            let woken = within(&*self.clock, LOOK, self.wake.notified());
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = woken => {}
            }
        }
    }

    async fn round(&self) {
        let running = self
            .store
            .replays(Some(ReplayState::Running), None, REPLAYS_MAX);
        let running = match running.await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "replays wait for the store");
                return;
            }
        };
        for replay in running.items {
            let id = replay.id;
            let lock = format!("replay/{id}");
            let Ok(Some(token)) = self.coord.acquire(&lock, LOCK).await else {
                continue;
            };
            if let Err(error) = self.carry_out(replay, &lock, token).await {
                tracing::warn!(replay = %id, %error, "the replay stopped for a moment");
            }
            let _ = self.coord.release(&lock, token).await;
        }
    }

    async fn carry_out(
        &self,
        mut replay: Replay,
        lock: &str,
        token: FencingToken,
    ) -> Result<(), StoreError> {
        while replay.state == ReplayState::Running {
            if let Ok(false) = self.coord.extend(lock, token, LOCK).await {
                // Another process took it over, or nobody knows of it any more.
                return Ok(());
            }
            let snapshot = self.accepter.snapshots.latest().await?;
            let now = self.clock.now();
            let planned = self
                .plan(&replay.filter, replay.scope, replay.cursor)
                .await?;
            let step = ReplayStep {
                replay: replay.clone(),
                events: planned.events,
                cursor: planned.cursor,
                deliveries: planned.deliveries,
                is_last: planned.is_last,
                epoch: snapshot.epoch,
                at: now,
                is_queued: self.queue.is_told(),
            };
            match self.store.step_replay(step).await? {
                Stepped::Written(moved) => {
                    self.queue.wake(now);
                    replay = *moved;
                }
                Stepped::StaleCatalog => {}
                Stepped::Moved => match self.store.replay(replay.id).await? {
                    Some(moved) => replay = moved,
                    None => return Ok(()),
                },
            }
        }
        tracing::info!(replay = %replay.id, events = replay.events, deliveries = replay.deliveries, state = replay.state.as_str(), "replay ended");
        Ok(())
    }

    async fn plan(
        &self,
        filter: &ReplayFilter,
        scope: ReplayScope,
        cursor: Option<EventId>,
    ) -> Result<Planned, StoreError> {
        let (events, resume, is_last) = match filter.event {
            Some(id) => (
                self.store.event(id).await?.into_iter().collect(),
                None,
                true,
            ),
            None => {
                let wanted = EventFilter {
                    event_type: filter
                        .event_type
                        .as_ref()
                        .map(|name| name.as_str().to_owned()),
                    correlation_key: filter.correlation_key.clone(),
                    from: filter.from,
                    until: filter.until,
                };
                let page = self.store.events(&wanted, cursor, PAGE).await?;
                let resume = page.resume.and_then(|id| id.parse().ok());
                (page.items, resume, !page.more)
            }
        };
        let cursor = resume.or_else(|| events.last().map(|event: &Event| event.id));
        // The gateway's own events only for whoever asks for them.
        let names_one = filter.event.is_some() || filter.event_type.is_some();
        let events: Vec<Arc<Event>> = events
            .into_iter()
            .filter(|event| {
                names_one || !event.event_type.as_str().starts_with(operational::PREFIX)
            })
            .map(Arc::new)
            .collect();
        let mut deliveries = Vec::new();
        if scope == ReplayScope::All {
            let snapshot = self.accepter.snapshots.current();
            deliveries = self
                .accepter
                .fan_out(&snapshot, &events, self.clock.now())
                .await;
            if let Some(only) = filter.subscription {
                deliveries.retain(|delivery| delivery.subscription_id == only);
            }
        }
        Ok(Planned {
            events,
            cursor,
            deliveries,
            is_last,
        })
    }

    /// What a replay would do, without doing it; beyond some thousands of events the beginning.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn count(
        &self,
        filter: &ReplayFilter,
        scope: ReplayScope,
    ) -> Result<Count, StoreError> {
        let (mut count, mut cursor) = (Count::default(), None);
        for _ in 0..COUNTED_PAGES_MAX {
            let planned = self.plan(filter, scope, cursor).await?;
            count.events += u64::try_from(planned.events.len()).unwrap_or(u64::MAX);
            count.deliveries += u64::try_from(planned.deliveries.len()).unwrap_or(u64::MAX);
            if scope == ReplayScope::Failed {
                for event in &planned.events {
                    count.deliveries += self.store.failed_of(event.id, filter.subscription).await?;
                }
            }
            cursor = planned.cursor;
            if planned.is_last {
                count.is_complete = true;
                break;
            }
        }
        Ok(count)
    }
}
