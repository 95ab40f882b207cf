//! The client: the same bytes each time, one request after the other, every answer checked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::scenario::{Scenario, Speaks};
use crate::{HOST, Outcome};

/// Sends so many requests of a scenario.
///
/// # Errors
/// A connection or handshake that fails, an answer that is not 200 with a whole body, or one that takes
/// [`ANSWER_DEADLINE`].
pub async fn load(
    scenario: Scenario,
    address: SocketAddr,
    chain: &[u8],
    requests: u32,
) -> Outcome<()> {
    let body_bytes = scenario.body_bytes();
    let tls = |protocol: &[u8]| connector(chain, protocol);
    match scenario.speaks() {
        Speaks::Plain => {
            let mut stream = connect(address).await?;
            h1(&mut stream, body_bytes, requests).await
        }
        Speaks::H1 => {
            let mut stream = handshake(&tls(b"http/1.1")?, address).await?;
            h1(&mut stream, body_bytes, requests).await
        }
        Speaks::H2 => {
            let stream = handshake(&tls(b"h2")?, address).await?;
            h2(stream, body_bytes, requests).await
        }
        Speaks::H1Once => {
            let connector = tls(b"http/1.1")?;
            for _ in 0..requests {
                let mut stream = handshake(&connector, address).await?;
                h1(&mut stream, body_bytes, 1).await?;
                // The proxy reads the goodbye: the end of a connection belongs to its cost.
                stream.shutdown().await?;
            }
            Ok(())
        }
    }
}

async fn connect(address: SocketAddr) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn handshake(
    connector: &TlsConnector,
    address: SocketAddr,
) -> Outcome<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = connect(address).await?;
    let handshake = connector.connect(ServerName::try_from(HOST)?, stream);
    let stream = timeout(ANSWER_DEADLINE, handshake)
        .await
        .map_err(|_| "no handshake in time")??;
    match stream.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Full) => Ok(stream),
        other => Err(format!("the handshake was {other:?}, not a full one").into()),
    }
}

/// TLS 1.3 without resumption. The order of suites and groups is that of browsers.
fn connector(chain: &[u8], protocol: &[u8]) -> Outcome<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain)?)?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn h1<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    body_bytes: usize,
    requests: u32,
) -> Outcome<()> {
    let mut answer = Vec::with_capacity(body_bytes + 4096);
    for _ in 0..requests {
        stream.write_all(REQUEST.as_bytes()).await?;
        stream.flush().await?;
        answer.clear();
        timeout(ANSWER_DEADLINE, whole(stream, body_bytes, &mut answer))
            .await
            .map_err(|_| "no answer in time")??;
    }
    Ok(())
}

/// Reads one response whose body has so many bytes.
async fn whole<S: AsyncRead + Unpin>(
    stream: &mut S,
    body_bytes: usize,
    answer: &mut Vec<u8>,
) -> Outcome<()> {
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err("the connection ended inside a response".into());
        }
        let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            let head = String::from_utf8_lossy(&answer[..head]);
            return Err(format!("not answered with 200: {head}").into());
        }
        if answer.len() >= head + 4 + body_bytes {
            return Ok(());
        }
    }
}

async fn h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    body_bytes: usize,
    requests: u32,
) -> Outcome<()> {
    // Windows of a browser's size, so that no answer waits for one.
    let (mut sender, connection) = h2::client::Builder::new()
        .initial_window_size(6 << 20)
        .initial_connection_window_size(15 << 20)
        .handshake::<_, Bytes>(stream)
        .await?;
    let driver = tokio::spawn(connection);
    for _ in 0..requests {
        let request = http::Request::get(format!("https://{HOST}/page?of=the+site"))
            .header("user-agent", AGENT)
            .header("accept", ACCEPT)
            .body(())?;
        sender = sender.ready().await?;
        let (response, _) = sender.send_request(request, true)?;
        let exchange = async {
            let (head, mut body) = response.await?.into_parts();
            let mut read = 0;
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                read += piece.len();
            }
            Ok::<_, h2::Error>((head.status, read))
        };
        match timeout(ANSWER_DEADLINE, exchange).await {
            Ok(Ok((status, read))) if status.as_u16() == 200 && read == body_bytes => {}
            other => return Err(format!("not answered with 200: {other:?}").into()),
        }
    }
    drop(sender);
    driver.await??;
    Ok(())
}

const REQUEST: &str = "GET /page?of=the+site HTTP/1.1\r\nHost: localhost\r\n\
     User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
     Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\r\n";
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
const ACCEPT: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// Under valgrind everything takes some fifty times as long.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
