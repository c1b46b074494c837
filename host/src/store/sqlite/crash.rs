//! `kill -9` of a process that writes, and a full disk: what was answered is there afterwards, and
//! all of it or nothing of what was not.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::SqliteStore;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, LeaseResult, NewDelivery, Outcome, Transition};
use crate::domain::event::{Event, EventTypeName};
use crate::domain::id::{DeliveryId, EventId, IdGenerator};
use crate::domain::provider::ProviderId;
use crate::store::{
    AcceptRequest, Caps, CatalogStore as _, ClaimRequest, DeliveryStore as _, Recorded, StoreError,
};

const T0: Timestamp = Timestamp(1_700_000_000_000);
const KILLS: u64 = 6;
/// The name under which the child runs this very test, and what tells it that it is the child.
const NAME: &str = "store::sqlite::crash::a_killed_writer_leaves_what_it_answered";
const DATABASE: &str = "HOOKPORT_TEST_CRASH_DATABASE";

#[test]
fn a_killed_writer_leaves_what_it_answered() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(path) = std::env::var(DATABASE) {
        runtime.block_on(write_for_ever(Path::new(&path)));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("crash.db");
    let (mut accepted, mut recorded) = (Vec::new(), BTreeMap::<DeliveryId, usize>::new());
    for kill in 0..KILLS {
        for line in until_killed(&path, Duration::from_millis(150 + 90 * kill)) {
            match line.split_once(' ') {
                Some(("accepted", id)) => accepted.push(id.parse().expect("an event")),
                Some(("recorded", id)) => {
                    *recorded.entry(id.parse().expect("a delivery")).or_default() += 1;
                }
                _ => {}
            }
        }
        runtime.block_on(check(&path, &accepted, &recorded));
    }
    assert!(accepted.len() > 50 && recorded.len() > 5, "hardly any load");
    println!(
        "{KILLS} kills, {} events, {} results, 0 lost",
        accepted.len(),
        recorded.len()
    );
}

/// The whole lines that the child wrote.
fn until_killed(path: &Path, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", NAME, "--nocapture"])
        .env(DATABASE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = Vec::new();
    let mut first = String::new();
    // It counts from the first answer: opening takes its own time.
    while !first.starts_with("accepted") {
        first.clear();
        assert_ne!(output.read_line(&mut first).expect("reads"), 0, "it ended");
    }
    lines.push(first.trim().to_owned());
    let reading = std::thread::spawn(move || {
        let mut lines = Vec::new();
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|length| length > 0) {
            if line.ends_with('\n') {
                lines.push(line.trim().to_owned());
            }
            line.clear();
        }
        lines
    });
    std::thread::sleep(after);
    child.kill().expect("killed");
    child.wait().expect("ended");
    lines.extend(reading.join().expect("read"));
    lines
}

/// Accepts, claims and records from several tasks, and says what was answered.
async fn write_for_ever(path: &Path) -> ! {
    let store = Arc::new(SqliteStore::open(path).await.expect("opens"));
    let ids = Arc::new(IdGenerator::default());
    let mut now = T0;
    if let Ok(page) = store.deliveries(&Default::default(), None, 1).await {
        // Identifiers of an earlier child are not given out again.
        now = page
            .items
            .first()
            .map_or(T0, |last| Timestamp(last.created_at.0 + 1_000_000));
    }
    for _ in 0..8 {
        tokio::spawn(accept_for_ever(store.clone(), ids.clone(), now));
    }
    let worker = ids.next(now, rand::random);
    loop {
        let request = ClaimRequest {
            worker,
            now,
            lease_until: now.plus(Duration::from_secs(60)),
            limit: 8,
            caps: Caps::new(),
        };
        for leased in store.claim(request).await.expect("claims").leased {
            let result = LeaseResult {
                id: leased.id,
                token: leased.token,
                attempt: Some(Attempt {
                    number: 0,
                    started_at: now,
                    latency: Duration::ZERO,
                    outcome: Outcome::Success,
                    http_status: Some(200),
                    provider_version: None,
                    message: String::new(),
                    logs: Vec::new(),
                }),
                transition: Transition::Success { external_id: None },
                job: leased.job,
                at: now,
                entry: None,
            };
            let written = store.record(result).await.expect("records");
            assert_eq!(written, Recorded::Written);
            println!("recorded {}", leased.id);
        }
        tokio::task::yield_now().await;
    }
}

