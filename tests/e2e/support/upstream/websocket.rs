//! The websocket of the upstream, from the handshake on.

use bytes::{Buf, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::answers::BETWEEN_SLOW_READS;
use super::connection::{Body, Connection, End};
use super::{Seen, State, lock};

/// Greets with the name and echoes texts until either side closes.
pub async fn websocket(state: &State, mut connection: Connection, seen: &Seen) -> Result<(), End> {
    let key = seen.header("sec-websocket-key").unwrap_or_default();
    let is_right = seen
        .header("upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        && seen
            .header("connection")
            .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"));
    if !is_right {
        return Err(End::Fault(format!(
            "not a websocket handshake: {:?}",
            seen.head
        )));
    }
    let accept = derive_accept_key(key.as_bytes());
    connection
        .write(format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        ))
        .await?;
    if let Some(count) = seen.number("swallow") {
        return swallow(connection, count).await;
    }
    let read_ahead = std::mem::replace(&mut connection.buffer, BytesMut::new());
    let mut socket = WebSocketStream::from_partially_read(
        connection.stream,
        read_ahead.chunk().to_vec(),
        Role::Server,
        None,
    )
    .await;
    if socket
        .send(Message::text(state.name.clone()))
        .await
        .is_err()
    {
        lock(&state.websocket_ends).push(None);
        return Ok(());
    }
    let end = loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| u16::from(frame.code)),
            Some(Ok(message)) if message.is_text() || message.is_binary() => {
                if socket.send(message).await.is_err() {
                    break None;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break None,
        }
    };
    lock(&state.websocket_ends).push(end);
    // Lets the answer to the close frame out; the other side may be gone already.
    socket.close(None).await.ok();
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// Reads so many raw bytes, more slowly than they can be sent and without a word, then says so in a frame.
async fn swallow(mut connection: Connection, count: usize) -> Result<(), End> {
    let mut body = Body::Length(count);
    while connection.next_piece(&mut body).await?.is_some() {
        tokio::time::sleep(BETWEEN_SLOW_READS).await;
    }
    connection.write(b"\x81\x09swallowed").await?;
    connection.wait_for_close().await;
    Ok(())
}
