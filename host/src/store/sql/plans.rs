//! How the database goes about the statements, over a store with a past: no listing may walk
//! through a table, or sort what it cannot bound.

use sqlx::{AssertSqlSafe, Execute as _, QueryBuilder, Row as _};

use super::dialect::{Db, DbPool, EXPLAIN, PLAN_COLUMN, SCANS, SORTS};
use super::query::Lead;
use super::{dead_letter, ingress, job, listing, query, retention};
use crate::domain::clock::Timestamp;
use crate::domain::dead_letter::{DeadLetterCursor, DeadLetterFilter};
use crate::domain::delivery::{DeliveryState, Outcome};
use crate::domain::id::{DeliveryId, EventId, IdGenerator, WebhookId};
use crate::domain::job::{JobId, JobQueue, JobState, Trigger};
use crate::domain::provider::ProviderId;
use crate::domain::source::WebhookState;
use crate::store::{DeliveryFilter, EventFilter, JobFilter, WebhookFilter};

/// Where the past ends that the plans are made over.
pub(super) const UNTIL: Timestamp = Timestamp(1_700_000_000_000);
/// Its deliveries: enough that the planner does not take the tables for small ones, and that what a
/// quarter of the past has of one subscription is more than a page.
pub(super) const DELIVERIES: i64 = 100_000;

/// Identifiers of the middle of that past.
struct Ids(IdGenerator);

impl Ids {
    fn next<T: From<ulid::Ulid>>(&self) -> T {
        let middle = Timestamp(UNTIL.0 - DELIVERIES * 500);
        self.0.next(middle, || 7)
    }
}

/// Of as long ago as a page looks back. A generator of its own: one never steps back.
fn floor<T: From<ulid::Ulid>>() -> T {
    let floor = Timestamp(UNTIL.0 - listing::WINDOW * 1_000);
    IdGenerator::default().next(floor, || 7)
}

/// The statement, and whether it may sort: what fits is few rows whatever the history.
type Case = (QueryBuilder<Db>, bool);

/// Fails the test where a plan is not as it has to be.
pub(super) async fn check(readers: &DbPool) {
    let ids = Ids(IdGenerator::default());
    let mut cases = deliveries(&ids);
    cases.extend(events(&ids));
    cases.extend(dead_letters(&ids));
    cases.extend(jobs(&ids));
    cases.extend(webhooks(&ids));
    assert!(cases.len() > 150, "only {}", cases.len());
    for (mut statement, may_sort) in cases {
        let plan = plan(readers, &mut statement).await;
        let said = format!("{}\n{plan}", statement.sql().as_str());
        assert!(!SCANS.iter().any(|scan| plan.contains(scan)), "{said}");
        assert!(
            may_sort || !SORTS.iter().any(|sort| plan.contains(sort)),
            "{said}"
        );
    }
    let terminal = DeliveryState::ALL
        .into_iter()
        .filter(|state| state.is_terminal());
    let old = terminal.map(retention::old_deliveries);
    for sql in old.chain([retention::OLD_EVENTS.to_owned()]) {
        let literal = sql
            .replace("$1", "''")
            .replace("$2", "'zzz'")
            .replace("$3", "250")
            .replace("$4", "5");
        let plan = plan(readers, &mut QueryBuilder::new(literal)).await;
        assert!(
            !SCANS.iter().any(|scan| plan.contains(scan)),
            "{sql}\n{plan}"
        );
        assert!(
            !SORTS.iter().any(|sort| plan.contains(sort)),
            "{sql}\n{plan}"
        );
    }
}

async fn plan(readers: &DbPool, statement: &mut QueryBuilder<Db>) -> String {
    let sql = format!("{EXPLAIN} {}", statement.sql().as_str());
    let arguments = statement.build().take_arguments().expect("encodes");
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments.unwrap_or_default())
        .fetch_all(readers)
        .await
        .expect("a plan");
    rows.iter()
        .map(|row| row.get::<String, _>(PLAN_COLUMN) + "\n")
        .collect()
}

/// Every way to set or leave out each of `N` conditions.
fn ways<const N: usize>() -> impl Iterator<Item = [bool; N]> {
    (0_u32..1 << N).map(|bits| std::array::from_fn(|place| bits & (1 << place) != 0))
}

fn provider() -> ProviderId {
    ProviderId::parse("webhook").expect("id")
}

fn deliveries(ids: &Ids) -> Vec<Case> {
    use DeliveryState::{Cancelled, Discarded, Failed, Filtered, Pending, Retrying, Success};
    let states: [&[DeliveryState]; 7] = [
        &[],
        &[Failed],
        &[Success],
        &[Pending, Retrying],
        &[Cancelled],
        &[Cancelled, Filtered, Discarded],
        &[Failed, Pending],
    ];
    let mut cases = Vec::new();
    for states in states {
        for [event, subscription, kind, time, after] in ways() {
            let filter = DeliveryFilter {
                states: states.to_vec(),
                event: event.then(|| ids.next()),
                subscription: subscription.then(|| ids.next()),
                provider: kind.then(provider),
                event_type: kind.then(|| "past.type1".to_owned()),
                from: time.then_some(Timestamp(UNTIL.0 - 30_000_000)),
                until: time.then_some(UNTIL),
            };
            let after = after.then(|| ids.next::<DeliveryId>().to_string());
            let floor: String = ids.next::<DeliveryId>().to_string();
            let lead = Lead::of(&filter);
            let led = lead.bounded(&filter, after.as_deref());
            let floor = led.is_some().then_some(floor);
            let statement =
                query::deliveries_query(&filter, lead, after.as_deref(), floor.as_deref(), 50);
            // The deliveries of an event are few, an open backlog was counted before, and a window
            // is one.
            let may_sort = matches!(lead, Lead::Event | Lead::Open) || floor.is_some();
            cases.push((statement, may_sort));
            cases.extend(led.map(|mut led| {
                listing::push_end(&mut led);
                (led, false)
            }));
        }
    }
    cases
}

