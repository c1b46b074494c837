//! One call: a fresh instance, its budget, and how it ended.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use opentelemetry::trace::SpanKind;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::engine::{LoadedCode, Sandbox, TICK};
use super::state::{CallContext, CallShared, CallState};
use super::world::World;
use super::{CallFailure, CallReport};
use crate::domain::delivery::Outcome;
use crate::telemetry::{self, Span};

/// The CPU budget is spent.
#[derive(Debug, thiserror::Error)]
#[error("the CPU budget of {0} ms is spent")]
struct CpuSpent(u32);

/// Runs `body` on a fresh instance. A panic in a host function ends the call and not the caller;
/// `body` returns what the guest returned, and the guest's own error as `Err`.
///
/// # Cancel safety
/// A caller that gives up takes the call with it, and its place in the pool becomes free.
pub(super) async fn run<T, F>(
    sandbox: &Sandbox,
    code: &LoadedCode,
    context: CallContext,
    version: Arc<str>,
    body: F,
) -> CallReport<T>
where
    T: Send + 'static,
    F: AsyncCall<T>,
{
    let started = Instant::now();
    let Some(pre) = F::World::pre(code) else {
        return CallReport::failed(CallFailure::Unavailable(format!(
            "{} is a {}, which has no such function",
            context.provider,
            code.pre.kind()
        )));
    };
    let Ok(slot) = sandbox.slots.acquire_many(code.permits).await else {
        return CallReport::failed(CallFailure::Unavailable(
            "the sandbox is shut down".to_owned(),
        ));
    };
    sandbox.calls.placed(started.elapsed());
    let mut span = telemetry::current().map(|place| place.child(SpanKind::Internal, "call"));
    let shared = Arc::new(CallShared::new(context, span.as_ref().map(Span::place)));
    let called = async {
        // Given back after the store, whose place in the pool it stands for.
        let slot = slot;
        let mut store = new_store(sandbox, &shared);
        let ended = {
            let mut work = std::pin::pin!(async {
                let instance = F::World::instantiate(&pre, &mut store).await?;
                body.call(&instance, &mut store).await
            });
            // Whoever waits for something gives up its turn to compute.
            let work = std::future::poll_fn(|context| {
                let polled = work.as_mut().poll(context);
                if polled.is_pending() {
                    shared.turns.end();
                }
                polled
            });
            tokio::time::timeout_at(shared.deadline, work).await
        };
        let refused = store.data().limiter.refused();
        // The store goes first: what it still holds of the guest's output joins the log.
        drop(store);
        drop(slot);
        match ended {
            Ok(result) => judge(&shared, result, refused),
            Err(_) => Err(CallFailure::Limit(format!(
                "the call took longer than its deadline of {} ms",
                shared.context.timeout.as_millis()
            ))),
        }
    };
    let result = AssertUnwindSafe(called).catch_unwind().await;
    let result = result.unwrap_or_else(|_| {
        Err(CallFailure::Trap(
            "a host function failed; the gateway's log has more".to_owned(),
        ))
    });
    let report = CallReport {
        result,
        logs: shared.take_log(),
        http_status: shared.http_status(),
        unreachable: shared.unreachable(),
        version,
        elapsed: started.elapsed(),
    };
    let (provider, outcome) = (shared.context.provider.as_str(), report.outcome());
    sandbox.calls.ended(provider, outcome.as_str());
    if let Some(span) = &mut span {
        span.set("hookport.provider", provider.to_owned());
        span.set("hookport.provider.version", report.version.clone());
        if outcome != Outcome::Success {
            span.fail(outcome.as_str());
        }
    }
    report
}

/// What to call once the instance is there.
pub(super) trait AsyncCall<T>: Send + 'static {
    /// The world that has the function.
    type World: World;

    /// `Ok(Err(_))` is the guest's own error.
    fn call(
        self,
        instance: &Self::World,
        store: &mut Store<CallState>,
    ) -> impl Future<Output = wasmtime::Result<Result<T, CallFailure>>> + Send;
}

