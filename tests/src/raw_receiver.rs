//! Receivers that break HTTP or abuse it, written on plain TCP.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What it does to whoever sends it a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Takes the request and never answers.
    Silent,
    /// Answers with one byte a second.
    Dribbling,
    /// Answers with 100 MiB.
    Endless,
    /// Answers with a small body that decodes to 256 MiB.
    GzipBomb,
    /// Promises a body, sends a part, and closes.
    Broken,
    /// Answers with headers without end.
    HeaderFlood,
    /// Answers with something that is not HTTP.
    Babbling,
}

/// A receiver of that temper; it ends with the test's runtime.
pub struct RawReceiver {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl RawReceiver {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(temper: Temper) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                // The other side hangs up on most of these.
                tokio::spawn(async move { answer(stream, temper).await });
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// A URL at this receiver.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// How many connections came.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn answer(mut stream: TcpStream, temper: Temper) -> std::io::Result<()> {
    let mut request = [0; 16 * 1024];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    match temper {
        Temper::Silent => wait_for_the_end(&mut stream).await,
        Temper::Dribbling => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
                .await?;
            loop {
                stream.write_all(b".").await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Temper::Endless => {
            let total = 100 * 1024 * 1024_usize;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..total / piece.len() {
                stream.write_all(&piece).await?;
            }
            Ok(())
        }
        Temper::GzipBomb => {
            let bomb = gzip_bomb(256)?;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\
                 content-length: {}\r\n\r\n",
                bomb.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&bomb).await
        }
        Temper::Broken => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"half\":")
                .await?;
            stream.shutdown().await
        }
        Temper::HeaderFlood => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            let line = format!("x-flood: {}\r\n", "x".repeat(1000));
            loop {
                stream.write_all(line.as_bytes()).await?;
            }
        }
        Temper::Babbling => {
            stream
                .write_all(b"220 mail.example ESMTP ready\r\n")
                .await?;
            stream.shutdown().await
        }
    }
}

async fn wait_for_the_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// So many MiB of zeros, compressed.
fn gzip_bomb(mebibytes: usize) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        encoder.write_all(&zeros)?;
    }
    encoder.finish()
}
