//! One request on one upstream connection: both bodies at once, until the response is complete or something fails.
//!
//! Owns the pump, its deadlines and the judgement of what a failure means. Does not choose upstreams and does not retry:
//! `forward.rs` does. Both directions move in one future with bounded buffers: a chunk of the request is read only when
//! the upstream's connection has room, a chunk of the response only when the client took the one before.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Version};
use mana_control::room::Place;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession as UpstreamSession;
use pingora::{Error as PingoraError, ErrorType};
use tokio::time::{Instant, Sleep, timeout};

use crate::client_io::ClientIo;
use crate::compress::Encoder;
use crate::compress_decision::{Plan, is_forbidden_by};
use crate::config::{Compression, Timeouts};
use crate::fault::Fault;
use crate::headers::{
    Framing, ResponseRules, has_clear_framing, response_for_client, response_framing,
};
use crate::patience::Patience;
use crate::pump::Pump;
use crate::pump_events::{Event, FromUpstream, Wanted, read_client, read_upstream_or_flush};
use crate::upstream_io::UpstreamIo;

/// What one request needs of its surroundings while it is pumped.
pub struct Exchange<'a> {
    /// The client's request and where its response goes.
    pub client: &'a mut ServerSession,
    /// The connection below `client`.
    pub client_io: &'a ClientIo,
    /// The connection to the upstream.
    pub upstream_io: UpstreamIo,
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
    /// What the site says of its responses.
    pub response_rules: ResponseRules<'a>,
    /// What is compressed.
    pub compression: &'a Compression,
    /// The request's id.
    pub request_id: &'a HeaderValue,
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
    pub async fn run(mut self, head: RequestHeader) -> Ended {
        self.upstream_io.begin_request();
        if self.is_upgrade {
            self.upstream_io.hand_out_head_alone();
        }
        if self.client.is_http2() {
            self.upstream_io.keep_trailers();
        }
        let mut upstream = UpstreamSession::new(Box::new(self.upstream_io.clone()));
        if upstream.write_request_header(Box::new(head)).await.is_err() {
            // Only a head that cannot be serialised fails here; writes themselves are always accepted.
            return self.failed(Fault::ClientMalformed);
        }
        let patience = Patience::new(self.timeouts.client_stall, self.client_bytes_per_second);
        let mut pump = Pump::new(self.framing == Framing::Empty, patience);
        let first_due = pump.due(self.timeouts);
        let sleep = tokio::time::sleep_until(first_due);
        tokio::pin!(sleep);
        loop {
            pump.waits_for_room = !pump.request_done && !self.upstream_io.has_room();
            let event = self
                .next_event(&mut upstream, &mut pump, sleep.as_mut())
                .await;
            let ended = match event {
                Event::Upstream(read) => self.upstream_event(&mut upstream, &mut pump, read).await,
                Event::Body(read) => self.body_event(&mut upstream, &mut pump, read).await,
                Event::ClientHalfClosed => {
                    pump.half_closed_at = Some(Instant::now());
                    let due = pump.due(self.timeouts);
                    sleep.as_mut().reset(due);
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
                Event::Due => self.due_event(&pump, sleep.as_mut()),
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    async fn next_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        sleep: Pin<&mut Sleep>,
    ) -> Event {
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
        let waits = pump.waits_behind();
        tokio::select! {
            event = read_upstream_or_flush(upstream, self.client_io, waits) => event,
            event = read_client(self.client, self.client_io, &self.upstream_io, wanted) => event,
            () = sleep => Event::Due,
        }
    }

    /// Something came from the upstream: a head, a chunk, the end, or an error.
    async fn upstream_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        read: Result<FromUpstream, Box<PingoraError>>,
    ) -> Option<Ended> {
        pump.upstream_moved_at = Instant::now();
        if pump.head_received {
            pump.patience.restore();
        }
        match read {
            Ok(FromUpstream::Head) => self.head_event(upstream, pump).await,
            Ok(FromUpstream::Chunk(chunk)) => {
                let is_last = upstream.is_body_done();
                if let Err(fault) = self.pass_last_or_not(pump, chunk, is_last).await {
                    return Some(Ended::Cut(fault));
                }
                pump.is_unflushed = !self.client.is_http2();
                is_last.then(|| self.complete(upstream, pump))
            }
            Ok(FromUpstream::End) => {
                if let Err(fault) = self.pass_last_or_not(pump, Bytes::new(), true).await {
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
    ) -> Option<Ended> {
        let Some(head) = upstream.resp_header() else {
            return Some(self.failed(Fault::UpstreamMalformed));
        };
        let status = head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let rules = self.response_rules;
            let ours = response_for_client(head, Framing::Empty, rules, self.request_id);
            return Some(self.upgrade_event(ours).await);
        }
        let client_version = self.client.req_header().version;
        if status.is_informational() {
            pump.informational += 1;
            if pump.informational > INFORMATIONAL_MAX {
                return Some(self.failed(Fault::UpstreamMalformed));
            }
            // HTTP/1.0 knows none (RFC 9110 s15.2); the HTTP/2 session cannot send them.
            if client_version == Version::HTTP_11 {
                let rules = self.response_rules;
                let info = response_for_client(head, Framing::Empty, rules, self.request_id);
                // The session takes any head before the end of the body for the last one and would close.
                let keepalive = self.client.get_keepalive();
                if self.send_head(info).await.is_err() {
                    return Some(self.failed(Fault::ClientGone));
                }
                if keepalive.is_some() {
                    self.client.set_keepalive(keepalive);
                }
            }
            return None;
        }
        if !has_clear_framing(head) {
            return Some(self.failed(Fault::UpstreamMalformed));
        }
        self.upstream_io.hand_out_all();
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
        let mut framing = response_framing(head, &self.client.req_header().method, client_version);
        let plan = self.start_encoder(pump, head, &mut framing);
        if (self.is_last)() || framing == Framing::UntilClose {
            self.client.set_keepalive(None);
        }
        let mut ours = response_for_client(head, framing, self.response_rules, self.request_id);
        plan.mark(&mut ours);
        self.progress.status = Some(status);
        if self.send_head(ours).await.is_err() {
            return Some(Ended::Cut(Fault::ClientGone));
        }
        if upstream.is_body_done() {
            return Some(self.complete(upstream, pump));
        }
        pump.is_unflushed = !self.client.is_http2();
        None
    }

    /// Decides whether this response is compressed, and what then delimits it.
    fn start_encoder(&self, pump: &mut Pump, head: &ResponseHeader, framing: &mut Framing) -> Plan {
        if is_forbidden_by(&self.response_rules.fields.set) {
            return Plan::Leave;
        }
        let plan = Plan::of(self.compression, self.client.req_header(), head);
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

    /// Hands a chunk on; behind the last one come the trailers, over HTTP/2: the HTTP/1 session cannot write any.
    async fn pass_last_or_not(
        &mut self,
        pump: &mut Pump,
        chunk: Bytes,
        is_last: bool,
    ) -> Result<(), Fault> {
        let is_encoded = pump.encoder.is_some();
        let trailers = if is_last && !is_encoded {
            self.upstream_io.take_trailers()
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
        self.send_some(chunk).await?;
        let sent = self.client.write_response_trailers(trailers).await;
        sent.map_err(|_| Fault::ClientGone)
    }

    /// Hands a chunk on, through the compressor if there is one.
    async fn pass_chunk(
        &mut self,
        pump: &mut Pump,
        chunk: Bytes,
        is_last: bool,
    ) -> Result<(), Fault> {
        let Some(encoder) = &mut pump.encoder else {
            return self.send_chunk(chunk, is_last).await;
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
            Ok(bytes) => self.send_some(bytes).await,
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
    async fn upgrade_event(&mut self, ours: ResponseHeader) -> Ended {
        if !self.is_upgrade {
            return self.failed(Fault::UpstreamMalformed);
        }
        self.upstream_io.hand_out_all();
        self.progress.first_byte = Some(Instant::now());
        self.progress.status = Some(ours.status);
        match self.send_head(ours).await {
            Ok(()) => Ended::Upgraded,
            Err(_) => Ended::Cut(Fault::ClientGone),
        }
    }

    /// Something came from the client: a chunk of its body, the end of it, or an error.
    async fn body_event(
        &mut self,
        upstream: &mut UpstreamSession,
        pump: &mut Pump,
        read: Result<Option<Bytes>, Box<PingoraError>>,
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
                // An empty chunk would end a chunked body before its time.
                if !chunk.is_empty() && upstream.write_body(&chunk).await.is_err() {
                    return Some(self.failed(Fault::ClientMalformed));
                }
                None
            }
            Ok(None) => {
                pump.request_done = true;
                pump.patience.restore();
                pump.upstream_moved_at = pump.client_moved_at;
                match upstream.finish_body().await {
                    Ok(_) => None,
                    // Fewer bytes than Content-Length promised.
                    Err(_) => Some(self.failed(Fault::ClientGone)),
                }
            }
            Err(error) => Some(self.failed(client_fault(&error))),
        }
    }

    /// The timer fired: a deadline passed, or it was set before something moved and is set anew.
    fn due_event(&self, pump: &Pump, sleep: Pin<&mut Sleep>) -> Option<Ended> {
        let due = pump.due(self.timeouts);
        if Instant::now() < due {
            sleep.reset(due);
            return None;
        }
        Some(self.failed(pump.overdue(self.timeouts)))
    }

    async fn send_head(&mut self, head: ResponseHeader) -> Result<(), Box<PingoraError>> {
        self.client.write_response_header(Box::new(head)).await
    }

    async fn send_chunk(&mut self, chunk: Bytes, is_last: bool) -> Result<(), Fault> {
        let mut rest = chunk;
        loop {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
            let count = piece.len() as u64;
            let is_last = is_last && rest.is_empty();
            write_piece(self.client, piece, is_last, self.timeouts.client_stall).await?;
            self.progress.body_out += count;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn complete(&self, upstream: &mut UpstreamSession, pump: &Pump) -> Ended {
        upstream.respect_keepalive();
        let is_reusable = pump.request_done
            && upstream.will_keepalive()
            && upstream.is_body_done()
            && self.upstream_io.is_clean();
        Ended::Complete { is_reusable }
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

fn is_event_stream(head: &ResponseHeader) -> bool {
    head.headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
}

fn upstream_fault(error: &PingoraError) -> Fault {
    match error.etype() {
        ErrorType::InvalidHTTPHeader => Fault::UpstreamMalformed,
        _ => Fault::UpstreamClosed,
    }
}

/// The compressors write to memory: what fails there is a body that they cannot take.
fn unencodable(error: std::io::Error) -> Fault {
    tracing::warn!(%error, "cannot compress a response");
    Fault::UpstreamMalformed
}

fn client_fault(error: &PingoraError) -> Fault {
    match error.etype() {
        ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::H2Error => {
            Fault::ClientGone
        }
        ErrorType::ReadTimedout => Fault::ClientStalled,
        _ => Fault::ClientMalformed,
    }
}

/// Hands some bytes of a body to the client, and lets go of one that does not take them. Over HTTP/2 a stream waits for the
/// client's window, for at most `stall`; over HTTP/1 the connection watches its own writes.
pub async fn write_piece(
    client: &mut ServerSession,
    piece: Bytes,
    is_last: bool,
    stall: Duration,
) -> Result<(), Fault> {
    let is_h2 = client.is_http2();
    let written = client.write_response_body(piece, is_last);
    let written = match is_h2 {
        true => timeout(stall, written)
            .await
            .map_err(|_| Fault::ClientStalled)?,
        false => written.await,
    };
    written.map_err(|_| Fault::ClientGone)
}

/// Whether a request may be sent a second time after a connection died on it (RFC 9110 s9.2.1).
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Informational heads of one response; one of each kind is usual.
const INFORMATIONAL_MAX: u32 = 16;
/// Response bytes that are handed to the client's session at a time: over HTTP/2, what a slow reader has to take within
/// `client_stall`, beside all other streams of its connection.
const PIECE_BYTES_MAX: usize = 16 * 1024;
