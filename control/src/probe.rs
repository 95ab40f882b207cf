//! One probe: one health request to one upstream, and what it says.
//!
//! Owns the request, the deadline and the resolving of names. Only the expected status is good; redirects are answers
//! like any other. Called by the prober (all the time) and the gate (before a cutover).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::table::HealthCheck;
use crate::upstream::Upstream;

/// The largest response head that a probe reads.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a probe was not good. The text follows the upstream's address: `127.0.0.1:4001 answered 500 where ...`.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Another status than the expected one.
    #[error("answered {got} where {expected} is expected")]
    Status {
        /// What came.
        got: u16,
        /// What should have come.
        expected: u16,
    },
    /// Connecting, sending and the head of the answer took too long.
    #[error("did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// No connection.
    #[error("cannot be connected to: {0}")]
    Connect(io::Error),
    /// The name stands for no address.
    #[error("cannot be resolved: {0}")]
    Resolve(io::Error),
    /// The connection broke, or what came is not HTTP.
    #[error("did not answer in HTTP: {0}")]
    Http(hyper::Error),
    /// The configured path, host or method make no request.
    #[error("cannot be asked: {0}")]
    Request(#[from] http::Error),
}

/// Asks once. The addresses of a name are refreshed on the way.
///
/// # Errors
/// Whatever is not the expected status within the check's timeout.
///
/// # Cancel safety
/// Dropping it drops the connection.
pub async fn probe(upstream: &Upstream, check: &HealthCheck) -> Result<(), ProbeError> {
    let answer = timeout(check.timeout, ask(upstream, check));
    let got = answer
        .await
        .unwrap_or(Err(ProbeError::TimedOut(check.timeout)))?;
    if got == check.expect {
        return Ok(());
    }
    Err(ProbeError::Status {
        got,
        expected: check.expect,
    })
}

async fn ask(upstream: &Upstream, check: &HealthCheck) -> Result<u16, ProbeError> {
    refresh_addresses(upstream).await?;
    let stream = connect(&upstream.addresses.load()).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ProbeError::Http)?;
    let request = http::Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(http::header::HOST, &check.host)
        .header(http::header::USER_AGENT, "mana-proxy-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request);
    tokio::pin!(response, connection);
    // The connection does the reading and writing; it may end with the answer already there.
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        _ = &mut connection => response.await,
    };
    response
        .map(|response| response.status().as_u16())
        .map_err(ProbeError::Http)
}

async fn refresh_addresses(upstream: &Upstream) -> Result<(), ProbeError> {
    if upstream.address.parse::<SocketAddr>().is_ok() && !upstream.addresses.load().is_empty() {
        return Ok(());
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host(&upstream.address)
        .await
        .map_err(ProbeError::Resolve)?
        .collect();
    if found.is_empty() {
        return Err(ProbeError::Resolve(io::ErrorKind::NotFound.into()));
    }
    if **upstream.addresses.load() != found {
        upstream.addresses.store(Arc::new(found));
    }
    Ok(())
}

/// The first address that accepts, in their order.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, ProbeError> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ProbeError::Connect(last))
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
