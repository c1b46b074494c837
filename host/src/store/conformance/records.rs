//! Records of work done: dead letters and what is decided about them, jobs, and removal by age.

use super::*;
use crate::domain::dead_letter::{
    DeadLetterAction, DeadLetterCursor, DeadLetterFilter, DeadLetterRun,
};
use crate::domain::delivery::Discarded;
use crate::domain::id::DeliveryId;
use crate::domain::job::{Job, JobId, JobQueue, JobState, Trigger};
use crate::domain::replay::{Replay, ReplayFilter, ReplayScope, ReplayState};
use crate::store::{Expiring, JobFilter, RemovalBatch, ReplayStep, Stepped};

fn at(ms: i64) -> Timestamp {
    Timestamp(T0.0 + ms)
}

/// A subscription and `count` dead letters of it, given up one millisecond after the other, in
/// this order.
async fn dead(
    store: &dyn Store,
    fixture: &Fixture,
    count: i64,
) -> (Subscription, Vec<NewDelivery>) {
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let mut deliveries = Vec::new();
    for n in 0..count {
        let event = Event {
            correlation_key: (n == 0).then(|| Arc::from("k")),
            ..fixture.event(if n % 2 == 0 { "a.even" } else { "a.odd" }, at(n))
        };
        deliveries.push(fixture.emit(store, subscription.id, event, None).await);
    }
    for leased in fixture.claim(store, at(count), 100).await {
        let n = deliveries
            .iter()
            .position(|delivery| delivery.id == leased.id)
            .expect("one of them");
        let n = i64::try_from(n).expect("small");
        let outcome = if n == 1 {
            Outcome::Trap
        } else {
            Outcome::ProviderError
        };
        let given_up = LeaseResult {
            at: at(1_000 + n),
            ..result(&leased, outcome, Transition::Failed)
        };
        store.record(given_up).await.expect("records");
    }
    (subscription, deliveries)
}

async fn listed(
    store: &dyn Store,
    filter: DeadLetterFilter,
    after: Option<DeadLetterCursor>,
    limit: usize,
) -> (Vec<DeliveryId>, Option<DeadLetterCursor>) {
    let page = store.dead_letters(&filter, after, limit).await;
    let page = page.expect("lists");
    let next = page.next(|delivery| DeadLetterCursor::from(delivery).to_string());
    (
        page.items.iter().map(|delivery| delivery.id).collect(),
        next.map(|next| next.parse().expect("a place")),
    )
}

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

pub(crate) async fn dead_letters_are_listed_by_failure_and_filtered(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, dead) = dead(store, &fixture, 5).await;
    // Not a dead letter.
    fixture
        .emit(store, subscription.id, fixture.event("a.even", at(9)), None)
        .await;
    let (first, next) = listed(store, all(), None, 3).await;
    assert_eq!(first, [dead[4].id, dead[3].id, dead[2].id]);
    let (second, next) = listed(store, all(), next, 3).await;
    assert_eq!((second, next), (vec![dead[1].id, dead[0].id], None));
    let other: SubscriptionId = fixture.id(T0);
    let error = |text: &str| Some(text.to_owned());
    let filters = [
        (
            DeadLetterFilter {
                subscription: Some(subscription.id),
                ..all()
            },
            vec![4, 3, 2, 1, 0],
        ),
        (
            DeadLetterFilter {
                subscription: Some(other),
                ..all()
            },
            vec![],
        ),
        (
            DeadLetterFilter {
                provider: Some(provider()),
                ..all()
            },
            vec![4, 3, 2, 1, 0],
        ),
        (
            DeadLetterFilter {
                event_type: Some("a.odd".to_owned()),
                ..all()
            },
            vec![3, 1],
        ),
        (
            DeadLetterFilter {
                correlation_key: Some("k".to_owned()),
                ..all()
            },
            vec![0],
        ),
        (
            DeadLetterFilter {
                error_prefix: error("provider_"),
                ..all()
            },
            vec![4, 3, 2, 0],
        ),
        (
            DeadLetterFilter {
                error_prefix: error("rovider_"),
                ..all()
            },
            vec![],
        ),
        (
            DeadLetterFilter {
                error_prefix: error("%"),
                ..all()
            },
            vec![],
        ),
        (
            DeadLetterFilter {
                outcome: Some(Outcome::Trap),
                ..all()
            },
            vec![1],
        ),
        (
            DeadLetterFilter {
                from: Some(at(1_001)),
                until: Some(at(1_003)),
                ..all()
            },
            vec![2, 1],
        ),
        (
            DeadLetterFilter {
                event_type: Some("a.even".to_owned()),
                until: Some(at(1_004)),
                outcome: Some(Outcome::ProviderError),
                ..all()
            },
            vec![2, 0],
        ),
    ];
    for (filter, expected) in filters {
        let expected: Vec<DeliveryId> = expected.into_iter().map(|n: usize| dead[n].id).collect();
        let (found, next) = listed(store, filter.clone(), None, 50).await;
        assert_eq!((found, next), (expected, None), "{filter:?}");
    }
}

