//! Scripts as the component that is shipped, in the real gateway.

use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

const SECRET: &str = "tok-5e9f3c21-of-the-script";

async fn gateway() -> Gateway {
    let gateway = Gateway::start_with(Setup {
        providers: vec!["script"],
        ..Setup::default()
    })
    .await;
    gateway.api().register("incident.created").await;
    gateway
}

fn subscription(receiver: &Receiver, code: &str) -> Value {
    json!({
        "name": "scripted", "events": "incident.created", "provider": "script",
        "config": {
            "code": code, "hosts": [receiver.url()], "secrets": {"token": SECRET},
            "variables": {"base": receiver.url(), "team": "red"},
        },
        "retry": {"delaysMs": [50]},
    })
}

async fn emit(api: &Api) -> String {
    let event = json!({
        "type": "incident.created", "correlationKey": "incident-7", "payload": {"title": "Disk full", "n": 3},
    });
    api.emit_one(&event).await
}

fn error(delivery: &Value) -> &str {
    let attempts = delivery["attemptLog"].as_array().expect("attempts");
    attempts
        .last()
        .and_then(|attempt| attempt["message"].as_str())
        .unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_calls_an_api_and_its_next_delivery_knows_what_it_made() {
    let receiver = Receiver::start(|index, _| match index {
        0 => Reply::status(429),
        _ => Reply::json(&json!({"id": format!("T-{index}")})),
    })
    .await;
    let gateway = gateway().await;
    let api = gateway.api();
    let code = r#"
        async function deliver(event, ctx) {
          const url = ctx.variables.base + (ctx.externalId ? `/${ctx.externalId}` : "");
          const response = await fetch(url, {
            method: ctx.externalId ? "PUT" : "POST",
            headers: { authorization: `Bearer ${ctx.secrets.token}`, "content-type": "application/json" },
            body: JSON.stringify({ title: event.payload.title, team: ctx.variables.team, key: ctx.deliveryId }),
          });
          console.log("answered", response.status, ctx.secrets.token);
          if (response.status === 429) throw new RetryError("busy", { afterMs: 20 });
          const made = await response.json();
          return { externalId: ctx.externalId ?? made.id, summary: ctx.render("{{ payload.title }}") + ` with ${ctx.secrets.token}` };
        }"#;
    api.subscribe(&subscription(&receiver, code)).await;
    let first = emit(&api).await;
    let delivery = api.delivery_in(&first, "success").await;
    assert_eq!(delivery["externalId"], "T-1");
    assert_eq!(delivery["attempts"], 2);
    let second = api.delivery_in(&emit(&api).await, "success").await;
    assert_eq!(second["externalId"], "T-1");

    let requests = receiver.requests();
    let calls: Vec<_> = requests
        .iter()
        .map(|request| (request.method.as_str(), request.path.as_str()))
        .collect();
    assert_eq!(
        calls,
        [("POST", "/hook"), ("POST", "/hook"), ("PUT", "/hook/T-1")]
    );
    let sent = &requests[1];
    assert_eq!(sent.header("authorization"), format!("Bearer {SECRET}"));
    assert_eq!(
        sent.json(),
        json!({"title": "Disk full", "team": "red", "key": first})
    );
    // The script's own words name the secret, and never have it.
    let shown = delivery.to_string();
    assert!(
        shown.contains("answered 201") || shown.contains("answered 200"),
        "{shown}"
    );
    assert!(shown.contains("Disk full with [secret token]"), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(!gateway.log().contains(SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_listed_is_out_of_reach() {
    let (listed, other) = (Receiver::ok().await, Receiver::ok().await);
    let gateway = gateway().await;
    let api = gateway.api();
    let code = format!(
        "async function deliver(event, ctx) {{ await fetch('{}?' + ctx.secrets.token); }}",
        other.url()
    );
    api.subscribe(&subscription(&listed, &code)).await;
    let delivery = api.delivery_in(&emit(&api).await, "failed").await;
    assert_eq!(delivery["attempts"], 1);
    assert!(
        error(&delivery).contains("is not among the granted hosts"),
        "{delivery}"
    );
    assert!(!delivery.to_string().contains(SECRET));
    assert_eq!(other.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_throws_says_where() {
    let receiver = Receiver::ok().await;
    let gateway = gateway().await;
    let api = gateway.api();
    for (code, expected) in [
        (
            "function deliver(event) {\n  return event.payload.a.b;\n}",
            "at deliver (script:2:",
        ),
        ("function deliver( {", "config.code"),
        ("const other = 1;", "define a function deliver"),
        (
            "function deliver() { throw new PermanentError('no such team'); }",
            "no such team",
        ),
    ] {
        let made = api.subscribe(&subscription(&receiver, code)).await;
        let id = emit(&api).await;
        let delivery = api.delivery_in(&id, "failed").await;
        assert!(error(&delivery).contains(expected), "{code}: {delivery}");
        let path = format!("/subscriptions/{}", made["id"].as_str().expect("an id"));
        api.delete(&path).await.expect(204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_never_ends_is_ended_and_others_go_on() {
    let receiver = Receiver::ok().await;
    let gateway = gateway().await;
    let api = gateway.api();
    let endless = "function deliver() { console.log('before'); for (;;) {} }";
    let greedy =
        "function deliver() { const all = []; for (;;) all.push(new Uint8Array(8 << 20)); }";
    let good =
        "async function deliver(event, ctx) { await fetch(ctx.variables.base, {method: 'POST'}); }";
    for code in [endless, greedy, good] {
        api.subscribe(&subscription(&receiver, code)).await;
    }
    let event = json!({"type": "incident.created", "payload": {"title": "Disk full"}});
    let accepted = api.emit(&event).await;
    let mut ends = Vec::new();
    for id in api.delivery_ids(&accepted).await {
        let ended = |delivery: &Value| {
            ["success", "failed"].contains(&delivery["state"].as_str().unwrap_or(""))
        };
        let path = format!("/deliveries/{id}");
        let delivery = api.until(&path, "ended", ended).await;
        ends.push((delivery["state"].clone(), delivery.to_string()));
    }
    receiver.wait_for(1).await;
    let failed: Vec<_> = ends.iter().filter(|(state, _)| state == "failed").collect();
    assert_eq!(failed.len(), 2, "{ends:?}");
    assert!(
        failed.iter().any(|(_, text)| text.contains("CPU")),
        "{ends:?}"
    );
    assert!(
        failed.iter().any(|(_, text)| text.contains("allocating")),
        "{ends:?}"
    );
    assert!(
        failed.iter().any(|(_, text)| text.contains("before")),
        "{ends:?}"
    );
}
