//! Replays, over the embedded store and over PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

async fn switched() -> (Receiver, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let asked = up.clone();
    let receiver = Receiver::start(move |_, _| {
        if asked.load(Ordering::SeqCst) {
            Reply::ok()
        } else {
            Reply::status(400)
        }
    });
    (receiver.await, up)
}

async fn ended(api: &Api, replay: &Value) -> Value {
    let path = format!("/replays/{}", replay["id"].as_str().expect("an id"));
    let open = |outcomes: &Value, state: &str| outcomes[state].as_u64().unwrap_or(0) > 0;
    api.until(&path, "ended", |found| {
        found["state"] == "done"
            && !["pending", "retrying", "in_flight"]
                .iter()
                .any(|state| open(&found["outcomes"], state))
    })
    .await
}

/// 250 events fail at one receiver while another one has them; the failed ones are replayed in
/// bulk, then one event is delivered anew to all.
async fn replay(gateway: &Gateway) {
    let api = gateway.api();
    let (receiver, up) = switched().await;
    let healthy = Receiver::ok().await;
    api.register("incident.created").await;
    let never = json!({"retry": {"delaysMs": []}, "circuitBreaker": {"enabled": false}});
    let failing = api
        .subscribe(&with(webhook("incident.created", &receiver.url()), never))
        .await;
    api.subscribe_webhook("incident.created", &healthy.url())
        .await;
    let events: Vec<Value> = (0..250)
        .map(|n| json!({"type": "incident.created", "payload": {"n": n}}))
        .collect();
    let accepted = api.post("/events", &json!(events)).await.expect(202);
    let failed = format!(
        "/deliveries?state=failed&subscriptionId={}&limit=1",
        failing["id"].as_str().expect("an id")
    );
    receiver.wait_for(250).await;
    healthy.wait_for(250).await;
    api.until(&failed, "failed", |page| {
        page["items"]
            .as_array()
            .is_some_and(|items| !items.is_empty())
    })
    .await;

    let mut asked =
        json!({"reason": "the receiver was down", "deliveries": "failed", "dryRun": true});
    let all_failed = |count: &Value| count["deliveries"] == 250;
    // The last results may still be on their way.
    let mut count = Value::Null;
    for _ in 0..100 {
        count = api.post("/replays", &asked).await.expect(200);
        if all_failed(&count) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        count,
        json!({"events": 250, "deliveries": 250, "complete": true})
    );
    assert_eq!(
        receiver.settled().await.len(),
        250,
        "a dry run sends nothing"
    );

    up.store(true, Ordering::SeqCst);
    asked["dryRun"] = false.into();
    asked["requestedBy"] = "Kim".into();
    let begun = api.post("/replays", &asked).await.expect(202);
    assert_eq!(begun["requestedBy"], "Kim");
    let done = ended(&api, &begun).await;
    assert_eq!(done["outcomes"], json!({"success": 250}), "{done}");
    assert_eq!(
        (&done["eventsSeen"], &done["deliveriesMade"]),
        (&json!(250), &json!(250))
    );
    let requests = receiver.requests();
    assert_eq!(requests.len(), 500);
    let ids = |range: std::ops::Range<usize>| {
        let mut ids: Vec<_> = requests[range]
            .iter()
            .map(|sent| sent.header("webhook-id").to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(
        ids(0..250),
        ids(250..500),
        "under the delivery ids they had"
    );
    assert_eq!(healthy.requests().len(), 250, "what had succeeded stays");
    let empty = api.get(&failed).await.expect(200);
    assert_eq!(empty["items"], json!([]));

    let id = accepted["items"][7]["id"].as_str().expect("an id");
    let one = json!({"reason": "once more", "deliveries": "all"});
    let begun = api
        .post(&format!("/events/{id}/replay"), &one)
        .await
        .expect(202);
    let done = ended(&api, &begun).await;
    assert_eq!(done["outcomes"], json!({"success": 2}), "{done}");
    assert_eq!(done["requestedBy"], "first admin");
    assert_eq!(
        (receiver.requests().len(), healthy.requests().len()),
        (501, 251)
    );
    let listed = api.get("/replays?state=done").await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_deliveries_and_whole_events_are_replayed() {
    replay(&Gateway::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_deliveries_and_whole_events_are_replayed_over_postgres() {
    let (_postgres, url) = crate::shared_store::database().await;
    let (first, _second) = crate::shared_store::pair(&url).await;
    replay(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_replay_is_named() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    for (changes, field) in [
        (json!({"reason": " "}), "/reason"),
        (json!({"deliveries": "some"}), "/deliveries"),
        (json!({"eventType": "No Type"}), "/eventType"),
        (json!({"from": "yesterday"}), "/from"),
        (json!({"from": "2999-01-01T00:00:00Z"}), "/from"),
        (
            json!({"subscriptionId": "sub_01M850GRK432QR6891NDVSA8RX"}),
            "/subscriptionId",
        ),
    ] {
        let input = with(json!({"reason": "r", "deliveries": "all"}), changes);
        let problem = api.post("/replays", &input).await.expect(400);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let missing = json!({"reason": "r", "deliveries": "all"});
    api.post("/events/evt_01M850GRK432QR6891NDVSA8RX/replay", &missing)
        .await
        .expect(404);
}
