//! Several processes over one PostgreSQL with RabbitMQ in front of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hookport_test_servers::{Postgres, RabbitMq};
use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::chaos::{ATTEMPTS_MAX, Load, all_ended, seed_and_faults};
use crate::shared_store::setup;

/// The servers of one test.
struct Servers {
    _postgres: Postgres,
    broker: RabbitMq,
    store_url: String,
}

impl Servers {
    async fn start() -> Self {
        tokio::task::spawn_blocking(|| {
            let broker = std::thread::spawn(RabbitMq::start);
            let postgres = Postgres::start();
            Self {
                store_url: postgres.database(),
                _postgres: postgres,
                broker: broker.join().expect("a broker"),
            }
        })
        .await
        .expect("servers")
    }

    fn setup(&self) -> Setup {
        let mut setup = setup(&self.store_url);
        let url = ("HOOKPORT_QUEUE_URL", self.broker.url());
        setup.environment.push(url);
        setup
    }

    /// Two gateways that are connected.
    async fn pair(&self) -> (Gateway, Gateway) {
        let first = Gateway::start_with(self.setup()).await;
        let mut second = Gateway::prepare(self.setup());
        second.take_admin_key(&first.admin_key());
        second.restart().await;
        for gateway in [&first, &second] {
            connected(&gateway.api()).await;
        }
        (first, second)
    }

    /// What blocks runs apart.
    async fn with_broker(mut self, act: impl FnOnce(&mut RabbitMq) + Send + 'static) -> Self {
        tokio::task::spawn_blocking(move || {
            act(&mut self.broker);
            self
        })
        .await
        .expect("done")
    }
}

async fn connected(api: &Api) {
    api.until("/queues", "connected", |queues| {
        queues["broker"] == "connected"
    })
    .await;
}

fn event(number: usize) -> Value {
    json!({"type": "incident.created", "payload": {"n": number}})
}

