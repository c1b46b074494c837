//! Figures that are read when somebody asks, rather than kept: how full pools are, and what the
//! system knows of this process.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A gauge whose value is asked for at each scrape.
pub struct Reading {
    /// Without the prefix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Answers at once.
    pub read: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new((self.read)());
        let encoder = encoder.encode_descriptor(self.name, self.help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }
}

/// What `/proc` knows of this process, under the names that Prometheus' clients agree on:
/// <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<i64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)
        };
        gauge(
            "process_resident_memory_bytes",
            "Memory of this process",
            resident_bytes(),
        )?;
        gauge(
            "process_open_fds",
            "Files and connections that this process has open",
            open_files(),
        )?;
        gauge(
            "process_max_fds",
            "Files and connections that it may have open",
            max_files(),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let encoder = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Processor time of this process",
                None,
                counter.metric_type(),
            )?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}

/// The `VmRSS` line of `/proc/self/status`, which is in units of 1,024 bytes.
fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn max_files() -> Option<i64> {
    use rustix::process::{Resource, getrlimit};
    i64::try_from(getrlimit(Resource::Nofile).current?).ok()
}

/// Of the times in `/proc`, on every architecture that Linux shows to programs (`proc(5)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields 14 and 15 of `/proc/self/stat`, user and system time in clock ticks; the name in field 2
/// may hold blanks, so that counting begins behind it.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_what_this_process_uses() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(open_files().is_some_and(|files| files > 0));
        assert!(max_files().is_some_and(|files| files > 0));
        assert!(cpu_seconds().is_some());
    }
}
