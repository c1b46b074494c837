//! How fast a destination is called, as stored: JSON in one column.

use serde::{Deserialize, Serialize};

use super::row::{corrupt, json};
use crate::domain::circuit::CircuitPolicy;
use crate::domain::subscription::{Flow, RateLimit, RatePeriod};
use crate::store::{Result, StoreError};

#[derive(Serialize, Deserialize)]
struct StoredFlow {
    rate: Option<StoredRate>,
    concurrency: Option<u32>,
    circuit: Option<StoredCircuit>,
}

#[derive(Serialize, Deserialize)]
struct StoredRate {
    attempts: u32,
    per: String,
    burst: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredCircuit {
    failures: u32,
    probe_after_ms: u64,
    probe_after_ms_max: u64,
}

const SECOND: &str = "second";
const MINUTE: &str = "minute";

/// `None` for the defaults, so that later defaults hold for whoever did not choose.
pub(super) fn to_column(flow: &Flow) -> Option<String> {
    if *flow == Flow::default() {
        return None;
    }
    let stored = StoredFlow {
        rate: flow.rate.map(|rate| StoredRate {
            attempts: rate.attempts,
            per: match rate.per {
                RatePeriod::Second => SECOND,
                RatePeriod::Minute => MINUTE,
            }
            .to_owned(),
            burst: rate.burst,
        }),
        concurrency: flow.concurrency,
        circuit: flow.circuit.map(|circuit| StoredCircuit {
            failures: circuit.failures,
            probe_after_ms: circuit.probe_after_ms,
            probe_after_ms_max: circuit.probe_after_ms_max,
        }),
    };
    serde_json::to_string(&stored).ok()
}

pub(super) fn from_column(text: Option<&str>) -> Result<Flow> {
    const COLUMN: &str = "subscriptions.flow";
    let Some(text) = text else {
        return Ok(Flow::default());
    };
    let stored: StoredFlow = json(COLUMN, text)?;
    let period = |per: &str| match per {
        SECOND => Ok(RatePeriod::Second),
        MINUTE => Ok(RatePeriod::Minute),
        other => Err::<_, StoreError>(corrupt(COLUMN, &format_args!("no period {other:?}"))),
    };
    Ok(Flow {
        rate: stored
            .rate
            .map(|rate| {
                Ok::<_, StoreError>(RateLimit {
                    attempts: rate.attempts,
                    per: period(&rate.per)?,
                    burst: rate.burst,
                })
            })
            .transpose()?,
        concurrency: stored.concurrency,
        circuit: stored.circuit.map(|circuit| CircuitPolicy {
            failures: circuit.failures,
            probe_after_ms: circuit.probe_after_ms,
            probe_after_ms_max: circuit.probe_after_ms_max,
        }),
    })
}
