//! Two processes over PostgreSQL, RabbitMQ and Redis at once, with one or two of all these failing
//! at a time, and the checker of `chaos` afterwards.

use std::time::Duration;

use futures_util::future::join;
use hookport_test_servers::proxy::{Fault, Proxy};
use hookport_test_servers::{Postgres, RabbitMq, Redis};
use hookport_tests::gateway::Gateway;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::chaos::{Load, seed_and_faults};
use crate::shared_store::{database, setup};

/// What a moment can do to the servers.
#[derive(Clone, Copy, Debug)]
enum Act {
    CrashPostgres,
    FreezePostgres,
    Connections(Fault),
    BrokerConnections(Fault),
    CrashBroker,
    FreezeBroker,
    DeleteQueues,
    CutBroker,
    CrashRedis,
    FreezeRedis,
    FlushRedis,
}

/// What a moment can do to the processes.
#[derive(Clone, Copy, Debug)]
enum Blow {
    None,
    Kill([bool; 2]),
    Freeze(usize),
}

struct Servers {
    postgres: Postgres,
    broker: RabbitMq,
    redis: Redis,
}

impl Servers {
    fn act(&mut self, act: Act, away: Duration) {
        let pause = || std::thread::sleep(away);
        match act {
            Act::CrashPostgres => {
                self.postgres.crash();
                pause();
                self.postgres.restart();
            }
            Act::FreezePostgres => {
                self.postgres.freeze();
                pause();
                self.postgres.thaw();
            }
            // A proxy does it.
            Act::Connections(_) | Act::BrokerConnections(_) => pause(),
            Act::CrashBroker => {
                self.broker.crash();
                pause();
                self.broker.restart();
            }
            Act::FreezeBroker => {
                self.broker.freeze();
                pause();
                self.broker.thaw();
            }
            Act::DeleteQueues => self.broker.delete_queues(),
            Act::CutBroker => self.broker.cut_connections(),
            Act::CrashRedis => {
                self.redis.crash();
                pause();
                self.redis.restart();
            }
            Act::FreezeRedis => {
                self.redis.freeze();
                pause();
                self.redis.thaw();
            }
            Act::FlushRedis => self.redis.flush(),
        }
    }
}

fn any_act(rng: &mut StdRng) -> Act {
    match rng.random_range(0..17) {
        0 => Act::CrashPostgres,
        1 => Act::FreezePostgres,
        2 => Act::Connections(Fault::CutAfter(rng.random_range(1..20_000))),
        3 => Act::Connections(Fault::BlackHole),
        4 => Act::Connections(Fault::Refuse),
        5 | 6 => Act::Connections(Fault::DropCommitAnswers),
        7 => Act::CrashBroker,
        8 => Act::FreezeBroker,
        9 => Act::DeleteQueues,
        10 => Act::CutBroker,
        11 => Act::CrashRedis,
        12 => Act::FreezeRedis,
        13 => Act::BrokerConnections(Fault::CutAfter(rng.random_range(1..20_000))),
        14 => Act::BrokerConnections(Fault::BlackHole),
        // Publications, acknowledgements and heartbeats.
        15 => Act::BrokerConnections(Fault::LoseRequests),
        _ => Act::FlushRedis,
    }
}

fn any_blow(rng: &mut StdRng) -> Blow {
    match rng.random_range(0..8) {
        0 => Blow::Kill([true, false]),
        1 => Blow::Kill([false, true]),
        2 => Blow::Kill([true, true]),
        3 => Blow::Freeze(0),
        4 => Blow::Freeze(1),
        _ => Blow::None,
    }
}

/// Kills or freezes while the servers are struck. Who was killed stays down: it would not start
/// without its database.
async fn strike(load: &Load, gateways: &mut [Gateway; 2], blow: Blow, lasts: Duration) {
    match blow {
        Blow::None => {}
        Blow::Kill(killed) => {
            for (index, gateway) in gateways.iter_mut().enumerate() {
                if killed[index] {
                    gateway.kill();
                    load.aim(index, None);
                }
            }
        }
        Blow::Freeze(index) => {
            gateways[index].freeze();
            tokio::time::sleep(lasts).await;
            gateways[index].thaw();
        }
    }
}

