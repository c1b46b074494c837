//! Traces over OTLP: one follows an event through two processes; a collector that is not there
//! costs nothing but spans.

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::collector::{Collector, Seen};
use hookport_tests::gateway::{Gateway, Setup, component};
use hookport_tests::receiver::{Received, Receiver, Reply};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::Method;
use serde_json::json;

use crate::shared_store::{database, setup};

/// As section 3.2.3 of the W3C's recommendation has it.
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const CALLERS_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLERS_SPAN: &str = "00f067aa0ba902b7";

fn traced(mut setup: Setup, endpoint: &str) -> Setup {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    setup
        .environment
        .extend(variables.map(|(name, value)| (name, value.to_owned())));
    setup
}

/// The event and its delivery.
async fn emit_traced(api: &Api, event: &serde_json::Value, parent: &str) -> (String, String) {
    let request = api.request(Method::POST, "/events").json(event);
    let answer = Api::send(request.header("traceparent", parent)).await;
    let accepted = answer.expect(202);
    let id = accepted["id"].as_str().expect("an id").to_owned();
    let delivery = api.delivery_ids(&accepted).await.remove(0);
    (id, delivery)
}

#[track_caller]
fn only<'a>(spans: &'a [Seen], what: &str, wanted: impl Fn(&Seen) -> bool) -> &'a Seen {
    let found: Vec<&Seen> = spans.iter().filter(|span| wanted(span)).collect();
    assert_eq!(found.len(), 1, "{what}: {found:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_follows_an_event_through_two_processes_and_its_retries() {
    let collector = Collector::start().await;
    let (_postgres, url) = database().await;
    let with_role = |role: &str| {
        let mut setup = traced(setup(&url), &collector.endpoint());
        setup.environment.push(("HOOKPORT_ROLE", role.to_owned()));
        setup
    };
    let first = Gateway::start_with(with_role("api")).await;
    let mut worker = with_role("worker");
    // Its API shows no providers to wait for.
    worker.providers.clear();
    let mut second = Gateway::prepare(worker);
    second.take_admin_key(&first.admin_key());
    second.install(&component("webhook"), "webhook.wasm");
    second.restart().await;

    let receiver = Receiver::failing(1, 503).await;
    let api = first.api();
    api.register("incident.created").await;
    let retry = json!({"retry": {"delaysMs": [50]}});
    let secret = "token-in-the-query-4711";
    let target = format!("{}?key={secret}", receiver.url());
    api.subscribe(&with(webhook("incident.created", &target), retry))
        .await;
    let event = json!({"type": "incident.created", "payload": {"note": "payload-text-0815"}});
    let (id, delivery) = emit_traced(&api, &event, CALLER).await;
    api.delivery_in(&delivery, "success").await;

    let in_trace = |span: &&Seen| span.trace == CALLERS_TRACE;
    let spans = collector
        .until("two requests", |spans| {
            let requests = |span: &&Seen| span.kind == SpanKind::Client;
            spans.iter().filter(in_trace).filter(requests).count() == 2
                && spans
                    .iter()
                    .any(|span| span.attribute("hookport.outcome") == "success")
        })
        .await;
    let spans: Vec<Seen> = spans.into_iter().filter(|span| in_trace(&span)).collect();

    let server = only(&spans, "server", |span| span.kind == SpanKind::Server);
    assert_eq!(server.parent, CALLERS_SPAN);
    assert_eq!(server.name, "POST /api/v1/events");
    assert_eq!(server.attribute("http.response.status_code"), "202");
    // Its recovery is told of in the same trace, by an event of the gateway's own.
    let send = only(&spans, "send", |span| span.name == "send incident.created");
    assert_eq!((&send.parent, send.kind), (&server.id, SpanKind::Producer));
    assert_eq!(send.attribute("messaging.message.id"), id);
    only(&spans, "commit", |span| {
        span.name == "commit" && span.parent == send.id
    });
    for (attempt, status, failed) in [("1", "503", true), ("2", "200", false)] {
        let deliver = only(&spans, "attempt", |span| {
            span.attribute("hookport.attempt") == attempt
        });
        assert_eq!(
            (&deliver.parent, deliver.kind),
            (&send.id, SpanKind::Consumer)
        );
        assert_eq!(deliver.attribute("messaging.message.id"), id);
        assert_eq!(deliver.is_error, failed);
        let call = only(&spans, "call", |span| {
            span.name == "call" && span.parent == deliver.id
        });
        assert_eq!(call.attribute("hookport.provider"), "webhook");
        let request = only(&spans, "request", |span| span.parent == call.id);
        assert_eq!(
            (request.name.as_str(), request.kind),
            ("POST", SpanKind::Client)
        );
        assert_eq!(request.attribute("http.response.status_code"), status);
        let port = receiver.address().port().to_string();
        assert_eq!(request.attribute("server.port"), port);
        // The worker made it, and the API's process took the event.
        let instance = |span: &Seen| span.resource["service.instance.id"].clone();
        assert_ne!(instance(deliver), instance(send));
        assert_eq!(deliver.resource["service.name"], "hookport");
    }
    for request in collector.requests() {
        let body = String::from_utf8_lossy(&request.body);
        for private in [secret, "payload-text-0815", "/hook", &first.admin_key()] {
            assert!(!body.contains(private.trim()), "{private} was exported");
        }
    }
    let plain = |sent: &Received| sent.header("traceparent").is_empty();
    assert!(
        receiver.requests().iter().all(plain),
        "receivers are told nothing by default"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_of_a_process_that_ends_are_sent() {
    let collector = Collector::start().await;
    let mut setup = traced(Setup::default(), &collector.endpoint());
    // Longer than the test: only the end sends.
    setup
        .environment
        .push(("OTEL_BSP_SCHEDULE_DELAY", "600000".to_owned()));
    let mut gateway = Gateway::start_with(setup).await;
    gateway.api().register("a.b").await;
    assert!(gateway.terminate().await.success());
    let spans = collector.spans();
    let name = "PUT /api/v1/event-types/{name}";
    assert!(spans.iter().any(|span| span.name == name), "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_continues_the_trace_where_the_operator_wants_it() {
    let collector = Collector::start().await;
    let gateway = Gateway::prepare(traced(Setup::default(), &collector.endpoint()));
    let config = gateway.data_dir().with_file_name("hookport.toml");
    std::fs::write(
        &config,
        "[telemetry]\npropagate = true\nservice_name = \"gw\"\n",
    )
    .expect("written");
    let mut gateway = gateway;
    let path = config.display().to_string();
    gateway.set_environment("HOOKPORT_CONFIG", &path);
    gateway.restart().await;
    let receiver = Receiver::ok().await;
    let api = gateway.api();
    api.register("a.b").await;
    api.subscribe_webhook("a.b", &receiver.url()).await;
    emit_traced(&api, &json!({"type": "a.b", "payload": {}}), CALLER).await;
    let told = receiver.wait_for(1).await[0]
        .header("traceparent")
        .to_owned();
    let spans = collector
        .until("the request", |spans| {
            spans.iter().any(|span| told.contains(&span.id))
        })
        .await;
    let request = only(&spans, "request", |span| told.contains(&span.id));
    assert_eq!(told, format!("00-{CALLERS_TRACE}-{}-01", request.id));
    assert_eq!(request.resource["service.name"], "gw");

    // Whose caller does not record is not recorded.
    let unsampled = CALLER.replace("-01", "-00").replace("4bf9", "5af9");
    let (_, delivery) = emit_traced(&api, &json!({"type": "a.b", "payload": {}}), &unsampled).await;
    api.delivery_in(&delivery, "success").await;
    let last = receiver.wait_for(2).await.pop().expect("a request");
    assert_eq!(last.header("traceparent"), "");
    assert!(
        !collector
            .spans()
            .iter()
            .any(|span| span.trace.starts_with("5af9"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_stalls_costs_no_event() {
    let stalling = Receiver::start(|_, _| Reply::ok().after(hookport_tests::PATIENCE * 10)).await;
    let away = "http://127.0.0.1:9".to_owned();
    for endpoint in [away, format!("http://{}", stalling.address())] {
        let mut gateway = Gateway::start_with(traced(Setup::default(), &endpoint)).await;
        let receiver = Receiver::ok().await;
        let api = gateway.api();
        api.register("a.b").await;
        api.subscribe_webhook("a.b", &receiver.url()).await;
        for _ in 0..100 {
            let id = api.emit_one(&json!({"type": "a.b", "payload": {}})).await;
            api.delivery_in(&id, "success").await;
        }
        assert_eq!(receiver.requests().len(), 100);
        let status = gateway.terminate().await;
        assert!(status.success(), "{status}; log:\n{}", gateway.log());
    }
}
