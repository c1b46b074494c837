//! `hookport bench`: load generator, gateway and receiver in one run on the same cores, and
//! beside it a bare forwarder that stores nothing.
//!
//! The gateway is a child process of this binary, on a data directory of its own with the
//! settings that `serve` has by default (durable commits), delivering through the real webhook
//! component. Load generator and receiver share this process and its clock. Like the demo it
//! stands outside the gateway: it serves and sends HTTP by itself.

mod comparison;
mod disturb;
mod forwarder;
mod http1;
mod ledger;
mod load;
mod receiver;
mod report;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::Command;

use self::ledger::Ledger;
use self::load::{Pace, Target};
use self::receiver::Phases;
pub use self::report::{Comparison, PhaseReport, Report, Turn};
use crate::child::{
    ChildError, Engines, GatewayChild, ScratchDir, listening_line, providers_allowing_loopback,
};

use crate::config::Config;
use crate::wire;

const EVENT_TYPE: &str = "bench.incident";

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The folder of the built components.
    #[arg(long, default_value = "target/components")]
    pub providers: PathBuf,
    /// Where the run keeps its data, on the disk to be measured; removed afterwards.
    #[arg(long, default_value = "data")]
    pub scratch: PathBuf,
    /// Seconds of each measured phase.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub duration_s: u64,
    /// Seconds of load before the first measured phase of gateway and forwarder.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub warm_up_s: u64,
    /// Connections that send at once.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrency: u16,
    /// Events that may be under way between sender and receiver in a closed loop.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub in_flight: u16,
    /// An empty PostgreSQL database to measure over, instead of the embedded one. What the run
    /// writes stays there.
    #[arg(long)]
    pub store_url: Option<String>,
    /// RabbitMQ in front of it.
    #[arg(long, requires = "store_url")]
    pub queue_url: Option<String>,
    /// Measures instead what a provider that spins and a destination that stalls for 30 s cost the
    /// others.
    #[arg(long, conflicts_with = "workers")]
    pub disturb: bool,
    /// Measures instead so many processes over the database against one.
    #[arg(long, requires = "store_url", value_parser = clap::value_parser!(u8).range(2..=8))]
    pub workers: Option<u8>,
    /// Deliveries of the past to put into the store before it is measured.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["disturb", "workers"], value_parser = clap::value_parser!(i64).range(0..=100_000_000))]
    pub fill: i64,
    /// Prints the figures as JSON.
    #[arg(long)]
    pub json: bool,
    /// Serves the forwarder instead (what the bench starts as its second child).
    #[arg(long, hide = true)]
    pub forward_to: Option<String>,
}

/// A run that gave no figures, or bad ones.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] ChildError),
    /// The load generator, the receiver or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The store cannot be filled.
    #[error("the store cannot be filled: {0}")]
    Fill(String),
    /// The gateway's promise was broken. The figures were printed.
    #[error("{lost} accepted events were lost and {invented} receipts were invented")]
    Broken {
        /// Accepted and never received.
        lost: u64,
        /// Received under a second delivery id, or never sent.
        invented: u64,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// Runs everything and prints the figures on stdout.
///
/// # Errors
/// When a part cannot be run, or an accepted event was lost.
pub async fn run(arguments: &Arguments) -> Result<(), BenchError> {
    if let Some(to) = &arguments.forward_to {
        return forwarder::serve(to.clone())
            .await
            .map_err(io_error("the forwarder failed"));
    }
    if arguments.disturb || arguments.workers.is_some() {
        let comparison = comparison::measure(arguments).await?;
        print(arguments, &comparison)?;
        return verdict(comparison.turns.iter().map(|turn| &turn.phase));
    }
    let report = measure(arguments).await?;
    print(arguments, &report)?;
    let phases = [
        &report.gateway,
        &report.gateway_half_load,
        &report.forwarder,
    ];
    verdict(phases.into_iter())
}

fn print(
    arguments: &Arguments,
    figures: &(impl serde::Serialize + std::fmt::Display),
) -> Result<(), BenchError> {
    if arguments.json {
        let text = serde_json::to_string_pretty(figures)
            .map_err(|error| io_error("the figures cannot be written")(error.into()))?;
        println!("{text}");
    } else {
        println!("{figures}");
    }
    Ok(())
}

fn verdict<'a>(phases: impl Iterator<Item = &'a PhaseReport> + Clone) -> Result<(), BenchError> {
    let lost = phases.clone().map(|phase| phase.lost).sum();
    let invented = phases.map(|phase| phase.invented).sum();
    if lost > 0 || invented > 0 {
        return Err(BenchError::Broken { lost, invented });
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Report, BenchError> {
    let scratch = ScratchDir::create(&arguments.scratch, "bench")?;
    let providers = providers_allowing_loopback(&arguments.providers, scratch.path())?;
    let disk_sync_us =
        disk_sync_us(scratch.path()).map_err(io_error("the disk cannot be measured"))?;
    let bench = Bench::new(arguments).await?;
    let engines = bench.engines();
    note("starting the gateway twice: cold, then with a warm code cache");
    let (gateway, cold_start_ms) = start_gateway(scratch.path(), &providers, engines).await?;
    gateway.stop().await?;
    if arguments.fill > 0 {
        fill(arguments, scratch.path()).await?;
    }
    let (gateway, warm_start_ms) = start_gateway(scratch.path(), &providers, engines).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle_rss_mib = rss_mib(&gateway).map_err(io_error("memory cannot be read"))?;
    let target = set_up(&gateway, bench.receiver).await?;
    let (closed, half_load) = bench.gateway(&gateway, &target).await?;
    let loaded_rss_mib = rss_mib(&gateway).map_err(io_error("memory cannot be read"))?;
    gateway.stop().await?;
    let forwarder = bench.forwarder().await?;

    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        optimised: !cfg!(debug_assertions),
        cores: bench.cores(),
        connections: usize::from(arguments.concurrency),
        disk_sync_us,
        cold_start_ms,
        warm_start_ms,
        idle_rss_mib,
        loaded_rss_mib,
        ratio: report::round(closed.delivered_per_s / forwarder.delivered_per_s),
        gateway: closed,
        gateway_half_load: half_load,
        forwarder,
    })
}

