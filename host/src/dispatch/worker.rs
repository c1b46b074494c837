//! Workers: leased deliveries become calls, calls become recorded attempts.
//!
//! A destination that stalls holds at most its own share of the slots: who has its share under
//! way is passed over when work is claimed (`shares`). What a destination takes, and whether it is
//! there, is the matter of its gate (`gates`).
//!
//! Told to stop, a worker gives back what it has claimed and not begun, and lets what is under way
//! end; told to break off, it drops that too, and its leases are the caller's to release.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use opentelemetry::trace::SpanKind;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::accept::Accepter;
use super::gates::{Entry, Gates, Judged, Passage};
use super::shares::{Place, Places, Shares};
use super::snapshot::{Route, Snapshot, Snapshots};
use super::{attempt_log, operational, report};
use crate::coord::Coord;
use crate::domain::audit::NewEntry;
use crate::domain::circuit::Change;
use crate::domain::clock::{Clock, Timestamp, rfc3339};
use crate::domain::delivery::{Attempt, LeaseResult, LeasedDelivery, Outcome, Transition};
use crate::domain::event::Event;
use crate::domain::id::SubscriptionId;
use crate::domain::provider::ProviderId;
use crate::domain::retry::{NextStep, RetryAdvice, RetryPolicy};
use crate::plugin::{CallFailure, CallReport, DeliverCall, Providers, Receipt};
use crate::queue::{Queue, Room};
use crate::store::{Recorded, Store, StoreError};
use crate::telemetry::{self, Span, Traces};
use crate::vault::Vault;

/// After an error of the queue.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// While documents of another version than the provider's are migrated; costs no attempt.
const OUTDATED_WAIT: Duration = Duration::from_secs(2);
/// "Gone" (RFC 9110, section 15.5.11): the receiver wants no more.
const GONE: u16 = 410;
/// How often what other processes made of circuits is looked at.
const CIRCUITS_LOOK: Duration = Duration::from_millis(100);
/// The same where there are no others: what says nothing any more is cleared away.
const CIRCUITS_LOOK_ALONE: Duration = Duration::from_secs(10);

/// How much at one time.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Deliveries under way.
    pub concurrency: usize,
    /// Deliveries under way of one subscription.
    pub concurrency_per_subscription: usize,
}

/// What a delivery that sets out takes along.
struct Out {
    snapshot: Arc<Snapshot>,
    places: Arc<Places>,
    cut: CancellationToken,
    slot: OwnedSemaphorePermit,
}

/// Carries deliveries out.
pub struct Worker {
    /// Where work comes from.
    pub queue: Arc<dyn Queue>,
    /// Who carries it out.
    pub providers: Arc<dyn Providers>,
    /// What is configured.
    pub snapshots: Arc<Snapshots>,
    /// Where subscriptions are switched off.
    pub catalog: Arc<dyn Store>,
    /// What opens secrets.
    pub vault: Arc<Vault>,
    /// Where operational events go.
    pub accepter: Arc<Accepter>,
    /// What is shared of rates and circuits.
    pub coord: Arc<dyn Coord>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Uniform in 0.0..1.0.
    pub jitter: fn() -> f64,
    /// Where attempts are traced.
    pub traces: Traces,
    /// How much at one time.
    pub config: WorkerConfig,
}

