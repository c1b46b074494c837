//! What happens in a run: events are emitted, things are configured, machines fail; then all is
//! calm, and whatever was accepted has to come to its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::plan::Plan;
use super::process::{Machine, Process, Twist};
use super::stage::{self, EVENT_TYPE, Stage};
use super::time::{MachineClock, between, chance, one_of, pause};
use super::world::{Emitted, Life, Phase, World, count, lock};
use crate::config::ProcessRole;
use crate::dispatch::accept::Outcome;
use crate::dispatch::{AcceptError, Emit, EmittedBy};
use crate::domain::clock::Clock as _;
use crate::domain::delivery::DeliveryState;
use crate::domain::event::EventTypeName;
use crate::domain::replay::{Replay, ReplayFilter, ReplayScope, ReplayState};
use crate::domain::subscription::Subscription;
use crate::store::{CatalogStore as _, IdempotencyKey, StoreError};

/// A client waits so long for an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);
/// Between looks at whether something is over.
const LOOK: Duration = Duration::from_millis(500);
/// Emitters, each with a correlation key of its own.
const EMITTERS: u64 = 3;
/// After the last fault, everything ends within this time: longer than a lease, a full round of
/// retries, a clock set wrong, and the waits of an open circuit together.
const CALM_MAX: Duration = Duration::from_secs(1_200);

/// A machine with what runs on it.
struct Place {
    machine: Machine,
    life: std::sync::Mutex<Arc<Life>>,
    process: std::sync::Mutex<Option<Arc<Process>>>,
}

/// A run.
pub(super) struct Script {
    world: Arc<World>,
    stage: Arc<Stage>,
    places: Vec<Arc<Place>>,
    twist: Option<Twist>,
    over: AtomicBool,
}

impl Script {
    pub(super) async fn play(world: Arc<World>, twist: Option<Twist>) -> Arc<Stage> {
        let stage = Arc::new(Stage::set(&world).await);
        let places = (0..world.plan.processes).map(|number| {
            let role = match (world.plan.processes, number) {
                (1, _) => ProcessRole::All,
                (_, 0) => one_of([ProcessRole::All, ProcessRole::Api]),
                (_, 1) => one_of([ProcessRole::All, ProcessRole::Worker]),
                _ => ProcessRole::All,
            };
            Arc::new(Place {
                machine: Machine {
                    clock: Arc::new(MachineClock::new(world.time.clone())),
                    role,
                },
                life: std::sync::Mutex::new(Arc::new(Life::new())),
                process: std::sync::Mutex::new(None),
            })
        });
        let script = Arc::new(Self {
            places: places.collect(),
            world,
            stage,
            twist,
            over: AtomicBool::new(false),
        });
        for place in &script.places {
            script.start(place);
        }
        let admin = tokio::spawn(script.clone().administer());
        let faults = tokio::spawn(script.clone().break_things());
        join_all((0..EMITTERS).map(|number| script.emit_all(number))).await;
        script.sleep(0..20_000).await;
        script.over.store(true, Ordering::Relaxed);
        faults.await.expect("no panic");
        admin.await.expect("no panic");
        script.calm_down().await;
        script.stage.clone()
    }

