//! What lives longer than a request: event streams, websockets, pipelines, trailers.

use tokio::io::AsyncWriteExt;

use crate::support::client::websocket::Received;
use crate::support::{H1, HOST, Stage, eventually, within};

#[tokio::test]
async fn an_event_arrives_long_before_its_stream_ends() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /sse HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    let head = client.reader.head().await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    // The stream has no end, so that having one event at all is having it early.
    client.reader.until("data: blue 0\n\n").await;
    client.reader.until("data: blue 3\n\n").await;
}

#[tokio::test]
async fn an_event_arrives_long_before_its_stream_ends_over_h2() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    let request = crate::support::H2::to("/sse").body(()).unwrap();
    let (response, mut body) = client.begin(request).await.unwrap();
    body.send_data(bytes::Bytes::new(), true).unwrap();
    let mut events = within("the head", response).await.unwrap().into_body();
    let first = within("an event", events.data()).await.unwrap().unwrap();
    assert!(first.starts_with(b"data: blue 0"), "{first:?}");
}

#[tokio::test]
async fn the_first_half_of_a_body_arrives_while_the_second_is_waited_for() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hold-body HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    client.reader.until("first").await;
    stage.blue.release();
    client.reader.until("after").await;
}

#[tokio::test]
async fn a_websocket_echoes_and_closes_properly() {
    let stage = Stage::start().await;
    let mut socket = stage.websocket().await;
    assert_eq!(socket.upstream, "blue");
    for number in 0..100 {
        socket.echo(&format!("message {number}")).await;
    }
    socket.echo(&"large ".repeat(20_000)).await;
    socket.echo(&"larger ".repeat(1_700_000)).await;
    assert!(matches!(socket.close().await, Received::Close(_)));
    stage.proxy.wait_until_idle().await;
    eventually("the upstream has seen the close", async || {
        stage.blue.websocket_ends().len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_websocket_whose_first_message_comes_with_the_handshake_loses_nothing() {
    let stage = Stage::start().await;
    for _ in 0..10 {
        let mut client = stage.h1().await;
        // A masked text frame, "hi", in the same write as the handshake.
        let mut bytes = websocket_handshake().into_bytes();
        bytes.extend_from_slice(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        client.send(&bytes).await;
        let head = client.reader.head().await;
        assert_eq!(head.status, 101);
        // The greeting, then the echo.
        let frames = within("frames", client.reader.exactly(6 + 4))
            .await
            .unwrap();
        assert_eq!(&frames[..], b"\x81\x04blue\x81\x02hi");
    }
}

#[tokio::test]
async fn a_tunnel_to_an_upstream_that_reads_slowly_and_says_nothing_goes_on() {
    const LENGTH: usize = 16 << 20;
    let stage = Stage::start().await;
    let H1 {
        mut reader,
        mut writer,
    } = stage.h1().await;
    let handshake = websocket_handshake().replace("/ws", &format!("/ws?swallow={LENGTH}"));
    writer.write_all(handshake.as_bytes()).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(reader.head().await.status, 101);
    let sending = tokio::spawn(async move {
        // One masked binary frame.
        let mut frame = vec![0x82, 0xff];
        frame.extend_from_slice(&(LENGTH as u64 - 14).to_be_bytes());
        frame.resize(LENGTH, 0);
        writer.write_all(&frame).await.unwrap();
        writer.flush().await.unwrap();
        writer
    });
    reader.until("swallowed").await;
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_refuses_is_an_ordinary_answer() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client.send(websocket_handshake().replace("/ws", "/")).await;
    let response = client.response("GET").await;
    assert_eq!((response.status, response.text().as_str()), (200, "blue"));
}

fn websocket_handshake() -> String {
    format!(
        "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 4\r\n\r\nbody");
    client
        .send([get("/size?n=3"), post, get("/"), get("/status?code=404")].concat())
        .await;
    assert_eq!(client.response("GET").await.body.len(), 3);
    assert_eq!(client.response("POST").await.text(), "body");
    assert_eq!(client.response("GET").await.text(), "blue");
    assert_eq!(client.response("GET").await.status, 404);
}

#[tokio::test]
async fn a_body_with_trailers_arrives_whole() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    assert_eq!(client.get("/trailers").await.text(), "body");
    assert_eq!(client.get("/").await.text(), "blue");
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        ))
        .await;
    assert_eq!(client.response("POST").await.text(), "abc");
    assert_eq!(client.get("/").await.text(), "blue");
    assert_eq!(stage.h2().await.get("/trailers").await.text(), "body");
}

#[tokio::test]
async fn trailers_of_an_answer_reach_a_client_of_http_2() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    for _ in 0..3 {
        let response = client.get("/trailers").await;
        assert_eq!(response.text(), "body");
        assert_eq!(
            response.trailers,
            [("x-checksum".to_owned(), "42".to_owned())]
        );
        // The next answer on the same upstream connection has none of its own, nor those of this one.
        assert!(client.get("/chunked?n=10").await.trailers.is_empty());
        assert!(client.get("/").await.trailers.is_empty());
    }
}
