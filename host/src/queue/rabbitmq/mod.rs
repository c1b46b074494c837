//! The queue over RabbitMQ, in front of a shared store.
//!
//! Invariant: the store stays the truth. Messages say which delivery to look at and when; leases,
//! fencing and outcomes are the store's, so a message that comes twice, late or never costs work
//! and no event ([ADR 0012](../../../../docs/adr/0012-the-broker-says-where-to-look.md)).
//!
//! What the store holds itself is claimed from it as without a broker: what was given back by
//! `inbox` or waits for its order, and everything new while the broker is away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::embedded::{EmbeddedQueue, IDLE_LOOK};
use super::{Batch, Queue, Room};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{LeaseResult, Transition};
use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::store::{Caps, OutboxStore, Queued, Recorded, Store, StoreError, Sweep, Traffic};

mod dead;
mod figures;
mod inbox;
mod link;
mod message;
mod publisher;
#[cfg(test)]
mod tests;
mod topology;

pub use figures::Figures;
use inbox::{Inbox, Told};
pub use link::LinkError;
use link::{Consuming, Link};
use publisher::{Publisher, Publishing, Route};

/// A message that has not come out for so long after it was to is published anew.
pub const MISSING_AFTER: Duration = Duration::from_secs(15);
/// A broker that takes no answers for so long is gone, or will be soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Nothing is published anew while so many messages wait: what is looked for may be among them.
const SHORT: u64 = 2_000;
/// Deliveries that one sweep publishes, or hands over.
const SWEEP_MAX: usize = 500;
/// What part of the prefetched messages may wait for the room of their subscriptions.
const HELD_PART: u16 = 2;
/// What part of the live messages are prefetched of replays.
const REPLAY_PREFETCH_PART: u16 = 4;
/// Acknowledgements that are sent together.
const ACKS_MAX: usize = 256;

