//! The receiver: answers 200 at once and writes each receipt into the ledger of its phase.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::http1::{Connection, Message, find};
use super::ledger::Ledger;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// Phases of one run.
pub const PHASES_MAX: usize = 8;

/// A phase as sender and receiver share it.
pub struct Phase {
    /// Its events.
    pub ledger: Ledger,
    /// One permit for each event that may be under way.
    pub window: Semaphore,
}

/// What is shared with the load generator.
#[derive(Default)]
pub struct Phases([OnceLock<Phase>; PHASES_MAX]);

impl Phases {
    /// Opens the next phase and returns its number.
    pub fn open(&self, ledger: Ledger, window: usize) -> Option<(usize, &Phase)> {
        let number = self.0.iter().position(|phase| phase.get().is_none())?;
        let phase = self.0[number].get_or_init(|| Phase {
            ledger,
            window: Semaphore::new(window),
        });
        Some((number, phase))
    }

    /// The phase of that number.
    pub fn get(&self, number: usize) -> Option<&Phase> {
        self.0.get(number)?.get()
    }
}

/// Serves until the runtime ends. Returns where.
pub async fn start(phases: Arc<Phases>) -> io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let phases = phases.clone();
            tokio::spawn(async move {
                // A connection that breaks shows as an event that is lost or duplicated.
                let _ = serve(stream, &phases).await;
            });
        }
    });
    Ok(address)
}

async fn serve(stream: tokio::net::TcpStream, phases: &Phases) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(message) = connection.read().await? {
        note(&message, phases);
        connection.write(ANSWER).await?;
    }
    Ok(())
}

fn note(message: &Message<'_>, phases: &Phases) {
    let at = Instant::now();
    let Some((phase, number)) = mark(message.body) else {
        return;
    };
    let mut hasher = DefaultHasher::new();
    message.header("webhook-id").hash(&mut hasher);
    if let Some(phase) = phases.get(phase)
        && phase.ledger.received(number, hasher.finish(), at)
    {
        phase.window.add_permits(1);
    }
}

/// The mark `"mark":"<phase>-<number>"` that every payload carries, wherever it stands.
fn mark(body: &[u8]) -> Option<(usize, u64)> {
    let start = find(body, br#""mark":""#)? + br#""mark":""#.len();
    let rest = &body[start..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let (phase, number) = std::str::from_utf8(&rest[..end]).ok()?.split_once('-')?;
    Some((phase.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mark_inside_the_envelope() {
        let body = br#"{"id":"evt_1","data":{"mark":"3-1234","x":1}}"#;
        assert_eq!(mark(body), Some((3, 1234)));
        assert_eq!(mark(br#"{"data":{"mark":"x"}}"#), None);
        assert_eq!(mark(b"{}"), None);
    }
}
