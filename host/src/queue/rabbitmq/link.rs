//! The connection: made again and again, and known to be there or not.
//!
//! Whoever needs the broker asks for the [`Session`] of the moment. A session ends when anything of
//! it fails or does not answer in time; a frozen broker ends it like a dead one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicNackOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionBuilder, ConnectionProperties, Consumer};
use tokio::sync::{Notify, watch};

use super::RabbitConfig;
use super::figures::Figures;
use super::inbox::{Inbox, Told};
use super::message;
use super::topology::{Depths, Topology};
use crate::store::Traffic;

/// Connecting and declaring everything.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// A broker that does not answer a question within this is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the broker is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often everything is declared anew without a reason, in questions.
const DECLARE_EVERY: u32 = 30;
/// Between tries to connect: the first and the longest, before jitter.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// After a queue was deleted under its consumer.
const CONSUME_AGAIN: Duration = Duration::from_millis(200);
/// A consumer that heard nothing for so long is replaced. One whose queue was deleted and declared anew
/// before the broker had told of it is silently moved to the new queue, and RabbitMQ 3.10 then counts
/// messages as handed to it that its channel never sends (`handle_consuming_queue_down_or_eol` in
/// `rabbit_channel.erl`). Closing the channel gives them back.
const SILENT_AFTER: Duration = Duration::from_secs(15);
/// In seconds; a peer that is silent for twice as long is gone.
const HEARTBEAT_S: u16 = 10;
const CONNECT_TIMEOUT_MS: u64 = 5_000;

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The URL is wrong. It is not repeated, as it may hold a password.
    #[error("the broker's URL cannot be read; it is amqp://user:password@host:port/vhost")]
    Url,
    /// The broker refuses, or the connection broke.
    #[error("{0}")]
    Broker(#[from] lapin::Error),
    /// It does not answer.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

/// Where the broker is.
pub(super) fn parse_url(text: &str) -> Result<AMQPUri, LinkError> {
    let url = url::Url::parse(text).map_err(|_| LinkError::Url)?;
    let mut uri: AMQPUri = text.parse().map_err(|_| LinkError::Url)?;
    // The parser takes names for hosts, and leaves an address in brackets out.
    uri.authority.host = match url.host().ok_or(LinkError::Url)? {
        url::Host::Ipv6(address) => address.to_string(),
        host => host.to_string(),
    };
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query
        .connection_timeout
        .get_or_insert(CONNECT_TIMEOUT_MS);
    Ok(uri)
}

/// What one process consumes.
pub(super) struct Consuming {
    pub(super) inbox: Arc<Inbox>,
    /// Messages that are on their way or not settled.
    pub(super) prefetch: u16,
    pub(super) replay_prefetch: u16,
}

/// Why a consumer ended.
#[derive(PartialEq)]
enum Ended {
    Cancelled,
    Silent,
}

/// A connection that works, as far as known.
pub(super) struct Session {
    connection: Connection,
    /// Confirms.
    pub(super) publish: Channel,
    /// Something was not where it should be: everything is declared anew.
    pub(super) misplaced: Notify,
    over: watch::Sender<bool>,
}

impl Session {
    /// Returns when the session is over.
    pub(super) async fn over(&self) {
        // The sender lives as long as this session.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// A channel for something rare.
    pub(super) async fn channel(&self) -> lapin::Result<Channel> {
        self.connection.create_channel().await
    }
}

/// The connection of this process.
pub(super) struct Link {
    uri: AMQPUri,
    ca_pem: Option<String>,
    pub(super) topology: Topology,
    current: Mutex<Option<Arc<Session>>>,
    depths: Mutex<Depths>,
    is_up: AtomicBool,
    pub(super) figures: Figures,
}

impl Link {
    /// # Errors
    /// `Url`.
    pub(super) fn new(config: &RabbitConfig, figures: Figures) -> Result<Self, LinkError> {
        Ok(Self {
            uri: parse_url(&config.url)?,
            ca_pem: config.ca_pem.clone(),
            topology: Topology::new(&config.prefix),
            current: Mutex::default(),
            depths: Mutex::default(),
            is_up: AtomicBool::new(false),
            figures,
        })
    }

    /// The session of the moment, while the broker is there.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub(super) fn depths(&self) -> Depths {
        *self.depths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, session: Option<Arc<Session>>) {
        self.is_up.store(session.is_some(), Ordering::Release);
        self.figures.up.set(i64::from(session.is_some()));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// Connects and declares everything.
    pub(super) async fn open(&self) -> Result<Session, LinkError> {
        let opening = async {
            let name = "hookport".into();
            let properties = ConnectionProperties::default().with_connection_name(name);
            let tls = OwnedTLSConfig {
                identity: None,
                cert_chain: self.ca_pem.clone(),
            };
            let builder = ConnectionBuilder::new()?
                .with_uri(self.uri.clone())
                .with_properties(properties)
                .with_tls_config(tls);
            let connection = builder.connect().await?;
            let publish = connection.create_channel().await?;
            self.topology.declare(&publish).await?;
            publish
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(Session {
                connection,
                publish,
                misplaced: Notify::new(),
                over: watch::Sender::new(false),
            })
        };
        tokio::time::timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| LinkError::Silent(OPEN_TIMEOUT))?
    }

    /// Connects for as long as it is polled. `jitter` is uniform in 0.0..1.0.
    pub(super) async fn run(&self, consuming: Option<Consuming>, jitter: fn() -> f64) {
        let mut failures = 0;
        loop {
            match self.open().await {
                Ok(session) => {
                    let session = Arc::new(session);
                    self.set(Some(session.clone()));
                    if failures == 0 {
                        tracing::info!("connected to the broker");
                    } else {
                        tracing::info!("the broker is back: work goes through it again");
                    }
                    let error = self.serve(&session, consuming.as_ref()).await;
                    self.set(None);
                    session.over.send_replace(true);
                    if let Some(consuming) = &consuming {
                        consuming.inbox.clear();
                    }
                    self.figures.fallbacks.inc();
                    tracing::warn!(%error, "the broker is away: work is claimed from the store until it is back");
                    failures = 1;
                }
                Err(error) => {
                    if failures == 0 {
                        self.figures.fallbacks.inc();
                        tracing::warn!(%error, "the broker cannot be reached: work is claimed from the store until it can");
                    } else {
                        tracing::debug!(%error, failures, "the broker is still away");
                    }
                    failures += 1;
                }
            }
            let longest = RETRY_FIRST
                .saturating_mul(1 << failures.clamp(1, 16) >> 1)
                .min(RETRY_MAX);
            tokio::time::sleep(longest.mul_f64(0.5 + jitter() / 2.0)).await;
        }
    }

    /// Returns when the session is over, with the reason.
    async fn serve(&self, session: &Session, consuming: Option<&Consuming>) -> LinkError {
        let live = self.consume(session, consuming, &self.topology.process, Traffic::Live);
        let replays = self.consume(session, consuming, &self.topology.replay, Traffic::Replays);
        let ended = tokio::select! {
            ended = live => ended,
            ended = replays => ended,
            ended = self.ask(session) => ended,
        };
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Asks the broker how much waits, which declares the queues anew that somebody deleted.
    async fn ask(&self, session: &Session) -> Result<std::convert::Infallible, LinkError> {
        let channel = session.channel().await?;
        let mut rounds = 0;
        loop {
            let asking = async {
                if rounds % DECLARE_EVERY == DECLARE_EVERY - 1 {
                    self.topology.declare(&channel).await?;
                }
                self.topology.declare_queues(&channel).await
            };
            let depths = tokio::time::timeout(ANSWER_TIMEOUT, asking)
                .await
                .map_err(|_| LinkError::Silent(ANSWER_TIMEOUT))??;
            *self.depths.lock().unwrap_or_else(PoisonError::into_inner) = depths;
            self.figures.depths(depths);
            rounds += 1;
            tokio::select! {
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = session.misplaced.notified() => rounds = DECLARE_EVERY - 1,
            }
        }
    }

    /// Fills the inbox from a queue, and again when the queue was deleted and is back.
    async fn consume(
        &self,
        session: &Session,
        consuming: Option<&Consuming>,
        queue: &ShortString,
        traffic: Traffic,
    ) -> Result<std::convert::Infallible, LinkError> {
        let Some(consuming) = consuming else {
            return std::future::pending().await;
        };
        let prefetch = match traffic {
            Traffic::Live => consuming.prefetch,
            Traffic::Replays => consuming.replay_prefetch,
        };
        loop {
            let channel = session.channel().await?;
            channel
                .basic_qos(prefetch, BasicQosOptions::default())
                .await?;
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer = channel.basic_consume(queue.clone(), "".into(), options, none);
            match consumer.await {
                Ok(messages) => {
                    if receive(messages, &consuming.inbox, traffic).await? == Ended::Silent {
                        channel.close(200, "silent".into()).await?;
                        continue;
                    }
                    tracing::warn!(%queue, "the queue was deleted; it is declared anew, and the sweep finds what it held");
                }
                // The queue is not there at this moment.
                Err(error) if error.is_amqp_soft_error() => {}
                Err(error) => return Err(error.into()),
            }
            session.misplaced.notify_one();
            tokio::time::sleep(CONSUME_AGAIN).await;
        }
    }
}

/// Fills the inbox until the broker cancels the consumer, or is silent while the inbox is empty: what
/// waits there would come twice.
async fn receive(
    mut messages: Consumer,
    inbox: &Inbox,
    traffic: Traffic,
) -> Result<Ended, LinkError> {
    loop {
        let message = match tokio::time::timeout(SILENT_AFTER, messages.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => return Ok(Ended::Cancelled),
            Err(_) if inbox.len(traffic) == 0 => return Ok(Ended::Silent),
            Err(_) => continue,
        };
        match message::decode(&message.data) {
            Some(queued) => inbox.push(Told {
                queued,
                acker: message.acker,
                traffic,
            }),
            None => {
                tracing::warn!(
                    ?traffic,
                    "a message that cannot be read goes to the dead queue"
                );
                let unread = BasicNackOptions {
                    requeue: false,
                    ..BasicNackOptions::default()
                };
                message.acker.nack(unread).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_never_repeated() {
        let uri = parse_url("amqp://u:p@[::1]:5673").expect("reads");
        assert_eq!(
            (uri.authority.host.as_str(), uri.authority.port),
            ("::1", 5_673)
        );
        assert_eq!(uri.vhost, "/");
        assert_eq!(parse_url("amqp://h/%2fa").expect("reads").vhost, "/a");
        for text in [
            "amqp://u:hidden-pass@h:port",
            "http://u:hidden-pass@h",
            "hidden-pass",
        ] {
            let error = parse_url(text).expect_err("wrong");
            assert!(!format!("{error} {error:?}").contains("hidden-pass"));
        }
    }
}
