//! The caller's end of the control socket: one request, event lines, one reply.
//!
//! Owns the connection for one call. Called by the CLI verbs; the daemon never calls itself through it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::reply::Reply;
use crate::wire::Request;

/// The longest reply or event line: a whole `history`.
pub const REPLY_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How long connecting and sending may take. Waiting for the reply is not bounded here: a drain takes what it takes.
pub const SEND_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or this user may not connect. The CLI exits with 69.
    #[error("cannot reach the daemon at {path}")]
    NotReachable {
        /// The socket.
        path: PathBuf,
        /// What the connect said.
        source: io::Error,
    },
    /// The connection broke. What was asked for may have been done: look at `status`.
    #[error("lost the daemon at {path} before it replied")]
    Lost {
        /// The socket.
        path: PathBuf,
        /// What broke; an end of file if the daemon closed.
        source: io::Error,
    },
    /// What came back is no reply.
    #[error("the daemon at {path} sent what is no reply: {line:?}")]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// The beginning of what came.
        line: String,
    },
}

/// Sends one request and waits for its reply. `on_event` sees each event line, for example
/// `{"event":"draining","in_flight":3}`; there are none unless `request.progress`.
///
/// # Errors
/// Every variant of [`ClientError`]. A reply that says `"ok":false` is a reply, not an error.
///
/// # Cancel safety
/// A dropped call closes the connection: a switch that still probes is abandoned, one that is being stored goes on.
pub async fn call(
    socket: &Path,
    request: &Request,
    mut on_event: impl FnMut(&Map<String, Value>),
) -> Result<Reply, ClientError> {
    let not_reachable = |source| ClientError::NotReachable {
        path: socket.to_owned(),
        source,
    };
    let lost = |source| ClientError::Lost {
        path: socket.to_owned(),
        source,
    };
    let connected = timeout(SEND_DEADLINE, UnixStream::connect(socket)).await;
    let mut stream = connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(not_reachable)?;
    let line = request.to_json_line();
    // A daemon that is too busy to take the request says so and closes; its words are worth more than the broken pipe.
    let sent = timeout(SEND_DEADLINE, stream.write_all(line.as_bytes()))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut lines = BufReader::new(stream);
    loop {
        let line = read_line(&mut lines).await.map_err(lost)?;
        if line.is_empty() {
            let end = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(lost(sent.err().unwrap_or(end)));
        }
        if let Some(reply) = Reply::parse(&line) {
            return Ok(reply);
        }
        match serde_json::from_str::<Map<String, Value>>(&line) {
            Ok(event) if event.contains_key("event") => on_event(&event),
            _ => {
                return Err(ClientError::Protocol {
                    path: socket.to_owned(),
                    line: line.chars().take(200).collect(),
                });
            }
        }
    }
}

async fn read_line(lines: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    lines.take(REPLY_BYTES_MAX).read_line(&mut line).await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::wire::Verb;

    async fn answered_with(answer: &'static str) -> (Result<Reply, ClientError>, Vec<String>) {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        let daemon = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("request");
            stream.write_all(answer.as_bytes()).await.expect("answer");
        });
        let mut events = Vec::new();
        let reply = call(&path, &Request::new(Verb::Status), |event| {
            events.push(event["event"].to_string());
        })
        .await;
        daemon.await.expect("daemon");
        (reply, events)
    }

    #[tokio::test]
    async fn events_come_before_the_reply() {
        let (reply, events) =
            answered_with("{\"event\":\"gating\"}\n{\"event\":\"published\"}\n{\"ok\":true}\n")
                .await;
        assert!(reply.expect("reply").ok());
        assert_eq!(events, ["\"gating\"", "\"published\""]);
    }

    #[tokio::test]
    async fn a_daemon_that_goes_away_is_not_taken_for_a_reply() {
        assert!(matches!(
            answered_with("").await.0,
            Err(ClientError::Lost { .. })
        ));
        assert!(matches!(
            answered_with("{\"ok\":tr").await.0,
            Err(ClientError::Protocol { .. })
        ));
        assert!(matches!(
            answered_with("hello\n").await.0,
            Err(ClientError::Protocol { .. })
        ));
    }

    #[tokio::test]
    async fn no_daemon_is_said_to_be_unreachable() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("socket");
        let error = call(&path, &Request::new(Verb::Status), |_| {}).await;
        assert!(matches!(error, Err(ClientError::NotReachable { .. })));
    }
}
