//! Processing jobs: one round of work on one delivery, from the moment it was due to its end.
//!
//! A job has no record of its own (ADR 0015): a finished one is an attempt, an open one is the
//! delivery that waits for it. What ended without an attempt is told by the delivery.

use std::fmt;
use std::str::FromStr;

use super::clock::Timestamp;
use super::id::{DeliveryId, WorkerId};

/// What made a delivery due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// Its event was accepted.
    #[default]
    Ingest,
    /// An attempt failed, and its wait is over.
    Retry,
    /// A replay.
    Replay,
    /// Whoever had it is gone, and it was found again.
    Sweep,
    /// A person asked for it: a retry by hand, a dead letter requeued.
    Manual,
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 5] = [
        Self::Ingest,
        Self::Retry,
        Self::Replay,
        Self::Sweep,
        Self::Manual,
    ];

    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Retry => "retry",
            Self::Replay => "replay",
            Self::Sweep => "sweep",
            Self::Manual => "manual",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|trigger| trigger.as_str() == name)
    }
}

/// Where a worker found the delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobQueue {
    /// Claimed from the store itself.
    #[default]
    Store,
    /// A broker's queue of ordinary work.
    Process,
    /// A broker's queue of replays.
    Replay,
}

impl JobQueue {
    /// Every queue.
    pub const ALL: [Self; 3] = [Self::Store, Self::Process, Self::Replay];

    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Process => "process",
            Self::Replay => "replay",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.as_str() == name)
    }
}

/// How a job came to its worker: known with the lease, kept with the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobOrigin {
    /// Where it was found.
    pub queue: JobQueue,
    /// What made it due.
    pub trigger: Trigger,
    /// Since when it was due.
    pub queued_at: Timestamp,
    /// Who has it.
    pub worker: WorkerId,
}

/// Which attempt of which delivery: `dlv_….3`. Ordered by delivery, then by attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The attempt, across rounds; 1 for the first ever made.
    pub number: u32,
}

/// The text is not a job's identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a delivery's identifier, a dot and the number of the attempt")]
pub struct ParseJobIdError;

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.delivery, self.number)
    }
}

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (delivery, number) = text.split_once('.').ok_or(ParseJobIdError)?;
        let delivery = delivery.parse().map_err(|_| ParseJobIdError)?;
        let number = number.parse().map_err(|_| ParseJobIdError)?;
        if number == 0 {
            return Err(ParseJobIdError);
        }
        Ok(Self { delivery, number })
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Due, or waiting until it is.
    Queued,
    /// A worker has it.
    Running,
    /// The attempt succeeded.
    Succeeded,
    /// The attempt failed.
    Failed,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed];

    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// The reverse.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Where it was found; `None`: not recorded at the time, or not found yet.
    pub queue: Option<JobQueue>,
    /// What made it due; `None`: not recorded at the time.
    pub trigger: Option<Trigger>,
    /// Since when it was due, or when it will be; `None`: not recorded at the time, or parked.
    pub queued_at: Option<Timestamp>,
    /// When a worker began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Who has it, or had it.
    pub worker: Option<WorkerId>,
    /// Why it failed, sanitised.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::IdGenerator;

    #[test]
    fn identifiers_round_trip_and_refuse_what_names_no_attempt() {
        let delivery: DeliveryId = IdGenerator::default().next(Timestamp(1), || 42);
        let id = JobId {
            delivery,
            number: 12,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            delivery.to_string(),
            format!("{delivery}."),
            format!("{delivery}.0"),
            format!("{delivery}.-1"),
            "dlv_x.1".to_owned(),
        ] {
            assert_eq!(wrong.parse::<JobId>(), Err(ParseJobIdError), "{wrong}");
        }
    }
}
