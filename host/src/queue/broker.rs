//! A broker as whoever looks after it sees it.

use async_trait::async_trait;

use crate::domain::id::{DeliveryId, SubscriptionId};
use crate::store::StoreError;

/// How many messages wait in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// `process`, `replay` or `dead`.
    pub queue: &'static str,
    /// So many.
    pub messages: u64,
}

/// A message of the dead queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadMessage {
    /// What it says; `None`: it cannot be read.
    pub told: Option<(DeliveryId, SubscriptionId)>,
    /// `given_up`: the delivery was; else why the broker took the message out of its queue.
    pub reason: String,
}

/// What becomes of the messages of the dead queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Deliveries that failed are due again, with a fresh round of attempts.
    Requeue,
    /// The messages are dropped; the deliveries stay as they are.
    Discard,
}

/// What was drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Messages taken out of the queue.
    pub messages: u64,
    /// Deliveries that are due again.
    pub requeued: u64,
}

/// The broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It is away; the same call may succeed later.
    #[error("the broker is away")]
    Away(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// The store is.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The broker in front of the store.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Whether it is there.
    fn is_up(&self) -> bool;

    /// What waits, as of a second ago.
    fn depths(&self) -> Vec<Depth>;

    /// The first messages of the dead queue, which stay in it.
    ///
    /// # Errors
    /// `Away`.
    async fn dead(&self, limit: usize) -> Result<Vec<DeadMessage>, BrokerError>;

    /// Takes up to `limit` messages out of the dead queue.
    ///
    /// # Errors
    /// Each kind of [`BrokerError`]: what was not taken yet stays.
    async fn drain(&self, how: Drain, limit: usize) -> Result<Drained, BrokerError>;
}
