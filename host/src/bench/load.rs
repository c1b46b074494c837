//! The load generator.
//!
//! Closed loop: so many connections send as fast as they are answered, with a bound on the
//! events under way between sender and receiver, so that what is accepted and what is delivered
//! keep pace. Open loop: events are due at fixed moments whatever the answers do, and latency
//! counts from the moment an event was due, so that a stall is charged to every event that it
//! delayed (no coordinated omission).

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::http1::Connection;
use super::receiver::{Phase, Phases};

/// How long a phase may go without a receipt before what is missing counts as lost.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Where to send.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub address: SocketAddr,
    /// The path to post to.
    pub path: &'static str,
    /// Of the `authorization` header.
    pub bearer: Option<String>,
    /// What stands before and after the payload in the body.
    pub envelope: (&'static str, &'static str),
}

/// How events are paced.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As fast as they are answered.
    Closed,
    /// So many a second.
    Open(f64),
}

/// What happened in a phase.
pub struct Outcome {
    /// When it began.
    pub started: Instant,
    /// When the last event was sent.
    pub ended: Instant,
}

/// Sends for `duration`, then waits until what was accepted has been received, or nothing more
/// comes.
pub async fn run(
    phases: &Arc<Phases>,
    number: usize,
    target: &Target,
    pace: Pace,
    connections: usize,
    duration: Duration,
) -> io::Result<Outcome> {
    let started = Instant::now();
    let until = started + duration;
    let due = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (phases, target, due) = (phases.clone(), target.clone(), due.clone());
        senders.spawn(async move {
            let phase = phases.get(number).ok_or(io::ErrorKind::NotFound)?;
            let mut sender = Sender::connect(&target, number).await?;
            match pace {
                Pace::Closed => sender.closed(phase, until).await,
                Pace::Open(rate) => sender.open(phase, started, until, rate, &due).await,
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let ended = Instant::now();
    if let Some(phase) = phases.get(number) {
        drain(phase).await;
    }
    Ok(Outcome { started, ended })
}

async fn drain(phase: &Phase) {
    let mut before = phase.ledger.tally();
    let mut progress = Instant::now();
    while before.lost > 0 && progress.elapsed() < STALL_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = phase.ledger.tally();
        if now != before {
            progress = Instant::now();
        }
        before = now;
    }
}

struct Sender<'a> {
    target: &'a Target,
    phase_number: usize,
    connection: Connection,
    message: Vec<u8>,
}

impl<'a> Sender<'a> {
    async fn connect(target: &'a Target, phase_number: usize) -> io::Result<Self> {
        Ok(Self {
            target,
            phase_number,
            connection: Connection::new(TcpStream::connect(target.address).await?)?,
            message: Vec::with_capacity(1024),
        })
    }

    async fn closed(&mut self, phase: &Phase, until: Instant) -> io::Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Receipts give the permit back.
            let Ok(Ok(permit)) = tokio::time::timeout(left, phase.window.acquire()).await else {
                return Ok(());
            };
            if Instant::now() >= until {
                return Ok(());
            }
            permit.forget();
            if !self.send(phase, Instant::now()).await? {
                phase.window.add_permits(1);
            }
        }
    }

    async fn open(
        &mut self,
        phase: &Phase,
        started: Instant,
        until: Instant,
        rate: f64,
        due: &AtomicU64,
    ) -> io::Result<()> {
        loop {
            let index = due.fetch_add(1, Ordering::Relaxed);
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 events")]
            let at = started + Duration::from_secs_f64(index as f64 / rate);
            if at >= until {
                return Ok(());
            }
            tokio::time::sleep_until(at.into()).await;
            self.send(phase, at).await?;
        }
    }

    /// Sends one event and reads the answer; false when it was not accepted.
    async fn send(&mut self, phase: &Phase, intended: Instant) -> io::Result<bool> {
        let ledger = &phase.ledger;
        let number = ledger.next().ok_or_else(|| {
            io::Error::other("more events than the bench has room for: shorten --duration-s")
        })?;
        self.write_message(number)?;
        ledger.sent(number, intended);
        self.connection.write(&self.message).await?;
        let answer = self.connection.read().await?;
        let status = answer.and_then(|answer| answer.status());
        if status == Some(202) {
            ledger.accepted(number, Instant::now());
            return Ok(true);
        }
        ledger.refused();
        if status.is_none() {
            self.connection = Connection::new(TcpStream::connect(self.target.address).await?)?;
        }
        Ok(false)
    }

    fn write_message(&mut self, number: u64) -> io::Result<()> {
        let Target {
            address,
            path,
            bearer,
            envelope: (before, after),
        } = self.target;
        let payload = payload(self.phase_number, number);
        let length = before.len() + payload.len() + after.len();
        self.message.clear();
        write!(
            self.message,
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n"
        )?;
        if let Some(bearer) = bearer {
            write!(self.message, "authorization: Bearer {bearer}\r\n")?;
        }
        write!(self.message, "\r\n{before}{payload}{after}")
    }
}

/// An incident as a platform might describe it: about 300 bytes.
fn payload(phase: usize, number: u64) -> String {
    format!(
        concat!(
            r#"{{"mark":"{}-{}","incident":{{"id":{},"title":"Disk almost full on db-7","#,
            r#""severity":"warning","status":"open","description":"The data volume of db-7 is at "#,
            r#"91 percent and grows by two percent an hour; it will be full before the next "#,
            r#"maintenance window."}},"systemId":"db-7"}}"#
        ),
        phase, number, number
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_json_of_a_usual_size() {
        let text = payload(1, 42);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["mark"], "1-42");
        assert_eq!(value["incident"]["id"], 42);
        assert!((250..400).contains(&text.len()), "{}", text.len());
    }
}
