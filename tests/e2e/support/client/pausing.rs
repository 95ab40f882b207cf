//! A stream that can be told not to read for a while; what is written goes on.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream.
pub struct Pausing<S> {
    stream: S,
    gate: Gate,
}

/// Stops the reading of a [`Pausing`] and lets it go on.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_closed: bool,
    waiting: Option<Waker>,
}

// === impl Pausing ===

impl<S> Pausing<S> {
    /// A stream that reads until its gate is closed.
    pub fn new(stream: S) -> (Pausing<S>, Gate) {
        let gate = Gate::default();
        let stream = Pausing {
            stream,
            gate: gate.clone(),
        };
        (stream, gate)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pausing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gate.is_closed(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pausing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Gate ===

impl Gate {
    /// From here on nothing is read.
    pub fn close(&self) {
        self.with(|state| state.is_closed = true);
    }

    /// Reading goes on.
    pub fn open(&self) {
        let waiting = self.with(|state| {
            state.is_closed = false;
            state.waiting.take()
        });
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn is_closed(&self, cx: &Context<'_>) -> bool {
        self.with(|state| {
            if state.is_closed {
                state.waiting = Some(cx.waker().clone());
            }
            state.is_closed
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
