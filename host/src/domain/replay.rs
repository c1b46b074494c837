//! Replays: events of the past, delivered again.

use super::clock::Timestamp;
use super::delivery::DeliveryState;
use super::event::EventTypeName;
use super::id::{EventId, ReplayId, SubscriptionId};

/// Which deliveries of an event are made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayScope {
    /// Those that failed, under their own identifiers, with a fresh round of attempts.
    Failed,
    /// A new one for each subscription that wants the event now.
    All,
}

impl ReplayScope {
    /// The API's and the database's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::All => "all",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Failed, Self::All]
            .into_iter()
            .find(|scope| scope.as_str() == name)
    }
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayState {
    /// Events are still gone through.
    Running,
    /// All deliveries are made; they go their way like any other.
    Done,
    /// Stopped before its end; what it had made stays.
    Cancelled,
}

impl ReplayState {
    /// The API's and the database's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Running, Self::Done, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// Which events are replayed; all given conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// This one alone.
    pub event: Option<EventId>,
    /// Of this type.
    pub event_type: Option<EventTypeName>,
    /// With this correlation key.
    pub correlation_key: Option<String>,
    /// Received at or after.
    pub from: Option<Timestamp>,
    /// Received before; a replay never takes in what came after it was asked for.
    pub until: Option<Timestamp>,
    /// To this subscription only.
    pub subscription: Option<SubscriptionId>,
}

/// A replay on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Its identifier.
    pub id: ReplayId,
    /// Who asked for it.
    pub requested_by: String,
    /// Why.
    pub reason: String,
    /// Which deliveries.
    pub scope: ReplayScope,
    /// Of which events.
    pub filter: ReplayFilter,
    /// How far it is.
    pub state: ReplayState,
    /// The last event gone through, from the newest to the oldest.
    pub cursor: Option<EventId>,
    /// Events gone through.
    pub events: u64,
    /// Deliveries made due or created.
    pub deliveries: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
}

/// What became of a replay's deliveries so far.
pub type Outcomes = Vec<(DeliveryState, u64)>;
