//! Turns to compute: calls that have computed for long go one at a time, with pauses between.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A call that has computed for longer than this many ticks takes turns with others like it, one
/// at a time, so that spinning guests cannot fill every thread of the runtime. Where its component
/// has such calls already, it joins them at its first tick.
const COOL_TICKS: u32 = 5;
/// A pause between two turns: so many times as long as the turn had to wait for a thread. Alone
/// they hardly pause.
const PAUSE_TIMES: u32 = 100;
/// The longest: of two busy cores such calls get a fortieth.
const PAUSE_MAX: Duration = Duration::from_millis(38);

/// The turns of a sandbox.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Turns {
    /// Waits for the next turn; it lasts until the permit is dropped.
    async fn next(&self) -> Option<OwnedSemaphorePermit> {
        let permit = self.0.clone().acquire_owned().await.ok();
        let ready_at = Instant::now();
        tokio::task::yield_now().await;
        let pause = (ready_at.elapsed() * PAUSE_TIMES).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
        permit
    }
}

/// The calls of one component that have computed for long.
pub(super) type HotCalls = Arc<AtomicUsize>;

/// One call's part in the turns of its sandbox.
pub(super) struct CallTurns {
    /// `None`: this call takes no turns.
    siblings: Option<HotCalls>,
    is_hot: AtomicBool,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Drop for CallTurns {
    fn drop(&mut self) {
        if let (true, Some(siblings)) = (*self.is_hot.get_mut(), &self.siblings) {
            siblings.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl CallTurns {
    pub(super) fn new(siblings: Option<HotCalls>) -> Self {
        Self {
            siblings,
            is_hot: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    /// Whether the call, having computed for `ticks`, computes on only when it has a turn.
    pub(super) fn needs_one(&self, ticks: u32) -> bool {
        self.siblings
            .as_ref()
            .is_some_and(|siblings| ticks > COOL_TICKS || siblings.load(Ordering::Relaxed) > 0)
    }

    /// Waits for this call's next turn, the longer the more others want to compute.
    pub(super) async fn take(&self, turns: &Turns) {
        if let (Some(siblings), false) = (&self.siblings, self.is_hot.swap(true, Ordering::Relaxed))
        {
            siblings.fetch_add(1, Ordering::Relaxed);
        }
        *self.held() = turns.next().await;
    }

    /// At every tick, and before the call waits for anything.
    pub(super) fn end(&self) {
        drop(self.held().take());
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_beside_one_that_computes_for_long_need_turns_at_once() {
        let (turns, siblings) = (Turns::default(), HotCalls::default());
        let calm = CallTurns::new(Some(siblings.clone()));
        let exempt = CallTurns::new(None);
        assert!(!calm.needs_one(COOL_TICKS) && calm.needs_one(COOL_TICKS + 1));
        let hot = CallTurns::new(Some(siblings));
        hot.take(&turns).await;
        assert!(calm.needs_one(1) && !exempt.needs_one(1_000));
        drop(hot);
        assert!(!calm.needs_one(1));
    }
}