pub(crate) async fn a_requeued_dead_letter_has_a_full_round_and_only_where_it_can_go(
    store: &dyn Store,
) {
    let fixture = Fixture::new();
    let (mut subscription, dead) = dead(store, &fixture, 2).await;
    let id = dead[0].id;
    assert!(
        store
            .requeue_dead_letter(id, at(2_000))
            .await
            .expect("answers")
    );
    assert!(
        !store
            .requeue_dead_letter(id, at(2_000))
            .await
            .expect("answers"),
        "it is none now"
    );
    let due = store.delivery(id).await.expect("reads").expect("there");
    assert_eq!(
        (due.state, due.attempts, due.due_at),
        (DeliveryState::Pending, 0, Some(at(2_000)))
    );
    let leased = fixture.claim_one(store, at(2_000)).await;
    assert_eq!((leased.id, leased.attempt), (id, 1));
    assert_eq!(leased.job.trigger, Trigger::Manual);
    // A subscription that is switched off would cancel it.
    subscription.enabled = false;
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let refused = store.requeue_dead_letter(dead[1].id, at(2_000)).await;
    assert!(!refused.expect("answers"));
    assert_eq!(state(store, &dead[1]).await, DeliveryState::Failed);
    // One that is paused parks it.
    subscription.enabled = true;
    subscription.paused = true;
    store.put_subscription(subscription).await.expect("put");
    let parked = store.requeue_dead_letter(dead[1].id, at(2_000)).await;
    assert!(parked.expect("answers"));
    let parked = store
        .delivery(dead[1].id)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(
        (parked.state, parked.due_at),
        (DeliveryState::Pending, None)
    );
}

pub(crate) async fn a_discarded_dead_letter_is_at_its_end(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, dead) = dead(store, &fixture, 1).await;
    let decision = Discarded {
        by: "Kim".to_owned(),
        reason: "a test of theirs".to_owned(),
    };
    let id = dead[0].id;
    let discard = || store.discard_dead_letter(id, decision.clone(), at(2_000));
    assert!(discard().await.expect("answers"));
    assert!(!discard().await.expect("answers"), "it is none now");
    let gone = store.delivery(id).await.expect("reads").expect("there");
    assert_eq!(
        (gone.state, gone.discarded),
        (DeliveryState::Discarded, Some(decision.clone()))
    );
    assert_eq!((gone.updated_at, gone.due_at), (at(2_000), None));
    let retried = store.retry(id, at(3_000)).await;
    assert!(
        matches!(retried, Err(StoreError::Conflict(_))),
        "{retried:?}"
    );
    assert!(
        !store
            .requeue_dead_letter(id, at(3_000))
            .await
            .expect("answers")
    );
    assert_eq!(
        store
            .failed_of(dead[0].event_id, None)
            .await
            .expect("counts"),
        0
    );
    assert_eq!(listed(store, all(), None, 9).await, (vec![], None));
    let filter = DeliveryFilter {
        states: vec![DeliveryState::Discarded],
        ..DeliveryFilter::default()
    };
    let page = store.deliveries(&filter, None, 9).await.expect("lists");
    assert_eq!((page.items.len(), page.more), (1, false));
}

