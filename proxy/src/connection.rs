//! One client connection: handshake, then requests until one side has had enough.
//!
//! Owns what comes before the requests, the loop of HTTP/1 around `forward.rs` with its deadlines between requests, and the
//! polite end: a client is never cut off from a response by bytes that it was still sending. `connection_h2.rs` has the loop
//! of HTTP/2.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http::header::HeaderValue;
use mana_control::table::ResponseFields;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::access::Record;
use crate::alarm::Alarm;
use crate::answer::error_page;
use crate::client_io::{ClientIo, IoLimits};
use crate::client_session::ClientSession;
use crate::client_transport::Transport;
use crate::compress_decision::Plan;
use crate::connection_h2;
use crate::date::http_date;
use crate::edge::Scheme;
use crate::forward::{Connection, Next, Request};
use crate::head::{HeadFault, HeadLimits, HeadScan, leading_empty_lines, scan};
use crate::headers::{Framing, ResponseRules, write_response};
use crate::listen::Begins;
use crate::per_address::Counted;
use crate::proxy_protocol::{self, Source};
use crate::request_head::RequestHead;
use crate::tls::is_challenge;
use crate::worker::{Accepted, Phase, Settings, Worker};

/// Serves a connection to its end.
pub async fn serve(accepted: Accepted, worker: Arc<Worker>) {
    let settings = worker.shared.settings.load_full();
    // The count of connections falls when this is dropped, at the very end.
    let _admission = accepted.admission;
    let mut tcp = match tokio::net::TcpStream::from_std(accepted.tcp) {
        Ok(tcp) => tcp,
        Err(error) => {
            tracing::warn!(%error, "cannot register a connection");
            return;
        }
    };
    // Its place in the count of its address is left at the very end too.
    let (peer, _counted) = match accepted.begins {
        Begins::Plainly => (accepted.peer, accepted.counted),
        Begins::WithProxyHead => {
            match Box::pin(introduced(&mut tcp, accepted.peer, &worker, &settings)).await {
                Some(introduced) => introduced,
                None => return,
            }
        }
    };
    // Responses must not wait for acknowledgements; a socket that refuses the option still works.
    tcp.set_nodelay(true).ok();
    // The kernel says that there is room once this little is unsent: a slow reader is seen to read, and a response that
    // nobody reads takes little memory.
    socket2::SockRef::from(&tcp)
        .set_tcp_notsent_lowat(UNSENT_BYTES)
        .ok();
    let transport = match accepted.scheme {
        Scheme::Http => Transport::Plain(tcp),
        Scheme::Https => {
            // Boxed: it is over long before its connection is.
            let handshake = Box::pin(worker.shared.keyring.accept(tcp));
            let handshake = timeout(settings.timeouts.handshake, handshake);
            let places = settings.limits.handshakes;
            let Ok(done) = worker.shared.handshakes.one_of(places, handshake).await else {
                worker.shared.metrics.reject("handshakes");
                return;
            };
            match done {
                Ok(Ok(mut tls)) if is_challenge(&tls) => {
                    // The CA has seen what it came for. However the end goes, the connection is over.
                    timeout(LINGER_TIME, tls.shutdown()).await.ok();
                    return;
                }
                Ok(Ok(tls)) => Transport::tls(tls),
                Ok(Err(error)) => {
                    worker.shared.metrics.reject("handshake");
                    tracing::debug!(%peer, %error, "handshake failed");
                    return;
                }
                Err(_) => {
                    worker.shared.metrics.reject("handshake_timeout");
                    return;
                }
            }
        }
    };
    let limits = IoLimits {
        stall: settings.timeouts.client_stall,
        bytes_per_second: settings.limits.client_bytes_per_second,
        h2_control_frames: settings.limits.h2_control_frames,
    };
    let io = ClientIo::new(transport, peer, limits);
    let ip = peer.ip().to_canonical().to_string();
    let connection = Arc::new(Connection {
        scheme: accepted.scheme,
        peer,
        // An address has only bytes that are valid in a field.
        client_ip: HeaderValue::from_str(&ip).unwrap_or_else(|_| HeaderValue::from_static("")),
        let_go: Notify::new(),
        io,
    });
    if connection.io.is_h2() {
        connection_h2::serve(Arc::clone(&connection), Arc::clone(&worker), &settings).await;
    } else {
        serve_h1(&connection, &worker).await;
    }
    if connection.io.has_stalled() {
        worker.shared.metrics.reject("client_stall");
    }
}

