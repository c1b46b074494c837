//! One process: the gateway's own parts, put together as `wire` does, on a machine that may stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::receiver::{CALL_MAX, Destinations};
use super::stage::Stage;
use super::time::{MachineClock, bits, jitter};
use super::world::{Life, Wire, World};
use crate::config::ProcessRole;
use crate::coord::Coord;
use crate::coord::markers::Markers;
use crate::coord::memory::Memory;
use crate::dispatch::{Accepter, Ids, Programs, Replayer, Snapshots, Worker, WorkerConfig};
use crate::domain::audit::Actor;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{LeaseResult, LeasedDelivery, NewDelivery, Transition};
use crate::domain::event::Event;
use crate::domain::id::{SubscriptionId, WorkerId};
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::{Batch, Queue, Room};
use crate::store::{Recorded, Store, StoreError};
use crate::telemetry::Traces;
use crate::vault::{MasterKey, Vault};
use crate::wire::{DEAD_AFTER, hear_of_work, stay_alive};

/// As in `wire`: the longest call and a margin.
const LEASE: Duration = CALL_MAX.saturating_add(Duration::from_secs(30));
/// Before a start that failed is tried again.
const START_AGAIN: Duration = Duration::from_millis(500);

/// A queue that tells the store something else than the worker said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twist {
    /// A delivery is given up before its last attempt.
    GivesUpEarly,
    /// It is never given up.
    NeverGivesUp,
    /// Whatever was refused counts as delivered.
    CallsFailureSuccess,
    /// Results are told to be recorded, and are not: what was delivered is delivered again, and
    /// what failed is never given up.
    SettlesWithoutRecording,
}

struct TwistedQueue {
    straight: Arc<dyn Queue>,
    twist: Twist,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Queue for TwistedQueue {
    async fn next(
        &self,
        limit: usize,
        room: &(dyn Fn() -> Room + Sync),
    ) -> Result<Batch, StoreError> {
        self.straight.next(limit, room).await
    }

    async fn settle(&self, mut result: LeaseResult) -> Result<Recorded, StoreError> {
        let is_attempt = result.attempt.is_some();
        result.transition = match (self.twist, result.transition) {
            (Twist::SettlesWithoutRecording, _) => return Ok(Recorded::Written),
            (Twist::GivesUpEarly, Transition::RetryAt(_)) if is_attempt => Transition::Failed,
            (Twist::NeverGivesUp, Transition::Failed) => {
                Transition::RetryAt(self.clock.now().plus(START_AGAIN))
            }
            (Twist::CallsFailureSuccess, Transition::Failed | Transition::RetryAt(_)) => {
                Transition::Success { external_id: None }
            }
            (_, straight) => straight,
        };
        self.straight.settle(result).await
    }

    fn wake(&self, due: Timestamp) {
        self.straight.wake(due);
    }

    fn room_again(&self, subscriptions: &[SubscriptionId], now: Timestamp) {
        self.straight.room_again(subscriptions, now);
    }

    fn lease_new(
        &self,
        events: &[Arc<Event>],
        deliveries: &mut [NewDelivery],
        now: Timestamp,
    ) -> Vec<LeasedDelivery> {
        self.straight.lease_new(events, deliveries, now)
    }

    fn written(&self, subscriptions: &[SubscriptionId], due: Timestamp) {
        self.straight.written(subscriptions, due);
    }

    fn hand_over(&self, batch: Batch) {
        self.straight.hand_over(batch);
    }

    fn withdraw(&self, leased: &[LeasedDelivery], is_doubtful: bool) {
        self.straight.withdraw(leased, is_doubtful);
    }
}

/// A place for a process: its clock outlives it.
pub(super) struct Machine {
    pub(super) clock: Arc<MachineClock>,
    pub(super) role: ProcessRole,
}

/// A running process, as its callers see it.
pub(super) struct Process {
    pub(super) life: Arc<Life>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<Ids>,
    pub(super) store: Arc<dyn Store>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) accepter: Arc<Accepter>,
    pub(super) replayer: Arc<Replayer>,
}

