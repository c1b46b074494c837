//! Ending a process: not ready first, what is under way ended or given back, the listener last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup, component};
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

use crate::shared_store::{database, pair, setup};

/// A gateway whose file has these lines.
async fn configured(setup: Setup, lines: &str) -> Gateway {
    let mut gateway = Gateway::prepare(setup);
    configure(&mut gateway, lines);
    gateway.restart().await;
    gateway
}

fn configure(gateway: &mut Gateway, lines: &str) {
    let path = gateway.data_dir().with_file_name("hookport.toml");
    std::fs::write(&path, lines).expect("written");
    gateway.set_environment("HOOKPORT_CONFIG", &path.display().to_string());
}

fn event(number: usize) -> Value {
    json!({"type": "load.created", "payload": {"n": number}})
}

/// Emits until told to stop, and returns what was answered with 202.
async fn emitter(api: Api, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut accepted = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = api.request(reqwest::Method::POST, "/events");
        // The connection is refused once the listener is closed.
        match Api::try_send(request.json(&event(number))).await {
            Ok(answer) if answer.status == 202 => {
                let id = answer.json()["id"].as_str().expect("an id").to_owned();
                accepted.push(id);
            }
            Ok(answer) => panic!("{}: {}", answer.status, answer.text),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    accepted
}

/// The deliveries of events.
async fn deliveries(api: &Api, events: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for id in events {
        found.extend(api.delivery_ids(&json!({"id": id})).await);
    }
    found
}

async fn all_delivered(api: &Api, ids: &[String]) {
    for id in ids {
        let delivery = api.delivery_in(id, "success").await;
        assert_eq!(delivery["attempts"], 1, "a lost lease costs no attempt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_answers_what_it_took_and_leaves_no_lease() {
    let mut gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::start(|_, _| Reply::ok().after(Duration::from_millis(20))).await;
    api.register("load.created").await;
    api.subscribe_webhook("load.created", &receiver.url()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let emitters: Vec<_> = (0..8)
        .map(|_| tokio::spawn(emitter(gateway.api(), stop.clone())))
        .collect();
    receiver.wait_for(200).await;
    let status = gateway.terminate().await;
    assert!(status.success(), "{status}; log:\n{}", gateway.log());
    stop.store(true, Ordering::Relaxed);
    let mut accepted = Vec::new();
    for emitter in emitters {
        accepted.extend(emitter.await.expect("no answer but 202"));
    }
    assert!(accepted.len() >= 200);

    gateway.restart().await;
    let log = gateway.log();
    assert!(!log.contains("an earlier process left in flight"), "{log}");
    let ids = deliveries(&gateway.api(), &accepted).await;
    all_delivered(&gateway.api(), &ids).await;
    let requests = receiver.requests();
    let distinct: BTreeSet<&str> = requests
        .iter()
        .map(|sent| sent.header("webhook-id"))
        .collect();
    assert_eq!(distinct.len(), accepted.len());
    assert_eq!(requests.len(), accepted.len(), "nothing was made twice");
}

/// What cannot end in time goes to another process at once: not by its being missed, which takes
/// a while, and not by a start.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_taken_by_another_process() {
    let (_postgres, url) = database().await;
    let mut first = configured(setup(&url), "shutdown_timeout_ms = 300\n").await;
    let api = first.api();
    // The first request is never answered.
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::ok().after(Duration::from_secs(600)),
        _ => Reply::ok(),
    })
    .await;
    api.register("load.created").await;
    api.subscribe_webhook("load.created", &receiver.url()).await;
    let id = api.emit_one(&event(1)).await;
    receiver.wait_for(1).await;
    let mut second = Gateway::prepare(setup(&url));
    second.take_admin_key(&first.admin_key());
    second.restart().await;
    let status = first.terminate().await;
    assert!(status.success(), "{status}; log:\n{}", first.log());
    assert!(first.log().contains("due again"), "{}", first.log());
    all_delivered(&second.api(), &[id]).await;
    let log = second.log();
    assert!(!log.contains("has not been seen"), "{log}");
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_over_a_shared_store_loses_nothing() {
    let (_postgres, url) = database().await;
    let (mut first, second) = pair(&url).await;
    let api = second.api();
    let receiver = Receiver::start(|_, _| Reply::ok().after(Duration::from_millis(20))).await;
    api.register("load.created").await;
    api.subscribe_webhook("load.created", &receiver.url()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let emitters: Vec<_> = (0..8)
        .map(|number| {
            let to = if number % 2 == 0 {
                first.api()
            } else {
                second.api()
            };
            tokio::spawn(emitter(to, stop.clone()))
        })
        .collect();
    for _ in 0..3 {
        let seen = receiver.requests().len();
        receiver.wait_for(seen + 100).await;
        let status = first.terminate().await;
        assert!(status.success(), "{status}; log:\n{}", first.log());
        first.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut accepted = Vec::new();
    for emitter in emitters {
        accepted.extend(emitter.await.expect("no answer but 202"));
    }
    let ids = deliveries(&second.api(), &accepted).await;
    all_delivered(&second.api(), &ids).await;
    let log = second.log();
    assert!(
        !log.contains("has not been seen"),
        "no lease was left: {log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_goes_before_the_listener() {
    let lines = "shutdown_grace_ms = 5000\nshutdown_timeout_ms = 20000\n";
    let mut gateway = configured(Setup::default(), lines).await;
    let api = gateway.api();
    api.get("/readyz").await.expect(200);
    let asking = tokio::spawn(async move {
        // Until the listener is closed: what readiness and liveness said, and whether events went
        // on being accepted.
        let (mut unready, mut taken) = (0, 0);
        loop {
            let get = |path| Api::try_send(api.request(reqwest::Method::GET, path));
            let Ok(ready) = get("/readyz").await else {
                break;
            };
            if ready.status == 503 {
                let said = ready.json();
                assert_eq!(said["status"], "not_ready");
                unready += 1;
                let Ok(live) = get("/livez").await else { break };
                assert_eq!(live.status, 200, "it lives");
                let body = json!({"type": "hookport.delivery.recovered"});
                let post = api.request(reqwest::Method::POST, "/events").json(&body);
                let Ok(answer) = Api::try_send(post).await else {
                    break;
                };
                // An answer of the application's, whatever it thinks of this body.
                assert!(answer.status < 500, "{}", answer.text);
                taken += 1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (unready, taken)
    });
    assert!(gateway.terminate().await.success());
    let (unready, taken) = asking.await.expect("asked");
    assert!(unready > 0 && taken > 0, "{unready} {taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_and_still_gives_back() {
    let (_postgres, url) = database().await;
    // Longer than the test waits.
    let mut first = configured(setup(&url), "shutdown_timeout_ms = 600000\n").await;
    let api = first.api();
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::ok().after(Duration::from_secs(600)),
        _ => Reply::ok(),
    })
    .await;
    api.register("load.created").await;
    api.subscribe_webhook("load.created", &receiver.url()).await;
    let id = api.emit_one(&event(1)).await;
    receiver.wait_for(1).await;
    first.signal_termination();
    first.log_line("a second signal").await;
    let status = first.terminate().await;
    assert!(status.success(), "{status}; log:\n{}", first.log());

    let mut second = Gateway::prepare(setup(&url));
    second.take_admin_key(&first.admin_key());
    second.restart().await;
    all_delivered(&second.api(), &[id]).await;
    let log = second.log();
    assert!(!log.contains("has not been seen"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_its_own_readiness() {
    let (_postgres, url) = database().await;
    let mut worker = setup(&url);
    worker.providers.clear();
    worker
        .environment
        .push(("HOOKPORT_ROLE", "worker".to_owned()));
    let mut gateway = Gateway::prepare(worker);
    gateway.install(&component("webhook"), "webhook.wasm");
    gateway.restart().await;
    let api = gateway.api().with_key("");
    assert_eq!(api.get("/readyz").await.expect(200)["status"], "ready");
}