fn events(ids: &Ids) -> Vec<Case> {
    let mut cases = Vec::new();
    for [kind, key, time, after] in ways() {
        let filter = EventFilter {
            event_type: kind.then(|| "past.type1".to_owned()),
            correlation_key: key.then(|| "key-5".to_owned()),
            from: time.then_some(Timestamp(UNTIL.0 - 30_000_000)),
            until: time.then_some(UNTIL),
        };
        let after = after.then(|| ids.next::<EventId>().to_string());
        let floor: String = ids.next::<EventId>().to_string();
        let led = query::events_led(&filter, after.as_deref());
        let floor = led.is_some().then_some(floor);
        let statement = query::events_query(&filter, after.as_deref(), floor.as_deref(), 50);
        cases.push((statement, key || floor.is_some()));
        cases.extend(led.map(|mut led| {
            listing::push_end(&mut led);
            (led, false)
        }));
    }
    cases
}

fn dead_letters(ids: &Ids) -> Vec<Case> {
    let mut cases = Vec::new();
    for [place, kind, key, error, time, after] in ways() {
        let filter = DeadLetterFilter {
            provider: kind.then(provider),
            subscription: place.then(|| ids.next()),
            event_type: kind.then(|| "past.type1".to_owned()),
            correlation_key: key.then(|| "key-5".to_owned()),
            error_prefix: error.then(|| "the receiver".to_owned()),
            outcome: error.then_some(Outcome::Trap),
            from: time.then_some(Timestamp(UNTIL.0 - 30_000_000)),
            until: time.then_some(UNTIL),
        };
        let somewhere = || DeadLetterCursor {
            failed_at: Timestamp(UNTIL.0 - 10_000_000),
            id: ids.next(),
        };
        let after = after.then(somewhere);
        let led = dead_letter::led(&filter, after);
        let floor = led.is_some().then(|| DeadLetterCursor {
            failed_at: Timestamp(UNTIL.0 - 20_000_000),
            id: ids.next(),
        });
        let statement = dead_letter::query(&filter, after, floor, 50);
        cases.push((statement, key || floor.is_some()));
        cases.extend(led.map(|led| (led, false)));
    }
    cases
}

fn jobs(ids: &Ids) -> Vec<Case> {
    let mut cases = Vec::new();
    let triggers = [None, Some(Trigger::Ingest), Some(Trigger::Retry)];
    let states = std::iter::once(None).chain(JobState::ALL.map(Some));
    for state in states {
        for trigger in triggers {
            for [queue, worker, delivery, time, after] in ways() {
                let filter = JobFilter {
                    state,
                    queue: queue.then_some(JobQueue::Store),
                    trigger,
                    worker: worker.then(|| ids.next()),
                    delivery: delivery.then(|| ids.next()),
                    from: time.then_some(Timestamp(UNTIL.0 - 30_000_000)),
                    until: time.then_some(UNTIL),
                };
                let after = after.then(|| JobId {
                    delivery: ids.next(),
                    number: 2,
                });
                let floor: String = floor::<DeliveryId>().to_string();
                let parts = job::Parts::of(&filter);
                let floor = (!job::leads_to_finished(&filter)).then_some(floor);
                let floor = floor.as_deref();
                if parts.open {
                    let statement = job::open_query(&filter, true, after, floor, 50);
                    cases.push((statement, true));
                    let floor = "dlv_01";
                    let statement = job::open_query(&filter, false, after, Some(floor), 50);
                    cases.push((statement, true));
                }
                if parts.finished {
                    let statement = job::finished_query(&filter, after, floor, 50);
                    cases.push((statement, delivery || floor.is_some()));
                }
                let mut led = job::led(&filter, after);
                listing::push_end(&mut led);
                cases.push((led, false));
            }
        }
    }
    cases
}

fn webhooks(ids: &Ids) -> Vec<Case> {
    let mut cases = Vec::new();
    for [source, state, time, after] in ways() {
        let filter = WebhookFilter {
            source: source.then(|| ids.next()),
            state: state.then_some(WebhookState::Failed),
            from: time.then_some(Timestamp(UNTIL.0 - 30_000_000)),
            until: time.then_some(UNTIL),
        };
        let after = after.then(|| ids.next::<WebhookId>().to_string());
        let floor = state.then(|| ids.next::<WebhookId>().to_string());
        let statement = ingress::webhooks_query(&filter, after.as_deref(), floor.as_deref(), 50);
        cases.push((statement, state));
        let mut led = ingress::webhooks_led(&filter, after.as_deref());
        listing::push_end(&mut led);
        cases.push((led, false));
    }
    cases
}
