//! Several processes over one PostgreSQL.

use std::collections::BTreeSet;
use std::time::Duration;

use hookport_test_servers::Postgres;
use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::chaos::{Load, seed_and_faults};

/// 32 bytes in base64: all processes share it.
const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(super) fn setup(url: &str) -> Setup {
    Setup {
        environment: vec![
            ("HOOKPORT_STORE_URL", url.to_owned()),
            ("HOOKPORT_MASTER_KEY", MASTER_KEY.to_owned()),
        ],
        ..Setup::default()
    }
}

pub(super) fn with_role(url: &str, role: &str) -> Setup {
    let mut setup = setup(url);
    setup.environment.push(("HOOKPORT_ROLE", role.to_owned()));
    setup
}

/// A process that delivers and has no API of its own.
pub(super) async fn worker_beside(first: &Gateway, url: &str) -> Gateway {
    let mut setup = with_role(url, "worker");
    // Its API shows no providers to wait for.
    setup.providers.clear();
    let mut worker = Gateway::prepare(setup);
    worker.take_admin_key(&first.admin_key());
    worker.install(
        &hookport_tests::gateway::component("webhook"),
        "webhook.wasm",
    );
    worker.restart().await;
    worker
}

/// Two gateways over one database.
pub(super) async fn pair(url: &str) -> (Gateway, Gateway) {
    pair_with(url, |setup| setup).await
}

/// The same, set up further.
pub(super) async fn pair_with(url: &str, further: impl Fn(Setup) -> Setup) -> (Gateway, Gateway) {
    let first = Gateway::start_with(further(setup(url))).await;
    let mut second = Gateway::prepare(further(setup(url)));
    second.take_admin_key(&first.admin_key());
    second.restart().await;
    (first, second)
}

pub(super) async fn database() -> (Postgres, String) {
    tokio::task::spawn_blocking(|| {
        let postgres = Postgres::start();
        let url = postgres.database();
        (postgres, url)
    })
    .await
    .expect("a database")
}

