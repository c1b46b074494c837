//! Sources whose normaliser goes wrong: the webhook is kept with the reason, and can be tried
//! again once the source is mended.

use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, test_component};
use hookport_tests::receiver::Receiver;
use reqwest::Method;
use serde_json::{Value, json};

const TOKEN: &str = "the token of the wrecker";

fn source(mended: bool) -> Value {
    json!({
        "name": "wrecker", "component": "wrecker", "config": {"mended": mended},
        "verification": {"scheme": "sharedToken", "header": "x-token"}, "secret": TOKEN,
    })
}

async fn send(api: &Api, what: &str) -> Value {
    let request = api
        .request(Method::POST, "/webhooks/wrecker")
        .header("x-token", TOKEN)
        .body(json!({"do": what, "at": what}).to_string());
    Api::send(request).await.expect(202)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_survives_its_normaliser() {
    let gateway = Gateway::start().await;
    let api = gateway.api();
    gateway.install(&test_component("wrecker"), "wrecker.wasm");
    let receiver = Receiver::ok().await;
    api.register("wreck.found").await;
    api.subscribe_webhook("wreck.found", &receiver.url()).await;
    let wanted = |found: &Value| found["state"] == "serving";
    api.until("/providers/wrecker", "serving", wanted).await;
    let made = api.post("/sources", &source(false)).await.expect(201);

    let mut kept = Vec::new();
    for (what, told) in [
        ("trap", "trap"),
        ("spin", "CPU"),
        ("unknown-type", "type"),
        ("no-object", "payload"),
        ("bad-time", "occurred"),
        ("flood", "5000"),
    ] {
        let answer = send(&api, what).await;
        assert_eq!(answer["state"], "failed", "{what}: {answer}");
        let id = answer["webhookId"].as_str().expect("an id").to_owned();
        let shown = api
            .get(&format!("/inbound-webhooks/{id}"))
            .await
            .expect(200);
        let reason = shown["reason"].as_str().unwrap_or("");
        assert!(reason.contains(told), "{what}: {shown}");
        assert_eq!(shown["body"], json!({"do": what, "at": what}).to_string());
        kept.push(id);
    }
    // The gateway is none the worse for it.
    let good = send(&api, "good").await;
    assert_eq!(good["state"], "accepted", "{good}");
    assert_eq!(receiver.wait_for(1).await.len(), 1);
    assert_eq!(
        receiver.settled().await.len(),
        1,
        "of the others nothing came"
    );

    let path = format!("/sources/{}", made["id"].as_str().expect("an id"));
    let mut mended = source(true);
    mended["secret"] = "".into();
    api.put(&path, &mended).await.expect(200);
    for id in &kept {
        api.post(&format!("/inbound-webhooks/{id}/retry"), &json!({}))
            .await;
        let accepted = |found: &Value| found["state"] == "accepted";
        let path = format!("/inbound-webhooks/{id}");
        api.until(&path, "accepted", accepted).await;
    }
    receiver.wait_for(1 + kept.len()).await;
}
