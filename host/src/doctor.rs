//! `hookport doctor`: looks at everything the gateway depends on and says what to do.

mod audit;
mod secrets;

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use crate::config::Config;
use crate::coord::Coord as _;
use crate::coord::redis::Redis;
use crate::domain::audit::Anchor;
use crate::queue::rabbitmq;
use crate::vault::key::{VARIABLE, WhenMissing};
use crate::vault::{KeyError, KeyRing};
use crate::wire;

/// What to look at beside the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The whole audit trail.
    pub audit: bool,
    /// A place that it has to hold.
    pub expected: Option<Anchor>,
}

/// Prints a line a check; the exit status is 1 when one fails.
///
/// # Errors
/// None of its own: what fails is a line.
pub async fn run(config: Config, asked: Asked) -> anyhow::Result<ExitCode> {
    let mut checks = vec![
        ("data directory", data_dir(&config)),
        ("database", database(&config).await),
        ("broker", broker(&config).await),
        ("master key", master_key(&config)),
        ("secrets", secrets::under_which_key(&config).await),
        ("providers", providers(&config)),
        (
            "sandbox",
            wire::sandbox(&config)
                .map(|_| "the engine starts".to_owned())
                .map_err(|error| format!("{error:#}")),
        ),
    ];
    if let Some(url) = &config.redis.url {
        checks.push(("redis", redis(url, &config.redis.prefix).await));
    }
    if asked.audit {
        checks.push(("audit trail", audit::trail(&config, asked.expected).await));
    }
    let mut code = ExitCode::SUCCESS;
    for (name, result) in checks {
        match result {
            Ok(detail) => println!("ok    {name}: {detail}"),
            Err(problem) => {
                code = ExitCode::FAILURE;
                println!("FAIL  {name}: {problem}");
            }
        }
    }
    Ok(code)
}

fn data_dir(config: &Config) -> Result<String, String> {
    let path = &config.data_dir;
    let metadata = std::fs::metadata(path).map_err(|error| {
        format!(
            "{}: {error}; the first `hookport serve` creates it",
            path.display()
        )
    })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{} has mode {mode:03o}: chmod 700 {}",
            path.display(),
            path.display()
        ));
    }
    Ok(path.display().to_string())
}

async fn database(config: &Config) -> Result<String, String> {
    if config.store.url.is_none() && !config.data_dir.join("hookport.db").exists() {
        return Err("there is none yet; the first `hookport serve` creates it".to_owned());
    }
    let store = wire::open_store(config)
        .await
        .map_err(|error| format!("{error:#}"))?;
    store.ping().await.map_err(|error| error.to_string())?;
    Ok(if store.is_shared() {
        "PostgreSQL answers, up to date"
    } else {
        "opens, up to date, and no other process has it"
    }
    .to_owned())
}

async fn broker(config: &Config) -> Result<String, String> {
    let Some(rabbit) = wire::rabbit(config) else {
        return Ok("none; work is claimed from the database".to_owned());
    };
    let messages = rabbitmq::check(&rabbit).await.map_err(|error| {
        format!("{error}; check queue.url, that RabbitMQ is 3.10 or newer, and that its user may configure, write and read {}.*", rabbit.prefix)
    })?;
    Ok(format!("RabbitMQ answers; {messages} messages wait"))
}

async fn redis(url: &str, prefix: &str) -> Result<String, String> {
    let redis =
        Redis::open(url, prefix, rand::random).map_err(|error| format!("redis.url: {error}"))?;
    match redis.ping().await {
        Ok(()) => Ok("answers".to_owned()),
        Err(error) => Err(format!(
            "redis.url: {error}; start it, or mend the URL: until it answers, rate limits and circuits hold for each process by itself"
        )),
    }
}

fn master_key(config: &Config) -> Result<String, String> {
    let (variables, path) = (wire::key_variables(), wire::key_file(config));
    match KeyRing::load(&variables, &path, WhenMissing::Refuse) {
        Ok(_) if variables.key.is_some() => Ok(format!("from {VARIABLE}")),
        Ok(_) => Ok(format!(
            "{}; keep a backup apart from the database",
            path.display()
        )),
        Err(error @ KeyError::Missing(_)) => {
            Err(format!("{error}; the first `hookport serve` creates one"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn providers(config: &Config) -> Result<String, String> {
    let path = &config.providers_dir;
    let entries =
        std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let count = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "wasm")
        })
        .count();
    Ok(format!("{count} components in {}", path.display()))
}
