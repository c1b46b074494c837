//! How fast a subscription's destination is called, and the state of its circuit.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::error::ApiError;
use crate::domain::circuit::{CircuitPolicy, OpenCircuit};
use crate::domain::clock::{Timestamp, rfc3339};
use crate::domain::id::SubscriptionId;
use crate::domain::subscription::{Flow, RateLimit, RatePeriod};

const RATE_MAX: u32 = 100_000;
const CONCURRENCY_MAX: u32 = 10_000;
const FAILURES_MAX: u32 = 10_000;
const PROBE_AFTER_MS_MIN: u64 = 100;
const PROBE_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// How often the destination is called at most; `perSecond` or `perMinute`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RateLimitView {
    /// Attempts a second on average, 1 to 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_second: Option<u32>,
    /// Attempts a minute on average, 1 to 100,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_minute: Option<u32>,
    /// Attempts at once, 1 to 100,000; unset: 1.
    burst: Option<u32>,
}

/// When a failing destination is held back.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct CircuitBreakerView {
    /// Off: every delivery goes through its schedule, whatever the destination does.
    enabled: bool,
    /// So many failures in a row open the circuit, 1 to 10,000.
    failures: u32,
    /// Milliseconds from the opening to the first probe, 100 ms to a day; doubled after each probe
    /// that fails.
    probe_after_ms: u64,
    /// The longest wait between probes, up to a day.
    probe_after_ms_max: u64,
}

impl Default for CircuitBreakerView {
    fn default() -> Self {
        Some(CircuitPolicy::default()).into()
    }
}

impl From<Option<CircuitPolicy>> for CircuitBreakerView {
    fn from(policy: Option<CircuitPolicy>) -> Self {
        let shown = policy.unwrap_or_default();
        Self {
            enabled: policy.is_some(),
            failures: shown.failures,
            probe_after_ms: shown.probe_after_ms,
            probe_after_ms_max: shown.probe_after_ms_max,
        }
    }
}

impl From<RateLimit> for RateLimitView {
    fn from(limit: RateLimit) -> Self {
        let of = |period| (limit.per == period).then_some(limit.attempts);
        Self {
            per_second: of(RatePeriod::Second),
            per_minute: of(RatePeriod::Minute),
            burst: Some(limit.burst),
        }
    }
}

/// Checks what the caller wrote.
pub(super) fn flow(
    rate: Option<RateLimitView>,
    concurrency: Option<u32>,
    breaker: Option<CircuitBreakerView>,
) -> Result<Flow, ApiError> {
    if concurrency.is_some_and(|most| !(1..=CONCURRENCY_MAX).contains(&most)) {
        return Err(ApiError::field(
            "/concurrency",
            format!("give 1 to {CONCURRENCY_MAX}, or leave it out"),
        ));
    }
    Ok(Flow {
        rate: rate.map(rate_limit).transpose()?,
        concurrency,
        circuit: circuit(breaker.unwrap_or_default())?,
    })
}

fn rate_limit(view: RateLimitView) -> Result<RateLimit, ApiError> {
    let (attempts, per, field) = match (view.per_second, view.per_minute) {
        (Some(attempts), None) => (attempts, RatePeriod::Second, "/rateLimit/perSecond"),
        (None, Some(attempts)) => (attempts, RatePeriod::Minute, "/rateLimit/perMinute"),
        _ => {
            return Err(ApiError::field(
                "/rateLimit",
                "give either perSecond or perMinute",
            ));
        }
    };
    let burst = view.burst.unwrap_or(1);
    for (field, value) in [(field, attempts), ("/rateLimit/burst", burst)] {
        if !(1..=RATE_MAX).contains(&value) {
            return Err(ApiError::field(field, format!("give 1 to {RATE_MAX}")));
        }
    }
    Ok(RateLimit {
        attempts,
        per,
        burst,
    })
}

fn circuit(view: CircuitBreakerView) -> Result<Option<CircuitPolicy>, ApiError> {
    if !view.enabled {
        return Ok(None);
    }
    if !(1..=FAILURES_MAX).contains(&view.failures) {
        return Err(ApiError::field(
            "/circuitBreaker/failures",
            format!("give 1 to {FAILURES_MAX}, or \"enabled\": false"),
        ));
    }
    for (field, value) in [
        ("probeAfterMs", view.probe_after_ms),
        ("probeAfterMsMax", view.probe_after_ms_max),
    ] {
        if !(PROBE_AFTER_MS_MIN..=PROBE_AFTER_MS_MAX).contains(&value) {
            return Err(ApiError::field(
                format!("/circuitBreaker/{field}"),
                format!("give {PROBE_AFTER_MS_MIN} to {PROBE_AFTER_MS_MAX}"),
            ));
        }
    }
    if view.probe_after_ms_max < view.probe_after_ms {
        return Err(ApiError::field(
            "/circuitBreaker/probeAfterMsMax",
            "give no less than probeAfterMs",
        ));
    }
    Ok(Some(CircuitPolicy {
        failures: view.failures,
        probe_after_ms: view.probe_after_ms,
        probe_after_ms_max: view.probe_after_ms_max,
    }))
}

/// Whether deliveries go out.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CircuitView {
    /// `closed`: they do. `open`: they are held back. `half_open`: one is let through to see.
    state: &'static str,
    /// When it opened.
    since: Option<String>,
    /// The failure that opened it, or the last probe's.
    reason: Option<String>,
    /// When one delivery is let through.
    next_probe_at: Option<String>,
}

/// The circuits that are open, at one moment.
pub(super) struct Circuits {
    open: HashMap<SubscriptionId, OpenCircuit>,
    now: Timestamp,
}

impl Circuits {
    /// As on record now.
    pub(super) async fn now(api: &Shared) -> Result<Self, ApiError> {
        let open = api.store.circuits().await?;
        Ok(Self {
            open: open
                .into_iter()
                .map(|open| (open.subscription, open))
                .collect(),
            now: api.clock.now(),
        })
    }

    /// After a change of the subscription, which closes its circuit.
    pub(super) fn closed() -> Self {
        Self {
            open: HashMap::new(),
            now: Timestamp::default(),
        }
    }

    pub(super) fn of(&self, id: SubscriptionId) -> CircuitView {
        match self.open.get(&id) {
            None => CircuitView {
                state: "closed",
                since: None,
                reason: None,
                next_probe_at: None,
            },
            Some(open) => CircuitView {
                state: if open.next_probe_at <= self.now {
                    "half_open"
                } else {
                    "open"
                },
                since: Some(rfc3339(open.since)),
                reason: Some(open.reason.clone()),
                next_probe_at: Some(rfc3339(open.next_probe_at)),
            },
        }
    }
}
