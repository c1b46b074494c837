//! jq in the sandbox of the real binary: filters, transforms, previews, and programs that never
//! end.

use hookport_tests::api::{webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::start_with(Setup {
        providers: vec!["webhook", "jq"],
        ..Setup::default()
    })
    .await
}

fn incident(severity: &str) -> Value {
    json!({"type": "incident.created", "payload": {"severity": severity, "title": "Disk full"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_selects_and_a_transform_shapes() {
    let gateway = gateway().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let changes = json!({
        "filter": r#".payload.severity == "high" and (.event.type | startswith("incident."))"#,
        "transform": "{text: (.payload.title | ascii_upcase), id: .event.id}",
    });
    api.subscribe(&with(webhook("incident.*", &receiver.url()), changes))
        .await;
    let low = api.emit(&incident("low")).await;
    let high = api.emit(&incident("high")).await;
    assert_eq!(
        (&low["deliveries"], &high["deliveries"]),
        (&json!(0), &json!(1))
    );
    let requests = receiver.wait_for(1).await;
    assert_eq!(
        requests[0].json()["data"],
        json!({"text": "DISK FULL", "id": high["id"]})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_ends_costs_its_own_subscription_only() {
    let gateway = gateway().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let endless =
        json!({"name": "endless", "filter": "last(repeat(1))", "retry": {"delaysMs": []}});
    api.subscribe(&with(webhook("incident.*", &receiver.url()), endless))
        .await;
    let shaping = json!({"name": "shaping", "transform": "def f: f; f", "retry": {"delaysMs": []}});
    api.subscribe(&with(webhook("incident.*", &receiver.url()), shaping))
        .await;
    api.subscribe_webhook("incident.*", &receiver.url()).await;
    let accepted = api.emit(&incident("high")).await;
    assert_eq!(accepted["deliveries"], 3, "nothing is lost");
    receiver.wait_for(1).await;
    let event = accepted["id"].as_str().expect("an id");
    let path = format!("/deliveries?eventId={event}&state=failed");
    let two = |list: &Value| {
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 2)
    };
    let failed = api.until(&path, "two failed deliveries", two).await;
    let mut reasons: Vec<_> = failed["items"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|delivery| delivery["lastError"].as_str().expect("a reason"))
        .collect();
    reasons.sort_unstable();
    // On a busy machine its turns come so late that the deadline is first.
    let ended = [
        "the filter: the CPU budget",
        "the filter: the call took longer",
    ];
    assert!(
        ended.iter().any(|words| reasons[0].starts_with(words)),
        "{reasons:?}"
    );
    assert!(reasons[1].starts_with("the transform: "), "{reasons:?}");
    assert_eq!(receiver.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_the_request_without_its_secrets_and_sends_nothing() {
    let gateway = gateway().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let config = json!({
        "url": receiver.url(), "auth": {"type": "basic", "username": "me", "password": "correct horse battery"},
        "bodyTemplate": r#"{"title": "{{ payload.title }}"}"#,
    });
    let input = json!({
        "subscription": {"name": "draft", "events": "incident.created", "provider": "webhook", "config": config},
        "event": {"payload": {"title": "Disk full"}},
    });
    let answer = api.post("/subscription-previews", &input).await;
    let view = answer.expect(200);
    assert_eq!(view["ok"], true, "{view}");
    assert_eq!(view["requests"][0]["url"], receiver.url());
    assert_eq!(view["requests"][0]["body"], r#"{"title":"Disk full"}"#);
    let text = view.to_string();
    assert!(text.contains(r#"["authorization","[secret]"]"#), "{text}");
    assert!(
        !text.contains("battery") && !text.contains("Y29ycmVjd"),
        "{text}"
    );

    let denied = json!({
        "subscription": {"name": "draft", "events": "incident.created", "provider": "webhook",
            "config": {"url": "http://169.254.169.254/latest"}},
        "event": {"payload": {}},
    });
    let view = api
        .post("/subscription-previews", &denied)
        .await
        .expect(200);
    assert_eq!(
        view["ok"], false,
        "what is denied is denied here, too: {view}"
    );
    assert!(
        view["message"]
            .as_str()
            .expect("text")
            .contains("prohibited"),
        "{view}"
    );
    assert!(receiver.settled().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_component_programs_are_not_taken() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    api.register("incident.created").await;
    let input = with(
        webhook("incident.*", "http://127.0.0.1:9/"),
        json!({"filter": "."}),
    );
    let problem = api.post("/subscriptions", &input).await;
    let problem = problem.expect_problem(400, "validation");
    assert!(
        problem["detail"]
            .as_str()
            .expect("text")
            .contains("jq.wasm"),
        "{problem}"
    );
}
