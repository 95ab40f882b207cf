//! What a verb says, on its way to a stream that may take nothing: a terminal after Ctrl-S, a pipe that nobody reads.
//!
//! Owns a bounded queue and the thread that writes it. A deploy goes on, and hears signals, whether or not anybody reads.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait for a stream; of more, those of progress are left out.
pub const LINES_MAX: usize = 1024;
/// Room behind these for what is more than progress: steps, warnings, the result. What goes beyond is left out, too.
pub const LINES_RESERVED: usize = 256;
/// All that waits; with it, too, progress is left out. Twice as much, and everything is.
pub const BYTES_MAX: usize = 1024 * 1024;
/// How long the end of a verb waits for a stream: long enough for whoever reads at all.
pub const END_PATIENCE: Duration = Duration::from_secs(5);

/// A stream behind a queue. [`Write::write`] never waits; [`Write::flush`] does, for at most [`END_PATIENCE`].
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    is_writing: bool,
    is_over: bool,
    missed: usize,
    failure: Option<io::Error>,
}

// === impl Spool ===

impl Spool {
    /// Begins to write to a stream, in a thread that is left behind if the stream takes nothing to the end.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(stream: impl Write + Send + 'static) -> io::Result<Spool> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || of_thread.write_to(stream))?;
        Ok(Spool {
            shared,
            patience: END_PATIENCE,
        })
    }

    /// Takes what may be missed, if there is room.
    pub fn offer(&mut self, text: &str) {
        self.shared.put(text.as_bytes(), LINES_MAX, BYTES_MAX);
    }

    /// How many lines were left out.
    pub fn missed(&self) -> usize {
        self.shared.lock().missed
    }
}

impl Write for Spool {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.shared
            .put(text, LINES_MAX + LINES_RESERVED, 2 * BYTES_MAX);
        Ok(text.len())
    }

    /// Waits until all is written. Once that took too long, it is only looked at.
    fn flush(&mut self) -> io::Result<()> {
        let state = self.shared.lock();
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, self.patience, is_busy);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            self.patience = Duration::ZERO;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody reads what is written",
            ));
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

// === impl Shared ===

impl Shared {
    /// A thread that has panicked leaves the queue as it was between two lines.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &[u8], lines_max: usize, bytes_max: usize) {
        let mut state = self.lock();
        if state.lines.len() >= lines_max || state.bytes + text.len() > bytes_max {
            state.missed += 1;
            return;
        }
        state.bytes += text.len();
        state.lines.push_back(text.to_owned());
        self.changed.notify_all();
    }

    fn write_to(&self, mut stream: impl Write) {
        let mut state = self.lock();
        loop {
            let Some(line) = state.lines.pop_front() else {
                if state.is_over {
                    return;
                }
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.bytes -= line.len();
            state.is_writing = true;
            drop(state);
            let written = stream.write_all(&line).and_then(|()| stream.flush());
            state = self.lock();
            state.is_writing = false;
            if let Err(failure) = written {
                state.failure = Some(failure);
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
