//! Faults other than a kill, under load, with the checker of `chaos` afterwards: processes and the
//! database stand still and go on, connections break in the middle of a frame, answers are lost,
//! the disk is full.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hookport_test_servers::Postgres;
use hookport_test_servers::proxy::{Fault, Proxy};
use hookport_tests::PATIENCE;
use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::chaos::{Load, from_environment, seed_and_faults};
use crate::shared_store::{database, kill_and_restart, pair, setup, with_role, worker_beside};

/// A process that was not seen for so long has lost its leases (15 s), and a look of another one.
const TAKEN_FOR_DEAD: Duration = Duration::from_secs(18);

async fn sleep_ms(rng: &mut StdRng, range_ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(range_ms))).await;
}

/// The zombie: it comes back with a result that another process has recorded meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_taken_for_dead_records_nothing() {
    let (_postgres, url) = database().await;
    let (first, mut second) = pair(&url).await;
    second.kill();
    // The first request is answered while its process stands still.
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::status(503).after(Duration::from_secs(5)),
        _ => Reply::ok(),
    })
    .await;
    let api = first.api();
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let event = json!({"type": "incident.created", "payload": {}});
    let id = api.emit_one(&event).await;
    receiver.wait_for(1).await;
    first.freeze();
    second.restart().await;
    let delivery = second.api().delivery_in(&id, "success").await;
    first.thaw();
    first.log_line("the lease was lost").await;
    assert_eq!(delivery["attempts"], 1, "a lost lease costs no attempt");
    let path = format!("/deliveries/{}", delivery["id"].as_str().expect("an id"));
    let after = first.api().get(&path).await.expect(200);
    assert_eq!(after["state"], "success");
    assert_eq!(after["attempts"], 1, "{after}");
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        requests[0].header("webhook-id"),
        requests[1].header("webhook-id")
    );
}

