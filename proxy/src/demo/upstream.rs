//! One demo upstream: a page in the slot's colour, a server-sent-event ticker, a websocket ticker and `/api/ping`.
//!
//! Owns the serving of one listener. Knows nothing of the proxy in front of it. Bounded: [`CONNECTIONS_MAX`]
//! connections, [`HEAD_BYTES_MAX`] per request head, [`HEAD_DEADLINE`] for it, [`MESSAGE_BYTES_MAX`] per message.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mana_control::Slot;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Interval;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tracing::debug;

/// Connections served at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for a request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a websocket message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Time between two ticks of both tickers.
const TICK: Duration = Duration::from_secs(1);
/// Time to wait after a failed accept, which fails again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PAGE: &str = include_str!("page.html");

/// Serves one listener as the upstream of a slot, until the future is dropped.
pub async fn start_upstream(slot: Slot, listener: TcpListener) {
    let upstream = Arc::new(DemoUpstream {
        slot,
        requests: AtomicU64::new(0),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropping the set with this future ends the connections too.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let upstream = Arc::clone(&upstream);
                connections.spawn(async move {
                    upstream.serve(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%slot, %error, "demo upstream cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

// === impl DemoUpstream ===

struct DemoUpstream {
    slot: Slot,
    /// Requests answered, probes not counted.
    requests: AtomicU64,
}

type Answer = Response<Either<Full<Bytes>, Ticks>>;

impl DemoUpstream {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let upstream = Arc::clone(&self);
            async move { Ok::<_, Infallible>(upstream.answer(request)) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            debug!(slot = %self.slot, %error, "demo upstream connection ended early");
        }
    }

    fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path == "/api/ping" {
            return text(StatusCode::OK, "text/plain", "pong");
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
        }
        match path {
            "/" => text(StatusCode::OK, "text/html; charset=utf-8", self.page()),
            "/events" => self.events(),
            "/ws" => self.websocket(request),
            _ => text(StatusCode::NOT_FOUND, "text/plain", "not found\n"),
        }
    }

    fn page(&self) -> String {
        PAGE.replace("{slot}", self.slot.as_str())
            .replace("{requests}", &self.requests().to_string())
    }

    fn events(self: Arc<Self>) -> Answer {
        let mut response = Response::new(Either::Right(Ticks::of(self)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn websocket(self: Arc<Self>, mut request: Request<Incoming>) -> Answer {
        let is_upgrade = request
            .headers()
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let accept = request
            .headers()
            .get(SEC_WEBSOCKET_KEY)
            .filter(|_| is_upgrade)
            .and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
        let Some(accept) = accept else {
            return text(
                StatusCode::UPGRADE_REQUIRED,
                "text/plain",
                "a websocket lives here\n",
            );
        };
        tokio::spawn(async move {
            match hyper::upgrade::on(&mut request).await {
                Ok(upgraded) => self.talk(upgraded).await,
                Err(error) => debug!(slot = %self.slot, %error, "websocket was not upgraded"),
            }
        });
        let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
        let headers = response.headers_mut();
        headers.remove(CONTENT_TYPE);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        response
    }

    /// Sends a tick a second and echoes texts, until either side closes.
    async fn talk(&self, upgraded: Upgraded) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let mut ticks = tokio::time::interval(TICK);
        let mut number = 0_u64;
        loop {
            let message = tokio::select! {
                _ = ticks.tick() => {
                    number += 1;
                    Message::text(self.tick(number))
                }
                received = socket.next() => match received {
                    Some(Ok(message)) if message.is_text() => message,
                    // Pings are answered by the next send; a close is answered before the stream ends.
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return,
                },
            };
            if socket.send(message).await.is_err() {
                return;
            }
        }
    }

    /// One tick: `{"slot":"blue","requests":12,"tick":3}`.
    fn tick(&self, number: u64) -> String {
        let requests = self.requests();
        format!(
            r#"{{"slot":"{}","requests":{requests},"tick":{number}}}"#,
            self.slot
        )
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

// === impl Ticks ===

/// A body that is one server-sent event a second and never ends.
struct Ticks {
    upstream: Arc<DemoUpstream>,
    interval: Interval,
    number: u64,
}

impl Ticks {
    fn of(upstream: Arc<DemoUpstream>) -> Ticks {
        Ticks {
            upstream,
            interval: tokio::time::interval(TICK),
            number: 0,
        }
    }
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.interval.poll_tick(context));
        self.number += 1;
        let event = format!("data: {}\n\n", self.upstream.tick(self.number));
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn started(slot: Slot) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(start_upstream(slot, listener));
        TcpStream::connect(address).await.expect("connect")
    }

    async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
        let mut text = String::new();
        let mut chunk = [0; 4096];
        while !text.contains(wanted) {
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk));
            let length = read.await.expect("in time").expect("read");
            assert!(length > 0, "ended after {text:?}");
            text.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
        text
    }

    #[tokio::test]
    async fn the_page_names_its_slot_and_counts_requests_but_not_probes() {
        let mut stream = started(Slot::Green).await;
        stream
            .write_all(
                b"GET /api/ping HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            )
            .await
            .expect("write");
        let text = read_until(&mut stream, "</html>").await;
        assert!(text.contains("pong"), "{text}");
        assert!(text.contains(r#"data-slot="green""#), "{text}");
        assert!(text.contains(r#"<b id="requests">1</b>"#), "{text}");
    }

    #[tokio::test]
    async fn the_first_event_is_sent_at_once() {
        let mut stream = started(Slot::Blue).await;
        stream
            .write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("write");
        let text = read_until(&mut stream, r#""tick":1}"#).await;
        assert!(text.contains("text/event-stream"), "{text}");
    }

    #[tokio::test]
    async fn the_websocket_ticks_and_echoes() {
        let stream = started(Slot::Blue).await;
        let (mut socket, _) = tokio_tungstenite::client_async("ws://localhost/ws", stream)
            .await
            .expect("websocket");
        socket.send(Message::text("hello")).await.expect("send");
        let (mut has_ticked, mut has_echoed) = (false, false);
        while !(has_ticked && has_echoed) {
            let message = socket.next().await.expect("open").expect("message");
            let text = message.to_text().expect("text");
            has_ticked |= text.contains(r#""slot":"blue""#);
            has_echoed |= text == "hello";
        }
    }
}
