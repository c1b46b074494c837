//! The simulation: the real dispatch over a store in memory, with a time and a randomness of its
//! own, while everything fails that can: commands and answers are lost, delayed, repeated;
//! processes are killed between any two steps, frozen and set to a wrong clock; the store fails and
//! hangs; receivers refuse, hang and do not hear.
//!
//! A run takes milliseconds and is decided by its seed. After the last fault everything accepted
//! has to come to its end, and [`check`] looks at the whole history. That it would find a defect is
//! shown with stores and queues that have one.
//!
//! `HOOKPORT_SIMULATION_RUNS` says how many runs, `HOOKPORT_SIMULATION_SEED` which is the first;
//! a run that fails tells its seed.

mod check;
mod plan;
mod process;
mod receiver;
mod script;
mod stage;
mod time;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use check::{Summary, check};
use process::Twist;
use script::run;
use world::{Counts, World, lock};

use crate::store::memory::Defect;

const RUNS: u64 = 2_000;
/// A defect that needs more runs than this to be found might as well not be looked for.
const RUNS_PER_DEFECT: u64 = 300;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What a seed comes to; a panic is a violation like any other.
fn outcome(
    seed: u64,
    defect: Option<Defect>,
    twist: Option<Twist>,
) -> Result<(std::sync::Arc<World>, Summary), Vec<String>> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let (world, stage) = run(seed, defect, twist);
        check(&world, &stage).map(|summary| (world, summary))
    }));
    ran.unwrap_or_else(|_| Err(vec!["it panicked".to_owned()]))
}

/// All of `totals` together.
fn added(counts: &Counts, totals: &Mutex<[u64; 5]>) {
    let counters = [
        &counts.kills,
        &counts.freezes,
        &counts.store_faults,
        &counts.clock_jumps,
        &counts.lost_messages,
    ];
    for (total, counter) in lock(totals).iter_mut().zip(counters) {
        *total += counter.load(Ordering::Relaxed);
    }
}

#[test]
fn whatever_fails_nothing_is_lost_and_nothing_invented() {
    let first = from_environment("HOOKPORT_SIMULATION_SEED")
        .unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let runs = from_environment("HOOKPORT_SIMULATION_RUNS").unwrap_or(RUNS);
    println!("HOOKPORT_SIMULATION_SEED={first} HOOKPORT_SIMULATION_RUNS={runs}");
    let (next, faults) = (AtomicU64::new(0), Mutex::new([0; 5]));
    let (done, failed) = (Mutex::new(Summary::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= runs || lock(&failed).len() >= 5 {
                        break;
                    }
                    let seed = first + index;
                    match outcome(seed, None, None) {
                        Ok((world, summary)) => {
                            added(&world.counts, &faults);
                            let mut done = lock(&done);
                            done.events += summary.events;
                            done.deliveries += summary.deliveries;
                            done.requests += summary.requests;
                            done.duplicates += summary.duplicates;
                        }
                        Err(violations) => lock(&failed).push((seed, violations)),
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    let failed: Vec<String> = failed
        .iter()
        .map(|(seed, violations)| {
            let first: Vec<_> = violations.iter().take(5).cloned().collect();
            format!(
                "HOOKPORT_SIMULATION_SEED={seed} HOOKPORT_SIMULATION_RUNS=1: {} violations\n{}",
                violations.len(),
                first.join("\n")
            )
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    let [kills, freezes, store_faults, clock_jumps, lost] = *lock(&faults);
    println!(
        "{runs} runs: {kills} kills, {freezes} freezes, {store_faults} failures of the store, {clock_jumps} clock jumps, {lost} lost messages; {:?}, nothing lost",
        *lock(&done)
    );
    if runs >= RUNS {
        let rarest = [kills, freezes, store_faults, clock_jumps, lost];
        assert!(rarest.iter().all(|count| *count > runs / 10), "{rarest:?}");
        assert!(lock(&done).duplicates > 0, "no fault made a difference");
    }
}

#[test]
fn a_seed_says_all_that_happens() {
    for seed in 0..20 {
        let history = || {
            let (world, _) = run(seed, None, None);
            let emitted = lock(&world.emitted).clone();
            let arrivals = lock(&world.arrivals).clone();
            format!("{:?}{arrivals:?}{emitted:?}", world.journal.changes())
        };
        let (first, second) = (history(), history());
        assert_eq!(first, second, "seed {seed}");
    }
}

/// Runs until the checker finds something, and what it finds is what is wrong.
#[track_caller]
fn is_found(defect: Option<Defect>, twist: Option<Twist>, told: &str) {
    for seed in 0..RUNS_PER_DEFECT {
        if let Err(violations) = outcome(seed, defect, twist) {
            let finds = violations.iter().any(|violation| violation.contains(told));
            assert!(finds, "seed {seed}: {told:?} is not among {violations:#?}");
            return;
        }
    }
    panic!("{defect:?} {twist:?} went unnoticed in {RUNS_PER_DEFECT} runs");
}

macro_rules! found {
    ($($name:ident: $defect:expr, $twist:expr => $told:literal;)+) => {
        $(
            #[test]
            fn $name() {
                is_found($defect, $twist, $told);
            }
        )+
    };
}

found! {
    an_answer_before_the_commit_is_found: Some(Defect::AnswersWithoutCommit), None => "was answered and lost";
    a_lost_outbox_is_found: Some(Defect::LosesDeliveries), None => "has no delivery to";
    a_forgotten_idempotency_key_is_found: Some(Defect::ForgetsIdempotencyKeys), None => "was accepted twice";
    a_stale_match_is_found: Some(Defect::TakesStaleMatches), None => "has no delivery to";
    a_shared_lease_is_found: Some(Defect::ClaimsWhatIsLeased), None => "leased to two";
    a_missing_fence_is_found: Some(Defect::RecordsUnderLostLeases), None => "recorded under a lost lease";
    a_lease_without_end_is_found: Some(Defect::LeasesForEver), None => "it cannot end like this";
    a_forgotten_retry_is_found: Some(Defect::ForgetsRetries), None => "it cannot end like this";
    a_gap_between_attempts_is_found: Some(Defect::SkipsNumbers), None => "attempts are numbered";
    a_way_back_from_the_end_is_found: Some(Defect::ReopensWhatEnded), None => "an ended delivery begins again";
    a_broken_order_is_found: Some(Defect::ForgetsOrder), None => "out of order";
    an_exceeded_cap_is_found: Some(Defect::ForgetsCaps), None => "too ";
    giving_up_early_is_found: None, Some(Twist::GivesUpEarly) => "it cannot end like this";
    never_giving_up_is_found: None, Some(Twist::NeverGivesUp) => "policy";
    a_failure_called_success_is_found: None, Some(Twist::CallsFailureSuccess) => "it cannot end like this";
    a_result_that_is_not_recorded_is_found: None, Some(Twist::SettlesWithoutRecording) => "it cannot end like this";
}
