//! The closed loop under two conditions by turns, in one run: what a machine does by itself from one
//! minute to the next must not be taken for the difference.

use std::path::Path;

use super::disturb::Disturbance;
use super::load::{Pace, Target};
use super::report::Turn;
use super::{Arguments, Bench, BenchError, Comparison, note, set_up, start_gateway};
use crate::child::{GatewayChild, ScratchDir, providers_allowing_loopback};

const CALM: &str = "calm";
const DISTURBED: &str = "disturbed";
const ONE: &str = "one process";
const SEVERAL: &str = "several processes";

pub(super) async fn measure(arguments: &Arguments) -> Result<Comparison, BenchError> {
    let scratch = ScratchDir::create(&arguments.scratch, "bench")?;
    let providers = providers_allowing_loopback(&arguments.providers, scratch.path())?;
    let bench = Bench::new(arguments).await?;
    note("starting the gateway");
    let (gateway, _) = start_gateway(scratch.path(), &providers, bench.engines()).await?;
    let target = set_up(&gateway, bench.receiver).await?;
    bench.warm_up(&target).await?;
    let comparison = match arguments.workers {
        Some(workers) => {
            let others = Others {
                scratch: scratch.path(),
                providers: &providers,
                number: workers.saturating_sub(1),
            };
            several_workers(&bench, &gateway, &target, &others).await?
        }
        None => disturbed(&bench, &gateway, &target).await?,
    };
    gateway.stop().await?;
    Ok(comparison)
}

async fn disturbed(
    bench: &Bench<'_>,
    gateway: &GatewayChild,
    target: &Target,
) -> Result<Comparison, BenchError> {
    let processes: Vec<u32> = gateway.pid().into_iter().collect();
    let disturbance = Disturbance::set_up(&gateway.api).await?;
    let mut turns = Vec::new();
    for condition in [CALM, DISTURBED, CALM, DISTURBED, CALM] {
        note(condition);
        let emitting = match condition {
            DISTURBED => Some(disturbance.begin().await?),
            _ => None,
        };
        let phase = bench.phase(target, Pace::Closed, &processes).await?;
        if let Some(emitting) = emitting {
            disturbance.end(emitting).await?;
        }
        turns.push(Turn { condition, phase });
    }
    Ok(Comparison::new(bench.cores(), CALM, turns))
}

/// The processes beside the first one.
struct Others<'a> {
    scratch: &'a Path,
    providers: &'a Path,
    number: u8,
}

async fn several_workers(
    bench: &Bench<'_>,
    gateway: &GatewayChild,
    target: &Target,
    others: &Others<'_>,
) -> Result<Comparison, BenchError> {
    let mut turns = Vec::new();
    for condition in [ONE, SEVERAL, ONE, SEVERAL, ONE] {
        note(condition);
        let mut workers = Vec::new();
        if condition == SEVERAL {
            for number in 0..others.number {
                let folder = others.scratch.join(format!("worker-{number}"));
                let worker =
                    GatewayChild::start_worker(&folder, others.providers, bench.engines()).await?;
                workers.push(worker);
            }
        }
        let processes: Vec<u32> = workers
            .iter()
            .chain([gateway])
            .filter_map(GatewayChild::pid)
            .collect();
        let phase = bench.phase(target, Pace::Closed, &processes).await?;
        for worker in workers {
            worker.stop().await?;
        }
        turns.push(Turn { condition, phase });
    }
    Ok(Comparison::new(bench.cores(), ONE, turns))
}