fn new_store(sandbox: &Sandbox, shared: &Arc<CallShared>) -> Store<CallState> {
    let limits = &shared.context.limits;
    let tick_ms = u32::try_from(TICK.as_millis()).unwrap_or(1).max(1);
    let ticks = limits.cpu_ms_max.div_ceil(tick_ms).max(1);
    let mut store = Store::new(sandbox.engine(), CallState::new(shared.clone(), ticks));
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(limits.transfer_bytes_max());
    store.set_max_component_handles(limits.handles_max);
    store.set_epoch_deadline(1);
    let cpu_ms_max = limits.cpu_ms_max;
    let turns = sandbox.turns.clone();
    store.epoch_deadline_callback(move |mut store| {
        let state = store.data_mut();
        let Some(left) = state.ticks_left.checked_sub(1) else {
            return Err(CpuSpent(cpu_ms_max).into());
        };
        state.ticks_left = left;
        let shared = state.shared.clone();
        shared.turns.end();
        if !shared.turns.needs_one(ticks - left) {
            return Ok(UpdateDeadline::Yield(1));
        }
        let turns = turns.clone();
        let turn = Box::pin(async move { shared.turns.take(&turns).await });
        Ok(UpdateDeadline::YieldCustom(1, turn))
    });
    store
}

/// Sorts the end of a call into the four kinds.
fn judge<T>(
    shared: &CallShared,
    result: wasmtime::Result<Result<T, CallFailure>>,
    refused: Option<&'static str>,
) -> Result<T, CallFailure> {
    let failure = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(error) => trapped(shared, &error, refused),
    };
    // What the call was denied or ran out of explains its failure better than its own words.
    if let Some(what) = shared.denied() {
        return Err(CallFailure::Denied(
            shared.sanitize(what.to_owned(), 1 << 10),
        ));
    }
    match (&failure, shared.limited()) {
        (CallFailure::Provider { .. } | CallFailure::Trap(_), Some(what)) => {
            Err(CallFailure::Limit(what.to_owned()))
        }
        _ => Err(failure),
    }
}

fn trapped(
    shared: &CallShared,
    error: &wasmtime::Error,
    refused: Option<&'static str>,
) -> CallFailure {
    let limits = &shared.context.limits;
    if error.is::<PoolConcurrencyLimitError>() {
        // The gateway's want, not the guest's fault: the permits are there to prevent it.
        return CallFailure::Unavailable(format!("the sandbox is full: {error}"));
    }
    if let Some(spent) = error.downcast_ref::<CpuSpent>() {
        return CallFailure::Limit(spent.to_string());
    }
    if let Some(what) = refused {
        let max = if what == "memory" {
            format!("{} bytes of memory", limits.memory_bytes_max)
        } else {
            format!("{} {what}", limits.table_elements_max)
        };
        return CallFailure::Limit(format!("the guest asked for more than {max}"));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            return CallFailure::Limit("the guest's stack overflowed".to_owned());
        }
        Some(Trap::AllocationTooLarge) => {
            return CallFailure::Limit("the guest asked for more memory than allowed".to_owned());
        }
        _ => {}
    }
    let text = format!("{:#}", error);
    if is_host_allowance(&text) {
        return CallFailure::Limit(shared.sanitize(
            format!(
                "the guest handed the host more than allowed: {}",
                error.root_cause()
            ),
            1 << 10,
        ));
    }
    // The backtrace names functions of the guest: useful to its author, harmless to keep.
    CallFailure::Trap(shared.sanitize(format!("the guest trapped: {text}"), 2 << 10))
}

/// Whether wasmtime stopped the guest for exceeding what the host sets aside for one call:
/// bytes handed over, entries of the resource table, handles, header fields. Most of these have
/// no error type.
fn is_host_allowance(text: &str) -> bool {
    [
        "fuel allocated for hostcalls",
        "resource table has no free keys",
        "store handle limit exceeded",
        "too many fields in the field map",
        "total size of fields exceeds limit",
    ]
    .iter()
    .any(|needle| text.contains(needle))
}
