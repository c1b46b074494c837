//! `hookport doctor`: looks at everything the gateway depends on and says what to do.
//!
//! Invariant: it changes nothing. A database of another version is reported, not migrated.

mod audit;
mod database;
mod files;
mod machine;
mod secrets;

use std::process::ExitCode;

use serde_json::json;

use crate::config::Config;
use crate::coord::Coord as _;
use crate::domain::audit::Anchor;
use crate::queue::rabbitmq;
use crate::telemetry;
use crate::wire;

/// What to look at, and how to tell it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The whole audit trail as well.
    pub audit: bool,
    /// A place that it has to hold.
    pub expected: Option<Anchor>,
    /// One JSON document instead of lines.
    pub as_json: bool,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    /// As it should be.
    Ok(String),
    /// It works; this is what would be better.
    Warn(String),
    /// It does not work; this is what to mend.
    Fail(String),
}

impl Finding {
    /// How it is written: in lines, and in JSON.
    fn status(&self) -> (&'static str, &'static str) {
        match self {
            Self::Ok(_) => ("ok  ", "ok"),
            Self::Warn(_) => ("warn", "warning"),
            Self::Fail(_) => ("FAIL", "failing"),
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Ok(detail) | Self::Warn(detail) | Self::Fail(detail) => detail,
        }
    }
}

/// `Err` fails.
impl From<Result<String, String>> for Finding {
    fn from(result: Result<String, String>) -> Self {
        result.map_or_else(Self::Fail, Self::Ok)
    }
}

/// Prints a line a check, or one JSON document; the exit status is 1 when one fails.
///
/// # Errors
/// None of its own: what fails is a line.
pub async fn run(config: Config, asked: Asked) -> anyhow::Result<ExitCode> {
    let found = examine(&config, asked).await;
    let fails = |(_, finding): &(&str, Finding)| matches!(finding, Finding::Fail(_));
    let failing = found.iter().any(fails);
    if asked.as_json {
        let checks: Vec<_> = found
            .iter()
            .map(|(name, finding)| {
                json!({"name": name, "status": finding.status().1, "detail": finding.detail()})
            })
            .collect();
        let status = if failing { "failing" } else { "ok" };
        println!(
            "{:#}",
            json!({"status": status, "version": env!("CARGO_PKG_VERSION"), "checks": checks})
        );
    } else {
        for (name, finding) in &found {
            println!("{}  {name}: {}", finding.status().0, finding.detail());
        }
    }
    Ok(if failing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn examine(config: &Config, asked: Asked) -> Vec<(&'static str, Finding)> {
    let mut found = vec![
        ("data directory", files::data_dir(config).into()),
        ("disk space", files::disk_space(config)),
        ("database", database::examine(config).await),
        ("broker", broker(config).await.into()),
        ("redis", redis(config).await.into()),
        ("master key", files::master_key(config).into()),
        ("secrets", secrets::under_which_key(config).await.into()),
        ("code cache", files::code_cache(config)),
        ("providers", files::providers(config)),
        ("sandbox", machine::sandbox(config)),
        ("open files", machine::open_files(config)),
        ("traces", traces(config).await),
    ];
    if asked.audit {
        let trail = audit::trail(config, asked.expected).await;
        found.push(("audit trail", trail.into()));
    }
    found
}

async fn broker(config: &Config) -> Result<String, String> {
    let Some(rabbit) = wire::rabbit(config).map_err(|error| format!("{error:#}"))? else {
        return Ok("none; work is claimed from the database".to_owned());
    };
    let messages = rabbitmq::check(&rabbit).await.map_err(|error| {
        format!("{error}; check queue.url and queue.ca_file, that RabbitMQ is 3.10 or newer, and that its user may configure, write and read {}.*", rabbit.prefix)
    })?;
    Ok(format!("RabbitMQ answers; {messages} messages wait"))
}

async fn redis(config: &Config) -> Result<String, String> {
    let Some(redis) = wire::redis(config).map_err(|error| format!("{error:#}"))? else {
        return Ok("none; each process counts and caches by itself".to_owned());
    };
    match redis.ping().await {
        Ok(()) => Ok("answers".to_owned()),
        Err(error) => Err(format!(
            "redis.url: {error}; start it, or mend the URL or redis.ca_file: until it answers, rate limits and circuits hold for each process by itself"
        )),
    }
}

/// A collector that is away costs traces and nothing else.
async fn traces(config: &Config) -> Finding {
    match telemetry::probe(config.telemetry.otlp_endpoint.as_deref()).await {
        Ok(Some(detail)) => Finding::Ok(detail),
        Ok(None) => Finding::Ok("not recorded: no endpoint is configured".to_owned()),
        Err(problem) => Finding::Warn(problem),
    }
}
