//! From one master key to the next, while the gateway works, and with whatever is killed meanwhile.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::chaos::from_environment;
use crate::shared_store::database;

/// More than a few transactions' worth.
const SUBSCRIPTIONS: usize = 160;
const EVENT: &str = "incident.created";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    text(&output.stderr)
}

async fn run(gateway: &Gateway, arguments: &[&str]) -> Output {
    let mut command = gateway.command(arguments);
    command.env("HOOKPORT_PROVIDERS", gateway.providers_dir());
    tokio::task::spawn_blocking(move || command.output().expect("it runs"))
        .await
        .expect("it ends")
}

fn token(number: usize) -> String {
    format!("t0ken-{number}-of-its-own")
}

/// Subscriptions to `url`, each with a secret of its own.
async fn subscribe(api: &Api, url: &str, count: usize) -> Vec<Value> {
    api.register(EVENT).await;
    let mut made = Vec::with_capacity(count);
    for number in 0..count {
        let auth = json!({"config": {"auth": {"type": "bearer", "token": token(number)}}});
        made.push(api.subscribe(&with(webhook(EVENT, url), auth)).await);
    }
    made
}

/// Emits one event, and checks that each subscription's delivery came with its secret.
async fn all_secrets_open(api: &Api, receiver: &Receiver, count: usize) {
    let accepted = api.emit(&json!({"type": EVENT, "payload": {}})).await;
    for id in api.delivery_ids(&accepted).await {
        let delivery = api.delivery_in(&id, "success").await;
        assert_eq!(delivery["attempts"], 1, "{delivery}");
    }
    let requests = receiver.requests();
    let last = &requests[requests.len() - count..];
    let sent: BTreeSet<String> = last
        .iter()
        .map(|request| request.header("authorization").to_owned())
        .collect();
    let expected: BTreeSet<String> = (0..count)
        .map(|number| format!("Bearer {}", token(number)))
        .collect();
    assert_eq!(sent, expected);
}

/// The names of the keys that anything in the database is under, whichever table and column it is in.
async fn keys_on_record(gateway: &Gateway) -> BTreeSet<String> {
    let path = gateway.data_dir().join("hookport.db");
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut database = SqliteConnection::connect_with(&options)
        .await
        .expect("opens");
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'",
    )
    .fetch_all(&mut database)
    .await
    .expect("columns");
    assert!(columns.len() > 50, "{columns:?}");
    let mut keys = BTreeSet::new();
    for (table, column) in columns {
        let query = format!(
            "SELECT CAST(\"{column}\" AS TEXT) FROM \"{table}\" WHERE CAST(\"{column}\" AS TEXT) LIKE '%v1.________.%'"
        );
        let values: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(&mut database)
            .await
            .expect("values");
        for value in values {
            let found = value.split("v1.").skip(1);
            keys.extend(found.filter_map(|rest| Some(rest.split_once('.')?.0.to_owned())));
        }
    }
    keys
}

