//! Falls back from a shared back end to this process's own memory, and returns.
//!
//! The first call that gets no answer puts the shared one aside; from then on no call waits for it,
//! and a task asks it now and then until it answers again. Each change is one line in the log. A
//! call that is refused falls back alone.
//!
//! What is put is put into both, so that the memory knows what this process knew. Cells differ: the
//! memory's are of another generation, so that who follows them brings over what it knows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;

use super::memory::Memory;
use super::{
    AllCells, Ask, Booked, Cells, Coord, CoordError, Kept, Locks, Rates, Result, Seen, Swapped,
    Values,
};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::FencingToken;
use crate::metrics::{CoordUse, Metrics};

/// How often the shared one is asked whether it is there.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Refusals are told of once in this time.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The decorator.
pub struct Fallback {
    shared: Arc<dyn Coord>,
    own: Memory,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    is_up: AtomicBool,
    refusal_told_at: Mutex<Option<Timestamp>>,
}

impl Fallback {
    /// Asks the shared one once, and goes on asking as long as somebody holds the decorator.
    pub async fn start(
        shared: Arc<dyn Coord>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let fallback = Arc::new(Self {
            shared,
            own: Memory::new(clock.clone()),
            metrics,
            clock,
            is_up: AtomicBool::new(true),
            refusal_told_at: Mutex::default(),
        });
        fallback.metrics.coord_up(true);
        fallback.look().await;
        tokio::spawn(go_on_asking(Arc::downgrade(&fallback)));
        fallback
    }

    /// Whether the shared one answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    async fn look(&self) {
        match self.shared.ping().await {
            Ok(()) => {
                if !self.is_up.swap(true, Ordering::AcqRel) {
                    self.metrics.coord_up(true);
                    tracing::info!("Redis answers again");
                }
            }
            Err(error) => self.put_aside(&error),
        }
    }

    fn put_aside(&self, error: &CoordError) {
        if self.is_up.swap(false, Ordering::AcqRel) {
            self.metrics.coord_up(false);
            tracing::warn!(%error, "Redis is not there; this process goes on by itself until it is");
        }
    }

    /// What the shared one answers, or `None`: go on by yourself.
    async fn ask<T>(&self, to: CoordUse, asked: impl Future<Output = Result<T>>) -> Option<T> {
        if self.is_up() {
            match asked.await {
                Ok(answer) => return Some(answer),
                Err(CoordError::Refused(reason)) => self.tell_of_refusal(&reason),
                Err(error) => self.put_aside(&error),
            }
        }
        self.metrics.coord_fell_back(to);
        None
    }

    fn tell_of_refusal(&self, reason: &str) {
        let now = self.clock.now();
        let told_at = self.refusal_told_at.lock();
        let mut told_at = told_at.unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|at| now.since(at) >= TELL_EVERY) {
            *told_at = Some(now);
            tracing::warn!(reason, "Redis refuses; this process does that by itself");
        }
    }
}

async fn go_on_asking(fallback: Weak<Fallback>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        let Some(fallback) = fallback.upgrade() else {
            return;
        };
        fallback.look().await;
    }
}

#[async_trait]
impl Values for Fallback {
    async fn get(&self, key: &str) -> Result<Option<Kept>> {
        match self.ask(CoordUse::Values, self.shared.get(key)).await {
            Some(kept) => Ok(kept),
            None => self.own.get(key).await,
        }
    }

    async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<()> {
        self.ask(CoordUse::Values, self.shared.put(key, value, ttl))
            .await;
        self.own.put(key, value, ttl).await
    }

    async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool> {
        let asked = self.shared.put_new(key, value, ttl);
        match self.ask(CoordUse::Values, asked).await {
            Some(true) => self.own.put(key, value, ttl).await.map(|()| true),
            Some(false) => Ok(false),
            None => self.own.put_new(key, value, ttl).await,
        }
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.ask(CoordUse::Values, self.shared.remove(key)).await;
        self.own.remove(key).await
    }
}

#[async_trait]
impl Rates for Fallback {
    async fn book(&self, asks: &[Ask]) -> Result<Vec<Booked>> {
        match self.ask(CoordUse::Rates, self.shared.book(asks)).await {
            Some(booked) => Ok(booked),
            None => self.own.book(asks).await,
        }
    }
}

#[async_trait]
impl Locks for Fallback {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<Option<FencingToken>> {
        let asked = self.shared.acquire(name, ttl);
        match self.ask(CoordUse::Locks, asked).await {
            Some(token) => Ok(token),
            None => self.own.acquire(name, ttl).await,
        }
    }

    async fn extend(&self, name: &str, token: FencingToken, ttl: Duration) -> Result<bool> {
        let asked = self.shared.extend(name, token, ttl);
        match self.ask(CoordUse::Locks, asked).await {
            Some(held) => Ok(held),
            None => self.own.extend(name, token, ttl).await,
        }
    }

