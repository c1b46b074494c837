//! The figures of a run, for people and for machines.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ledger::{Ledger, Tally};
use super::load::Outcome;

/// Everything that a run measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of this binary.
    pub version: &'static str,
    /// Whether it is an optimised build; the figures of another say nothing.
    pub optimised: bool,
    /// That the machine offers.
    pub cores: usize,
    /// That send at once.
    pub connections: usize,
    /// One append of 4 KiB and `fdatasync` on the data directory's file system: median.
    pub disk_sync_us: u64,
    /// With an empty code cache: components are compiled.
    pub cold_start_ms: f64,
    /// With a warm code cache, until the API listens and the webhook provider serves.
    pub warm_start_ms: f64,
    /// Resident memory after the start, with all bundled providers, in MiB.
    pub idle_rss_mib: f64,
    /// Resident memory after the load, in MiB.
    pub loaded_rss_mib: f64,
    /// Closed loop.
    pub gateway: PhaseReport,
    /// Open loop at half the closed loop's rate.
    pub gateway_half_load: PhaseReport,
    /// Closed loop, over the forwarder that stores nothing.
    pub forwarder: PhaseReport,
    /// Delivered events a second: gateway to forwarder.
    pub ratio: f64,
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseReport {
    /// Events that were due each second; none in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offered_per_s: Option<f64>,
    /// Events answered 202 each second.
    pub accepted_per_s: f64,
    /// Events received for the first time each second.
    pub delivered_per_s: f64,
    /// From the moment an event was due to its receipt.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub max_ms: f64,
    /// Answered 202.
    pub accepted: u64,
    /// Answered otherwise.
    pub refused: u64,
    /// Accepted and never received.
    pub lost: u64,
    /// Receipts beyond the first of one delivery.
    pub duplicated: u64,
    /// Receipts that no accepted event accounts for.
    pub invented: u64,
}

impl PhaseReport {
    pub(super) fn new(ledger: &Ledger, outcome: &Outcome, offered_per_s: Option<f64>) -> Self {
        let Outcome { started, ended } = *outcome;
        let seconds = ended.saturating_duration_since(started).as_secs_f64();
        let (accepted, delivered) = ledger.counts_between(started, ended);
        let latencies = ledger.latencies_us(started);
        let ms = |us: u64| round(count(us) / 1_000.0);
        let Tally {
            accepted: accepted_in_all,
            refused,
            lost,
            duplicated,
            invented,
            ..
        } = ledger.tally();
        Self {
            offered_per_s: offered_per_s.map(round),
            accepted_per_s: round(count(accepted) / seconds),
            delivered_per_s: round(count(delivered) / seconds),
            p50_ms: ms(latencies.value_at_quantile(0.5)),
            p99_ms: ms(latencies.value_at_quantile(0.99)),
            max_ms: ms(latencies.max()),
            accepted: accepted_in_all,
            refused,
            lost,
            duplicated,
            invented,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
pub(super) fn count(number: u64) -> f64 {
    number as f64
}

/// Two decimals are as much as a run can tell.
pub(super) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1_000.0)
}

/// Milliseconds since a moment.
pub(super) fn millis_since(start: Instant) -> f64 {
    millis(start.elapsed())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.optimised {
            writeln!(f, "This is not a release build: its figures say nothing.\n")?;
        }
        writeln!(
            f,
            "hookport {}, {} cores, {} connections; disk sync {} µs",
            self.version, self.cores, self.connections, self.disk_sync_us
        )?;
        writeln!(
            f,
            "start: {} ms with a warm code cache, {} ms with a cold one",
            self.warm_start_ms, self.cold_start_ms
        )?;
        writeln!(
            f,
            "resident memory: {} MiB idle, {} MiB after the load\n",
            self.idle_rss_mib, self.loaded_rss_mib
        )?;
        writeln!(
            f,
            "{:<22} {:>10} {:>11} {:>8} {:>8} {:>8} {:>8} {:>5} {:>10} {:>8}",
            "",
            "accepted/s",
            "delivered/s",
            "p50 ms",
            "p99 ms",
            "max ms",
            "refused",
            "lost",
            "duplicated",
            "invented"
        )?;
        let mut row = |name: &str, phase: &PhaseReport| {
            writeln!(
                f,
                "{name:<22} {:>10.0} {:>11.0} {:>8.2} {:>8.2} {:>8.2} {:>8} {:>5} {:>10} {:>8}",
                phase.accepted_per_s,
                phase.delivered_per_s,
                phase.p50_ms,
                phase.p99_ms,
                phase.max_ms,
                phase.refused,
                phase.lost,
                phase.duplicated,
                phase.invented,
            )
        };
        row("gateway, closed loop", &self.gateway)?;
        row("gateway, half load", &self.gateway_half_load)?;
        row("forwarder, closed loop", &self.forwarder)?;
        write!(f, "\ngateway to forwarder: {:.2}", self.ratio)
    }
}
