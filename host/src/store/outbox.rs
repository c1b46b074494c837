//! What a broker in front of the store needs of it.
//!
//! A delivery with work left is held by the store alone, and then claims find it, or by a broker
//! that was told of it. That is written with the delivery itself, so no second record can be
//! missing; it is a belief, and [`OutboxStore::sweep`] finds what a broker should have and does not.

use async_trait::async_trait;

use super::{Claim, ClaimRequest, Result};
use crate::domain::clock::Timestamp;
use crate::domain::id::{DeliveryId, SubscriptionId};

/// A delivery that a broker is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its identifier.
    pub id: DeliveryId,
    /// Where it goes.
    pub subscription_id: SubscriptionId,
    /// When its message is to come out.
    pub due: Timestamp,
}

/// Deliveries that are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// What was accepted.
    Live,
    /// What is delivered again.
    Replays,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Of which.
    pub traffic: Traffic,
    /// Whose message was to come out before this, and has not been seen.
    pub before: Timestamp,
    /// When new ones are published.
    pub now: Timestamp,
    /// At most so many.
    pub limit: usize,
}

/// The outbox: which deliveries a broker holds.
#[async_trait]
pub trait OutboxStore: Send + Sync + 'static {
    /// Leases those of `ids` that are due, whoever holds them; a broker goes on holding them. What
    /// waits behind an earlier one of its ordering key goes back to the store
    /// ([`Claim::held_back`]). Caps and limit of `request` are not looked at.
    ///
    /// # Cancel safety
    /// When the future is dropped, deliveries may stay leased until `lease_until`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn claim_of(&self, request: ClaimRequest, ids: Vec<DeliveryId>) -> Result<Claim>;

    /// Finds what a broker should have told of and did not, oldest first, and notes that it is
    /// published now. What another process is just looking at is passed over.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn sweep(&self, sweep: Sweep) -> Result<Vec<Queued>>;

    /// Gives to the store what a broker should have told of and did not. Returns how many.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn hand_over(&self, before: Timestamp, limit: usize) -> Result<u64>;

    /// Gives deliveries to the store, whose messages are gone or not to be waited for.
    ///
    /// # Errors
    /// `Unavailable`: the sweep finds them.
    async fn take_back(&self, ids: Vec<DeliveryId>) -> Result<()>;
}
