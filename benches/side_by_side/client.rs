//! A client's connection that asks for the small file, one request at a time.
//!
//! Owns connecting, TLS and reading one response. For the loads that no generator makes: `pace` and `hold`.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use mana_certs::Bundle;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Outcome;
use crate::bed::HOST;

/// One open connection.
pub enum Client {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Where and how connections are opened.
pub struct Target {
    port: u16,
    connector: Option<TlsConnector>,
}

/// How far the bytes that were read reach.
#[derive(Debug, PartialEq)]
enum Reading {
    Unfinished,
    /// The response has as many bytes, head and body.
    Finished(usize),
}

// === impl Target ===

impl Target {
    /// `127.0.0.1:port`, with TLS if there is a chain to trust.
    ///
    /// A handshake asks for what the generators ask for: TLS 1.3, X25519 first, no session to resume.
    ///
    /// # Errors
    /// The chain cannot be read.
    pub fn new(port: u16, chain_and_key: Option<&Path>) -> Outcome<Target> {
        let connector = chain_and_key.map(connector).transpose()?;
        Ok(Target { port, connector })
    }

    /// Opens a connection from an address of this machine.
    pub async fn connect(&self, source: Ipv4Addr) -> Outcome<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket
            .connect((Ipv4Addr::LOCALHOST, self.port).into())
            .await?;
        stream.set_nodelay(true)?;
        Ok(match &self.connector {
            None => Client::Plain(stream),
            Some(connector) => {
                let name = ServerName::try_from(HOST)?;
                Client::Tls(Box::new(connector.connect(name, stream).await?))
            }
        })
    }
}

fn connector(chain_and_key: &Path) -> Outcome<TlsConnector> {
    let bundle = Bundle::from_files(HOST, chain_and_key, chain_and_key, &[HOST])?;
    let mut roots = RootCertStore::empty();
    for certificate in &bundle.certified.cert {
        roots.add(certificate.clone())?;
    }
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

// === impl Client ===

impl Client {
    /// Asks for the small file and reads all of it.
    ///
    /// # Errors
    /// The connection fails, or the answer is anything but 200 with a length.
    pub async fn get(&mut self) -> Outcome<()> {
        match self {
            Client::Plain(stream) => get(stream).await,
            Client::Tls(stream) => get(stream.as_mut()).await,
        }
    }

    /// Whether the other side has neither said anything nor closed, as the kernel knows it.
    pub fn is_at_rest(&self) -> bool {
        let stream = match self {
            Client::Plain(stream) => stream,
            Client::Tls(stream) => stream.get_ref().0,
        };
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(stream, &mut [0; 1], flags), Err(Errno::AGAIN))
    }
}

async fn get<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Outcome<()> {
    stream.write_all(REQUEST).await?;
    stream.flush().await?;
    let mut buffer = [0; RESPONSE_BYTES_MAX];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            more => filled += more,
        }
        match reading(&buffer[..filled])? {
            Reading::Finished(total) if total == filled => return Ok(()),
            Reading::Finished(_) => return Err("more came than was asked for".into()),
            Reading::Unfinished => {}
        }
    }
}

fn reading(bytes: &[u8]) -> Outcome<Reading> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        return Ok(Reading::Unfinished);
    };
    if response.code != Some(200) {
        return Err(format!("answered {}", response.code.unwrap_or(0)).into());
    }
    let length = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .ok_or("an answer without a length")?;
    let total = head + std::str::from_utf8(length.value)?.parse::<usize>()?;
    if total > RESPONSE_BYTES_MAX {
        return Err(format!("an answer of {total} bytes").into());
    }
    Ok(if bytes.len() < total {
        Reading::Unfinished
    } else {
        Reading::Finished(total)
    })
}

const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// The small file and any head.
const RESPONSE_BYTES_MAX: usize = 4096;

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_where_its_length_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";
        for end in 0..whole.len() {
            assert_eq!(reading(&whole[..end]).unwrap(), Reading::Unfinished);
        }
        assert_eq!(reading(whole).unwrap(), Reading::Finished(whole.len()));
    }

    #[test]
    fn anything_else_is_a_failure() {
        for text in [
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(reading(text.as_bytes()).is_err(), "{text}");
        }
    }
}
