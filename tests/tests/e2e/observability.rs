//! What operators see: metrics as documented and as the dashboard asks for them, and a log whose
//! lines say what they are about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(repository(path)).expect(path)
}

/// A gateway that has seen a delivery, a retry, a dead letter and an unknown path.
async fn after_traffic() -> Gateway {
    let setup = Setup {
        providers: vec!["webhook", "jq"],
        ..Setup::default()
    };
    let gateway = Gateway::start_with(setup).await;
    let api = gateway.api();
    let receiver = Receiver::ok().await;
    let down = Receiver::failing(usize::MAX, 503).await;
    api.register("good.created").await;
    api.register("bad.created").await;
    api.subscribe_webhook("good.created", &receiver.url()).await;
    let retry = json!({"retry": {"delaysMs": [20]}, "filter": ".payload.n == 1"});
    api.subscribe(&with(webhook("bad.created", &down.url()), retry))
        .await;
    let good = json!({"type": "good.created", "payload": {"n": 1}});
    let bad = json!({"type": "bad.created", "payload": {"n": 1}});
    let id = api.emit_one(&good).await;
    api.delivery_in(&id, "success").await;
    let id = api.emit_one(&bad).await;
    api.delivery_in(&id, "failed").await;
    api.get("/nowhere").await.expect(404);
    gateway
}

/// The names of samples, those of a histogram without their endings.
fn sampled(scrape: &str) -> BTreeSet<String> {
    let histograms: BTreeSet<&str> = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram"))
        .collect();
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or("").to_owned();
    let plain = |name: String| {
        let endings = ["_bucket", "_sum", "_count"];
        let of = endings.iter().find_map(|ending| name.strip_suffix(ending));
        match of {
            Some(of) if histograms.contains(of) => of.to_owned(),
            _ => name,
        }
    };
    scrape
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(name)
        .map(plain)
        .collect()
}