fn key_file(gateway: &Gateway) -> Vec<String> {
    let text = std::fs::read_to_string(gateway.data_dir().join("vault.key"));
    text.expect("the key file")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Emits until it is told to stop. Returns how many events were accepted.
fn load(api: Api, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut accepted = 0;
        while !stop.load(Ordering::SeqCst) {
            api.emit(&json!({"type": "load.tick", "payload": {"n": accepted}}))
                .await;
            accepted += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        accepted
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_under_load_and_every_sealed_place_follows() {
    let mut gateway = Gateway::start_with(Setup {
        providers: vec!["webhook", "slack", "acme"],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let (receiver, loaded) = (Receiver::ok().await, Receiver::ok().await);
    let subscriptions = subscribe(&api, &receiver.url(), SUBSCRIPTIONS).await;
    api.register("load.tick").await;
    let auth = json!({"config": {"auth": {"type": "bearer", "token": "the-token-of-the-load"}}});
    api.subscribe(&with(webhook("load.tick", &loaded.url()), auth))
        .await;
    let connection = json!({"name": "team", "provider": "slack",
        "settings": {"type": "bot", "token": "xoxb-some-token"}});
    api.post("/connections", &connection).await.expect(201);
    let source = json!({"name": "acme", "component": "acme", "config": {},
        "verification": {"scheme": "sharedToken", "header": "x-acme-token"},
        "secret": "a-secret-of-some-length"});
    api.post("/sources", &source).await.expect(201);
    let before = keys_on_record(&gateway).await;
    assert_eq!(before.len(), 1, "{before:?}");

    let stop = Arc::new(AtomicBool::new(false));
    let load = load(api.clone(), stop.clone());
    // Edits go on too: what they write has to be found again.
    let edited = subscriptions[0]["id"].as_str().expect("an id").to_owned();
    let editing = {
        let (api, stop) = (api.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                for act in ["pause", "resume"] {
                    api.act(&format!("/subscriptions/{edited}/{act}"))
                        .await
                        .expect(200);
                }
            }
        })
    };
    let old = key_file(&gateway);
    let told = succeeded(&run(&gateway, &["vault", "rotate"]).await);
    stop.store(true, Ordering::SeqCst);
    editing.await.expect("edited");
    let accepted = load.await.expect("emitted");
    let new = key_file(&gateway);
    assert!(new.len() == 1 && new != old, "{told}");

    let after = keys_on_record(&gateway).await;
    assert_eq!(after.len(), 1, "a sealed place was forgotten: {after:?}");
    assert_ne!(after, before);
    all_secrets_open(&api, &receiver, SUBSCRIPTIONS).await;
    let webhook = json!({"eventId": "e-1", "eventType": "pump.failed", "data": {"pump": 7}});
    let request = api
        .request(reqwest::Method::POST, "/webhooks/acme")
        .json(&webhook);
    Api::send(request.header("x-acme-token", "a-secret-of-some-length"))
        .await
        .expect(202);
    let sent = loaded.wait_for(accepted).await;
    assert!(
        sent.iter()
            .all(|sent| sent.header("authorization") == "Bearer the-token-of-the-load")
    );
    let last = subscriptions.last().expect("one");
    let path = format!("/subscriptions/{}", last["id"].as_str().expect("an id"));
    let found = api.get(&path).await.expect(200);
    assert_eq!(
        found["updatedAt"], last["updatedAt"],
        "nobody sees a change"
    );
    let trail = api.get("/audit?action=vault.*&limit=100").await.expect(200);
    let resealed: usize = trail["items"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| entry["after"]["documents"].as_array().map(Vec::len))
        .sum();
    assert!(resealed >= SUBSCRIPTIONS + 3, "{trail}");

    // Once more, while it is stopped; then it works with that key.
    gateway.terminate().await;
    succeeded(&run(&gateway, &["vault", "rotate"]).await);
    assert_ne!(key_file(&gateway), new);
    let doctor = text(&run(&gateway, &["doctor"]).await.stdout);
    assert!(doctor.contains("ok    secrets: "), "{doctor}");
    gateway.restart().await;
    all_secrets_open(&gateway.api(), &receiver, SUBSCRIPTIONS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_goes_on_and_loses_no_secret() {
    let seed = from_environment("HOOKPORT_CHAOS_SEED", 20_260_401);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut gateway = Gateway::start().await;
    let receiver = Receiver::ok().await;
    subscribe(&gateway.api(), &receiver.url(), SUBSCRIPTIONS).await;
    let mut interrupted = 0;
    for round in 0..6 {
        let before = key_file(&gateway);
        let mut command = gateway.command(&["vault", "rotate"]);
        let mut rotating = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it runs");
        // The gateway looks at the file every second, and takes some tenths of one for the rest.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1_600))).await;
        if round % 3 != 0 {
            gateway.kill();
        }
        if round % 3 != 1 {
            let _ = rotating.kill();
        }
        if round % 3 == 1 {
            // It finds the gateway gone, and does the work itself.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
            let _ = rotating.kill();
        }
        rotating.wait().expect("ended");
        interrupted += usize::from(key_file(&gateway).len() == 2);
        if !gateway.is_running() {
            gateway.restart().await;
        }
        all_secrets_open(&gateway.api(), &receiver, SUBSCRIPTIONS).await;
        succeeded(&run(&gateway, &["vault", "rotate"]).await);
        let after = key_file(&gateway);
        assert!(after.len() == 1 && after != before);
        assert_eq!(keys_on_record(&gateway).await.len(), 1);
    }
    println!("{interrupted} of 6 rotations were interrupted between their keys");
    assert!(
        interrupted > 0,
        "none was interrupted: the test shows nothing"
    );
    all_secrets_open(&gateway.api(), &receiver, SUBSCRIPTIONS).await;
    gateway.terminate().await;
    let doctor = text(&run(&gateway, &["doctor", "--audit"]).await.stdout);
    assert!(doctor.contains("ok    audit trail"), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_nothing_is_refused_with_what_to_do() {
    let mut gateway = Gateway::start().await;
    let receiver = Receiver::ok().await;
    subscribe(&gateway.api(), &receiver.url(), 2).await;
    gateway.terminate().await;
    let wrong = STANDARD.encode([9; 32]);
    gateway.set_environment("HOOKPORT_MASTER_KEY", &wrong);
    for arguments in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["vault", "rotate"],
    ] {
        let told = refused(&run(&gateway, arguments).await);
        assert!(told.contains("HOOKPORT_MASTER_KEY_OTHERS"), "{told}");
        assert!(!told.contains(&wrong), "{told}");
    }
    let doctor = text(&run(&gateway, &["doctor"]).await.stdout);
    assert!(doctor.contains("FAIL  secrets: 2 documents"), "{doctor}");
    // The old one beside it opens everything, and what it opens is sealed anew.
    gateway.set_environment("HOOKPORT_MASTER_KEY_OTHERS", &key_file(&gateway)[0]);
    gateway.restart().await;
    all_secrets_open(&gateway.api(), &receiver, 2).await;
    gateway.terminate().await;
    succeeded(&run(&gateway, &["vault", "rotate"]).await);
    gateway.set_environment("HOOKPORT_MASTER_KEY_OTHERS", "");
    gateway.restart().await;
    all_secrets_open(&gateway.api(), &receiver, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_share_a_store_go_over_one_by_one() {
    let (_postgres, url) = database().await;
    let [old, new] = [1_u8, 2].map(|byte| STANDARD.encode([byte; 32]));
    let setup = Setup {
        environment: vec![
            ("HOOKPORT_STORE_URL", url),
            ("HOOKPORT_MASTER_KEY", old.clone()),
        ],
        ..Setup::default()
    };
    let mut first = Gateway::start_with(setup.clone()).await;
    let mut second = Gateway::prepare(setup);
    second.take_admin_key(&first.admin_key());
    second.restart().await;
    let receiver = Receiver::ok().await;
    subscribe(&first.api(), &receiver.url(), SUBSCRIPTIONS).await;

    // Neither knows the new key.
    let with_keys = |gateway: &Gateway| {
        let mut command = gateway.command(&["vault", "rotate"]);
        command.env("HOOKPORT_MASTER_KEY", &new);
        command.env("HOOKPORT_MASTER_KEY_OTHERS", &old);
        command.output().expect("it runs")
    };
    let told = refused(&with_keys(&first));
    assert!(told.contains("does not know the key"), "{told}");
    for gateway in [&mut first, &mut second] {
        gateway.terminate().await;
        gateway.set_environment("HOOKPORT_MASTER_KEY_OTHERS", &new);
        gateway.restart().await;
        all_secrets_open(&gateway.api(), &receiver, SUBSCRIPTIONS).await;
    }
    // One seals with the new key, the other one still with the old one: each opens both.
    first.terminate().await;
    first.set_environment("HOOKPORT_MASTER_KEY", &new);
    first.set_environment("HOOKPORT_MASTER_KEY_OTHERS", &old);
    first.restart().await;
    first.api().register("other.kind").await;
    let auth = json!({"config": {"auth": {"type": "bearer", "token": "under-the-new-key"}}});
    let other = with(webhook("other.kind", &receiver.url()), auth);
    first.api().subscribe(&other).await;
    for gateway in [&first, &second] {
        let api = gateway.api();
        let id = api
            .emit_one(&json!({"type": "other.kind", "payload": {}}))
            .await;
        api.delivery_in(&id, "success").await;
        all_secrets_open(&api, &receiver, SUBSCRIPTIONS).await;
    }
    let told = loop {
        // The process before it is seen for some seconds more.
        let told = refused(&with_keys(&second));
        if !told.contains("does not know the key") {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(told.contains("still seals with"), "{told}");
    second.terminate().await;
    second.set_environment("HOOKPORT_MASTER_KEY", &new);
    second.set_environment("HOOKPORT_MASTER_KEY_OTHERS", &old);
    second.restart().await;
    let told = loop {
        let output = with_keys(&second);
        if output.status.success() {
            break text(&output.stdout);
        }
        let told = refused(&output);
        assert!(told.contains("still seals with"), "{told}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(
        told.contains(&format!("{SUBSCRIPTIONS} documents were sealed anew")),
        "{told}"
    );
    assert!(succeeded(&with_keys(&first)).contains("is not needed any more"));
    for gateway in [&mut first, &mut second] {
        gateway.terminate().await;
        gateway.set_environment("HOOKPORT_MASTER_KEY_OTHERS", "");
        gateway.restart().await;
        all_secrets_open(&gateway.api(), &receiver, SUBSCRIPTIONS).await;
    }
    let doctor = text(&run(&first, &["doctor", "--audit"]).await.stdout);
    assert!(
        doctor.contains(&format!("ok    secrets: {} documents", SUBSCRIPTIONS + 1)),
        "{doctor}"
    );
    assert!(doctor.contains("ok    audit trail"), "{doctor}");
}
