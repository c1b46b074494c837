//! What is counted of the broker, for Prometheus.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::topology::Depths;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct QueueLabels {
    queue: &'static str,
}

/// The figures of one process.
#[derive(Clone, Debug)]
pub struct Figures {
    messages: Family<QueueLabels, Gauge>,
    pub(super) up: Gauge,
    pub(super) published: Counter,
    pub(super) unconfirmed: Counter,
    pub(super) swept: Counter,
    pub(super) held_back: Counter,
    pub(super) fallbacks: Counter,
    pub(super) handed_over: Counter,
    lag: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            messages: Family::default(),
            up: Gauge::default(),
            published: Counter::default(),
            unconfirmed: Counter::default(),
            swept: Counter::default(),
            held_back: Counter::default(),
            fallbacks: Counter::default(),
            handed_over: Counter::default(),
            lag: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
        }
    }
}

impl Figures {
    /// Adds them to what a process shows.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "queue_messages",
            "Messages that wait in a queue of the broker, as of a second ago",
            self.messages.clone(),
        );
        registry.register(
            "queue_up",
            "1 while this process has a connection to the broker",
            self.up.clone(),
        );
        registry.register(
            "queue_published",
            "Messages that the broker confirmed",
            self.published.clone(),
        );
        registry.register(
            "queue_confirms_failed",
            "Messages that the broker refused, returned or never confirmed; the store holds their deliveries",
            self.unconfirmed.clone(),
        );
        registry.register(
            "queue_swept",
            "Deliveries that no queue held as it should have, published anew",
            self.swept.clone(),
        );
        registry.register(
            "queue_held_back",
            "Deliveries given back to the store, as their subscription was at its cap",
            self.held_back.clone(),
        );
        registry.register(
            "queue_fallbacks",
            "How often the broker went away and work was claimed from the store",
            self.fallbacks.clone(),
        );
        registry.register(
            "queue_handed_over",
            "Deliveries that the broker held and the store took over while it was away",
            self.handed_over.clone(),
        );
        registry.register_with_unit(
            "queue_lag",
            "From when a delivery is due to when it is taken out of the queue",
            Unit::Seconds,
            self.lag.clone(),
        );
    }

    pub(super) fn depths(&self, depths: Depths) {
        for (queue, messages) in [
            ("process", depths.process),
            ("replay", depths.replay),
            ("dead", depths.dead),
        ] {
            let gauge = self.messages.get_or_create(&QueueLabels { queue });
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn taken(&self, lag: Duration) {
        self.lag.observe(lag.as_secs_f64());
    }
}
