//! The deadline of a write to a client that does not read, or reads too slowly.
//!
//! Owns the timer, which exists only while a write waits. How long it may be is `patience.rs`' arithmetic.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

use crate::patience::Patience;

/// Watches the writes of one connection.
pub struct Stall {
    patience: Patience,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    has_ended: bool,
}

impl Stall {
    /// No write has waited yet.
    pub fn new(patience: Patience) -> Stall {
        Stall {
            patience,
            waiting: None,
            has_ended: false,
        }
    }

    /// Whether a write was given up.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Passes on what came of polling a write; a write that waits for too long becomes an error. `bytes` are what it
    /// has moved, if it has.
    pub fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Ok(done)) => {
                let waited = self.waiting.take().map(|(since, _)| since.elapsed());
                self.patience
                    .moved(waited.unwrap_or_default(), bytes(&done));
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => {
                self.waiting = None;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let left = self.patience.left();
                let (_, timer) = self
                    .waiting
                    .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
                ready!(timer.as_mut().poll(cx));
                self.has_ended = true;
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}
