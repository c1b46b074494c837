//! What a gateway counts and measures, for Prometheus.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for counters.
//! Labels are bounded by what is installed: providers and outcomes, never identifiers.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

mod calls;
mod readings;
mod requests;

pub use calls::SandboxCalls;
pub use readings::Reading;
pub use requests::Requests;

/// What every name begins with, but those that Prometheus' clients agree on.
const PREFIX: &str = "hookport";

/// The labels of an attempt.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    provider: String,
    outcome: &'static str,
}

/// The labels of a call.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderLabels {
    provider: String,
}

/// How a delivery ended: `success` or `failed`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    state: &'static str,
}

/// What is shared between processes, and done by one alone when it has to be.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum CoordUse {
    /// Markers and caches.
    Values,
    /// Rate limits.
    Rates,
    /// Locks.
    Locks,
    /// Circuits.
    Cells,
}

impl EncodeLabelValue for CoordUse {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Values => "values",
            Self::Rates => "rates",
            Self::Locks => "locks",
            Self::Cells => "circuits",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

type NoLabels = [(&'static str, &'static str); 0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CoordLabels {
    what: CoordUse,
}

/// What was done with dead letters.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
}

/// What was removed for its age.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RecordLabels {
    record: &'static str,
}

/// 1 ms to about 9 minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 20))
}

/// The figures of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    accept_duration: Histogram,
    attempts: Family<AttemptLabels, Counter>,
    attempt_duration: Family<ProviderLabels, Histogram, fn() -> Histogram>,
    ended: Family<EndLabels, Counter>,
    retries: Family<ProviderLabels, Counter>,
    dead_letters: Family<ProviderLabels, Counter>,
    delivery_latency: Histogram,
    under_way: Gauge,
    backlog: Gauge<f64, AtomicU64>,
    lag: Gauge<f64, AtomicU64>,
    store_up: Gauge,
    taken_over: Counter,
    /// Empty where nothing is shared.
    coord_up: Family<NoLabels, Gauge>,
    coord_fallbacks: Family<CoordLabels, Counter>,
    settled: Family<ActionLabels, Counter>,
    removed: Family<RecordLabels, Counter>,
    /// Of the API.
    pub requests: Requests,
}

/// What the store says when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// Deliveries that wait or are under way, over all processes.
    pub waiting: u64,
    /// How long the oldest delivery that is due has been so.
    pub lag: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(readings::Process));
        let registry = all.sub_registry_with_prefix(PREFIX);
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What runs", Info::new(version));
        let metrics = (
            Counter::default(),
            seconds(),
            Family::<AttemptLabels, Counter>::default(),
            Family::<ProviderLabels, Histogram, fn() -> Histogram>::new_with_constructor(seconds),
            Family::<EndLabels, Counter>::default(),
            seconds(),
        );
        let (accepted, accept_duration, attempts, attempt_duration, ended, delivery_latency) =
            metrics;
        let (under_way, backlog, taken_over) =
            (Gauge::default(), Gauge::default(), Counter::default());
        registry.register("events_accepted", "Events on disk", accepted.clone());
        registry.register_with_unit(
            "accept_duration",
            "From an event's call to its commit",
            Unit::Seconds,
            accept_duration.clone(),
        );
        registry.register("attempts", "Attempts made", attempts.clone());
        registry.register_with_unit(
            "attempt_duration",
            "One call of a provider",
            Unit::Seconds,
            attempt_duration.clone(),
        );
        registry.register("deliveries_ended", "Deliveries at their end", ended.clone());
        registry.register_with_unit(
            "delivery_latency",
            "From an event's acceptance to its delivery",
            Unit::Seconds,
            delivery_latency.clone(),
        );
        registry.register(
            "deliveries_under_way",
            "Attempts that this process is making",
            under_way.clone(),
        );
        let (retries, dead_letters) = (
            Family::<ProviderLabels, Counter>::default(),
            Family::<ProviderLabels, Counter>::default(),
        );
        registry.register(
            "retries",
            "Failed attempts that another one follows",
            retries.clone(),
        );
        registry.register("dead_letters", "Deliveries given up", dead_letters.clone());
        let (lag, store_up) = (Gauge::default(), Gauge::default());
        registry.register_with_unit(
            "oldest_due_age",
            "How long the oldest delivery that is due has been so, over all processes",
            Unit::Seconds,
            lag.clone(),
        );
        registry.register("store_up", "Whether the store answers", store_up.clone());
        registry.register(
            "deliveries_waiting",
            "Deliveries that wait or are under way, over all processes; counted up to 10,000",
            backlog.clone(),
        );
        registry.register(
            "deliveries_taken_over",
            "Deliveries that a process which was not seen any more had under way",
            taken_over.clone(),
        );
        let (coord_up, coord_fallbacks) = (Family::<NoLabels, Gauge>::default(), Family::default());
        registry.register(
            "coord_up",
            "Whether Redis answers; missing where there is none",
            coord_up.clone(),
        );
        registry.register(
            "coord_fallbacks",
            "Calls that this process answered by itself as Redis did not",
            coord_fallbacks.clone(),
        );
        let requests = Requests::register(registry);
        let settled = Family::<ActionLabels, Counter>::default();
        registry.register(
            "dead_letters_settled",
            "Dead letters that ceased to be: requeue, discard",
            settled.clone(),
        );
        let removed = Family::<RecordLabels, Counter>::default();
        registry.register(
            "records_removed",
            "Records removed for their age",
            removed.clone(),
        );
        Self {
            registry: all,
            accepted,
            accept_duration,
            attempts,
            attempt_duration,
            ended,
            retries,
            dead_letters,
            delivery_latency,
            under_way,
            backlog,
            lag,
            store_up,
            taken_over,
            coord_up,
            coord_fallbacks,
            requests,
            settled,
            removed,
        }
    }
}

