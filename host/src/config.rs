//! The operator's configuration: a TOML file, overridden by command-line flags.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::coord;
use crate::dispatch::Ages;
use crate::plugin::limits::Limits;

/// Everything that can be configured. Unknown fields are refused, so that a typo is not silence.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Database, master key, code cache.
    pub data_dir: PathBuf,
    /// Where components are dropped.
    pub providers_dir: PathBuf,
    /// Deliveries under way at one time.
    pub concurrency: u32,
    /// Deliveries of one subscription under way at one time.
    pub concurrency_per_subscription: u32,
    /// Largest body of one event, in bytes.
    pub event_bytes_max: usize,
    /// Largest body of a batch of events, in bytes.
    pub batch_bytes_max: usize,
    /// Proxies in front of the gateway, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// How long a shutdown waits for deliveries under way, in milliseconds.
    pub shutdown_timeout_ms: u64,
    /// How long a process that is told to stop goes on answering, not ready any more, so that load
    /// balancers see it before the listener closes, in milliseconds.
    pub shutdown_grace_ms: u64,
    /// What this process does; anything but `all` needs a shared store.
    pub role: ProcessRole,
    /// The system of record.
    pub store: StoreSection,
    /// A broker in front of it.
    pub queue: QueueSection,
    /// What several processes share beside it.
    pub redis: RedisSection,
    /// Outgoing requests.
    pub egress: EgressSection,
    /// Limits of every provider's calls.
    pub limits: Limits,
    /// Limits of single providers; what a table leaves out has its default.
    pub provider_limits: HashMap<String, Limits>,
    /// How long records are kept.
    pub retention: RetentionSection,
    /// How to log.
    pub log: LogSection,
    /// Traces.
    pub telemetry: TelemetrySection,
}

/// What a process does.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// Both.
    #[default]
    All,
    /// Answers the API and takes webhooks; delivers nothing.
    Api,
    /// Delivers; of the API it answers health and metrics alone.
    Worker,
}

impl ProcessRole {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// The system of record.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// `postgres://user:password@host:port/database`, for one process or many; unset: a database
    /// of this process's own in `data_dir`.
    pub url: Option<String>,
    /// Whether a start brings the database up to date; else `hookport migrate` does.
    pub migrate_at_start: bool,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            url: None,
            migrate_at_start: true,
        }
    }
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for StoreSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSection")
            .field("is_shared", &self.url.is_some())
            .field("migrate_at_start", &self.migrate_at_start)
            .finish()
    }
}

/// A broker in front of a shared store.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSection {
    /// `amqp://user:password@host:port/vhost` or `amqps`; unset: work is claimed from the store.
    pub url: Option<String>,
    /// PEM file with the authority of the broker's certificate, where it is not publicly trusted.
    pub ca_file: Option<PathBuf>,
    /// Before the names of its queues and exchanges, for several gateways on one broker.
    pub prefix: String,
    /// Messages that this process has and has not settled: at least its deliveries under way.
    pub prefetch: u16,
}

impl Default for QueueSection {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            prefix: "hookport".to_owned(),
            prefetch: 1_024,
        }
    }
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for QueueSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueSection")
            .field("is_broker", &self.url.is_some())
            .field("ca_file", &self.ca_file)
            .field("prefix", &self.prefix)
            .field("prefetch", &self.prefetch)
            .finish()
    }
}

/// What several processes share beside the store.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisSection {
    /// `redis://user:password@host:port/database`, `rediss://` for TLS; unset: each process goes by
    /// itself.
    pub url: Option<String>,
    /// PEM file with the authority of its certificate, where that is not publicly trusted.
    pub ca_file: Option<PathBuf>,
    /// What every key begins with. Gateways with databases of their own have prefixes of their own.
    pub prefix: String,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            prefix: "hookport".to_owned(),
        }
    }
}

/// Without the URL, which may hold a password.
impl std::fmt::Debug for RedisSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSection")
            .field("is_set", &self.url.is_some())
            .field("ca_file", &self.ca_file)
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// Outgoing requests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSection {
    /// PEM file with certificates trusted beside the system's.
    pub extra_ca_file: Option<PathBuf>,
}

/// For how long a kind of record is kept: `30`, `0.5`, or `"forever"`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Keep {
    /// So many days.
    Days(f64),
    /// For ever.
    Word(Forever),
}

/// The word for it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Forever {
    /// `"forever"`.
    Forever,
}

impl Keep {
    fn age(self) -> Option<Duration> {
        match self {
            Self::Days(days) => Duration::try_from_secs_f64(days * 86_400.0).ok(),
            Self::Word(Forever::Forever) => None,
        }
    }

