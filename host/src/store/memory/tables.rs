//! What the store holds, and what deliveries go through. Plain functions: each is a transaction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::defect::Defect;
use super::journal::{Change, Journal, Why};
use crate::domain::audit::Entry;
use crate::domain::circuit::OpenCircuit;
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::DeadLetterRun;
use crate::domain::delivery::{
    Attempt, Delivery, DeliveryState, FencingToken, LeaseResult, NewDelivery, Outcome, Transition,
};
use crate::domain::event::{Event, EventType};
use crate::domain::id::{
    ConnectionId, DeadLetterRunId, DeliveryId, EventId, KeyId, ReplayId, SourceId, SubscriptionId,
    WebhookId, WorkerId,
};
use crate::domain::job::{JobOrigin, Trigger};
use crate::domain::key::ApiKey;
use crate::domain::provider::ProviderId;
use crate::domain::replay::Replay;
use crate::domain::source::{InboundWebhook, Rejection, Source};
use crate::domain::subscription::{Connection, Subscription};
use crate::store::{
    AcceptRequest, Accepted, GrantRecord, ProcessKeys, Recorded, Result, StoreError,
};

/// A delivery with its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) delivery: Delivery,
    pub(crate) ordering_key: Option<Arc<str>>,
    pub(crate) token: FencingToken,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) replay: Option<ReplayId>,
    /// The dead letter run that requeued it.
    pub(super) run: Option<DeadLetterRunId>,
    /// What made it due, and when that was.
    pub(super) trigger: Trigger,
    pub(super) queued_at: Timestamp,
    pub(crate) attempts: Vec<Attempt>,
    /// How each attempt came to its worker.
    pub(super) origins: Vec<JobOrigin>,
}

impl Row {
    /// Whether something may still happen by itself.
    pub(crate) fn is_open(&self) -> bool {
        !self.delivery.state.is_terminal()
    }

    /// Whether it waits for `now`, or its lease ended by then.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.delivery.due_at.is_some_and(|due| due <= now)
    }
}

/// What an idempotency key was taken for.
pub(super) struct Taken {
    body_hash: [u8; 32],
    events: Vec<EventId>,
    pub(super) at: Timestamp,
}

/// Everything.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) epoch: i64,
    pub(super) event_types: BTreeMap<String, EventType>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) sources: BTreeMap<SourceId, Source>,
    pub(super) keys: BTreeMap<KeyId, ApiKey>,
    pub(super) grants: BTreeMap<ProviderId, GrantRecord>,
    pub(super) circuits: BTreeMap<SubscriptionId, OpenCircuit>,
    pub(crate) events: BTreeMap<EventId, Arc<Event>>,
    pub(crate) rows: BTreeMap<DeliveryId, Row>,
    pub(super) idempotency: BTreeMap<(String, String), Taken>,
    pub(super) external_ids: BTreeMap<(SubscriptionId, Arc<str>), String>,
    pub(super) webhooks: BTreeMap<WebhookId, InboundWebhook>,
    /// The event of each key, and when it was taken.
    pub(super) inbound_keys: BTreeMap<String, (EventId, Timestamp)>,
    pub(super) rejections: Vec<Rejection>,
    pub(crate) replays: BTreeMap<ReplayId, Replay>,
    pub(super) runs: BTreeMap<DeadLetterRunId, DeadLetterRun>,
    /// Who does what for all, and until when.
    pub(super) duties: BTreeMap<&'static str, (WorkerId, Timestamp)>,
    pub(super) seen: BTreeMap<WorkerId, Timestamp>,
    pub(super) trail: Vec<Entry>,
    pub(super) process_keys: BTreeMap<WorkerId, (ProcessKeys, Timestamp)>,
    /// The subscription that the last claim by lane ended with.
    pub(super) lane: Option<SubscriptionId>,
    pub(super) defect: Option<Defect>,
    pub(super) journal: Arc<Journal>,
    calls: u64,
}

impl Tables {
    pub(super) fn new(journal: Arc<Journal>, defect: Option<Defect>) -> Self {
        Self {
            journal,
            defect,
            ..Self::default()
        }
    }

    pub(super) fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// True at every few calls: a defect that showed each time would be too easy to find.
    pub(super) fn strikes(&mut self, defect: Defect) -> bool {
        self.calls += 1;
        self.has(defect) && self.calls.is_multiple_of(5)
    }

    /// Puts a delivery into another state.
    pub(super) fn shift(
        &mut self,
        id: DeliveryId,
        why: Why,
        to: DeliveryState,
        due_at: Option<Timestamp>,
        at: Timestamp,
    ) {
        let Some(row) = self.rows.get_mut(&id) else {
            return;
        };
        self.journal.write(Change {
            delivery: id,
            why,
            from: Some(row.delivery.state),
            to,
            token: row.token,
            lease_end: row.delivery.due_at,
        });
        if to != DeliveryState::InFlight {
            row.worker = None;
        }
        row.delivery.state = to;
        row.delivery.due_at = due_at;
        row.delivery.updated_at = at;
    }