impl Metrics {
    /// Shows what the sandbox counts.
    pub fn show(&mut self, calls: &SandboxCalls) {
        calls.register(self.registry.sub_registry_with_prefix(PREFIX));
    }

    /// Shows what somebody else counts.
    pub fn count(&mut self, name: &'static str, help: &'static str, counter: &Counter) {
        self.registry
            .sub_registry_with_prefix(PREFIX)
            .register(name, help, counter.clone());
    }

    /// Shows a figure that is read at each scrape.
    pub fn read(&mut self, reading: Reading) {
        self.registry
            .sub_registry_with_prefix(PREFIX)
            .register_collector(Box::new(reading));
    }

    /// Events are on disk.
    pub fn accepted(&self, events: usize, after: Duration) {
        self.accepted
            .inc_by(u64::try_from(events).unwrap_or(u64::MAX));
        self.accept_duration.observe(after.as_secs_f64());
    }

    /// An attempt begins; it ends with [`Metrics::attempted`].
    pub fn attempting(&self) {
        self.under_way.inc();
    }

    /// An attempt was made.
    pub fn attempted(&self, provider: &str, outcome: &'static str, took: Duration) {
        self.under_way.dec();
        let provider = provider.to_owned();
        let labels = ProviderLabels {
            provider: provider.clone(),
        };
        self.attempt_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.attempts
            .get_or_create(&AttemptLabels { provider, outcome })
            .inc();
    }

    /// An attempt failed, and another one follows.
    pub fn retried(&self, provider: &str) {
        let provider = provider.to_owned();
        self.retries
            .get_or_create(&ProviderLabels { provider })
            .inc();
    }

    /// A delivery succeeded, so long after its event was accepted.
    pub fn delivered(&self, latency: Duration) {
        let state = EndLabels { state: "success" };
        self.ended.get_or_create(&state).inc();
        self.delivery_latency.observe(latency.as_secs_f64());
    }

    /// A delivery was given up.
    pub fn given_up(&self, provider: &str) {
        let state = EndLabels { state: "failed" };
        self.ended.get_or_create(&state).inc();
        let provider = provider.to_owned();
        self.dead_letters
            .get_or_create(&ProviderLabels { provider })
            .inc();
    }

    /// Dead letters ceased to be.
    pub fn settled(&self, action: &'static str, deliveries: u64) {
        let labels = ActionLabels { action };
        self.settled.get_or_create(&labels).inc_by(deliveries);
    }

