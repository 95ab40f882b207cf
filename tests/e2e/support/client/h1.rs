//! HTTP/1.1 as bytes: what is sent is written by the test, what comes back is taken apart strictly.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use super::{Response, one};
use crate::support::{HOST, within};

/// A connection.
pub struct H1 {
    /// Reads responses.
    pub reader: Reader,
    /// Writes requests.
    pub writer: WriteHalf<Box<dyn Io>>,
}

/// The reading half, which can be moved to a task of its own.
pub struct Reader {
    stream: ReadHalf<Box<dyn Io>>,
    buffer: BytesMut,
}

/// A response head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// `HTTP/1.1`, or `HTTP/2`.
    pub version: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

// === impl H1 ===

impl H1 {
    /// A connection without TLS.
    pub async fn plain(address: SocketAddr) -> H1 {
        let stream = within("connect", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        H1::over(stream)
    }

    /// A connection over a stream that is there already.
    pub fn over(stream: impl Io + 'static) -> H1 {
        let stream: Box<dyn Io> = Box::new(stream);
        let (reader, writer) = tokio::io::split(stream);
        let reader = Reader {
            stream: reader,
            buffer: BytesMut::new(),
        };
        H1 { reader, writer }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("send", self.try_send(bytes.as_ref())).await.unwrap();
    }

    /// Sends bytes as they are, if the other side takes them.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// `GET path` for [`HOST`].
    pub async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "", b"").await
    }

    /// Any request for [`HOST`]. `headers` are whole lines; a body brings its length along.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, headers, body).await.unwrap()
    }

    /// Like [`H1::request`], for a connection that may fail.
    pub async fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Response> {
        let length = match (method, body.len()) {
            ("GET" | "HEAD", 0) => String::new(),
            (_, length) => format!("content-length: {length}\r\n"),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{headers}{length}\r\n");
        let bytes = [head.as_bytes(), body].concat();
        let exchange = async {
            self.try_send(&bytes).await?;
            self.reader.try_response(method).await
        };
        within(&format!("{method} {path}"), exchange).await
    }

    /// The response to a request that was sent with this method.
    pub async fn response(&mut self, method: &str) -> Response {
        self.reader.response(method).await
    }

    /// Closes the sending side.
    pub async fn finish(&mut self) {
        self.writer.shutdown().await.unwrap();
    }

    /// Waits until the other side closes; what it still sends is given back.
    pub async fn closed(&mut self) -> Vec<u8> {
        within("close", self.reader.rest()).await
    }
}

// === impl Reader ===

impl Reader {
    /// The next head, informational ones included.
    pub async fn head(&mut self) -> Head {
        within("response head", self.try_head()).await.unwrap()
    }

    /// The next response to a request with this method.
    pub async fn response(&mut self, method: &str) -> Response {
        within("response", self.try_response(method)).await.unwrap()
    }

    /// Some more bytes of a body; the connection must not end.
    pub async fn some(&mut self) -> Bytes {
        if self.buffer.is_empty() {
            within("more of the body", self.fill()).await.unwrap();
        }
        self.buffer.split().freeze()
    }

    /// Reads until a text has been seen, and gives back everything up to the end of it.
    pub async fn until(&mut self, wanted: &str) -> String {
        within(wanted, self.try_until(wanted.as_bytes()))
            .await
            .unwrap()
    }

    /// Like [`Reader::until`], for a connection that may fail.
    pub async fn try_until(&mut self, wanted: &[u8]) -> io::Result<String> {
        loop {
            if let Some(start) = find(&self.buffer, wanted) {
                let bytes = self.buffer.split_to(start + wanted.len());
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            self.fill().await?;
        }
    }

    /// Like [`Reader::response`], for a connection that may fail.
    pub async fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut informational = Vec::new();
        let head = loop {
            let head = self.try_head().await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            informational.push(head);
        };
        let mut response = Response {
            status: head.status,
            informational,
            ..Response::default()
        };
        if method != "HEAD" && !matches!(head.status, 101 | 204 | 304) {
            (response.body, response.trailers) = self.body(&head).await?;
        }
        response.headers = head.headers;
        Ok(response)
    }

    async fn try_head(&mut self) -> io::Result<Head> {
        let text = self.try_until(b"\r\n\r\n").await?;
        parse(&text).ok_or_else(|| io::Error::other(format!("not a response head: {text:?}")))
    }

    async fn body(&mut self, head: &Head) -> io::Result<(Bytes, Vec<(String, String)>)> {
        let length = one(&head.headers, "content-length");
        let encoding = one(&head.headers, "transfer-encoding");
        match (length, encoding) {
            (Some(length), None) => {
                let length: usize = length.parse().map_err(io::Error::other)?;
                Ok((self.exactly(length).await?, Vec::new()))
            }
            (None, Some("chunked")) => self.chunks().await,
            (None, None) => Ok((self.rest().await.into(), Vec::new())),
            _ => Err(io::Error::other(format!("framed in two ways: {head:?}"))),
        }
    }

    async fn chunks(&mut self) -> io::Result<(Bytes, Vec<(String, String)>)> {
        let mut body = BytesMut::new();
        loop {
            let line = self.try_until(b"\r\n").await?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&self.exactly(size).await?);
            if &self.exactly(2).await?[..] != b"\r\n" {
                return Err(io::Error::other("a chunk longer than its size"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.try_until(b"\r\n").await?;
            match line.trim_end() {
                "" => return Ok((body.freeze(), trailers)),
                line => trailers.extend(field(line)),
            }
        }
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Bytes> {
        while self.buffer.len() < count {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await.is_ok() {}
        self.buffer.split().to_vec()
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

// === impl Head ===

impl Head {
    /// The one value of a header; a panic if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }
}

fn parse(text: &str) -> Option<Head> {
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let mut words = lines.next()?.splitn(3, ' ');
    let version = words.next()?.to_owned();
    let status = words.next()?.parse().ok()?;
    let headers = lines.map(field).collect::<Option<_>>()?;
    Some(Head {
        status,
        version,
        headers,
    })
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let is_name = !name.is_empty() && !name.contains([' ', '\t']);
    is_name.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
