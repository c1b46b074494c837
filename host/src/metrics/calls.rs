//! Calls into the sandbox, of every kind: deliveries, options, tests of connections, webhooks
//! normalised, filters and transforms.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::seconds;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    provider: String,
    outcome: &'static str,
}

/// What the sandbox was called for, and how it ended. Kept by the sandbox, shown by
/// [`super::Metrics`].
#[derive(Clone, Debug)]
pub struct SandboxCalls {
    calls: Family<CallLabels, Counter>,
    wait: Histogram,
}

impl Default for SandboxCalls {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            wait: seconds(),
        }
    }
}

impl SandboxCalls {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "sandbox_calls",
            "Calls of components, by how they ended",
            self.calls.clone(),
        );
        registry.register_with_unit(
            "sandbox_wait",
            "How long a call waited for a place in the pool",
            Unit::Seconds,
            self.wait.clone(),
        );
    }

    /// A call got its place.
    pub fn placed(&self, after: Duration) {
        self.wait.observe(after.as_secs_f64());
    }

    /// A call of a component ended.
    pub fn ended(&self, provider: &str, outcome: &'static str) {
        let labels = CallLabels {
            provider: provider.to_owned(),
            outcome,
        };
        self.calls.get_or_create(&labels).inc();
    }
}