async fn start_what_is_down(load: &Load, gateways: &mut [Gateway; 2]) {
    for (index, gateway) in gateways.iter_mut().enumerate() {
        if !gateway.is_running() {
            gateway.restart().await;
            load.aim(index, Some(gateway.api()));
        }
    }
}

/// Everything there is: servers behind their proxies, and two processes.
struct Everything {
    servers: Servers,
    to_postgres: Proxy,
    to_broker: Proxy,
    gateways: [Gateway; 2],
}

impl Everything {
    async fn start() -> Self {
        let (postgres, url) = database().await;
        let started = tokio::task::spawn_blocking(|| (RabbitMq::start(), Redis::start()));
        let (broker, redis) = started.await.expect("a broker and a cache");
        let to_postgres = Proxy::before(postgres.port()).await;
        let to_broker = Proxy::before(broker.port()).await;
        let through = |url: &str, port: u16, proxy: &Proxy| {
            url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()))
        };
        let mut setup = setup(&through(&url, postgres.port(), &to_postgres));
        let queue_url = through(&broker.url(), broker.port(), &to_broker);
        setup.environment.extend([
            ("HOOKPORT_QUEUE_URL", queue_url),
            ("HOOKPORT_REDIS_URL", redis.url()),
        ]);
        let first = Gateway::start_with(setup.clone()).await;
        let mut second = Gateway::prepare(setup);
        second.take_admin_key(&first.admin_key());
        second.restart().await;
        Self {
            servers: Servers {
                postgres,
                broker,
                redis,
            },
            to_postgres,
            to_broker,
            gateways: [first, second],
        }
    }

    async fn load(&self, seed: u64) -> Load {
        Load::begin(seed, self.gateways.iter().map(Gateway::api).collect()).await
    }

    /// One act for so long, with a blow to the processes meanwhile.
    async fn suffer(
        mut self,
        load: &Load,
        act: Act,
        away: Duration,
        blow: (Blow, Duration),
    ) -> Self {
        println!("{act:?} for {away:?}, {:?}", blow.0);
        match act {
            Act::Connections(fault) => self.to_postgres.set(fault),
            Act::BrokerConnections(fault) => self.to_broker.set(fault),
            _ => {}
        }
        let mut servers = self.servers;
        let acting = async {
            let acted = tokio::task::spawn_blocking(move || {
                servers.act(act, away);
                servers
            });
            let servers = acted.await.expect("the servers are back");
            self.to_postgres.set(Fault::None);
            self.to_broker.set(Fault::None);
            servers
        };
        let striking = strike(load, &mut self.gateways, blow.0, blow.1);
        (self.servers, ()) = join(acting, striking).await;
        start_what_is_down(load, &mut self.gateways).await;
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_everything_at_once_lose_and_invent_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(8);
    let mut everything = Everything::start().await;
    let load = everything.load(seed).await;
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let (act, blow) = (any_act(&mut rng), any_blow(&mut rng));
        let away = Duration::from_millis(rng.random_range(100..3_000));
        let frozen_for = Duration::from_millis(rng.random_range(500..5_000));
        everything = everything
            .suffer(&load, act, away, (blow, frozen_for))
            .await;
    }
    load.end(
        "kill -9 and SIGSTOP of processes with crashes, SIGSTOP and broken connections of PostgreSQL, RabbitMQ and Redis",
        faults,
        &everything.gateways[0],
    )
    .await;
}

/// One server after the other, for longer than a process may be silent before it is taken for dead.
#[tokio::test(flavor = "multi_thread")]
async fn freezing_a_server_past_the_leases_loses_and_invents_nothing() {
    let (mut rng, seed, faults) = seed_and_faults(1);
    let mut everything = Everything::start().await;
    let load = everything.load(seed).await;
    let mut acts = [Act::FreezePostgres, Act::FreezeBroker, Act::FreezeRedis];
    let first = rng.random_range(0..acts.len());
    acts.rotate_left(first);
    for act in acts.into_iter().cycle().take(faults as usize) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..900))).await;
        let away = Duration::from_millis(rng.random_range(18_000..20_000));
        everything = everything
            .suffer(&load, act, away, (Blow::None, Duration::ZERO))
            .await;
    }
    load.end(
        "SIGSTOP of PostgreSQL, RabbitMQ or Redis for 18 to 20 s",
        faults,
        &everything.gateways[0],
    )
    .await;
}
