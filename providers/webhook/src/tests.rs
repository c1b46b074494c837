//! The provider on the native test host.

use std::time::Duration;

use hookport_sdk::serde_json::{Value, json};
use hookport_sdk::testing::{TestEvent, TestHost};
use hookport_sdk::{HttpError, Retry};

use super::*;

const URL: &str = "https://example.com/in";

fn event() -> TestEvent {
    TestEvent::new("incident.created")
}

fn deliver(host: &TestHost, config: &Value) -> Result<Receipt, DeliveryError> {
    host.deliver::<Webhook>(config, None, &event())
}

#[test]
fn sends_the_envelope_with_the_standard_headers() {
    let host = TestHost::new().respond(200, "ok");
    let receipt = deliver(&host, &json!({"url": URL})).expect("delivered");
    assert_eq!(receipt.summary, "200");
    let request = &host.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.url.as_str()),
        ("POST", URL)
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(
        request.header("webhook-id"),
        Some("dlv_01HK0000000000000000000000")
    );
    assert_eq!(
        request.header("idempotency-key"),
        request.header("webhook-id")
    );
    assert_eq!(request.header("webhook-timestamp"), Some("1704067200"));
    assert_eq!(request.header("hookport-attempt"), Some("1"));
    assert_eq!(request.header("webhook-signature"), None);
    assert_eq!(
        request.json(),
        json!({
            "id": "evt_01HK0000000000000000000000",
            "type": "incident.created",
            "timestamp": "2024-01-01T00:00:00.000Z",
            "data": {"incident": {"id": 7, "title": "Disk full"}}
        })
    );
}

#[test]
fn signs_as_standard_webhooks_does() {
    // The specification's own example secret.
    let host = TestHost::new().respond(204, "");
    let config = json!({
        "url": URL,
        "signingSecret": host.secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "bodyTemplate": "{\"test\": 2432232314}",
    });
    deliver(&host, &config).expect("delivered");
    // Computed with Python's hmac over
    // "dlv_01HK0000000000000000000000.1704067200.{\"test\":2432232314}".
    assert_eq!(
        host.requests()[0].header("webhook-signature"),
        Some("v1,2YMIlGAq+FoYJMWXFYheMuR3t3dS6pQRljrWoWyxoXo=")
    );
}

#[test]
fn every_kind_of_credentials() {
    let check = |auth: &dyn Fn(&TestHost) -> Value, header: &str, expected: &str| {
        let host = TestHost::new().respond(200, "");
        let config = json!({"url": URL, "auth": auth(&host)});
        deliver(&host, &config).expect("delivered");
        assert_eq!(host.requests()[0].header(header), Some(expected));
    };
    check(
        &|host| json!({"type": "bearer", "token": host.secret("t0ken")}),
        "authorization",
        "Bearer t0ken",
    );
    check(
        &|host| json!({"type": "basic", "username": "Aladdin", "password": host.secret("open sesame")}),
        "authorization",
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    );
    check(
        &|host| json!({"type": "header", "name": "X-Api-Key", "value": host.secret("k")}),
        "x-api-key",
        "k",
    );
}

#[test]
fn templates_in_url_and_body_cannot_break_out() {
    let host = TestHost::new().respond(200, "");
    let config = json!({
        "url": "https://example.com/{{ payload.incident.id }}?t={{ payload.incident.title | urlencode }}",
        "method": "PUT",
        "bodyTemplate": "{\"text\": \"{{ payload.incident.title }}\", \"n\": 1}",
    });
    let event = event().payload(&json!({"incident": {"id": 9, "title": "\"}, {\"x\": \"&"}}));
    host.deliver::<Webhook>(&config, None, &event)
        .expect("delivered");
    let request = &host.requests()[0];
    assert_eq!(request.method, "PUT");
    assert_eq!(
        request.url,
        "https://example.com/9?t=%22%7D%2C%20%7B%22x%22%3A%20%22%26"
    );
    assert_eq!(request.json(), json!({"text": "\"}, {\"x\": \"&", "n": 1}));
}

#[test]
fn an_undefined_variable_is_named_and_not_retried() {
    let host = TestHost::new();
    let config = json!({"url": URL, "bodyTemplate": "{\"t\": \"{{ payload.incidnet.title }}\"}"});
    let error = deliver(&host, &config).expect_err("undefined");
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.contains("bodyTemplate"), "{error}");
    assert!(host.requests().is_empty());
}