/// Reads the head of the PROXY protocol, and counts the connection at the address that it names.
async fn introduced(
    tcp: &mut tokio::net::TcpStream,
    peer: SocketAddr,
    worker: &Worker,
    settings: &Settings,
) -> Option<(SocketAddr, Option<Counted>)> {
    let read = timeout(settings.timeouts.handshake, proxy_protocol::read(tcp)).await;
    let peer = match read {
        Ok(Ok(Source::Client(client))) => client,
        Ok(Ok(Source::Peer)) => peer,
        Ok(Err(error)) => {
            worker.shared.metrics.reject("proxy_protocol");
            tracing::debug!(%peer, %error, "not introduced");
            return None;
        }
        Err(_) => {
            worker.shared.metrics.reject("proxy_protocol_timeout");
            return None;
        }
    };
    let counted = worker.shared.count_connection(peer.ip()).ok()?;
    Some((peer, counted))
}

// === HTTP/1 ===

async fn serve_h1(connection: &Connection, worker: &Arc<Worker>) {
    let io = &connection.io;
    let mut served = 0;
    // On the way out a connection at rest has `REST_WHEN_DRAINING`: a request that is on its way meets an open
    // connection, and its response says that it was the last one. One future for all rests of the connection.
    let draining = async {
        worker.shared.reached(Phase::Draining).await;
        tokio::time::sleep(REST_WHEN_DRAINING).await;
    };
    tokio::pin!(draining);
    let mut alarm = Alarm::new();
    loop {
        let settings = worker.shared.settings.load();
        let read = read_head(io, &settings, served == 0, &mut alarm, draining.as_mut()).await;
        let max = settings.limits.requests_per_connection;
        drop(settings);
        let head = match read {
            HeadRead::Complete(head) => head,
            HeadRead::Over => return close(io).await,
            HeadRead::Refused(fault) => {
                worker.shared.metrics.reject(reject_name(fault));
                return refuse(connection, worker, fault.status(), &fault.to_string()).await;
            }
            HeadRead::TimedOut => {
                worker.shared.metrics.reject("request_head_timeout");
                let reason = "the request head did not arrive in time";
                let status = http::StatusCode::REQUEST_TIMEOUT;
                return refuse(connection, worker, status, reason).await;
            }
        };
        served += 1;
        let session = ClientSession::h1(io.clone(), &head);
        let is_last = served >= max;
        // Boxed: between requests, which is most of the time, a connection does not carry the weight of one.
        let settings = worker.shared.settings.load_full();
        let alarm = &mut alarm;
        let request = Request::new(head, session, connection, worker, &settings, is_last, alarm);
        match Box::pin(request.serve()).await {
            Next::Reuse => {}
            Next::Close => return close(io).await,
            Next::Abort => return,
            Next::Reset => return io.reset(),
        }
    }
}

enum HeadRead {
    Complete(RequestHead),
    /// The client closed, or rested for too long, or the process is on its way out.
    Over,
    Refused(HeadFault),
    TimedOut,
}

