//! One request on one upstream connection: both bodies at once, until the response is complete or something fails.
//!
//! Owns the pump, its deadlines and the judgement of what a failure means. Does not choose upstreams and does not retry:
//! `forward.rs` does. Both directions move in one future with bounded buffers: a chunk of the request is read only when
//! the upstream's connection has room, a chunk of the response only when the client took the one before.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use mana_control::room::Place;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::client_io::ClientIo;
use crate::client_session::ClientSession;
use crate::compress::Encoder;
use crate::compress_decision::{Plan, is_forbidden_by};
use crate::config::{Compression, Timeouts};
use crate::fault::Fault;
use crate::fields::Known;
use crate::headers::{Framing, ResponseRules, response_framing};
use crate::patience::Patience;
use crate::pump::Pump;
use crate::pump_events::{Event, FromUpstream, Wanted, read_client, read_upstream_or_flush};
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::upstream_io::UpstreamIo;
use crate::upstream_session::{UpstreamError, UpstreamSession};

/// What one request needs of its surroundings while it is pumped.
pub struct Exchange<'a> {
    /// The client's request.
    pub request: &'a RequestHead,
    /// Its body, and where the response goes.
    pub client: &'a mut ClientSession,
    /// The connection below `client`.
    pub client_io: &'a ClientIo,
    /// The connection to the upstream.
    pub upstream_io: UpstreamIo,
    /// The moment from which on both sides are waited for.
    pub begins_at: Instant,
    /// How the request body is delimited towards the upstream.
    pub framing: Framing,
    /// Whether the request asks for a websocket.
    pub is_upgrade: bool,
    /// Whether the client's connection closes after this response; asked when its head is written.
    pub is_last: &'a (dyn Fn() -> bool + Send + Sync),
    /// The largest request body; `None` = unlimited.
    pub body_bytes_max: Option<u64>,
    /// The slowest that a request body may come; 0 = any.
    pub client_bytes_per_second: u32,
    /// The request's place in the upstream, which an event stream gives back.
    pub place: Option<Place>,
    /// The deadlines.
    pub timeouts: &'a Timeouts,
    /// What the proxy and the site say of responses.
    pub response_rules: ResponseRules<'a>,
    /// What is compressed.
    pub compression: &'a Compression,
    /// Rings at the next deadline.
    pub alarm: &'a mut Alarm,
    /// Counts what moved.
    pub progress: &'a mut Progress,
}

/// What moved so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Request body bytes taken from the client.
    pub body_in: u64,
    /// Response body bytes given to the client.
    pub body_out: u64,
    /// The status that was sent to the client.
    pub status: Option<StatusCode>,
    /// When the upstream's final head arrived.
    pub first_byte: Option<Instant>,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Ended {
    /// The client has the whole response.
    Complete {
        /// The upstream's connection can serve another request.
        is_reusable: bool,
    },
    /// The 101 went to the client; both connections are a tunnel now.
    Upgraded,
    /// It failed before a byte of the response had been sent to the client.
    Failed(Failed),
    /// It failed in the middle of the response: the client must see that it is cut.
    Cut(Fault),
}

/// A failure with which another attempt, or an error page, is still possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the client is told if there is no other attempt.
    pub fault: Fault,
    /// Nothing came back: the connection died on the request.
    pub died_unanswered: bool,
    /// Not a byte of the request left.
    pub nothing_sent: bool,
}

