//! HTTP/2 by the `h2` crate.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::task::JoinHandle;

use super::h1::Io;
use super::{Head, Response};
use crate::support::{HOST, within};

/// A connection; it can be cloned, each clone sends streams of its own.
#[derive(Clone)]
pub struct H2 {
    sender: SendRequest<Bytes>,
    driver: std::sync::Arc<JoinHandle<Result<(), h2::Error>>>,
}

impl H2 {
    /// A connection over a stream whose ALPN was `h2`.
    pub async fn over(stream: impl Io + 'static) -> H2 {
        H2::with_windows(stream, 1 << 20, 4 << 20).await
    }

    /// Like [`H2::over`], for a stream that may be cut.
    pub async fn try_over(stream: impl Io + 'static) -> Result<H2, h2::Error> {
        H2::try_with_windows(stream, 1 << 20, 4 << 20).await
    }

    /// The same with windows of the test's choice, in bytes.
    pub async fn with_windows(
        stream: impl Io + 'static,
        of_streams: u32,
        of_connection: u32,
    ) -> H2 {
        let handshake = H2::try_with_windows(stream, of_streams, of_connection);
        handshake.await.unwrap()
    }

    async fn try_with_windows(
        stream: impl Io + 'static,
        of_streams: u32,
        of_connection: u32,
    ) -> Result<H2, h2::Error> {
        let handshake = h2::client::Builder::new()
            .initial_window_size(of_streams)
            .initial_connection_window_size(of_connection)
            .handshake(stream);
        let (sender, connection) = within("h2 handshake", handshake).await?;
        Ok(H2 {
            sender,
            driver: std::sync::Arc::new(tokio::spawn(connection)),
        })
    }

    /// `GET path` for [`HOST`].
    pub async fn get(&self, path: &str) -> Response {
        let request = H2::to(path).body(()).unwrap();
        self.request(request, Bytes::new()).await
    }

    /// The beginning of a request for [`HOST`].
    pub fn to(path: &str) -> http::request::Builder {
        Request::builder().uri(format!("https://{HOST}{path}"))
    }

    /// Any request.
    pub async fn request(&self, request: Request<()>, body: Bytes) -> Response {
        self.try_request(request, body).await.unwrap()
    }

    /// Like [`H2::request`], for a connection that may fail.
    pub async fn try_request(
        &self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<Response, h2::Error> {
        let what = format!("{} {} over h2", request.method(), request.uri());
        within(&what, self.exchange(request, body)).await
    }

    /// Sends a head and leaves the body to the caller.
    pub async fn begin(
        &self,
        request: Request<()>,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        sender.send_request(request, false)
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    async fn exchange(&self, request: Request<()>, body: Bytes) -> Result<Response, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let has_body = !body.is_empty();
        let (response, mut stream) = sender.send_request(request, !has_body)?;
        if has_body {
            stream.send_data(body, true)?;
        }
        read(response).await
    }
}

/// All of a response.
pub async fn read(mut response: h2::client::ResponseFuture) -> Result<Response, h2::Error> {
    let mut informational = Vec::new();
    while let Some(head) = poll_fn(|cx| response.poll_informational(cx)).await {
        let head = head?;
        informational.push(Head {
            status: head.status().as_u16(),
            version: "HTTP/2".to_owned(),
            headers: fields(head.headers()),
        });
    }
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Response {
        status: head.status.as_u16(),
        headers: fields(&head.headers),
        body: bytes.freeze(),
        trailers: fields(&trailers),
        informational,
    })
}

fn fields(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}
