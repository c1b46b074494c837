//! Gates alone, and of several processes over one back end.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::json;

use super::*;
use crate::coord::memory::Memory;
use crate::domain::clock::Clock;
use crate::domain::delivery::FencingToken;
use crate::domain::event::{Event, EventPattern, EventTypeName};
use crate::domain::job::{JobOrigin, JobQueue, Trigger};
use crate::domain::provider::ProviderId;
use crate::domain::subscription::{RatePeriod, SealedDocument, Subscription};
use crate::store::Catalog;

const LIMIT: usize = 16;

/// Shows what the test set.
#[derive(Default)]
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Gates of processes that share what is to be shared.
struct Processes {
    clock: Arc<Hand>,
    coord: Arc<dyn Coord>,
}

impl Processes {
    fn new() -> Self {
        let clock = Arc::new(Hand::default());
        let coord = Arc::new(Memory::new(clock.clone()));
        Self { clock, coord }
    }

    fn gates(&self) -> Arc<Gates> {
        Arc::new(Gates::new(self.coord.clone()))
    }
}

fn gates() -> Arc<Gates> {
    Processes::new().gates()
}

fn snapshot(flow: Flow, updated_at: i64) -> Snapshot {
    let subscription = Subscription {
        id: ulid::Ulid(7).into(),
        name: "S".to_owned(),
        events: EventPattern::parse("*").expect("a pattern"),
        provider: ProviderId::parse("webhook").expect("an id"),
        config: SealedDocument {
            version: 1,
            json: json!({}),
        },
        connection: None,
        system_filter: Vec::new(),
        filter: None,
        transform: None,
        enabled: true,
        disabled_reason: None,
        paused: false,
        ordered: false,
        retry: None,
        timeout_ms: None,
        flow,
        created_at: Timestamp(1),
        updated_at: Timestamp(updated_at),
    };
    let catalog = Catalog {
        subscriptions: vec![subscription],
        ..Catalog::default()
    };
    Snapshot::new(catalog, None)
}

/// The cap of the one subscription, and when there is more room.
fn room(gates: &Gates, snapshot: &Snapshot, now: i64) -> (Option<usize>, Option<i64>) {
    let room = gates.room(snapshot, Timestamp(now), LIMIT);
    assert!(room.caps.len() <= 1);
    (room.caps.into_values().next(), room.more_at.map(|at| at.0))
}

fn leased(count: usize) -> Vec<LeasedDelivery> {
    let event = Event {
        id: ulid::Ulid(1).into(),
        event_type: EventTypeName::parse("a.b").expect("a name"),
        payload: "{}".into(),
        occurred_at: Timestamp(0),
        received_at: Timestamp(0),
        correlation_key: None,
        system_ids: Vec::new(),
        trace: None,
    };
    let one = LeasedDelivery {
        id: ulid::Ulid(1).into(),
        token: FencingToken(1),
        subscription_id: ulid::Ulid(7).into(),
        provider: ProviderId::parse("webhook").expect("an id"),
        attempt: 1,
        event: Arc::new(event),
        external_id: None,
        job: JobOrigin {
            queue: JobQueue::Store,
            trigger: Trigger::Ingest,
            queued_at: Timestamp(0),
            worker: ulid::Ulid(1).into(),
        },
    };
    vec![one; count]
}

/// Who of `count` sets out; when those may that do not.
async fn admit(
    gates: &Arc<Gates>,
    snapshot: &Snapshot,
    now: i64,
    count: usize,
) -> (Vec<Passage>, Vec<i64>) {
    let (mut passed, mut held) = (Vec::new(), Vec::new());
    for entry in gates.admit(snapshot, &leased(count), Timestamp(now)).await {
        match entry {
            Entry::Pass(passage) => passed.push(passage),
            Entry::Held(until) => held.push(until.0),
            Entry::Unrouted => panic!("it has a route"),
        }
    }
    (passed, held)
}

async fn pass(gates: &Arc<Gates>, snapshot: &Snapshot, now: i64) -> Passage {
    let (mut passed, held) = admit(gates, snapshot, now, 1).await;
    passed
        .pop()
        .unwrap_or_else(|| panic!("held until {held:?}"))
}

async fn fail(gates: &Arc<Gates>, snapshot: &Snapshot, now: i64) -> Judged {
    let mut passage = pass(gates, snapshot, now).await;
    let verdict = Verdict::Blamed {
        reason: "down".to_owned(),
        not_before: None,
    };
    let judged = passage.judge(verdict, Timestamp(now)).await;
    passage.end(Timestamp(now)).await;
    judged
}

fn tight() -> Flow {
    Flow {
        circuit: Some(CircuitPolicy {
            failures: 2,
            probe_after_ms: 100,
            probe_after_ms_max: 100,
        }),
        ..Flow::default()
    }
}

