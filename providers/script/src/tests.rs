//! What scripts can do, and what each end leads to.

use std::time::Duration;

use hookport_sdk::Retry;
use hookport_sdk::testing::{TestEvent, TestHost};

use super::*;

fn event() -> TestEvent {
    TestEvent::new("incident.created").payload(&json!({"title": "Disk full", "n": 3}))
}

fn run(host: &TestHost, code: &str) -> Result<Receipt, DeliveryError> {
    let config = json!({
        "code": code, "hosts": ["https://api.test"], "secrets": {"token": host.secret("s3cr3t/value")},
        "variables": {"team": "red"},
    });
    host.deliver::<Script>(&config, None, &event())
}

fn returned(code: &str) -> Receipt {
    run(&TestHost::new(), code).expect(code)
}

#[test]
fn a_script_returns_a_receipt_or_nothing() {
    let receipt = returned(
        "function deliver(event) { return {externalId: 7, summary: event.type + event.payload.n}; }",
    );
    assert_eq!(
        (receipt.external_id.as_deref(), receipt.summary.as_str()),
        (Some("7"), "incident.created3")
    );
    let receipt = returned("async function deliver() {}");
    assert_eq!(
        (receipt.external_id, receipt.summary.as_str()),
        (None, "the script returned")
    );
    let receipt = returned(
        "const deliver = 1; globalThis.deliver = (event, ctx) => ({summary: `${ctx.attempt} ${ctx.variables.team} ${ctx.subscription.name}`});",
    );
    assert_eq!(receipt.summary, "1 red Test");
    let receipt = returned(
        "function deliver(e, ctx) { return {summary: ctx.render('{{ payload.title }} {{ extra }}', {extra: [1, 2].length})}; }",
    );
    assert_eq!(receipt.summary, "Disk full 2");
}

