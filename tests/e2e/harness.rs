//! The tests' own upstream and clients, without a proxy in between: what they are blind to, no test can see.

use std::net::SocketAddr;

use crate::support::{H1, Mode, Upstream, eventually, pattern};

async fn direct(upstream: &Upstream) -> H1 {
    let address: SocketAddr = upstream.address().parse().unwrap();
    H1::plain(address).await
}

#[tokio::test]
async fn the_upstream_answers_and_remembers() {
    let upstream = Upstream::start("alone").await;
    let mut client = direct(&upstream).await;
    assert_eq!(client.get("/").await.text(), "alone");
    let response = client
        .request("POST", "/echo", "x-test-id: 7\r\n", b"body")
        .await;
    assert_eq!(response.text(), "body");
    assert!(client.get("/size?n=100000").await.body == pattern(100_000));
    assert!(client.get("/chunked?n=100000").await.body == pattern(100_000));
    assert_eq!(
        client.get("/trailers").await.trailers,
        [("x-checksum".to_owned(), "42".to_owned())]
    );
    assert_eq!(client.get("/api/ping").await.text(), "pong");
    assert!(client.get("/close-delimited?n=10").await.body == pattern(10));
    assert_eq!(
        (
            upstream.requests(),
            upstream.connections(),
            upstream.pings()
        ),
        (6, 1, 1)
    );
    assert_eq!(upstream.ids()["7"], 1);
    assert_eq!(
        upstream.last_seen("/echo").header("content-length"),
        Some("4")
    );
}

#[tokio::test]
async fn the_upstream_stops_and_starts_again_at_the_same_address() {
    let upstream = Upstream::start("alone").await;
    let mut client = direct(&upstream).await;
    client.get("/").await;
    upstream.stop().await;
    assert!(client.closed().await.is_empty());
    let address: SocketAddr = upstream.address().parse().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    upstream.start_again().await;
    assert_eq!(direct(&upstream).await.get("/").await.text(), "alone");
    upstream.be(Mode::ClosingOnAccept);
    assert!(
        direct(&upstream)
            .await
            .try_request("GET", "/", "", b"")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_upstream_complains_about_what_no_proxy_should_send() {
    let table = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        // A body that was ended twice.
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n0\r\n\r\n",
    ];
    for bytes in table {
        let upstream = Upstream::start("alone").await;
        let mut client = direct(&upstream).await;
        client.send(bytes).await;
        client.closed().await;
        eventually("the fault", async || !upstream.faults().is_empty()).await;
        upstream.forgive();
    }
}
