//! Several processes over one PostgreSQL.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hookport_test_servers::Postgres;
use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::chaos::{
    ATTEMPTS_MAX, EMITTERS, Sent, all_ended, check, emitter, from_environment, receiver_script,
};

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

/// Two gateways over one database.
pub(super) async fn pair(url: &str) -> (Gateway, Gateway) {
    let first = Gateway::start_with(setup(url)).await;
    let mut second = Gateway::prepare(setup(url));
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
    let with_role = |role: &str| {
        let mut setup = setup(&url);
        setup.environment.push(("HOOKPORT_ROLE", role.to_owned()));
        setup
    };
    let first = Gateway::start_with(with_role("api")).await;
    let api = first.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = api.emit_one(&event(1)).await;
    assert_eq!(receiver.settled().await.len(), 0, "nobody delivers yet");

    let mut setup = with_role("worker");
    // Its API shows no providers to wait for.
    setup.providers.clear();
    let mut second = Gateway::prepare(setup);
    second.take_admin_key(&first.admin_key());
    second.install(
        &hookport_tests::gateway::component("webhook"),
        "webhook.wasm",
    );
    second.restart().await;
    api.delivery_in(&id, "success").await;
    assert_eq!(receiver.requests().len(), 1);
    second.api().get("/health").await.expect(200);
    second.api().get("/events").await.expect(404);
    let metrics = second.api().get("/metrics").await;
    assert!(
        metrics
            .text
            .contains("hookport_deliveries_ended_total{state=\"Success\"} 1")
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
}

/// As `chaos`, over a shared store: processes are killed one at a time and both at once, and the
/// database crashes.
#[tokio::test(flavor = "multi_thread")]
async fn killing_processes_and_the_database_loses_and_invents_nothing() {
    let seed = from_environment("HOOKPORT_CHAOS_SEED", rand::random());
    let faults = from_environment("HOOKPORT_CHAOS_KILLS", 8);
    println!("HOOKPORT_CHAOS_SEED={seed} HOOKPORT_CHAOS_KILLS={faults}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut postgres, url) = database().await;
    let receiver = Receiver::start(receiver_script(seed)).await;
    let (mut first, mut second) = pair(&url).await;
    let api = first.api();
    api.register("chaos.event").await;
    let retry = json!({"retry": {"delaysMs": vec![20; ATTEMPTS_MAX as usize - 1]}, "circuitBreaker": {"enabled": false}});
    api.subscribe(&with(webhook("chaos.event", &receiver.url()), retry))
        .await;

    let sent = Arc::new(Sent::default());
    let (tell_first, to_first) = watch::channel(Some(first.api()));
    let (tell_second, to_second) = watch::channel(Some(second.api()));
    let emitters: Vec<_> = (0..EMITTERS)
        .map(|number| {
            let to = if number % 2 == 0 {
                &to_first
            } else {
                &to_second
            };
            tokio::spawn(emitter(sent.clone(), to.clone()))
        })
        .collect();
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let fault = match rng.random_range(0..4) {
            0 => Fault::KillFirst,
            1 => Fault::KillSecond,
            2 => Fault::KillBoth,
            _ => Fault::CrashDatabase,
        };
        println!("{fault:?}");
        let (kill_first, kill_second) = match fault {
            Fault::KillFirst => (true, false),
            Fault::KillSecond => (false, true),
            Fault::KillBoth => (true, true),
            Fault::CrashDatabase => (false, false),
        };
        if matches!(fault, Fault::CrashDatabase) {
            postgres = tokio::task::spawn_blocking(move || {
                postgres.crash();
                std::thread::sleep(Duration::from_millis(300));
                postgres.restart();
                postgres
            })
            .await
            .expect("restarted");
        }
        for (kill, gateway, tell) in [
            (kill_first, &mut first, &tell_first),
            (kill_second, &mut second, &tell_second),
        ] {
            if kill {
                gateway.kill();
                tell.send_replace(None);
            }
        }
        for (gateway, tell) in [(&mut first, &tell_first), (&mut second, &tell_second)] {
            if !gateway.is_running() {
                gateway.restart().await;
                tell.send_replace(Some(gateway.api()));
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    sent.stop.store(true, Ordering::Relaxed);
    for emitter in emitters {
        emitter.await.expect("an emitter");
    }
    let accepted = sent
        .accepted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let deliveries = all_ended(&first.api()).await;
    let history = receiver.requests();
    let sent_up_to = sent.next.load(Ordering::Relaxed);
    let duplicates = check(&accepted, sent_up_to, &history, &deliveries);
    println!(
        "{faults} faults, {} events accepted, {} deliveries, {} requests, {duplicates} of them duplicates",
        accepted.len(),
        deliveries.len(),
        history.len()
    );
    assert!(accepted.len() as u64 > faults * 5, "hardly any load");
}
