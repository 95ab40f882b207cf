//! An upstream's connection as bytes, made so that sending a request and reading its response never wait for each other.
//!
//! Owns the socket and the bytes that the kernel did not take yet. Writes are always accepted at once and go out
//! whenever the connection is read or written; whoever writes asks [`UpstreamIo::has_room`] first, and that is the
//! backpressure. So one future can wait for the response while the request is still under way. Does not know HTTP.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A handle to one upstream connection; its clones share it.
#[derive(Clone)]
pub struct UpstreamIo {
    shared: Arc<Shared>,
}

/// Who is asked whether a connection at rest is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The kernel: one system call, which is some 3 % of a small request.
    Kernel,
    /// The runtime: what the kernel had told it when the worker last looked for events, some tasks ago.
    Runtime,
}

struct Shared {
    inner: Mutex<Inner>,
    address: SocketAddr,
}

struct Inner {
    tcp: TcpStream,
    /// Bytes read and not taken.
    read: BytesMut,
    /// Accepted and not taken by the kernel: `pending < PENDING_BYTES_MAX + one chunk`.
    pending: BytesMut,
    /// Bytes that the kernel took since the connection was handed out.
    sent: u64,
    /// Bytes that came back since then.
    received: u64,
    /// The upstream does not read any more; what is still written is dropped, its response is still read.
    write_failed: bool,
    /// Close the sending side once `pending` is empty.
    close_when_empty: bool,
    /// More may come behind the response, which has no body.
    is_doubtful: bool,
}