    async fn release(&self, name: &str, token: FencingToken) -> Result<bool> {
        let asked = self.shared.release(name, token);
        let shared = self.ask(CoordUse::Locks, asked).await;
        // It may have been taken before Redis came back, or after it had gone.
        let own = self.own.release(name, token).await?;
        Ok(shared.unwrap_or_default() || own)
    }
}

#[async_trait]
impl Cells for Fallback {
    async fn changes(&self, seen: &Seen) -> Result<Option<AllCells>> {
        match self.ask(CoordUse::Cells, self.shared.changes(seen)).await {
            Some(changes) => Ok(changes),
            None => self.own.changes(seen).await,
        }
    }

    async fn swap(
        &self,
        generation: &str,
        name: &str,
        expected: Option<&str>,
        new: Option<&str>,
    ) -> Result<Swapped> {
        let asked = self.shared.swap(generation, name, expected, new);
        match self.ask(CoordUse::Cells, asked).await {
            Some(swapped) => Ok(swapped),
            None => self.own.swap(generation, name, expected, new).await,
        }
    }
}

#[async_trait]
impl Coord for Fallback {
    async fn ping(&self) -> Result<()> {
        self.shared.ping().await
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use hookport_test_servers::Redis as Server;

    use super::*;
    use crate::coord::conformance;
    use crate::coord::redis::Redis;
    use crate::wire::SystemClock;

    async fn over(server: String) -> (Arc<Fallback>, Arc<Metrics>) {
        let prefix = format!("test-{}", rand::random::<u64>());
        let redis = Redis::open(&server, None, &prefix, rand::random).expect("a URL");
        let metrics = Arc::new(Metrics::default());
        let clock = Arc::new(SystemClock);
        let fallback = Fallback::start(Arc::new(redis), clock, metrics.clone()).await;
        (fallback, metrics)
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        tokio::task::spawn_blocking(work).await.expect("it ends")
    }

    mod over_redis {
        use super::*;

        async fn open() -> ((), Arc<dyn Coord>) {
            let url = blocking(|| Server::shared().url()).await;
            let (fallback, _) = over(url).await;
            ((), fallback)
        }

        conformance::cases!(open);
    }

    mod without_redis {
        use super::*;

        async fn open() -> ((), Arc<dyn Coord>) {
            let (fallback, _) = over("redis://127.0.0.1:1".to_owned()).await;
            assert!(!fallback.is_up());
            ((), fallback)
        }

        conformance::cases!(open);
    }

    async fn until(fallback: &Fallback, is_up: bool) {
        while fallback.is_up() != is_up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_frozen_server_is_put_aside_by_one_call_and_taken_up_again() {
        let server = Arc::new(blocking(Server::start).await);
        let (fallback, metrics) = over(server.url()).await;
        let minute = Duration::from_secs(60);
        fallback.put("k", b"before", minute).await.expect("put");
        server.freeze();
        // What this process put, it still knows, and no further call is made to wait.
        let kept = fallback.get("k").await.expect("an answer");
        assert_eq!(kept.expect("kept").value, b"before");
        assert!(!fallback.is_up());
        fallback.put("k", b"meanwhile", minute).await.expect("put");
        let kept = fallback.get("k").await.expect("an answer");
        assert_eq!(kept.expect("kept").value, b"meanwhile");
        let text = metrics.text(None);
        assert!(text.contains("hookport_coord_up{} 0"), "{text}");
        let counted = "hookport_coord_fallbacks_total{what=\"values\"} 3";
        assert!(text.contains(counted), "{text}");
        server.thaw();
        until(&fallback, true).await;
        assert!(metrics.text(None).contains("hookport_coord_up{} 1"));
    }

    #[tokio::test]
    async fn a_server_that_crashes_and_comes_back_is_taken_up_again() {
        let mut server = blocking(Server::start).await;
        let (fallback, _) = over(server.url()).await;
        let seen = fallback.changes(&Seen::default()).await.expect("cells");
        let seen = seen.expect("the first look").seen;
        server = blocking(move || {
            server.crash();
            server
        })
        .await;
        let own = fallback.changes(&seen).await.expect("cells");
        let own = own.expect("another generation").seen;
        assert_ne!(own.generation, seen.generation);
        let swapped = fallback.swap(&seen.generation, "c", None, Some("1")).await;
        assert_eq!(swapped.expect("an answer"), Swapped::OtherGeneration);
        let _server = blocking(move || {
            server.restart();
            server
        })
        .await;
        until(&fallback, true).await;
        let again = fallback.changes(&own).await.expect("cells");
        assert_eq!(again.expect("back").seen.generation, seen.generation);
    }
}