fn run(fixture: &Fixture, action: DeadLetterAction, filter: DeadLetterFilter) -> DeadLetterRun {
    DeadLetterRun {
        id: fixture.id(T0),
        action,
        requested_by: "Kim".to_owned(),
        reason: "the receiver is back".to_owned(),
        filter,
        state: ReplayState::Running,
        cursor: None,
        changed: 0,
        created_at: at(5_000),
        updated_at: at(5_000),
    }
}

pub(crate) async fn a_run_goes_through_dead_letters_once_whoever_carries_it_out(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, dead) = dead(store, &fixture, 5).await;
    let filter = DeadLetterFilter {
        provider: Some(provider()),
        subscription: Some(subscription.id),
        error_prefix: Some("provider".to_owned()),
        outcome: Some(Outcome::ProviderError),
        until: Some(at(5_000)),
        ..all()
    };
    let asked = run(&fixture, DeadLetterAction::Requeue, filter);
    store.put_dead_letter_run(asked.clone()).await.expect("put");
    let read = store.dead_letter_run(asked.id).await.expect("found");
    assert_eq!(read, Some(asked.clone()));
    let step =
        |run: &DeadLetterRun, limit| store.step_dead_letter_run(run.clone(), limit, at(6_000));
    let moved = step(&asked, 3).await.expect("steps").expect("moves");
    assert_eq!((moved.changed, moved.state), (3, ReplayState::Running));
    assert_eq!(
        step(&asked, 3).await.expect("answers"),
        None,
        "someone else did"
    );
    let ended = step(&moved, 3).await.expect("steps").expect("moves");
    assert_eq!((ended.changed, ended.state), (4, ReplayState::Done));
    let read = store.dead_letter_run(asked.id).await.expect("found");
    assert_eq!(read, Some(ended.clone()));
    assert_eq!(
        step(&ended, 3).await.expect("answers"),
        None,
        "it has ended"
    );
    assert!(
        !store
            .cancel_dead_letter_run(asked.id, at(7_000))
            .await
            .expect("answers")
    );
    let outcomes = store.dead_letter_outcomes(asked.id).await.expect("counted");
    assert_eq!(outcomes, [(DeliveryState::Pending, 4)]);
    assert_eq!(listed(store, all(), None, 9).await.0, [dead[1].id]);

    let asked = run(&fixture, DeadLetterAction::Discard, all());
    store.put_dead_letter_run(asked.clone()).await.expect("put");
    let ended = step(&asked, 3).await.expect("steps").expect("moves");
    assert_eq!((ended.changed, ended.state), (1, ReplayState::Done));
    let gone = store
        .delivery(dead[1].id)
        .await
        .expect("reads")
        .expect("there");
    assert_eq!(gone.discarded.expect("decided").reason, asked.reason);

    let stopped = run(&fixture, DeadLetterAction::Discard, all());
    store
        .put_dead_letter_run(stopped.clone())
        .await
        .expect("put");
    let running = store
        .dead_letter_runs(Some(ReplayState::Running), None, 9)
        .await;
    assert_eq!(running.expect("lists").items.len(), 1);
    assert!(
        store
            .cancel_dead_letter_run(stopped.id, at(8_000))
            .await
            .expect("answers")
    );
    assert_eq!(step(&stopped, 3).await.expect("answers"), None);
    let page = store.dead_letter_runs(None, None, 2).await.expect("lists");
    assert!(page.more);
    assert_eq!((page.items[0].id, page.items[1].id), (stopped.id, asked.id));
}

async fn jobs(store: &dyn Store, filter: JobFilter) -> Vec<Job> {
    let page = store.jobs(&filter, None, 50).await.expect("lists");
    assert!(!page.more);
    page.items
}

