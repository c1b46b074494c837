//! Slow and dead destinations, with the real binary, the real sandbox and real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

fn incident(n: usize) -> Value {
    json!({"type": "incident.created", "payload": {"n": n}})
}

fn path(subscription: &Value) -> String {
    format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    )
}

async fn circuit(api: &Api, subscription: &Value, state: &str) -> Value {
    let wanted = |found: &Value| found["circuit"]["state"] == state;
    api.until(&path(subscription), state, wanted).await
}

/// A receiver that answers 503 until it is told to work.
async fn switched() -> (Receiver, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let asked = up.clone();
    let receiver = Receiver::start(move |_, _| {
        if asked.load(Ordering::SeqCst) {
            Reply::ok()
        } else {
            Reply::status(503)
        }
    });
    (receiver.await, up)
}

fn numbers(receiver: &Receiver) -> Vec<u64> {
    let requests = receiver.requests();
    let mut numbers: Vec<u64> = requests
        .iter()
        .map(|request| request.json()["data"]["n"].as_u64().expect("a number"))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_destination_keeps_its_backlog_over_a_restart_and_recovers_by_itself() {
    let mut gateway = Gateway::start().await;
    let api = gateway.api();
    let (receiver, up) = switched().await;
    let (healthy, told) = (Receiver::ok().await, Receiver::ok().await);
    api.register("incident.created").await;
    let breaker = json!({
        "circuitBreaker": {"failures": 3, "probeAfterMs": 300, "probeAfterMsMax": 600},
        "retry": {"delaysMs": [100]},
    });
    let subscription = api
        .subscribe(&with(webhook("incident.created", &receiver.url()), breaker))
        .await;
    api.subscribe_webhook("incident.created", &healthy.url())
        .await;
    api.subscribe_webhook("hookport.destination.*", &told.url())
        .await;
    for n in 0..40 {
        api.emit(&incident(n)).await;
    }
    let open = circuit(&api, &subscription, "open").await;
    assert!(
        open["circuit"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("503")),
        "{open}"
    );
    let event = &told.wait_for(1).await[0].json();
    assert_eq!(event["type"], "hookport.destination.unavailable");
    assert_eq!(event["data"]["subscriptionId"], subscription["id"]);
    // The others go on.
    healthy.wait_for(40).await;

    gateway.kill();
    gateway.restart().await;
    let api = gateway.api();
    let shown = api.get(&path(&subscription)).await.expect(200);
    assert_ne!(shown["circuit"]["state"], "closed", "it is on record");
    assert_eq!(shown["circuit"]["since"], open["circuit"]["since"]);
    // Probes go on, and cost nobody the last attempt.
    let seen = receiver.requests().len();
    receiver.wait_for(seen + 3).await;
    up.store(true, Ordering::SeqCst);
    circuit(&api, &subscription, "closed").await;
    let delivered = |page: &Value| {
        let items = page["items"].as_array().expect("items");
        items.len() >= 38 && items.iter().all(|delivery| delivery["state"] == "success")
    };
    let id = subscription["id"].as_str().expect("an id");
    let backlog = format!("/deliveries?subscriptionId={id}&limit=200&state=success");
    let page = api.until(&backlog, "all delivered", delivered).await;
    let failed = format!("/deliveries?subscriptionId={id}&state=failed");
    let failed = api.get(&failed).await.expect(200);
    let failed = failed["items"].as_array().map_or(0, Vec::len);
    // Three failures open it, each of them somebody's last attempt at most once.
    assert!(failed <= 2, "{failed} of {page}");
    assert!(numbers(&receiver).len() >= 38);
    let events = told.wait_for(2).await;
    let last = events.last().expect("two").json();
    assert_eq!(last["type"], "hookport.destination.recovered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_nobody_listens_on_opens_the_circuit_and_a_new_url_closes_it() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}/", listener.local_addr().expect("an address"))
    };
    api.register("incident.created").await;
    let breaker = json!({
        "circuitBreaker": {"failures": 2, "probeAfterMs": 3_600_000, "probeAfterMsMax": 3_600_000},
        "retry": {"delaysMs": [100, 100, 100, 100]},
    });
    let body = with(webhook("incident.created", &dead), breaker.clone());
    let subscription = api.subscribe(&body).await;
    for n in 0..5 {
        api.emit(&incident(n)).await;
    }
    circuit(&api, &subscription, "open").await;
    let body = with(webhook("incident.created", &receiver.url()), breaker);
    let changed = api.put(&path(&subscription), &body).await.expect(200);
    assert_eq!(changed["circuit"]["state"], "closed");
    receiver.wait_for(5).await;
    assert_eq!(numbers(&receiver), [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_never_answers_in_time_opens_the_circuit() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let stalled = Receiver::start(|_, _| Reply::ok().after(Duration::from_secs(600))).await;
    api.register("incident.created").await;
    let changes = json!({
        "circuitBreaker": {"failures": 2, "probeAfterMs": 3_600_000, "probeAfterMsMax": 3_600_000},
        "timeoutMs": 300,
        "retry": {"delaysMs": [100, 100]},
    });
    let subscription = api
        .subscribe(&with(webhook("incident.created", &stalled.url()), changes))
        .await;
    api.emit(&incident(0)).await;
    circuit(&api, &subscription, "open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_holds_while_others_go_on_and_nothing_is_lost() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let (slow, fast) = (Receiver::ok().await, Receiver::ok().await);
    api.register("incident.created").await;
    let limit = json!({"rateLimit": {"perMinute": 1, "burst": 3}});
    let body = webhook("incident.created", &slow.url());
    let subscription = api.subscribe(&with(body.clone(), limit)).await;
    api.subscribe_webhook("incident.created", &fast.url()).await;
    for n in 0..30 {
        api.emit(&incident(n)).await;
    }
    fast.wait_for(30).await;
    slow.wait_for(3).await;
    assert_eq!(slow.settled().await.len(), 3, "the fourth is a minute away");
    api.put(&path(&subscription), &body).await.expect(200);
    slow.wait_for(30).await;
    assert_eq!(numbers(&slow), (0..30).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_concurrency_is_under_way_at_the_receiver() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let stalled = Receiver::start(|_, _| Reply::ok().after(Duration::from_secs(600))).await;
    api.register("incident.created").await;
    let limit = json!({"concurrency": 2});
    api.subscribe(&with(webhook("incident.created", &stalled.url()), limit))
        .await;
    for n in 0..10 {
        api.emit(&incident(n)).await;
    }
    stalled.wait_for(2).await;
    assert_eq!(stalled.settled().await.len(), 2);
}