/// While no gateway runs: the embedded store belongs to one process at a time.
async fn fill(arguments: &Arguments, scratch: &Path) -> Result<(), BenchError> {
    note(&format!("filling in {} deliveries", arguments.fill));
    let mut config = Config {
        data_dir: scratch.join("data"),
        ..Config::default()
    };
    config.store.url.clone_from(&arguments.store_url);
    wire::fill_store(&config, arguments.fill)
        .await
        .map_err(|error| BenchError::Fill(format!("{error:#}")))
}

/// Progress goes to stderr: stdout has the figures alone.
fn note(text: &str) {
    eprintln!("{text}");
}

struct Bench<'a> {
    arguments: &'a Arguments,
    phases: Arc<Phases>,
    receiver: SocketAddr,
}

impl<'a> Bench<'a> {
    async fn new(arguments: &'a Arguments) -> Result<Self, BenchError> {
        let phases = Arc::new(Phases::default());
        let receiver = receiver::start(phases.clone())
            .await
            .map_err(io_error("the receiver cannot listen"))?;
        Ok(Self {
            arguments,
            phases,
            receiver,
        })
    }

    fn engines(&self) -> Engines<'a> {
        Engines {
            store_url: self.arguments.store_url.as_deref(),
            queue_url: self.arguments.queue_url.as_deref(),
        }
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(0, usize::from)
    }

    async fn gateway(
        &self,
        gateway: &GatewayChild,
        target: &Target,
    ) -> Result<(PhaseReport, PhaseReport), BenchError> {
        let processes: Vec<u32> = gateway.pid().into_iter().collect();
        self.warm_up(target).await?;
        note("gateway: closed loop");
        let closed = self.phase(target, Pace::Closed, &processes).await?;
        let rate = (closed.delivered_per_s / 2.0).max(1.0);
        note(&format!("gateway: open loop at {rate:.0} events a second"));
        let half_load = self.phase(target, Pace::Open(rate), &processes).await?;
        Ok((closed, half_load))
    }

    async fn forwarder(&self) -> Result<PhaseReport, BenchError> {
        let binary = std::env::current_exe().map_err(io_error("cannot find this program"))?;
        let mut process = Command::new(binary)
            .args(["bench", "--forward-to"])
            .arg(format!("http://{}/", self.receiver))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(io_error("cannot start the forwarder"))?;
        let base = listening_line(&mut process)
            .await
            .map_err(|reason| io_error("the forwarder did not start")(io::Error::other(reason)))?;
        let target = Target {
            address: parse_base(&base)?,
            path: "/",
            bearer: None,
            envelope: (r#"{"type":"bench.incident","payload":"#, "}"),
        };
        self.warm_up(&target).await?;
        note("forwarder: closed loop");
        let processes: Vec<u32> = process.id().into_iter().collect();
        let report = self.phase(&target, Pace::Closed, &processes).await?;
        process
            .kill()
            .await
            .map_err(io_error("cannot stop the forwarder"))?;
        Ok(report)
    }

    async fn warm_up(&self, target: &Target) -> Result<(), BenchError> {
        note("warming up");
        let duration = Duration::from_secs(self.arguments.warm_up_s);
        self.load(target, Pace::Closed, duration, &[])
            .await
            .map(drop)
    }

    /// A measured phase; `processes` are those whose processor time counts.
    async fn phase(
        &self,
        target: &Target,
        pace: Pace,
        processes: &[u32],
    ) -> Result<PhaseReport, BenchError> {
        let duration = Duration::from_secs(self.arguments.duration_s);
        self.load(target, pace, duration, processes).await
    }

    async fn load(
        &self,
        target: &Target,
        pace: Pace,
        duration: Duration,
        processes: &[u32],
    ) -> Result<PhaseReport, BenchError> {
        let cpu = || cpu_time(processes).map_err(io_error("processor time cannot be read"));
        let (number, phase) = self
            .phases
            .open(Ledger::new(duration), usize::from(self.arguments.in_flight))
            .expect("invariant: a run has fewer phases than there is room for");
        let connections = usize::from(self.arguments.concurrency);
        let cpu_before = cpu()?;
        let outcome = load::run(&self.phases, number, target, pace, connections, duration)
            .await
            .map_err(io_error("the load generator failed"))?;
        let cpu_spent = cpu()?.saturating_sub(cpu_before);
        let offered = match pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(rate),
        };
        Ok(PhaseReport::new(
            &phase.ledger,
            &outcome,
            offered,
            cpu_spent,
        ))
    }
}

