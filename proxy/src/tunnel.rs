//! A tunnel: an upgraded connection, relayed both ways until an end closes it, nothing moves, or it is cut.
//!
//! Owns the relay and the polite end. A cut websocket gets a close frame (1001) between two frames, towards both ends;
//! other protocols are just closed. Counting is the caller's: it holds the entry of the slot.

use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::client_io::ClientIo;
use crate::upstream_io::UpstreamIo;
use crate::websocket::{CLOSE_GOING_AWAY, CLOSE_GOING_AWAY_MASKED, FrameTracker};

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// One of the two closed, and the other followed or had its time to.
    Closed,
    /// A read or a write failed.
    Failed,
    /// Nothing moved for the idle time.
    Idle,
    /// The proxy closed it: its slot was drained, or the proxy stops.
    Cut,
}

/// Bytes relayed, and why it ended.
#[derive(Clone, Copy, Debug)]
pub struct TunnelReport {
    /// Towards the upstream.
    pub bytes_in: u64,
    /// Towards the client.
    pub bytes_out: u64,
    /// Why it ended.
    pub end: TunnelEnd,
}

/// Relays until the tunnel ends, then lets go of `place`, its place in the counts, and closes both connections. `cut`
/// resolves when the proxy wants the tunnel closed. The place is free once nothing more is relayed: whoever drains a
/// slot need not wait for a client's answer to a close frame.
///
/// # Cancel safety
/// Dropped, both connections must be closed.
pub async fn relay(
    client: &ClientIo,
    upstream: &UpstreamIo,
    idle: Duration,
    cut: impl Future<Output = ()>,
    place: impl FnOnce(),
) -> TunnelReport {
    let mut tunnel = Tunnel {
        client: client.clone(),
        upstream: upstream.clone(),
        to_upstream: Direction::default(),
        to_client: Direction::default(),
    };
    let end = tunnel.run(idle, cut).await;
    place();
    if end == TunnelEnd::Cut && tunnel.is_at_boundary() {
        tunnel.say_goodbye().await;
    }
    // What is left to send to either end is little, and an end that is gone cannot be told.
    client.close_write().await.ok();
    tunnel.upstream.shutdown().await.ok();
    TunnelReport {
        bytes_in: tunnel.to_upstream.bytes,
        bytes_out: tunnel.to_client.bytes,
        end,
    }
}

struct Tunnel {
    client: ClientIo,
    upstream: UpstreamIo,
    to_upstream: Direction,
    to_client: Direction,
}

#[derive(Default)]
struct Direction {
    frames: FrameTracker,
    bytes: u64,
    is_closed: bool,
}

enum Moved {
    FromClient(io::Result<Bytes>),
    FromUpstream(io::Result<Bytes>),
    Due,
    Cut,
}

impl Tunnel {
    async fn run(&mut self, idle: Duration, cut: impl Future<Output = ()>) -> TunnelEnd {
        tokio::pin!(cut);
        let mut is_cut = false;
        let mut moved_at = Instant::now();
        let sleep = tokio::time::sleep_until(moved_at + idle);
        tokio::pin!(sleep);
        loop {
            if is_cut && self.is_at_boundary() {
                return TunnelEnd::Cut;
            }
            let has_room = self.upstream.has_room();
            let may_read_client = !self.to_upstream.is_closed && has_room;
            let writer = self.upstream.clone();
            let may_read_upstream = !self.to_client.is_closed;
            let (client, upstream) = (&mut self.client, &mut self.upstream);
            let moved = tokio::select! {
                read = read_chunk(client), if may_read_client => Moved::FromClient(read),
                read = read_chunk(upstream), if may_read_upstream => Moved::FromUpstream(read),
                () = writer.room(), if !has_room => continue,
                () = &mut sleep => Moved::Due,
                () = &mut cut, if !is_cut => Moved::Cut,
            };
            let step = match moved {
                Moved::FromClient(read) => self.pass_to_upstream(read).await,
                Moved::FromUpstream(read) => self.pass_to_client(read).await,
                Moved::Cut => {
                    is_cut = true;
                    sleep.as_mut().reset(Instant::now() + BOUNDARY_WAIT);
                    continue;
                }
                Moved::Due if is_cut => return TunnelEnd::Cut,
                Moved::Due if Instant::now() < moved_at + self.patience(idle) => {
                    sleep.as_mut().reset(moved_at + self.patience(idle));
                    continue;
                }
                Moved::Due if self.is_half_closed() => return TunnelEnd::Closed,
                Moved::Due => return TunnelEnd::Idle,
            };
            moved_at = Instant::now();
            if self.is_half_closed() {
                sleep.as_mut().reset(moved_at + self.patience(idle));
            }
            if let Some(end) = step {
                return end;
            }
        }
    }

