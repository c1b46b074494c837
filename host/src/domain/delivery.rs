//! The delivery state machine and what is recorded of each attempt.
//!
//! `pending → in_flight → success | retrying → in_flight … | failed | cancelled | filtered`, and
//! `failed → discarded` by someone's decision

use std::sync::Arc;
use std::time::Duration;

use super::audit::NewEntry;
use super::clock::Timestamp;
use super::event::Event;
use super::id::{DeliveryId, EventId, SubscriptionId, WorkerId};
use super::job::JobOrigin;
use super::provider::ProviderId;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Never tried.
    Pending,
    /// Leased by a worker.
    InFlight,
    /// Waiting for its next attempt.
    Retrying,
    /// Delivered.
    Success,
    /// Given up: a dead letter.
    Failed,
    /// Its subscription was switched off or deleted.
    Cancelled,
    /// Its subscription's filter did not want the event at the attempt.
    Filtered,
    /// A dead letter that someone decided to leave undelivered.
    Discarded,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::InFlight,
        Self::Retrying,
        Self::Success,
        Self::Failed,
        Self::Cancelled,
        Self::Filtered,
        Self::Discarded,
    ];

    /// The name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InFlight => "in_flight",
            Self::Retrying => "retrying",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Filtered => "filtered",
            Self::Discarded => "discarded",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Success | Self::Failed | Self::Cancelled | Self::Filtered | Self::Discarded
        )
    }
}

/// Increases with every claim of a delivery; a record under an older token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(pub i64);

impl FencingToken {
    /// Of the first lease.
    pub const FIRST: Self = Self(1);
}

/// A lease that a delivery has from its creation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstLease {
    /// Whose.
    pub worker: WorkerId,
    /// When it ends.
    pub until: Timestamp,
}

/// A delivery to be created with its event.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDelivery {
    /// Its identifier.
    pub id: DeliveryId,
    /// The event carried.
    pub event_id: EventId,
    /// Where it goes.
    pub subscription_id: SubscriptionId,
    /// Who carries it.
    pub provider: ProviderId,
    /// Held back by earlier undelivered deliveries of the same key.
    pub ordering_key: Option<Arc<str>>,
    /// Set when it is created in flight, under [`FencingToken::FIRST`]; else it is due at once.
    pub lease: Option<FirstLease>,
}

/// A delivery as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Its identifier.
    pub id: DeliveryId,
    /// The event carried.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: String,
    /// Where it goes.
    pub subscription_id: SubscriptionId,
    /// Who carries it.
    pub provider: ProviderId,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts recorded so far in this round; a manual retry starts a new round.
    pub attempts: u32,
    /// When the next attempt is due, or the lease ends; `None` once terminal.
    pub due_at: Option<Timestamp>,
    /// What the receiver calls it.
    pub external_id: Option<String>,
    /// The last failure, sanitised.
    pub last_error: Option<String>,
    /// Who discarded it, and why.
    pub discarded: Option<Discarded>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The decision to leave a dead letter undelivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// Whose.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A delivery under lease, with all that the worker needs besides configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedDelivery {
    /// The delivery.
    pub id: DeliveryId,
    /// Proof of the lease.
    pub token: FencingToken,
    /// Where it goes.
    pub subscription_id: SubscriptionId,
    /// Who carries it.
    pub provider: ProviderId,
    /// The attempt to be made: 1 for the first of this round.
    pub attempt: u32,
    /// The event carried.
    pub event: Arc<Event>,
    /// Kept from an earlier delivery of the same subscription and correlation key.
    pub external_id: Option<String>,
    /// How it came to its worker.
    pub job: JobOrigin,
}

/// How an attempt ended. The four kinds of failure of a guest are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The provider returned a receipt.
    Success,
    /// The provider returned an error.
    ProviderError,
    /// A capability that was not granted was asked for.
    Denied,
    /// A limit of the sandbox was met: time, memory, calls, sizes.
    LimitExceeded,
    /// The guest trapped.
    Trap,
    /// No attempt could be made: the provider or its configuration is missing.
    Unavailable,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::ProviderError,
        Self::Denied,
        Self::LimitExceeded,
        Self::Trap,
        Self::Unavailable,
    ];

    /// The name in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ProviderError => "provider_error",
            Self::Denied => "denied",
            Self::LimitExceeded => "limit_exceeded",
            Self::Trap => "trap",
            Self::Unavailable => "unavailable",
        }
    }

    /// The outcome of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
    }
}

/// One line that the guest logged or wrote to stdout or stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// `debug`, `info`, `warn`, `error`, `stdout` or `stderr`.
    pub level: &'static str,
    /// The text, sanitised.
    pub message: String,
}

/// One attempt of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// 1 for the first ever made of this delivery, across rounds.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub latency: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The receiver's last status.
    pub http_status: Option<u16>,
    /// The provider's version, when one was called.
    pub provider_version: Option<String>,
    /// The receipt's summary, or the failure; sanitised.
    pub message: String,
    /// What the guest logged.
    pub logs: Vec<LogLine>,
}

/// What becomes of the delivery after an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    /// Delivered.
    Success {
        /// What the receiver calls it.
        external_id: Option<String>,
    },
    /// Another attempt.
    RetryAt(Timestamp),
    /// Given up.
    Failed,
    /// Its subscription is switched off or gone.
    Cancelled,
    /// The subscription's filter does not want the event.
    Filtered,
    /// Its subscription is paused, or its destination is not available: wait until the
    /// subscription lets it go. An attempt recorded with it is on the log, and is not counted.
    Parked,
}

/// The result of one lease, to be recorded under its fencing token.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseResult {
    /// The delivery.
    pub id: DeliveryId,
    /// Proof of the lease.
    pub token: FencingToken,
    /// The attempt, when one was made (its `number` is assigned by the store).
    pub attempt: Option<Attempt>,
    /// What becomes of the delivery.
    pub transition: Transition,
    /// The lease's, for the record of the attempt.
    pub job: JobOrigin,
    /// When the result was known.
    pub at: Timestamp,
    /// For the audit trail, when the delivery was given up.
    pub entry: Option<Box<NewEntry>>,
}
