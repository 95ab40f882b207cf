//! One request on an upstream's connection, as HTTP/1.1: its head and body out, the response's head and body in.
//!
//! Owns the two codecs' state. The bytes are `upstream_io.rs`, the rules `response_head.rs` and `body.rs`. Does not know
//! deadlines, nor what a failure means for the request.

use bytes::{Buf, Bytes};
use http::StatusCode;
use http::header::HeaderMap;

use crate::body::{BodyFault, BodyReader, BodyWriter, Taken, WrongLength};
use crate::head::find_head_end;
use crate::headers::Framing;
use crate::response_head::{BodyLength, HEAD_BYTES_MAX, ResponseFault, ResponseHead};
use crate::upstream_io::UpstreamIo;

/// A request under way.
pub struct UpstreamSession {
    io: UpstreamIo,
    request_body: BodyWriter,
    is_for_head: bool,
    response_body: BodyReader,
    keeps_connection: bool,
    is_close_delimited: bool,
    /// Bytes of a head that is not complete, in which its end was looked for.
    searched: usize,
    /// The room of the next read of the body.
    room: usize,
}

/// Why there is no more of a response.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The connection ended, or failed, before the response did.
    #[error("the upstream closed its connection")]
    Closed,
    /// Its head is none.
    #[error("the response is malformed")]
    Head(#[from] ResponseFault),
    /// Its body is none.
    #[error("the response's body is malformed")]
    Body(BodyFault),
}

impl UpstreamSession {
    /// Sends the head of a request whose body has this framing. `is_for_head` says that its method is HEAD.
    pub fn begin(
        io: UpstreamIo,
        head: &[u8],
        framing: Framing,
        is_for_head: bool,
    ) -> UpstreamSession {
        io.begin_request();
        io.send(head);
        UpstreamSession {
            io,
            request_body: match framing {
                Framing::Length(length) => BodyWriter::Length(length),
                Framing::Chunked => BodyWriter::Chunked,
                // A request's body never ends with its connection, and nobody sends frames here.
                Framing::Empty | Framing::UntilClose | Framing::Frames => BodyWriter::Nothing,
            },
            is_for_head,
            response_body: BodyReader::new(BodyLength::Known(0)),
            keeps_connection: false,
            is_close_delimited: false,
            searched: 0,
            room: HEAD_ROOM,
        }
    }

    /// Sends a piece of the request's body.
    ///
    /// # Errors
    /// [`WrongLength`] if it is longer than was promised; nothing of the piece is sent then.
    pub fn write_body(&mut self, piece: &[u8]) -> Result<(), WrongLength> {
        let around = self.request_body.around(piece.len())?;
        match around.before() {
            _ if !around.passes => {}
            b"" => self.io.send(piece),
            // In one segment with what delimits it.
            before => self.io.send(&[before, piece, around.after].concat()),
        }
        Ok(())
    }

    /// Ends the request's body.
    ///
    /// # Errors
    /// [`WrongLength`] if it is shorter than was promised.
    pub fn end_body(&mut self) -> Result<(), WrongLength> {
        self.io.send(self.request_body.end()?);
        Ok(())
    }