    fn is_usable(self) -> bool {
        match self {
            Self::Days(days) => days > 0.0 && self.age().is_some(),
            Self::Word(Forever::Forever) => true,
        }
    }
}

/// How long records are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Deliveries that succeeded, with their attempts.
    pub succeeded_days: Keep,
    /// Dead letters, and those that were discarded.
    pub failed_days: Keep,
    /// Deliveries that were cancelled or filtered.
    pub cancelled_days: Keep,
    /// Events that no delivery is left of; with the last of a correlation key go its external ids.
    pub events_days: Keep,
    /// Inbound webhooks, and the keys by which a repeated one is known.
    pub webhooks_days: Keep,
    /// What `Idempotency-Key` headers were used for.
    pub idempotency_keys_days: Keep,
    /// Replays, and runs over dead letters.
    pub replays_days: Keep,
    /// How often what is old is looked for, in milliseconds.
    pub every_ms: u64,
}

impl Default for RetentionSection {
    fn default() -> Self {
        Self {
            succeeded_days: Keep::Days(30.0),
            failed_days: Keep::Days(90.0),
            cancelled_days: Keep::Days(30.0),
            events_days: Keep::Days(30.0),
            webhooks_days: Keep::Days(30.0),
            idempotency_keys_days: Keep::Days(2.0),
            replays_days: Keep::Days(90.0),
            every_ms: 600_000,
        }
    }
}

impl RetentionSection {
    /// What is old enough to go.
    #[must_use]
    pub fn ages(&self) -> Ages {
        Ages {
            succeeded: self.succeeded_days.age(),
            failed: self.failed_days.age(),
            cancelled: self.cancelled_days.age(),
            events: self.events_days.age(),
            webhooks: self.webhooks_days.age(),
            idempotency_keys: self.idempotency_keys_days.age(),
            replays: self.replays_days.age(),
        }
    }

    fn is_usable(&self) -> bool {
        let all = [
            self.succeeded_days,
            self.failed_days,
            self.cancelled_days,
            self.events_days,
            self.webhooks_days,
            self.idempotency_keys_days,
            self.replays_days,
        ];
        all.into_iter().all(Keep::is_usable) && self.every_ms > 0
    }
}

/// How to log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// A filter such as `info` or `hookport=debug`.
    pub filter: String,
    /// One JSON object a line.
    pub json: bool,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
            json: false,
        }
    }
}

/// Traces, sent to a collector of OpenTelemetry's.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySection {
    /// Its endpoint for OTLP over HTTP, without the path: `http://collector:4318`. Unset, and none
    /// in `OTEL_EXPORTER_OTLP_ENDPOINT`: nothing is recorded.
    pub otlp_endpoint: Option<String>,
    /// What the gateway is called there.
    pub service_name: String,
    /// Of the traces that begin here, so many are recorded: 0.0 to 1.0. Callers decide for theirs.
    pub sample_ratio: f64,
    /// Whether the HTTP requests of providers carry a `traceparent` header.
    pub propagate: bool,
}

