//! A client's connection as bytes: buffered both ways, with a deadline for a client that does not read.
//!
//! Owns the bytes read ahead and the bytes not written yet. Below is `client_transport.rs`, which knows TLS; above are
//! `head.rs` and `body.rs`, over HTTP/2 the codec, which know HTTP. A [`ClientIo`] is a handle; its clones share one
//! connection, so that the connection loop keeps hold of it while a session has a clone.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::client_transport::Transport;
use crate::h2_frames::{Flood, FrameBudget};
use crate::patience::Patience;
use crate::stall::Stall;

/// A handle to one client connection.
#[derive(Clone)]
pub struct ClientIo {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    peer: SocketAddr,
    is_h2: bool,
    flooded: Notify,
}

struct Inner {
    transport: Transport,
    /// Bytes read and not handed out.
    read: BytesMut,
    /// Bytes accepted and not written: `write.len() < WRITE_BUFFER_BYTES + one head`. Heads that come before the one that counts
    /// are flushed one by one.
    write: Vec<u8>,
    /// Bytes at the front of `write` that are written.
    written: usize,
    stall: Stall,
    /// HTTP/2 alone.
    frames: Option<FrameBudget>,
    is_flooded: bool,
    /// What the codec flushes waits for [`ClientIo::poll_write_out`].
    gathers: bool,
}

/// What a client may do to its connection.
#[derive(Clone, Copy, Debug)]
pub struct IoLimits {
    /// How long it may not read.
    pub stall: Duration,
    /// The slowest that it may read in the mean; 0 = any.
    pub bytes_per_second: u32,
    /// HTTP/2 frames that move nothing.
    pub h2_control_frames: u32,
}