impl UpstreamIo {
    /// A connection that was just made.
    pub fn new(tcp: TcpStream, address: SocketAddr) -> UpstreamIo {
        let inner = Inner {
            tcp,
            read: BytesMut::new(),
            pending: BytesMut::new(),
            sent: 0,
            received: 0,
            write_failed: false,
            close_when_empty: false,
            is_doubtful: false,
        };
        UpstreamIo {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                address,
            }),
        }
    }

    /// The address at the other end.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Starts a new request on the connection: the counts begin at zero.
    pub fn begin_request(&self) {
        let inner = &mut *self.lock();
        inner.sent = 0;
        inner.received = 0;
        inner.is_doubtful = false;
    }

    /// The response has no body. Some upstreams send one all the same, behind the head, and it would be taken for the next
    /// response: the kernel is asked before this connection is used again.
    pub fn doubt(&self) {
        self.lock().is_doubtful = true;
    }

    /// Calls `look` with the bytes read ahead, of which it may take some away.
    pub fn with_read<T>(&self, look: impl FnOnce(&mut BytesMut) -> T) -> T {
        look(&mut self.lock().read)
    }

    /// Reads more bytes ahead, up to `room` at once; `Ok(0)` when the upstream has sent its last byte. What waits to be sent
    /// goes out meanwhile.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn read_ahead(&self, room: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.lock();
            inner.send_pending(cx);
            // Pieces that were taken may be held on to, and each holds its whole buffer: one serves many small ones.
            if inner.read.capacity() - inner.read.len() < room / ROOM_LEFT_MIN {
                inner.read.reserve(room);
            }
            // No more than that, if there is room for more: what comes at once leaves in whole TLS records then.
            let mut into = (&mut inner.read).limit(room);
            let read = pin!(inner.tcp.read_buf(&mut into)).poll(cx);
            match read {
                Poll::Ready(Ok(count)) => inner.received += count as u64,
                Poll::Ready(Err(_)) => {}
                // Whoever waits for the next event of a stream holds no large buffer.
                Poll::Pending => inner.give_back_read_buffer(),
            }
            read
        })
        .await
    }

    /// Accepts bytes. What the kernel does not take now goes out with a later read.
    pub fn send(&self, bytes: &[u8]) {
        let inner = &mut *self.lock();
        let mut rest = bytes;
        while inner.pending.is_empty() && !rest.is_empty() && !inner.write_failed {
            match inner.tcp.try_write(rest) {
                Ok(count) if count > 0 => {
                    inner.sent += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => inner.write_failed = true,
            }
        }
        if !inner.write_failed {
            inner.pending.extend_from_slice(rest);
        }
    }

    /// Whether a further chunk should be written now.
    pub fn has_room(&self) -> bool {
        self.lock().pending.len() < PENDING_BYTES_MAX
    }

    /// Resolves when a further chunk should be written. The kernel alone says when it took more, so somebody has to ask.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn room(&self) {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.lock();
            inner.send_pending(cx);
            if inner.pending.len() < PENDING_BYTES_MAX {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Bytes of this request that left this process.
    pub fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// Bytes that came back for this request.
    pub fn received(&self) -> u64 {
        self.lock().received
    }

    /// Whether everything that was accepted left and nothing is left over of what came, so that the connection can serve
    /// another request.
    pub fn is_clean(&self) -> bool {
        let inner = self.lock();
        inner.pending.is_empty() && !inner.write_failed && inner.read.is_empty()
    }

    /// Makes ready for the pool: a connection at rest holds no large buffer.
    pub fn rest(&self) {
        let inner = &mut *self.lock();
        inner.give_back_read_buffer();
        if inner.pending.is_empty() && inner.pending.capacity() > READ_KEEP_BYTES {
            inner.pending = BytesMut::new();
        }
    }

    /// Whether a pooled connection can still be used: open, and silent.
    pub fn is_alive(&self, by: Witness) -> bool {
        let inner = self.lock();
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let mut peek = || socket2::SockRef::from(&inner.tcp).peek(&mut byte);
        let peeked = match by {
            // Asks the kernel only if something was said about this connection since its bytes were last read.
            Witness::Runtime if !inner.is_doubtful => inner.tcp.try_io(Interest::READABLE, peek),
            Witness::Runtime | Witness::Kernel => peek(),
        };
        match peeked {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            // Closed, or it speaks without having been asked.
            Ok(_) => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Poisoned only if a poll panicked; the request's task is gone then, and with it every handle.
        self.shared
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn give_back_read_buffer(&mut self) {
        if self.read.is_empty() && self.read.capacity() > READ_KEEP_BYTES {
            self.read = BytesMut::new();
        }
    }

    /// Sends what the kernel takes. `Pending` only registers the waker; the caller does not have to wait.
    fn send_pending(&mut self, cx: &mut Context<'_>) {
        while !self.pending.is_empty() && !self.write_failed {
            match Pin::new(&mut self.tcp).poll_write(cx, &self.pending) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count as u64;
                    self.pending.advance(count);
                }
                Poll::Ready(Ok(_) | Err(_)) => self.write_failed = true,
                Poll::Pending => return,
            }
        }
        if self.write_failed {
            self.pending.clear();
        }
        if self.close_when_empty && self.pending.is_empty() {
            self.close_when_empty = false;
            // The peer may be gone already; what it sent is still to be read.
            if let Poll::Ready(Err(_)) = Pin::new(&mut self.tcp).poll_shutdown(cx) {
                self.write_failed = true;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.send_pending(cx);
        if !self.read.is_empty() {
            let count = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..count]);
            self.read.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.received += (buf.filled().len() - before) as u64;
        polled
    }

    fn accept(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        self.send_pending(cx);
        if self.write_failed {
            return bytes.len();
        }
        let mut rest = bytes;
        while self.pending.is_empty() && !rest.is_empty() {
            match Pin::new(&mut self.tcp).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count as u64;
                    rest = &rest[count..];
                }
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.write_failed = true;
                    return bytes.len();
                }
                Poll::Pending => break,
            }
        }
        self.pending.extend_from_slice(rest);
        bytes.len()
    }
}

// === as a tunnel's end ===

impl AsyncRead for UpstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, buf)
    }
}

impl AsyncWrite for UpstreamIo {
    /// Always ready: see the top of the file.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.lock().accept(cx, bytes)))
    }

    /// Always ready: what the kernel does not take now goes out with a later read.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().send_pending(cx);
        Poll::Ready(Ok(()))
    }

    /// Closes the sending side once everything left; always ready as well.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.lock();
        inner.close_when_empty = true;
        inner.send_pending(cx);
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for UpstreamIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamIo")
            .field("address", &self.shared.address)
            .finish_non_exhaustive()
    }
}

/// Request bytes that may wait for the upstream to read: enough to keep it busy, little enough for 10 000 uploads.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// A buffer above this is given back when the connection goes to rest.
const READ_KEEP_BYTES: usize = 4 * 1024;
/// A buffer is read into until less than this part of the wanted room is left of it.
const ROOM_LEFT_MIN: usize = 8;

#[cfg(test)]
#[path = "upstream_io_tests.rs"]
mod tests;
