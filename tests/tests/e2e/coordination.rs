//! Several processes over one PostgreSQL and one Redis: what they share, and what becomes of it when
//! Redis does not answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hookport_test_servers::{Postgres, Redis};
use hookport_tests::PATIENCE;
use hookport_tests::api::{Answer, Api, webhook, with};
use hookport_tests::gateway::Gateway;
use hookport_tests::receiver::{Receiver, Reply};
use hookport_tests::teams;
use rand::RngExt as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::chaos::{ATTEMPTS_MAX, Load, all_ended, seed_and_faults};
use crate::shared_store::{database, setup};

/// Two gateways with what they share.
struct Pair {
    first: Gateway,
    second: Gateway,
    redis: Redis,
    _postgres: Postgres,
}

impl Pair {
    async fn start() -> Self {
        Self::start_with(&["webhook"]).await
    }

    async fn start_with(providers: &[&'static str]) -> Self {
        let redis = blocking(Redis::start).await;
        let (postgres, url) = database().await;
        let mut setup = setup(&url);
        setup.providers = providers.to_vec();
        setup.environment.push(("HOOKPORT_REDIS_URL", redis.url()));
        let first = Gateway::start_with(setup.clone()).await;
        let mut second = Gateway::prepare(setup);
        second.take_admin_key(&first.admin_key());
        second.restart().await;
        Self {
            first,
            second,
            redis,
            _postgres: postgres,
        }
    }

    fn both(&self) -> [&Gateway; 2] {
        [&self.first, &self.second]
    }

    /// The one for a number, by turns.
    fn api(&self, number: usize) -> Api {
        self.both()[number % 2].api()
    }

    async fn emit(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.api(number).emit(&event(number)).await;
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for gateway in self.both() {
            let shown = gateway.log().contains("pass-of-the-");
            assert!(!shown || std::thread::panicking(), "the log has a password");
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it ends")
}

fn event(number: usize) -> Value {
    json!({"type": "incident.created", "payload": {"n": number}})
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = gateway.api().get("/metrics").await.text;
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

async fn fallbacks(pair: &Pair) -> u64 {
    let mut sum = 0;
    for gateway in pair.both() {
        sum += metric(gateway, "hookport_coord_fallbacks_total").await;
    }
    sum
}

/// Waits until both say that Redis answers, or that it does not.
async fn both_see(pair: &Pair, is_up: bool) {
    let started = Instant::now();
    for gateway in pair.both() {
        while metric(gateway, "hookport_coord_up").await != u64::from(is_up) {
            assert!(started.elapsed() < PATIENCE, "coord_up is not {is_up}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_over_both_processes() {
    const EVENTS: u32 = 40;
    let pair = Pair::start().await;
    let receiver = Receiver::ok().await;
    let api = pair.first.api();
    api.register("incident.created").await;
    let rate = json!({"rateLimit": {"perSecond": 10, "burst": 1}});
    let subscription = with(webhook("incident.created", &receiver.url()), rate);
    api.subscribe(&subscription).await;
    pair.emit(0..EVENTS as usize).await;
    let requests = receiver.wait_for(EVENTS as usize).await;
    let (first, last) = (requests[0].at, requests[requests.len() - 1].at);
    let lasted = last.duration_since(first);
    assert_eq!(fallbacks(&pair).await, 0, "Redis was too slow to tell");
    // Each for itself, they would take half as long. The first may have been under way for long.
    let least = Duration::from_millis(100) * (EVENTS - 1) * 9 / 10;
    assert!(lasted >= least, "{lasted:?} of at least {least:?}");
    // What was held back lost no attempt.
    for delivery in all_ended(&api).await {
        assert_eq!(delivery["attempts"], 1, "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_opened_at_one_holds_at_the_other_and_one_probe_goes_out() {
    let pair = Pair::start().await;
    let up = Arc::new(AtomicBool::new(false));
    let asked = up.clone();
    let receiver = Receiver::start(move |_, _| {
        if asked.load(Ordering::SeqCst) {
            Reply::ok()
        } else {
            Reply::status(503)
        }
    })
    .await;
    let api = pair.first.api();
    api.register("incident.created").await;
    let flow = json!({
        "circuitBreaker": {"failures": 3, "probeAfterMs": 4000, "probeAfterMsMax": 4000},
        "concurrency": 1,
        "retry": {"delaysMs": [100, 100, 100, 100, 100, 100]},
    });
    let subscription = api
        .subscribe(&with(webhook("incident.created", &receiver.url()), flow))
        .await;
    let path = format!(
        "/subscriptions/{}",
        subscription["id"].as_str().expect("an id")
    );
    let state = |wanted: &'static str| move |found: &Value| found["circuit"]["state"] == wanted;
    pair.emit(0..3).await;
    api.until(&path, "open", state("open")).await;
    // What was under way when it opened has ended by now.
    let before = receiver.settled().await.len();
    assert!((3..=4).contains(&before), "{before}");
    pair.emit(3..13).await;
    let held = receiver.settled().await.len();
    // At most the first probe, whoever takes it.
    assert!(held - before <= 1, "{held} after {before}");
    up.store(true, Ordering::SeqCst);
    api.until(&path, "closed", state("closed")).await;
    let ids = |requests: Vec<hookport_tests::receiver::Received>| {
        let answered = requests.into_iter().filter(|sent| sent.answered == 200);
        answered
            .map(|sent| sent.header("webhook-id").to_owned())
            .collect::<BTreeSet<_>>()
    };
    all_ended(&api).await;
    assert_eq!(ids(receiver.requests()).len(), 13);
}

async fn keyed(api: Api, key: &str) -> Answer {
    let request = api.request(Method::POST, "/events");
    let request = request.header("idempotency-key", key).json(&event(1));
    Api::send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_makes_one_event_whatever_redis_says() {
    let pair = Pair::start().await;
    let receiver = Receiver::ok().await;
    let api = pair.first.api();
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let answers = join_all((0..50).map(|number| keyed(pair.api(number), "once"))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 1, "one 202, the others 200");
    let ids: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.json()["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let again = |number: usize| keyed(pair.api(number), "once");
    let same = |answer: Answer| {
        let answer = answer.expect(200);
        assert!(
            ids.contains(answer["id"].as_str().expect("an id")),
            "{answer}"
        );
    };

    // There is a marker by now.
    let markers = "EVAL \"return redis.call('KEYS','*marker*')\" 0";
    let marker = loop {
        let answer = pair.redis.command(markers).expect("it answers");
        let found = answer.lines().find(|line| line.contains(":marker"));
        match found {
            Some(found) => break found.to_owned(),
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    same(again(0).await);
    for lie in ["nonsense", "evt_01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        let set = format!("SET {marker} {lie} PX 60000");
        assert!(
            pair.redis
                .command(&set)
                .expect("it answers")
                .contains("+OK\r\n+OK")
        );
        same(again(1).await);
    }
    pair.redis.flush();
    same(again(0).await);
    pair.redis.freeze();
    same(again(1).await);
    same(again(0).await);
    both_see(&pair, false).await;
    pair.redis.thaw();
    both_see(&pair, true).await;
    same(again(1).await);
    receiver.wait_for(1).await;
    assert_eq!(receiver.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_is_fetched_for_both_and_redis_never_sees_it() {
    let pair = Pair::start_with(&["webhook", "teams"]).await;
    let server = teams::start(0).await;
    let base = format!("http://{}", server.address());
    let api = pair.first.api();
    api.register("incident.created").await;
    let connection = json!({"name": "Teams", "provider": "teams", "settings": {
        "type": "graph", "tenantId": "tenant-1", "clientId": "client-1",
        "clientSecret": teams::SECRET, "baseUrl": base, "loginUrl": base,
    }});
    let connection = api.post("/connections", &connection).await.expect(201);
    let subscription = json!({
        "name": "Teams", "provider": "teams", "events": "incident.created",
        "connectionId": connection["id"],
        "config": {"teamId": "team-1", "channelId": "channel-1"},
        "retry": {"delaysMs": [50, 50, 50, 50]},
    });
    api.subscribe(&subscription).await;
    pair.emit(0..1).await;
    all_ended(&api).await;
    pair.emit(1..31).await;
    for delivery in all_ended(&api).await {
        assert_eq!(delivery["state"], "success", "{delivery}");
    }
    let requests = server.requests();
    let fetched = requests
        .iter()
        .filter(|request| request.path.ends_with("/token"))
        .count();
    assert_eq!(fallbacks(&pair).await, 0, "Redis was too slow to tell");
    // The first one is revoked before it is used.
    assert_eq!(fetched, 2, "each process fetched for itself");
    let kept = pair.redis.content().expect("it answers");
    assert!(kept.contains("oauth2/teams/"), "nothing is shared: {kept}");
    for secret in ["access-token-", "client~secret"] {
        assert!(!kept.contains(secret), "{secret} is in clear: {kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_and_health_tell_of_redis() {
    let pair = Pair::start().await;
    let doctor = || {
        let output = pair.first.command(&["doctor"]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("pass-of-the-"), "{text}");
        text
    };
    let detail = |health: Value| {
        let dependencies = health["dependencies"].as_array().expect("a list").clone();
        let redis = dependencies.into_iter().find(|one| one["name"] == "redis");
        redis.expect("redis")["detail"].clone()
    };
    assert!(doctor().contains("ok    redis: answers"), "{}", doctor());
    let health = pair.first.api().get("/health").await.expect(200);
    assert_eq!(detail(health), "answers");
    pair.redis.crash();
    both_see(&pair, false).await;
    let health = pair.first.api().get("/health").await.expect(200);
    assert_ne!(detail(health), "answers");
    assert!(
        doctor().contains("FAIL  redis: redis.url: "),
        "{}",
        doctor()
    );
}

#[derive(Debug)]
enum Fault {
    Crash,
    Freeze,
    Flush,
}

/// As `chaos`, with Redis as what breaks: not one answer is an error.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_redis_under_load_lose_and_refuse_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(6);
    let mut pair = Pair::start().await;
    let flow = json!({
        "retry": {"delaysMs": vec![20; ATTEMPTS_MAX as usize - 1]},
        "rateLimit": {"perSecond": 1000, "burst": 50},
        "circuitBreaker": {"failures": 5, "probeAfterMs": 100, "probeAfterMsMax": 200},
    });
    let apis = pair.both().map(Gateway::api).to_vec();
    let load = Load::begin_with(seed, apis, flow).await;
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let fault = match rng.random_range(0..3) {
            0 => Fault::Crash,
            1 => Fault::Freeze,
            _ => Fault::Flush,
        };
        let away = Duration::from_millis(rng.random_range(100..2_000));
        println!("{fault:?} {away:?}");
        match fault {
            Fault::Crash => {
                pair.redis.crash();
                tokio::time::sleep(away).await;
                pair.redis.restart();
            }
            Fault::Freeze => {
                pair.redis.freeze();
                tokio::time::sleep(away).await;
                pair.redis.thaw();
            }
            Fault::Flush => pair.redis.flush(),
        }
    }
    // At least one fault that nobody can overlook.
    pair.redis.freeze();
    both_see(&pair, false).await;
    pair.redis.thaw();
    both_see(&pair, true).await;
    let what = "Redis killed, frozen and flushed";
    let refused = load.end(what, faults + 1, &pair.first).await;
    let fell_back = fallbacks(&pair).await;
    println!("{fell_back} calls fell back");
    assert_eq!(refused, 0, "answers 5xx");
    assert!(fell_back > 0, "nobody noticed");
    for gateway in pair.both() {
        let log = gateway.log();
        let times = |line: &str| log.matches(line).count();
        let (gone, back) = (times("Redis is not there"), times("Redis answers again"));
        assert!(
            gone > 0 && gone == back,
            "{gone} times gone, {back} times back"
        );
    }
}
