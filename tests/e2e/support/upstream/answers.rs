//! What the upstream answers at which path.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::connection::{Body, Connection, End};
use super::websocket::websocket;
use super::{Mode, Ping, Seen, State, lock};
use crate::support::{pattern_byte, text};

/// Time between two server-sent events.
const EVENT_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two reads of a slow reader.
pub const BETWEEN_SLOW_READS: Duration = Duration::from_millis(1);
/// Bytes written at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Reads one request and answers it; the connection comes back if it stays open.
pub async fn answer_one(
    state: &Arc<State>,
    mut connection: Connection,
) -> Result<Option<Connection>, End> {
    let released = state.released.subscribe();
    let Some((seen, body)) = connection.read_head().await? else {
        return Ok(None);
    };
    if seen.path() == "/api/ping" {
        return ping(state, connection, &seen).await;
    }
    lock(&state.seen).push(seen.clone());
    match state.mode() {
        Mode::Serving | Mode::ClosingAfterAnswer => {}
        Mode::ClosingOnAccept | Mode::ClosingAfterHead => return Ok(None),
        Mode::Silent => {
            connection.wait_for_close().await;
            return Ok(None);
        }
    }
    let is_chunked = matches!(body, Body::Chunked { .. });
    let is_upgrade = seen.path() == "/ws" && seen.header("upgrade").is_some();
    if is_upgrade {
        websocket(state, connection, &seen).await?;
        return Ok(None);
    }
    let mut exchange = Exchange {
        state,
        connection: &mut connection,
        seen,
        body,
        is_chunked,
        is_drained: false,
        released,
    };
    let stays_open = exchange.run().await? && state.mode() != Mode::ClosingAfterAnswer;
    Ok(stays_open.then_some(connection))
}

async fn ping(
    state: &State,
    mut connection: Connection,
    seen: &Seen,
) -> Result<Option<Connection>, End> {
    state.pings.fetch_add(1, Ordering::SeqCst);
    let host = seen.header("host").unwrap_or_default().to_owned();
    lock(&state.ping_hosts).insert(host);
    let ping = state.next_ping();
    let status = match (state.mode(), ping) {
        (Mode::Silent, _) | (_, Ping::Never) => {
            connection.wait_for_close().await;
            return Ok(None);
        }
        (Mode::ClosingOnAccept | Mode::ClosingAfterHead, _) | (_, Ping::Close) => return Ok(None),
        (Mode::Serving | Mode::ClosingAfterAnswer, Ping::Status(status)) => status,
    };
    let location = if (300..400).contains(&status) {
        "location: /\r\n"
    } else {
        ""
    };
    let body = if seen.method == "HEAD" { "" } else { "pong" };
    connection
        .write(format!(
            "HTTP/1.1 {status} Ping\r\n{location}content-length: 4\r\n\r\n{body}"
        ))
        .await?;
    Ok(Some(connection))
}

/// One request that is being answered.
struct Exchange<'a> {
    state: &'a Arc<State>,
    connection: &'a mut Connection,
    seen: Seen,
    body: Body,
    is_chunked: bool,
    is_drained: bool,
    released: watch::Receiver<usize>,
}

type Answering<'b> = Pin<Box<dyn Future<Output = Result<bool, End>> + Send + 'b>>;