async fn accept_for_ever(store: Arc<SqliteStore>, ids: Arc<IdGenerator>, now: Timestamp) {
    loop {
        let request = request(&store, &ids, now, "{}").await;
        let id = request.events[0].id;
        store.accept(request).await.expect("accepts");
        println!("accepted {id}");
    }
}

/// One event with one delivery.
async fn request(
    store: &SqliteStore,
    ids: &IdGenerator,
    now: Timestamp,
    payload: &str,
) -> AcceptRequest {
    let event = Event {
        id: ids.next(now, rand::random),
        event_type: EventTypeName::parse("a.b").expect("a name"),
        payload: payload.into(),
        occurred_at: now,
        received_at: now,
        correlation_key: None,
        system_ids: Vec::new(),
        trace: None,
    };
    let delivery = NewDelivery {
        id: ids.next(now, rand::random),
        event_id: event.id,
        subscription_id: ids.next(now, rand::random),
        provider: ProviderId::parse("webhook").expect("an id"),
        ordering_key: None,
        lease: None,
    };
    AcceptRequest {
        events: vec![Arc::new(event)],
        deliveries: vec![delivery],
        idempotency: None,
        epoch: store.epoch().await.expect("reads"),
        at: now,
        queued_for: None,
    }
}

/// Pages that the database may have from now on.
async fn limit(store: &SqliteStore, pages: u32) {
    let limited = store.writer.run(move |connection| {
        Box::pin(async move {
            let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            sqlx::query(limit).fetch_all(connection).await?;
            Ok(())
        })
    });
    limited.await.expect("set");
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&dir.path().join("full.db")).await;
    let store = store.expect("opens");
    let ids = IdGenerator::default();
    let filling = format!("{{\"filling\": \"{}\"}}", "x".repeat(3_000));
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        // Less than it has: it stays as it is, until the connection is made anew.
        limit(&store, 1).await;
        loop {
            let request = request(&store, &ids, T0, &filling).await;
            let id = request.events[0].id;
            match store.accept(request).await {
                Ok(_) => accepted.push(id),
                Err(StoreError::Full(_)) => {
                    refused.push(id);
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let request = request(&store, &ids, T0, &filling).await;
        accepted.push(request.events[0].id);
        store.accept(request).await.expect("there is room again");
    }
    for id in accepted {
        assert!(
            store.event(id).await.expect("reads").is_some(),
            "{id} was lost"
        );
    }
    for id in refused {
        assert!(
            store.event(id).await.expect("reads").is_none(),
            "{id} was refused"
        );
    }
}

async fn check(path: &Path, accepted: &[EventId], recorded: &BTreeMap<DeliveryId, usize>) {
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .expect("checks");
    assert_eq!(sound, "ok");
    let halves: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM events WHERE id NOT IN (SELECT event_id FROM deliveries)) \
         + (SELECT count(*) FROM deliveries WHERE event_id NOT IN (SELECT id FROM events))",
    )
    .fetch_one(&mut connection)
    .await
    .expect("counts");
    assert_eq!(halves, 0, "an event without its delivery, or the reverse");
    connection.close().await.expect("closes");
    let store = SqliteStore::open(path).await.expect("opens");
    for id in accepted {
        let event = store.event(*id).await.expect("reads");
        assert!(event.is_some(), "{id} was answered and lost");
    }
    for (id, times) in recorded {
        let attempts = store.attempts(*id).await.expect("reads").len();
        assert!(attempts >= *times, "{id}: {attempts} of {times} results");
        assert_eq!(attempts, 1, "{id} has one result");
    }
}
