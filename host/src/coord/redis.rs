//! Redis, or a server that speaks its protocol. The only file that names its client.
//!
//! Keys begin with the configured prefix, so that gateways with databases of their own can use one
//! server. What takes more than one command is a script, so that it happens in one step and by the
//! server's clock. No call waits longer than [`PATIENCE`]; none is repeated here.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Cmd, FromRedisValue, RedisError, RedisResult, Script, ScriptInvocation, TlsCertificates, cmd,
};

use super::{
    AllCells, Ask, Booked, Cells, Coord, CoordError, Kept, Locks, Rates, Result, Seen, Swapped,
    Values,
};
use crate::domain::delivery::FencingToken;

/// Beyond this, doing without Redis is better than waiting for it.
const PATIENCE: Duration = Duration::from_millis(500);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
/// Calls on their way at one time; others wait.
const CALLS_MAX: usize = 1_024;

/// The URL cannot be used. Does not repeat it: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{URL_SHAPE}")]
pub struct UrlError;

/// What a URL looks like.
pub const URL_SHAPE: &str = "write redis://user:password@host:port/database, or rediss:// for TLS";

struct Scripts {
    book: Script,
    acquire: Script,
    extend: Script,
    changes: Script,
    swap: Script,
}

/// The back end.
pub struct Redis {
    connection: ConnectionManager,
    prefix: String,
    scripts: Scripts,
    random: fn() -> u128,
}

/// Checks a URL without connecting.
///
/// # Errors
/// When it is none of Redis.
pub fn check_url(url: &str) -> std::result::Result<(), UrlError> {
    client(url, None).map(drop)
}

fn client(url: &str, ca_pem: Option<&str>) -> std::result::Result<redis::Client, UrlError> {
    let of_redis = url.starts_with("redis://") || url.starts_with("rediss://");
    let client = match ca_pem {
        None => redis::Client::open(url),
        Some(pem) => redis::Client::build_with_tls(
            url,
            TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.as_bytes().to_vec()),
            },
        ),
    };
    client.ok().filter(|_| of_redis).ok_or(UrlError)
}

impl Redis {
    /// A handle; the connection is made by the first call, and made again when it is lost. Over TLS
    /// the server's certificate is of a publicly trusted authority, or of those in `ca_pem`.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn open(
        url: &str,
        ca_pem: Option<&str>,
        prefix: &str,
        random: fn() -> u128,
    ) -> std::result::Result<Self, UrlError> {
        // The first one wins; another part of this process may have set it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(PATIENCE))
            .set_connection_timeout(Some(CONNECT_PATIENCE))
            .set_number_of_retries(0)
            .set_pipeline_buffer_size(CALLS_MAX);
        let connection = ConnectionManager::new_lazy_with_config(client(url, ca_pem)?, config);
        Ok(Self {
            connection: connection.map_err(|_| UrlError)?,
            prefix: prefix.to_owned(),
            scripts: Scripts {
                book: Script::new(include_str!("lua/book.lua")),
                acquire: Script::new(include_str!("lua/acquire.lua")),
                extend: Script::new(include_str!("lua/extend.lua")),
                changes: Script::new(include_str!("lua/changes.lua")),
                swap: Script::new(include_str!("lua/swap.lua")),
            },
            random,
        })
    }

    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}:{kind}:{name}", self.prefix)
    }

    fn cells_key(&self) -> String {
        format!("{}:cells", self.prefix)
    }

    async fn ask<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T> {
        let mut connection = self.connection.clone();
        in_time(cmd.query_async(&mut connection)).await
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T> {
        let mut connection = self.connection.clone();
        in_time(script.invoke_async(&mut connection)).await
    }
}

async fn in_time<T>(asked: impl Future<Output = RedisResult<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(CoordError::from),
        Err(late) => Err(CoordError::Unavailable(Box::new(late))),
    }
}

