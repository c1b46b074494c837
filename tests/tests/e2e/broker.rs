//! Several processes over one PostgreSQL with RabbitMQ in front of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hookport_test_servers::{Postgres, RabbitMq};
use hookport_tests::api::{Api, webhook, with};
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::{Receiver, Reply};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::chaos::{
    ATTEMPTS_MAX, EMITTERS, Sent, all_ended, check, emitter, from_environment, receiver_script,
};
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
    let seed = from_environment("HOOKPORT_CHAOS_SEED", rand::random());
    let faults = from_environment("HOOKPORT_CHAOS_KILLS", 8);
    println!("HOOKPORT_CHAOS_SEED={seed} HOOKPORT_CHAOS_KILLS={faults}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut servers = Servers::start().await;
    let receiver = Receiver::start(receiver_script(seed)).await;
    let (first, mut second) = servers.pair().await;
    let api = first.api();
    api.register("chaos.event").await;
    // Some retries are down the ladder while things break, the others are not.
    let delays: Vec<u64> = (1..ATTEMPTS_MAX)
        .map(|n| if n % 3 == 1 { 1_500 } else { 20 })
        .collect();
    let retry = json!({"retry": {"delaysMs": delays}, "circuitBreaker": {"enabled": false}});
    api.subscribe(&with(webhook("chaos.event", &receiver.url()), retry))
        .await;
    let sent = Arc::new(Sent::default());
    let (_tell_first, to_first) = watch::channel(Some(first.api()));
    let (tell_second, to_second) = watch::channel(Some(second.api()));
    let emitters: Vec<_> = (0..EMITTERS)
        .map(|number| {
            let to = if number % 2 == 0 {
                &to_first
            } else {
                &to_second
            };
            tokio::spawn(emitter(sent.clone(), to.clone()))
        })
        .collect();
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
                tell_second.send_replace(None);
                second.restart().await;
                tell_second.send_replace(Some(second.api()));
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
    tokio::time::sleep(Duration::from_millis(500)).await;
    sent.stop.store(true, Ordering::Relaxed);
    for emitter in emitters {
        emitter.await.expect("an emitter");
    }
    let accepted = sent
        .accepted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let deliveries = all_ended(&first.api()).await;
    let history = receiver.requests();
    let sent_up_to = sent.next.load(Ordering::Relaxed);
    let duplicates = check(&accepted, sent_up_to, &history, &deliveries);
    println!(
        "{faults} faults, {} events accepted, {} deliveries, {} requests, {duplicates} of them duplicates; {} messages published, {} swept",
        accepted.len(),
        deliveries.len(),
        history.len(),
        counted([&first, &second], "hookport_queue_published_total").await,
        counted([&first, &second], "hookport_queue_swept_total").await,
    );
    assert!(accepted.len() as u64 > faults * 5, "hardly any load");
}
