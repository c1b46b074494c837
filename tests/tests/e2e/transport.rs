//! TLS to PostgreSQL, RabbitMQ and Redis, whose certificates are of authorities of their own.

use hookport_test_servers::{Postgres, RabbitMq, Redis};
use hookport_tests::api::Api;
use hookport_tests::gateway::{Gateway, Setup};
use hookport_tests::receiver::Receiver;
use serde_json::json;

use crate::shared_store::setup;

struct Servers {
    postgres: Postgres,
    broker: RabbitMq,
    redis: Redis,
}

impl Servers {
    async fn start() -> Self {
        let start = || Self {
            postgres: Postgres::start_with_tls(),
            broker: RabbitMq::start(),
            redis: Redis::start(),
        };
        tokio::task::spawn_blocking(start).await.expect("servers")
    }

    /// With the authorities of the broker and of Redis, or without.
    fn setup(&self, with_authorities: bool) -> Setup {
        let mut setup = setup(&self.postgres.tls_database());
        let mut set = |name, value: String| setup.environment.push((name, value));
        set("HOOKPORT_QUEUE_URL", self.broker.tls_url());
        set("HOOKPORT_REDIS_URL", self.redis.tls_url());
        if with_authorities {
            for (name, file) in [
                ("HOOKPORT_QUEUE_CA_FILE", self.broker.authority()),
                ("HOOKPORT_REDIS_CA_FILE", self.redis.authority()),
            ] {
                set(name, file.display().to_string());
            }
        }
        setup
    }
}

fn doctor(gateway: &Gateway) -> String {
    let output = gateway.command(&["doctor"]).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn deliver_one(api: &Api) {
    let receiver = Receiver::ok().await;
    api.register("incident.created").await;
    api.subscribe_webhook("incident.created", &receiver.url())
        .await;
    let event = json!({"type": "incident.created", "payload": {"n": 1}});
    let id = api.emit_one(&event).await;
    api.delivery_in(&id, "success").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_servers_are_spoken_to_over_tls() {
    let servers = Servers::start().await;
    let gateway = Gateway::start_with(servers.setup(true)).await;
    let api = gateway.api();
    let up = |queues: &serde_json::Value| queues["broker"] == "connected";
    api.until("/queues", "the broker", up).await;
    deliver_one(&api).await;
    let said = doctor(&gateway);
    for line in ["ok    database", "ok    broker", "ok    redis: answers"] {
        assert!(said.contains(line), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_unknown_authority_is_not_spoken_to() {
    let servers = Servers::start().await;
    let gateway = Gateway::start_with(servers.setup(false)).await;
    // They do without.
    let api = gateway.api();
    deliver_one(&api).await;
    let said = doctor(&gateway);
    let failed = |name: &str| {
        let line = said.lines().find(|line| line.contains(name));
        line.expect("a line").to_owned()
    };
    for (line, field) in [
        (failed("FAIL  broker"), "queue.ca_file"),
        (failed("FAIL  redis"), "redis.ca_file"),
    ] {
        assert!(
            line.contains("UnknownIssuer") && line.contains(field),
            "{line}"
        );
    }
    // Without the database it cannot do.
    let authority = |path: std::path::PathBuf| path.display().to_string();
    let wrong = servers.postgres.tls_database().replace(
        &authority(servers.postgres.authority()),
        &authority(servers.redis.authority()),
    );
    let mut command = gateway.command(&["doctor"]);
    let output = command.env("HOOKPORT_STORE_URL", wrong).output();
    let said = String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned();
    let line = said.lines().find(|line| line.contains("FAIL  database"));
    let line = line.unwrap_or_else(|| panic!("it passed: {said}"));
    assert_eq!(
        line.matches("invalid peer certificate").count(),
        1,
        "{line}"
    );
    for text in [said, gateway.log()] {
        assert!(!text.contains("pass-of-the"), "it has a password: {text}");
    }
}
