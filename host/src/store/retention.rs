//! Removing what is old enough.

use async_trait::async_trait;

use super::Result;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::DeliveryState;
use crate::domain::id::WorkerId;

/// A kind of record that is removed when it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiring {
    /// Deliveries at their end, in this state, with their attempts; by when they came to it.
    Deliveries(DeliveryState),
    /// Events that no delivery is left of; by when they were received.
    Events,
    /// Inbound webhooks; by when they were received.
    Webhooks,
    /// The keys that make a repeated webhook a duplicate; by when they were taken.
    InboundKeys,
    /// What `Idempotency-Key` headers were used for; by when they were taken.
    IdempotencyKeys,
    /// Replays, and runs over dead letters, at their end; by when they ended.
    Replays,
}

impl Expiring {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deliveries(state) => match state {
                DeliveryState::Success => "deliveries_success",
                DeliveryState::Failed => "deliveries_failed",
                DeliveryState::Cancelled => "deliveries_cancelled",
                DeliveryState::Filtered => "deliveries_filtered",
                DeliveryState::Discarded => "deliveries_discarded",
                DeliveryState::Pending | DeliveryState::InFlight | DeliveryState::Retrying => {
                    "deliveries"
                }
            },
            Self::Events => "events",
            Self::Webhooks => "webhooks",
            Self::InboundKeys => "inbound_keys",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Replays => "replays",
        }
    }
}

/// A batch of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalBatch {
    /// What.
    pub kind: Expiring,
    /// Only what is older.
    pub before: Timestamp,
    /// Where the batch before this one ended.
    pub after: Option<String>,
    /// Rows to look at, at most.
    pub limit: usize,
}

/// What became of a [`RemovalBatch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Records removed.
    pub records: u64,
    /// Where to go on; `None`: there is no more.
    pub next: Option<String>,
}

/// Removing what is old enough.
#[async_trait]
pub trait RetentionStore: Send + Sync + 'static {
    /// Takes or keeps what one process at a time does for all, until `until`. False: another
    /// process has it.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn hold_duty(
        &self,
        name: &'static str,
        worker: WorkerId,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool>;

    /// Removes one batch in a transaction of its own. Never what is not at its end, and never what
    /// a replay or a run over dead letters that is under way has yet to go through.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn remove(&self, batch: RemovalBatch) -> Result<Removed>;
}
