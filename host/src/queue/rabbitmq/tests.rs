//! Over a private PostgreSQL and a private RabbitMQ, with the real time: the broker keeps its own.

use std::time::Instant;

use hookport_test_servers::{Postgres, RabbitMq};
use lapin::options::{BasicPublishOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::super::broker::{Broker as _, DeadMessage, Depth, Drain};
use super::super::conformance::{self, LEASE, Parts};
use super::*;
use crate::domain::id::{IdGenerator, WorkerId};
use crate::store::postgres::PostgresStore;
use crate::wire::SystemClock;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// One set of queues and one database, for several processes.
struct Shared {
    store: Arc<dyn Store>,
    url: String,
    prefix: String,
    ids: IdGenerator,
}

impl Shared {
    async fn new() -> Arc<Self> {
        let (database, url) = tokio::task::spawn_blocking(|| {
            (Postgres::shared().database(), RabbitMq::shared().url())
        })
        .await
        .expect("servers");
        let store = PostgresStore::open(&database, true).await.expect("opens");
        Arc::new(Self {
            store: Arc::new(store),
            url,
            prefix: RabbitMq::prefix(),
            ids: IdGenerator::default(),
        })
    }

    /// The queue of a process.
    fn process(&self, change: impl FnOnce(&mut RabbitConfig)) -> Arc<RabbitQueue<dyn Store>> {
        let mut config = RabbitConfig {
            ca_pem: None,
            url: self.url.clone(),
            prefix: self.prefix.clone(),
            prefetch: 100,
            consumes: true,
            missing_after: Duration::from_secs(2),
            jitter: || 0.5,
        };
        change(&mut config);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let worker: WorkerId = self.ids.next(clock.now(), || 1);
        let direct = EmbeddedQueue::new(self.store.clone(), clock, worker, LEASE);
        let outbox = self.store.clone().outbox().expect("a shared store");
        let queue = RabbitQueue::start(&config, direct, outbox, Figures::default());
        Arc::new(queue.expect("a URL"))
    }

    async fn connected(&self) -> Arc<RabbitQueue<dyn Store>> {
        let queue = self.process(|_| {});
        until("a connection", || queue.is_up()).await;
        queue
    }

    fn parts(self: &Arc<Self>, queue: &Arc<RabbitQueue<dyn Store>>) -> Parts {
        let shared = self.clone();
        Parts {
            queue: queue.clone(),
            other: Box::new(move || shared.process(|_| {})),
            store: self.store.clone(),
            clock: Arc::new(SystemClock),
            manual: None,
        }
    }

    /// Past the queue, as somebody else would.
    async fn channel(&self) -> (Connection, lapin::Channel) {
        let connection = Connection::connect_uri(
            link::parse_url(&self.url).expect("a URL"),
            ConnectionProperties::default(),
        );
        let connection = connection.await.expect("connects");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }
}

async fn until(what: &str, ready: impl Fn() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn fresh() -> (Arc<RabbitQueue<dyn Store>>, Parts) {
    let shared = Shared::new().await;
    let queue = shared.connected().await;
    let parts = shared.parts(&queue);
    (queue, parts)
}

/// The case went through the broker, rather than past it.
fn was_published(queue: &Arc<RabbitQueue<dyn Store>>) {
    assert!(queue.link.figures.published.get() > 0);
    assert_eq!(queue.link.figures.fallbacks.get(), 0);
}

conformance::cases!(fresh, was_published);

#[tokio::test(flavor = "multi_thread")]
async fn what_deleted_queues_held_is_found_by_the_sweep() {
    let shared = Shared::new().await;
    let publishing = shared.process(|config| config.consumes = false);
    until("a connection", || publishing.is_up()).await;
    let parts = shared.parts(&publishing);
    for _ in 0..30 {
        parts.emit(&shared.ids).await;
    }
    let published = &publishing.link.figures.published;
    until("confirms", || published.get() == 30).await;
    let (_connection, channel) = shared.channel().await;
    for queue in ["process", "replay", "dead", "delay.3"] {
        let name = format!("{}.{queue}", shared.prefix).into();
        let deleted = channel.queue_delete(name, QueueDeleteOptions::default());
        deleted.await.expect("deleted");
    }
    let queue = shared.connected().await;
    let parts = shared.parts(&queue);
    parts.take(30).await;
    assert_eq!(queue.link.figures.swept.get(), 30);
    assert_eq!(queue.link.figures.fallbacks.get(), 0);
    // And the queues are there again, also under one that was consuming.
    let name = format!("{}.process", shared.prefix).into();
    let deleted = channel.queue_delete(name, QueueDeleteOptions::default());
    deleted.await.expect("deleted");
    parts.emit(&shared.ids).await;
    parts.take(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_answer_is_lost_comes_again_and_finds_nothing_to_do() {
    let shared = Shared::new().await;
    let first = shared.connected().await;
    let parts = shared.parts(&first);
    parts.emit(&shared.ids).await;
    parts.emit(&shared.ids).await;
    let leased = parts.take(2).await;
    // Recorded past the queue, which therefore never answers the message.
    let direct: &dyn Queue = &*first.direct;
    let result = LeaseResult {
        id: leased[0].id,
        token: leased[0].token,
        attempt: None,
        transition: Transition::Success { external_id: None },
        job: leased[0].job,
        at: SystemClock.now(),
        entry: None,
    };
    direct.settle(result).await.expect("settles");
    drop(parts);
    drop(first);
    let second = shared.connected().await;
    let parts = shared.parts(&second);
    // Both messages come again. One delivery has ended, the other one is leased until it lapses.
    let again = parts.take(1).await;
    assert_eq!(again[0].id, leased[1].id);
    assert!(again[0].token > leased[1].token);
    assert!(parts.nothing_comes(&Room::default).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_does_not_run_through_the_broker() {
    let shared = Shared::new().await;
    let queue = shared.process(|config| config.prefetch = 10);
    until("a connection", || queue.is_up()).await;
    let parts = shared.parts(&queue);
    let mut full = Vec::new();
    for _ in 0..40 {
        full.push(parts.emit(&shared.ids).await);
    }
    let room = move || Room {
        caps: full.iter().map(|id| (*id, 0)).collect(),
        more_at: None,
    };
    let free = parts.emit(&shared.ids).await;
    // It comes, although more wait before it than are prefetched.
    let batch = tokio::time::timeout(PATIENCE, queue.next(10, &room)).await;
    let leased = batch.expect("in time").expect("works").leased;
    assert_eq!((leased.len(), leased[0].subscription_id), (1, free));
    let done = Transition::Success { external_id: None };
    parts.settle(&leased[0], done).await;
    // For longer than it takes to miss a message.
    for _ in 0..20 {
        assert!(parts.nothing_comes(&room).await);
    }
    let figures = &queue.link.figures;
    let held_back = figures.held_back.get();
    assert!((30..=40).contains(&held_back), "{held_back}");
    let published = figures.published.get();
    assert!(
        published <= 41 + 5,
        "{published} messages for 41 deliveries"
    );
    parts.take(40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_the_store_is_claimed_from() {
    let shared = Shared::new().await;
    let queue = shared.process(|config| "amqp://h:p@127.0.0.1:1".clone_into(&mut config.url));
    let parts = shared.parts(&queue);
    parts.emit(&shared.ids).await;
    let leased = parts.take(1).await;
    assert!(!queue.is_told());
    until("a try", || queue.link.figures.fallbacks.get() == 1).await;
    // What a broker was told of, and is not there to tell: the store takes it over.
    parts.settle(&leased[0], Transition::Failed).await;
    let told = shared.connected().await;
    shared.parts(&told).emit(&shared.ids).await;
    drop(told);
    parts.take(1).await;
    assert_eq!(queue.link.figures.handed_over.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dead_queue_is_looked_at_and_drained() {
    let shared = Shared::new().await;
    let queue = shared.connected().await;
    let parts = shared.parts(&queue);
    let subscription = parts.emit(&shared.ids).await;
    let leased = parts.take(1).await.remove(0);
    parts.settle(&leased, Transition::Failed).await;
    // Somebody else's message cannot be read.
    let (_connection, channel) = shared.channel().await;
    let name = format!("{}.process", shared.prefix).into();
    let (options, none) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish("".into(), name, options, b"hello", none);
    sent.await.expect("sent").await.expect("taken");
    let dead = || {
        queue
            .depths()
            .iter()
            .any(|depth| depth.queue == "dead" && depth.messages == 2)
    };
    until("two dead messages", dead).await;
    for _ in 0..2 {
        let mut messages = queue.dead(10).await.expect("answers");
        messages.sort_unstable_by(|a, b| a.reason.cmp(&b.reason));
        let expected = [
            DeadMessage {
                told: Some((leased.id, subscription)),
                reason: "given_up".to_owned(),
            },
            DeadMessage {
                told: None,
                reason: "rejected".to_owned(),
            },
        ];
        assert_eq!(messages, expected);
    }
    let drained = queue.drain(Drain::Requeue, 10).await.expect("drains");
    assert_eq!((drained.messages, drained.requeued), (2, 1));
    assert_eq!(queue.dead(10).await.expect("answers"), []);
    let again = parts.take(1).await.remove(0);
    assert_eq!((again.id, again.attempt), (leased.id, 1));
    parts.settle(&again, Transition::Failed).await;
    until("a dead message", || {
        let dead = |depth: &Depth| depth.queue == "dead" && depth.messages == 1;
        queue.depths().iter().any(dead)
    })
    .await;
    let drained = queue.drain(Drain::Discard, 10).await.expect("drains");
    assert_eq!((drained.messages, drained.requeued), (1, 0));
    assert!(parts.nothing_comes(&Room::default).await);
}
