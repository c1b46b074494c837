//! Pages, cursors and filters.

use std::collections::BTreeSet;

use hookport::domain::retry::RetryAdvice;
use serde_json::{Value, json};

use crate::harness::{CONFIG, Gateway, failed, refused};

/// Every id of a listing, page after page, through the `Link` header.
async fn walk(gateway: &Gateway, path: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = path.to_owned();
    loop {
        let answer = gateway.get(&path).await;
        let page = answer.expect(200);
        for item in page["items"].as_array().expect("items") {
            found.push(item[name].as_str().expect("a name").to_owned());
        }
        let link = answer
            .headers
            .get("link")
            .map(|link| link.to_str().expect("text"));
        assert_eq!(link.is_some(), page["next"].is_string());
        let Some(link) = link else { return found };
        let target = link
            .strip_prefix("</api/v1")
            .and_then(|link| link.strip_suffix(">; rel=\"next\""));
        path = target.expect("a link").to_owned();
        assert!(found.len() < 1_000, "it does not end");
    }
}

#[tokio::test]
async fn every_listing_is_paged_newest_first_without_gap_or_repetition() {
    let gateway = Gateway::start().await;
    let names: Vec<String> = (0..7).map(|n| format!("type.n{n}")).collect();
    for name in &names {
        gateway.register(&[name]).await;
        gateway
            .post("/events", &json!({"type": name, "payload": {}}))
            .await
            .expect(202);
        gateway
            .subscribe(json!({"name": name, "events": name}))
            .await;
        let connection = json!({"name": name, "provider": "fake", "settings": {"apiToken": "t"}});
        gateway.post("/connections", &connection).await.expect(201);
        gateway
            .post("/keys", &json!({"name": name, "role": "viewer"}))
            .await
            .expect(201);
    }
    for (path, field, extra) in [
        ("/events", "id", 0),
        ("/subscriptions", "id", 0),
        ("/connections", "id", 0),
        ("/keys", "id", 4),
        ("/event-types", "name", 6),
    ] {
        for limit in [1, 2, 3, 200] {
            let found = walk(&gateway, &format!("{path}?limit={limit}"), field).await;
            let distinct: BTreeSet<_> = found.iter().collect();
            assert_eq!(distinct.len(), found.len(), "{path}: none twice");
            assert_eq!(found.len(), 7 + extra, "{path}: all");
            if field == "id" {
                assert!(found.is_sorted_by(|a, b| a > b), "{path}: newest first");
            }
        }
    }
}

#[tokio::test]
async fn filters_hold_before_the_page_is_cut_and_on_every_page() {
    let gateway = Gateway::start().await;
    gateway
        .register(&["incident.created", "change.created"])
        .await;
    gateway
        .providers
        .answer(|call| match call.event.event_type.as_str() {
            "change.created" => failed(refused(RetryAdvice::Never), Some(400)),
            _ => crate::harness::delivered(None),
        });
    let working = gateway.work(CONFIG);
    gateway.subscribe(json!({"events": "*"})).await;
    let mut failing = BTreeSet::new();
    for index in 0..20 {
        let name = if index % 4 == 0 {
            "change.created"
        } else {
            "incident.created"
        };
        let id = gateway
            .emit(json!({"type": name, "correlationKey": format!("k{}", index % 2)}))
            .await;
        if index % 4 == 0 {
            gateway.delivery_in(&id, "failed").await;
            failing.insert(id);
        } else {
            gateway.delivery_in(&id, "success").await;
        }
    }
    working.stop().await;
    let found = walk(&gateway, "/deliveries?state=failed&limit=2", "id").await;
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), failing);
    let found = walk(
        &gateway,
        "/deliveries?state=failed&state=success&eventType=change.created&limit=3",
        "id",
    )
    .await;
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), failing);
    let found = walk(&gateway, "/deliveries?provider=plain&limit=3", "id").await;
    assert!(found.is_empty());
    let found = walk(&gateway, "/events?type=incident.created&limit=4", "id").await;
    assert_eq!(found.len(), 15);
    let found = walk(&gateway, "/events?correlationKey=k1&limit=4", "id").await;
    assert_eq!(found.len(), 10);
    let found = walk(
        &gateway,
        "/events?type=incident.created&until=2001-01-01T00:00:00Z",
        "id",
    )
    .await;
    assert!(found.is_empty());
}

#[tokio::test]
async fn a_parameter_that_is_not_known_or_not_usable_is_refused() {
    let gateway = Gateway::start().await;
    gateway.register(&["a.b", "a.c"]).await;
    let cursor = gateway.get("/event-types?limit=1").await.expect(200)["next"].clone();
    let other_listing = format!("cursor={}", cursor.as_str().expect("a cursor"));
    for path in [
        "/events",
        "/deliveries",
        "/subscriptions",
        "/connections",
        "/keys",
    ] {
        for query in [
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=many",
            "limit=1&limit=2",
            "cursor=forged",
            "cursor=",
            "stat=failed",
            &other_listing,
        ] {
            gateway
                .get(&format!("{path}?{query}"))
                .await
                .problem(400, "validation");
        }
    }
    for (path, field) in [
        ("/deliveries?state=lost", "state"),
        ("/deliveries?state=", "state"),
        ("/deliveries?eventId=dlv_1", "eventId"),
        ("/deliveries?provider=No%20Body", "provider"),
        ("/deliveries?from=yesterday", "from"),
        ("/events?until=tomorrow", "until"),
        ("/events?type=a.b&type=a.c", "type"),
    ] {
        let problem = gateway.get(path).await.problem(400, "validation");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    assert_eq!(
        gateway.get("/events").await.expect(200)["next"],
        Value::Null
    );
}
