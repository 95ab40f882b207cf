//! Reads requests from one connection, strictly: what RFC 9112 forbids a sender to send is a fault.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Seen;

/// One connection from the proxy.
pub struct Connection {
    pub stream: TcpStream,
    /// Read and not used yet.
    pub buffer: BytesMut,
    number: usize,
}

/// Why there is nothing more to read.
pub enum End {
    /// The other side has gone, which it may.
    Gone,
    /// It has sent what it must not.
    Fault(String),
}

/// What is left of a request body.
#[derive(Debug)]
pub enum Body {
    Length(usize),
    Chunked { left: usize },
    Ended,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

// === impl Connection ===

impl Connection {
    pub fn new(stream: TcpStream, number: usize) -> Connection {
        Connection {
            stream,
            buffer: BytesMut::new(),
            number,
        }
    }

    /// Reads a head; `None` if the connection was closed between two requests.
    pub async fn read_head(&mut self) -> Result<Option<(Seen, Body)>, End> {
        while !contains(&self.buffer, b"\r\n\r\n") {
            let is_between = self.buffer.is_empty();
            match self.fill().await {
                Err(End::Gone) if is_between => return Ok(None),
                other => other?,
            }
        }
        let end = find(&self.buffer, b"\r\n\r\n").unwrap_or_default() + 4;
        let head = self.buffer.split_to(end);
        let head = String::from_utf8_lossy(&head).into_owned();
        let seen = parse(&head, self.number).ok_or_else(|| fault("not a request head", &head))?;
        let body = framing(&seen)?;
        Ok(Some((seen, body)))
    }

    /// The next piece of a body; `None` at its end.
    pub async fn next_piece(&mut self, body: &mut Body) -> Result<Option<Bytes>, End> {
        loop {
            match body {
                Body::Ended | Body::Length(0) => return Ok(None),
                Body::Length(left) | Body::Chunked { left } if *left > 0 => {
                    if self.buffer.is_empty() {
                        self.fill().await?;
                    }
                    let count = self.buffer.len().min(*left);
                    *left -= count;
                    let piece = self.buffer.split_to(count).freeze();
                    if let Body::Chunked { left: 0 } = body {
                        self.expect_line_end().await?;
                    }
                    return Ok(Some(piece));
                }
                Body::Length(_) => return Ok(None),
                Body::Chunked { left } => {
                    let line = self.read_line().await?;
                    *left = usize::from_str_radix(&line, 16)
                        .map_err(|_| fault("not a chunk size", &line))?;
                    if *left == 0 {
                        *body = Body::Ended;
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The trailers after the last chunk, if there are any, and the empty line that ends them.
    pub async fn read_trailers(&mut self) -> Result<(), End> {
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(());
            }
            field(&line).ok_or_else(|| fault("not a trailer", &line))?;
        }
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), End> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// Waits until the other side closes; what it sends is dropped.
    pub async fn wait_for_close(&mut self) {
        while self.fill().await.is_ok() {
            self.buffer.clear();
        }
    }

    async fn read_line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn expect_line_end(&mut self) -> Result<(), End> {
        let line = self.read_line().await?;
        if line.is_empty() {
            return Ok(());
        }
        Err(fault("a chunk longer than its size", &line))
    }

    async fn fill(&mut self) -> Result<(), End> {
        self.buffer.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(End::Gone),
            _ => Ok(()),
        }
    }
}

fn parse(head: &str, connection: usize) -> Option<Seen> {
    let mut lines = head.strip_suffix("\r\n\r\n")?.split("\r\n");
    let line = lines.next()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let is_request = words.next()? == "HTTP/1.1"
        && words.next().is_none()
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_uppercase())
        && (target.starts_with('/') || target == "*");
    let headers = lines.map(field).collect::<Option<Vec<_>>>()?;
    is_request.then(|| Seen {
        head: head.to_owned(),
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        connection,
    })
}

/// `Name: value` without bare CR or LF, blanks in the name or folding.
fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let is_field = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'(')
        && !value.bytes().any(|b| b == b'\r' || b == b'\n' || b == 0);
    is_field.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
}

fn framing(seen: &Seen) -> Result<Body, End> {
    let lengths = seen.all("content-length");
    let encodings = seen.all("transfer-encoding");
    if seen.all("host").len() != 1 {
        return Err(fault("not one Host", &seen.head));
    }
    match (lengths.as_slice(), encodings.as_slice()) {
        ([], []) => Ok(Body::Ended),
        ([length], []) => match length.parse() {
            Ok(length) => Ok(Body::Length(length)),
            Err(_) => Err(fault("not a length", &seen.head)),
        },
        ([], ["chunked"]) => Ok(Body::Chunked { left: 0 }),
        _ => Err(fault("framed in more than one way", &seen.head)),
    }
}

fn fault(what: &str, text: &str) -> End {
    let shown: String = text.chars().take(400).collect();
    End::Fault(format!("{what}: {shown:?}"))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    find(bytes, wanted).is_some()
}

/// Where `wanted` begins.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
