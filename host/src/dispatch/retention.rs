//! Removing what is old enough, in the background.
//!
//! One process at a time does it for all. Between two batches it rests for several times what the
//! batch took, so that it has a small share of the store however fast that is, and a store that is
//! slow under load is left alone the longer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::DeliveryState;
use crate::domain::id::WorkerId;
use crate::metrics::Metrics;
use crate::store::{Expiring, RemovalBatch, Store, StoreError};

/// What one process at a time has.
const DUTY: &str = "retention";
/// Without a batch for so long, another process may take over.
const HELD_FOR: Duration = Duration::from_secs(60);
/// Rows that one batch looks at.
const BATCH: usize = 250;
/// The rest after a batch: so many times what it took, and at least a moment.
const REST: u32 = 4;
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_secs(10);

/// For how long records are kept; `None`: for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// Deliveries that succeeded.
    pub succeeded: Option<Duration>,
    /// Dead letters, and those that were discarded.
    pub failed: Option<Duration>,
    /// Deliveries that were cancelled or filtered.
    pub cancelled: Option<Duration>,
    /// Events that no delivery is left of.
    pub events: Option<Duration>,
    /// Inbound webhooks, and the keys by which a repeated one is known.
    pub webhooks: Option<Duration>,
    /// What `Idempotency-Key` headers were used for.
    pub idempotency_keys: Option<Duration>,
    /// Replays, and runs over dead letters.
    pub replays: Option<Duration>,
}

impl Ages {
    /// In the order in which they are removed: deliveries before the events that they carry.
    fn kinds(&self) -> [(Expiring, Option<Duration>); 10] {
        use DeliveryState::{Cancelled, Discarded, Failed, Filtered, Success};
        [
            (Expiring::Deliveries(Success), self.succeeded),
            (Expiring::Deliveries(Failed), self.failed),
            (Expiring::Deliveries(Discarded), self.failed),
            (Expiring::Deliveries(Cancelled), self.cancelled),
            (Expiring::Deliveries(Filtered), self.cancelled),
            (Expiring::Events, self.events),
            (Expiring::Webhooks, self.webhooks),
            (Expiring::InboundKeys, self.webhooks),
            (Expiring::IdempotencyKeys, self.idempotency_keys),
            (Expiring::Replays, self.replays),
        ]
    }
}

/// Removes what is old enough.
pub struct Retention {
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who does it.
    pub worker: WorkerId,
    /// What is old enough.
    pub ages: Ages,
    /// How often to look.
    pub every: Duration,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl Retention {
    /// Looks now and then until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        loop {
            let rest_and_round = async {
                tokio::time::sleep(self.every).await;
                if let Err(error) = self.round().await {
                    tracing::warn!(%error, "what is old stays on record for a moment longer");
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = rest_and_round => {}
            }
        }
    }

    /// Goes through everything once, if no other process does.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn round(&self) -> Result<(), StoreError> {
        for (kind, age) in self.ages.kinds() {
            let Some(age) = age else { continue };
            let before = self.clock.now().0;
            let before = before.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
            let mut after = None;
            loop {
                let now = self.clock.now();
                let until = now.plus(HELD_FOR);
                if !self.store.hold_duty(DUTY, self.worker, now, until).await? {
                    return Ok(());
                }
                let began = Instant::now();
                let removed = self
                    .store
                    .remove(RemovalBatch {
                        kind,
                        before: Timestamp(before),
                        after,
                        limit: BATCH,
                    })
                    .await?;
                self.metrics.removed(kind.as_str(), removed.records);
                tokio::time::sleep((began.elapsed() * REST).clamp(REST_MIN, REST_MAX)).await;
                after = removed.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}
