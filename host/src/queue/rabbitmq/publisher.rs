//! Publishing with confirms, many messages under way at a time.
//!
//! Invariant: a delivery whose message was not confirmed is given to the store, or stays written
//! down as held by the broker and is found by the sweep. Nobody waits for a confirm.

use std::sync::Arc;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation, PublisherConfirm};
use tokio::sync::{Semaphore, mpsc};

use super::link::{Link, Session};
use super::message;
use crate::domain::clock::Clock;
use crate::domain::id::DeliveryId;
use crate::store::{OutboxStore, Queued};

/// Messages that one batch takes.
const BATCH_MAX: usize = 256;
/// Batches whose confirms are waited for.
const BATCHES_UNCONFIRMED_MAX: usize = 32;
/// Messages that wait for a batch; beyond, the sweep publishes them.
const WAITING_MAX: usize = 65_536;
/// Kept on the broker's disk (AMQP 0-9-1, basic.delivery-mode).
const PERSISTENT: u8 = 2;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To be delivered, when it is due.
    Process,
    /// The same, apart from live traffic.
    Replay,
    /// Given up.
    Dead,
}

/// A message to be published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) queued: Queued,
    pub(super) route: Route,
}

/// A handle on the task that publishes.
#[derive(Clone)]
pub(super) struct Publisher {
    outgoing: mpsc::Sender<Outgoing>,
}

/// What the task works with.
pub(super) struct Publishing {
    pub(super) link: Arc<Link>,
    pub(super) outbox: Arc<dyn OutboxStore>,
    pub(super) clock: Arc<dyn Clock>,
    /// Told when deliveries were given to the store.
    pub(super) given: Arc<dyn Fn() + Send + Sync>,
}

impl Publisher {
    pub(super) fn start(publishing: Publishing) -> (Self, tokio::task::JoinHandle<()>) {
        let (outgoing, queue) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(Arc::new(publishing).run(queue));
        (Self { outgoing }, task)
    }

    /// Never waits.
    pub(super) fn publish(&self, queued: Queued, route: Route) {
        if self.outgoing.try_send(Outgoing { queued, route }).is_err() {
            tracing::debug!(delivery = %queued.id, "too much waits to be published; the sweep finds it");
        }
    }
}

impl Publishing {
    async fn run(self: Arc<Self>, mut queue: mpsc::Receiver<Outgoing>) {
        let batches = Arc::new(Semaphore::new(BATCHES_UNCONFIRMED_MAX));
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let Some(session) = self.link.session() else {
                self.give_back(&batch).await;
                batch.clear();
                continue;
            };
            let Ok(permit) = batches.clone().acquire_owned().await else {
                return;
            };
            let (publishing, batch) = (self.clone(), std::mem::take(&mut batch));
            let sent = tokio::select! {
                sent = join_all(batch.iter().map(|outgoing| self.send(&session, outgoing))) => sent,
                () = session.over() => {
                    self.give_back(&batch).await;
                    continue;
                }
            };
            tokio::spawn(async move {
                let unconfirmed = publishing.confirm(&session, &batch, sent).await;
                publishing.give_back(&unconfirmed).await;
                drop(permit);
            });
        }
    }

    async fn send(
        &self,
        session: &Session,
        outgoing: &Outgoing,
    ) -> lapin::Result<PublisherConfirm> {
        let (exchange, key) = self.place(outgoing);
        let options = BasicPublishOptions {
            // What no queue takes comes back, rather than being confirmed and dropped.
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(outgoing.queued.id.to_string().into());
        let body = message::encode(&outgoing.queued);
        session
            .publish
            .basic_publish(exchange, key, options, &body, properties)
            .await
    }

    /// Exchange and routing key.
    fn place(&self, outgoing: &Outgoing) -> (ShortString, ShortString) {
        let topology = &self.link.topology;
        let delay = outgoing.queued.due.since(self.clock.now());
        let at_once = || {
            let queue = match outgoing.route {
                Route::Process => &topology.process,
                Route::Replay => &topology.replay,
                Route::Dead => &topology.dead,
            };
            ("".into(), queue.clone())
        };
        match outgoing.route {
            Route::Dead => at_once(),
            Route::Process | Route::Replay => topology.delayed(delay).unwrap_or_else(at_once),
        }
    }

    /// Waits for the confirms; returns what has none when the session is over.
    async fn confirm(
        &self,
        session: &Session,
        batch: &[Outgoing],
        sent: Vec<lapin::Result<PublisherConfirm>>,
    ) -> Vec<Outgoing> {
        let mut is_confirmed = vec![false; batch.len()];
        let mut confirms: FuturesUnordered<_> = sent
            .into_iter()
            .enumerate()
            .filter_map(|(index, sent)| Some(sent.ok()?.map(move |confirm| (index, confirm))))
            .collect();
        let mut over = std::pin::pin!(session.over());
        loop {
            let next = tokio::select! {
                next = confirms.next() => next,
                () = &mut over => None,
            };
            match next {
                Some((index, Ok(Confirmation::Ack(None)))) => is_confirmed[index] = true,
                // Somebody deleted the queue.
                Some((_, Ok(Confirmation::Ack(Some(_))))) => session.misplaced.notify_one(),
                Some((_, Ok(_) | Err(_))) => {}
                None => break,
            }
        }
        let confirmed = is_confirmed.iter().filter(|confirmed| **confirmed).count();
        let figures = &self.link.figures;
        figures
            .published
            .inc_by(u64::try_from(confirmed).unwrap_or(u64::MAX));
        batch
            .iter()
            .zip(is_confirmed)
            .filter_map(|(outgoing, confirmed)| (!confirmed).then_some(*outgoing))
            .collect()
    }

    /// Lets the store hold what the broker may not have. If it has it after all, its message finds
    /// nothing to do.
    async fn give_back(&self, unconfirmed: &[Outgoing]) {
        if unconfirmed.is_empty() {
            return;
        }
        self.link
            .figures
            .unconfirmed
            .inc_by(u64::try_from(unconfirmed.len()).unwrap_or(u64::MAX));
        let ids: Vec<DeliveryId> = unconfirmed
            .iter()
            .filter(|outgoing| outgoing.route != Route::Dead)
            .map(|outgoing| outgoing.queued.id)
            .collect();
        match self.outbox.take_back(ids).await {
            Ok(()) => (self.given)(),
            Err(error) => {
                tracing::warn!(%error, unconfirmed = unconfirmed.len(), "messages were not confirmed; the sweep finds their deliveries");
            }
        }
    }
}
