//! What processes share: the store, the receivers, and the faults.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::plan::Plan;
use super::time::{MachineClock, Time, chance, pause};
use crate::domain::id::{DeliveryId, EventId, SubscriptionId};
use crate::store::memory::{Defect, Fate, Journal, MemoryStore, Way};

/// How a process is, or the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Stopped by a signal, with all that it was doing.
    Frozen,
    /// It answers every command with an error. Of the store only.
    Failing,
    Dead,
}

/// The phase of something, and who waits for it. Who waited first is woken first: a `watch` channel
/// wakes by chance.
#[derive(Debug)]
pub(super) struct Life {
    phase: Mutex<Phase>,
    changed: Notify,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Running),
            changed: Notify::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        *lock(&self.phase)
    }

    /// The dead stay dead.
    pub(super) fn enter(&self, phase: Phase) {
        let mut now = lock(&self.phase);
        if *now != Phase::Dead {
            *now = phase;
            self.changed.notify_waiters();
        }
    }

    async fn wait_for(&self, wanted: impl Fn(Phase) -> bool) {
        loop {
            let changed = self.changed.notified();
            if wanted(self.phase()) {
                return;
            }
            changed.await;
        }
    }

    /// Goes on when it is neither frozen nor dead: never, if it died.
    pub(super) async fn pass(&self) {
        self.wait_for(|phase| matches!(phase, Phase::Running | Phase::Failing))
            .await;
    }

    pub(super) async fn died(&self) {
        self.wait_for(|phase| phase == Phase::Dead).await;
    }
}

/// What a receiver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Yes,
    /// Come again.
    Busy,
    /// Never.
    No,
    /// 410: no more of these.
    Gone,
}

/// A request as a receiver got it.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) delivery: DeliveryId,
    pub(super) event: EventId,
    pub(super) subscription: SubscriptionId,
    pub(super) attempt: u32,
    pub(super) said: Said,
}

/// A call of a provider, whether it got anywhere or not.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// One run of one process.
    pub(super) incarnation: usize,
    pub(super) subscription: SubscriptionId,
    /// By true time.
    pub(super) begun_at_ms: u64,
    /// How many of the same subscription and incarnation were under way, this one included.
    pub(super) under_way: usize,
}

/// An event as its emitter knows it.
#[derive(Clone, Debug)]
pub(super) struct Emitted {
    pub(super) keyed: bool,
    pub(super) correlation_key: String,
    /// What it was answered.
    pub(super) id: Option<EventId>,
    /// Whether the first try was answered.
    pub(super) at_once: bool,
    pub(super) begun: u64,
    pub(super) answered: Option<u64>,
}

/// How much happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: AtomicU64,
    pub(super) freezes: AtomicU64,
    pub(super) store_faults: AtomicU64,
    pub(super) clock_jumps: AtomicU64,
    pub(super) lost_messages: AtomicU64,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Everything outside of the processes.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) time: Arc<Time>,
    pub(super) journal: Arc<Journal>,
    /// Without a way: for the checker, and for whoever sets the stage.
    pub(super) store: MemoryStore,
    pub(super) store_life: Life,
    /// No more faults.
    calm: AtomicBool,
    pub(super) arrivals: Mutex<Vec<Arrival>>,
    pub(super) calls: Mutex<Vec<Call>>,
    /// By the number in the payload.
    pub(super) emitted: Mutex<BTreeMap<u64, Emitted>>,
    /// Subscriptions made while events came in, with the place of the answer.
    pub(super) made_late: Mutex<Vec<(SubscriptionId, u64)>>,
    pub(super) counts: Counts,
    /// Processes started so far.
    pub(super) incarnations: AtomicUsize,
}

/// Poisoned or not.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(plan: Plan, time: Arc<Time>, defect: Option<Defect>) -> Self {
        let journal = Arc::new(Journal::default());
        let clock = Arc::new(MachineClock::new(time.clone()));
        Self {
            store: MemoryStore::new(clock, plan.shared, journal.clone(), defect),
            plan,
            time,
            journal,
            store_life: Life::new(),
            calm: AtomicBool::new(false),
            arrivals: Mutex::default(),
            calls: Mutex::default(),
            emitted: Mutex::default(),
            made_late: Mutex::default(),
            counts: Counts::default(),
            incarnations: AtomicUsize::new(0),
        }
    }

    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Whether a fault of this rate strikes now.
    pub(super) fn strikes(&self, rate: f64) -> bool {
        !self.calm.load(Ordering::Relaxed) && chance(rate)
    }
}

/// From one process to the store.
pub(super) struct Wire {
    pub(super) world: Arc<World>,
    pub(super) life: Arc<Life>,
}

impl Wire {
    async fn travel(&self) {
        let world = &self.world;
        let range_ms = if world.strikes(world.plan.delayed) {
            100..25_000
        } else {
            1..5
        };
        world.time.sleep(pause(range_ms)).await;
    }

    fn loses(&self, rate: f64) -> bool {
        let loses = self.world.strikes(rate);
        if loses {
            count(&self.world.counts.lost_messages);
        }
        loses
    }
}

#[async_trait]
impl Way for Wire {
    async fn leave(&self) -> Fate {
        self.life.pass().await;
        let world = &self.world;
        Fate {
            redone: world.strikes(world.plan.redone),
            disowned: self.loses(world.plan.disowned),
        }
    }

    async fn arrive(&self) -> bool {
        self.travel().await;
        let world = &self.world;
        world.store_life.pass().await;
        if !world.plan.shared {
            // The database is in the process: it dies and stops with it.
            self.life.pass().await;
        }
        world.store_life.phase() != Phase::Failing && !self.loses(world.plan.lost_commands)
    }

    async fn come_back(&self) -> bool {
        self.travel().await;
        self.life.pass().await;
        !self.loses(self.world.plan.lost_answers)
    }
}