#[tokio::test]
async fn a_rate_leaves_room_as_time_goes_by() {
    let flow = Flow {
        rate: Some(RateLimit {
            attempts: 10,
            per: RatePeriod::Second,
            burst: 2,
        }),
        ..Flow::default()
    };
    let (gates, snapshot) = (gates(), snapshot(flow, 1));
    assert_eq!(room(&gates, &snapshot, 1_000), (Some(2), None));
    for _ in 0..2 {
        pass(&gates, &snapshot, 1_000)
            .await
            .end(Timestamp(1_000))
            .await;
    }
    assert_eq!(room(&gates, &snapshot, 1_000), (Some(0), Some(1_100)));
    assert_eq!(room(&gates, &snapshot, 1_100), (Some(1), None));
    assert_eq!(room(&gates, &snapshot, 1_200), (Some(2), None));
    assert!(
        gates.lock().gates.is_empty(),
        "nothing is kept for the idle"
    );
}

#[tokio::test]
async fn a_place_that_becomes_free_is_told_of_to_who_waited() {
    let flow = Flow {
        concurrency: Some(2),
        ..Flow::default()
    };
    let (gates, snapshot) = (gates(), snapshot(flow, 1));
    let first = pass(&gates, &snapshot, 0).await;
    assert_eq!(room(&gates, &snapshot, 0), (Some(1), None));
    let second = pass(&gates, &snapshot, 0).await;
    assert_eq!(room(&gates, &snapshot, 0), (Some(0), None));
    assert!(first.end(Timestamp(0)).await);
    assert!(!second.end(Timestamp(0)).await, "once is enough");
    assert_eq!(room(&gates, &snapshot, 0), (Some(2), None));
}

#[tokio::test]
async fn an_open_circuit_holds_back_all_but_its_probe() {
    let (gates, snapshot) = (gates(), snapshot(tight(), 1));
    assert_eq!(room(&gates, &snapshot, 0), (None, None));
    let straggler = pass(&gates, &snapshot, 0).await;
    assert!(!fail(&gates, &snapshot, 0).await.held);
    let opened = fail(&gates, &snapshot, 0).await;
    assert!(matches!(opened.change, Change::Opened(_)) && !opened.held);
    assert_eq!(room(&gates, &snapshot, 0), (Some(0), Some(100)));
    let probe = pass(&gates, &snapshot, 100).await;
    assert_eq!(room(&gates, &snapshot, 150), (Some(0), None));
    drop(probe);
    assert_eq!(room(&gates, &snapshot, 150), (Some(1), None), "it was lost");
    assert!(
        fail(&gates, &snapshot, 150).await.held,
        "a probe costs no attempt"
    );
    assert_eq!(room(&gates, &snapshot, 150), (Some(0), Some(250)));
    let mut late = straggler;
    let judged = late.judge(Verdict::Answered, Timestamp(160)).await;
    assert!(matches!(judged.change, Change::Closed(_)));
    assert_eq!(room(&gates, &snapshot, 160), (None, None));
}

#[tokio::test]
async fn a_change_of_the_subscription_closes_its_circuit() {
    let gates = gates();
    let before = snapshot(tight(), 1);
    for _ in 0..2 {
        fail(&gates, &before, 0).await;
    }
    assert_eq!(room(&gates, &before, 0).0, Some(0));
    assert!(gates.take_forgotten().is_empty());
    let after = snapshot(tight(), 2);
    assert_eq!(room(&gates, &after, 0), (None, None));
    assert_eq!(gates.take_forgotten().len(), 1);
}

#[tokio::test]
async fn circuits_on_record_are_taken_up() {
    let (gates, snapshot) = (gates(), snapshot(tight(), 1));
    let open = OpenCircuit {
        subscription: *snapshot.routes.keys().next().expect("one"),
        since: Timestamp(5),
        reason: "down".to_owned(),
        probes: 3,
        next_probe_at: Timestamp(70),
    };
    gates.restore(vec![open], &snapshot);
    assert_eq!(room(&gates, &snapshot, 69), (Some(0), Some(70)));
    assert_eq!(room(&gates, &snapshot, 70), (Some(1), None));
}

fn ten_a_second(burst: u32) -> Flow {
    Flow {
        rate: Some(RateLimit {
            attempts: 10,
            per: RatePeriod::Second,
            burst,
        }),
        ..Flow::default()
    }
}