#[test]
fn fetch_is_awaited_and_answers_are_read() {
    let host = TestHost::new()
        .respond_with(201, &[("X-Kind", "new")], r#"{"id": "T-1"}"#)
        .respond(204, "");
    let receipt = run(&host, r#"
        async function deliver(event, ctx) {
            const made = await fetch("https://api.test/tickets", {
                method: "post", headers: {"Content-Type": "application/json", "X-Key": ctx.deliveryId},
                body: JSON.stringify({title: event.payload.title}),
            });
            const [a, b] = await Promise.all([made.json(), fetch(`https://api.test/tickets/${(await made.json()).id}`)]);
            return {externalId: a.id, summary: [made.ok, made.headers.get("x-kind"), b.status].join(" ")};
        }"#).expect("ran");
    assert_eq!(
        (receipt.external_id.as_deref(), receipt.summary.as_str()),
        (Some("T-1"), "true new 204")
    );
    let sent = host.requests();
    assert_eq!(
        (sent[0].method.as_str(), sent[0].json()),
        ("POST", json!({"title": "Disk full"}))
    );
    assert_eq!(sent[0].header("content-type"), Some("application/json"));
    assert_eq!(
        (sent[1].method.as_str(), sent[1].url.as_str()),
        ("GET", "https://api.test/tickets/T-1")
    );
}

#[test]
fn a_secret_goes_out_where_its_mark_stands_and_is_never_seen() {
    let host = TestHost::new().respond(200, "{}").respond(200, "{}");
    let receipt = run(&host, r#"
        async function deliver(event, ctx) {
            const token = ctx.secrets.token;
            await fetch(`https://api.test/in?key=${token}`, {
                headers: {authorization: "Bearer " + token, "content-type": "application/json"},
                body: JSON.stringify({token, nested: [`<${token}>`]}),
            });
            await fetch("https://api.test/form", {
                headers: {"content-type": "application/x-www-form-urlencoded"}, body: "a=1&token=" + token,
            });
            console.log("the token is", token);
            return {summary: token, externalId: String(token.includes("s3cr3t"))};
        }"#).expect("ran");
    let sent = host.requests();
    assert_eq!(sent[0].url, "https://api.test/in?key=s3cr3t%2Fvalue");
    assert_eq!(sent[0].header("authorization"), Some("Bearer s3cr3t/value"));
    assert_eq!(
        sent[0].json(),
        json!({"token": "s3cr3t/value", "nested": ["<s3cr3t/value>"]})
    );
    assert_eq!(sent[1].text(), "a=1&token=s3cr3t%2Fvalue");
    assert_eq!(
        (receipt.summary.as_str(), receipt.external_id.as_deref()),
        ("[secret token]", Some("false"))
    );
    assert_eq!(host.logs()[0].1, "the token is [secret token]");
}

#[test]
fn a_mark_in_the_payload_is_only_text() {
    let host = TestHost::new().respond(200, "");
    let config = json!({
        "code": "function deliver(e) { return fetch('https://api.test/', {body: e.payload.title}).then(() => {}); }",
        "hosts": ["https://api.test"], "secrets": {"token": host.secret("s3cr3t/value")},
    });
    let forged = TestEvent::new("a.b")
        .payload(&json!({"title": "\u{E000}token\u{E001} \u{E000}x.token\u{E001}"}));
    host.deliver::<Script>(&config, None, &forged).expect("ran");
    assert!(!host.requests()[0].text().contains("s3cr3t"));
}

#[test]
fn what_is_thrown_says_where_and_decides_on_the_retry() {
    let check = |code: &str, retry: Retry, words: &[&str]| {
        let error = run(&TestHost::new(), code).expect_err(code);
        assert_eq!(error.retry, retry, "{error}");
        for word in words {
            assert!(error.message.contains(word), "{word:?} in {error}");
        }
    };
    let after = Retry::After(Duration::from_millis(1_500));
    check(
        "function deliver() {\n  throw new RetryError('busy', {afterMs: 1500});\n}",
        after,
        &["busy"],
    );
    check(
        "function deliver() { throw new RetryError('busy'); }",
        Retry::Default,
        &["busy"],
    );
    check(
        "async function deliver() { throw new PermanentError('no'); }",
        Retry::Never,
        &["no"],
    );
    check(
        "function deliver() {\n  const a = null;\n  return a.b;\n}",
        Retry::Default,
        &["TypeError", "script:3"],
    );
    check(
        "function deliver() { throw 'text'; }",
        Retry::Default,
        &["text"],
    );
    check(
        "function deliver() {\n  let = ;\n}",
        Retry::Never,
        &["config.code", "line 2"],
    );
    check("nosuch();", Retry::Never, &["config.code", "nosuch"]);
    check(
        "function other() {}",
        Retry::Never,
        &["define a function deliver"],
    );
    check(
        "function deliver() { return 'text'; }",
        Retry::Never,
        &["returned a string"],
    );
    check(
        "function deliver() { return new Promise(() => {}); }",
        Retry::Default,
        &["never comes"],
    );
    check(
        "function deliver(e, ctx) { ctx.render('{{ payload.nothing }}'); }",
        Retry::Default,
        &["ctx.render"],
    );
}

#[test]
fn a_host_that_is_not_listed_is_denied_and_a_failure_can_be_caught() {
    let host = TestHost::new();
    let error = run(
        &host,
        "function deliver() { return fetch('https://evil.test/').then(() => {}); }",
    )
    .expect_err("denied");
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.contains("evil.test"), "{error}");
    let host = TestHost::new().fail(HttpError::Timeout);
    let receipt = run(&host, r#"
        async function deliver() {
            try { await fetch("https://api.test/"); } catch (error) { return {summary: error.kind}; }
        }"#).expect("caught");
    assert_eq!(receipt.summary, "timeout");
}

#[test]
fn nothing_of_a_world_outside_is_there_and_nothing_stays() {
    for name in ["process", "require", "Deno", "XMLHttpRequest", "WebSocket"] {
        let receipt = returned(&format!(
            "function deliver() {{ return {{summary: typeof {name}}}; }}"
        ));
        assert_eq!(receipt.summary, "undefined", "{name}");
    }
    returned("globalThis.kept = 1; function deliver() {}");
    let receipt = returned("function deliver() { return {summary: typeof kept}; }");
    assert_eq!(receipt.summary, "undefined");
}

#[test]
fn a_prepared_engine_does_the_same() {
    crate::engine::prepare();
    let receipt = returned("async function deliver(e) { return {summary: e.payload.title}; }");
    assert_eq!(receipt.summary, "Disk full");
}

#[test]
fn an_engine_that_was_prepared_is_as_good_as_a_new_one() {
    engine::prepare();
    let receipt = returned(
        "const before = Object.keys(globalThis).join() + typeof globalThis.deliver; globalThis.deliver = (event) => ({summary: before + event.payload.n});",
    );
    assert_eq!(receipt.summary, "undefined3");
}