impl From<RedisError> for CoordError {
    fn from(error: RedisError) -> Self {
        use redis::{ErrorKind, ServerErrorKind};
        match error.kind() {
            // It answers, and not that it is on its way up or down.
            ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown) => {
                Self::Unavailable(Box::new(error))
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => {
                Self::Refused(error.to_string())
            }
            _ => Self::Unavailable(Box::new(error)),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

#[async_trait]
impl Values for Redis {
    async fn get(&self, key: &str) -> Result<Option<Kept>> {
        let key = self.key("value", key);
        let mut both = redis::pipe();
        both.get(&key).pttl(&key);
        let mut connection = self.connection.clone();
        let (value, left_ms): (Option<Vec<u8>>, i64) =
            in_time(both.query_async(&mut connection)).await?;
        // Negative when it went in between.
        let left = u64::try_from(left_ms).ok().map(Duration::from_millis);
        Ok(value.zip(left).map(|(value, left)| Kept { value, left }))
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<()> {
        let mut set = cmd("SET");
        set.arg(self.key("value", key)).arg(value);
        self.ask(set.arg("PX").arg(ms(ttl))).await
    }

    async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool> {
        let mut set = cmd("SET");
        set.arg(self.key("value", key)).arg(value);
        let done: Option<String> = self.ask(set.arg("NX").arg("PX").arg(ms(ttl))).await?;
        Ok(done.is_some())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.ask(cmd("DEL").arg(self.key("value", key))).await
    }
}

#[async_trait]
impl Rates for Redis {
    async fn book(&self, asks: &[Ask]) -> Result<Vec<Booked>> {
        let mut script = self.scripts.book.prepare_invoke();
        for ask in asks {
            script.key(self.key("rate", &ask.key));
            script.arg(ask.rate.interval_us());
            script.arg(ask.rate.tolerance_us());
            script.arg(ask.wanted);
            script.arg(ask.ahead_us);
        }
        let answers: Vec<i64> = self.run(&script).await?;
        let booked: Vec<Booked> = answers
            .chunks_exact(2)
            .map(|pair| Booked {
                granted: pair
                    .first()
                    .and_then(|granted| usize::try_from(*granted).ok())
                    .unwrap_or(0),
                ahead_us: pair.last().copied().unwrap_or(0),
            })
            .collect();
        if booked.len() == asks.len() {
            Ok(booked)
        } else {
            Err(CoordError::Refused("another number of answers".to_owned()))
        }
    }
}

#[async_trait]
impl Locks for Redis {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<FencingToken>> {
        let mut script = self.scripts.acquire.prepare_invoke();
        script.key(self.key("lock", name));
        script.key(self.key("lock-token", name));
        script.arg(ms(ttl));
        let token: i64 = self.run(&script).await?;
        Ok((token > 0).then_some(FencingToken(token)))
    }

    async fn extend(&self, name: &str, token: FencingToken, ttl: Duration) -> Result<bool> {
        let mut script = self.scripts.extend.prepare_invoke();
        script.key(self.key("lock", name)).arg(token.0).arg(ms(ttl));
        self.run(&script).await
    }

    async fn release(&self, name: &str, token: FencingToken) -> Result<bool> {
        let mut script = self.scripts.extend.prepare_invoke();
        script.key(self.key("lock", name)).arg(token.0).arg(0);
        self.run(&script).await
    }
}

#[async_trait]
impl Cells for Redis {
    async fn changes(&self, seen: &Seen) -> Result<Option<AllCells>> {
        let mut script = self.scripts.changes.prepare_invoke();
        script.key(self.cells_key());
        script.arg(format!("{:032x}", (self.random)()));
        script.arg(&seen.generation).arg(seen.version);
        let fields: Vec<String> = self.run(&script).await?;
        let mut all = AllCells::default();
        let mut cells = BTreeMap::new();
        let mut fields = fields.into_iter();
        while let (Some(name), Some(text)) = (fields.next(), fields.next()) {
            match name.as_str() {
                "#generation" => all.seen.generation = text,
                "#version" => all.seen.version = text.parse().unwrap_or_default(),
                _ => {
                    cells.insert(name, text);
                }
            }
        }
        all.cells = cells;
        Ok((!all.seen.generation.is_empty()).then_some(all))
    }

    async fn swap(
        &self,
        generation: &str,
        name: &str,
        expected: Option<&str>,
        new: Option<&str>,
    ) -> Result<Swapped> {
        let mut script = self.scripts.swap.prepare_invoke();
        script.key(self.cells_key()).arg(generation).arg(name);
        script
            .arg(expected.unwrap_or_default())
            .arg(new.unwrap_or_default());
        let (code, found): (u8, String) = self.run(&script).await?;
        Ok(match code {
            1 => Swapped::Done,
            2 => Swapped::OtherGeneration,
            _ => Swapped::Found(Some(found).filter(|found| !found.is_empty())),
        })
    }
}

#[async_trait]
impl Coord for Redis {
    async fn ping(&self) -> Result<()> {
        let pong: String = self.ask(&cmd("PING")).await?;
        if pong == "PONG" {
            Ok(())
        } else {
            Err(CoordError::Refused("no PONG".to_owned()))
        }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hookport_test_servers::Redis as Server;

    use super::*;
    use crate::coord::conformance;

    /// The shared server, under a prefix of its own.
    async fn open() -> ((), Arc<dyn Coord>) {
        let url = tokio::task::spawn_blocking(|| Server::shared().url());
        let url = url.await.expect("a server");
        let prefix = format!("test-{}", rand::random::<u64>());
        let redis = Redis::open(&url, None, &prefix, rand::random).expect("a URL");
        ((), Arc::new(redis))
    }

    conformance::cases!(open);

    #[test]
    fn a_wrong_url_is_refused_without_repeating_it() {
        for url in [
            "",
            "postgres://u:hunter2@h/db",
            "redis://:hunter2@host:port",
        ] {
            let error = check_url(url).expect_err("refused").to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for url in ["redis://host", "rediss://user:password@host:6380/2"] {
            check_url(url).expect("fine");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unavailable_and_one_that_says_no_is_not() {
        let gone = Redis::open("redis://127.0.0.1:1", None, "test", rand::random).expect("a URL");
        let error = gone.ping().await.expect_err("nobody listens");
        assert!(matches!(error, CoordError::Unavailable(_)), "{error:?}");

        let url = tokio::task::spawn_blocking(|| Server::shared().url());
        let url = url.await.expect("a server");
        let redis = Redis::open(&url, None, "test-refusing", rand::random).expect("a URL");
        let mut list = cmd("RPUSH");
        let key = redis.key("value", "list");
        redis
            .ask::<i64>(list.arg(key).arg(1))
            .await
            .expect("a list");
        let error = redis.get("list").await.expect_err("a list is no value");
        assert!(matches!(error, CoordError::Refused(_)), "{error:?}");
        let wrong = url.replace("pass-of-the-cache", "another");
        let wrong = Redis::open(&wrong, None, "test", rand::random).expect("a URL");
        let error = wrong.ping().await.expect_err("a wrong password");
        assert!(
            !format!("{error:?} {error}").contains("another"),
            "{error:?}"
        );
    }
}