/// What looks like one of the gateway's metrics in a text.
fn mentioned(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("hookport_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Rows of the documented table: what this traffic brings, and what a broker, Redis or time does.
fn documented() -> (BTreeSet<String>, BTreeSet<String>) {
    let page = text("docs/operations.md");
    let (mut always, mut sometimes) = (BTreeSet::new(), BTreeSet::new());
    let rows = page.lines().filter_map(|line| {
        let (names, says) = line.strip_prefix("| ")?.split_once(" | ")?;
        (names.starts_with("`hookport_") || names.starts_with("`process_")).then_some((names, says))
    });
    for (names, says) in rows {
        let elsewhere = [
            "`hookport_queue_",
            "`hookport_coord_",
            // Nobody settles a dead letter here, and nothing is old enough to be removed.
            "`hookport_dead_letters_settled_",
            "`hookport_records_removed_",
        ];
        let is_elsewhere = elsewhere.iter().any(|start| names.starts_with(start));
        let of = if is_elsewhere || says.contains("with a broker") {
            &mut sometimes
        } else {
            &mut always
        };
        of.extend(mentioned(names));
    }
    assert!(always.len() > 20, "the table is not found: {always:?}");
    (always, sometimes)
}

async fn scrape(api: &Api) -> String {
    let answer = api.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.text.ends_with("# EOF\n"));
    answer.text
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_those_that_are_documented_and_dashboards_ask_for() {
    let gateway = after_traffic().await;
    let scrape = scrape(&gateway.api()).await;
    let there = sampled(&scrape);
    let (always, sometimes) = documented();
    let missing: Vec<_> = always.difference(&there).collect();
    assert!(missing.is_empty(), "documented and not there: {missing:?}");
    let all: BTreeSet<String> = always.union(&sometimes).cloned().collect();
    let silent: Vec<_> = there.difference(&all).collect();
    assert!(silent.is_empty(), "not in docs/operations.md: {silent:?}");

    for expected in [
        "hookport_retries_total{provider=\"webhook\"} 1",
        "hookport_dead_letters_total{provider=\"webhook\"} 1",
        "hookport_attempts_total{provider=\"webhook\",outcome=\"provider_error\"} 2",
        "hookport_sandbox_calls_total{provider=\"jq\",outcome=\"success\"}",
        "hookport_api_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "hookport_api_requests_total{method=\"POST\",route=\"/api/v1/events\",status=\"202\"} 2",
        "hookport_sandbox_slots_in_use 0",
        "hookport_store_up 1",
    ] {
        assert!(
            scrape.contains(expected),
            "{expected} is missing:\n{scrape}"
        );
    }
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_is_documented() {
    let (always, sometimes) = documented();
    let known = |name: &str| {
        let of = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|ending| name.strip_suffix(ending));
        let has = |name: &str| always.contains(name) || sometimes.contains(name);
        has(name) || of.is_some_and(has)
    };
    let dashboard: Value =
        serde_json::from_str(&text("deploy/grafana/hookport.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = |panel: &Value| panel["targets"].as_array().cloned().unwrap_or_default();
    let queries: Vec<String> = panels
        .iter()
        .flat_map(targets)
        .map(|target| target["expr"].as_str().expect("a query").to_owned())
        .collect();
    assert!(queries.len() > 10, "{queries:?}");
    let alerts: Vec<String> = text("deploy/prometheus/alerts.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: ").map(str::to_owned))
        .collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for query in queries.iter().chain(&alerts) {
        let names = mentioned(query);
        let asks = !names.is_empty() || query.starts_with("up{");
        assert!(asks, "no metric in {query}");
        for name in names {
            assert!(known(&name), "{name} is not a metric: {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_while_the_store_is_away() {
    let (postgres, url) = crate::shared_store::database().await;
    let gateway = Gateway::start_with(crate::shared_store::setup(&url)).await;
    let api = gateway.api();
    api.get("/readyz").await.expect(200);
    let postgres = tokio::task::spawn_blocking(move || {
        postgres.crash();
        postgres
    })
    .await
    .expect("crashed");
    let scrape = scrape(&api).await;
    assert!(scrape.contains("hookport_store_up 0"), "{scrape}");
    assert!(
        scrape.contains("hookport_oldest_due_age_seconds NaN"),
        "{scrape}"
    );
    let ready = api.get("/readyz").await.expect(503);
    assert_eq!(ready["status"], "not_ready");
    api.get("/livez").await.expect(200);
    drop(postgres);
}

/// The lines of a log in JSON.
fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_about_a_delivery_say_which_and_lines_about_a_request_too() {
    let mut gateway = Gateway::prepare(Setup::default());
    let path = gateway.data_dir().with_file_name("hookport.toml");
    let filter = "[log]\njson = true\nfilter = \"info,hookport=debug\"\n";
    fs::write(&path, filter).expect("written");
    gateway.set_environment("HOOKPORT_CONFIG", &path.display().to_string());
    gateway.restart().await;
    let api = gateway.api();
    let down = Receiver::failing(usize::MAX, 500).await;
    api.register("a.b").await;
    let retry = json!({"retry": {"delaysMs": [20]}});
    let secret = "secret-of-the-subscription-99";
    let auth = json!({"config": {"auth": {"type": "bearer", "token": secret}}});
    let target = format!("{}?key=query-77", down.url());
    let subscription = api
        .subscribe(&with(with(webhook("a.b", &target), retry), auth))
        .await;
    let event = json!({"type": "a.b", "payload": {"note": "payload-text-0815"}});
    let request = api.request(reqwest::Method::POST, "/events").json(&event);
    let answer = Api::send(request.header("x-request-id", "order-4711")).await;
    assert_eq!(answer.headers["x-request-id"], "order-4711");
    let accepted = answer.expect(202);
    let id = accepted["id"].as_str().expect("an id").to_owned();
    let delivery = &api.delivery_ids(&accepted).await[0];
    let delivery = api.delivery_in(delivery, "failed").await;
    gateway.log_line("the delivery is given up").await;

    let log = gateway.log();
    let all = lines(&log);
    let about: Vec<&Value> = all
        .iter()
        .filter(|line| line["span"]["delivery"] == delivery["id"])
        .collect();
    let saying = |message: &str, attempt: u32| {
        about
            .iter()
            .find(|line| line["message"] == message && line["span"]["attempt"] == attempt)
            .unwrap_or_else(|| panic!("no line {message:?} of attempt {attempt}:\n{log}"))
    };
    for line in [
        saying("the attempt failed", 1),
        saying("the delivery is given up", 2),
    ] {
        assert_eq!(line["span"]["event"], id.as_str(), "{line}");
        assert_eq!(line["span"]["subscription"], subscription["id"], "{line}");
        assert_eq!(line["span"]["provider"], "webhook", "{line}");
        assert_eq!(line["outcome"], "provider_error", "{line}");
        assert_eq!(line["http_status"], 500, "{line}");
    }
    // No line about a delivery says so elsewhere than in the span.
    for line in &all {
        let text = line.to_string();
        let says = text.contains(delivery["id"].as_str().expect("an id"));
        assert!(!says || line["span"]["name"] == "delivery", "{line}");
    }
    let accepted = all
        .iter()
        .find(|line| line["message"] == "accepted" && line["event"] == id.as_str())
        .unwrap_or_else(|| panic!("no line of the acceptance:\n{log}"));
    assert_eq!(accepted["span"]["request_id"], "order-4711");
    assert_eq!(accepted["span"]["route"], "/api/v1/events");
    let given = Api::send(api.request(reqwest::Method::GET, "/livez")).await;
    let made = given.headers["x-request-id"].to_str().expect("text");
    assert!(made.starts_with("req_"), "{made}");
    for private in [
        secret,
        "query-77",
        "payload-text-0815",
        gateway.admin_key().trim(),
    ] {
        assert!(!log.contains(private), "{private} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_answers_in_json_and_changes_nothing() {
    let mut gateway = Gateway::start().await;
    let doctor = |gateway: &Gateway| {
        let output = gateway
            .command(&["doctor", "--json"])
            .arg("--providers")
            .arg(gateway.providers_dir())
            .output()
            .expect("it runs");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.success(), said)
    };
    let check = |said: &Value, name: &str| {
        let checks = said["checks"].as_array().expect("checks");
        let found = checks.iter().find(|check| check["name"] == name);
        found
            .unwrap_or_else(|| panic!("no check {name}: {said:#}"))
            .clone()
    };
    let (healthy, said) = doctor(&gateway);
    assert!(healthy, "beside a running gateway too: {said:#}");
    let database = check(&said, "database");
    assert!(
        database["detail"]
            .as_str()
            .expect("text")
            .contains("running gateway"),
        "{database}"
    );
    gateway.terminate().await;
    gateway.set_environment("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let before = gateway.data_files();
    let (healthy, said) = doctor(&gateway);
    assert!(healthy, "{said:#}");
    assert_eq!(check(&said, "database")["status"], "ok");
    assert_eq!(check(&said, "traces")["status"], "warning", "{said:#}");
    let after: Vec<_> = gateway.data_files();
    let names = |files: &[(PathBuf, Vec<u8>)]| -> BTreeSet<PathBuf> {
        // The journal comes and goes with whoever has the database open.
        let lasts = |path: &&PathBuf| !path.to_string_lossy().contains("hookport.db-");
        let paths = files.iter().map(|(path, _)| path);
        paths.filter(lasts).cloned().collect()
    };
    assert_eq!(names(&before), names(&after));
    for name in [
        "disk space",
        "code cache",
        "providers",
        "sandbox",
        "open files",
        "master key",
    ] {
        assert_ne!(check(&said, name)["status"], "failing", "{said:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_says_what_a_shared_store_lacks() {
    let (_postgres, url) = crate::shared_store::database().await;
    let mut gateway = Gateway::prepare(crate::shared_store::setup(&url));
    let path = gateway.data_dir().with_file_name("hookport.toml");
    fs::write(&path, "[store]\nmigrate_at_start = false\n").expect("written");
    gateway.set_environment("HOOKPORT_CONFIG", &path.display().to_string());
    let run = |gateway: &Gateway, arguments: &[&str]| {
        let output = gateway.command(arguments).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    };
    fs::create_dir_all(gateway.data_dir()).expect("made");
    let (healthy, said) = run(&gateway, &["doctor"]);
    assert!(
        !healthy && said.contains("run `hookport migrate`"),
        "{said}"
    );
    let (migrated, said) = run(&gateway, &["migrate"]);
    assert!(migrated, "{said}");
    let (_, said) = run(&gateway, &["doctor"]);
    let line = said
        .lines()
        .find(|line| line.contains("database"))
        .unwrap_or("");
    assert!(
        line.starts_with("ok") && line.contains("PostgreSQL"),
        "{said}"
    );
    assert!(!said.contains("pass-of-the-database"), "{said}");
}