impl ClientIo {
    /// A connection whose writes fail, and whose reads end, when its client goes beyond `limits`.
    pub fn new(transport: Transport, peer: SocketAddr, limits: IoLimits) -> ClientIo {
        let is_h2 = transport.is_h2();
        let inner = Inner {
            transport,
            read: BytesMut::new(),
            write: Vec::new(),
            written: 0,
            stall: Stall::new(Patience::new(limits.stall, limits.bytes_per_second)),
            frames: is_h2.then(|| FrameBudget::new(limits.h2_control_frames, Instant::now())),
            is_flooded: false,
            gathers: false,
        };
        ClientIo {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                peer,
                is_h2,
                flooded: Notify::new(),
            }),
        }
    }

    /// Whether the client chose HTTP/2 in the handshake.
    pub fn is_h2(&self) -> bool {
        self.shared.is_h2
    }

    /// The address at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    /// Whether a write was given up because the client does not read, or too slowly.
    pub fn has_stalled(&self) -> bool {
        self.lock().stall.has_ended()
    }

    /// Resolves when the client sent more HTTP/2 control frames than it may. Nothing more is read from it then.
    pub async fn flooded(&self) {
        self.shared.flooded.notified().await;
    }

    /// Resolves when the client has owed the rest of an HTTP/2 head, or of a frame that is no body's, for `time`. To be
    /// polled beside the codec, whose reads tell when that begins.
    pub async fn head_overdue(&self, time: Duration) {
        let timer = tokio::time::sleep(time);
        tokio::pin!(timer);
        std::future::poll_fn(|cx| {
            let since = self
                .lock()
                .frames
                .as_ref()
                .and_then(FrameBudget::unfinished_since);
            let Some(since) = since else {
                return Poll::Pending;
            };
            let deadline = tokio::time::Instant::from_std(since + time);
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            timer.as_mut().poll(cx)
        })
        .await
    }

    /// Calls `look` with the bytes read ahead, of which it may take some away.
    pub fn with_read<T>(&self, look: impl FnOnce(&mut BytesMut) -> T) -> T {
        let inner = &mut *self.lock();
        let looked = look(&mut inner.read);
        inner.give_back_read_buffer();
        looked
    }

    /// Reads more bytes ahead; `Ok(0)` when the client has sent its last byte.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn read_ahead(&self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.lock();
            poll_read_chunk(&mut inner.transport, &mut inner.read, cx)
        })
        .await
    }

    /// Reads more bytes ahead, of a body: up to `room` at once, without a copy. `Ok(0)` when the client has sent its last byte.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn read_much_ahead(&self, room: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.lock();
            inner.read.reserve(room);
            let read = pin!(inner.transport.read_buf(&mut inner.read)).poll(cx);
            if read.is_pending() {
                // A client that trickles holds no buffer while it does.
                inner.give_back_read_buffer();
            }
            read
        })
        .await
    }

    /// Puts bytes behind those that wait to be written, without a copy between: a head, or what delimits a body.
    pub fn write_into(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let inner = &mut *self.lock();
        if inner.write.capacity() == 0 {
            inner.write.reserve(WRITE_BYTES_USUAL);
        }
        write(&mut inner.write);
    }

    /// Accepts all of `bytes`. Few of them wait for the next flush; of many, most are written first.
    ///
    /// # Errors
    /// The client is gone, or does not read.
    pub async fn write_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = std::future::poll_fn(|cx| self.lock().poll_write(cx, rest)).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Resolves when the client has closed its sending side or the connection failed. What else arrives meanwhile (a
    /// pipelined request) is kept for the next read, up to a bound behind which the end is no longer seen.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn gone(&self) {
        loop {
            let read = std::future::poll_fn(|cx| {
                let inner = &mut *self.lock();
                if inner.read.len() >= READ_AHEAD_MAX {
                    return Poll::Pending;
                }
                poll_read_chunk(&mut inner.transport, &mut inner.read, cx)
            })
            .await;
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Writes out what was accepted.
    pub async fn flush(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.lock().poll_flush(cx)).await
    }

    /// From here on a flush of the HTTP/2 codec only leaves its bytes to [`poll_write_out`](ClientIo::poll_write_out). The codec flushes
    /// behind each DATA frame; what several streams have to say at once is one TLS record and one write so.
    pub fn gather_writes(&self) {
        self.lock().gathers = true;
    }

    /// Writes out what was gathered. Ready when nothing waits any more, or the client is gone, or does not read. To be polled
    /// behind the codec, by the same task.
    pub fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(cx)
    }

    /// Bytes of bodies that the HTTP/2 codec has handed over.
    pub fn body_sent(&self) -> u64 {
        let inner = self.lock();
        inner.frames.as_ref().map_or(0, FrameBudget::body_sent)
    }

    /// Writes out what was accepted and closes the sending side.
    pub async fn close_write(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.lock().poll_shutdown(cx)).await
    }

    /// Makes the close of the connection drop what the client has not read, instead of keeping it for as long as the
    /// client likes.
    pub fn reset(&self) {
        // A socket that refuses this is closed in the ordinary way.
        socket2::SockRef::from(self.lock().transport.tcp())
            .set_linger(Some(Duration::ZERO))
            .ok();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoned only if a poll panicked; the connection's task is gone then, and with it every handle.
        self.shared
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let count = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..count]);
            self.read.advance(count);
            self.give_back_read_buffer();
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.transport).poll_read(cx, buf)
    }

    fn take_frames(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        let Some(frames) = &mut self.frames else {
            return Ok(());
        };
        if self.is_flooded {
            return Err(Flood);
        }
        let taken = frames.received(bytes, Instant::now());
        self.is_flooded = taken.is_err();
        taken
    }

    /// An idle connection holds no large buffer.
    fn give_back_read_buffer(&mut self) {
        if self.read.is_empty() && self.read.capacity() > READ_KEEP_BYTES {
            self.read = BytesMut::new();
        }
    }

    fn waiting(&self) -> usize {
        self.write.len() - self.written
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting() + bytes.len() <= WRITE_BUFFER_BYTES {
            // Head and small body leave as one record and one segment: nothing is written before the flush.
            if self.gathers && self.write.capacity() == 0 {
                // It is held for one poll of the codec, and growing would copy what is there.
                self.write.reserve(WRITE_BUFFER_BYTES);
            }
            self.write.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let room = WRITE_BUFFER_BYTES.saturating_sub(self.waiting());
        if self.waiting() > 0 && room > 0 {
            // What is written ends with a full record.
            self.write.extend_from_slice(&bytes[..room]);
            return Poll::Ready(Ok(room));
        }
        ready!(self.poll_drain(cx))?;
        let written = Pin::new(&mut self.transport).poll_write(cx, bytes);
        self.stall.watch(written, |count| *count, cx)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let waiting = &self.write[self.written..];
            let written = Pin::new(&mut self.transport).poll_write(cx, waiting);
            match ready!(self.stall.watch(written, |count| *count, cx))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.written = 0;
        // A connection at rest holds none.
        self.write = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.stall.watch(flushed, |()| 0, cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        let closed = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.stall.watch(closed, |()| 0, cx)
    }
}

/// One `poll_read` into the room behind `into`'s bytes.
fn poll_read_chunk(
    transport: &mut Transport,
    into: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    // On the stack and not zeroed: most polls find nothing, and what they find is short.
    let mut room = [std::mem::MaybeUninit::uninit(); READ_AHEAD_BYTES];
    let mut buf = ReadBuf::uninit(&mut room);
    ready!(Pin::new(transport).poll_read(cx, &mut buf))?;
    into.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}

// === impl pingora's IO for ClientIo ===

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let inner = &mut *self.lock();
        ready!(inner.poll_read(cx, buf))?;
        if inner.take_frames(&buf.filled()[before..]).is_err() {
            // It ends as the connection's loop wants it, which this wakes; the codec waits for bytes until then.
            self.shared.flooded.notify_one();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.lock();
        let count = ready!(inner.poll_write(cx, bytes))?;
        if let Some(frames) = &mut inner.frames {
            frames.sent(&bytes[..count]);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.lock();
        if inner.gathers {
            return Poll::Ready(Ok(()));
        }
        inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_shutdown(cx)
    }
}

impl Shutdown for ClientIo {
    fn shutdown<'life0, 'async_trait>(
        &'life0 mut self,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        // The connection loop closes, after it has lingered for what the client still sends; here only what was
        // accepted goes out. A failure shows again at the close.
        Box::pin(async {
            self.flush().await.ok();
        })
    }
}

impl UniqueID for ClientIo {
    fn id(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.lock().transport.tcp().as_raw_fd()
    }
}

impl Ssl for ClientIo {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.shared.is_h2.then_some(ALPN::H2)
    }
}

impl Peek for ClientIo {}

impl GetTimingDigest for ClientIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientIo {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl fmt::Debug for ClientIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIo")
            .field("peer", &self.shared.peer)
            .field("is_h2", &self.shared.is_h2)
            .finish_non_exhaustive()
    }
}

/// Bytes read at a time for a request head; most heads fit.
const READ_AHEAD_BYTES: usize = 4096;
/// A read buffer above this is given back once it is empty, so that an idle connection costs little.
const READ_KEEP_BYTES: usize = 1024;
/// Bytes that wait for a flush: one TLS record.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// A head and a small body.
const WRITE_BYTES_USUAL: usize = 2048;
/// Bytes of later requests that are read while one is being answered.
const READ_AHEAD_MAX: usize = 16 * 1024;

#[cfg(test)]
#[path = "client_io_tests.rs"]
mod tests;
