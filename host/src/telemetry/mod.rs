//! Traces: what one event went through, from the request that brought it to each attempt and each
//! HTTP request made for it.
//!
//! Invariants: without an endpoint nothing is recorded and nothing is paid for it; a collector that
//! is slow or away costs spans and never an event; and no payload, secret, path or query is an
//! attribute.
//!
//! A span stands under the span that is current in its task ([`current`]). What outlives a task
//! keeps where it stood: an event has its [`TraceParent`] on record, so that attempts in other
//! processes, and after a restart, join its trace.

mod export;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks, SpanProcessor};

use crate::domain::clock::Clock;
use crate::domain::trace::TraceParent;

pub use export::{Exported, Settings, SetupError, probe};

tokio::task_local! {
    static CURRENT: Place;
}

/// Records spans, or does not.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Recorder>>);

struct Recorder {
    processor: Box<dyn SpanProcessor>,
    scope: InstrumentationScope,
    clock: Arc<dyn Clock>,
    random: fn() -> u128,
    /// Of the traces that begin here, so many are recorded: 0.0 to 1.0.
    sample_ratio: f64,
    propagate: bool,
}

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Traces").field(&self.0.is_some()).finish()
    }
}

impl Traces {
    fn recording(recorder: Recorder) -> Self {
        Self(Some(Arc::new(recorder)))
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span that begins a trace here, or continues the caller's, as it wants it recorded.
    /// `None`: it is not recorded.
    #[must_use]
    pub fn begin(
        &self,
        parent: Option<TraceParent>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Option<Span> {
        let recorder = self.0.as_ref()?;
        let sampled = match parent {
            Some(parent) => parent.sampled,
            None => recorder.samples(),
        };
        sampled.then(|| Span::start(recorder.clone(), parent, kind, name.into()))
    }

    /// A span of a trace that was begun elsewhere and is on record; `None`: it is not recorded.
    #[must_use]
    pub fn join(
        &self,
        parent: Option<TraceParent>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
    ) -> Option<Span> {
        self.begin(Some(parent?), kind, name)
    }

    /// Sends what is left, for so long at most.
    pub async fn stop(self, patience: Duration) {
        let Some(recorder) = self.0 else { return };
        // The processor waits for its own task, with the thread.
        let stopped =
            tokio::task::spawn_blocking(move || recorder.processor.shutdown_with_timeout(patience));
        if !matches!(
            tokio::time::timeout(patience, stopped).await,
            Ok(Ok(Ok(())))
        ) {
            tracing::warn!("the last spans could not be sent");
        }
    }
}

impl Recorder {
    fn samples(&self) -> bool {
        if self.sample_ratio >= 1.0 {
            return true;
        }
        // 53 bits are what a fraction holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let fraction = ((self.random)() & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64;
        fraction < self.sample_ratio
    }

    fn now(&self) -> SystemTime {
        let ms = u64::try_from(self.clock.now().0).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }
}

/// Where the running task stands in a trace.
#[derive(Clone)]
pub struct Place {
    recorder: Arc<Recorder>,
    parent: TraceParent,
}

/// Where this task stands; `None`: in no trace that is recorded.
#[must_use]
pub fn current() -> Option<Place> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs `work` at `place`: for a task that was started by another.
pub async fn at<F: Future>(place: Option<Place>, work: F) -> F::Output {
    match place {
        Some(place) => CURRENT.scope(place, work).await,
        None => work.await,
    }
}

/// Runs `work` under `span`, where there is one.
pub async fn under<F: Future>(span: Option<&Span>, work: F) -> F::Output {
    at(span.map(Span::place), work).await
}

impl Place {
    /// A span below this one.
    #[must_use]
    pub fn child(&self, kind: SpanKind, name: impl Into<Cow<'static, str>>) -> Span {
        let (recorder, parent) = (self.recorder.clone(), Some(self.parent));
        Span::start(recorder, parent, kind, name.into())
    }

    /// To be continued elsewhere.
    #[must_use]
    pub fn parent(&self) -> TraceParent {
        self.parent
    }
}

/// What is being recorded; it ends when it goes, whatever ends it.
pub struct Span {
    recorder: Arc<Recorder>,
    context: TraceParent,
    parent: Option<TraceParent>,
    kind: SpanKind,
    name: Cow<'static, str>,
    started_at: SystemTime,
    started: Instant,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Span {
    fn start(
        recorder: Arc<Recorder>,
        parent: Option<TraceParent>,
        kind: SpanKind,
        name: Cow<'static, str>,
    ) -> Self {
        let random = (recorder.random)();
        // Zero is no identifier.
        let span = u64::try_from(random & u128::from(u64::MAX))
            .unwrap_or(1)
            .max(1);
        let trace = parent.map_or_else(|| (recorder.random)().max(1), |parent| parent.trace);
        Self {
            context: TraceParent {
                trace,
                span,
                sampled: true,
            },
            parent,
            kind,
            name,
            started_at: recorder.now(),
            started: Instant::now(),
            attributes: Vec::with_capacity(8),
            status: Status::Unset,
            recorder,
        }
    }

    /// To be continued elsewhere.
    #[must_use]
    pub fn context(&self) -> TraceParent {
        self.context
    }

    /// Whether those who are called for it are told where they stand.
    #[must_use]
    pub fn propagates(&self) -> bool {
        self.recorder.propagate
    }

    /// Where those stand who work for it.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            recorder: self.recorder.clone(),
            parent: self.context,
        }
    }

    /// Adds an attribute; names are those of the semantic conventions where they have one
    /// (<https://opentelemetry.io/docs/specs/semconv/>).
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(name, value));
    }

    /// It failed; `kind` is one of few.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>) {
        let kind: Cow<'static, str> = kind.into();
        self.set("error.type", kind);
        self.status = Status::error("");
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let id = |context: TraceParent| SpanId::from(context.span);
        let data = SpanData {
            span_context: SpanContext::new(
                TraceId::from(self.context.trace),
                id(self.context),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: self.parent.map_or(SpanId::INVALID, id),
            // Only the first span of a process's part has one, and telling which costs more than
            // anybody has asked for.
            parent_span_is_remote: false,
            span_kind: self.kind.clone(),
            name: std::mem::take(&mut self.name),
            start_time: self.started_at,
            end_time: self.started_at + self.started.elapsed(),
            attributes: std::mem::take(&mut self.attributes),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: std::mem::replace(&mut self.status, Status::Unset),
            instrumentation_scope: self.recorder.scope.clone(),
        };
        self.recorder.processor.on_end(data);
    }
}
