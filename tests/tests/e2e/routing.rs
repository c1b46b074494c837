//! Which events reach which subscription.

use std::collections::BTreeSet;

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::Receiver;
use serde_json::json;

fn names(receiver: &Receiver) -> BTreeSet<String> {
    receiver
        .requests()
        .iter()
        .map(|request| {
            request.json()["data"]["name"]
                .as_str()
                .unwrap_or("")
                .to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcards_reach_what_is_below_their_prefix() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let types = [
        "incident.created",
        "incident.comment.added",
        "incidents.closed",
        "change.created",
    ];
    for name in types {
        api.register(name).await;
    }
    let patterns = ["*", "incident.*", "incident.comment.*", "incident.created"];
    let mut receivers = Vec::new();
    for pattern in patterns {
        let receiver = Receiver::ok().await;
        api.subscribe_webhook(pattern, &receiver.url()).await;
        receivers.push(receiver);
    }
    let mut deliveries = Vec::new();
    for name in types {
        let accepted = api
            .emit(&json!({"type": name, "payload": {"name": name}}))
            .await;
        deliveries.extend(api.delivery_ids(&accepted).await);
    }
    for id in &deliveries {
        api.delivery_in(id, "success").await;
    }
    let expected: [&[&str]; 4] = [
        &types,
        &["incident.created", "incident.comment.added"],
        &["incident.comment.added"],
        &["incident.created"],
    ];
    for (index, expected) in expected.iter().enumerate() {
        let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names(&receivers[index]), expected, "{}", patterns[index]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_filter_sees_system_id_and_system_ids() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe(&with(
        webhook("incident.created", &receiver.url()),
        json!({"systemFilter": ["db-7", "web-1"]}),
    ))
    .await;
    let cases = [
        (
            "envelope systemId",
            json!({"systemId": "db-7", "payload": {}}),
            1,
        ),
        (
            "envelope systemIds",
            json!({"systemIds": ["x", "web-1"], "payload": {}}),
            1,
        ),
        (
            "payload systemId",
            json!({"payload": {"systemId": "db-7"}}),
            1,
        ),
        (
            "payload systemIds",
            json!({"payload": {"systemIds": ["x", "web-1"]}}),
            1,
        ),
        (
            "another system",
            json!({"systemId": "x", "payload": {"systemIds": ["y"]}}),
            0,
        ),
        ("no system", json!({"payload": {}}), 0),
        (
            "a longer name",
            json!({"payload": {"systemId": "db-77"}}),
            0,
        ),
    ];
    let mut expected = BTreeSet::new();
    for (name, event, deliveries) in cases {
        let event = with(
            event,
            json!({"type": "incident.created", "payload": {"name": name}}),
        );
        let accepted = api.emit(&event).await;
        assert_eq!(accepted["deliveries"], deliveries, "{name}");
        let id = accepted["id"].as_str().expect("an id");
        if deliveries == 1 {
            expected.insert(name.to_owned());
        } else {
            let event = api.get(&format!("/events/{id}")).await.expect(200);
            assert_eq!(event["status"], "unmatched", "{name}");
        }
    }
    receiver.wait_for(expected.len()).await;
    receiver.settled().await;
    assert_eq!(names(&receiver), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_through_everything_once_and_filter_before_the_page_is_cut() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    let (good, bad) = (
        Receiver::ok().await,
        Receiver::failing(usize::MAX, 500).await,
    );
    api.register("incident.created").await;
    api.register("change.created").await;
    api.subscribe_webhook("incident.created", &good.url()).await;
    api.subscribe(&with(
        webhook("change.created", &bad.url()),
        json!({"retry": {"delaysMs": []}}),
    ))
    .await;
    let mut failed = BTreeSet::new();
    for index in 0..25 {
        let name = if index % 5 == 0 {
            "change.created"
        } else {
            "incident.created"
        };
        let id = api.emit_one(&json!({"type": name, "payload": {}})).await;
        if index % 5 == 0 {
            failed.insert(id);
        }
    }
    for id in &failed {
        api.delivery_in(id, "failed").await;
    }
    let mut seen = Vec::new();
    let mut path = "/deliveries?state=failed&limit=2".to_owned();
    loop {
        let answer = api.get(&path).await;
        let link = answer.headers.get("link").cloned();
        let page = answer.expect(200);
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        for item in items {
            assert_eq!(item["state"], "failed");
            seen.push(item["id"].as_str().expect("an id").to_owned());
        }
        let Some(next) = page["next"].as_str() else {
            assert!(link.is_none());
            break;
        };
        assert_eq!(items.len(), 2, "a page before the last is full");
        let link = link.expect("a link to the next page");
        assert!(link.to_str().unwrap_or("").contains("rel=\"next\""));
        path = format!("/deliveries?state=failed&limit=2&cursor={next}");
    }
    assert_eq!(seen.len(), failed.len(), "none twice");
    assert!(seen.is_sorted_by(|a, b| a >= b), "newest first: {seen:?}");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), failed);
}