impl Exchange<'_> {
    /// Answers; whether the connection stays open.
    async fn run(&mut self) -> Result<bool, End> {
        let path = self.seen.path().to_owned();
        // Whether the connection may stay open.
        let answering: Answering<'_> = match path.as_str() {
            "/echo" => Box::pin(self.echo()),
            "/sink" => Box::pin(self.sink()),
            "/size" => Box::pin(self.size()),
            "/chunked" => Box::pin(self.chunked()),
            "/close-delimited" => Box::pin(self.close_delimited()),
            "/slow" => Box::pin(self.slow()),
            "/late-sink" => Box::pin(self.late_sink()),
            "/hold" => Box::pin(self.hold()),
            "/hold-body" => Box::pin(self.hold_body()),
            "/hold-chunk" => Box::pin(self.hold_chunk()),
            "/sse" => Box::pin(self.events()),
            "/hang" => Box::pin(self.hang()),
            "/die" => Box::pin(self.die()),
            "/diemid" => Box::pin(self.die_in_the_body()),
            "/status" => Box::pin(self.status()),
            "/early" => Box::pin(self.early()),
            "/100" => Box::pin(self.expect()),
            "/103" => Box::pin(self.early_hints()),
            "/trailers" => Box::pin(self.trailers()),
            "/reflect" => Box::pin(self.reflect()),
            "/hop" => Box::pin(self.hop_by_hop()),
            "/cookies" => Box::pin(self.cookies()),
            "/say" => Box::pin(self.say()),
            "/head" => Box::pin(self.size_of_thousand()),
            _ => Box::pin(self.name()),
        };
        if !answering.await? {
            return Ok(false);
        }
        self.drain().await?;
        Ok(self.seen.header("connection") != Some("close"))
    }

    /// The name of the upstream.
    async fn name(&mut self) -> Result<bool, End> {
        self.drain().await?;
        let name = self.state.name.clone();
        self.reply(200, "", name.as_bytes()).await
    }

    /// The body back, piece by piece as it comes, framed as it came.
    async fn echo(&mut self) -> Result<bool, End> {
        let framing = match self.body {
            Body::Length(length) => format!("content-length: {length}"),
            Body::Chunked { .. } => "transfer-encoding: chunked".to_owned(),
            Body::Ended => "content-length: 0".to_owned(),
        };
        self.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"))
            .await?;
        while let Some(piece) = self.connection.next_piece(&mut self.body).await? {
            if self.is_chunked {
                self.write(format!("{:x}\r\n", piece.len())).await?;
            }
            self.connection.write(&piece).await?;
            if self.is_chunked {
                self.write("\r\n").await?;
            }
        }
        if self.is_chunked {
            self.write("0\r\n\r\n").await?;
        }
        self.drain().await?;
        Ok(true)
    }

    /// The number of bytes of the body; with `slow` it is read more slowly than it can be sent.
    async fn sink(&mut self) -> Result<bool, End> {
        let mut count = 0;
        if self.seen.query("slow").is_some() {
            while let Some(piece) = self.connection.next_piece(&mut self.body).await? {
                count += piece.len();
                tokio::time::sleep(BETWEEN_SLOW_READS).await;
            }
        }
        count += self.drain().await?;
        self.reply(200, "", count.to_string().as_bytes()).await
    }

    /// The number of bytes of the body, of which none is read for `ms` milliseconds.
    async fn late_sink(&mut self) -> Result<bool, End> {
        self.wait_as_asked().await;
        self.sink().await
    }

    /// `n` bytes of the pattern.
    async fn size(&mut self) -> Result<bool, End> {
        let length = self.seen.number("n").unwrap_or(0);
        self.sized(length).await
    }

    async fn size_of_thousand(&mut self) -> Result<bool, End> {
        self.sized(1000).await
    }

    async fn sized(&mut self, length: usize) -> Result<bool, End> {
        self.drain().await?;
        self.write(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
        ))
        .await?;
        if self.seen.method != "HEAD" {
            for piece in pieces(length) {
                self.connection.write(piece).await?;
            }
        }
        Ok(true)
    }

    /// `n` bytes of the pattern in chunks.
    async fn chunked(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        for piece in pieces(self.seen.number("n").unwrap_or(0)) {
            self.write(format!("{:x}\r\n", piece.len())).await?;
            self.connection.write(piece).await?;
            self.write("\r\n").await?;
        }
        self.write("0\r\n\r\n").await?;
        Ok(true)
    }

    /// `n` bytes of the pattern whose end is the end of the connection.
    async fn close_delimited(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.write("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
            .await?;
        for piece in pieces(self.seen.number("n").unwrap_or(0)) {
            self.connection.write(piece).await?;
        }
        // The end must reach the other side before the socket goes, or the kernel may answer late bytes with a reset.
        self.connection.stream.shutdown().await?;
        Ok(false)
    }

    /// The name after `ms` milliseconds.
    async fn slow(&mut self) -> Result<bool, End> {
        self.wait_as_asked().await;
        self.name().await
    }

    async fn wait_as_asked(&self) {
        let ms = u64::try_from(self.seen.number("ms").unwrap_or(0)).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// The name once the test says `release`.
    async fn hold(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.wait_for_release().await;
        self.name().await
    }

    /// Half of ten bytes at once, the other half once the test says `release`.
    async fn hold_body(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
            .await?;
        self.wait_for_release().await;
        self.write("after").await?;
        Ok(true)
    }

    /// A chunk at once, once the test says `release` the size of another, and after one more its bytes.
    async fn hold_chunk(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await?;
        self.wait_for_release().await;
        self.write("5\r\n").await?;
        self.wait_for_release().await;
        self.write("after\r\n0\r\n\r\n").await?;
        Ok(true)
    }

    /// Events that name the slot, without end.
    async fn events(&mut self) -> Result<bool, End> {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for number in 0.. {
            let event = format!("data: {} {number}\n\n", self.state.name);
            self.write(format!("{:x}\r\n{event}\r\n", event.len()))
                .await?;
            tokio::time::sleep(EVENT_INTERVAL).await;
        }
        Ok(false)
    }

    /// Never an answer.
    async fn hang(&mut self) -> Result<bool, End> {
        self.connection.wait_for_close().await;
        Err(End::Gone)
    }

    /// Closes without an answer; with `on=NAME` only the upstream of that name does.
    async fn die(&mut self) -> Result<bool, End> {
        let is_other = self
            .seen
            .query("on")
            .is_some_and(|name| name != self.state.name);
        if is_other {
            self.name().await
        } else {
            Ok(false)
        }
    }

    /// Closes in the middle of the body; with `chunked` that is between two chunks.
    async fn die_in_the_body(&mut self) -> Result<bool, End> {
        if self.seen.query("chunked").is_some() {
            self.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n")
                .await?;
            return Ok(false);
        }
        let kind = self.seen.query("type").unwrap_or("text/plain");
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 2000\r\n\r\n");
        self.write(format!("{head}only this")).await?;
        Ok(false)
    }

    /// The status `code`, with a body where one is allowed.
    async fn status(&mut self) -> Result<bool, End> {
        self.drain().await?;
        let code = u16::try_from(self.seen.number("code").unwrap_or(200)).unwrap_or(500);
        match code {
            204 | 304 => {
                self.write(format!("HTTP/1.1 {code} Status\r\netag: \"a\"\r\n\r\n"))
                    .await?;
                Ok(true)
            }
            301 | 302 | 307 | 308 => self.reply(code, "location: /elsewhere\r\n", b"moved").await,
            _ => self.reply(code, "", b"status").await,
        }
    }

    /// An answer before the body is read; with `close` the rest of the body is never read.
    async fn early(&mut self) -> Result<bool, End> {
        if self.seen.query("close").is_some() {
            self.write(
                "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nearly",
            )
            .await?;
            return Err(End::Gone);
        }
        self.reply(413, "", b"early").await
    }

    /// `100 Continue` if it is expected, then the size of the body.
    async fn expect(&mut self) -> Result<bool, End> {
        if self.seen.query("refuse").is_some() {
            self.reply(417, "connection: close\r\n", b"refused").await?;
            return Err(End::Gone);
        }
        if self.seen.header("expect") == Some("100-continue") {
            self.write("HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        self.sink().await
    }

    /// `103 Early Hints`, then the name.
    async fn early_hints(&mut self) -> Result<bool, End> {
        self.write("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")
            .await?;
        self.name().await
    }

    /// A chunked answer with a trailer.
    async fn trailers(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.write(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n\
             4\r\nbody\r\n0\r\nx-checksum: 42\r\n\r\n",
        )
        .await?;
        Ok(true)
    }

    /// The request head as it came.
    async fn reflect(&mut self) -> Result<bool, End> {
        self.drain().await?;
        let head = self.seen.head.clone();
        self.reply(200, "content-type: text/plain\r\n", head.as_bytes())
            .await
    }

    /// An answer full of fields that concern this connection only.
    async fn hop_by_hop(&mut self) -> Result<bool, End> {
        self.drain().await?;
        let headers = "connection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
                       proxy-authenticate: Basic\r\nproxy-connection: keep-alive\r\nupgrade: h2c\r\nx-kept: 1\r\n";
        self.reply(200, headers, b"hop").await
    }

    /// Three cookies.
    async fn cookies(&mut self) -> Result<bool, End> {
        self.drain().await?;
        self.reply(
            200,
            "set-cookie: a=1; Path=/\r\nset-cookie: b=2\r\nset-cookie: c=3\r\n",
            b"cookies",
        )
        .await
    }

    /// What the request asks for: its fields `x-say-NAME` are the answer's fields, `code` its status, `n` bytes of text
    /// its body, and `chunked` frames it.
    async fn say(&mut self) -> Result<bool, End> {
        self.drain().await?;
        let code = u16::try_from(self.seen.number("code").unwrap_or(200)).unwrap_or(500);
        let fields: String = self
            .seen
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix("x-say-")?, value)))
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let body = text(self.seen.number("n").unwrap_or(0));
        if self.seen.query("chunked").is_none() {
            return self.reply(code, &fields, body.as_bytes()).await;
        }
        let head = format!("HTTP/1.1 {code} Answer\r\n{fields}transfer-encoding: chunked\r\n\r\n");
        self.write(head).await?;
        for piece in body.as_bytes().chunks(5000) {
            self.write(format!("{:x}\r\n", piece.len())).await?;
            self.write(piece).await?;
            self.write("\r\n").await?;
        }
        self.write("0\r\n\r\n").await?;
        Ok(true)
    }

    async fn reply(&mut self, status: u16, headers: &str, body: &[u8]) -> Result<bool, End> {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} Answer\r\n{headers}content-length: {length}\r\n\r\n");
        let mut bytes = head.into_bytes();
        if self.seen.method != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.connection.write(bytes).await?;
        Ok(true)
    }

    async fn write(&mut self, text: impl AsRef<[u8]>) -> Result<(), End> {
        self.connection.write(text).await
    }

    /// Reads what is left of the body and its trailers; the number of bytes.
    async fn drain(&mut self) -> Result<usize, End> {
        let mut count = 0;
        while let Some(piece) = self.connection.next_piece(&mut self.body).await? {
            count += piece.len();
        }
        if self.is_chunked && !self.is_drained {
            self.connection.read_trailers().await?;
        }
        self.is_drained = true;
        Ok(count)
    }

    async fn wait_for_release(&mut self) {
        // The receiver was made before the request counted as seen, so a release after that is never missed.
        self.released.changed().await.ok();
    }
}

/// The pattern in pieces, without building all of it.
fn pieces(length: usize) -> impl Iterator<Item = bytes::Bytes> {
    // A multiple of the pattern's period, so that every piece starts like the first.
    let period = PIECE_BYTES / 251 * 251;
    let whole: bytes::Bytes = (0..period.min(length))
        .map(pattern_byte)
        .collect::<Vec<_>>()
        .into();
    (0..length)
        .step_by(period.max(1))
        .map(move |start| whole.slice(..period.min(length - start)))
}
