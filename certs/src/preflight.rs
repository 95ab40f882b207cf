//! The preflight: does a name lead to this proxy, before a CA is asked to find out.
//!
//! Owns one question: a random token is put on offer, and fetched as a CA would fetch it. A CA counts failed validations
//! and stops answering after a few; this costs nothing. It sees the network from here, not from the CA, so by default it
//! only warns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::challenge::{Challenges, HTTP_PATH};

/// What is done about a name that does not lead here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preflight {
    /// Nothing is looked at.
    Off,
    /// It is said, and the CA is asked all the same.
    #[default]
    Warn,
    /// The CA is not asked.
    Require,
}

/// Fetches a token of its own through `name`, at `via` or at port 80 of what the name resolves to.
///
/// # Errors
/// What was found instead, as a sentence.
pub(crate) async fn look(
    name: &str,
    via: Option<SocketAddr>,
    challenges: &Arc<Challenges>,
) -> Result<(), String> {
    let token = format!(
        "preflight-{:016x}{:016x}",
        fastrand::u64(..),
        fastrand::u64(..)
    );
    let expected = format!("{token}.preflight");
    let _offer = challenges.offer_http(&token, &expected);
    let answer = tokio::time::timeout(TIME, fetch(name, via, &token)).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
    // Not only at its end: an answer may be chunked, and what is asked for is in nobody else's answer.
    if answer.contains(&expected) {
        return Ok(());
    }
    let first = answer.lines().next().unwrap_or_default();
    let to = answer.lines().find_map(|line| {
        Some(line.split_once(':')?).filter(|(n, _)| n.eq_ignore_ascii_case("location"))
    });
    Err(match to {
        Some((_, location)) => format!(
            "something else answers: {} to {}",
            first.escape_debug(),
            location.trim().escape_debug()
        ),
        None => format!("something else answers: {}", first.escape_debug()),
    })
}

/// Looks at each name and says what was found: for an operator who wants to know at a start, not months later.
pub(crate) async fn say(names: Vec<String>, via: Option<SocketAddr>, challenges: Arc<Challenges>) {
    for name in names {
        match look(&name, via, &challenges).await {
            Ok(()) => tracing::info!(name, "the name leads to this proxy over http"),
            Err(reason) => tracing::warn!(
                name,
                reason,
                "the name does not seem to lead to this proxy over http; the next renewal may fail"
            ),
        }
    }
}

/// Asks `name` for a token that is not on offer, as a CA would, at `via` or at port 80 of what the name resolves to. The
/// whole answer: its words tell who gave it.
///
/// # Errors
/// Nobody answers; why, as a sentence.
pub async fn ask_at_port_80(name: &str, via: Option<SocketAddr>) -> Result<String, String> {
    let token = format!("preflight-{:016x}", fastrand::u64(..));
    let answer = tokio::time::timeout(TIME, fetch(name, via, &token)).await;
    answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn fetch(name: &str, via: Option<SocketAddr>, token: &str) -> Result<String, String> {
    let connected = match via {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((name, 80)).await,
    };
    let mut stream = connected.map_err(|error| format!("cannot connect: {error}"))?;
    let head =
        format!("GET {HTTP_PATH}{token} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    let failed = |error: std::io::Error| format!("the connection broke: {error}");
    stream.write_all(head.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const TIME: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    async fn found(answer: impl Fn(&str) -> String + Send + 'static) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 1000];
            let count = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8(head[..count].to_vec()).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let token = path.strip_prefix(HTTP_PATH).unwrap();
            stream.write_all(answer(token).as_bytes()).await.unwrap();
        });
        let challenges = Arc::new(Challenges::default());
        let found = look("mana.so", Some(via), &challenges).await;
        server.await.unwrap();
        assert_eq!(challenges.count(), 0);
        found
    }

    #[tokio::test]
    async fn only_the_token_itself_counts() {
        let good = found(|token| format!("HTTP/1.1 200 OK\r\n\r\n{token}.preflight")).await;
        assert_eq!(good, Ok(()));
        let chunked = found(|token| {
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n34\r\n{token}.preflight\r\n0\r\n\r\n"
            )
        });
        assert_eq!(chunked.await, Ok(()));
        let echo = found(|token| format!("HTTP/1.1 200 OK\r\n\r\nyou asked for {token}")).await;
        assert!(echo.is_err());
        let other = found(|_| "HTTP/1.1 200 OK\r\n\r\nhello".to_owned()).await;
        assert!(other.unwrap_err().contains("HTTP/1.1 200 OK"));
        let moved = "HTTP/1.1 301 Moved\r\nLocation: https://cdn.example/\r\n\r\n";
        let moved = found(move |_| moved.to_owned()).await;
        assert!(moved.unwrap_err().contains("to https://cdn.example/"));
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let via = listener.local_addr().unwrap();
        drop(listener);
        let challenges = Arc::new(Challenges::default());
        let found = look("mana.so", Some(via), &challenges).await;
        assert!(found.unwrap_err().contains("cannot connect"));
    }
}
