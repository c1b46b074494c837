//! The audit trail: each management action with what was before and after, no secret in it, and
//! whatever is done to it behind the gateway's back is found.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup, binary};
use hookport_tests::receiver::{Receiver, Reply};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::shared_store::{database, pair};

const TOKEN: &str = "t0ken-in-a-subscription-93kd";
const OTHER_TOKEN: &str = "an0ther-t0ken-77qw";
const BOT_TOKEN: &str = "xoxb-8123-in-a-connection";
const SOURCE_SECRET: &str = "s0urce-secret-of-some-length";
const NEW_SOURCE_SECRET: &str = "a-new-s0urce-secret-as-long";

fn id(document: &Value) -> String {
    document["id"].as_str().expect("an id").to_owned()
}

/// The newest entry of that action about that target.
async fn entry(api: &Api, action: &str, target: &str) -> Value {
    let path = format!("/audit?action={action}&target={target}&limit=1");
    let page = api.get(&path).await.expect(200);
    let entry = page["items"][0].clone();
    assert!(!entry.is_null(), "no {action} of {target}");
    entry
}

/// Checks who did it, and what was before and after by a member of each.
async fn done(api: &Api, action: &str, target: &str, member: &str, before: Value, after: Value) {
    let entry = entry(api, action, target).await;
    assert_eq!(entry["actor"]["kind"], "key", "{entry}");
    assert_eq!(entry["actor"]["name"], "first admin", "{entry}");
    assert_eq!(entry["target"]["id"], target, "{entry}");
    let shown = |state: &Value| match state {
        Value::Null => Value::Null,
        state => state[member].clone(),
    };
    assert_eq!(shown(&entry["before"]), before, "{entry}");
    assert_eq!(shown(&entry["after"]), after, "{entry}");
}

/// All of the trail, page by page, as text.
async fn whole(api: &Api) -> String {
    let (mut text, mut next) = (String::new(), String::new());
    loop {
        let answer = api.get(&format!("/audit?limit=10{next}")).await;
        let page = answer.clone().expect(200);
        text.push_str(&answer.text);
        match page["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return text,
        }
    }
}

async fn subscriptions(api: &Api, url: &str) -> String {
    let auth = |token: &str| json!({"config": {"auth": {"type": "bearer", "token": token}}});
    let body = with(webhook("incident.*", url), auth(TOKEN));
    let created = api.subscribe(&body).await;
    let id = id(&created);
    let name = created["name"].clone();
    done(
        api,
        "subscription.created",
        &id,
        "name",
        json!(null),
        name.clone(),
    )
    .await;
    let path = format!("/subscriptions/{id}");
    let changed = with(with(body, auth(OTHER_TOKEN)), json!({"name": "renamed"}));
    let request = api.request(Method::PUT, &path).json(&changed);
    let answer = Api::send(request.header("x-request-id", "the-request-77")).await;
    answer.expect(200);
    done(
        api,
        "subscription.updated",
        &id,
        "name",
        name,
        json!("renamed"),
    )
    .await;
    let updated = entry(api, "subscription.updated", &id).await;
    assert_eq!(updated["requestId"], "the-request-77");
    let unnamed = entry(api, "subscription.created", &id).await;
    assert!(
        unnamed["requestId"]
            .as_str()
            .is_some_and(|id| id.starts_with("req_")),
        "{unnamed}"
    );
    assert_eq!(updated["after"]["config"]["auth"]["token"], "");
    for (act, action, member, before, after) in [
        ("pause", "subscription.paused", "paused", false, true),
        ("resume", "subscription.resumed", "paused", true, false),
        ("disable", "subscription.disabled", "enabled", true, false),
        ("enable", "subscription.enabled", "enabled", false, true),
    ] {
        api.act(&format!("{path}/{act}")).await.expect(200);
        done(api, action, &id, member, json!(before), json!(after)).await;
    }
    let event = json!({"type": "incident.created", "payload": {}});
    let sent = api.post(&format!("{path}/test-event"), &event).await;
    let event = sent.expect(202)["eventId"].clone();
    done(
        api,
        "subscription.tested",
        &id,
        "eventId",
        json!(null),
        event,
    )
    .await;
    id
}