    pub(super) fn is_paused(&self, id: SubscriptionId) -> bool {
        self.subscriptions
            .get(&id)
            .is_some_and(|subscription| subscription.paused)
    }

    pub(super) fn is_enabled(&self, id: SubscriptionId) -> bool {
        self.subscriptions
            .get(&id)
            .is_some_and(|subscription| subscription.enabled)
    }

    pub(crate) fn accept(&mut self, request: &AcceptRequest) -> Result<Accepted> {
        if request.epoch.0 != self.epoch && !self.has(Defect::TakesStaleMatches) {
            return Ok(Accepted::StaleCatalog);
        }
        if self.strikes(Defect::AnswersWithoutCommit) {
            return Ok(Accepted::New);
        }
        let key = request.idempotency.as_ref();
        let key = key.map(|key| ((key.scope.clone(), key.key.clone()), key.body_hash));
        if let Some((key, body_hash)) = &key
            && let Some(taken) = self.idempotency.get(key)
            && !self.has(Defect::ForgetsIdempotencyKeys)
        {
            return Ok(if taken.body_hash == *body_hash {
                Accepted::Duplicate(taken.events.clone())
            } else {
                Accepted::KeyReused
            });
        }
        self.insert(&request.events, &request.deliveries, request.at)?;
        if let Some((key, body_hash)) = key {
            let taken = Taken {
                body_hash,
                events: request.events.iter().map(|event| event.id).collect(),
                at: request.at,
            };
            self.idempotency.insert(key, taken);
        }
        Ok(Accepted::New)
    }

    /// Adds events and their deliveries, due at once.
    pub(super) fn insert(
        &mut self,
        events: &[Arc<Event>],
        deliveries: &[NewDelivery],
        at: Timestamp,
    ) -> Result<()> {
        let twice = events
            .iter()
            .any(|event| self.events.contains_key(&event.id));
        if twice {
            return Err(StoreError::Unavailable("an event is there already".into()));
        }
        for event in events {
            self.events.insert(event.id, event.clone());
        }
        let loses = self.strikes(Defect::LosesDeliveries);
        for new in deliveries.iter().skip(usize::from(loses)) {
            self.create(new, None, at);
        }
        Ok(())
    }

    pub(super) fn create(&mut self, new: &NewDelivery, replay: Option<ReplayId>, at: Timestamp) {
        let event_type = self.events.get(&new.event_id);
        let event_type = event_type.map(|event| event.event_type.as_str().to_owned());
        let lease = new.lease;
        let state = lease.map_or(DeliveryState::Pending, |_| DeliveryState::InFlight);
        let token = lease.map_or(FencingToken(0), |_| FencingToken::FIRST);
        let delivery = Delivery {
            id: new.id,
            event_id: new.event_id,
            event_type: event_type.unwrap_or_default(),
            subscription_id: new.subscription_id,
            provider: new.provider.clone(),
            state,
            attempts: 0,
            due_at: Some(lease.map_or(at, |lease| lease.until)),
            external_id: None,
            last_error: None,
            discarded: None,
            created_at: at,
            updated_at: at,
        };
        self.journal.write(Change {
            delivery: new.id,
            why: match replay {
                None => Why::Accepted,
                Some(_) => Why::Replayed,
            },
            from: None,
            to: state,
            token: FencingToken(0),
            lease_end: None,
        });
        let row = Row {
            delivery,
            ordering_key: new.ordering_key.clone(),
            token,
            worker: lease.map(|lease| lease.worker),
            replay,
            run: None,
            trigger: match replay {
                None => Trigger::Ingest,
                Some(_) => Trigger::Replay,
            },
            queued_at: at,
            attempts: Vec::new(),
            origins: Vec::new(),
        };
        self.rows.insert(new.id, row);
    }

