//! Processes over a shared store show each other that they live, and tell of work.

use std::sync::Arc;

use super::{ALIVE_EVERY, DEAD_AFTER};
use crate::domain::clock::Clock;
use crate::domain::id::WorkerId;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::Store;

/// Shows the other processes that this one lives, and takes over what dead ones held.
pub(crate) async fn stay_alive(
    store: Arc<dyn Store>,
    worker: WorkerId,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) {
    loop {
        match store.keep_alive(worker, DEAD_AFTER).await {
            Ok(0) => {}
            Ok(released) => {
                tracing::warn!(
                    released,
                    "a process has not been seen for {DEAD_AFTER:?}; what it had in flight is due again"
                );
                metrics.taken_over(released);
                queue.wake(clock.now());
            }
            Err(error) => {
                tracing::warn!(%error, "this process cannot show that it lives; others may take over what it has in flight");
            }
        }
        clock.sleep(ALIVE_EVERY).await;
    }
}

pub(crate) async fn hear_of_work(
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
) {
    loop {
        store.heard_of_work().await;
        queue.wake(clock.now());
    }
}
