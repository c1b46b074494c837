//! What the API answers: requests by route and status, and how long they took.
//!
//! A route is the pattern that matched, never the path: a path holds identifiers, and whoever
//! guesses paths must not make series.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::seconds;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// The figures of the API.
#[derive(Debug)]
pub struct Requests {
    answered: Family<AnswerLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
    under_way: Gauge,
}

impl Requests {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let requests = Self {
            answered: Family::default(),
            duration: Family::new_with_constructor(seconds),
            under_way: Gauge::default(),
        };
        registry.register(
            "api_requests",
            "Requests answered, by route and status",
            requests.answered.clone(),
        );
        registry.register_with_unit(
            "api_request_duration",
            "From a request's head to its answer's",
            Unit::Seconds,
            requests.duration.clone(),
        );
        registry.register(
            "api_requests_under_way",
            "Requests that are not answered yet",
            requests.under_way.clone(),
        );
        requests
    }

    /// A request came; it is under way until the guard goes, answered or given up by its caller.
    #[must_use]
    pub fn begun(&self) -> UnderWay {
        self.under_way.inc();
        UnderWay(self.under_way.clone())
    }

    /// A request was answered. `method` is one of a fixed set, `route` a pattern.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = RouteLabels {
            method,
            route: route.to_owned(),
        };
        self.duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let RouteLabels { method, route } = labels;
        let labels = AnswerLabels {
            method,
            route,
            status,
        };
        self.answered.get_or_create(&labels).inc();
    }
}

/// Counts a request as under way for as long as it lives.
#[derive(Debug)]
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}