impl Process {
    /// Starts one; goes on trying while the store does not answer.
    pub(super) async fn start(
        world: &Arc<World>,
        stage: &Arc<Stage>,
        machine: &Machine,
        life: Arc<Life>,
        twist: Option<Twist>,
    ) -> Self {
        let destinations = Arc::new(Destinations {
            world: world.clone(),
            stage: stage.clone(),
            life: life.clone(),
            incarnation: world.incarnations.fetch_add(1, Ordering::Relaxed),
            under_way: AtomicUsize::new(0),
        });
        loop {
            let started = Self::try_start(world, machine, &life, &destinations, twist);
            if let Ok(process) = started.await {
                return process;
            }
            machine.clock.sleep(START_AGAIN).await;
        }
    }

    async fn try_start(
        world: &Arc<World>,
        machine: &Machine,
        life: &Arc<Life>,
        destinations: &Arc<Destinations>,
        twist: Option<Twist>,
    ) -> Result<Self, StoreError> {
        let wire = Wire {
            world: world.clone(),
            life: life.clone(),
        };
        let store: Arc<dyn Store> = Arc::new(world.store.by(Arc::new(wire)));
        let clock: Arc<dyn Clock> = machine.clock.clone();
        let ids = Arc::new(Ids::new(bits));
        if !store.is_shared() {
            store.release_all(clock.now()).await?;
        }
        let snapshots = Arc::new(Snapshots::load(store.clone()).await?);
        let metrics = Arc::default();
        let worker: WorkerId = ids.next(clock.now());
        let embedded = EmbeddedQueue::new(store.clone(), clock.clone(), worker, LEASE);
        let mut queue: Arc<dyn Queue> = Arc::new(embedded);
        if store.is_shared() {
            store.keep_alive(worker, DEAD_AFTER).await?;
            let (store, queue, clock) = (store.clone(), queue.clone(), clock.clone());
            tokio::spawn(hear_of_work(store.clone(), queue.clone(), clock.clone()));
            let metrics = Arc::clone(&metrics);
            tokio::spawn(stay_alive(store, worker, queue, clock, metrics));
        }
        if let Some(twist) = twist {
            queue = Arc::new(TwistedQueue {
                straight: queue,
                twist,
                clock: clock.clone(),
            });
        }
        let coord: Arc<dyn Coord> = Arc::new(Memory::new(clock.clone()));
        let accepter = Arc::new(Accepter {
            store: store.clone(),
            queue: queue.clone(),
            snapshots: snapshots.clone(),
            clock: clock.clone(),
            ids: ids.clone(),
            programs: Arc::new(Programs::new(destinations.clone())),
            metrics,
            markers: Markers::new(coord.clone(), store.clone()),
            process: Actor::process(worker, "all"),
        });
        let process = Self {
            life: life.clone(),
            replayer: Arc::new(Replayer {
                store: store.clone(),
                queue: queue.clone(),
                accepter: accepter.clone(),
                coord: coord.clone(),
                clock: clock.clone(),
                wake: Notify::new(),
            }),
            clock,
            ids,
            store,
            snapshots,
            accepter,
        };
        if machine.role != ProcessRole::Api {
            process.work(queue, coord, destinations.clone());
        }
        Ok(process)
    }

    fn work(&self, queue: Arc<dyn Queue>, coord: Arc<dyn Coord>, providers: Arc<Destinations>) {
        let worker = Arc::new(Worker {
            queue,
            providers,
            snapshots: self.snapshots.clone(),
            catalog: self.store.clone(),
            vault: Arc::new(Vault::new(&MasterKey::from_bytes([7; 32]), &[])),
            accepter: self.accepter.clone(),
            coord,
            clock: self.clock.clone(),
            jitter,
            traces: Traces::default(),
            config: WorkerConfig {
                concurrency: 8,
                concurrency_per_subscription: 4,
            },
        });
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(self.replayer.clone().run(stopping.clone()));
        let life = self.life.clone();
        tokio::spawn(async move {
            // It is never asked to stop: it is killed.
            let worked = worker.run(stopping, CancellationToken::new());
            tokio::select! {
                biased;
                () = life.died() => {}
                () = worked => {}
            }
            drop(stop);
        });
    }
}