pub(crate) async fn jobs_tell_what_made_them_due_and_who_did_them(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, delivery) = fixture.one(store).await;
    let id = |number| JobId {
        delivery: delivery.id,
        number,
    };
    let open = store.job(id(1)).await.expect("reads").expect("there");
    assert_eq!(
        (open.state, open.trigger, open.queued_at),
        (JobState::Queued, Some(Trigger::Ingest), Some(T0))
    );
    assert_eq!((open.worker, open.started_at), (None, None));

    let leased = fixture.claim_one(store, at(5)).await;
    let running = store.job(id(1)).await.expect("reads").expect("there");
    assert_eq!(
        (running.state, running.worker),
        (JobState::Running, Some(fixture.worker))
    );
    assert_eq!(running.started_at, Some(at(5)));
    store
        .record(failure(&leased, Transition::RetryAt(at(100))))
        .await
        .expect("records");
    let failed = store.job(id(1)).await.expect("reads").expect("there");
    let expected = Job {
        id: id(1),
        state: JobState::Failed,
        queue: Some(JobQueue::Store),
        trigger: Some(Trigger::Ingest),
        queued_at: Some(T0),
        started_at: Some(T0),
        ended_at: Some(at(1)),
        worker: Some(fixture.worker),
        error: Some("provider_error".to_owned()),
    };
    assert_eq!(failed, expected);
    let waiting = store.job(id(2)).await.expect("reads").expect("there");
    assert_eq!(
        (waiting.state, waiting.trigger, waiting.queued_at),
        (JobState::Queued, Some(Trigger::Retry), Some(at(100)))
    );

    // Its worker dies.
    fixture.claim_one(store, at(100)).await;
    let lapsed = at(100).plus(LEASE * 2);
    let leased = fixture.claim_one(store, lapsed).await;
    assert_eq!(
        (leased.job.trigger, leased.job.queued_at),
        (Trigger::Sweep, at(100))
    );
    store.record(success(&leased)).await.expect("records");
    assert_eq!(
        store.job(id(3)).await.expect("reads"),
        None,
        "nothing is open"
    );
    let listed: Vec<_> = jobs(store, JobFilter::default())
        .await
        .into_iter()
        .map(|job| (job.id.number, job.state, job.trigger, job.error))
        .collect();
    assert_eq!(
        listed,
        [
            (2, JobState::Succeeded, Some(Trigger::Sweep), None),
            (
                1,
                JobState::Failed,
                Some(Trigger::Ingest),
                Some("provider_error".to_owned())
            ),
        ]
    );
    store.retry(delivery.id, at(9_000)).await.expect("retries");
    let open = store.job(id(3)).await.expect("reads").expect("there");
    assert_eq!(
        (open.trigger, open.queued_at),
        (Some(Trigger::Manual), Some(at(9_000)))
    );
}

