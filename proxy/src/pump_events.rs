//! What an exchange waits for: its two connections, turned into events.
//!
//! Owns the two waits. Each can be dropped and begun again without losing a byte. What an event means is said in
//! `exchange.rs`.

use bytes::Bytes;

use crate::client_io::ClientIo;
use crate::client_session::ClientSession;
use crate::fault::Fault;
use crate::response_head::ResponseHead;
use crate::upstream_io::UpstreamIo;
use crate::upstream_session::{UpstreamError, UpstreamSession};

/// What a read of the upstream goes before.
#[derive(Clone, Copy)]
pub(crate) struct WaitsBehind {
    pub(crate) head_received: bool,
    pub(crate) is_held_back: bool,
    pub(crate) is_unflushed: bool,
}

pub(crate) enum Event {
    HeldBack,
    Flushed,
    Room,
    Upstream(Result<FromUpstream, UpstreamError>),
    Body(Result<Option<Bytes>, Fault>),
    ClientHalfClosed,
    ClientGone,
    Due,
}

pub(crate) enum FromUpstream {
    Head(ResponseHead),
    Chunk(Bytes),
    End,
}

/// What is wanted from the client's side now.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    Body,
    Watch,
    Room,
    Nothing,
}

/// What was written to the client goes out as soon as the upstream has nothing more to say at once: a head and a body
/// that come together leave together, and one that makes the other wait does not hold it up.
pub(crate) async fn read_upstream_or_flush(
    upstream: &mut UpstreamSession,
    client_io: &ClientIo,
    waits: WaitsBehind,
) -> Event {
    tokio::select! {
        biased;
        read = read_upstream(upstream, waits.head_received) => Event::Upstream(read),
        () = std::future::ready(()), if waits.is_held_back => Event::HeldBack,
        flushed = client_io.flush(), if waits.is_unflushed => match flushed {
            Ok(()) => Event::Flushed,
            Err(_) => Event::ClientGone,
        },
    }
}

pub(crate) async fn read_upstream(
    upstream: &mut UpstreamSession,
    head_received: bool,
) -> Result<FromUpstream, UpstreamError> {
    if !head_received {
        return upstream.read_head().await.map(FromUpstream::Head);
    }
    match upstream.read_body().await? {
        Some(chunk) => Ok(FromUpstream::Chunk(chunk)),
        None => Ok(FromUpstream::End),
    }
}

pub(crate) async fn read_client(
    client: &mut ClientSession,
    client_io: &ClientIo,
    upstream_io: &UpstreamIo,
    wanted: Wanted,
) -> Event {
    match wanted {
        Wanted::Room => tokio::select! {
            () = upstream_io.room() => Event::Room,
            // An HTTP/1 client that is gone is seen by the next read.
            () = client.reset() => Event::ClientGone,
        },
        Wanted::Body => Event::Body(client.read_body().await),
        Wanted::Nothing => std::future::pending().await,
        Wanted::Watch if client.is_h2() => {
            client.reset().await;
            Event::ClientGone
        }
        Wanted::Watch => {
            client_io.gone().await;
            Event::ClientHalfClosed
        }
    }
}