    /// The next head of the response: informational ones come before the final one, each by a call of its own.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read_head(&mut self) -> Result<ResponseHead, UpstreamError> {
        loop {
            let searched = &mut self.searched;
            let read = self.io.with_read(|bytes| {
                // What trickles in is not read from its start each time; what is no head at all is told by its first bytes.
                let is_worth_reading = !bytes.is_empty()
                    && (*searched == 0
                        || bytes.len() > HEAD_BYTES_MAX
                        || find_head_end(bytes, *searched).is_some());
                *searched = bytes.len();
                if !is_worth_reading {
                    return Ok(None);
                }
                let read = ResponseHead::read(bytes)?;
                Ok::<_, ResponseFault>(read.map(|(head, end)| {
                    bytes.advance(end);
                    *searched = 0;
                    head
                }))
            });
            if let Some(head) = read? {
                self.expect_body_of(&head);
                return Ok(head);
            }
            match self.io.read_ahead(HEAD_ROOM).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(UpstreamError::Closed),
            }
        }
    }

    /// The next piece of the response's body; nothing at its end.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let body = &mut self.response_body;
            let taken = self.io.with_read(|bytes| body.take(bytes));
            match taken.map_err(UpstreamError::Body)? {
                Taken::Data(piece) => return Ok(Some(piece)),
                Taken::End => return Ok(None),
                Taken::More => {}
            }
            let room = self.room;
            match self.io.read_ahead(room).await {
                Ok(0) => self
                    .response_body
                    .close()
                    .map_err(|_| UpstreamError::Closed)?,
                // It has more than was asked for: the next look takes more. One that trickles is given little room again, since
                // each piece that waits for a slow client holds on to its buffer.
                Ok(count) if count >= room => self.room = BODY_ROOM_MAX.min(room * 4),
                Ok(count) if count < room / 4 => self.room = HEAD_ROOM,
                Ok(_) => {}
                Err(_) => return Err(UpstreamError::Closed),
            }
        }
    }

    /// Whether the response is complete.
    pub fn is_body_done(&self) -> bool {
        self.response_body.is_done()
    }

    /// The trailers of a response that is complete.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.response_body.take_trailers()
    }

    /// Whether the connection can serve another request: both messages are complete, and nothing is left of either.
    pub fn is_reusable(&self) -> bool {
        self.keeps_connection
            && !self.is_close_delimited
            && self.response_body.is_done()
            && self.request_body.needs_nothing_more()
            && self.io.is_clean()
    }

    fn expect_body_of(&mut self, head: &ResponseHead) {
        let length = head.body(self.is_for_head);
        self.response_body = BodyReader::new(length);
        self.room = match length {
            BodyLength::Known(length) => usize::try_from(length).unwrap_or(usize::MAX),
            BodyLength::Chunked | BodyLength::UntilClose => HEAD_ROOM,
        };
        self.room = self.room.clamp(HEAD_ROOM, BODY_ROOM_MAX);
        self.is_close_delimited = length == BodyLength::UntilClose;
        if length == BodyLength::Known(0) {
            self.io.doubt();
        }
        self.keeps_connection =
            head.keeps_connection() && head.status != StatusCode::SWITCHING_PROTOCOLS;
    }
}

/// Room for a head, and for the small body that comes with it.
const HEAD_ROOM: usize = 4 * 1024;
/// The most that is read of a body at once: several TLS records, so that a large response takes few system calls.
const BODY_ROOM_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::upstream_io::Witness;

    #[tokio::test]
    async fn a_body_where_none_may_be_makes_the_connection_unfit_at_once() {
        let answers: [(&[u8], bool, bool); 5] = [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, true),
            (b"HTTP/1.1 204 No Content\r\n\r\n", false, true),
            (
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                false,
                true,
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, true),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
                false,
                false,
            ),
        ];
        for (answer, is_for_head, is_asked) in answers {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
            let address = listener.local_addr().expect("bound");
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            let io = UpstreamIo::new(ours.expect("connects"), address);
            let theirs = theirs.expect("accepts").0;
            let mut session =
                UpstreamSession::begin(io.clone(), b"the head", Framing::Empty, is_for_head);
            theirs.writable().await.expect("open");
            theirs.try_write(answer).expect("written");
            session.read_head().await.expect("a head");
            while session.read_body().await.expect("its body").is_some() {}
            assert!(session.is_reusable());
            // No turn of the runtime behind this: it has not heard of it.
            theirs.try_write(b"hello").expect("written");
            assert_eq!(io.is_alive(Witness::Runtime), !is_asked, "{answer:?}");
            io.begin_request();
            assert!(
                io.is_alive(Witness::Runtime),
                "nothing is known of the next one"
            );
        }
    }
}