    async fn sleep(&self, range_ms: std::ops::Range<u64>) {
        self.world.time.sleep(pause(range_ms)).await;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Starts a process where there is none.
    fn start(self: &Arc<Self>, place: &Arc<Place>) {
        let life = Arc::new(Life::new());
        *lock(&place.life) = life.clone();
        let (script, place) = (self.clone(), place.clone());
        tokio::spawn(async move {
            let (world, stage) = (&script.world, &script.stage);
            let started = Process::start(world, stage, &place.machine, life, script.twist).await;
            if started.life.phase() != Phase::Dead {
                *lock(&place.process) = Some(Arc::new(started));
            }
        });
    }

    /// A process that answers the API.
    async fn any_api(&self) -> Arc<Process> {
        loop {
            let place =
                &self.places[usize::try_from(between(0..64)).unwrap_or(0) % self.places.len()];
            let process = lock(&place.process).clone();
            if let Some(process) = process.filter(|_| place.machine.role != ProcessRole::Worker) {
                return process;
            }
            self.world.time.sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a process answers, if it does.
    async fn ask<T>(&self, process: &Process, call: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = call => Some(answer),
            () = process.life.died() => None,
            () = self.world.time.sleep(CLIENT_PATIENCE) => None,
        }
    }

    async fn emit_all(&self, emitter: u64) {
        let mut number = emitter;
        while number < self.world.plan.events {
            self.emit(number, format!("k{emitter}")).await;
            self.sleep(2..4_000).await;
            number += EMITTERS;
        }
    }

    /// Emits one event. With a key it is sent until it is answered, without one it is sent once.
    async fn emit(&self, number: u64, correlation_key: String) {
        let keyed = number % 2 == 1;
        let emit = Emit {
            event_type: EVENT_TYPE.to_owned(),
            payload_text: format!("{{\"number\": {number}}}").into(),
            occurred_at: None,
            correlation_key: Some(correlation_key.clone()),
            system_ids: Vec::new(),
        };
        let mut emitted = Emitted {
            keyed,
            correlation_key,
            id: None,
            at_once: true,
            begun: self.world.journal.place(),
            answered: None,
        };
        loop {
            lock(&self.world.emitted).insert(number, emitted.clone());
            let process = self.any_api().await;
            let idempotency = keyed.then(|| IdempotencyKey {
                scope: "sim".to_owned(),
                key: number.to_string(),
                body_hash: [1; 32],
            });
            let emits = [emit.clone()];
            let accepted = process.accepter.accept(&emits, EmittedBy { idempotency });
            match self.ask(&process, accepted).await {
                Some(Ok(Outcome::New(events))) => emitted.id = events.first().map(|event| event.id),
                Some(Ok(Outcome::Duplicate(ids))) => emitted.id = ids.first().copied(),
                None | Some(Err(AcceptError::Store(StoreError::Unavailable(_)))) => {}
                Some(other) => panic!("event {number}: {other:?}"),
            }
            if emitted.id.is_some() || !keyed {
                break;
            }
            emitted.at_once = false;
            self.sleep(10..500).await;
        }
        emitted.answered = emitted.id.map(|_| self.world.journal.place());
        lock(&self.world.emitted).insert(number, emitted);
    }

    /// Changes the configuration, retries and replays, until the run is over.
    async fn administer(self: Arc<Self>) {
        while !self.is_over() {
            self.sleep(500..8_000).await;
            let process = self.any_api().await;
            // Whatever fails here failed: only what was answered counts.
            let _ = match between(0..10) {
                0..=4 => self.ask(&process, self.pause_or_resume(&process)).await,
                5 => self.ask(&process, self.make_late(&process)).await,
                6 => self.ask(&process, self.doom(&process)).await,
                7 | 8 => self.ask(&process, self.retry_by_hand(&process)).await,
                _ => self.ask(&process, self.replay(&process)).await,
            };
        }
    }

    async fn pause_or_resume(&self, process: &Process) -> Result<(), StoreError> {
        let stage = &self.stage;
        let id = one_of([stage.plain, stage.ordered, stage.limited, stage.strict]);
        let edit = process.snapshots.edit().await?;
        let Some(route) = edit.snapshot.routes.get(&id) else {
            return Ok(());
        };
        let before = &*route.subscription;
        let changed = Subscription {
            paused: !before.paused,
            updated_at: process.clock.now(),
            ..before.clone()
        };
        process.store.put_subscription(changed).await?;
        edit.done().await
    }

    /// A subscription that is there from its answer on.
    async fn make_late(&self, process: &Process) -> Result<(), StoreError> {
        if lock(&self.world.made_late).len() >= 2 {
            return Ok(());
        }
        let now = process.clock.now();
        let id = process.ids.next(now);
        let made = stage::subscription(id, "late", now);
        process.store.put_subscription(made).await?;
        let place = self.world.journal.place();
        lock(&self.world.made_late).push((id, place));
        process.snapshots.renew().await.map(drop)
    }

    async fn doom(&self, process: &Process) -> Result<(), StoreError> {
        let (id, now) = (self.stage.doomed, process.clock.now());
        if chance(0.2) {
            process.store.delete_subscription(id, now).await?;
            return process.snapshots.renew().await.map(drop);
        }
        let edit = process.snapshots.edit().await?;
        let Some(route) = edit.snapshot.routes.get(&id) else {
            return Ok(());
        };
        let before = &*route.subscription;
        let changed = Subscription {
            enabled: !before.enabled,
            updated_at: now,
            ..before.clone()
        };
        process.store.put_subscription(changed).await?;
        edit.done().await
    }

    async fn retry_by_hand(&self, process: &Process) -> Result<(), StoreError> {
        let failed = {
            let tables = self.world.store.tables();
            let rows = tables.rows.values().map(|row| &row.delivery);
            let mut failed = rows.filter(|own| own.state == DeliveryState::Failed);
            failed.next().map(|own| own.id)
        };
        if let Some(id) = failed {
            process.store.retry(id, process.clock.now()).await?;
            process.accepter.queue.wake(process.clock.now());
        }
        Ok(())
    }

    async fn replay(&self, process: &Process) -> Result<(), StoreError> {
        let now = process.clock.now();
        let replay = Replay {
            id: process.ids.next(now),
            requested_by: "the simulation".to_owned(),
            reason: String::new(),
            scope: one_of([ReplayScope::Failed, ReplayScope::Failed, ReplayScope::All]),
            filter: ReplayFilter {
                event_type: EventTypeName::parse(EVENT_TYPE).ok(),
                until: Some(now),
                ..ReplayFilter::default()
            },
            state: ReplayState::Running,
            cursor: None,
            events: 0,
            deliveries: 0,
            created_at: now,
            updated_at: now,
        };
        process.store.put_replay(replay).await?;
        process.replayer.wake.notify_one();
        Ok(())
    }

    /// One fault after another, until the run is over.
    async fn break_things(self: Arc<Self>) {
        let plan = &self.world.plan;
        let weights = [
            (plan.kills, Fault::Kill),
            (plan.freezes, Fault::Freeze),
            (plan.store_failures, Fault::StoreFails),
            (plan.store_freezes, Fault::StoreFreezes),
            (plan.clock_jumps, Fault::ClockJumps),
        ];
        let all: u64 = weights.iter().map(|(weight, _)| weight).sum();
        while !self.is_over() {
            self.sleep(200..6_000).await;
            if all == 0 {
                continue;
            }
            let mut drawn = between(0..all);
            for (weight, fault) in weights {
                if drawn < weight {
                    self.strike(fault).await;
                    break;
                }
                drawn -= weight;
            }
        }
    }

    async fn strike(self: &Arc<Self>, fault: Fault) {
        let counts = &self.world.counts;
        match fault {
            Fault::Kill => {
                // One of them, or all at once.
                let all = chance(0.2);
                let one = usize::try_from(between(0..64)).unwrap_or(0) % self.places.len();
                let killed = self.places.iter().enumerate();
                let killed: Vec<_> = killed
                    .filter(|(index, _)| all || *index == one)
                    .map(|(_, place)| place.clone())
                    .collect();
                for place in &killed {
                    count(&counts.kills);
                    lock(&place.life).enter(Phase::Dead);
                    *lock(&place.process) = None;
                }
                self.sleep(1..20_000).await;
                for place in &killed {
                    self.start(place);
                }
            }
            Fault::Freeze => {
                count(&counts.freezes);
                let place = usize::try_from(between(0..64)).unwrap_or(0) % self.places.len();
                let life = lock(&self.places[place].life).clone();
                life.enter(Phase::Frozen);
                self.sleep(100..60_000).await;
                life.enter(Phase::Running);
            }
            Fault::StoreFails | Fault::StoreFreezes => {
                count(&counts.store_faults);
                self.world.store_life.enter(match fault {
                    Fault::StoreFails => Phase::Failing,
                    _ => Phase::Frozen,
                });
                self.sleep(100..30_000).await;
                self.world.store_life.enter(Phase::Running);
            }
            Fault::ClockJumps => {
                count(&counts.clock_jumps);
                let place = usize::try_from(between(0..64)).unwrap_or(0) % self.places.len();
                let jump_ms = i64::try_from(between(0..240_000)).unwrap_or(0) - 120_000;
                self.places[place].machine.clock.skew(jump_ms);
            }
        }
    }

    /// Ends every fault and waits until nothing is left to do.
    async fn calm_down(&self) {
        let world = &self.world;
        world.calm_down();
        world.store_life.enter(Phase::Running);
        for place in &self.places {
            place.machine.clock.skew(0);
        }
        // What is on its way arrives yet.
        world.time.sleep(Duration::from_secs(30)).await;
        let until_ms = world.time.elapsed_ms() + u64::try_from(CALM_MAX.as_millis()).unwrap_or(0);
        while !self.has_ended() && world.time.elapsed_ms() < until_ms {
            // Again and again: a change may have been on its way when the calm began.
            self.resume().await;
            world.time.sleep(LOOK).await;
        }
    }

    async fn resume(&self) {
        let now = MachineClock::new(self.world.time.clone()).now();
        let paused: Vec<Subscription> = {
            let tables = self.world.store.tables();
            let all = tables.subscriptions.values();
            all.filter(|own| own.paused).cloned().collect()
        };
        for subscription in paused {
            let resumed = Subscription {
                paused: false,
                updated_at: now,
                ..subscription
            };
            let put = self.world.store.put_subscription(resumed).await;
            put.expect("all is calm");
        }
    }

    fn has_ended(&self) -> bool {
        let tables = self.world.store.tables();
        let running = |replay: &Replay| replay.state == ReplayState::Running;
        !tables.rows.values().any(|row| row.is_open()) && !tables.replays.values().any(running)
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    StoreFails,
    StoreFreezes,
    ClockJumps,
}

/// One run of a seed: what was left at its end.
pub(super) fn run(
    seed: u64,
    defect: Option<crate::store::memory::Defect>,
    twist: Option<Twist>,
) -> (Arc<World>, Arc<Stage>) {
    super::time::run(seed, |time| async move {
        let world = Arc::new(World::new(Plan::draw(), time, defect));
        let stage = Script::play(world.clone(), twist).await;
        (world, stage)
    })
}