pub(crate) async fn jobs_are_filtered_and_paged(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    store
        .put_subscription(subscription.clone())
        .await
        .expect("put");
    let mut deliveries = Vec::new();
    for n in 0..6 {
        let event = fixture.event("a.b", at(n));
        deliveries.push(fixture.emit(store, subscription.id, event, None).await);
    }
    // The first two fail and wait, the third succeeds, the fourth is under way, two wait.
    for (n, leased) in fixture.claim(store, at(9), 4).await.into_iter().enumerate() {
        let outcome = match n {
            0 | 1 => failure(&leased, Transition::RetryAt(FAR)),
            2 => success(&leased),
            _ => continue,
        };
        store.record(outcome).await.expect("records");
    }
    let number = |job: &Job| {
        let place = deliveries
            .iter()
            .position(|delivery| delivery.id == job.id.delivery);
        (place.expect("one of them"), job.id.number)
    };
    let everything = [
        (5, 1),
        (4, 1),
        (3, 1),
        (2, 1),
        (1, 2),
        (1, 1),
        (0, 2),
        (0, 1),
    ];
    let filters = [
        (JobFilter::default(), everything.to_vec()),
        (
            JobFilter {
                state: Some(JobState::Queued),
                ..JobFilter::default()
            },
            vec![(5, 1), (4, 1), (1, 2), (0, 2)],
        ),
        (
            JobFilter {
                state: Some(JobState::Running),
                ..JobFilter::default()
            },
            vec![(3, 1)],
        ),
        (
            JobFilter {
                state: Some(JobState::Succeeded),
                ..JobFilter::default()
            },
            vec![(2, 1)],
        ),
        (
            JobFilter {
                state: Some(JobState::Failed),
                ..JobFilter::default()
            },
            vec![(1, 1), (0, 1)],
        ),
        (
            JobFilter {
                queue: Some(JobQueue::Store),
                ..JobFilter::default()
            },
            vec![(2, 1), (1, 1), (0, 1)],
        ),
        (
            JobFilter {
                queue: Some(JobQueue::Process),
                ..JobFilter::default()
            },
            vec![],
        ),
        (
            JobFilter {
                trigger: Some(Trigger::Retry),
                ..JobFilter::default()
            },
            vec![(1, 2), (0, 2)],
        ),
        (
            JobFilter {
                trigger: Some(Trigger::Ingest),
                state: Some(JobState::Failed),
                ..JobFilter::default()
            },
            vec![(1, 1), (0, 1)],
        ),
        (
            JobFilter {
                worker: Some(fixture.worker),
                ..JobFilter::default()
            },
            vec![(3, 1), (2, 1), (1, 1), (0, 1)],
        ),
        (
            JobFilter {
                delivery: Some(deliveries[1].id),
                ..JobFilter::default()
            },
            vec![(1, 2), (1, 1)],
        ),
        (
            JobFilter {
                from: Some(at(1)),
                until: Some(at(3)),
                ..JobFilter::default()
            },
            vec![(2, 1), (1, 2), (1, 1)],
        ),
    ];
    for (filter, expected) in filters {
        let found: Vec<_> = jobs(store, filter.clone())
            .await
            .iter()
            .map(number)
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .jobs(&JobFilter::default(), after, 3)
            .await
            .expect("lists");
        found.extend(page.items.iter().map(number));
        let Some(next) = page.next(|job| job.id.to_string()) else {
            break;
        };
        after = Some(next.parse().expect("an id"));
    }
    assert_eq!(found, everything);
}

/// Removes everything of `kind` older than `before`, two rows a batch; how many that were.
pub(super) async fn remove(store: &dyn Store, kind: Expiring, before: Timestamp) -> u64 {
    let (mut records, mut after) = (0, None);
    loop {
        let batch = RemovalBatch {
            kind,
            before,
            after,
            limit: 2,
        };
        let removed = store.remove(batch).await.expect("removes");
        records += removed.records;
        after = removed.next;
        if after.is_none() {
            return records;
        }
    }
}

