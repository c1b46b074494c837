//! Dead letters: deliveries that were given up, and what is decided about them.

use std::fmt;
use std::str::FromStr;

use super::clock::Timestamp;
use super::delivery::{Delivery, Outcome};
use super::id::{DeadLetterRunId, DeliveryId, SubscriptionId};
use super::provider::ProviderId;
use super::replay::ReplayState;

/// What is done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterAction {
    /// Delivered again, with the full schedule of attempts.
    Requeue,
    /// Left undelivered for good.
    Discard,
}

impl DeadLetterAction {
    /// The API's and the database's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requeue => "requeue",
            Self::Discard => "discard",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Requeue, Self::Discard]
            .into_iter()
            .find(|action| action.as_str() == name)
    }
}

/// Which dead letters; all given conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// By this provider.
    pub provider: Option<ProviderId>,
    /// To this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Of this event type exactly.
    pub event_type: Option<String>,
    /// Whose event has this correlation key.
    pub correlation_key: Option<String>,
    /// Whose last error begins so.
    pub error_prefix: Option<String>,
    /// Whose last attempt ended so.
    pub outcome: Option<Outcome>,
    /// Given up at or after.
    pub from: Option<Timestamp>,
    /// Given up before.
    pub until: Option<Timestamp>,
}

/// A place in the listing of dead letters, which goes by the time of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterCursor {
    /// When it was given up.
    pub failed_at: Timestamp,
    /// Which.
    pub id: DeliveryId,
}

impl From<&Delivery> for DeadLetterCursor {
    /// Failing was its last change.
    fn from(delivery: &Delivery) -> Self {
        Self {
            failed_at: delivery.updated_at,
            id: delivery.id,
        }
    }
}

/// The text is not a place in the listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a place in the listing of dead letters")]
pub struct ParseDeadLetterCursorError;

impl fmt::Display for DeadLetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.failed_at.0, self.id)
    }
}

impl FromStr for DeadLetterCursor {
    type Err = ParseDeadLetterCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (at, id) = text.split_once('.').ok_or(ParseDeadLetterCursorError)?;
        Ok(Self {
            failed_at: Timestamp(at.parse().map_err(|_| ParseDeadLetterCursorError)?),
            id: id.parse().map_err(|_| ParseDeadLetterCursorError)?,
        })
    }
}

/// Dead letters requeued or discarded in bulk, on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRun {
    /// Its identifier.
    pub id: DeadLetterRunId,
    /// What is done.
    pub action: DeadLetterAction,
    /// Who asked for it.
    pub requested_by: String,
    /// Why.
    pub reason: String,
    /// With which; a run never takes in what failed after it was asked for.
    pub filter: DeadLetterFilter,
    /// How far it is.
    pub state: ReplayState,
    /// The last dead letter gone through, from the newest failure to the oldest.
    pub cursor: Option<DeadLetterCursor>,
    /// Deliveries requeued or discarded. A requeue leaves those whose subscription is off or gone.
    pub changed: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::IdGenerator;

    #[test]
    fn places_round_trip_and_refuse_anything_else() {
        let id: DeliveryId = IdGenerator::default().next(Timestamp(1), || 42);
        let place = DeadLetterCursor {
            failed_at: Timestamp(1_700_000_000_000),
            id,
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        for wrong in [id.to_string(), format!("x.{id}"), "1.x".to_owned()] {
            assert!(wrong.parse::<DeadLetterCursor>().is_err(), "{wrong}");
        }
    }
}
