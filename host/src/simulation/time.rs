//! Time and randomness of a run: both are its own, so that a seed says all that happens.
//!
//! The runtime has one thread and no timers. Whenever nothing can go on, time jumps to the next
//! sleeper; whatever would wait for the real clock panics instead.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::oneshot;

use crate::domain::clock::{Clock, Timestamp};

/// When every run begins.
const BEGIN: i64 = 1_700_000_000_000;

thread_local! {
    static RANDOM: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

fn random<T>(draw: impl FnOnce(&mut StdRng) -> T) -> T {
    RANDOM.with_borrow_mut(draw)
}

/// True with this probability.
pub(super) fn chance(probability: f64) -> bool {
    random(|rng| rng.random_bool(probability))
}

/// A number of the range.
pub(super) fn between(range: Range<u64>) -> u64 {
    random(|rng| rng.random_range(range))
}

/// One of several.
pub(super) fn one_of<T: Copy, const N: usize>(choices: [T; N]) -> T {
    choices[random(|rng| rng.random_range(0..N))]
}

/// A duration of the range, in milliseconds.
pub(super) fn pause(range_ms: Range<u64>) -> Duration {
    Duration::from_millis(between(range_ms))
}

/// For identifiers.
pub(super) fn bits() -> u128 {
    random(|rng| rng.random())
}

/// For backoff.
pub(super) fn jitter() -> f64 {
    random(|rng| rng.random())
}

#[derive(Default)]
struct Sleepers {
    now_ms: u64,
    next: u64,
    /// By the time of waking, and then by the order of going to sleep.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

/// The time of one run.
#[derive(Default)]
pub(super) struct Time(Mutex<Sleepers>);

impl Time {
    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the beginning.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.lock().now_ms
    }

    pub(super) fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        let (wake, woken) = oneshot::channel();
        let mut sleepers = self.lock();
        let at_ms = sleepers.now_ms + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX / 2);
        let number = sleepers.next;
        sleepers.next += 1;
        sleepers.waiting.insert((at_ms, number), wake);
        Box::pin(async move {
            let _ = woken.await;
        })
    }

    /// Goes on to the next sleeper that still waits.
    fn advance(&self) {
        let mut sleepers = self.lock();
        while let Some(((at_ms, _), wake)) = sleepers.waiting.pop_first() {
            sleepers.now_ms = sleepers.now_ms.max(at_ms);
            if wake.send(()).is_ok() {
                return;
            }
        }
    }
}

/// The clock of one machine: it may be wrong.
pub(super) struct MachineClock {
    pub(super) time: Arc<Time>,
    skew_ms: AtomicI64,
}

impl MachineClock {
    pub(super) fn new(time: Arc<Time>) -> Self {
        Self {
            time,
            skew_ms: AtomicI64::new(0),
        }
    }

    /// Sets it wrong by so much.
    pub(super) fn skew(&self, ms: i64) {
        self.skew_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.time.elapsed_ms()).unwrap_or(i64::MAX - BEGIN);
        Timestamp(BEGIN + elapsed + self.skew_ms.load(Ordering::Relaxed))
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        self.time.sleep(pause)
    }
}

/// Runs what `begin` makes, by `seed` alone.
pub(super) fn run<F: Future>(seed: u64, begin: impl FnOnce(Arc<Time>) -> F) -> F::Output {
    RANDOM.set(StdRng::seed_from_u64(seed));
    let time = Arc::new(Time::default());
    let idle = time.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || idle.advance())
        .build()
        .expect("a runtime");
    runtime.block_on(begin(time))
}
