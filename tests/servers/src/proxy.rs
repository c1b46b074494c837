//! A TCP proxy that breaks what goes through it: in the middle of a frame, in one direction, or
//! without a word.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a PostgreSQL client sends to commit.
const COMMIT: &[u8] = b"COMMIT\0";

/// What happens to every connection, those that are there and those that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every piece of data takes so long.
    Delay(Duration),
    /// Each connection is cut after so many bytes more of the server's, wherever that is in a
    /// frame.
    CutAfter(u64),
    /// Nothing arrives any more, and nobody is told.
    BlackHole,
    /// As [`Fault::BlackHole`] for the connections that are there, and for ever; new ones are sound.
    Silence,
    /// What the client sends is lost (acknowledgements, too), while the server is still heard. Such a
    /// connection is cut when that ends.
    LoseRequests,
    /// The client hears that the server will send no more; what it sends still arrives.
    HalfClose,
    /// The server commits, and the connection is cut instead of saying so.
    DropCommitAnswers,
    /// Nobody can connect, and who was connected is cut off.
    Refuse,
}

/// The proxy; it ends with the test's runtime.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    cut: AtomicU64,
    swallowed_answers: AtomicU64,
}

impl Proxy {
    /// In front of a server on this machine.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn before(port: u16) -> Self {
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let fault = watch::Sender::new(Fault::None);
        let counts = Arc::new(Counts::default());
        let (faults, counted) = (fault.clone(), counts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(
                    client,
                    upstream,
                    faults.subscribe(),
                    counted.clone(),
                ));
            }
        });
        Self {
            address,
            fault,
            counts,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What happens from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections cut, and answers to `COMMIT` that were swallowed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.counts.cut.load(Ordering::Relaxed),
            self.counts.swallowed_answers.load(Ordering::Relaxed),
        )
    }
}

/// What the two directions of a connection share.
struct Connection {
    /// The server's bytes that may still pass, once they are counted.
    left: Mutex<Option<u64>>,
    /// The answer to a commit comes next.
    committing: AtomicBool,
    /// Bytes were swallowed: it can never be used again.
    torn: AtomicBool,
    /// It was made while others are silent.
    is_sound: bool,
    counts: Arc<Counts>,
}

async fn connect(
    client: TcpStream,
    upstream: SocketAddr,
    mut fault: watch::Receiver<Fault>,
    counts: Arc<Counts>,
) {
    if *fault.borrow() == Fault::BlackHole {
        // Accepted, and never heard of again.
        let _ = fault.wait_for(|fault| *fault != Fault::BlackHole).await;
        return;
    }
    if *fault.borrow() == Fault::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let connection = Connection {
        left: Mutex::new(None),
        committing: AtomicBool::new(false),
        torn: AtomicBool::new(false),
        is_sound: *fault.borrow() == Fault::Silence,
        counts,
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = carry(from_client, to_server, &connection, fault.clone(), false);
    let answers = carry(from_server, to_client, &connection, fault.clone(), true);
    let refused = async {
        let _ = fault.wait_for(|fault| *fault == Fault::Refuse).await;
    };
    // Whichever direction ends first ends both.
    let cut = tokio::select! {
        cut = requests => cut,
        cut = answers => cut,
        () = refused => true,
    };
    if cut {
        connection.counts.cut.fetch_add(1, Ordering::Relaxed);
    }
}

/// Carries one direction until its end. True: it was cut.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    connection: &Connection,
    mut fault: watch::Receiver<Fault>,
    is_answer: bool,
) -> bool {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let now = *fault.borrow_and_update();
        if !matches!(now, Fault::BlackHole | Fault::Silence | Fault::LoseRequests)
            && connection.torn.load(Ordering::Relaxed)
        {
            return true;
        }
        if is_answer && now == Fault::HalfClose {
            let _ = to.shutdown().await;
            // The other direction goes on until the client closes it.
            std::future::pending::<()>().await;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            changed = fault.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return false,
            },
        };
        let Ok(length @ 1..) = read else {
            return false;
        };
        let mut data = &buffer[..length];
        let now = *fault.borrow();
        let mut cut = false;
        match now {
            Fault::None | Fault::HalfClose => {}
            Fault::Silence if connection.is_sound => {}
            Fault::Delay(pause) => tokio::time::sleep(pause).await,
            Fault::Refuse => return true,
            Fault::BlackHole | Fault::Silence => {
                connection.torn.store(true, Ordering::Relaxed);
                continue;
            }
            Fault::CutAfter(bytes) if is_answer => {
                let mut left = connection
                    .left
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let allowed = *left.get_or_insert(bytes);
                let passes = usize::try_from(allowed).unwrap_or(usize::MAX).min(length);
                cut = passes < length;
                data = &data[..passes];
                *left = Some(allowed - u64::try_from(passes).unwrap_or(allowed));
            }
            Fault::DropCommitAnswers if is_answer => {
                if connection.committing.load(Ordering::Relaxed) {
                    let swallowed = &connection.counts.swallowed_answers;
                    swallowed.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
            Fault::DropCommitAnswers => {
                let commits = data.windows(COMMIT.len()).any(|window| window == COMMIT);
                connection.committing.store(commits, Ordering::Relaxed);
            }
            Fault::LoseRequests if !is_answer => {
                connection.torn.store(true, Ordering::Relaxed);
                continue;
            }
            Fault::CutAfter(_) | Fault::LoseRequests => {}
        }
        if to.write_all(data).await.is_err() {
            return false;
        }
        if cut {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every byte with itself.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn through(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .expect("connects")
    }

    #[tokio::test]
    async fn it_passes_everything_until_it_cuts_in_the_middle() {
        let proxy = Proxy::before(echo().await).await;
        let mut stream = through(&proxy).await;
        stream.write_all(b"whole").await.expect("written");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"whole");
        proxy.set(Fault::CutAfter(3));
        stream.write_all(b"parted").await.expect("written");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert_eq!(rest, b"par");
        assert_eq!(proxy.counts().0, 1);
    }

    #[tokio::test]
    async fn an_answer_to_a_commit_is_swallowed() {
        let proxy = Proxy::before(echo().await).await;
        proxy.set(Fault::DropCommitAnswers);
        let mut stream = through(&proxy).await;
        stream.write_all(b"SELECT").await.expect("written");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.expect("answered");
        stream.write_all(COMMIT).await.expect("written");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
        assert_eq!(proxy.counts(), (1, 1));
    }

    #[tokio::test]
    async fn what_a_client_sends_is_lost_while_it_hears_the_server() {
        let proxy = Proxy::before(echo().await).await;
        let mut stream = through(&proxy).await;
        stream.write_all(b"heard").await.expect("written");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.expect("answered");
        proxy.set(Fault::LoseRequests);
        stream.write_all(b"lost").await.expect("written");
        let waited = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer));
        assert!(waited.await.is_err(), "nobody is told");
        proxy.set(Fault::None);
        assert_eq!(stream.read(&mut answer).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn what_went_through_a_black_hole_is_never_used_again() {
        let proxy = Proxy::before(echo().await).await;
        let mut stream = through(&proxy).await;
        proxy.set(Fault::BlackHole);
        stream.write_all(b"lost").await.expect("written");
        let mut answer = [0; 4];
        let waited = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut answer));
        assert!(waited.await.is_err(), "nobody is told");
        proxy.set(Fault::None);
        assert_eq!(stream.read(&mut answer).await.unwrap_or(0), 0);
        let mut fresh = through(&proxy).await;
        fresh.write_all(b"here").await.expect("written");
        fresh.read_exact(&mut answer).await.expect("answered");
    }
}
