//! A websocket client over TLS.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::tls::{Offer, connect};
use crate::support::{HOST, within};

/// One websocket to `/ws`, which greets with the name of its upstream and echoes.
pub struct Socket {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The upstream at the other end.
    pub upstream: String,
}

/// What came out of a websocket.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A text.
    Text(String),
    /// A close frame, with its code if it had one.
    Close(Option<u16>),
    /// The end, without a close frame.
    Lost,
}

impl Socket {
    /// Opens one and reads the greeting.
    pub async fn open(https: SocketAddr) -> Socket {
        Socket::try_open(https).await.unwrap()
    }

    /// Like [`Socket::open`], for a proxy that may refuse.
    pub async fn try_open(https: SocketAddr) -> Result<Socket, Error> {
        let stream = connect(https, &Offer::h1(HOST)).await?;
        let handshake = tokio_tungstenite::client_async(format!("wss://{HOST}/ws"), stream);
        let (stream, _) = within("websocket handshake", handshake).await?;
        let mut socket = Socket {
            stream,
            upstream: String::new(),
        };
        match socket.receive().await {
            Received::Text(name) => socket.upstream = name,
            other => panic!("{other:?} instead of a greeting"),
        }
        Ok(socket)
    }

    /// Sends a text.
    pub async fn send(&mut self, text: &str) -> Result<(), Error> {
        within("websocket send", self.stream.send(Message::text(text))).await
    }

    /// The next text, or the end.
    pub async fn receive(&mut self) -> Received {
        loop {
            match within("websocket message", self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Received::Text(text.to_string()),
                Some(Ok(Message::Close(frame))) => {
                    // Our own close frame is owed, and goes out with this.
                    self.stream.flush().await.ok();
                    return Received::Close(frame.map(|frame| u16::from(frame.code)));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Received::Lost,
            }
        }
    }

    /// Sends a text that must come back.
    pub async fn echo(&mut self, text: &str) {
        self.send(text).await.unwrap();
        assert_eq!(self.receive().await, Received::Text(text.to_owned()));
    }

    /// Closes properly and waits for the answer.
    pub async fn close(mut self) -> Received {
        within("websocket close", self.stream.close(None))
            .await
            .unwrap();
        self.receive().await
    }
}
