//! One request of a client and the response to it, over HTTP/1 or HTTP/2.
//!
//! Owns what the two have in common for `exchange.rs`, and the codec's state of HTTP/1. HTTP/2 has `client_stream.rs`.
//! Does not know deadlines, but for a client that does not take a piece over HTTP/2.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::HeaderMap;
use tokio::time::timeout;

use crate::body::{BodyReader, BodyWriter, Taken};
use crate::client_io::ClientIo;
use crate::client_stream::ClientStream;
use crate::compress_decision::Plan;
use crate::fault::Fault;
use crate::fields::{Known, content_length, has_connection_option};
use crate::headers::{Framing, ResponseRules, response_map, write_response};
use crate::request_head::RequestHead;
use crate::response_head::{BodyLength, ResponseHead};

/// A request's body and its response.
pub enum ClientSession {
    /// HTTP/1.0 or HTTP/1.1.
    H1(H1Session),
    /// One stream of an HTTP/2 connection.
    H2(ClientStream),
}

/// A request on an HTTP/1 connection.
pub struct H1Session {
    io: ClientIo,
    request_body: BodyReader,
    response_body: BodyWriter,
    keeps_connection: bool,
    /// The response closes the connection if the request's body is not read by then.
    closes_if_unread: bool,
    /// The room of the next read of the body.
    room: usize,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// The connection may serve another request.
    Reusable,
    /// The connection is to be closed.
    Used,
}

impl ClientSession {
    /// A request whose head was just read from the front of an HTTP/1 connection.
    pub fn h1(io: ClientIo, head: &RequestHead) -> ClientSession {
        let says = |option: &[u8]| has_connection_option(&head.fields, option);
        let length = match head.fields.has(Known::TransferEncoding) {
            true => BodyLength::Chunked,
            // RFC 9112 s6.3: a request is never delimited by a close.
            false => BodyLength::Known(content_length(&head.fields).unwrap_or(0)),
        };
        ClientSession::H1(H1Session {
            io,
            request_body: BodyReader::new(length),
            response_body: BodyWriter::Nothing,
            // RFC 9112 s9.3.
            keeps_connection: !says(b"close")
                && (head.version != Version::HTTP_10 || says(b"keep-alive")),
            closes_if_unread: true,
            room: BODY_ROOM,
        })
    }

    /// Whether it is a stream of HTTP/2.
    pub fn is_h2(&self) -> bool {
        matches!(self, ClientSession::H2(_))
    }

    /// How the request's body is to be delimited towards the upstream.
    pub fn request_framing(&self, head: &RequestHead) -> Framing {
        if head.fields.has(Known::TransferEncoding) {
            return Framing::Chunked;
        }
        match content_length(&head.fields) {
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => match self {
                ClientSession::H2(stream) if !stream.is_body_done() => Framing::Chunked,
                ClientSession::H1(_) | ClientSession::H2(_) => Framing::Empty,
            },
        }
    }

    /// The next piece of the request's body; nothing at its end.
    ///
    /// # Errors
    /// [`Fault::ClientGone`], [`Fault::ClientMalformed`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        match self {
            ClientSession::H1(session) => session.read_body().await,
            ClientSession::H2(stream) => stream.read_body().await,
        }
    }

    /// Resolves when nobody waits for the response any more: its stream was reset, or its connection is gone. HTTP/2 alone; an
    /// HTTP/1 client tells by closing its connection, which the connection knows.
    pub async fn reset(&mut self) {
        match self {
            ClientSession::H1(_) => std::future::pending().await,
            ClientSession::H2(stream) => stream.reset().await,
        }
    }

    /// The response that comes next is the last one of the connection. Over HTTP/2 the connection decides.
    pub fn close_after(&mut self) {
        if let ClientSession::H1(session) = self {
            session.keeps_connection = false;
        }
    }

    /// Whether a request body that is not read to its end when the response begins closes the connection; else it is read
    /// then, as far as it is small.
    pub fn close_if_unread(&mut self, closes: bool) {
        if let ClientSession::H1(session) = self {
            session.closes_if_unread = closes;
        }
    }

    /// Whether the close of the connection is the end of the response's body.
    pub fn is_ended_by_close(&self) -> bool {
        match self {
            ClientSession::H1(session) => session.response_body == BodyWriter::UntilClose,
            ClientSession::H2(_) => false,
        }
    }

    /// Sends a response's head. An informational one may come before the final one.
    ///
    /// # Errors
    /// [`Fault::ClientGone`].
    pub fn write_head(
        &mut self,
        response: &ResponseHead,
        framing: Framing,
        plan: Plan,
        rules: ResponseRules<'_>,
    ) -> Result<(), Fault> {
        match self {
            ClientSession::H1(session) => {
                session.write_head(response, framing, plan, rules);
                Ok(())
            }
            ClientSession::H2(stream) => {
                let fields = response_map(response, framing, plan, rules);
                stream.write_head(response.status, fields, framing == Framing::Empty)
            }
        }
    }

    /// Hands some bytes of the response's body to the client, and lets go of one that does not take them. Over HTTP/2 a stream
    /// waits for the client's window, for at most `stall`; over HTTP/1 the connection watches its own writes.
    ///
    /// # Errors
    /// [`Fault::ClientGone`], [`Fault::ClientStalled`].
    pub async fn write_body(
        &mut self,
        piece: Bytes,
        is_last: bool,
        stall: Duration,
    ) -> Result<(), Fault> {
        match self {
            ClientSession::H1(session) => session
                .write_body(&piece)
                .await
                .map_err(|_| Fault::ClientGone),
            ClientSession::H2(stream) => stream.write_body(piece, is_last, stall).await,
        }
    }

    /// Ends the response with trailers; over HTTP/1 they are left out, as most clients there expect none.
    ///
    /// # Errors
    /// [`Fault::ClientGone`].
    pub fn write_trailers(&mut self, trailers: HeaderMap) -> Result<(), Fault> {
        match self {
            ClientSession::H1(_) => Ok(()),
            ClientSession::H2(stream) => stream.write_trailers(trailers),
        }
    }

    /// Ends a response that is complete. The rest of a small request body is read, for `patience` in total.
    ///
    /// # Errors
    /// The client is gone, or the response is shorter than it promised.
    pub async fn finish(self, patience: Duration) -> io::Result<Finished> {
        match self {
            ClientSession::H1(session) => session.finish(patience).await,
            ClientSession::H2(mut stream) => match stream.finish() {
                Ok(()) => Ok(Finished::Used),
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            },
        }
    }

    /// Ends a response that is not complete: a stream is reset. An HTTP/1 connection shows it by its close.
    pub fn abort(self) {
        if let ClientSession::H2(stream) = self {
            stream.abort();
        }
    }
}

