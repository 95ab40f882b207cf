//! One page of the warm-up: a GET as the proxy would send it, read to its end.
//!
//! Owns the request. How many there are is in `warm_up`.

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The most that is read of a page; a longer one is an error, for it would warm up nothing else.
pub const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The status of a page, once it has come whole.
///
/// # Errors
/// There is no connection, or it broke.
///
/// # Cancel safety
/// Dropping it drops the connection.
pub async fn get(
    upstream: &str,
    host: &str,
    path: &str,
) -> Result<u16, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(upstream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async move {
        let request = http::Request::get(path)
            .header(http::header::HOST, host)
            .header(http::header::USER_AGENT, "mana-proxy/warm-up")
            // Else an app that insists on https answers with a redirect.
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", host)
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let mut body = Limited::new(answer.into_body(), PAGE_BYTES_MAX);
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(status)
    };
    // The connection ends when nobody asks any more; why it broke, if it did, the answer says.
    let (answer, _) = tokio::join!(asking, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Backend;

    #[tokio::test]
    async fn a_page_is_asked_for_and_read_to_its_end() {
        let backend = Backend::start(&[200, 503]).await;
        let address = backend.address();
        assert_eq!(get(&address, "mana.so", "/").await.expect("page"), 200);
        assert_eq!(get(&address, "mana.so", "/a?b=c").await.expect("page"), 503);
        let error = get("127.0.0.1:1", "mana.so", "/")
            .await
            .expect_err("refused");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
