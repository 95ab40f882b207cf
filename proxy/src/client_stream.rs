//! One stream of an HTTP/2 connection: a request's body, and the response to it.
//!
//! Owns the two halves of the stream and which frames may still be sent. The codec below is `h2`'s; what the request's head
//! may say is `request_head.rs`'. The connection's own task (`connection_h2.rs`)
//! moves the bytes.

use std::future::poll_fn;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode};
use tokio::time::timeout;

use crate::fault::Fault;

/// A request on an HTTP/2 connection. Dropped before the response has ended, it resets its stream.
pub struct ClientStream {
    request_body: RecvStream,
    response: Sending,
    /// The last frame was sent.
    has_ended: bool,
}

enum Sending {
    /// Informational heads, then the final one.
    Head(SendResponse<Bytes>),
    /// The body, or trailers.
    Body(SendStream<Bytes>),
}

impl ClientStream {
    /// The stream of a request that was just accepted.
    pub fn new(request_body: RecvStream, response: SendResponse<Bytes>) -> ClientStream {
        ClientStream {
            request_body,
            response: Sending::Head(response),
            has_ended: false,
        }
    }

    /// Whether the request has no body, or no more of it.
    pub fn is_body_done(&self) -> bool {
        self.request_body.is_end_stream()
    }

    /// The next piece of the request's body; nothing at its end. What is taken makes room for as much.
    ///
    /// # Errors
    /// [`Fault::ClientGone`]: the stream or its connection ended, or was ended for what it sent.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.request_body.data().await {
            None => Ok(None),
            Some(Err(_)) => Err(Fault::ClientGone),
            Some(Ok(piece)) => {
                let flow = self.request_body.flow_control();
                // It fails for more than was received, and this was.
                flow.release_capacity(piece.len()).ok();
                Ok(Some(piece))
            }
        }
    }

    /// Resolves when the stream was reset, or its connection is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn reset(&mut self) {
        poll_fn(|cx| {
            let reset = match &mut self.response {
                Sending::Head(stream) => stream.poll_reset(cx),
                Sending::Body(stream) => stream.poll_reset(cx),
            };
            // Whatever comes of it, there is no request any more.
            reset.map(|_| ())
        })
        .await
    }

    /// Sends a head; `is_last` if no body comes behind it. Informational ones come before the final one.
    ///
    /// # Errors
    /// [`Fault::ClientGone`].
    pub fn write_head(
        &mut self,
        status: StatusCode,
        fields: HeaderMap,
        is_last: bool,
    ) -> Result<(), Fault> {
        let Sending::Head(stream) = &mut self.response else {
            return Ok(());
        };
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        parts.headers = fields;
        let response = Response::from_parts(parts, ());
        if status.is_informational() {
            // The codec would send it behind a reset (RFC 9113 s5.1). Whoever waits for the reset asks again.
            let reset = stream.poll_reset(&mut Context::from_waker(Waker::noop()));
            if reset.is_ready() {
                return Err(Fault::ClientGone);
            }
            let sent = stream.send_informational(response);
            return sent.map_err(|_| Fault::ClientGone);
        }
        let sent = stream.send_response(response, is_last);
        self.response = Sending::Body(sent.map_err(|_| Fault::ClientGone)?);
        self.has_ended = is_last;
        Ok(())
    }

    /// Sends a piece of the body as the client's window lets it, for at most `stall` in total. What comes behind the end is
    /// left out.
    ///
    /// # Errors
    /// [`Fault::ClientGone`], [`Fault::ClientStalled`].
    pub async fn write_body(
        &mut self,
        piece: Bytes,
        is_last: bool,
        stall: Duration,
    ) -> Result<(), Fault> {
        let Some(stream) = self.unended() else {
            return Ok(());
        };
        stream.reserve_capacity(piece.len());
        // Mostly there is room for all of it, and no timer is needed.
        if stream.capacity() >= piece.len() {
            let sent = stream.send_data(piece, is_last);
            sent.map_err(|_| Fault::ClientGone)?;
        } else {
            // Boxed: streams that need not wait do not carry the weight of one that does.
            let sent = Box::pin(timeout(stall, send_by_pieces(stream, piece, is_last)));
            let sent = sent.await;
            sent.map_err(|_| Fault::ClientStalled)??;
        }
        self.has_ended = is_last;
        Ok(())
    }

    /// Ends the response with trailers.
    ///
    /// # Errors
    /// [`Fault::ClientGone`].
    pub fn write_trailers(&mut self, trailers: HeaderMap) -> Result<(), Fault> {
        if let Some(stream) = self.unended() {
            let sent = stream.send_trailers(trailers);
            sent.map_err(|_| Fault::ClientGone)?;
            self.has_ended = true;
        }
        Ok(())
    }

    /// Ends a response that is complete, if its last piece did not.
    ///
    /// # Errors
    /// [`Fault::ClientGone`].
    pub fn finish(&mut self) -> Result<(), Fault> {
        if let Some(stream) = self.unended() {
            let sent = stream.send_data(Bytes::new(), true);
            sent.map_err(|_| Fault::ClientGone)?;
            self.has_ended = true;
        }
        Ok(())
    }

    /// Ends a response that is not complete.
    pub fn abort(self) {
        match self.response {
            _ if self.has_ended => {}
            Sending::Head(mut stream) => stream.send_reset(Reason::INTERNAL_ERROR),
            Sending::Body(mut stream) => stream.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Where the body goes, between the head and the end.
    fn unended(&mut self) -> Option<&mut SendStream<Bytes>> {
        match &mut self.response {
            Sending::Body(stream) if !self.has_ended => Some(stream),
            Sending::Body(_) | Sending::Head(_) => None,
        }
    }
}

/// Sends all of a piece, as much at a time as there is room for.
async fn send_by_pieces(
    stream: &mut SendStream<Bytes>,
    mut rest: Bytes,
    is_last: bool,
) -> Result<(), Fault> {
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else {
            return Err(Fault::ClientGone);
        };
        let piece = rest.split_to(rest.len().min(room));
        let sent = stream.send_data(piece, is_last && rest.is_empty());
        sent.map_err(|_| Fault::ClientGone)?;
    }
    Ok(())
}
