//! What lies below a client's HTTP: a socket, or TLS over one.
//!
//! Owns the record layer, and how it is asked for as little as possible. Buffers and deadlines are `client_io.rs`' matter.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection as it was accepted.
pub enum Transport {
    /// A listener of `listen.http`.
    Plain(TcpStream),
    /// A listener of `listen.https`.
    Tls(Tls),
}

/// TLS, after the handshake.
pub struct Tls {
    stream: Box<TlsStream<TcpStream>>,
    /// The record layer holds nothing to be read until more comes from the socket.
    is_empty: bool,
}

// === impl Transport ===

impl Transport {
    /// TLS over the stream, whose handshake is over.
    pub fn tls(stream: TlsStream<TcpStream>) -> Transport {
        Transport::Tls(Tls {
            stream: Box::new(stream),
            is_empty: false,
        })
    }

    /// Whether the client chose HTTP/2 in the handshake.
    pub fn is_h2(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls.stream.get_ref().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Tls(tls) => tls.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

// === impl Tls ===

impl Tls {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_empty {
            // Most reads find nothing, and the record layer takes some hundred instructions to say so.
            ready!(self.stream.get_ref().0.poll_read_ready(cx))?;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_empty = read.is_pending() && self.stream.get_ref().1.wants_read();
        read
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // The record layer copies each slice apart. Copies above some size are left to the processor's string move, and
        // where a copy lands a few bytes behind its source's place in a page, as one behind a record's header does, that
        // is twenty times slower on AMD's Zen 3 and 4 (https://sourceware.org/bugzilla/show_bug.cgi?id=30994).
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let pieces = bytes.chunks(SLICE_BYTES);
        let count = pieces.len().min(SLICES_MAX);
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count])
    }
}

/// Bytes that are handed to the record layer as one: below what is copied by the processor's string move.
const SLICE_BYTES: usize = 2048;
/// What the record layer takes at once: 64 KiB.
const SLICES_MAX: usize = 32;