// === impl H1Session ===

impl H1Session {
    async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let body = &mut self.request_body;
            let taken = self.io.with_read(|bytes| body.take(bytes));
            match taken.map_err(|_| Fault::ClientMalformed)? {
                Taken::Data(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::More => {}
            }
            match self.io.read_much_ahead(self.room).await {
                Ok(count @ 1..) if count >= self.room => {
                    self.room = (self.room * 4).min(BODY_ROOM_MAX);
                }
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Fault::ClientGone),
            }
        }
    }

    fn write_head(
        &mut self,
        response: &ResponseHead,
        framing: Framing,
        plan: Plan,
        rules: ResponseRules<'_>,
    ) {
        if response.status.is_informational() {
            self.io.write_into(|bytes| {
                write_response(bytes, response, framing, plan, rules, None);
            });
            return;
        }
        let is_cut_short = self.closes_if_unread && !self.request_body.is_done();
        if framing == Framing::UntilClose || is_cut_short {
            self.keeps_connection = false;
        }
        self.response_body = match framing {
            Framing::Empty | Framing::Frames => BodyWriter::Nothing,
            Framing::Length(length) => BodyWriter::Length(length),
            Framing::Chunked => BodyWriter::Chunked,
            Framing::UntilClose => BodyWriter::UntilClose,
        };
        let connection = match self.keeps_connection {
            true => "keep-alive",
            false => "close",
        };
        self.io.write_into(|bytes| {
            write_response(bytes, response, framing, plan, rules, Some(connection));
        });
    }

    async fn write_body(&mut self, piece: &[u8]) -> io::Result<()> {
        let around = self.response_body.around(piece.len());
        let around = around.map_err(io::Error::other)?;
        if !around.passes {
            return Ok(());
        }
        if !around.before().is_empty() {
            self.io.write_bytes(around.before()).await?;
        }
        self.io.write_bytes(piece).await?;
        if !around.after.is_empty() {
            self.io.write_bytes(around.after).await?;
        }
        Ok(())
    }

    async fn finish(mut self, patience: Duration) -> io::Result<Finished> {
        let end = self.response_body.end().map_err(io::Error::other)?;
        self.io.write_bytes(end).await?;
        self.io.flush().await?;
        if !self.keeps_connection {
            return Ok(Finished::Used);
        }
        if self.request_body.is_done() {
            return Ok(Finished::Reusable);
        }
        let drained = async {
            while self.read_body().await?.is_some() {}
            Ok(())
        };
        // Boxed: hardly any request waits for this, and all would have room for it.
        match Box::pin(timeout(patience, drained)).await {
            Ok(Ok(())) => Ok(Finished::Reusable),
            Ok(Err(fault)) => Err(io::Error::other(Fault::to_string(&fault))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Room for the first piece of a request's body: a form.
const BODY_ROOM: usize = 4 * 1024;
/// The most that is read of a body at once.
const BODY_ROOM_MAX: usize = 64 * 1024;