fn event(number: usize) -> Value {
    json!({"type": "incident.created", "payload": {"n": number}})
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_catalogue_and_work() {
    let (_postgres, url) = database().await;
    let (first, second) = pair(&url).await;
    let receiver = Receiver::ok().await;
    let token = "tok-77-opened-by-either-process";
    first.api().register("incident.created").await;
    let changes = json!({"config": {"auth": {"type": "bearer", "token": token}}});
    let body = with(webhook("incident.created", &receiver.url()), changes);
    first.api().subscribe(&body).await;

    let mut ids = Vec::new();
    for number in 0..100 {
        let api = if number % 2 == 0 {
            first.api()
        } else {
            second.api()
        };
        ids.push(api.emit_one(&event(number)).await);
    }
    for id in &ids {
        let delivery = second.api().delivery_in(id, "success").await;
        assert_eq!(delivery["attempts"], 1);
    }
    let requests = receiver.requests();
    let distinct: BTreeSet<&str> = requests
        .iter()
        .map(|sent| sent.header("webhook-id"))
        .collect();
    assert_eq!((requests.len(), distinct.len()), (100, 100));
    let bearer = format!("Bearer {token}");
    assert!(
        requests
            .iter()
            .all(|sent| sent.header("authorization") == bearer)
    );
    // An idempotency key holds across processes, also when both get it at once.
    let keyed = |api: hookport_tests::api::Api| async move {
        let request = api.request(reqwest::Method::POST, "/events");
        let request = request
            .header("idempotency-key", "once")
            .json(&event(1_000));
        let answer = hookport_tests::api::Api::send(request).await;
        assert!([200, 202].contains(&answer.status), "{}", answer.text);
        answer.json()["id"].clone()
    };
    let answers = futures_util::future::join_all((0..40).map(|number| {
        keyed(if number % 2 == 0 {
            first.api()
        } else {
            second.api()
        })
    }))
    .await;
    assert!(answers.iter().all(|id| *id == answers[0]), "{answers:?}");
    for gateway in [&first, &second] {
        assert!(
            !gateway.log().contains("pass-of-the-database"),
            "the log has the password"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_in_flight_is_delivered_by_another() {
    let (_postgres, url) = database().await;
    let (mut first, mut second) = pair(&url).await;
    second.kill();
    // The first request is never answered.
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::ok().after(Duration::from_secs(600)),
        _ => Reply::ok(),
    })
    .await;
    first.api().register("incident.created").await;
    first
        .api()
        .subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = first.api().emit_one(&event(1)).await;
    receiver.wait_for(1).await;
    first.kill();
    second.restart().await;
    let delivery = second.api().delivery_in(&id, "success").await;
    assert_eq!(delivery["attempts"], 1, "a lost lease costs no attempt");
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        requests[0].header("webhook-id"),
        requests[1].header("webhook-id")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_accepts_and_another_delivers() {
    let (_postgres, url) = database().await;
    let first = Gateway::start_with(with_role(&url, "api")).await;
    let api = first.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = api.emit_one(&event(1)).await;
    assert_eq!(receiver.settled().await.len(), 0, "nobody delivers yet");

    let second = worker_beside(&first, &url).await;
    api.delivery_in(&id, "success").await;
    assert_eq!(receiver.requests().len(), 1);
    second.api().get("/health").await.expect(200);
    second.api().get("/events").await.expect(404);
    let metrics = second.api().get("/metrics").await;
    assert!(
        metrics
            .text
            .contains("hookport_deliveries_ended_total{state=\"success\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_store_wants_the_key_that_all_processes_share() {
    let (_postgres, url) = database().await;
    let mut setup = setup(&url);
    setup
        .environment
        .retain(|(name, _)| *name != "HOOKPORT_MASTER_KEY");
    let gateway = Gateway::prepare(setup);
    let output = gateway
        .command(&["serve", "--listen", "127.0.0.1:0"])
        .output()
        .expect("runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("HOOKPORT_MASTER_KEY"), "{said}");
    assert!(!said.contains("pass-of-the-database"), "{said}");
}

#[derive(Debug)]
enum Fault {
    KillFirst,
    KillSecond,
    KillBoth,
    CrashDatabase,
    StopDatabase,
}

/// As `chaos`, over a shared store: processes are killed one at a time and both at once, and the
/// database crashes, or is stopped in order and started again.
#[tokio::test(flavor = "multi_thread")]
async fn killing_processes_and_the_database_loses_and_invents_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(8);
    let (mut postgres, url) = database().await;
    let (mut first, mut second) = pair(&url).await;
    let load = Load::begin(seed, vec![first.api(), second.api()]).await;
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let fault = match rng.random_range(0..5) {
            0 => Fault::KillFirst,
            1 => Fault::KillSecond,
            2 => Fault::KillBoth,
            3 => Fault::CrashDatabase,
            _ => Fault::StopDatabase,
        };
        println!("{fault:?}");
        if matches!(fault, Fault::CrashDatabase | Fault::StopDatabase) {
            postgres = tokio::task::spawn_blocking(move || {
                match fault {
                    Fault::StopDatabase => postgres.stop(),
                    _ => postgres.crash(),
                }
                std::thread::sleep(Duration::from_millis(300));
                postgres.restart();
                postgres
            })
            .await
            .expect("restarted");
            continue;
        }
        let killed = match fault {
            Fault::KillFirst => [true, false],
            Fault::KillSecond => [false, true],
            _ => [true, true],
        };
        kill_and_restart(&load, [&mut first, &mut second], killed).await;
    }
    load.end(
        "kill -9 of processes, crash and stop of PostgreSQL",
        faults,
        &first,
    )
    .await;
}

/// Kills some of the gateways at once, and starts them again.
pub(super) async fn kill_and_restart<const N: usize>(
    load: &Load,
    gateways: [&mut Gateway; N],
    killed: [bool; N],
) {
    let mut gateways = gateways;
    for (index, gateway) in gateways.iter_mut().enumerate() {
        if killed[index] {
            gateway.kill();
            load.aim(index, None);
        }
    }
    for (index, gateway) in gateways.iter_mut().enumerate() {
        if killed[index] {
            gateway.restart().await;
            load.aim(index, Some(gateway.api()));
        }
    }
}