/// Processor time that the processes have used, in all their threads.
fn cpu_time(processes: &[u32]) -> io::Result<Duration> {
    /// Of the times in `/proc`, on every machine that Linux runs on today (`USER_HZ`).
    const TICKS_PER_S: u64 = 100;
    let mut ticks = 0;
    for pid in processes {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
        let fields = fields.ok_or(io::ErrorKind::InvalidData)?;
        let times = fields.split_whitespace().skip(11).take(2);
        for time in times {
            ticks += time
                .parse::<u64>()
                .map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_S))
}

/// Starts it and says after how many milliseconds it listens and delivers.
async fn start_gateway(
    scratch: &Path,
    providers: &Path,
    engines: Engines<'_>,
) -> Result<(GatewayChild, f64), BenchError> {
    let started = Instant::now();
    let gateway = GatewayChild::start(scratch, providers, engines).await?;
    gateway.provider_serving("webhook").await?;
    Ok((gateway, report::millis_since(started)))
}

/// Registers an event type with a schema and subscribes the receiver to it.
async fn set_up(gateway: &GatewayChild, receiver: SocketAddr) -> Result<Target, BenchError> {
    let api = &gateway.api;
    let schema = json!({
        "type": "object",
        "required": ["mark", "incident"],
        "properties": {
            "mark": {"type": "string"},
            "incident": {
                "type": "object",
                "required": ["id", "title"],
                "properties": {"id": {"type": "integer"}, "title": {"type": "string"}}
            }
        }
    });
    api.put(
        &format!("/event-types/{EVENT_TYPE}"),
        &json!({"payloadSchema": schema}),
    )
    .await?;
    api.post(
        "/subscriptions",
        &json!({
            "name": "bench",
            "events": EVENT_TYPE,
            "provider": "webhook",
            "config": {"url": format!("http://{receiver}/")}
        }),
    )
    .await?;
    Ok(Target {
        address: parse_base(api.base())?,
        path: "/api/v1/events",
        bearer: Some(api.key().to_owned()),
        envelope: (r#"{"type":"bench.incident","payload":"#, "}"),
    })
}

fn parse_base(base: &str) -> Result<SocketAddr, BenchError> {
    base.strip_prefix("http://")
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| {
            io_error("an address cannot be read")(io::Error::other(format!("from {base:?}")))
        })
}

/// Resident memory of the gateway.
fn rss_mib(gateway: &GatewayChild) -> io::Result<f64> {
    let pid = gateway.pid().ok_or(io::ErrorKind::NotFound)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(report::round(report::count(kib) / 1024.0))
}

/// What a durable commit costs at least on this disk.
fn disk_sync_us(folder: &Path) -> io::Result<u64> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..64 {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(u64::try_from(times[times.len() / 2].as_micros()).unwrap_or(u64::MAX))
}
