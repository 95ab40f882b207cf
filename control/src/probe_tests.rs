//! What counts as a good probe, and what the upstream sees of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::check;

/// Answers every connection with these bytes; the first request comes back from the task.
async fn answering(answer: &'static [u8]) -> (Arc<Upstream>, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.expect("read");
        stream.write_all(answer).await.expect("write");
        // A body that never comes must not be waited for.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (Upstream::new(address.to_string(), vec![address]), server)
}

#[tokio::test]
async fn only_the_expected_status_is_good() {
    for (answer, part) in [
        (
            &b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"[..],
            "answered 500 where 200 is expected",
        ),
        (
            b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
            "answered 404",
        ),
        (
            b"HTTP/1.1 301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
            "answered 301",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered 204"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer in HTTP"),
    ] {
        let (upstream, server) = answering(answer).await;
        let error = probe(&upstream, &check())
            .await
            .expect_err("bad")
            .to_string();
        assert!(error.contains(part), "{error}");
        server.await.expect("server");
    }
}

#[tokio::test]
async fn a_good_probe_reads_the_head_only_and_says_who_it_is() {
    let (upstream, server) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
    probe(&upstream, &check()).await.expect("good");
    let request = server.await.expect("server").to_ascii_lowercase();
    assert!(
        request.starts_with("get /api/ping http/1.1\r\n"),
        "{request}"
    );
    for header in [
        "host: mana.so",
        "user-agent: mana-proxy-probe",
        "connection: close",
    ] {
        assert!(request.contains(header), "{request}");
    }
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    static HEAD: [u8; HEAD_BYTES_MAX + 8192] = {
        let mut head = [b'a'; HEAD_BYTES_MAX + 8192];
        let start = *b"HTTP/1.1 200 OK\r\nx: ";
        let mut i = 0;
        while i < start.len() {
            head[i] = start[i];
            i += 1;
        }
        head
    };
    let (upstream, server) = answering(&HEAD).await;
    assert!(matches!(
        probe(&upstream, &check()).await,
        Err(ProbeError::Http(_))
    ));
    server.abort();
}

#[tokio::test]
async fn who_does_not_listen_or_does_not_answer_is_not_good() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let upstream = Upstream::new(address.to_string(), vec![address]);
    let hasty = HealthCheck {
        timeout: Duration::from_millis(20),
        ..check()
    };
    assert!(matches!(
        probe(&upstream, &hasty).await,
        Err(ProbeError::TimedOut(_))
    ));
    drop(listener);
    assert!(matches!(
        probe(&upstream, &check()).await,
        Err(ProbeError::Connect(_))
    ));
}

#[tokio::test]
async fn a_name_is_resolved_at_each_probe() {
    let (upstream, server) = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = upstream.addresses.load()[0].port();
    let named = Upstream::new(format!("localhost:{port}"), Vec::new());
    probe(&named, &check()).await.expect("good");
    assert!(!named.addresses.load().is_empty());
    server.await.expect("server");
    let nowhere = Upstream::new("no-such-name.invalid:80", Vec::new());
    let patient = HealthCheck {
        timeout: Duration::from_secs(10),
        ..check()
    };
    assert!(probe(&nowhere, &patient).await.is_err());
}
