//! Where access lines go: a bounded buffer, and a thread that writes it out.
//!
//! Owns the buffer, the file and its reopening. A full buffer drops the line and counts it; a request never waits for the
//! disk. The thread sleeps while there is nothing to write, and collects lines for `BATCH_TIME` once there is: one wake
//! and one write for many requests.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::access::Record;
use crate::config::AccessLogTarget;
use crate::error_text::with_sources;
use crate::request_head::RequestHead;

/// Takes lines. Cheap to clone; `off` costs nothing. The thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct AccessLog {
    sender: Option<Arc<Sender>>,
}

/// The access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log {path}")]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

impl AccessLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread cannot be started.
    pub fn open(
        target: &AccessLogTarget,
        buffer_lines: usize,
    ) -> Result<(AccessLog, Option<JoinHandle<()>>), OpenError> {
        let sink = match target {
            AccessLogTarget::Off => return Ok((AccessLog { sender: None }, None)),
            AccessLogTarget::Stdout => Sink::Stdout,
            AccessLogTarget::File(path) => Sink::open(path)?,
        };
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer::default()),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
            lines_max: buffer_lines,
        });
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.write_out(sink)
            })
            .map_err(|source| OpenError {
                path: PathBuf::from("(its thread)"),
                source,
            })?;
        let sender = Some(Arc::new(Sender(shared)));
        Ok((AccessLog { sender }, Some(thread)))
    }

    /// Puts a record's line into the buffer, or drops it if the buffer is full. `took` is what the request took.
    pub fn write(&self, record: &Record, head: Option<&RequestHead>, took: Duration) {
        let Some(sender) = &self.sender else {
            return;
        };
        LINE.with_borrow_mut(|line| {
            make_empty(line, LINE_BYTES_KEPT);
            record.write_line(head, took, SystemTime::now(), line);
            sender.0.push(line);
        });
    }

    /// Lines that did not fit into the buffer or could not be written.
    pub fn dropped(&self) -> u64 {
        let sender = self.sender.as_ref();
        sender.map_or(0, |sender| sender.0.dropped.load(Ordering::Relaxed))
    }

    /// Opens the file again before the next line is written, for log rotation.
    pub fn reopen(&self) {
        if let Some(sender) = &self.sender {
            sender.0.lock().is_reopen_wanted = true;
            sender.0.changed.notify_one();
        }
    }
}

/// Ends the thread when the last one who could write is gone.
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_one();
    }
}

struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
    dropped: AtomicU64,
    lines_max: usize,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Lines in `bytes`: `lines <= lines_max`.
    lines: usize,
    is_reopen_wanted: bool,
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // Nothing panics while it holds the lock.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut buffer = self.lock();
        if buffer.lines >= self.lines_max {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.bytes.extend_from_slice(line);
        buffer.lines += 1;
        let is_first = buffer.lines == 1;
        drop(buffer);
        if is_first {
            self.changed.notify_one();
        }
    }

    fn write_out(&self, mut sink: Sink) {
        let mut has_failed = false;
        // Two buffers take turns: one that grew need not grow again.
        let mut batch = Vec::new();
        loop {
            let mut buffer = self.lock();
            while buffer.lines == 0 && !buffer.is_closed && !buffer.is_reopen_wanted {
                buffer = self
                    .changed
                    .wait(buffer)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if !buffer.is_closed && !buffer.is_reopen_wanted {
                let is_quiet = |buffer: &mut Buffer| !buffer.is_closed && !buffer.is_reopen_wanted;
                let waited = self
                    .changed
                    .wait_timeout_while(buffer, BATCH_TIME, is_quiet);
                buffer = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut buffer.bytes, &mut batch);
            let lines = std::mem::take(&mut buffer.lines);
            let is_reopen_wanted = std::mem::take(&mut buffer.is_reopen_wanted);
            let is_closed = buffer.is_closed;
            drop(buffer);
            if let Err(error) = sink.write(&batch) {
                self.dropped.fetch_add(lines as u64, Ordering::Relaxed);
                if !has_failed {
                    let to = sink.name();
                    tracing::error!(%to, %error, "cannot write the access log; lines are lost until it can be written again");
                }
                has_failed = true;
            } else if lines > 0 {
                if has_failed {
                    let dropped = self.dropped.load(Ordering::Relaxed);
                    tracing::info!(to = %sink.name(), dropped, "the access log is written again");
                }
                has_failed = false;
            }
            make_empty(&mut batch, BATCH_BYTES_KEPT);
            if is_reopen_wanted {
                sink.reopen();
            }
            if is_closed {
                return;
            }
        }
    }
}