impl Default for TelemetrySection {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            service_name: "hookport".to_owned(),
            sample_ratio: 1.0,
            propagate: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8_080)),
            data_dir: PathBuf::from("data"),
            providers_dir: PathBuf::from("providers"),
            concurrency: 512,
            concurrency_per_subscription: 192,
            event_bytes_max: 1 << 20,
            batch_bytes_max: 10 << 20,
            trusted_proxies: Vec::new(),
            shutdown_timeout_ms: 20_000,
            shutdown_grace_ms: 0,
            role: ProcessRole::All,
            store: StoreSection::default(),
            queue: QueueSection::default(),
            redis: RedisSection::default(),
            egress: EgressSection::default(),
            limits: Limits::default(),
            provider_limits: HashMap::new(),
            retention: RetentionSection::default(),
            log: LogSection::default(),
            telemetry: TelemetrySection::default(),
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong: place and reason.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value is out of range.
    #[error("{field}: {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Config {
    /// Reads a file; without one, the defaults. [`Config::check`] comes after what overrides it.
    ///
    /// # Errors
    /// Each kind of [`ConfigError`].
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.to_owned(),
                    source,
                })?;
                toml::from_str(&text).map_err(|source| ConfigError::Parse {
                    path: path.to_owned(),
                    source: Box::new(source),
                })?
            }
        };
        Ok(config)
    }

    /// Checks what fields say together.
    ///
    /// # Errors
    /// `Value`.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |field, problem| Err(ConfigError::Value { field, problem });
        if self.role != ProcessRole::All && self.store.url.is_none() {
            return value(
                "role",
                "api and worker share a store with others: set store.url",
            );
        }
        if self.queue.url.is_some() && self.store.url.is_none() {
            return value(
                "queue.url",
                "a broker stands in front of a shared store: set store.url",
            );
        }
        if !(1..=64).contains(&self.queue.prefix.len()) {
            return value("queue.prefix", "give 1 to 64 bytes");
        }
        if self.queue.prefetch == 0 {
            return value("queue.prefetch", "give at least 1");
        }
        if let Some(url) = &self.redis.url
            && coord::redis::check_url(url).is_err()
        {
            return value("redis.url", coord::redis::URL_SHAPE);
        }
        let speaks_tls = |url: &Option<String>, scheme| {
            let url = url.as_deref().unwrap_or_default();
            url.starts_with(scheme)
        };
        if self.queue.ca_file.is_some() && !speaks_tls(&self.queue.url, "amqps://") {
            return value("queue.ca_file", "is for TLS: begin queue.url with amqps://");
        }
        if self.redis.ca_file.is_some() && !speaks_tls(&self.redis.url, "rediss://") {
            return value(
                "redis.ca_file",
                "is for TLS: begin redis.url with rediss://",
            );
        }
        if self.redis.prefix.is_empty() {
            return value("redis.prefix", "give at least one character");
        }
        if !(1..=4_096).contains(&self.concurrency) {
            return value("concurrency", "give 1 to 4096");
        }
        if self.concurrency_per_subscription == 0 {
            return value("concurrency_per_subscription", "give at least 1");
        }
        if !self.retention.is_usable() {
            return value(
                "retention",
                "give days above 0, or \"forever\"; and every_ms above 0",
            );
        }
        if self.event_bytes_max == 0 || self.batch_bytes_max < self.event_bytes_max {
            return value(
                "batch_bytes_max",
                "must be at least event_bytes_max, and both above 0",
            );
        }
        if !(0.0..=1.0).contains(&self.telemetry.sample_ratio) {
            return value("telemetry.sample_ratio", "give 0.0 to 1.0");
        }
        if self.shutdown_grace_ms > self.shutdown_timeout_ms {
            return value("shutdown_grace_ms", "must be within shutdown_timeout_ms");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("hookport.toml");
        std::fs::write(&path, text).expect("write");
        let config = Config::load(Some(&path))?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn the_shipped_example_is_valid() {
        parse(include_str!("../../hookport.example.toml")).expect("valid");
    }

    #[test]
    fn ages_are_days_or_for_ever() {
        let text = "[retention]\nsucceeded_days = 7\nfailed_days = \"forever\"\nevents_days = 0.5";
        let ages = parse(text).expect("valid").retention.ages();
        assert_eq!(ages.succeeded, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(ages.failed, None);
        assert_eq!(ages.events, Some(Duration::from_secs(43_200)));
        assert_eq!(ages.webhooks, Some(Duration::from_secs(30 * 86_400)));
    }

    #[test]
    fn wrong_files_are_refused_by_field() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("lisen = \"127.0.0.1:1\"", "lisen");
        check("concurrency = 0", "concurrency");
        check("[limits]\ntimeout = 3", "timeout");
        check("listen = \"nowhere\"", "listen");
        check("role = \"worker\"", "store.url");
        check("role = \"boss\"", "role");
        check("[queue]\nurl = \"amqp://h\"", "store.url");
        check("[queue]\nprefetch = 0", "queue.prefetch");
        check("redis.prefix = \"\"", "redis.prefix");
        check("redis.url = \"http://localhost\"", "redis.url");
        check("queue.ca_file = \"ca.pem\"", "queue.ca_file");
        check(
            "[redis]\nurl = \"redis://h\"\nca_file = \"ca.pem\"",
            "redis.ca_file",
        );
        check("shutdown_grace_ms = 20001", "shutdown_grace_ms");
        check("[telemetry]\nsample_ratio = 1.5", "sample_ratio");
        check("[telemetry]\nsample_ratio = nan", "sample_ratio");
        check("[retention]\nfailed_days = 0", "retention");
        check("[retention]\nfailed_days = -1", "retention");
        check("[retention]\nfailed_days = \"always\"", "failed_days");
        check("[retention]\nevery_ms = 0", "retention");
    }

    #[test]
    fn no_url_with_a_password_is_shown() {
        let config = Config {
            store: StoreSection {
                url: Some("postgres://u:hunter2@h/db".to_owned()),
                ..StoreSection::default()
            },
            redis: RedisSection {
                url: Some("redis://u:hunter2@h:port".to_owned()),
                ..RedisSection::default()
            },
            ..Config::default()
        };
        let error = config.check().expect_err("no port");
        let shown = format!("{config:?} {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