async fn connections(api: &Api) -> String {
    let body = json!({"name": "team", "provider": "slack",
        "settings": {"type": "bot", "token": BOT_TOKEN, "baseUrl": "http://127.0.0.1:9"}});
    let id = id(&api.post("/connections", &body).await.expect(201));
    done(
        api,
        "connection.created",
        &id,
        "name",
        json!(null),
        json!("team"),
    )
    .await;
    let path = format!("/connections/{id}");
    let renamed = with(body, json!({"name": "crew"}));
    api.put(&path, &renamed).await.expect(200);
    done(
        api,
        "connection.updated",
        &id,
        "name",
        json!("team"),
        json!("crew"),
    )
    .await;
    api.act(&format!("{path}/test")).await.expect(200);
    done(
        api,
        "connection.tested",
        &id,
        "ok",
        json!(null),
        json!(false),
    )
    .await;
    api.delete(&path).await.expect(204);
    done(
        api,
        "connection.deleted",
        &id,
        "name",
        json!("crew"),
        json!(null),
    )
    .await;
    id
}

async fn sources(api: &Api) {
    let body = json!({"name": "acme", "component": "acme", "config": {},
        "verification": {"scheme": "hmacSha256", "header": "x-acme-signature"},
        "secret": SOURCE_SECRET});
    let id = id(&api.post("/sources", &body).await.expect(201));
    done(
        api,
        "source.created",
        &id,
        "enabled",
        json!(null),
        json!(true),
    )
    .await;
    let path = format!("/sources/{id}");
    let secret = json!({"secret": NEW_SOURCE_SECRET});
    let rotated = api.post(&format!("{path}/rotate-secret"), &secret).await;
    rotated.expect(200);
    let rotated = entry(api, "source.secret_rotated", &id).await;
    let count = |state: &str| rotated[state]["secrets"].as_array().map(Vec::len);
    assert_eq!((count("before"), count("after")), (Some(1), Some(2)));
    let off = with(body, json!({"enabled": false}));
    api.put(&path, &off).await.expect(200);
    done(
        api,
        "source.updated",
        &id,
        "enabled",
        json!(true),
        json!(false),
    )
    .await;
    api.delete(&path).await.expect(204);
    done(
        api,
        "source.deleted",
        &id,
        "enabled",
        json!(false),
        json!(null),
    )
    .await;
}

async fn event_types(api: &Api) {
    let name = "door.opened";
    let put = |text: &str| json!({"description": text});
    let path = format!("/event-types/{name}");
    api.put(&path, &put("one")).await.expect(201);
    done(
        api,
        "event_type.created",
        name,
        "description",
        json!(null),
        json!("one"),
    )
    .await;
    api.put(&path, &put("two")).await.expect(200);
    done(
        api,
        "event_type.updated",
        name,
        "description",
        json!("one"),
        json!("two"),
    )
    .await;
    api.delete(&path).await.expect(204);
    done(
        api,
        "event_type.deleted",
        name,
        "description",
        json!("two"),
        json!(null),
    )
    .await;
    for text in ["first", "second"] {
        let catalogue = json!({"eventTypes": {"opened": put(text)}});
        api.put("/plugins/gate/event-types", &catalogue)
            .await
            .expect(200);
    }
    let registered = entry(api, "catalogue.registered", "gate").await;
    assert_eq!(registered["before"]["gate.opened"]["description"], "first");
    assert_eq!(
        registered["after"]["eventTypes"]["gate.opened"]["description"],
        "second"
    );
    assert_eq!(
        registered["after"]["changes"]["updated"],
        json!(["gate.opened"])
    );
}

async fn keys_and_grants(api: &Api) {
    let body = json!({"name": "ci", "role": "emitter"});
    let created = api.post("/keys", &body).await.expect(201);
    let id = id(&created);
    done(
        api,
        "key.created",
        &id,
        "role",
        json!(null),
        json!("emitter"),
    )
    .await;
    api.delete(&format!("/keys/{id}")).await.expect(204);
    done(api, "key.revoked", &id, "name", json!("ci"), json!(null)).await;
    let text = whole(api).await;
    assert!(!text.contains(created["key"].as_str().expect("a key")));
    let grant = |net: &str| json!({"hosts": ["{config.url}"], "allowAddresses": [net]});
    for net in ["127.0.0.0/8", "127.0.0.0/9"] {
        api.put("/providers/webhook/grant", &grant(net))
            .await
            .expect(200);
    }
    let nets = (json!(["127.0.0.0/8"]), json!(["127.0.0.0/9"]));
    done(
        api,
        "grant.changed",
        "webhook",
        "allowAddresses",
        nets.0,
        nets.1,
    )
    .await;
}

