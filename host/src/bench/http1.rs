//! As much HTTP/1.1 as a load generator and a receiver on one machine need: keep-alive,
//! `content-length`, no pipelining. Anything else is an error.
//!
//! It stands in for a client and a server library so that the load and the receiver take as
//! little of the measured machine as possible. Nothing outside the bench may use it.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One side of a connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    consumed: usize,
}

/// A message as read, borrowed from the connection.
pub struct Message<'a> {
    /// Start line and header lines.
    pub head: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(8 * 1024),
            consumed: 0,
        })
    }

    pub async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message).await
    }

    /// The next message; `None` when the other side has closed the connection between two.
    pub async fn read(&mut self) -> io::Result<Option<Message<'_>>> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let head_len = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(invalid("the head is too long"));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        };
        let message_len = head_len + content_length(&self.buffer[..head_len])?;
        while self.buffer.len() < message_len {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.consumed = message_len;
        Ok(Some(Message {
            head: &self.buffer[..head_len],
            body: &self.buffer[head_len..message_len],
        }))
    }
}

impl Message<'_> {
    /// The status of an answer.
    pub fn status(&self) -> Option<u16> {
        std::str::from_utf8(self.head.get(9..12)?)
            .ok()?
            .parse()
            .ok()
    }

    /// The value of the header `name`, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon]
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| line[colon + 1..].trim_ascii())
    })
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    if header(head, "transfer-encoding").is_some() {
        return Err(invalid("a transfer encoding is not understood"));
    }
    let Some(value) = header(head, "content-length") else {
        return Ok(0);
    };
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("content-length is no number"))
}

/// The position of `needle`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn reads_messages_that_come_together_or_in_pieces() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let writer = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            let text =
                b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 503 No\r\n\r\n";
            let (first, second) = text.split_at(30);
            for part in [first, second] {
                stream.write_all(part).await.expect("written");
                stream.flush().await.expect("flushed");
                tokio::task::yield_now().await;
            }
        });
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut connection = Connection::new(stream).expect("connection");
        let first = connection.read().await.expect("read").expect("a message");
        assert_eq!((first.status(), first.body), (Some(202), &b"{}"[..]));
        assert_eq!(first.header("content-length"), Some(&b"2"[..]));
        let second = connection.read().await.expect("read").expect("a message");
        assert_eq!((second.status(), second.body), (Some(503), &b""[..]));
        assert!(connection.read().await.expect("closed").is_none());
        writer.await.expect("writer");
    }

    #[test]
    fn a_chunked_body_is_refused() {
        assert!(content_length(b"GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
