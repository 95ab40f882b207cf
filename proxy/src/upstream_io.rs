//! An upstream's connection as bytes, made so that sending a request and reading its response never wait for each other.
//!
//! Owns the socket and the bytes that the kernel did not take yet. Writes are always accepted at once and go out
//! whenever the connection is read or written; whoever writes asks [`UpstreamIo::has_room`] first, and that is the
//! backpressure. So one future can wait for the response while the request is still under way. Does not know HTTP.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::trailers::TrailerTap;

/// A handle to one upstream connection; its clones share it.
#[derive(Clone)]
pub struct UpstreamIo {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    address: SocketAddr,
}

struct Inner {
    tcp: TcpStream,
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
    /// A response head is handed out alone, so that a tunnel's first bytes stay here.
    head_alone: Option<HeadAlone>,
    /// Reads along for the trailers.
    tap: Option<TrailerTap>,
}

/// Where the reading of a head that is handed out alone stands.
#[derive(Default)]
struct HeadAlone {
    read: BytesMut,
    /// Bytes of `read` that may be handed out: up to the end of the head.
    readable: usize,
}

impl UpstreamIo {
    /// A connection that was just made.
    pub fn new(tcp: TcpStream, address: SocketAddr) -> UpstreamIo {
        let inner = Inner {
            tcp,
            pending: BytesMut::new(),
            sent: 0,
            received: 0,
            write_failed: false,
            close_when_empty: false,
            head_alone: None,
            tap: None,
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
        inner.tap = None;
        inner.head_alone = None;
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

    /// Whether the upstream stopped reading the request.
    pub fn write_failed(&self) -> bool {
        self.lock().write_failed
    }

    /// Whether everything that was accepted left, so that the connection can serve another request.
    pub fn is_clean(&self) -> bool {
        let inner = self.lock();
        let has_leftover = inner
            .head_alone
            .as_ref()
            .is_some_and(|head| !head.read.is_empty());
        inner.pending.is_empty() && !inner.write_failed && !has_leftover
    }

    /// Whether a pooled connection can still be used: open, and silent. One system call.
    pub fn is_alive(&self) -> bool {
        let inner = self.lock();
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        match socket2::SockRef::from(&inner.tcp).peek(&mut byte) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            // Closed, or it speaks without having been asked.
            Ok(_) => false,
        }
    }

    /// Keeps the trailers of the response that comes now.
    pub fn keep_trailers(&self) {
        self.lock().tap = Some(TrailerTap::default());
    }

    /// The trailers of a response that is complete.
    pub fn take_trailers(&self) -> Option<http::HeaderMap> {
        self.lock().tap.as_mut()?.take()
    }

    /// From here on a response head is handed out alone, until [`UpstreamIo::hand_out_all`].
    pub fn hand_out_head_alone(&self) {
        self.lock().head_alone = Some(HeadAlone::default());
    }

    /// Hands out everything again, what was read behind the head first.
    pub fn hand_out_all(&self) {
        let inner = &mut *self.lock();
        if let Some(head) = &mut inner.head_alone {
            head.readable = usize::MAX;
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
        let before = buf.filled().len();
        let polled = match &mut self.head_alone {
            None => Pin::new(&mut self.tcp).poll_read(cx, buf),
            Some(head) => head.poll_read(&mut self.tcp, cx, buf),
        };
        self.received += (buf.filled().len() - before) as u64;
        if let Some(tap) = &mut self.tap {
            tap.pass(&buf.filled()[before..]);
        }
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

// === impl HeadAlone ===

impl HeadAlone {
    fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let count = self.read.len().min(self.readable).min(buf.remaining());
            if count > 0 {
                buf.put_slice(&self.read[..count]);
                self.read.advance(count);
                if self.readable != usize::MAX {
                    self.readable -= count;
                }
                return Poll::Ready(Ok(()));
            }
            if self.readable == usize::MAX {
                return Pin::new(tcp).poll_read(cx, buf);
            }
            if let Some(end) = head_end(&self.read) {
                self.readable = end;
                continue;
            }
            if self.read.len() > HEAD_ALONE_BYTES_MAX {
                // Not a head, or a very large one: the session's own limit deals with it.
                self.readable = usize::MAX;
                continue;
            }
            let mut chunk = [0_u8; 4096];
            let mut into = ReadBuf::new(&mut chunk);
            std::task::ready!(Pin::new(&mut *tcp).poll_read(cx, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.read.extend_from_slice(into.filled());
        }
    }
}

/// The index behind the first empty line; lines may end with a bare LF (RFC 9112 s2.2).
fn head_end(bytes: &[u8]) -> Option<usize> {
    let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'\n');
    ends.map(|at| at + 1).find_map(|next| match &bytes[next..] {
        [b'\n', ..] => Some(next + 1),
        [b'\r', b'\n', ..] => Some(next + 2),
        _ => None,
    })
}

// === impl pingora's IO for UpstreamIo ===

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

impl Shutdown for UpstreamIo {
    fn shutdown<'life0, 'async_trait>(
        &'life0 mut self,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        // The socket closes with its last handle.
        Box::pin(std::future::ready(()))
    }
}

impl UniqueID for UpstreamIo {
    fn id(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.lock().tcp.as_raw_fd()
    }
}

impl Ssl for UpstreamIo {}

impl Peek for UpstreamIo {}

impl GetTimingDigest for UpstreamIo {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for UpstreamIo {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for UpstreamIo {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
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
/// A response head larger than this is no answer to an upgrade.
const HEAD_ALONE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
#[path = "upstream_io_tests.rs"]
mod tests;
