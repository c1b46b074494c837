//! A guest's stdout and stderr: lines of the delivery's log, within its caps.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::state::CallShared;

/// Longest line that is looked at; the rest of it is dropped.
const LINE_BYTES_MAX: usize = 64 << 10;
/// What goes from the end of a line that was too long: a secret may begin there whose end was
/// dropped, and which is therefore not masked.
const UNSURE_BYTES: usize = 16 << 10;
/// Bytes taken from the guest in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// One of the two streams. Clones write to the same pending line.
#[derive(Clone)]
pub(super) struct GuestOutput {
    name: &'static str,
    shared: Arc<CallShared>,
    line: Arc<Mutex<Vec<u8>>>,
}

impl GuestOutput {
    pub(super) fn new(name: &'static str, shared: Arc<CallShared>) -> Self {
        Self {
            name,
            shared,
            line: Arc::default(),
        }
    }

    fn take(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(std::mem::take(&mut *line));
            } else if line.len() < LINE_BYTES_MAX {
                line.push(byte);
            }
        }
    }

    fn end_line(&self, mut line: Vec<u8>) {
        if line.len() >= LINE_BYTES_MAX {
            line = self.shared.mask_bytes(line);
            line.truncate(line.len().saturating_sub(UNSURE_BYTES));
            line.extend("…".as_bytes());
        }
        if !line.is_empty() {
            self.shared
                .log(self.name, String::from_utf8_lossy(&line).into_owned());
        }
    }
}

impl Drop for GuestOutput {
    fn drop(&mut self) {
        // The others go on with the line.
        if Arc::strong_count(&self.line) > 1 {
            return;
        }
        let line = std::mem::take(&mut *self.line.lock().unwrap_or_else(PoisonError::into_inner));
        self.end_line(line);
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