#[test]
fn a_template_that_loops_without_end_is_stopped() {
    let host = TestHost::new();
    let config = json!({"url": URL, "bodyTemplate": "{% for i in range(10000) %}{% for j in range(10000) %}x{% endfor %}{% endfor %}"});
    let error = deliver(&host, &config).expect_err("out of fuel");
    assert!(error.message.contains("fuel"), "{error}");
}

#[test]
fn forms() {
    let host = TestHost::new().respond(200, "");
    let config = json!({
        "url": URL,
        "contentType": "form",
        "bodyTemplate": "{\"title\": \"{{ payload.incident.title }} & co\", \"n\": 1}",
    });
    deliver(&host, &config).expect("delivered");
    let request = &host.requests()[0];
    assert_eq!(
        request.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert!(
        ["title=Disk+full+%26+co&n=1", "n=1&title=Disk+full+%26+co"]
            .contains(&request.text().as_str())
    );
}

#[test]
fn which_answers_are_tried_again() {
    let check = |status: u16, headers: &[(&str, &str)], config: Value, expected: Retry| {
        let host = TestHost::new().respond_with(status, headers, "no\n  luck");
        let error = deliver(&host, &config).expect_err("failure");
        assert_eq!(error.retry, expected, "{status}");
        assert_eq!(
            error.message,
            format!("the receiver answered {status}: no luck")
        );
    };
    let plain = || json!({"url": URL});
    for status in [302, 400, 404, 429, 500, 503] {
        check(status, &[], plain(), Retry::Default);
    }
    check(410, &[], plain(), Retry::Never);
    check(
        429,
        &[("Retry-After", "7")],
        plain(),
        Retry::After(Duration::from_secs(7)),
    );
    check(
        503,
        &[("Retry-After", "Mon, 01 Jan 2024 00:00:30 GMT")],
        plain(),
        Retry::After(Duration::from_secs(30)),
    );
    let only_503 = || json!({"url": URL, "retryOnStatus": [503]});
    check(500, &[], only_503(), Retry::Never);
    check(503, &[], only_503(), Retry::Default);
}

#[test]
fn network_errors_are_tried_again_and_denials_are_not() {
    let check = |error: HttpError, expected: Retry| {
        let host = TestHost::new().fail(error);
        let failure = deliver(&host, &json!({"url": URL})).expect_err("failure");
        assert_eq!(failure.retry, expected);
    };
    check(HttpError::Network("refused".into()), Retry::Default);
    check(HttpError::Timeout, Retry::Default);
    check(HttpError::Denied("not granted".into()), Retry::Never);
}

#[test]
fn the_external_id_comes_from_the_answer() {
    let check = |body: &str, expected: Option<&str>| {
        let host = TestHost::new().respond(201, body);
        let config = json!({"url": URL, "externalIdPointer": "/data/id"});
        let receipt = deliver(&host, &config).expect("delivered");
        assert_eq!(receipt.external_id.as_deref(), expected, "{body}");
    };
    check("{\"data\": {\"id\": \"T-1\"}}", Some("T-1"));
    check("{\"data\": {\"id\": 12}}", Some("12"));
    check("{\"data\": {}}", None);
    check("<html>", None);
}

#[test]
fn the_schema_marks_every_secret() {
    let schema = TestHost::schema::<Config>().expect("schema").to_string();
    assert_eq!(schema.matches("\"x-secret\":true").count(), 4, "{schema}");
}

#[test]
fn an_admins_header_takes_the_place_of_the_usual_one() {
    let host = TestHost::new().respond(200, "");
    let config = json!({
        "url": URL,
        "headers": [
            {"name": "Content-Type", "value": "application/vnd.acme+json"},
            {"name": "x-tag", "value": "a"},
            {"name": "x-tag", "value": "b"},
        ],
    });
    deliver(&host, &config).expect("delivered");
    let request = &host.requests()[0];
    let values = |name: &str| -> Vec<String> {
        let found = request.headers.iter().filter(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(values("content-type"), ["application/vnd.acme+json"]);
    assert_eq!(values("x-tag"), ["a", "b"]);
    assert_eq!(values("webhook-id").len(), 1);
}

#[test]
fn a_later_attempt_keeps_the_idempotency_key() {
    let host = TestHost::new().respond(200, "").respond(200, "");
    for attempt in [1, 2] {
        host.deliver::<Webhook>(&json!({"url": URL}), None, &event().attempt(attempt))
            .expect("delivered");
    }
    let requests = host.requests();
    assert_eq!(
        requests[0].header("webhook-id"),
        requests[1].header("webhook-id")
    );
    assert_eq!(requests[1].header("hookport-attempt"), Some("2"));
}

fn follow_up(config: &Value) -> hookport_sdk::testing::SentRequest {
    let host = TestHost::new().respond(200, "");
    let event = event().follow_up("incident-7", Some("T 1"));
    host.deliver::<Webhook>(config, None, &event)
        .expect("delivered");
    host.requests().remove(0)
}

#[test]
fn a_get_and_a_delete_have_no_body() {
    for method in ["GET", "DELETE"] {
        let host = TestHost::new().respond(200, "");
        let config =
            json!({"url": "https://example.com/{{ payload.incident.id }}", "method": method});
        deliver(&host, &config).expect("delivered");
        let request = &host.requests()[0];
        assert_eq!(
            (request.method.as_str(), request.url.as_str()),
            (method, "https://example.com/7")
        );
        assert!(request.body.is_empty());
        assert_eq!(request.header("content-type"), None);
        assert!(request.header("webhook-id").is_some());
    }
    let template = json!({"url": URL, "method": "DELETE", "bodyTemplate": "{\"id\": 1}"});
    let host = TestHost::new().respond(200, "");
    deliver(&host, &template).expect("delivered");
    assert_eq!(host.requests()[0].json(), json!({"id": 1}));
    for changes in [
        json!({"url": URL, "method": "GET", "bodyTemplate": "{}"}),
        json!({"url": URL, "method": "GET", "envelope": "cloudEventsBinary"}),
        json!({"url": URL, "method": "DELETE", "envelope": "cloudEventsStructured"}),
        json!({"url": URL, "contentType": "form", "envelope": "cloudEventsStructured"}),
    ] {
        let host = TestHost::new();
        let error = deliver(&host, &changes).expect_err("refused");
        assert_eq!(error.retry, Retry::Never, "{error}");
        assert!(host.requests().is_empty());
    }
}

#[test]
fn cloud_events_in_binary_mode() {
    let config =
        json!({"url": URL, "envelope": "cloudEventsBinary", "cloudEventsSource": "/hookport/köln"});
    let request = follow_up(&config);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_01HK0000000000000000000000"),
        ("ce-source", "/hookport/k%C3%B6ln"),
        ("ce-type", "incident.created"),
        ("ce-time", "2024-01-01T00:00:00.000Z"),
        ("ce-subject", "incident-7"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(
        request.json(),
        json!({"incident": {"id": 7, "title": "Disk full"}})
    );
}

#[test]
fn cloud_events_in_structured_mode() {
    let host = TestHost::new().respond(200, "");
    let config = json!({
        "url": URL, "envelope": "cloudEventsStructured", "bodyTemplate": "{\"t\": \"{{ payload.incident.title }}\"}",
    });
    deliver(&host, &config).expect("delivered");
    let request = &host.requests()[0];
    assert_eq!(
        request.header("content-type"),
        Some("application/cloudevents+json; charset=UTF-8")
    );
    assert_eq!(request.header("ce-id"), None);
    assert_eq!(
        request.json(),
        json!({
            "specversion": "1.0",
            "id": "evt_01HK0000000000000000000000",
            "source": "/hookport",
            "type": "incident.created",
            "time": "2024-01-01T00:00:00.000Z",
            "datacontenttype": "application/json",
            "data": {"t": "Disk full"},
        })
    );
}

#[test]
fn a_follow_up_goes_where_it_is_told() {
    let config = json!({
        "url": URL,
        "followUp": {
            "method": "PUT", "url": "https://example.com/in/{{ delivery.externalId | urlencode }}",
            "bodyTemplate": "{\"id\": \"{{ delivery.externalId }}\"}",
        },
    });
    let request = follow_up(&config);
    assert_eq!(
        (request.method.as_str(), request.url.as_str()),
        ("PUT", "https://example.com/in/T%201")
    );
    assert_eq!(request.json(), json!({"id": "T 1"}));
    let host = TestHost::new().respond(200, "");
    deliver(&host, &config).expect("delivered");
    assert_eq!(
        (
            host.requests()[0].method.as_str(),
            host.requests()[0].url.as_str()
        ),
        ("POST", URL)
    );
}

#[test]
fn a_value_cannot_leave_its_place_in_the_url() {
    let host = TestHost::new();
    let config = json!({"url": "https://example.com/in/{{ payload.name }}"});
    let event = event().payload(&json!({"name": "../admin"}));
    let error = host
        .deliver::<Webhook>(&config, None, &event)
        .expect_err("refused");
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.starts_with("url: "), "{error}");
}