/// A figure, over both processes.
async fn counted(gateways: [&Gateway; 2], name: &str) -> u64 {
    let mut sum = 0;
    for gateway in gateways {
        let text = gateway.api().get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        sum += line
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .trim()
            .parse::<u64>()
            .expect("a number");
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn work_retries_replays_and_dead_letters_go_through_the_broker() {
    let servers = Servers::start().await;
    let (first, second) = servers.pair().await;
    let both = [&first, &second];
    let api = first.api();
    api.register("incident.created").await;
    let receiver = Receiver::start(|index, _| match index {
        0 | 1 => Reply::status(503),
        _ => Reply::ok(),
    })
    .await;
    let retry = json!({"retry": {"delaysMs": [1_400, 2_200]}});
    api.subscribe(&with(webhook("incident.created", &receiver.url()), retry))
        .await;
    let id = api.emit_one(&event(0)).await;
    let delivery = api.delivery_in(&id, "success").await;
    assert_eq!(delivery["attempts"], 3);
    let requests = receiver.requests();
    for (pair, delay_ms) in requests.windows(2).zip([1_400, 2_200]) {
        let waited = pair[1].at - pair[0].at;
        assert!(waited >= Duration::from_millis(delay_ms), "{waited:?}");
    }
    assert_eq!(counted(both, "hookport_queue_published_total").await, 3);

    let mut ids = Vec::new();
    for number in 1..=60 {
        let api = if number % 2 == 0 { &first } else { &second }.api();
        ids.push(api.emit_one(&event(number)).await);
    }
    for id in &ids {
        second.api().delivery_in(id, "success").await;
    }
    assert_eq!(receiver.requests().len(), 63);
    assert_eq!(counted(both, "hookport_queue_published_total").await, 63);

    // Given up, seen in the dead queue, and drained back.
    let refusing = Receiver::start(|index, _| match index {
        0 => Reply::status(400),
        _ => Reply::ok(),
    })
    .await;
    api.register("incident.lost").await;
    let never = json!({"retry": {"delaysMs": []}});
    let subscription = api
        .subscribe(&with(webhook("incident.lost", &refusing.url()), never))
        .await;
    let lost = json!({"type": "incident.lost", "payload": {}});
    let lost = api.emit_one(&lost).await;
    api.delivery_in(&lost, "failed").await;
    let dead = api
        .until("/queues/dead", "a dead message", |page| {
            page["items"]
                .as_array()
                .is_some_and(|items| items.len() == 1)
        })
        .await;
    assert_eq!(
        dead["items"][0],
        json!({"deliveryId": lost, "subscriptionId": subscription["id"], "reason": "given_up"})
    );
    let drained = api
        .post("/queues/dead/drain", &json!({"action": "requeue"}))
        .await
        .expect(200);
    assert_eq!(drained, json!({"messages": 1, "requeued": 1}));
    api.delivery_in(&lost, "success").await;

    // A replay of all of them.
    let swept = counted(both, "hookport_queue_swept_total").await;
    let replay = json!({"reason": "again", "deliveries": "all", "eventType": "incident.created"});
    api.post("/replays", &replay).await.expect(202);
    receiver.wait_for(124).await;
    assert_eq!(
        counted(both, "hookport_queue_swept_total").await - swept,
        61,
        "replays come by the sweep"
    );

    let health = api.get("/health").await.expect(200).to_string();
    assert!(health.contains("connected; messages:"), "{health}");
    let doctor = first.command(&["doctor"]).output().expect("runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("ok    broker"), "{doctor}");
    for text in [first.log(), second.log(), health, doctor] {
        assert!(!text.contains("pass-of-the-broker"), "it has the password");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_stops_nothing() {
    let servers = Servers::start().await;
    let (first, second) = servers.pair().await;
    let api = first.api();
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let servers = servers.with_broker(|broker| broker.crash()).await;
    for number in 0..20 {
        let id = first.api().emit_one(&event(number)).await;
        second.api().delivery_in(&id, "success").await;
    }
    let queues = api.until("/queues", "away", |queues| queues["broker"] == "away");
    queues.await;
    api.get("/health").await.expect(200);
    api.get("/queues/dead")
        .await
        .expect_problem(503, "unavailable");
    let _servers = servers.with_broker(RabbitMq::restart).await;
    for gateway in [&first, &second] {
        connected(&gateway.api()).await;
        assert!(gateway.log().contains("the broker is away"));
        assert!(gateway.log().contains("the broker is back"));
    }
    let both = [&first, &second];
    let before = counted(both, "hookport_queue_published_total").await;
    let id = api.emit_one(&event(20)).await;
    api.delivery_in(&id, "success").await;
    assert_eq!(
        counted(both, "hookport_queue_published_total").await,
        before + 1
    );
    assert!(counted(both, "hookport_queue_fallbacks_total").await >= 2);
}

/// RabbitMQ moves consumers to a queue that is there again before they are told that it was not.
#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_replaced_at_once_are_consumed_from() {
    let servers = Servers::start().await;
    let (first, second) = servers.pair().await;
    let receiver = Receiver::ok().await;
    let api = first.api();
    api.register("chaos.event").await;
    api.subscribe(&webhook("chaos.event", &receiver.url()))
        .await;
    let event = json!({"type": "chaos.event", "payload": {}});
    let id = api.emit_one(&event).await;
    api.delivery_in(&id, "success").await;
    let _servers = servers.with_broker(|broker| broker.replace_queues()).await;
    for gateway in [&first, &second] {
        let id = gateway.api().emit_one(&event).await;
        api.delivery_in(&id, "success").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_wants_a_shared_store() {
    let mut setup = Setup::default();
    let url = "amqp://u:pass-of-the-broker@127.0.0.1:1".to_owned();
    setup.environment.push(("HOOKPORT_QUEUE_URL", url));
    let gateway = Gateway::prepare(setup);
    let serve = gateway.command(&["serve", "--listen", "127.0.0.1:0"]);
    let output = { serve }.output().expect("runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("store.url"), "{said}");
    assert!(!said.contains("pass-of-the-broker"), "{said}");
}

/// Thousands of messages on all rungs at once hold nobody up; and when the broker loses them, the sweep
/// finds the deliveries.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_retry_ladder_blocks_nobody_and_may_be_lost() {
    const EVENTS: usize = 2_000;
    const BATCHES: usize = 20;
    let servers = Servers::start().await;
    let (first, second) = servers.pair().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let destination = {
        let is_well = is_well.clone();
        Receiver::start(move |_, _| match is_well.load(Ordering::Relaxed) {
            true => Reply::ok(),
            false => Reply::status(503),
        })
        .await
    };
    let other = Receiver::ok().await;
    let api = first.api();
    let kinds = [("chaos.refused", &destination), ("chaos.other", &other)];
    for (kind, receiver) in kinds {
        api.register(kind).await;
        // The last rungs leave a slow machine time: nothing may be given up before all is well.
        let retry = json!({
            "retry": {"delaysMs": [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]},
            "circuitBreaker": {"enabled": false},
        });
        api.subscribe(&with(webhook(kind, &receiver.url()), retry))
            .await;
    }
    // Over several seconds, so that some are on each rung.
    for number in 0..BATCHES {
        let event = json!({"type": "chaos.refused", "payload": {"n": number}});
        let batch = vec![event; EVENTS / BATCHES];
        let to = if number % 2 == 0 { &first } else { &second };
        let answer = to.api().post("/events", &json!(batch)).await;
        answer.expect(202);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    destination.wait_for(2 * EVENTS).await;
    let id = api
        .emit_one(&json!({"type": "chaos.other", "payload": {}}))
        .await;
    api.delivery_in(&id, "success").await;
    let waiting = api
        .get("/deliveries?state=retrying&limit=200")
        .await
        .expect(200);
    let still = waiting["items"].as_array().map_or(0, Vec::len);
    assert_eq!(still, 200, "the other one overtook them");
    let _servers = servers.with_broker(|broker| broker.delete_queues()).await;
    is_well.store(true, Ordering::Relaxed);

    let deliveries = all_ended(&api).await;
    let failed: Vec<_> = deliveries
        .iter()
        .filter(|delivery| delivery["state"] != "success")
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(deliveries.len(), EVENTS + 1);
    let history = destination.requests();
    let answered = history.iter().filter(|request| request.answered == 200);
    let delivered: Vec<_> = answered
        .map(|request| request.header("webhook-id"))
        .collect();
    let different: BTreeSet<_> = delivered.iter().collect();
    assert_eq!(different.len(), EVENTS);
    let duplicates = delivered.len() - EVENTS;
    let swept = counted([&first, &second], "hookport_queue_swept_total").await;
    println!(
        "1 fault, {EVENTS} events on the ladder, {swept} swept, {duplicates} duplicates, 0 lost"
    );
    assert!(swept > 0, "the ladder was empty");
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillProcess,
    CrashBroker,
    FreezeBroker,
    DeleteQueues,
    CutConnections,
}

/// As `chaos`, with the broker killed, frozen, robbed of its queues and cut off.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_broker_lose_and_invent_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(8);
    let mut servers = Servers::start().await;
    let (first, mut second) = servers.pair().await;
    // Some retries are down the ladder while things break, the others are not.
    let delays: Vec<u64> = (1..ATTEMPTS_MAX)
        .map(|n| if n % 3 == 1 { 1_500 } else { 20 })
        .collect();
    let retry = json!({"retry": {"delaysMs": delays}, "circuitBreaker": {"enabled": false}});
    let load = Load::begin_with(seed, vec![first.api(), second.api()], retry).await;
    let kinds = [
        Fault::CrashBroker,
        Fault::DeleteQueues,
        Fault::CutConnections,
        Fault::FreezeBroker,
        Fault::KillProcess,
    ];
    for number in 0..faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..1_500))).await;
        // Each once, then by chance.
        let fault = match kinds.get(usize::try_from(number).expect("few")) {
            Some(fault) => *fault,
            None => kinds[rng.random_range(0..kinds.len())],
        };
        println!("{fault:?}");
        let pause = Duration::from_millis(rng.random_range(0..8_000));
        servers = match fault {
            Fault::KillProcess => {
                second.kill();
                load.aim(1, None);
                second.restart().await;
                load.aim(1, Some(second.api()));
                servers
            }
            Fault::CrashBroker => {
                servers
                    .with_broker(|broker| {
                        broker.crash();
                        broker.restart();
                    })
                    .await
            }
            Fault::FreezeBroker => {
                servers
                    .with_broker(move |broker| {
                        broker.freeze();
                        std::thread::sleep(pause);
                        broker.thaw();
                    })
                    .await
            }
            Fault::DeleteQueues => servers.with_broker(|broker| broker.delete_queues()).await,
            Fault::CutConnections => servers.with_broker(|broker| broker.cut_connections()).await,
        };
    }
    let what = "kill -9 of a process, and RabbitMQ killed, frozen, cut off and without its queues";
    load.end(what, faults, &first).await;
    println!(
        "{} messages published, {} swept",
        counted([&first, &second], "hookport_queue_published_total").await,
        counted([&first, &second], "hookport_queue_swept_total").await,
    );
}