impl Exchange<'_> {
    /// Sends `head`, pumps both bodies, and returns when the response is complete or the exchange failed.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped, both connections are in an unknown state and must be closed.
    pub async fn run(&mut self, head: &[u8]) -> Ended {
        let is_for_head = self.request.method == Method::HEAD;
        let io = self.upstream_io.clone();
        let mut upstream = UpstreamSession::begin(io, head, self.framing, is_for_head);
        let patience = Patience::new(self.timeouts.client_stall, self.client_bytes_per_second);
        let mut pump = Pump::new(self.framing == Framing::Empty, patience, self.begins_at);
        loop {
            pump.waits_for_room = !pump.request_done && !self.upstream_io.has_room();
            self.alarm.set(pump.due(self.timeouts));
            let ended = match self.next_event(&mut upstream, &mut pump).await {
                Event::Upstream(read) => self.upstream_event(&mut upstream, &mut pump, read).await,
                Event::Body(read) => self.body_event(&mut upstream, &mut pump, read),
                Event::ClientHalfClosed => {
                    pump.half_closed_at = Some(Instant::now());
                    None
                }
                Event::ClientGone => Some(self.failed(Fault::ClientGone)),
                Event::Room => {
                    // The upstream read on; only now is it the client's turn.
                    pump.upstream_moved_at = Instant::now();
                    pump.client_moved_at = pump.upstream_moved_at;
                    None
                }
                Event::HeldBack => self.release(&mut pump).await,
                Event::Flushed => {
                    pump.is_unflushed = false;
                    None
                }
                Event::Due => Some(self.failed(pump.overdue(self.timeouts))),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn next_event(&mut self, upstream: &mut UpstreamSession, pump: &mut Pump) -> Event {
        let wanted = if !pump.request_done {
            if pump.waits_for_room {
                Wanted::Room
            } else {
                Wanted::Body
            }
        } else if pump.half_closed_at.is_some() {
            Wanted::Nothing
        } else {
            Wanted::Watch
        };
        // Of two that send bodies none holds the other up. A client that has only to be there is looked at last.
        pump.is_clients_turn =
            matches!(wanted, Wanted::Body | Wanted::Room) && !pump.is_clients_turn;
        let is_clients_turn = pump.is_clients_turn;
        let waits = pump.waits_behind();
        let mut from_upstream = pin!(read_upstream_or_flush(upstream, self.client_io, waits));
        let from_client = read_client(self.client, self.client_io, &self.upstream_io, wanted);
        let mut from_client = pin!(from_client);
        poll_fn(|cx| {
            if is_clients_turn && let Poll::Ready(event) = from_client.as_mut().poll(cx) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(event) = from_upstream.as_mut().poll(cx) {
                return Poll::Ready(event);
            }
            if !is_clients_turn && let Poll::Ready(event) = from_client.as_mut().poll(cx) {
                return Poll::Ready(event);
            }
            // What has come is not overdue.
            self.alarm.poll(cx).map(|()| Event::Due)
        })
        .await
    }

    /// Something came from the upstream: a head, a chunk, the end, or an error.
    async fn upstream_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        read: Result<FromUpstream, UpstreamError>,
    ) -> Option<Ended> {
        if pump.head_received {
            pump.patience.restore();
        }
        match read {
            Ok(FromUpstream::Head(head)) => {
                pump.upstream_moved_at = Instant::now();
                self.head_event(upstream, pump, &head).await
            }
            Ok(FromUpstream::Chunk(chunk)) => {
                let is_last = upstream.is_body_done();
                let passed = self.pass_last_or_not(upstream, pump, chunk, is_last);
                if let Err(fault) = passed.await {
                    return Some(Ended::Cut(fault));
                }
                if is_last {
                    return Some(self.complete(upstream, pump));
                }
                // It is waited for from here on: how long the client took is no fault of it.
                pump.upstream_moved_at = Instant::now();
                pump.is_unflushed = !self.client.is_h2();
                None
            }
            Ok(FromUpstream::End) => {
                let passed = self.pass_last_or_not(upstream, pump, Bytes::new(), true);
                if let Err(fault) = passed.await {
                    return Some(Ended::Cut(fault));
                }
                Some(self.complete(upstream, pump))
            }
            Err(error) => {
                // What the compressor keeps back came from the upstream all the same; it may be gone before it is asked.
                self.release(pump).await;
                Some(self.failed(upstream_fault(&error)))
            }
        }
    }

    async fn head_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        head: &ResponseHead,
    ) -> Option<Ended> {
        let status = head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Some(self.upgrade_event(head).await);
        }
        if status.is_informational() {
            return self.informational_event(pump, head).await;
        }
        pump.head_received = true;
        let is_event_stream = is_event_stream(head);
        if is_event_stream {
            self.place = None;
        }
        let gap = match is_event_stream {
            true => self.timeouts.stream_idle,
            false => self.timeouts.response_stall,
        };
        pump.patience = Patience::new(gap, self.client_bytes_per_second);
        self.progress.first_byte = Some(pump.upstream_moved_at);
        let mut framing = response_framing(head, &self.request.method, self.request.version);
        let plan = self.start_encoder(pump, head, &mut framing);
        if (self.is_last)() {
            self.client.close_after();
        }
        self.progress.status = Some(status);
        if self.send_head(head, framing, plan).is_err() {
            return Some(Ended::Cut(Fault::ClientGone));
        }
        if upstream.is_body_done() {
            return Some(self.complete(upstream, pump));
        }
        pump.is_unflushed = !self.client.is_h2();
        None
    }

    async fn informational_event(&mut self, pump: &mut Pump, head: &ResponseHead) -> Option<Ended> {
        pump.informational += 1;
        pump.informational_bytes += head.fields.bytes().len();
        if pump.informational > INFORMATIONAL_MAX
            || pump.informational_bytes > INFORMATIONAL_BYTES_MAX
        {
            return Some(self.failed(Fault::UpstreamMalformed));
        }
        // HTTP/1.0 knows none (RFC 9110 s15.2).
        if self.request.version == Version::HTTP_10 {
            return None;
        }
        let sent = match self.send_head(head, Framing::Empty, Plan::Leave) {
            // Over HTTP/2 the connection's task writes.
            Ok(()) if self.client.is_h2() => true,
            // It is for now, and whoever does not read it is not written more.
            Ok(()) => self.client_io.flush().await.is_ok(),
            Err(_) => false,
        };
        (!sent).then(|| self.failed(Fault::ClientGone))
    }

    /// Decides whether this response is compressed, and what then delimits it.
    fn start_encoder(&self, pump: &mut Pump, head: &ResponseHead, framing: &mut Framing) -> Plan {
        if is_forbidden_by(&self.response_rules.fields.set) {
            return Plan::Leave;
        }
        let plan = Plan::of(self.compression, self.request, head);
        if let Plan::Encode(coding) = plan
            && *framing != Framing::Empty
        {
            pump.encoder = Encoder::new(coding, self.compression);
            if pump.encoder.is_none() {
                return Plan::Vary;
            }
            if *framing != Framing::Frames {
                *framing = Framing::Chunked;
            }
        }
        plan
    }

    /// Hands a chunk on; behind the last one come the trailers.
    async fn pass_last_or_not(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        chunk: Bytes,
        is_last: bool,
    ) -> Result<(), Fault> {
        let is_encoded = pump.encoder.is_some();
        let trailers = if is_last && !is_encoded {
            upstream.take_trailers()
        } else {
            // They are about the body as the upstream sent it.
            None
        };
        let Some(trailers) = trailers else {
            if chunk.is_empty() && !is_encoded {
                return Ok(());
            }
            return self.pass_chunk(pump, chunk, is_last).await;
        };
        Box::pin(self.send_some(chunk)).await?;
        self.client.write_trailers(trailers)
    }

    /// Hands a chunk on, through the compressor if there is one.
    async fn pass_chunk(
        &mut self,
        pump: &mut Pump,
        chunk: Bytes,
        is_last: bool,
    ) -> Result<(), Fault> {
        if pump.encoder.is_none() {
            return self.send_chunk(chunk, is_last).await;
        }
        // Boxed, as is all that few responses need: the others do not carry its weight.
        Box::pin(self.pass_encoded(pump, chunk, is_last)).await
    }

    async fn pass_encoded(
        &mut self,
        pump: &mut Pump,
        chunk: Bytes,
        is_last: bool,
    ) -> Result<(), Fault> {
        let Some(encoder) = &mut pump.encoder else {
            return Ok(());
        };
        let mut encoded = encoder.encode(&chunk).map_err(unencodable)?;
        if is_last && let Some(encoder) = pump.encoder.take() {
            let rest = encoder.finish().map_err(unencodable)?;
            // Two pieces rather than one copy.
            self.send_some(encoded).await?;
            encoded = rest;
        }
        if is_last {
            return self.send_chunk(encoded, true).await;
        }
        self.send_some(encoded).await
    }

    /// The upstream has nothing more to say at once: what the compressor keeps back goes out.
    async fn release(&mut self, pump: &mut Pump) -> Option<Ended> {
        let encoder = pump.encoder.as_mut()?;
        let sent = match encoder.flush() {
            Ok(bytes) => Box::pin(self.send_some(bytes)).await,
            Err(error) => Err(unencodable(error)),
        };
        sent.err().map(Ended::Cut)
    }

    /// An empty chunk would end a chunked body before its time.
    async fn send_some(&mut self, chunk: Bytes) -> Result<(), Fault> {
        if chunk.is_empty() {
            return Ok(());
        }
        self.send_chunk(chunk, false).await
    }

    /// RFC 9110 s7.8: a 101 is valid only as the answer to an upgrade that was asked for.
    async fn upgrade_event(&mut self, head: &ResponseHead) -> Ended {
        if !self.is_upgrade {
            return self.failed(Fault::UpstreamMalformed);
        }
        self.progress.first_byte = Some(Instant::now());
        self.progress.status = Some(head.status);
        if let Err(fault) = self.send_head(head, Framing::Empty, Plan::Leave) {
            return Ended::Cut(fault);
        }
        // It may be long until one of the two ends says something that takes this with it.
        match self.client_io.flush().await {
            Ok(()) => Ended::Upgraded,
            Err(_) => Ended::Cut(Fault::ClientGone),
        }
    }

    /// Something came from the client: a chunk of its body, the end of it, or an error.
    fn body_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        read: Result<Option<Bytes>, Fault>,
    ) -> Option<Ended> {
        let now = Instant::now();
        let waited = now - pump.client_moved_at;
        pump.client_moved_at = now;
        match read {
            Ok(Some(chunk)) => {
                pump.patience.moved(waited, chunk.len());
                self.progress.body_in += chunk.len() as u64;
                if self
                    .body_bytes_max
                    .is_some_and(|max| self.progress.body_in > max)
                {
                    return Some(self.failed(Fault::BodyTooLarge));
                }
                // More bytes than Content-Length promised, over HTTP/2.
                let written = upstream.write_body(&chunk);
                written.err().map(|_| self.failed(Fault::ClientMalformed))
            }
            Ok(None) => {
                pump.request_done = true;
                pump.patience.restore();
                pump.upstream_moved_at = pump.client_moved_at;
                // Fewer bytes than Content-Length promised.
                let ended = upstream.end_body();
                ended.err().map(|_| self.failed(Fault::ClientGone))
            }
            Err(fault) => Some(self.failed(fault)),
        }
    }

    fn send_head(
        &mut self,
        head: &ResponseHead,
        framing: Framing,
        plan: Plan,
    ) -> Result<(), Fault> {
        self.client
            .write_head(head, framing, plan, self.response_rules)
    }

    async fn send_chunk(&mut self, chunk: Bytes, is_last: bool) -> Result<(), Fault> {
        let mut rest = chunk;
        let piece_bytes_max = match self.client.is_h2() {
            true => PIECE_BYTES_MAX,
            false => rest.len(),
        };
        loop {
            let piece = rest.split_to(rest.len().min(piece_bytes_max));
            let count = piece.len() as u64;
            let is_last = is_last && rest.is_empty();
            let stall = self.timeouts.client_stall;
            self.client.write_body(piece, is_last, stall).await?;
            self.progress.body_out += count;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn complete(&self, upstream: &UpstreamSession, pump: &Pump) -> Ended {
        Ended::Complete {
            is_reusable: pump.request_done && upstream.is_reusable(),
        }
    }

    fn failed(&self, fault: Fault) -> Ended {
        let is_head_sent = self
            .progress
            .status
            .is_some_and(|status| !status.is_informational());
        if is_head_sent {
            return Ended::Cut(fault);
        }
        Ended::Failed(Failed {
            fault,
            died_unanswered: fault == Fault::UpstreamClosed && self.upstream_io.received() == 0,
            nothing_sent: self.upstream_io.sent() == 0,
        })
    }
}

fn is_event_stream(head: &ResponseHead) -> bool {
    head.fields
        .get(Known::ContentType)
        .is_some_and(|value| value.starts_with(b"text/event-stream"))
}

fn upstream_fault(error: &UpstreamError) -> Fault {
    match error {
        UpstreamError::Head(_) => Fault::UpstreamMalformed,
        UpstreamError::Closed | UpstreamError::Body(_) => Fault::UpstreamClosed,
    }
}

/// The compressors write to memory: what fails there is a body that they cannot take.
fn unencodable(error: std::io::Error) -> Fault {
    tracing::warn!(%error, "cannot compress a response");
    Fault::UpstreamMalformed
}

/// Whether a request may be sent a second time after a connection died on it (RFC 9110 s9.2.1).
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Informational heads of one response; one of each kind is usual.
const INFORMATIONAL_MAX: u32 = 16;
/// Bytes of them: over HTTP/2 they wait for a client that does not read.
const INFORMATIONAL_BYTES_MAX: usize = 64 * 1024;
/// Response bytes that are handed to an HTTP/2 session at a time: what a slow reader has to take within `client_stall`, beside
/// all other streams of its connection.
const PIECE_BYTES_MAX: usize = 16 * 1024;