    async fn pass_to_upstream(&mut self, read: io::Result<Bytes>) -> Option<TunnelEnd> {
        match read {
            Ok(chunk) if chunk.is_empty() => {
                self.to_upstream.is_closed = true;
                if self.upstream.shutdown().await.is_err() {
                    return Some(TunnelEnd::Failed);
                }
                self.to_client.is_closed.then_some(TunnelEnd::Closed)
            }
            Ok(chunk) => {
                self.to_upstream.note(&chunk);
                let written = self.upstream.write_all(&chunk).await;
                written.is_err().then_some(TunnelEnd::Failed)
            }
            Err(_) => Some(TunnelEnd::Failed),
        }
    }

    async fn pass_to_client(&mut self, read: io::Result<Bytes>) -> Option<TunnelEnd> {
        match read {
            Ok(chunk) if chunk.is_empty() => {
                self.to_client.is_closed = true;
                if self.client.close_write().await.is_err() {
                    return Some(TunnelEnd::Failed);
                }
                self.to_upstream.is_closed.then_some(TunnelEnd::Closed)
            }
            Ok(chunk) => {
                self.to_client.note(&chunk);
                if self.client.write_all(&chunk).await.is_err()
                    || self.client.flush().await.is_err()
                {
                    return Some(TunnelEnd::Failed);
                }
                None
            }
            Err(_) => Some(TunnelEnd::Failed),
        }
    }

    fn is_half_closed(&self) -> bool {
        self.to_client.is_closed || self.to_upstream.is_closed
    }

    /// How long nothing may move. An end that has closed is not coming back; the other has this long to follow.
    fn patience(&self, idle: Duration) -> Duration {
        match self.is_half_closed() {
            true => idle.min(HALF_CLOSED_WAIT),
            false => idle,
        }
    }

    fn is_at_boundary(&self) -> bool {
        self.to_client.frames.is_at_boundary() && self.to_upstream.frames.is_at_boundary()
    }

    /// RFC 6455 s5.5.1: the end that gets a close frame answers with one; it has a moment for that.
    async fn say_goodbye(&mut self) {
        let told = self.client.write_all(&CLOSE_GOING_AWAY).await.is_ok()
            && self.client.flush().await.is_ok();
        // The upstream takes writes at once; one that is gone needs no goodbye.
        self.upstream.write_all(&CLOSE_GOING_AWAY_MASKED).await.ok();
        if told {
            let answered = async {
                while !self.to_upstream.frames.has_closed()
                    && let Ok(chunk) = read_chunk(&mut self.client).await
                    && !chunk.is_empty()
                {
                    self.to_upstream.note(&chunk);
                }
            };
            // Whether it answered or not, the connection is closed now.
            tokio::time::timeout(GOODBYE_WAIT, answered).await.ok();
        }
    }
}

impl Direction {
    fn note(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.frames.pass(bytes);
    }
}

/// What has arrived, up to [`CHUNK_BYTES`]; empty at the end. A tunnel at rest, and most are, holds no buffer.
async fn read_chunk(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    std::future::poll_fn(|cx| {
        let mut room = [std::mem::MaybeUninit::uninit(); CHUNK_BYTES];
        let mut buf = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(buf.filled())))
    })
    .await
}

/// Bytes moved at a time.
const CHUNK_BYTES: usize = 8 * 1024;
/// How long one direction may rest once the other has ended.
const HALF_CLOSED_WAIT: Duration = Duration::from_secs(10);
/// How long a cut waits for the end of a frame that is under way.
const BOUNDARY_WAIT: Duration = Duration::from_secs(1);
/// How long the client's own close frame is waited for.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);
