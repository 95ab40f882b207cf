//! What makes a connection unfit for another request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A connection and the upstream's end of it.
async fn pair() -> (UpstreamIo, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let io = UpstreamIo::new(connected.expect("connect"), address);
    (io, accepted.expect("accept").0)
}

/// Whether the connection is clean once a refused upgrade was answered with this.
async fn is_clean_after(answer: &str) -> bool {
    const HEAD: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    let (mut io, mut upstream) = pair().await;
    io.begin_request();
    io.hand_out_head_alone();
    upstream
        .write_all(format!("{HEAD}{answer}").as_bytes())
        .await
        .expect("write");
    let mut head = vec![0; 1024];
    let count = io.read(&mut head).await.expect("read");
    assert_eq!(&head[..count], HEAD.as_bytes());
    io.is_clean()
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_make_the_connection_unfit_for_another_request() {
    assert!(is_clean_after("").await);
    assert!(!is_clean_after("HTTP/1.1 200 OK\r\n").await);
}
