//! What is on record of work done: dead letters, jobs, and how long all of it is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

/// Refuses until it is told otherwise.
async fn switched() -> (Receiver, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let receiver = Receiver::start(move |_, _| {
        if is_up.load(Ordering::SeqCst) {
            Reply::ok()
        } else {
            Reply::status(400)
        }
    })
    .await;
    (receiver, up)
}

fn never_again() -> Value {
    json!({"retry": {"delaysMs": []}, "circuitBreaker": {"enabled": false}})
}

/// The ids of everything that is listed, by following `next`.
async fn walk(api: &Api, path: &str) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{path}{cursor}")).await.expect(200);
        let items = page["items"].as_array().expect("items");
        ids.extend(
            items
                .iter()
                .map(|item| item["id"].as_str().expect("an id").to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

async fn run_ended(api: &Api, begun: &Value) -> Value {
    let path = format!("/dead-letter-runs/{}", begun["id"].as_str().expect("an id"));
    api.until(&path, "the end of the run", |run| {
        let open = ["pending", "retrying", "in_flight"];
        run["state"] == "done" && open.iter().all(|state| run["outcomes"][state].is_null())
    })
    .await
}

/// Dead letters of two types, of which one is discarded alone, one requeued alone, all of the one
/// type discarded in bulk, and the others requeued in bulk once the receiver is back.
async fn dead_letters(gateway: &Gateway) {
    let api = gateway.api();
    let (receiver, up) = switched().await;
    api.register("incident.created").await;
    api.register("incident.resolved").await;
    let body = with(webhook("incident.*", &receiver.url()), never_again());
    let subscription = api.subscribe(&body).await;
    let id = |value: &Value| value.as_str().expect("an id").to_owned();
    let mut deliveries = Vec::new();
    for n in 0..30 {
        let kind = if n % 3 == 0 { "resolved" } else { "created" };
        let event = json!({"type": format!("incident.{kind}"), "payload": {"n": n}, "correlationKey": format!("key-{n}")});
        deliveries.push(api.emit_one(&event).await);
    }
    for delivery in &deliveries {
        api.delivery_in(delivery, "failed").await;
    }
    let mut sorted = deliveries.clone();
    sorted.sort();
    let mut listed = walk(&api, "/dead-letters?limit=7").await;
    listed.sort();
    assert_eq!(listed, sorted);
    let subscription = id(&subscription["id"]);
    let count = async |query: &str| walk(&api, &format!("/dead-letters?{query}")).await.len();
    assert_eq!(count("eventType=incident.resolved").await, 10);
    assert_eq!(count("correlationKey=key-4").await, 1);
    assert_eq!(count("outcome=provider_error&provider=webhook").await, 30);
    assert_eq!(count("outcome=trap").await, 0);
    assert_eq!(
        count(&format!(
            "subscriptionId={subscription}&until=2020-01-01T00:00:00Z"
        ))
        .await,
        0
    );
    let detail = api
        .get(&format!("/dead-letters/{}", deliveries[4]))
        .await
        .expect(200);
    assert_eq!(detail["event"]["payload"], json!({"n": 4}));
    assert_eq!(detail["attemptLog"][0]["httpStatus"], 400);
    let error = detail["lastError"].as_str().expect("an error");
    let prefix = error.split(' ').next().expect("a word");
    assert_eq!(count(&format!("errorPrefix={prefix}")).await, 30);

    // One alone is discarded, and stays so.
    let one = format!("/dead-letters/{}", deliveries[0]);
    let why = json!({"reason": "a test of theirs", "requestedBy": "Kim"});
    api.post(&format!("{one}/discard"), &json!({"reason": " "}))
        .await
        .expect(400);
    let discarded = api.post(&format!("{one}/discard"), &why).await.expect(200);
    assert_eq!(discarded["state"], "discarded");
    assert_eq!(
        (&discarded["discardedBy"], &discarded["discardReason"]),
        (&json!("Kim"), &json!("a test of theirs"))
    );
    let trail = format!("/audit?action=delivery.discarded&target={}", deliveries[0]);
    let entries = api.get(&trail).await.expect(200);
    let (was, is) = (
        &entries["items"][0]["before"],
        &entries["items"][0]["after"],
    );
    assert_eq!(
        (&was["state"], &is["state"]),
        (&json!("failed"), &json!("discarded"))
    );
    assert_eq!(is["discardReason"], "a test of theirs");
    for path in [
        format!("{one}/requeue"),
        format!("/deliveries/{}/retry", deliveries[0]),
    ] {
        api.act(&path).await.expect_problem(409, "conflict");
    }
    api.post(&format!("{one}/discard"), &why)
        .await
        .expect_problem(409, "conflict");
    api.get(&one).await.expect_problem(409, "conflict");
    assert_eq!(count("eventType=incident.resolved").await, 9);

    // The rest of its type in bulk; what is counted is what is done.
    let mut bulk =
        json!({"reason": "out of date", "eventType": "incident.resolved", "dryRun": true});
    let counted = api.post("/dead-letters/discard", &bulk).await.expect(200);
    assert_eq!(counted, json!({"deadLetters": 9, "complete": true}));
    assert_eq!(
        count("eventType=incident.resolved").await,
        9,
        "a dry run changes nothing"
    );
    bulk["dryRun"] = false.into();
    let begun = api.post("/dead-letters/discard", &bulk).await.expect(202);
    let done = run_ended(&api, &begun).await;
    assert_eq!(
        (&done["changed"], &done["requestedBy"]),
        (&json!(9), &json!("first admin"))
    );
    assert_eq!(walk(&api, "/deliveries?state=discarded").await.len(), 10);

    // One alone is requeued while the receiver is still away: a full round, and dead again.
    let before = receiver.requests().len();
    let again = &deliveries[1];
    api.act(&format!("/dead-letters/{again}/requeue"))
        .await
        .expect(202);
    api.until(
        &format!("/deliveries/{again}"),
        "a second death",
        |delivery| {
            delivery["state"] == "failed"
                && delivery["attemptLog"]
                    .as_array()
                    .is_some_and(|log| log.len() == 2)
        },
    )
    .await;
    assert_eq!(receiver.requests().len(), before + 1);
    let jobs = api
        .get(&format!("/jobs?deliveryId={again}"))
        .await
        .expect(200);
    let told: Vec<_> = jobs["items"]
        .as_array()
        .expect("jobs")
        .iter()
        .map(|job| (job["trigger"].as_str(), job["state"].as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("manual"), Some("failed")),
            (Some("ingest"), Some("failed"))
        ]
    );

    up.store(true, Ordering::SeqCst);
    let bulk = json!({"reason": "the receiver is back", "provider": "webhook", "subscriptionId": subscription, "outcome": "provider_error"});
    let begun = api.post("/dead-letters/requeue", &bulk).await.expect(202);
    let done = run_ended(&api, &begun).await;
    assert_eq!(
        (&done["changed"], &done["outcomes"]),
        (&json!(20), &json!({"success": 20}))
    );
    assert_eq!(receiver.requests().len(), before + 1 + 20);
    assert_eq!(count("limit=5").await, 0);
    let runs = api.get("/dead-letter-runs?state=done").await.expect(200);
    assert_eq!(runs["items"].as_array().map(Vec::len), Some(2));
    let path = format!("/dead-letter-runs/{}/cancel", id(&begun["id"]));
    api.act(&path).await.expect_problem(409, "conflict");
    let metrics = api.get("/metrics").await.text;
    assert!(
        metrics.contains("hookport_dead_letters_total{provider=\"webhook\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_requeued_and_discarded() {
    dead_letters(&Gateway::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_requeued_and_discarded_over_postgres() {
    let (_postgres, url) = crate::shared_store::database().await;
    let (first, _second) = crate::shared_store::pair(&url).await;
    dead_letters(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_run_or_a_filter_is_named() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    for (changes, field) in [
        (json!({"reason": " "}), "/reason"),
        (json!({"outcome": "success"}), "/outcome"),
        (json!({"provider": "No Provider"}), "/provider"),
        (json!({"from": "yesterday"}), "/from"),
        (json!({"from": "2999-01-01T00:00:00Z"}), "/from"),
        (json!({"errorPrefix": "x".repeat(501)}), "/errorPrefix"),
        (json!({"subscriptionId": "nonsense"}), "/subscriptionId"),
    ] {
        for action in ["requeue", "discard"] {
            let input = with(json!({"reason": "r"}), changes.clone());
            let answer = api.post(&format!("/dead-letters/{action}"), &input).await;
            let problem = answer.expect(400);
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    }
    for (path, field) in [
        ("/dead-letters?outcome=success", "outcome"),
        ("/dead-letters?state=failed", "state"),
        ("/dead-letters?cursor=bm9wZQ", "cursor"),
        ("/jobs?state=lost", "state"),
        ("/jobs?trigger=fate", "trigger"),
        ("/jobs?queue=long", "queue"),
        ("/jobs?worker=me", "worker"),
        ("/dead-letter-runs?state=lost", "state"),
    ] {
        let problem = api.get(path).await.expect(400);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    for path in [
        "/dead-letters/dlv_01M850GRK432QR6891NDVSA8RX",
        "/dead-letter-runs/dlr_01M850GRK432QR6891NDVSA8RX",
        "/jobs/dlv_01M850GRK432QR6891NDVSA8RX.1",
        "/jobs/dlv_01M850GRK432QR6891NDVSA8RX",
    ] {
        api.get(path).await.expect(404);
    }
}

/// What a killed process had under way is found again, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_tell_of_every_round_of_work() {
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::status(503),
        1 => Reply::ok().after(std::time::Duration::from_secs(600)),
        _ => Reply::ok(),
    })
    .await;
    let mut gateway = Gateway::start().await;
    let api = gateway.api();
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {}}))
        .await;
    let path = format!("/jobs/{id}.2");
    let running = api
        .until(&path, "a worker", |job| job["state"] == "running")
        .await;
    assert_eq!(running["trigger"], "retry");
    let first = running["worker"].as_str().expect("a worker").to_owned();
    let listed = api
        .get(&format!("/jobs?state=running&worker={first}"))
        .await
        .expect(200);
    assert_eq!(listed["items"], json!([running]));
    receiver.wait_for(2).await;
    gateway.kill();
    gateway.restart().await;
    let api = gateway.api();
    api.delivery_in(&id, "success").await;
    let jobs = api.get(&format!("/jobs?deliveryId={id}")).await.expect(200);
    let jobs = jobs["items"].as_array().expect("jobs");
    let told: Vec<_> = jobs
        .iter()
        .map(|job| {
            (
                job["attempt"].as_u64(),
                job["trigger"].as_str(),
                job["state"].as_str(),
                job["queue"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some(2), Some("sweep"), Some("succeeded"), Some("store")),
            (Some(1), Some("ingest"), Some("failed"), Some("store")),
        ]
    );
    assert!(
        jobs[1]["error"]
            .as_str()
            .is_some_and(|error| error.contains("503")),
        "{jobs:?}"
    );
    assert_eq!(jobs[1]["worker"], first.as_str());
    assert_ne!(jobs[0]["worker"], first.as_str());
    for job in jobs {
        let (queued, started, ended) = (&job["queuedAt"], &job["startedAt"], &job["endedAt"]);
        assert!(
            queued.as_str() <= started.as_str() && started.as_str() <= ended.as_str(),
            "{job}"
        );
    }
    assert_eq!(walk(&api, "/jobs?trigger=sweep").await, [format!("{id}.2")]);
}

/// Everything that is at its end goes, what waits stays, and the gateway works on.
async fn retention(gateway: &Gateway) {
    let api = gateway.api();
    let healthy = Receiver::ok().await;
    let waiting = Receiver::failing(usize::MAX, 503).await;
    api.register("incident.created").await;
    api.register("incident.resolved").await;
    api.subscribe_webhook("incident.created", &healthy.url())
        .await;
    let patient = json!({"retry": {"delaysMs": [3_600_000]}, "circuitBreaker": {"enabled": false}});
    api.subscribe(&with(webhook("incident.resolved", &waiting.url()), patient))
        .await;
    let kept = api
        .emit_one(&json!({"type": "incident.resolved", "payload": {}}))
        .await;
    api.delivery_in(&kept, "retrying").await;
    for n in 0..40 {
        api.emit(&json!({"type": "incident.created", "payload": {"n": n}}))
            .await;
    }
    healthy.wait_for(40).await;
    for path in ["/deliveries?limit=5", "/events?limit=5"] {
        api.until(path, "one to be left", |page| {
            page["next"].is_null()
                && page["items"]
                    .as_array()
                    .is_some_and(|items| items.len() == 1)
        })
        .await;
    }
    let left = api.delivery(&kept).await;
    assert_eq!(
        (&left["state"], left["attemptLog"].as_array().map(Vec::len)),
        (&json!("retrying"), Some(1))
    );
    assert_eq!(
        walk(&api, "/jobs?state=succeeded").await,
        Vec::<String>::new()
    );
    let id = api
        .emit_one(&json!({"type": "incident.created", "payload": {"n": 41}}))
        .await;
    healthy.wait_for(41).await;
    let sent = healthy.requests();
    assert_eq!(sent[40].header("webhook-id"), id);
}

/// With ages of some seconds.
fn forgetful(mut setup: Setup, directory: &std::path::Path) -> Setup {
    let file = directory.join("hookport.toml");
    let text = "[retention]\nsucceeded_days = 0.00003\nevents_days = 0.00003\nfailed_days = \"forever\"\nevery_ms = 200\n";
    std::fs::write(&file, text).expect("written");
    setup
        .environment
        .push(("HOOKPORT_CONFIG", file.display().to_string()));
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_removed_and_what_waits_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start_with(forgetful(Setup::default(), directory.path())).await;
    retention(&gateway).await;
    let metrics = gateway.api().get("/metrics").await.text;
    let removed = "hookport_records_removed_total{record=\"deliveries_success\"}";
    assert!(metrics.contains(removed), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_removed_by_one_of_two_processes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_postgres, url) = crate::shared_store::database().await;
    let (first, second) =
        crate::shared_store::pair_with(&url, |setup| forgetful(setup, directory.path())).await;
    retention(&first).await;
    let mut busy = 0;
    for gateway in [&first, &second] {
        let metrics = gateway.api().get("/metrics").await.text;
        busy += usize::from(metrics.contains("hookport_records_removed_total{"));
    }
    assert_eq!(busy, 1, "both did it");
}
