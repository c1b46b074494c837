//! Webhooks of every bundled source: signed as their senders sign, through the real binary, to a
//! receiver.

use hmac::{Hmac, KeyInit as _, Mac as _};
use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use reqwest::Method;
use serde_json::{Value, json};

async fn gateway() -> Gateway {
    Gateway::start_with(Setup {
        providers: vec!["webhook", "acme", "globex", "github", "stripe", "mapping"],
        ..Setup::default()
    })
    .await
}

fn hmac(secret: &str, data: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(data.as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "what senders sign is checked against the clock"
)]
fn seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .expect("after the epoch")
        .as_secs()
}

async fn create(api: &Api, component: &str, verification: Value, config: Value) {
    let source = json!({
        "name": component, "component": component, "config": config,
        "verification": verification, "secret": "a secret of some length",
    });
    api.post("/sources", &source).await.expect(201);
}

/// What a sender sends: headers and body.
struct Sent {
    headers: Vec<(&'static str, String)>,
    body: String,
}

async fn send(api: &Api, source: &str, sent: &Sent, status: u16) -> Value {
    let path = format!("/webhooks/{source}");
    let mut request = api.request(Method::POST, &path).body(sent.body.clone());
    for (name, value) in &sent.headers {
        request = request.header(*name, value);
    }
    Api::send(request).await.expect(status)
}

/// Sends a webhook twice: the first is delivered as `event_type` with `payload`, the second is
/// told to be the same.
async fn check(component: &str, verification: Value, config: Value, sent: Sent, expected: Value) {
    let gateway = gateway().await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    create(&api, component, verification, config).await;
    api.subscribe_webhook("*", &receiver.url()).await;
    let first = send(&api, component, &sent, 202).await;
    assert_eq!(first["state"], "accepted", "{first}");
    let second = send(&api, component, &sent, 200).await;
    assert_eq!(second["state"], "duplicate", "{second}");
    assert_eq!(second["eventIds"], first["eventIds"]);

    let requests = receiver.wait_for(1).await;
    let delivered = requests[0].json();
    assert_eq!(delivered["type"], expected["type"], "{delivered}");
    assert_eq!(delivered["data"], expected["data"], "{delivered}");
    let event = first["eventIds"][0].as_str().expect("an event");
    let event = api.get(&format!("/events/{event}")).await.expect(200);
    assert_eq!(event["correlationKey"], expected["key"], "{event}");

    let mut tampered = sent;
    tampered.body.insert(1, ' ');
    let id = first["webhookId"].as_str().expect("an id");
    let kept = api
        .get(&format!("/inbound-webhooks/{id}"))
        .await
        .expect(200);
    assert!(
        !kept.to_string().contains("a secret of some length"),
        "{kept}"
    );
    if component != "globex" && component != "mapping" {
        send(&api, component, &tampered, 401).await;
    }
    assert_eq!(receiver.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn acme() {
    let body = json!({
        "eventId": "e-1", "eventType": "pump.failed", "occurredAt": "2024-01-01T00:00:00Z",
        "subject": "pump-7", "data": {"pump": 7},
    })
    .to_string();
    let sent = Sent {
        headers: vec![("x-acme-signature", hmac("a secret of some length", &body))],
        body,
    };
    let scheme = json!({"scheme": "hmacSha256", "header": "x-acme-signature"});
    let expected = json!({"type": "pump.failed", "data": {"pump": 7}, "key": "pump-7"});
    check("acme", scheme, json!({}), sent, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn globex() {
    let body = json!({
        "id": "g-1", "type": "order.paid", "timestamp": 1_704_067_200_000_i64,
        "resource": {"id": "ord-12", "total": 99},
    });
    let sent = Sent {
        headers: vec![("x-globex-token", "a secret of some length".to_owned())],
        body: body.to_string(),
    };
    let scheme = json!({"scheme": "sharedToken", "header": "x-globex-token"});
    let expected = json!({"type": "order.paid", "data": body["resource"], "key": "ord-12"});
    check("globex", scheme, json!({}), sent, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn github() {
    let body = json!({
        "action": "opened", "issue": {"number": 1347},
        "repository": {"full_name": "octocat/Hello-World"},
    });
    let text = body.to_string();
    let signature = format!("sha256={}", hmac("a secret of some length", &text));
    let sent = Sent {
        headers: vec![
            ("x-hub-signature-256", signature),
            ("x-github-event", "issues".to_owned()),
            (
                "x-github-delivery",
                "72d3162e-cc78-11e3-81ab-4c9367dc0958".to_owned(),
            ),
            ("content-type", "application/json".to_owned()),
        ],
        body: text,
    };
    let expected = json!({
        "type": "github.issues.opened", "data": body, "key": "octocat/Hello-World#1347",
    });
    check(
        "github",
        json!({"scheme": "github"}),
        json!({}),
        sent,
        expected,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe() {
    let object = json!({"id": "in_1", "object": "invoice", "paid": true});
    let body = json!({
        "id": "evt_1", "object": "event", "created": 1_704_067_200, "livemode": true,
        "type": "invoice.paid", "data": {"object": object},
    })
    .to_string();
    let now = seconds();
    let signature = hmac("a secret of some length", &format!("{now}.{body}"));
    let sent = Sent {
        headers: vec![("stripe-signature", format!("t={now},v1={signature}"))],
        body,
    };
    let data = json!({"object": object, "livemode": true});
    let expected = json!({"type": "stripe.invoice.paid", "data": data, "key": "in_1"});
    check(
        "stripe",
        json!({"scheme": "stripe"}),
        json!({}),
        sent,
        expected,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sender_by_a_mapping() {
    let sent = Sent {
        headers: vec![("x-alert-key", "Key a secret of some length".to_owned())],
        body: json!({"alert": {"id": "a-1", "state": "Firing", "rule": "cpu"}}).to_string(),
    };
    let scheme = json!({"scheme": "sharedToken", "header": "x-alert-key", "prefix": "Key "});
    let config = json!({
        "eventType": "/alert/state", "typePrefix": "alert.", "externalId": "/alert/id",
        "correlationKey": "/alert/rule", "payload": "/alert",
    });
    let data = json!({"id": "a-1", "state": "Firing", "rule": "cpu"});
    let expected = json!({"type": "alert.firing", "data": data, "key": "cpu"});
    check("mapping", scheme, config, sent, expected).await;
}

/// What a sender must not be told, nor anyone else: the whole of what is stored.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_of_a_source_is_stored_or_logged_in_clear() {
    let gateway = gateway().await;
    let api = gateway.api();
    let scheme = json!({"scheme": "sharedToken", "header": "x-globex-token"});
    create(&api, "globex", scheme, json!({})).await;
    for token in [
        "a secret of some length",
        "a wrong one that is long as well",
    ] {
        let sent = Sent {
            headers: vec![
                ("x-globex-token", token.to_owned()),
                ("cookie", "session=abcdefgh".to_owned()),
            ],
            body: "{}".to_owned(),
        };
        let status = if token.starts_with("a secret") {
            202
        } else {
            401
        };
        send(&api, "globex", &sent, status).await;
    }
    let log = gateway.log();
    let files = gateway.data_files();
    for text in [
        "a secret of some length",
        "a wrong one that is long as well",
        "session=abcdefgh",
    ] {
        assert!(!log.contains(text), "the log has {text:?}");
        for (path, content) in &files {
            let found = content
                .windows(text.len())
                .any(|window| window == text.as_bytes());
            assert!(!found, "{} has {text:?}", path.display());
        }
    }
}
