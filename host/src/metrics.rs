//! What a gateway counts and measures, for Prometheus.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for counters.
//! Labels are bounded by what is installed: providers and outcomes, never identifiers.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

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

/// How a delivery ended.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum End {
    Success,
    Failed,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    state: End,
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
    delivery_latency: Histogram,
    under_way: Gauge,
    backlog: Gauge,
    taken_over: Counter,
    /// Empty where nothing is shared.
    coord_up: Family<NoLabels, Gauge>,
    coord_fallbacks: Family<CoordLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hookport");
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
        Self {
            registry,
            accepted,
            accept_duration,
            attempts,
            attempt_duration,
            ended,
            delivery_latency,
            under_way,
            backlog,
            taken_over,
            coord_up,
            coord_fallbacks,
        }
    }
}

impl Metrics {
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

    /// A delivery succeeded, so long after its event was accepted.
    pub fn delivered(&self, latency: Duration) {
        let state = EndLabels {
            state: End::Success,
        };
        self.ended.get_or_create(&state).inc();
        self.delivery_latency.observe(latency.as_secs_f64());
    }

    /// A delivery was given up.
    pub fn given_up(&self) {
        let state = EndLabels { state: End::Failed };
        self.ended.get_or_create(&state).inc();
    }

    /// Deliveries of a dead process are due again.
    pub fn taken_over(&self, deliveries: u64) {
        self.taken_over.inc_by(deliveries);
    }

    /// Where others add figures of their own, before the first is shown.
    pub fn registry_mut(&mut self) -> &mut Registry {
        &mut self.registry
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

    /// Everything in the text format (OpenMetrics), with the backlog as counted just now.
    #[must_use]
    pub fn text(&self, backlog: u64) -> String {
        self.backlog.set(i64::try_from(backlog).unwrap_or(i64::MAX));
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
        let metrics = Metrics::default();
        metrics.accepted(3, Duration::from_millis(2));
        metrics.attempting();
        metrics.attempted("webhook", "success", Duration::from_millis(5));
        metrics.attempting();
        metrics.delivered(Duration::from_secs(1));
        metrics.given_up();
        metrics.taken_over(4);
        let text = metrics.text(7);
        for line in [
            "hookport_events_accepted_total 3",
            "hookport_accept_duration_seconds_count 1",
            "hookport_attempts_total{provider=\"webhook\",outcome=\"success\"} 1",
            "hookport_attempt_duration_seconds_count{provider=\"webhook\"} 1",
            "hookport_deliveries_ended_total{state=\"Failed\"} 1",
            "hookport_delivery_latency_seconds_sum 1.0",
            "hookport_deliveries_under_way 1",
            "hookport_deliveries_waiting 7",
            "hookport_deliveries_taken_over_total 4",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
