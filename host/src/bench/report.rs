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
    /// Processor time of the processes measured, for each event delivered, in microseconds.
    pub cpu_us: f64,
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
    pub(super) fn new(
        ledger: &Ledger,
        outcome: &Outcome,
        offered_per_s: Option<f64>,
        cpu: Duration,
    ) -> Self {
        let Outcome { started, ended } = *outcome;
        let seconds = ended.saturating_duration_since(started).as_secs_f64();
        let (accepted, delivered) = ledger.counts_between(started, ended);
        let latencies = ledger.latencies_us(started);
        let ms = |us: u64| round(count(us) / 1_000.0);
        let Tally {
            accepted: accepted_in_all,
            refused,
            delivered: delivered_in_all,
            lost,
            duplicated,
            invented,
        } = ledger.tally();
        let cpu_us = cpu.as_secs_f64() * 1e6 / count(delivered_in_all.max(1));
        Self {
            offered_per_s: offered_per_s.map(round),
            accepted_per_s: round(count(accepted) / seconds),
            delivered_per_s: round(count(delivered) / seconds),
            p50_ms: ms(latencies.value_at_quantile(0.5)),
            p99_ms: ms(latencies.value_at_quantile(0.99)),
            max_ms: ms(latencies.max()),
            cpu_us: round(cpu_us),
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
        heading(f)?;
        row(f, "gateway, closed loop", &self.gateway)?;
        row(f, "gateway, half load", &self.gateway_half_load)?;
        row(f, "forwarder, closed loop", &self.forwarder)?;
        write!(f, "\ngateway to forwarder: {:.2}", self.ratio)
    }
}

fn heading(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "{:<22} {:>10} {:>11} {:>8} {:>8} {:>8} {:>12} {:>8} {:>5} {:>10} {:>8}",
        "",
        "accepted/s",
        "delivered/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "CPU µs/event",
        "refused",
        "lost",
        "duplicated",
        "invented"
    )
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, phase: &PhaseReport) -> fmt::Result {
    writeln!(
        f,
        "{name:<22} {:>10.0} {:>11.0} {:>8.2} {:>8.2} {:>8.2} {:>12.0} {:>8} {:>5} {:>10} {:>8}",
        phase.accepted_per_s,
        phase.delivered_per_s,
        phase.p50_ms,
        phase.p99_ms,
        phase.max_ms,
        phase.cpu_us,
        phase.refused,
        phase.lost,
        phase.duplicated,
        phase.invented,
    )
}

/// The closed loop under two conditions, by turns in one run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Whether it is an optimised build; the figures of another say nothing.
    pub optimised: bool,
    /// That the machine offers.
    pub cores: usize,
    /// The phases in their order: the usual condition first and last, the other in between.
    pub turns: Vec<Turn>,
    /// Delivered events a second: the other condition's mean to the usual one's.
    pub ratio: f64,
}

/// One phase of a comparison.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Turn {
    /// Under which condition.
    pub condition: &'static str,
    /// Its figures.
    #[serde(flatten)]
    pub phase: PhaseReport,
}

impl Comparison {
    pub(super) fn new(cores: usize, usual: &'static str, turns: Vec<Turn>) -> Self {
        let mean = |is_usual: bool| {
            let of_kind = turns
                .iter()
                .filter(|turn| (turn.condition == usual) == is_usual);
            let (sum, number) = of_kind.fold((0.0, 0.0), |(sum, number), turn| {
                (sum + turn.phase.delivered_per_s, number + 1.0)
            });
            sum / f64::max(number, 1.0)
        };
        Self {
            optimised: !cfg!(debug_assertions),
            cores,
            ratio: round(mean(false) / mean(true)),
            turns,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.optimised {
            writeln!(f, "This is not a release build: its figures say nothing.\n")?;
        }
        heading(f)?;
        for turn in &self.turns {
            row(f, turn.condition, &turn.phase)?;
        }
        write!(f, "\nthe others to the first: {:.2}", self.ratio)
    }
}