/// Reads ahead until a whole request head is there, and takes it. A connection at rest may stay for `timeouts.idle`; from
/// its first byte a head has `timeouts.request_head` in total, however it trickles.
async fn read_head(
    io: &ClientIo,
    settings: &Settings,
    is_first: bool,
    alarm: &mut Alarm,
    mut draining: Pin<&mut impl Future<Output = ()>>,
) -> HeadRead {
    let limits = HeadLimits {
        head_bytes: settings.limits.head_bytes,
        uri_bytes: settings.limits.uri_bytes,
        headers: settings.limits.headers,
    };
    let head_time = settings.timeouts.request_head;
    let mut has_begun = is_first;
    alarm.set(
        Instant::now()
            + if is_first {
                head_time
            } else {
                settings.timeouts.idle
            },
    );
    let mut searched = 0;
    loop {
        let (verdict, length) = io.with_read(|bytes| {
            let empty_lines = leading_empty_lines(bytes);
            if empty_lines > 0 {
                bytes.advance(empty_lines);
                searched = 0;
            }
            let verdict = scan(bytes, searched, limits);
            if let HeadScan::Complete { end, .. } = verdict {
                bytes.advance(end);
            }
            (verdict, bytes.len())
        });
        match verdict {
            HeadScan::Complete { head, .. } => return HeadRead::Complete(head),
            HeadScan::Refused(fault) => return HeadRead::Refused(fault),
            HeadScan::Partial => searched = length,
        }
        if length > 0 && !has_begun {
            has_begun = true;
            alarm.set(Instant::now() + head_time);
        }
        let read = tokio::select! {
            biased;
            read = io.read_ahead() => read,
            () = alarm.rings() => match length {
                0 => return HeadRead::Over,
                _ => return HeadRead::TimedOut,
            },
            () = draining.as_mut(), if length == 0 => return HeadRead::Over,
        };
        match read {
            Ok(0) | Err(_) => return HeadRead::Over,
            Ok(_) => {}
        }
    }
}

/// Answers a head that never became a request, and closes.
async fn refuse(connection: &Connection, worker: &Worker, status: http::StatusCode, reason: &str) {
    let mut record = Record::refused(connection);
    let id = record.request_id.as_str();
    let answer = error_page(status, reason, None, None, id);
    let mut bytes = Vec::with_capacity(512 + answer.body.len());
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &ResponseFields::default(),
        request_id: record.request_id,
        date: http_date,
    };
    let framing = Framing::Length(answer.body.len() as u64);
    let last = Some("close");
    write_response(&mut bytes, &answer.head, framing, Plan::Leave, rules, last);
    bytes.extend_from_slice(&answer.body);
    record.refused_with(status, answer.body.len());
    worker.finished(&record, None);
    if connection.io.write_bytes(&bytes).await.is_ok() {
        close(&connection.io).await;
    }
}

fn reject_name(fault: HeadFault) -> &'static str {
    match fault {
        HeadFault::TargetTooLong => "uri_bytes",
        HeadFault::TooLarge => "head_bytes",
        HeadFault::Version | HeadFault::TransferCoding | HeadFault::Malformed(_) => "malformed",
    }
}

/// Closes the sending side and takes what the client still sends, for a bounded time and amount. A socket that is closed
/// with unread bytes resets the connection, and the client may lose a response that it has not read yet
/// (RFC 9112 s9.6).
async fn close(io: &ClientIo) {
    if timeout(LINGER_TIME, io.close_write()).await.is_err() {
        return;
    }
    let mut io = io.clone();
    let linger = async {
        let mut scratch = vec![0_u8; 16 * 1024];
        let mut taken = 0;
        while let Ok(count @ 1..) = io.read(&mut scratch).await {
            taken += count;
            if taken > LINGER_BYTES_MAX {
                return;
            }
        }
    };
    // However it ends, the connection is over.
    timeout(LINGER_TIME, linger).await.ok();
}

/// How long a connection at rest stays open once the process is on its way out.
const REST_WHEN_DRAINING: Duration = Duration::from_secs(2);
/// Response bytes that the kernel keeps beside those under way.
const UNSENT_BYTES: u32 = 128 * 1024;
/// How long, and for how much, a closed connection is read on.
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;