impl Worker {
    /// Works until `stop` turns true, then waits for what is under way, which ends unrecorded when
    /// `cut` is cancelled.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>, cut: CancellationToken) {
        let places = Arc::new(Places::new(
            self.config.concurrency,
            self.config.concurrency_per_subscription,
        ));
        let Places { slots, shares, .. } = &*places;
        let gates = Arc::new(Gates::new(self.coord.clone()));
        tokio::select! {
            () = self.restore(&gates) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::spawn(self.clone().follow_circuits(gates.clone(), stop.clone()));
        loop {
            let free = tokio::select! {
                permit = slots.clone().acquire_owned() => permit,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let Ok(first) = free else { break };
            drop(first);
            let limit = shares.claim_max();
            let room = || self.room(shares, &gates, limit);
            let batch = tokio::select! {
                batch = self.queue.next(limit, &room) => batch,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "no work can be claimed");
                    self.clock.sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let snapshot = match self.snapshots.at(batch.epoch).await {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    // The leases run out, and the deliveries come back.
                    tracing::warn!(%error, "the configuration cannot be read");
                    self.clock.sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let entries = gates
                .admit(&snapshot, &batch.leased, self.clock.now())
                .await;
            let mut batch = batch.leased.into_iter().zip(entries);
            while let Some((leased, entry)) = batch.next() {
                let slot = tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => None,
                    slot = slots.clone().acquire_owned() => slot.ok(),
                };
                let Some(slot) = slot else {
                    let rest = batch.map(|(leased, _)| leased);
                    self.give_back(std::iter::once(leased).chain(rest)).await;
                    break;
                };
                let out = Out {
                    snapshot: snapshot.clone(),
                    places: places.clone(),
                    cut: cut.clone(),
                    slot,
                };
                self.set_out(leased, entry, out);
            }
            self.forget(gates.take_forgotten()).await;
        }
        self.give_back(self.queue.stop().await.into_iter()).await;
        places.all_free().await;
    }

    /// Begins one delivery on a task of its own.
    fn set_out(self: &Arc<Self>, leased: LeasedDelivery, entry: Entry, out: Out) {
        let worker = self.clone();
        let Out {
            snapshot,
            places,
            cut,
            slot,
        } = out;
        let mut passage = match entry {
            Entry::Held(until) => {
                tokio::spawn(async move {
                    // Due as it was: a gate that opens early lets it go.
                    worker.settle(&leased, None, Transition::Parked).await;
                    drop(slot);
                    worker.queue.wake(until);
                });
                return;
            }
            Entry::Pass(passage) => Some(passage),
            Entry::Unrouted => None,
        };
        let to = (leased.subscription_id, &leased.provider);
        let place = places.take(slot, &self.queue, &self.clock, to);
        tokio::spawn(async move {
            let span = attempt_log::span(&leased);
            let work = worker
                .carry_out(&snapshot, leased, passage.as_mut(), place)
                .instrument(span);
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = work => {}
            }
            let now = worker.clock.now();
            if let Some(passage) = passage
                && passage.end(now).await
            {
                worker.queue.wake(now);
            }
        });
    }

    /// Goes along with what other processes make of circuits.
    async fn follow_circuits(self: Arc<Self>, gates: Arc<Gates>, mut stop: watch::Receiver<bool>) {
        let pause = if self.coord.is_shared() {
            CIRCUITS_LOOK
        } else {
            CIRCUITS_LOOK_ALONE
        };
        loop {
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if gates.refresh().await {
                // What was held back may go.
                self.queue.wake(self.clock.now());
            }
        }
    }

    /// What was claimed and is not begun: somebody else may have it at once.
    async fn give_back(&self, leased: impl Iterator<Item = LeasedDelivery>) {
        let leases: Vec<_> = leased.map(|leased| (leased.id, leased.token)).collect();
        if leases.is_empty() {
            return;
        }
        let store = &self.accepter.store;
        if let Err(error) = store.release(leases, self.clock.now()).await {
            tracing::warn!(%error, "what was claimed and not begun could not be given back yet");
        }
    }