/// How to use a broker.
#[derive(Clone)]
pub struct RabbitConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps`.
    pub url: String,
    /// Authorities of the broker's certificate beside those that are publicly trusted, PEM.
    pub ca_pem: Option<String>,
    /// Before the names of queues and exchanges.
    pub prefix: String,
    /// Messages of a queue that this process has and has not settled.
    pub prefetch: u16,
    /// Whether this process delivers; else it publishes only.
    pub consumes: bool,
    /// When a message that does not come is published anew: [`MISSING_AFTER`].
    pub missing_after: Duration,
    /// Uniform in 0.0..1.0.
    pub jitter: fn() -> f64,
}

/// The message of a delivery that was handed out.
struct Ticket {
    acker: Acker,
    subscription_id: SubscriptionId,
    traffic: Traffic,
}

/// An answer to a message.
struct Answer {
    acker: Acker,
    /// Back into its queue.
    again: bool,
}

/// Messages whose claim is not answered; they go back when it fails or nobody waits for it.
struct Taking<'a> {
    inbox: &'a Inbox,
    told: Vec<Told>,
}

impl Taking<'_> {
    fn done(mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.inbox.put_back(std::mem::take(&mut self.told));
    }
}

/// The queue.
pub struct RabbitQueue<S: ?Sized> {
    /// What the store holds.
    direct: Arc<EmbeddedQueue<S>>,
    outbox: Arc<dyn OutboxStore>,
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    publisher: Publisher,
    answers: mpsc::UnboundedSender<Answer>,
    tickets: Mutex<HashMap<DeliveryId, Ticket>>,
    /// Whose turn it is when there is work on both sides.
    direct_first: AtomicBool,
    tasks: Vec<JoinHandle<()>>,
}

impl<S: ?Sized> Drop for RabbitQueue<S> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl<S: Store + ?Sized> RabbitQueue<S> {
    /// A queue before `outbox`, which is the store of `direct`. It connects in the background.
    ///
    /// # Errors
    /// `Url`.
    pub fn start(
        config: &RabbitConfig,
        direct: EmbeddedQueue<S>,
        outbox: Arc<dyn OutboxStore>,
        figures: Figures,
    ) -> Result<Self, LinkError> {
        let link = Arc::new(Link::new(config, figures)?);
        let inbox = Arc::new(Inbox::new((config.prefetch / HELD_PART).into()));
        let direct = Arc::new(direct);
        let clock = direct.leases.clock.clone();
        let (publisher, publishing) = Publisher::start(Publishing {
            link: link.clone(),
            outbox: outbox.clone(),
            clock: clock.clone(),
            given: {
                let (direct, clock) = (direct.clone(), clock.clone());
                Arc::new(move || direct.wake(clock.now()))
            },
        });
        let (answers, answering) = mpsc::unbounded_channel();
        let consuming = config.consumes.then(|| Consuming {
            inbox: inbox.clone(),
            prefetch: config.prefetch,
            replay_prefetch: (config.prefetch / REPLAY_PREFETCH_PART).max(1),
        });
        let (linked, jitter) = (link.clone(), config.jitter);
        let mut tasks = vec![
            publishing,
            tokio::spawn(answer(answering)),
            tokio::spawn(async move { linked.run(consuming, jitter).await }),
        ];
        if config.consumes {
            let sweeping = Sweeping {
                link: link.clone(),
                outbox: outbox.clone(),
                clock: clock.clone(),
                inbox: inbox.clone(),
                publisher: publisher.clone(),
                direct: direct.clone(),
                missing_after: config.missing_after,
            };
            tasks.push(tokio::spawn(sweeping.run()));
        }
        Ok(Self {
            store: direct.leases.store.clone(),
            direct,
            outbox,
            clock,
            link,
            inbox,
            publisher,
            answers,
            tickets: Mutex::default(),
            direct_first: AtomicBool::new(false),
            tasks,
        })
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<DeliveryId, Ticket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(&self, acker: Acker) {
        let _ = self.answers.send(Answer {
            acker,
            again: false,
        });
    }

    /// Leases what the broker told of.
    async fn told(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Option<Batch>, StoreError> {
        if self.inbox.is_empty() {
            return Ok(None);
        }
        let now = self.clock.now();
        let Room { caps, more_at } = room();
        let taken = self.inbox.take(limit, caps, now);
        if let Some(at) = taken.next_due.into_iter().chain(more_at).min() {
            self.direct.wake(at);
        }
        self.give_back(taken.held_back).await;
        if taken.told.is_empty() {
            return Ok(None);
        }
        let taking = Taking {
            inbox: &self.inbox,
            told: taken.told,
        };
        let ids = taking.told.iter().map(|told| told.queued.id).collect();
        let request = self.direct.leases.request(now, limit, Caps::new());
        let claiming = self.outbox.claim_of(request, ids);
        let claim = self.direct.leases.claim(now, claiming).await?;
        let leased = |id| claim.leased.iter().any(|leased| leased.id == id);
        let mut tickets = self.tickets();
        for told in taking.done() {
            let id = told.queued.id;
            self.link.figures.taken(now.since(told.queued.due));
            let ticket = Ticket {
                acker: told.acker,
                subscription_id: told.queued.subscription_id,
                traffic: told.traffic,
            };
            // What is not leased is done, or somebody else's, or the store's again; of a message
            // that came twice one is enough.
            let spare = if leased(id) {
                tickets.insert(id, ticket)
            } else {
                Some(ticket)
            };
            if let Some(spare) = spare {
                self.acknowledge(spare.acker);
            }
        }
        drop(tickets);
        Ok((!claim.leased.is_empty()).then_some(Batch {
            leased: claim.leased,
            epoch: claim.epoch,
        }))
    }

    /// Lets the store hold what waits for the room of its subscription.
    async fn give_back(&self, held_back: Vec<Told>) {
        if held_back.is_empty() {
            return;
        }
        let ids: Vec<DeliveryId> = held_back.iter().map(|told| told.queued.id).collect();
        let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
        match self.outbox.take_back(ids).await {
            Ok(()) => {
                self.link.figures.held_back.inc_by(count);
                for told in held_back {
                    self.acknowledge(told.acker);
                }
                // When they can go, whoever makes room wakes the queue.
                self.direct.wake(self.clock.now().plus(IDLE_LOOK));
            }
            Err(error) => {
                tracing::warn!(%error, "deliveries that are held back stay in memory");
                self.inbox.put_back(held_back);
            }
        }
    }
}

#[async_trait]
impl<S: Store + ?Sized> Queue for RabbitQueue<S> {
    async fn next(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Batch, StoreError> {
        loop {
            let direct_first = self.direct_first.fetch_xor(true, Ordering::Relaxed);
            for is_direct in [direct_first, !direct_first] {
                let batch = if is_direct {
                    self.direct.look(limit, room).await?
                } else {
                    self.told(limit, room).await?
                };
                if let Some(batch) = batch {
                    return Ok(batch);
                }
            }
            tokio::select! {
                () = self.inbox.arrived() => {}
                () = self.direct.wait() => {}
            }
        }
    }

    async fn settle(&self, result: LeaseResult) -> Result<Recorded, StoreError> {
        let id = result.id;
        let due = match result.transition {
            Transition::RetryAt(due) => Some(due),
            _ => None,
        };
        let given_up = result.transition == Transition::Failed;
        let parked = result.transition == Transition::Parked;
        let recorded = self.direct.leases.settle(result).await;
        let ticket = self.tickets().remove(&id);
        let written = matches!(recorded, Ok(Recorded::Written));
        match (&ticket, due) {
            (Some(ticket), Some(due)) if written => {
                let queued = Queued {
                    id,
                    subscription_id: ticket.subscription_id,
                    due,
                };
                let route = match ticket.traffic {
                    Traffic::Live => Route::Process,
                    Traffic::Replays => Route::Replay,
                };
                self.publisher.publish(queued, route);
            }
            // The store holds it.
            (None, Some(due)) if written => self.direct.wake(due),
            _ => {}
        }
        if parked
            && written
            && ticket.is_some()
            && let Err(error) = self.outbox.take_back(vec![id]).await
        {
            tracing::warn!(delivery = %id, %error, "a delivery that is held back is found by the sweep");
        }
        if given_up && written {
            self.tell_of_the_dead(id, ticket.as_ref()).await;
        }
        if let Some(Ticket { acker, .. }) = ticket {
            // After the commit: what is not recorded comes again.
            let again = recorded.is_err();
            let _ = self.answers.send(Answer { acker, again });
        }
        recorded
    }

    fn wake(&self, due: Timestamp) {
        self.direct.wake(due);
    }

    fn room_again(&self, subscriptions: &[SubscriptionId], now: Timestamp) {
        self.direct.room_again(subscriptions, now);
        // What the broker told of and may not go waits here.
        self.direct.nudge();
    }

    fn is_told(&self) -> bool {
        self.link.is_up()
    }

    fn tell(&self, deliveries: Vec<Queued>) {
        for queued in deliveries {
            self.publisher.publish(queued, Route::Process);
        }
    }
}

/// Connects, declares what is missing, and tells how many messages wait.
///
/// # Errors
/// Each kind of [`LinkError`].
pub async fn check(config: &RabbitConfig) -> Result<u64, LinkError> {
    let link = Link::new(config, Figures::default())?;
    let session = link.open().await?;
    let depths = link.topology.declare_queues(&session.publish).await?;
    Ok(depths.process + depths.replay)
}

/// Answers messages. Their channel may be gone: then the broker hands them out again.
async fn answer(mut answers: mpsc::UnboundedReceiver<Answer>) {
    let mut batch = Vec::with_capacity(ACKS_MAX);
    while answers.recv_many(&mut batch, ACKS_MAX).await > 0 {
        let sent = batch.drain(..).map(|Answer { acker, again }| async move {
            if again {
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                acker.nack(requeue).await
            } else {
                acker.ack(BasicAckOptions::default()).await
            }
        });
        let sent = futures_util::future::join_all(sent);
        // A broker that is frozen takes none, and its session ends.
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, sent).await;
    }
}

/// Looks after what the broker should hold.
struct Sweeping<S: ?Sized> {
    link: Arc<Link>,
    outbox: Arc<dyn OutboxStore>,
    clock: Arc<dyn Clock>,
    inbox: Arc<Inbox>,
    publisher: Publisher,
    direct: Arc<EmbeddedQueue<S>>,
    missing_after: Duration,
}

impl<S: Store + ?Sized> Sweeping<S> {
    async fn run(self) {
        loop {
            tokio::time::sleep(IDLE_LOOK).await;
            if let Err(error) = self.round().await {
                tracing::warn!(%error, "the sweep waits for the store");
            }
            // What the store holds is looked for even while the broker has work all the time.
            self.direct.wake(self.clock.now());
        }
    }

    async fn round(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let missing_ms = i64::try_from(self.missing_after.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(now.0.saturating_sub(missing_ms));
        if !self.link.is_up() {
            let handed_over = self.outbox.hand_over(before, SWEEP_MAX).await?;
            self.link.figures.handed_over.inc_by(handed_over);
            return Ok(());
        }
        let depths = self.link.depths();
        for (traffic, route, depth) in [
            (Traffic::Live, Route::Process, depths.process),
            (Traffic::Replays, Route::Replay, depths.replay),
        ] {
            let here = u64::try_from(self.inbox.len(traffic)).unwrap_or(u64::MAX);
            let mut waiting = depth.saturating_add(here);
            while waiting < SHORT {
                let sweep = Sweep {
                    traffic,
                    before,
                    now,
                    limit: SWEEP_MAX,
                };
                let found = self.outbox.sweep(sweep).await?;
                let count = u64::try_from(found.len()).unwrap_or(u64::MAX);
                self.link.figures.swept.inc_by(count);
                for queued in &found {
                    self.publisher.publish(*queued, route);
                }
                waiting += count;
                if found.len() < SWEEP_MAX {
                    break;
                }
            }
        }
        Ok(())
    }
}