/// Longer than it takes to be taken for dead, while the other one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn freezing_processes_past_their_leases_loses_and_invents_nothing() {
    let (mut rng, seed, freezes) = seed_and_faults(1);
    let (_postgres, url) = database().await;
    let (first, second) = pair(&url).await;
    let load = Load::begin(seed, vec![first.api(), second.api()]).await;
    for _ in 0..freezes {
        sleep_ms(&mut rng, 50..900).await;
        let frozen = if rng.random_bool(0.5) {
            &first
        } else {
            &second
        };
        frozen.freeze();
        tokio::time::sleep(TAKEN_FOR_DEAD).await;
        sleep_ms(&mut rng, 0..2_000).await;
        frozen.thaw();
    }
    load.end("SIGSTOP of a process for 18 s", freezes, &first)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn freezing_the_database_loses_and_invents_nothing() {
    let (mut rng, seed, freezes) = seed_and_faults(3);
    let (postgres, url) = database().await;
    let (first, second) = pair(&url).await;
    let load = Load::begin(seed, vec![first.api(), second.api()]).await;
    for _ in 0..freezes {
        sleep_ms(&mut rng, 50..900).await;
        postgres.freeze();
        sleep_ms(&mut rng, 300..5_000).await;
        postgres.thaw();
    }
    load.end("SIGSTOP of PostgreSQL", freezes, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn breaking_connections_to_the_database_loses_and_invents_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(10);
    let (postgres, url) = database().await;
    let proxy = Proxy::before(postgres.port()).await;
    let url = url.replace(
        &format!(":{}/", postgres.port()),
        &format!(":{}/", proxy.port()),
    );
    let (first, second) = pair(&url).await;
    let load = Load::begin(seed, vec![first.api(), second.api()]).await;
    for _ in 0..faults {
        sleep_ms(&mut rng, 50..900).await;
        let fault = match rng.random_range(0..10) {
            0 | 1 => Fault::CutAfter(rng.random_range(1..20_000)),
            2 => Fault::Delay(Duration::from_millis(rng.random_range(1..150))),
            3 => Fault::BlackHole,
            4 => Fault::HalfClose,
            5 => Fault::Refuse,
            _ => Fault::DropCommitAnswers,
        };
        println!("{fault:?}");
        proxy.set(fault);
        sleep_ms(&mut rng, 100..2_000).await;
        proxy.set(Fault::None);
    }
    let (cut, swallowed) = proxy.counts();
    println!("{cut} connections cut, {swallowed} answers to COMMIT swallowed");
    load.end(
        "connections to PostgreSQL cut in a frame, half closed, slow, silent, refused, and without the answer to COMMIT",
        faults,
        &first,
    )
    .await;
    assert!(cut > 0, "no fault struck");
}

/// A connection falls silent and never ends, as when a firewall has forgotten it: whoever writes
/// over it gives it up, and goes on over another.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_to_the_database_is_given_up() {
    let (postgres, url) = database().await;
    let proxy = Proxy::before(postgres.port()).await;
    let direct = format!(":{}/", postgres.port());
    let setup = setup(&url.replace(&direct, &format!(":{}/", proxy.port())));
    let gateway = Gateway::start_with(setup).await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let event = json!({"type": "incident.created", "payload": {}});
    let id = api.emit_one(&event).await;
    api.delivery_in(&id, "success").await;
    proxy.set(Fault::Silence);
    let started = Instant::now();
    loop {
        let request = api.request(Method::POST, "/events").json(&event);
        let answer = Api::try_send(request.header("idempotency-key", "silence")).await;
        if answer.is_ok_and(|answer| matches!(answer.status, 200 | 202)) {
            break;
        }
        assert!(started.elapsed() < 4 * PATIENCE, "it is never accepted");
    }
    receiver.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_processes_of_each_role_loses_and_invents_nothing() {
    let (mut rng, seed, kills) = seed_and_faults(6);
    let (_postgres, url) = database().await;
    let mut first = Gateway::start_with(with_role(&url, "api")).await;
    let mut second = worker_beside(&first, &url).await;
    let mut third = worker_beside(&first, &url).await;
    let load = Load::begin(seed, vec![first.api()]).await;
    for _ in 0..kills {
        sleep_ms(&mut rng, 50..900).await;
        match rng.random_range(0..4) {
            0 => kill_and_restart(&load, [&mut first], [true]).await,
            1 => restart(&mut second).await,
            2 => {
                second.kill();
                restart(&mut third).await;
                second.restart().await;
            }
            _ => {
                second.kill();
                third.kill();
                kill_and_restart(&load, [&mut first], [true]).await;
                second.restart().await;
                third.restart().await;
            }
        }
    }
    load.end(
        "kill -9 of an API process, of workers, of all",
        kills,
        &first,
    )
    .await;
}

async fn restart(gateway: &mut Gateway) {
    gateway.kill();
    gateway.restart().await;
}

/// What `POST /events` answers, with the text of a problem.
async fn emit(api: &Api, number: u64) -> (u16, String) {
    let filling = "x".repeat(4_000);
    let event = json!({"type": "chaos.event", "payload": {"number": number, "filling": filling}});
    let request = api.request(Method::POST, "/events").json(&event);
    let answer = Api::send(request).await;
    (answer.status, answer.text)
}

/// The embedded database's disk is full, and has room again: nothing that was answered 202 is
/// lost, whoever emits is told why, and nobody has to restart anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_events_and_loses_none() {
    let rounds = from_environment("HOOKPORT_CHAOS_KILLS", 3);
    let gateway = Gateway::start_with(Setup {
        disk_mib: Some(48),
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("chaos.event").await;
    api.subscribe_webhook("chaos.event", &receiver.url()).await;
    let (mut accepted, mut refused, mut number) = (0, 0, 0);
    for _ in 0..rounds {
        gateway.fill_disk();
        // What the database's files still have room for is taken.
        let mut in_a_row = 0;
        while in_a_row < 10 {
            number += 1;
            assert!(number < 100_000, "the disk does not get full");
            match emit(&api, number).await {
                (202, _) => {
                    accepted += 1;
                    in_a_row = 0;
                }
                (507, text) => {
                    assert!(text.contains("storage_full"), "{text}");
                    assert!(text.contains("disk"), "{text}");
                    refused += 1;
                    in_a_row += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        gateway.empty_disk();
        for _ in 0..20 {
            number += 1;
            let answer = emit(&api, number).await;
            assert_eq!(answer.0, 202, "it goes on by itself: {}", answer.1);
            accepted += 1;
        }
    }
    let deliveries = crate::chaos::all_ended(&api).await;
    assert_eq!(deliveries.len(), accepted);
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery["state"] == "success")
    );
    let requests = receiver.requests();
    let received: BTreeSet<_> = requests
        .iter()
        .map(|sent| sent.header("webhook-id"))
        .collect();
    assert_eq!(received.len(), accepted);
    println!(
        "full disk: {rounds} faults, {accepted} events accepted, {refused} refused, {} requests, {} of them duplicates, 0 lost",
        requests.len(),
        requests.len() - received.len()
    );
}

/// What was emitted while a disk was full and was not.
#[derive(Default)]
struct Emitted {
    number: u64,
    accepted: BTreeSet<String>,
    refused_with_507: u32,
    refused_with_503: u32,
}

impl Emitted {
    /// Whether the next one was accepted.
    async fn one(&mut self, api: &Api) -> bool {
        self.number += 1;
        assert!(self.number < 100_000, "the disk does not get full");
        match emit(api, self.number).await {
            (202, text) => {
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                let id = answer["id"].as_str().expect("an id");
                self.accepted.insert(id.to_owned());
                return true;
            }
            (507, text) => {
                assert!(text.contains("storage_full"), "{text}");
                self.refused_with_507 += 1;
            }
            // The database is down, or on its way.
            (503, _) => self.refused_with_503 += 1,
            other => panic!("{other:?}"),
        }
        false
    }
}

/// PostgreSQL's disk is full: it refuses, and ends when it cannot even write its log. Once there is
/// room and it runs, everything goes on; nothing that was answered 202 is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_postgresql_loses_nothing() {
    let rounds = from_environment("HOOKPORT_CHAOS_KILLS", 2);
    let started = tokio::task::spawn_blocking(|| Postgres::start_on_disk(256));
    let mut postgres = started.await.expect("a server");
    let url = postgres.database();
    let (first, second) = pair(&url).await;
    let (api, other) = (first.api(), second.api());
    let receiver = Receiver::ok().await;
    api.register("chaos.event").await;
    api.subscribe_webhook("chaos.event", &receiver.url()).await;
    let (mut emitted, mut ends) = (Emitted::default(), 0);
    for round in 0..rounds {
        postgres.fill_disk();
        if round % 2 == 0 {
            use_up_log(&url).await;
        }
        let mut in_a_row = 0;
        while in_a_row < 10 {
            let is_taken = emitted.one(&api).await | emitted.one(&other).await;
            in_a_row = if is_taken { 0 } else { in_a_row + 2 };
        }
        postgres.empty_disk();
        let room_since = Instant::now();
        let mut taken = 0;
        while taken < 20 {
            if emitted.one(&api).await {
                taken += 1;
            } else if postgres.has_ended() {
                ends += 1;
                let restarted = tokio::task::spawn_blocking(move || {
                    postgres.restart();
                    postgres
                });
                postgres = restarted.await.expect("it starts");
            } else {
                assert!(room_since.elapsed() < PATIENCE, "it does not go on");
            }
        }
    }
    let deliveries = crate::chaos::all_ended(&api).await;
    let succeeded: BTreeSet<_> = deliveries
        .iter()
        .filter(|delivery| delivery["state"] == "success")
        .filter_map(|delivery| delivery["eventId"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(succeeded.len(), deliveries.len(), "each event has one");
    // An answer may have been lost on its way out: more may be there than were answered.
    assert!(emitted.accepted.is_subset(&succeeded), "an event is lost");
    let requests = receiver.requests();
    let received: BTreeSet<_> = requests
        .iter()
        .map(|sent| sent.header("webhook-id"))
        .collect();
    assert_eq!(received.len(), deliveries.len());
    println!(
        "full disk under PostgreSQL: {rounds} faults, {ends} ends of the server, {} events accepted, {} refused with 507 and {} with 503, {} requests, {} of them duplicates, 0 lost",
        emitted.accepted.len(),
        emitted.refused_with_507,
        emitted.refused_with_503,
        requests.len(),
        requests.len() - received.len()
    );
}

/// Begins new segments of PostgreSQL's log until there is no room for one, which ends it.
async fn use_up_log(url: &str) {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let next = "SELECT pg_create_restore_point('full'); SELECT pg_switch_wal()";
    for _ in 0..100 {
        if connection.execute(next).await.is_err() {
            return;
        }
    }
    panic!("there is always room for a segment");
}