/// Deliveries, replays, and what the gateway does by itself.
async fn lifecycle(gateway: &Gateway) {
    let api = gateway.api();
    let gone = Receiver::start(|_, _| Reply::status(410)).await;
    let down = Receiver::start(|_, _| Reply::status(503)).await;
    let once = json!({"retry": {"delaysMs": []}, "circuitBreaker": {"failures": 2}});
    api.register("gone.now").await;
    api.register("down.now").await;
    let to_gone = id(&api.subscribe_webhook("gone.now", &gone.url()).await);
    let to_down = api
        .subscribe(&with(webhook("down.now", &down.url()), once))
        .await;
    let given_up = api
        .emit_one(&json!({"type": "gone.now", "payload": {}}))
        .await;
    api.delivery_in(&given_up, "failed").await;
    let entry_of = async |action: &str, target: &str| {
        let path = format!("/audit?action={action}&target={target}");
        let found = |page: &Value| !page["items"][0].is_null();
        let page = api.until(&path, action, found).await;
        let entry = page["items"][0].clone();
        assert_eq!(entry["actor"]["kind"], "process", "{entry}");
        entry
    };
    let ended = entry_of("delivery.given_up", &given_up).await;
    assert_eq!(ended["after"]["subscriptionId"], json!(to_gone));
    let disabled = entry_of("subscription.disabled", &to_gone).await;
    assert!(
        disabled["after"]["disabledReason"]
            .as_str()
            .is_some_and(|why| why.contains("410"))
    );
    for _ in 0..2 {
        let event = json!({"type": "down.now", "payload": {}});
        let delivery = api.emit_one(&event).await;
        api.delivery_attempted(&delivery, 1).await;
    }
    entry_of("circuit.opened", &id(&to_down)).await;
    entry_of("component.serving", "webhook.wasm").await;

    let body = json!({"reason": "to see", "deliveries": "failed", "eventType": "down.now"});
    let replay = id(&api.post("/replays", &body).await.expect(202));
    done(
        &api,
        "replay.started",
        &replay,
        "reason",
        json!(null),
        json!("to see"),
    )
    .await;
    let path = format!("/subscriptions/{to_gone}");
    api.act(&format!("{path}/enable")).await.expect(200);
    api.act(&format!("/deliveries/{given_up}/retry"))
        .await
        .expect(202);
    let retried = entry(&api, "delivery.retried", &given_up).await;
    assert_eq!(retried["before"]["state"], "failed");
    gateway.install_bytes(b"no component", "broken.wasm");
    let broken = entry_of("component.rejected", "broken.wasm").await;
    assert!(broken["after"]["reason"].is_string(), "{broken}");
    std::fs::remove_file(gateway.providers_dir().join("webhook.wasm")).expect("removed");
    let stopped = entry_of("component.stopped", "webhook.wasm").await;
    assert_eq!(stopped["after"]["provider"], "webhook");
    assert!(stopped["after"]["reason"].is_string(), "{stopped}");
    let webhook = hookport_tests::gateway::component("webhook");
    gateway.install(&webhook, "webhook.wasm");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_management_action_is_in_the_trail_with_before_and_after_and_without_secrets() {
    let mut gateway = Gateway::start_with(Setup {
        providers: vec!["webhook", "slack", "acme"],
        ..Setup::default()
    })
    .await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    let subscription = subscriptions(&api, &receiver.url()).await;
    connections(&api).await;
    sources(&api).await;
    event_types(&api).await;
    keys_and_grants(&api).await;
    lifecycle(&gateway).await;
    api.delete(&format!("/subscriptions/{subscription}"))
        .await
        .expect(204);
    let name = json!("renamed");
    done(
        &api,
        "subscription.deleted",
        &subscription,
        "name",
        name,
        json!(null),
    )
    .await;

    gateway.terminate().await;
    let mut create = gateway.command(&["key", "create", "--name", "cli", "--role", "viewer"]);
    let viewer = succeeded(&create.output().expect("it runs"))
        .trim()
        .to_owned();
    gateway.restart().await;
    let api = gateway.api();
    let text = whole(&api).await;
    for action in ["process.started", "process.stopped"] {
        assert!(text.contains(action), "{action}");
    }
    let made = api
        .get("/audit?action=key.created&limit=1")
        .await
        .expect(200);
    assert_eq!(made["items"][0]["actor"]["kind"], "command", "{made}");
    for secret in [
        TOKEN,
        OTHER_TOKEN,
        BOT_TOKEN,
        SOURCE_SECRET,
        NEW_SOURCE_SECRET,
        "$sealed",
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    api.with_key(&viewer)
        .get("/audit")
        .await
        .expect_problem(403, "forbidden");
    let wrong = api.get("/audit?action=*.created").await;
    wrong.expect_problem(400, "validation");

    // Beside the running gateway.
    let head = api.get("/audit/head").await.expect(200);
    let anchor = head["anchor"].as_str().expect("an anchor");
    let line = doctor(&gateway.data_dir(), None, Some(anchor));
    assert!(line.starts_with("ok "), "{line}");
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `doctor` says of a trail.
fn doctor(data_dir: &Path, store_url: Option<&str>, expected: Option<&str>) -> String {
    let mut command = Command::new(binary());
    command
        .args(["doctor", "--audit", "--data-dir"])
        .arg(data_dir);
    command.env_clear().env("HOOKPORT_PROVIDERS", data_dir);
    if let Some(url) = store_url {
        command.env("HOOKPORT_STORE_URL", url);
    }
    if let Some(anchor) = expected {
        command.args(["--expect", anchor]);
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("audit trail:"));
    let line = line.unwrap_or_else(|| panic!("{output:?}")).to_owned();
    if line.starts_with("FAIL") {
        assert!(!output.status.success(), "{line}");
    }
    line
}

/// What is done to a trail of `count` entries by somebody who may do everything to the database, and
/// what is said of it.
fn ways(count: i64) -> Vec<(Vec<String>, String)> {
    let way = |statements: &[String], found: String| (statements.to_vec(), found);
    let one = |statement: &str, found: &str| way(&[statement.to_owned()], found.to_owned());
    let beyond = count + 1;
    let copy = |seq: i64| {
        format!(
            "INSERT INTO audit_entries SELECT {seq}, at, actor_kind, actor_id, actor_name, request_id, action, target_kind, target_id, state_before, state_after, hash FROM audit_entries WHERE seq = 3"
        )
    };
    vec![
        one(
            "UPDATE audit_entries SET actor_name = 'somebody else' WHERE seq = 3",
            "entry 3 was altered",
        ),
        one(
            "UPDATE audit_entries SET state_after = '{}' WHERE seq = 2",
            "entry 2 was altered",
        ),
        one(
            "UPDATE audit_entries SET at = at + 1 WHERE seq = 1",
            "entry 1 was altered",
        ),
        one(
            "DELETE FROM audit_entries WHERE seq = 1",
            "entry 1 is missing",
        ),
        one(
            "DELETE FROM audit_entries WHERE seq = 4",
            "entry 4 is missing",
        ),
        one(
            &format!("DELETE FROM audit_entries WHERE seq = {count}"),
            &format!("entry {count} is missing"),
        ),
        one("DELETE FROM audit_entries", "entry 1 is missing"),
        way(
            &[
                "UPDATE audit_entries SET seq = -1 WHERE seq = 3".to_owned(),
                "UPDATE audit_entries SET seq = 3 WHERE seq = 4".to_owned(),
                "UPDATE audit_entries SET seq = 4 WHERE seq = -1".to_owned(),
            ],
            "entry 3 was altered".to_owned(),
        ),
        one(&copy(0), "entry 0 was inserted"),
        one(&copy(beyond), &format!("entry {beyond} was altered")),
        one(
            "UPDATE audit_head SET seq = seq - 1",
            &format!("entry {} is not the one", count - 1),
        ),
        one(
            "UPDATE audit_head SET seq = seq + 1",
            &format!("entry {beyond} is missing"),
        ),
        // What only somebody finds who knows the end from elsewhere.
        way(
            &[
                format!(
                    "UPDATE audit_head SET seq = {}, hash = (SELECT hash FROM audit_entries WHERE seq = {})",
                    count - 1,
                    count - 1
                ),
                format!("DELETE FROM audit_entries WHERE seq = {count}"),
            ],
            "the chain is whole".to_owned(),
        ),
    ]
}

/// Tries every way, each on a trail of its own that `altered` makes: a data directory, and where
/// that is not all, a database.
async fn tamper(anchor: &str, altered: impl AsyncFn(Vec<String>) -> (TempDir, Option<String>)) {
    let (count, _) = anchor.split_once(':').expect("an anchor");
    let count = count.parse().expect("a number");
    for (statements, found) in ways(count) {
        let (data_dir, url) = altered(statements.clone()).await;
        let line = doctor(data_dir.path(), url.as_deref(), None);
        assert!(line.contains(&found), "{statements:?}: {line}");
        let line = doctor(data_dir.path(), url.as_deref(), Some(anchor));
        assert!(line.starts_with("FAIL"), "{statements:?}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_file_is_found() {
    let mut gateway = Gateway::start().await;
    gateway.api().register("incident.created").await;
    gateway.terminate().await;
    let whole = doctor(&gateway.data_dir(), None, None);
    assert!(whole.starts_with("ok "), "{whole}");
    let anchor = whole.rsplit(' ').next().expect("an anchor");
    let original = gateway.data_dir().join("hookport.db");
    tamper(anchor, async |statements| {
        let copy = tempfile::tempdir().expect("a directory");
        let path = copy.path().join("hookport.db");
        std::fs::copy(&original, &path).expect("copied");
        let options = SqliteConnectOptions::new().filename(&path);
        let mut connection = SqliteConnection::connect_with(&options)
            .await
            .expect("opens");
        let names = "SELECT name FROM sqlite_master WHERE type = 'trigger'";
        let triggers: Vec<String> = sqlx::query_scalar(names)
            .fetch_all(&mut connection)
            .await
            .expect("triggers");
        for trigger in triggers {
            run(&mut connection, format!("DROP TRIGGER {trigger}")).await;
        }
        for statement in statements {
            run(&mut connection, statement).await;
        }
        connection.close().await.expect("closed");
        (copy, None)
    })
    .await;
}

async fn run<'c, C: Executor<'c>>(connection: C, statement: String) {
    let done = connection.execute(AssertSqlSafe(statement)).await;
    done.expect("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_done_to_the_table_is_found() {
    let (_postgres, url) = database().await;
    let (mut first, mut second) = pair(&url).await;
    let registering = (0..40).map(|number| {
        let api = if number % 2 == 0 {
            first.api()
        } else {
            second.api()
        };
        async move { api.register(&format!("incident.kind{number}")).await }
    });
    futures_util::future::join_all(registering).await;
    first.terminate().await;
    second.terminate().await;
    let home = tempfile::tempdir().expect("a directory");
    let whole = doctor(home.path(), Some(&url), None);
    assert!(whole.starts_with("ok "), "{whole}");
    let anchor = whole.rsplit(' ').next().expect("an anchor");
    let (server, original) = url.rsplit_once('/').expect("a URL");
    let number = AtomicU32::new(0);
    tamper(anchor, async |statements| {
        let name = format!("tampered{}", number.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&format!("{server}/postgres"))
            .await
            .expect("opens");
        run(
            &mut admin,
            format!("CREATE DATABASE {name} TEMPLATE {original}"),
        )
        .await;
        let url = format!("{server}/{name}");
        let mut connection = PgConnection::connect(&url).await.expect("opens");
        // As whoever owns the tables may.
        run(
            &mut connection,
            "SET session_replication_role = replica".to_owned(),
        )
        .await;
        for statement in statements {
            run(&mut connection, statement).await;
        }
        connection.close().await.expect("closed");
        (tempfile::tempdir().expect("a directory"), Some(url))
    })
    .await;
}