    pub(crate) fn record(&mut self, result: &LeaseResult) -> Recorded {
        let unfenced = self.has(Defect::RecordsUnderLostLeases);
        let held = self.rows.get(&result.id).is_some_and(|row| {
            unfenced || row.token == result.token && row.delivery.state == DeliveryState::InFlight
        });
        if !held {
            return Recorded::LeaseLost;
        }
        let forgets_retry = self.strikes(Defect::ForgetsRetries);
        let skips_number = self.strikes(Defect::SkipsNumbers);
        let subscription = self.rows[&result.id].delivery.subscription_id;
        let (mut state, mut due_at) = match result.transition {
            Transition::Success { .. } => (DeliveryState::Success, None),
            Transition::RetryAt(at) => (DeliveryState::Retrying, Some(at)),
            Transition::Parked => (DeliveryState::Retrying, Some(result.at)),
            Transition::Failed => (DeliveryState::Failed, None),
            Transition::Cancelled => (DeliveryState::Cancelled, None),
            Transition::Filtered => (DeliveryState::Filtered, None),
        };
        if !state.is_terminal() {
            if !self.is_enabled(subscription) {
                (state, due_at) = (DeliveryState::Cancelled, None);
            } else if self.is_paused(subscription) || forgets_retry {
                due_at = None;
            }
        }
        self.shift(
            result.id,
            Why::Recorded(result.token),
            state,
            due_at,
            result.at,
        );
        let Some(row) = self.rows.get_mut(&result.id) else {
            return Recorded::LeaseLost;
        };
        let external_id = match &result.transition {
            Transition::Success { external_id } => external_id.clone(),
            _ => None,
        };
        if external_id.is_some() {
            row.delivery.external_id.clone_from(&external_id);
        }
        row.delivery.last_error = None;
        let (goes_on, due_at) = match result.transition {
            Transition::RetryAt(at) => (true, at),
            Transition::Parked => (true, result.at),
            _ => (false, result.at),
        };
        if goes_on {
            row.queued_at = due_at;
        }
        if let Some(attempt) = &result.attempt {
            row.origins.push(result.job);
            if goes_on {
                row.trigger = Trigger::Retry;
            }
            let number = row.attempts.len() + 1 + usize::from(skips_number);
            row.attempts.push(Attempt {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                ..attempt.clone()
            });
            row.delivery.attempts += u32::from(result.transition != Transition::Parked);
            if attempt.outcome != Outcome::Success {
                row.delivery.last_error = Some(attempt.message.clone());
            }
        }
        let event = self.events.get(&row.delivery.event_id);
        let key = event.and_then(|event| event.correlation_key.clone());
        if let (Some(external_id), Some(key)) = (external_id, key) {
            self.external_ids.insert((subscription, key), external_id);
        }
        Recorded::Written
    }

    /// Makes what is in flight due again, where `which` says so. Returns how many that were.
    pub(super) fn release(&mut self, at: Timestamp, which: impl Fn(&Row) -> bool) -> u64 {
        let released = self.let_go(at, which);
        u64::try_from(released.len()).unwrap_or(u64::MAX)
    }

    /// The same of whoever is gone.
    pub(super) fn sweep(&mut self, at: Timestamp, which: impl Fn(&Row) -> bool) -> u64 {
        let released = self.let_go(at, which);
        for id in &released {
            if let Some(row) = self.rows.get_mut(id) {
                row.trigger = Trigger::Sweep;
            }
        }
        u64::try_from(released.len()).unwrap_or(u64::MAX)
    }

    fn let_go(&mut self, at: Timestamp, which: impl Fn(&Row) -> bool) -> Vec<DeliveryId> {
        let reopens = self.has(Defect::ReopensWhatEnded);
        let leased = self.rows.iter().filter(|(_, row)| {
            (row.delivery.state == DeliveryState::InFlight || reopens && !row.is_open())
                && which(row)
        });
        let leased: Vec<(DeliveryId, u32)> = leased
            .map(|(id, row)| (*id, row.delivery.attempts))
            .collect();
        for (id, attempts) in &leased {
            let to = match attempts {
                0 => DeliveryState::Pending,
                _ => DeliveryState::Retrying,
            };
            self.shift(*id, Why::Released, to, Some(at), at);
        }
        leased.into_iter().map(|(id, _)| id).collect()
    }

    pub(super) fn retry(&mut self, id: DeliveryId, at: Timestamp) -> Result<Option<Delivery>> {
        match self.rows.get(&id).map(|row| row.delivery.state) {
            None => return Ok(None),
            Some(DeliveryState::InFlight) => {
                return Err(StoreError::Conflict("the delivery is in flight".to_owned()));
            }
            Some(DeliveryState::Discarded) => {
                return Err(StoreError::Conflict(
                    "the delivery was discarded".to_owned(),
                ));
            }
            Some(_) => self.begin_round(id, Trigger::Manual, Some(at), at),
        }
        Ok(self.rows.get(&id).map(|row| row.delivery.clone()))
    }

    /// Another round of attempts.
    pub(super) fn begin_round(
        &mut self,
        id: DeliveryId,
        trigger: Trigger,
        due_at: Option<Timestamp>,
        at: Timestamp,
    ) {
        self.shift(id, Why::Asked, DeliveryState::Pending, due_at, at);
        if let Some(row) = self.rows.get_mut(&id) {
            row.delivery.attempts = 0;
            row.trigger = trigger;
            row.queued_at = at;
        }
    }

    /// Notes that `worker` lives, and takes from the dead what they hold.
    pub(super) fn keep_alive(
        &mut self,
        worker: WorkerId,
        patience: Duration,
        now: Timestamp,
    ) -> u64 {
        self.seen.insert(worker, now);
        let dead = self
            .seen
            .iter()
            .filter(|(_, seen)| now.since(**seen) > patience);
        let dead: Vec<WorkerId> = dead.map(|(id, _)| *id).collect();
        self.seen.retain(|id, _| !dead.contains(id));
        if self.has(Defect::LeasesForEver) {
            return 0;
        }
        self.sweep(now, |row| {
            row.worker.is_some_and(|worker| dead.contains(&worker))
        })
    }
}