pub(crate) async fn what_is_old_and_at_its_end_is_removed_and_nothing_else(store: &dyn Store) {
    let fixture = Fixture::new();
    let (subscription, dead) = dead(store, &fixture, 4).await;
    let mut ended = Vec::new();
    for n in 0..6 {
        let event = fixture.event("a.b", at(100 + n));
        ended.push(fixture.emit(store, subscription.id, event, None).await);
    }
    for (n, leased) in fixture
        .claim(store, at(200), 6)
        .await
        .into_iter()
        .enumerate()
    {
        let outcome = match n {
            // Waits for its next attempt.
            0 => failure(&leased, Transition::RetryAt(FAR)),
            // Came to its end only lately.
            1 => LeaseResult {
                at: at(90_000),
                ..success(&leased)
            },
            2 => LeaseResult {
                attempt: None,
                ..result(&leased, Outcome::Success, Transition::Filtered)
            },
            _ => LeaseResult {
                at: at(300),
                ..success(&leased)
            },
        };
        store.record(outcome).await.expect("records");
    }
    use DeliveryState::{
        Cancelled, Discarded, Failed, Filtered, InFlight, Pending, Retrying, Success,
    };
    let old = at(50_000);
    for state in [Pending, InFlight, Retrying, Cancelled, Discarded] {
        assert_eq!(
            remove(store, Expiring::Deliveries(state), old).await,
            0,
            "{state:?}"
        );
    }
    assert_eq!(
        remove(store, Expiring::Events, FAR).await,
        0,
        "all have deliveries"
    );
    assert_eq!(remove(store, Expiring::Deliveries(Success), old).await, 3);
    assert_eq!(remove(store, Expiring::Deliveries(Filtered), old).await, 1);
    assert_eq!(
        remove(store, Expiring::Deliveries(Failed), at(1_002)).await,
        2
    );
    let left = store
        .deliveries(&DeliveryFilter::default(), None, 50)
        .await
        .expect("lists");
    let left: Vec<_> = left.items.iter().map(|delivery| delivery.id).collect();
    assert_eq!(left, [ended[1].id, ended[0].id, dead[3].id, dead[2].id]);
    assert!(store.attempts(ended[5].id).await.expect("reads").is_empty());
    assert_eq!(store.attempts(ended[1].id).await.expect("reads").len(), 1);
    assert_eq!(
        store
            .job(JobId {
                delivery: ended[5].id,
                number: 1
            })
            .await
            .expect("reads"),
        None
    );

    assert_eq!(remove(store, Expiring::Events, at(103)).await, 3);
    assert_eq!(store.event(dead[0].event_id).await.expect("reads"), None);
    assert!(
        store
            .event(dead[2].event_id)
            .await
            .expect("reads")
            .is_some()
    );
    assert!(
        store
            .event(ended[3].event_id)
            .await
            .expect("reads")
            .is_some(),
        "too young"
    );
    // What is left goes on as before.
    assert_eq!(fixture.claim_one(store, FAR).await.id, ended[0].id);
}

fn running_replay(fixture: &Fixture, scope: ReplayScope) -> Replay {
    Replay {
        id: fixture.id(T0),
        requested_by: "Kim".to_owned(),
        reason: "why not".to_owned(),
        scope,
        filter: ReplayFilter::default(),
        state: ReplayState::Running,
        cursor: None,
        events: 0,
        deliveries: 0,
        created_at: T0,
        updated_at: T0,
    }
}

pub(crate) async fn what_a_replay_needs_stays_until_it_has_gone_through_it(store: &dyn Store) {
    let fixture = Fixture::new();
    let (_, dead) = dead(store, &fixture, 2).await;
    let event = store
        .event(dead[1].event_id)
        .await
        .expect("reads")
        .expect("there");
    let event = Arc::new(event);
    let replay = running_replay(&fixture, ReplayScope::All);
    store.put_replay(replay.clone()).await.expect("put");
    let failed = Expiring::Deliveries(DeliveryState::Failed);
    assert_eq!(remove(store, failed, FAR).await, 0);
    let step = ReplayStep {
        cursor: Some(event.id),
        events: vec![event.clone()],
        deliveries: Vec::new(),
        is_last: true,
        is_queued: false,
        epoch: store.epoch().await.expect("epoch"),
        at: at(2_000),
        replay,
    };
    let stepped = store.step_replay(step).await.expect("steps");
    assert!(matches!(stepped, Stepped::Written(_)), "{stepped:?}");
    let run = run(&fixture, DeadLetterAction::Requeue, all());
    store.put_dead_letter_run(run.clone()).await.expect("put");
    assert_eq!(remove(store, failed, FAR).await, 0);
    assert!(
        store
            .cancel_dead_letter_run(run.id, at(2_000))
            .await
            .expect("answers")
    );
    assert_eq!(remove(store, failed, FAR).await, 2);
    assert_eq!(remove(store, Expiring::Events, FAR).await, 2);

    // A page that was planned before they went makes no delivery without its event.
    let replay = running_replay(&fixture, ReplayScope::All);
    store.put_replay(replay.clone()).await.expect("put");
    let late = NewDelivery {
        id: fixture.id(T0),
        ..dead[1].clone()
    };
    let step = ReplayStep {
        cursor: Some(event.id),
        events: vec![event],
        deliveries: vec![late.clone()],
        is_last: true,
        is_queued: false,
        epoch: store.epoch().await.expect("epoch"),
        at: at(3_000),
        replay,
    };
    let stepped = store.step_replay(step).await.expect("steps");
    assert!(matches!(stepped, Stepped::Written(_)), "{stepped:?}");
    assert_eq!(store.delivery(late.id).await.expect("reads"), None);
    assert_eq!(remove(store, Expiring::Replays, at(2_500)).await, 2);
    assert_eq!(
        store
            .replays(None, None, 9)
            .await
            .expect("lists")
            .items
            .len(),
        1
    );
}