#[tokio::test]
async fn a_rate_holds_over_processes_and_what_one_learns_its_next_claim_goes_by() {
    let processes = Processes::new();
    let (one, two) = (processes.gates(), processes.gates());
    let snapshot = snapshot(ten_a_second(3), 1);
    let (passed, held) = admit(&one, &snapshot, 0, 2).await;
    assert_eq!((passed.len(), held.len()), (2, 0));
    // The second thinks that there is room for three.
    assert_eq!(room(&two, &snapshot, 0), (Some(3), None));
    let (passed, held) = admit(&two, &snapshot, 0, 3).await;
    assert_eq!((passed.len(), held), (1, vec![100, 100]));
    assert_eq!(room(&two, &snapshot, 0), (Some(0), Some(100)));
    assert_eq!(room(&one, &snapshot, 0), (Some(1), None));
    processes.clock.0.store(100, Ordering::SeqCst);
    let (passed, _) = admit(&one, &snapshot, 100, 5).await;
    assert_eq!(passed.len(), 1);
    let (passed, held) = admit(&two, &snapshot, 100, 5).await;
    assert_eq!((passed.len(), held), (0, vec![200; 5]));
}

#[tokio::test]
async fn failures_are_counted_together_one_opens_the_circuit_and_one_probes() {
    let processes = Processes::new();
    let (one, two) = (processes.gates(), processes.gates());
    let snapshot = snapshot(tight(), 1);
    assert_eq!(fail(&one, &snapshot, 0).await.change, Change::None);
    let opened = fail(&two, &snapshot, 0).await.change;
    assert!(matches!(opened, Change::Opened(_)), "{opened:?}");
    // The first has not looked yet; its next failure tells nothing new.
    assert_eq!(fail(&one, &snapshot, 0).await.change, Change::None);
    assert_eq!(room(&one, &snapshot, 0), (Some(0), Some(100)));
    one.refresh().await;
    let (passed, held) = admit(&one, &snapshot, 50, 2).await;
    assert_eq!((passed.len(), held), (0, vec![100, 100]));

    let (mut probes, held) = admit(&one, &snapshot, 100, 2).await;
    assert_eq!((probes.len(), held), (1, vec![1_100]));
    let (passed, held) = admit(&two, &snapshot, 100, 1).await;
    assert_eq!((passed.len(), held), (0, vec![1_100]), "one probe for all");
    let probe = probes.first_mut().expect("the probe");
    let closed = probe.judge(Verdict::Answered, Timestamp(120)).await.change;
    assert!(matches!(closed, Change::Closed(_)), "{closed:?}");
    assert!(two.refresh().await);
    assert_eq!(room(&two, &snapshot, 120), (None, None));
    let (passed, _) = admit(&two, &snapshot, 120, 2).await;
    assert_eq!(passed.len(), 2);
}

#[tokio::test]
async fn an_answer_ends_the_count_of_all() {
    let processes = Processes::new();
    let (one, two) = (processes.gates(), processes.gates());
    let snapshot = snapshot(tight(), 1);
    fail(&one, &snapshot, 0).await;
    two.refresh().await;
    let mut passage = pass(&two, &snapshot, 0).await;
    passage.judge(Verdict::Answered, Timestamp(0)).await;
    assert_eq!(fail(&one, &snapshot, 0).await.change, Change::None);
}

#[tokio::test]
async fn an_open_circuit_is_brought_to_a_back_end_that_lost_it() {
    let processes = Processes::new();
    let (one, snapshot) = (processes.gates(), snapshot(tight(), 1));
    for _ in 0..2 {
        fail(&one, &snapshot, 0).await;
    }
    let fresh = Gates {
        coord: Processes::new().coord,
        known: Mutex::new(std::mem::take(&mut *one.lock())),
        changing: tokio::sync::Mutex::default(),
    };
    // As after a flush: the same process, another generation.
    fresh.lock().seen.generation = "before".to_owned();
    assert!(fresh.refresh().await);
    assert_eq!(room(&fresh, &snapshot, 0), (Some(0), Some(100)));
    let another = Arc::new(Gates::new(fresh.coord.clone()));
    another.refresh().await;
    assert_eq!(room(&another, &snapshot, 0), (Some(0), Some(100)));
}

#[tokio::test]
async fn a_circuit_of_a_subscription_as_it_was_before_holds_nobody_back() {
    let processes = Processes::new();
    let (one, two) = (processes.gates(), processes.gates());
    let (before, after) = (snapshot(tight(), 1), snapshot(tight(), 2));
    for _ in 0..2 {
        fail(&one, &before, 0).await;
    }
    assert_eq!(room(&two, &after, 0), (None, None));
    pass(&two, &after, 0).await.end(Timestamp(0)).await;
    two.refresh().await;
    assert_eq!(room(&two, &after, 0), (None, None));
    // And is cleared away by whoever knows better.
    two.refresh().await;
    one.refresh().await;
    assert_eq!(room(&one, &after, 0), (None, None));
    let known = one.lock();
    assert!(known.gates.values().all(|gate| gate.cell.is_none()));
}