// === impl Sink ===

enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Sink {
    fn open(path: &Path) -> Result<Sink, OpenError> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        match opened {
            Ok(file) => Ok(Sink::File {
                path: path.to_owned(),
                file,
            }),
            Err(source) => Err(OpenError {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// For messages: the path as the configuration has it.
    fn name(&self) -> std::path::Display<'_> {
        match self {
            Sink::Stdout => Path::new("stdout").display(),
            Sink::File { path, .. } => path.display(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Sink::File { file, .. } => file.write_all(bytes),
        }
    }

    fn reopen(&mut self) {
        if let Sink::File { path, .. } = self {
            match Sink::open(path) {
                Ok(sink) => *self = sink,
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::error!(%error, "cannot reopen the access log; the old file goes on until the next reopening");
                }
            }
        }
    }
}

thread_local! {
    /// The line that was written last.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Empties a buffer that is used again, and gives back one that has become large.
fn make_empty(buffer: &mut Vec<u8>, bytes_kept: usize) {
    buffer.clear();
    if buffer.capacity() > bytes_kept {
        *buffer = Vec::new();
    }
}

/// Most lines fit.
const LINE_BYTES_KEPT: usize = 4 * 1024;
/// The lines of 50 000 requests a second fit, for as long as they are collected, in a buffer that grows to twice its size.
const BATCH_BYTES_KEPT: usize = 4 * 1024 * 1024;
/// How long lines are collected before they are written.
const BATCH_TIME: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(lines_max: usize) -> Shared {
        Shared {
            buffer: Mutex::new(Buffer::default()),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
            lines_max,
        }
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let shared = shared(2);
        for _ in 0..5 {
            shared.push(b"line\n");
        }
        assert_eq!(shared.lock().lines, 2);
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let target = AccessLogTarget::File(PathBuf::from("/dev/full"));
        let (log, thread) = AccessLog::open(&target, 100).expect("opens");
        let shared = Arc::clone(&log.sender.as_ref().expect("on").0);
        shared.push(b"one\n");
        shared.push(b"two\n");
        drop(log);
        thread.expect("a thread").join().expect("ends");
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_buffer_is_kept_until_it_is_large() {
        let mut buffer = Vec::with_capacity(8);
        buffer.push(1);
        make_empty(&mut buffer, 8);
        assert_eq!((buffer.len(), buffer.capacity()), (0, 8));
        buffer.extend([1; 9]);
        make_empty(&mut buffer, 8);
        assert_eq!(buffer.capacity(), 0);
    }

    #[test]
    fn what_was_taken_is_written_before_the_end_and_a_moved_file_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let target = AccessLogTarget::File(path.clone());
        let (log, thread) = AccessLog::open(&target, 100).expect("opens");
        let sender = log.sender.as_ref().expect("on");
        sender.0.push(b"one\n");
        let moved = dir.path().join("access.log.1");
        std::fs::rename(&path, &moved).expect("moves");
        log.reopen();
        while !path.exists() {
            std::thread::yield_now();
        }
        sender.0.push(b"two\n");
        drop(log);
        thread.expect("a thread").join().expect("ends");
        assert_eq!(std::fs::read_to_string(moved).expect("old"), "one\n");
        assert_eq!(std::fs::read_to_string(path).expect("new"), "two\n");
    }
}