    /// Takes up the circuits that were open when the process before this one ended.
    async fn restore(&self, gates: &Gates) {
        loop {
            match self.accepter.store.circuits().await {
                Ok(open) => {
                    gates.restore(open, &self.snapshots.current());
                    gates.refresh().await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the open circuits cannot be read");
                    self.clock.sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn forget(&self, closed: Vec<SubscriptionId>) {
        for id in closed {
            if let Err(error) = self.accepter.store.delete_circuit(id).await {
                tracing::warn!(subscription = %id, %error, "a closed circuit stays on record");
            }
        }
    }

    /// What a claim may take: of subscriptions near their share what is left of it, nothing of crowded
    /// providers, and no more than its gate lets through of any.
    fn room(&self, shares: &Shares, gates: &Gates, limit: usize) -> Room {
        let snapshot = self.snapshots.current();
        let left = shares.left();
        let mut room = gates.room(&snapshot, self.clock.now(), limit);
        for (id, left) in left.caps {
            let cap = room.caps.entry(id).or_insert(left);
            *cap = left.min(*cap);
        }
        for provider in left.closed {
            let routes = snapshot.routes.values().map(|route| &route.subscription);
            let of_provider = routes.filter(|subscription| subscription.provider == provider);
            let ids: Vec<SubscriptionId> =
                of_provider.map(|subscription| subscription.id).collect();
            room.caps.extend(ids.iter().map(|id| (*id, 0)));
            shares.passed_over(provider, ids);
        }
        room
    }

    async fn carry_out(
        &self,
        snapshot: &Snapshot,
        leased: LeasedDelivery,
        passage: Option<&mut Passage>,
        place: Place,
    ) {
        let id = leased.subscription_id;
        match snapshot.routes.get(&id) {
            Some(route) if route.subscription.enabled => {
                if route.subscription.paused {
                    self.settle(&leased, None, Transition::Parked).await;
                } else {
                    let mut span = self.tracing(&leased);
                    let attempt = self.attempt(snapshot, route, leased, passage, place);
                    let outcome = telemetry::under(span.as_ref(), attempt).await;
                    if let (Some(span), Some(outcome)) = (&mut span, outcome) {
                        span.set("hookport.outcome", outcome.as_str());
                        if outcome != Outcome::Success {
                            span.fail(outcome.as_str());
                        }
                    }
                }
            }
            _ => self.settle(&leased, None, Transition::Cancelled).await,
        }
    }

    /// The span of an attempt, in the trace of its event.
    fn tracing(&self, leased: &LeasedDelivery) -> Option<Span> {
        let event_type = leased.event.event_type.as_str();
        let mut span = self
            .traces
            .join(leased.event.trace, SpanKind::Consumer, "deliver")?;
        span.set("messaging.system", "hookport");
        span.set("messaging.operation.type", "process");
        span.set("messaging.operation.name", "deliver");
        span.set("messaging.destination.name", event_type.to_owned());
        span.set("messaging.message.id", leased.event.id.to_string());
        span.set("hookport.delivery.id", leased.id.to_string());
        span.set(
            "hookport.subscription.id",
            leased.subscription_id.to_string(),
        );
        span.set("hookport.provider", leased.provider.as_str().to_owned());
        span.set("hookport.attempt", i64::from(leased.attempt));
        Some(span)
    }

    /// How the attempt ended; `None`: none was made.
    async fn attempt(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        leased: LeasedDelivery,
        passage: Option<&mut Passage>,
        place: Place,
    ) -> Option<Outcome> {
        let started_at = self.clock.now();
        let report = match self.prepared(snapshot, route, &leased).await {
            Ok(Some(call)) if !self.providers.takes(&leased.provider, &call) => {
                let at = started_at.plus(OUTDATED_WAIT);
                self.settle(&leased, None, Transition::RetryAt(at)).await;
                return None;
            }
            Ok(Some(call)) => {
                self.accepter.metrics.attempting();
                let report = self.deliver(&leased.provider, call).await;
                let outcome = report.outcome().as_str();
                let metrics = &self.accepter.metrics;
                metrics.attempted(leased.provider.as_str(), outcome, report.elapsed);
                report
            }
            Ok(None) => {
                self.settle(&leased, None, Transition::Filtered).await;
                self.wake_followers(route);
                return None;
            }
            Err(failure) => CallReport::failed(failure),
        };
        let ended_at = self.clock.now();
        let attempt = report::attempt(started_at, &report);
        let gone = report.http_status == Some(GONE) && report.result.is_err();
        let judged = match passage {
            Some(passage) => passage.judge(report::verdict(&report), ended_at).await,
            None => Judged::default(),
        };
        let _place = place.for_result().await;
        let transition = match report.result {
            Ok(receipt) => Transition::Success {
                external_id: receipt.external_id,
            },
            Err(_) if gone => Transition::Failed,
            Err(failure) => {
                let advice = report::advice(&failure);
                if judged.held && advice != RetryAdvice::Never {
                    Transition::Parked
                } else {
                    let policy = route.subscription.retry.clone().unwrap_or_default();
                    self.after_failure(&policy, leased.attempt, advice, ended_at)
                }
            }
        };
        let (outcome, message) = (attempt.outcome, attempt.message.clone());
        attempt_log::tell(&attempt, &transition);
        let operational = is_operational(&leased);
        let failed = transition == Transition::Failed;
        let recovered = matches!(transition, Transition::Success { .. }) && leased.attempt > 1;
        match &transition {
            Transition::Success { .. } => {
                let latency = ended_at.since(leased.event.received_at);
                self.accepter.metrics.delivered(latency);
            }
            Transition::Failed => self.accepter.metrics.given_up(leased.provider.as_str()),
            Transition::RetryAt(_) => self.accepter.metrics.retried(leased.provider.as_str()),
            _ => {}
        }
        self.settle(&leased, Some(attempt), transition).await;
        self.wake_followers(route);
        self.keep(route, judged.change, operational).await;
        if gone {
            self.switch_off(route, "the receiver answered 410 Gone", operational)
                .await;
        }
        if !operational && (failed || recovered) {
            self.tell_end(&leased, failed, &message).await;
        }
        Some(outcome)
    }

    /// What a delivery at its end held back by its ordering key may go now.
    fn wake_followers(&self, route: &Route) {
        if route.subscription.ordered {
            self.queue.wake(self.clock.now());
        }
    }

    /// Tells how a delivery ended.
    async fn tell_end(&self, leased: &LeasedDelivery, failed: bool, message: &str) {
        let event_type = if failed {
            operational::EXHAUSTED
        } else {
            operational::RECOVERED
        };
        let payload = json!({
            "deliveryId": leased.id.to_string(),
            "eventId": leased.event.id.to_string(),
            "eventType": leased.event.event_type.as_str(),
            "subscriptionId": leased.subscription_id.to_string(),
            "provider": leased.provider.as_str(),
            "attempts": leased.attempt,
            "message": message,
        });
        self.accepter.emit_operational(event_type, payload).await;
    }

    /// Puts a circuit's change on record, and tells of it.
    async fn keep(&self, route: &Route, change: Change, operational: bool) {
        let subscription = &route.subscription;
        let (id, store) = (subscription.id, &self.accepter.store);
        let did = |action| self.did(action, "subscription", id);
        let (kept, told) = match change {
            Change::None => return,
            Change::Opened(open) => {
                tracing::warn!(subscription = %id, reason = open.reason, "the destination is unavailable; its deliveries are held back");
                self.queue.wake(open.next_probe_at);
                let payload = json!({
                    "subscriptionId": id.to_string(),
                    "name": subscription.name,
                    "provider": subscription.provider.as_str(),
                    "since": rfc3339(open.since),
                    "reason": open.reason,
                    "nextProbeAt": rfc3339(open.next_probe_at),
                });
                let entry = did("circuit.opened").after(&payload);
                (
                    store.audited(entry).put_circuit(open).await,
                    Some((operational::UNAVAILABLE, payload)),
                )
            }
            Change::ProbeFailed(open) => {
                self.queue.wake(open.next_probe_at);
                (store.put_circuit(open).await, None)
            }
            Change::Closed(open) => {
                tracing::info!(subscription = %id, "the destination answers again");
                // What was held back may go.
                self.queue.wake(self.clock.now());
                let payload = json!({
                    "subscriptionId": id.to_string(),
                    "name": subscription.name,
                    "provider": subscription.provider.as_str(),
                    "unavailableSince": rfc3339(open.since),
                });
                let entry = did("circuit.closed").before(&payload);
                (
                    store.audited(entry).delete_circuit(id).await,
                    Some((operational::AVAILABLE, payload)),
                )
            }
        };
        if let Err(error) = kept {
            tracing::warn!(subscription = %id, %error, "the state of the circuit could not be recorded");
        }
        if let Some((event_type, payload)) = told.filter(|_| !operational) {
            self.accepter.emit_operational(event_type, payload).await;
        }
    }

    /// The call with the subscription's filter and transform of now applied; `None` when the
    /// event does not pass the filter.
    async fn prepared(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        leased: &LeasedDelivery,
    ) -> Result<Option<DeliverCall>, CallFailure> {
        let mut call = self.call(snapshot, route, leased)?;
        let programs = &self.accepter.programs;
        if let Some(filter) = &route.subscription.filter
            && !programs
                .passes(filter, &call.event)
                .await
                .map_err(|failure| failure.about("the filter"))?
        {
            return Ok(None);
        }
        if let Some(transform) = &route.subscription.transform {
            let payload = programs.transform(transform, &call.event).await;
            call.event = Arc::new(Event {
                payload: payload.map_err(|failure| failure.about("the transform"))?,
                ..(*call.event).clone()
            });
        }
        Ok(Some(call))
    }

    fn call(
        &self,
        snapshot: &Snapshot,
        route: &Route,
        leased: &LeasedDelivery,
    ) -> Result<DeliverCall, CallFailure> {
        let unavailable = |what: &dyn std::fmt::Display| CallFailure::Unavailable(what.to_string());
        let subscription = &route.subscription;
        let config = route
            .config(&self.vault)
            .map_err(|error| unavailable(&format_args!("config{error}")))?;
        let connection = subscription
            .connection
            .map(|id| {
                let shared = snapshot.connections.get(&id);
                shared
                    .ok_or_else(|| {
                        unavailable(&format_args!("the connection {id} does not exist"))
                    })?
                    .open(&self.vault)
                    .map_err(|error| unavailable(&format_args!("connection{error}")))
            })
            .transpose()?;
        let cache_scope = match subscription.connection {
            Some(id) => id.to_string().into(),
            None => subscription.id.to_string().into(),
        };
        Ok(DeliverCall {
            event: leased.event.clone(),
            delivery_id: leased.id,
            attempt: leased.attempt,
            external_id: leased.external_id.clone(),
            subscription_id: subscription.id,
            subscription_name: route.name.clone(),
            config,
            connection,
            cache_scope,
            timeout: subscription
                .timeout_ms
                .map(|ms| Duration::from_millis(ms.into())),
            preview: None,
        })
    }

    fn after_failure(
        &self,
        policy: &RetryPolicy,
        attempt: u32,
        advice: RetryAdvice,
        now: Timestamp,
    ) -> Transition {
        match policy.after_failure(attempt, advice, (self.jitter)()) {
            NextStep::RetryAfter(wait) => Transition::RetryAt(now.plus(wait)),
            NextStep::GiveUp => Transition::Failed,
        }
    }

    async fn settle(
        &self,
        leased: &LeasedDelivery,
        attempt: Option<Attempt>,
        transition: Transition,
    ) {
        let given_up = transition == Transition::Failed;
        let entry = given_up.then(|| Box::new(self.gave_up(leased, attempt.as_ref())));
        let result = LeaseResult {
            id: leased.id,
            token: leased.token,
            attempt,
            transition,
            job: leased.job,
            at: self.clock.now(),
            entry,
        };
        match self.queue.settle(result).await {
            Ok(Recorded::Written) => {}
            Ok(Recorded::LeaseLost) => {
                tracing::info!("the lease was lost before the result was recorded");
            }
            Err(error) => {
                tracing::warn!(%error, "the result could not be recorded; the delivery returns when its lease ends");
            }
        }
    }

    /// An entry about what this process did.
    fn did(
        &self,
        action: &'static str,
        target_kind: &'static str,
        target_id: impl std::fmt::Display,
    ) -> NewEntry {
        let process = self.accepter.process.clone();
        NewEntry::new(self.clock.now(), process, action, target_kind, target_id)
    }

    /// The entry about a delivery that is a dead letter from now on.
    fn gave_up(&self, leased: &LeasedDelivery, attempt: Option<&Attempt>) -> NewEntry {
        let payload = json!({
            "eventId": leased.event.id.to_string(),
            "eventType": leased.event.event_type.as_str(),
            "subscriptionId": leased.subscription_id.to_string(),
            "provider": leased.provider.as_str(),
            "attempts": leased.attempt,
            "message": attempt.map(|attempt| attempt.message.as_str()),
        });
        let entry = self.did("delivery.given_up", "delivery", leased.id);
        entry.after(&payload)
    }

    async fn switch_off(&self, route: &Route, reason: &str, operational: bool) {
        let (id, name) = (route.subscription.id, &route.subscription.name);
        match self.disable(id, reason).await {
            Ok(false) => return,
            Ok(true) => {
                tracing::warn!(subscription = %id, reason, "the subscription is switched off");
            }
            Err(error) => {
                tracing::warn!(subscription = %id, %error, "the subscription could not be switched off");
                return;
            }
        }
        if !operational {
            let payload = json!({"subscriptionId": id.to_string(), "name": name, "reason": reason});
            self.accepter
                .emit_operational(operational::DISABLED, payload)
                .await;
        }
    }
}

impl Worker {
    /// A call that panics is a defect of the gateway's, and ends as a failed attempt: without a
    /// result the delivery would wait for its lease to end.
    async fn deliver(&self, provider: &ProviderId, call: DeliverCall) -> CallReport<Receipt> {
        let called = self.providers.deliver(provider, call);
        match AssertUnwindSafe(called).catch_unwind().await {
            Ok(report) => report,
            Err(_) => {
                tracing::error!("the call panicked");
                CallReport::failed(CallFailure::Trap(
                    "the gateway itself failed during the call; its log has more".to_owned(),
                ))
            }
        }
    }

    /// Switches it off as it stands on record now. False: it is off, or gone.
    async fn disable(&self, id: SubscriptionId, reason: &str) -> Result<bool, StoreError> {
        let edit = self.snapshots.edit().await?;
        let Some(route) = edit.snapshot.routes.get(&id) else {
            return Ok(false);
        };
        if !route.subscription.enabled {
            return Ok(false);
        }
        let mut subscription = (*route.subscription).clone();
        subscription.enabled = false;
        subscription.disabled_reason = Some(reason.to_owned());
        subscription.updated_at = self.clock.now();
        let entry = self
            .did("subscription.disabled", "subscription", id)
            .before(&json!({"enabled": true}))
            .after(&json!({"enabled": false, "disabledReason": reason}));
        let store = self.catalog.audited(entry);
        store.put_subscription(subscription).await?;
        edit.done().await?;
        Ok(true)
    }
}

fn is_operational(leased: &LeasedDelivery) -> bool {
    let event_type = leased.event.event_type.as_str();
    event_type.starts_with(operational::PREFIX)
}