pub(crate) async fn old_idempotency_keys_are_removed(store: &dyn Store) {
    let fixture = Fixture::new();
    let keyed = |key: &str, when: Timestamp| {
        let event = fixture.event("a.b", when);
        let key = IdempotencyKey {
            scope: "s".to_owned(),
            key: key.to_owned(),
            body_hash: [7; 32],
        };
        async move {
            let mut request = request(store, vec![event], Vec::new(), when).await;
            request.idempotency = Some(key);
            store.accept(request).await.expect("accepts")
        }
    };
    for (key, when) in [("a", 0), ("b", 1), ("c", 2), ("d", 3)] {
        assert_eq!(keyed(key, at(when)).await, Accepted::New);
    }
    assert_eq!(remove(store, Expiring::IdempotencyKeys, at(3)).await, 3);
    assert_eq!(keyed("a", at(9)).await, Accepted::New);
    assert!(matches!(keyed("d", at(9)).await, Accepted::Duplicate(_)));
}

pub(crate) async fn external_ids_go_with_the_last_event_of_their_key(store: &dyn Store) {
    let fixture = Fixture::new();
    let subscription = fixture.subscription(T0);
    let id = subscription.id;
    store.put_subscription(subscription).await.expect("put");
    // What the delivery of one more event finds; it leaves an external id.
    let found = async |key: &str, when: i64| {
        let event = Event {
            correlation_key: Some(key.into()),
            ..fixture.event("a.b", at(when))
        };
        fixture.emit(store, id, event, None).await;
        let leased = fixture.claim_one(store, at(when)).await;
        let external_id = Some(format!("{key} at {when}"));
        let done = LeaseResult {
            at: at(when),
            ..result(
                &leased,
                Outcome::Success,
                Transition::Success { external_id },
            )
        };
        store.record(done).await.expect("records");
        leased.external_id
    };
    let clear = async |before: i64| {
        let succeeded = Expiring::Deliveries(DeliveryState::Success);
        remove(store, succeeded, at(before)).await;
        remove(store, Expiring::Events, at(before)).await
    };
    assert_eq!(found("x", 0).await, None);
    assert_eq!(found("x", 10).await.as_deref(), Some("x at 0"));
    assert_eq!(clear(5).await, 1);
    assert_eq!(found("x", 20).await.as_deref(), Some("x at 10"));
    assert_eq!(found("y", 100).await, None);
    assert_eq!(clear(50).await, 2);
    assert_eq!(found("x", 110).await, None, "no event of it was left");
    assert_eq!(found("y", 120).await.as_deref(), Some("y at 100"));
}

pub(crate) async fn a_duty_is_one_process_s_at_a_time(store: &dyn Store) {
    let fixture = Fixture::new();
    let (one, other): (WorkerId, WorkerId) = (fixture.id(T0), fixture.id(T0));
    let hold = |worker, now, until| store.hold_duty("sweeping", worker, at(now), at(until));
    assert!(hold(one, 0, 10).await.expect("answers"));
    assert!(!hold(other, 5, 15).await.expect("answers"));
    assert!(hold(one, 5, 20).await.expect("answers"), "kept");
    assert!(!hold(other, 15, 30).await.expect("answers"));
    assert!(hold(other, 21, 30).await.expect("answers"), "it has lapsed");
    assert!(!hold(one, 22, 40).await.expect("answers"));
    let elsewhere = store.hold_duty("cooking", one, at(22), at(30)).await;
    assert!(elsewhere.expect("answers"), "another duty");
}
