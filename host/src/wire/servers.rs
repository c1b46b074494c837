//! The servers beside the store: RabbitMQ and Redis, or what does without them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::api::HealthCheck;
use crate::config::{Config, ProcessRole};
use crate::coord::Coord;
use crate::coord::fallback::Fallback;
use crate::coord::memory::Memory;
use crate::coord::redis::Redis;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::id::WorkerId;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::queue::broker::Broker;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::rabbitmq::{self, Figures, RabbitConfig, RabbitQueue};
use crate::store::{OutboxStore, Store};

/// The longest call that a subscription can ask for.
const CALL_MAX: Duration = Duration::from_secs(300);
/// A lease outlives the longest call by this.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// Deliveries that a broker should have told of so long ago are taken over where there is none.
const DISOWNED_AFTER_MS: i64 = 60_000;
/// How many at once, and how often that is looked for.
const DISOWNED_MAX: usize = 1_000;
const DISOWN_EVERY: Duration = Duration::from_secs(5);

/// What processes share: in Redis, where that is configured and answers, else each by itself. With
/// the health check of the former.
pub(super) async fn coord(
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(Arc<dyn Coord>, Option<HealthCheck>)> {
    let Some(redis) = redis(config)? else {
        return Ok((Arc::new(Memory::new(clock.clone())), None));
    };
    let coord = Fallback::start(Arc::new(redis), clock.clone(), metrics.clone()).await;
    let asked = coord.clone();
    let check = HealthCheck {
        name: "redis",
        // Without it the gateway goes on: nothing to take this process out of service for.
        check: Arc::new(move || {
            Ok(if asked.is_up() {
                "answers"
            } else {
                "does not answer: this process goes on by itself"
            }
            .to_owned())
        }),
    };
    Ok((coord, Some(check)))
}

pub(super) struct WorkQueue {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) broker: Option<Arc<dyn Broker>>,
}

/// The queue: over the store, or over a broker in front of it.
pub(super) fn work_queue(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    worker: WorkerId,
    metrics: &mut Metrics,
) -> anyhow::Result<WorkQueue> {
    let lease = CALL_MAX + LEASE_MARGIN;
    let embedded = EmbeddedQueue::new(store.clone(), clock.clone(), worker, lease);
    let Some(rabbit) = rabbit(config)? else {
        if let Some(outbox) = store.clone().outbox() {
            tokio::spawn(disown_broker(outbox, clock.clone()));
        }
        return Ok(WorkQueue {
            queue: Arc::new(embedded),
            broker: None,
        });
    };
    let outbox = store
        .clone()
        .outbox()
        .context("queue.url: the store takes no broker")?;
    let figures = Figures::default();
    figures.register(metrics.registry_mut());
    let queue = RabbitQueue::start(&rabbit, embedded, outbox, figures).context("queue.url")?;
    let queue = Arc::new(queue);
    Ok(WorkQueue {
        queue: queue.clone(),
        broker: Some(queue),
    })
}

/// The broker that is configured.
///
/// # Errors
/// `queue.ca_file` cannot be read.
pub fn rabbit(config: &Config) -> anyhow::Result<Option<RabbitConfig>> {
    let Some(url) = config.queue.url.clone() else {
        return Ok(None);
    };
    Ok(Some(RabbitConfig {
        url,
        ca_pem: ca_pem("queue.ca_file", config.queue.ca_file.as_deref())?,
        prefix: config.queue.prefix.clone(),
        prefetch: config.queue.prefetch,
        consumes: config.role != ProcessRole::Api,
        missing_after: rabbitmq::MISSING_AFTER,
        jitter: rand::random,
    }))
}

/// Redis, where it is configured.
///
/// # Errors
/// With the field that is wrong.
pub fn redis(config: &Config) -> anyhow::Result<Option<Redis>> {
    let Some(url) = &config.redis.url else {
        return Ok(None);
    };
    let ca_pem = ca_pem("redis.ca_file", config.redis.ca_file.as_deref())?;
    let redis = Redis::open(url, ca_pem.as_deref(), &config.redis.prefix, rand::random);
    Ok(Some(redis.context("redis.url")?))
}

/// The certificates in the file that a field names.
fn ca_pem(field: &'static str, path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let place = || format!("{field} {}", path.display());
    let pem = fs::read_to_string(path).with_context(place)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.with_context(place)?;
        roots.add(certificate).with_context(place)?;
    }
    if roots.is_empty() {
        bail!("{}: no PEM certificate in it", place());
    }
    Ok(Some(pem))
}

/// Where no broker is configured any more, claims the deliveries that one was told of once.
async fn disown_broker(outbox: Arc<dyn OutboxStore>, clock: Arc<dyn Clock>) {
    loop {
        let before = Timestamp(clock.now().0.saturating_sub(DISOWNED_AFTER_MS));
        match outbox.hand_over(before, DISOWNED_MAX).await {
            Ok(0) => {}
            Ok(deliveries) => {
                tracing::info!(
                    deliveries,
                    "a broker was told of deliveries and none is configured: the store holds them again"
                );
            }
            Err(error) => {
                tracing::debug!(%error, "whether a broker was told of deliveries is not known");
            }
        }
        tokio::time::sleep(DISOWN_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_usable_certificates_is_refused_by_its_field() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("ca.pem");
        let refused = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(&path, text).expect("written");
            }
            let error = ca_pem("queue.ca_file", Some(&path)).expect_err("refused");
            let error = format!("{error:#}");
            let named = format!("queue.ca_file {}", path.display());
            assert!(error.starts_with(&named), "{error}");
        };
        refused(None);
        refused(Some(""));
        refused(Some("certificate"));
        refused(Some(
            "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
        ));
        refused(Some(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ));
        assert_eq!(ca_pem("queue.ca_file", None).expect("none"), None);
    }
}