    /// Records were removed for their age.
    pub fn removed(&self, record: &'static str, records: u64) {
        let labels = RecordLabels { record };
        self.removed.get_or_create(&labels).inc_by(records);
    }

    /// Deliveries of a dead process are due again.
    pub fn taken_over(&self, deliveries: u64) {
        self.taken_over.inc_by(deliveries);
    }

    /// Where others add figures of their own, before the first is shown.
    pub fn registry_mut(&mut self) -> &mut Registry {
        self.registry.sub_registry_with_prefix(PREFIX)
    }

    /// Whether Redis answers.
    pub fn coord_up(&self, is_up: bool) {
        self.coord_up.get_or_create(&[]).set(i64::from(is_up));
    }

    /// This process did by itself what is shared otherwise.
    pub fn coord_fell_back(&self, what: CoordUse) {
        self.coord_fallbacks
            .get_or_create(&CoordLabels { what })
            .inc();
    }

    /// Everything in the text format (OpenMetrics), with the backlog as the store told it just now;
    /// `None`: the store did not answer.
    #[must_use]
    pub fn text(&self, backlog: Option<Backlog>) -> String {
        // Not a number: nothing that is compared with it holds.
        #[expect(clippy::cast_precision_loss, reason = "counted up to 10,000")]
        let (waiting, lag) = backlog.map_or((f64::NAN, f64::NAN), |backlog| {
            (backlog.waiting as f64, backlog.lag.as_secs_f64())
        });
        self.store_up.set(i64::from(backlog.is_some()));
        self.backlog.set(waiting);
        self.lag.set(lag);
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_in_the_text() {
        let mut metrics = Metrics::default();
        let calls = SandboxCalls::default();
        metrics.show(&calls);
        metrics.read(Reading {
            name: "places",
            help: "Places",
            read: Box::new(|| 12),
        });
        calls.ended("jq", "trap");
        calls.placed(Duration::ZERO);
        metrics.accepted(3, Duration::from_millis(2));
        metrics.attempting();
        metrics.attempted("webhook", "success", Duration::from_millis(5));
        metrics.attempting();
        metrics.delivered(Duration::from_secs(1));
        metrics.retried("webhook");
        metrics.given_up("slack");
        metrics.taken_over(4);
        metrics.settled("requeue", 5);
        metrics.removed("events", 6);
        let open = metrics.requests.begun();
        let took = Duration::from_millis(3);
        metrics.requests.answered("GET", "/events/{id}", 404, took);
        drop(open);
        let backlog = Backlog {
            waiting: 7,
            lag: Duration::from_millis(1_500),
        };
        let text = metrics.text(Some(backlog));
        for line in [
            "hookport_events_accepted_total 3",
            "hookport_accept_duration_seconds_count 1",
            "hookport_attempts_total{provider=\"webhook\",outcome=\"success\"} 1",
            "hookport_attempt_duration_seconds_count{provider=\"webhook\"} 1",
            "hookport_deliveries_ended_total{state=\"failed\"} 1",
            "hookport_retries_total{provider=\"webhook\"} 1",
            "hookport_dead_letters_total{provider=\"slack\"} 1",
            "hookport_oldest_due_age_seconds 1.5",
            "hookport_store_up 1",
            "hookport_sandbox_calls_total{provider=\"jq\",outcome=\"trap\"} 1",
            "hookport_sandbox_wait_seconds_count 1",
            "hookport_places 12",
            "hookport_api_requests_total{method=\"GET\",route=\"/events/{id}\",status=\"404\"} 1",
            "hookport_api_request_duration_seconds_count{method=\"GET\",route=\"/events/{id}\"} 1",
            "hookport_api_requests_under_way 0",
            "hookport_build_info{version=",
            "process_open_fds ",
            "hookport_delivery_latency_seconds_sum 1.0",
            "hookport_deliveries_under_way 1",
            "hookport_deliveries_waiting 7.0",
            "hookport_deliveries_taken_over_total 4",
            "hookport_dead_letters_settled_total{action=\"requeue\"} 5",
            "hookport_records_removed_total{record=\"events\"} 6",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let text = metrics.text(None);
        for line in ["hookport_store_up 0", "hookport_oldest_due_age_seconds NaN"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
