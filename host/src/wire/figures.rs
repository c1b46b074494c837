//! The figures of a process: what counts, and what is read when somebody asks.

use std::sync::Arc;

use crate::metrics::{Metrics, Reading};
use crate::plugin::engine::Sandbox;
use crate::store::{Connections, Store};
use crate::telemetry::Exported;

/// What is counted, with what is read when somebody asks.
pub(super) fn metrics(
    sandbox: &Arc<Sandbox>,
    store: &Arc<dyn Store>,
    exported: &Exported,
) -> Metrics {
    let mut metrics = Metrics::default();
    metrics.show(&sandbox.calls);
    metrics.count(
        "trace_spans_sent",
        "Spans that the collector took",
        &exported.sent,
    );
    metrics.count(
        "trace_spans_failed",
        "Spans that are lost, as the collector did not take them",
        &exported.failed,
    );
    let of_sandbox = |read: fn(&Sandbox) -> u32| -> Box<dyn Fn() -> i64 + Send + Sync> {
        let sandbox = sandbox.clone();
        Box::new(move || read(&sandbox).into())
    };
    let of_store = |read: fn(Connections) -> u32| -> Box<dyn Fn() -> i64 + Send + Sync> {
        let store = store.clone();
        Box::new(move || read(store.connections()).into())
    };
    let readings = [
        (
            "sandbox_slots",
            "Places in the pool of instances",
            of_sandbox(Sandbox::slots),
        ),
        (
            "sandbox_slots_in_use",
            "Of these, taken by calls",
            of_sandbox(Sandbox::slots_in_use),
        ),
        (
            "store_connections_open",
            "Connections to the database",
            of_store(|pool| pool.open),
        ),
        (
            "store_connections_idle",
            "Of these, in nobody's hands",
            of_store(|pool| pool.idle),
        ),
        (
            "store_connections_max",
            "The most that are opened",
            of_store(|pool| pool.max),
        ),
    ];
    for (name, help, read) in readings {
        metrics.read(Reading { name, help, read });
    }
    metrics
}
