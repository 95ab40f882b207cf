//! What the process as a whole may have: handshakes, requests in an upstream, file descriptors.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::client::tls::{Offer, connect};
use crate::support::proxy::Home;
use crate::support::{ConfigBuilder, H1, H2, HOST, Stage, Upstream, eventually, within};

#[tokio::test]
async fn the_oldest_handshake_gives_way_to_a_new_one() {
    let stage = Stage::with(|config| {
        config
            .set("limits", "handshakes", "2")
            .handshake_timeout("10m");
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let tcp = TcpStream::connect(stage.proxy.https()).await.unwrap();
        idle.push(tcp);
    }
    // All three have begun, on whatever worker, before the next one comes.
    eventually("one gave way", async || {
        stage.proxy.rejects("handshakes").await == 1
    })
    .await;
    assert_eq!(stage.who_answers().await, "blue");
    eventually("another gave way", async || {
        stage.proxy.rejects("handshakes").await == 2
    })
    .await;
    // Workers begin them in whatever order; two of the three are at their end.
    let mut ended = tokio::task::JoinSet::new();
    for mut tcp in idle {
        ended.spawn(async move { tcp.read_to_end(&mut Vec::new()).await.ok() });
    }
    for _ in 0..2 {
        within("the end of one", ended.join_next()).await;
    }
    assert_eq!(ended.len(), 1);
}

/// How many wait for a place in blue.
async fn queue(stage: &Stage) -> u64 {
    let site = stage.proxy.site().await;
    site["slots"]["blue"]["upstreams"][0]["queued"]
        .as_u64()
        .unwrap()
}

/// One request is served at a time and one waits.
fn narrow(config: &mut ConfigBuilder) {
    config
        .set("limits", "in_flight_per_upstream", "1")
        .set("limits", "queue_per_upstream", "1");
}

async fn held(stage: &Stage) -> tokio::task::JoinHandle<crate::support::Response> {
    let mut client = stage.h1().await;
    let request = tokio::spawn(async move { client.get("/hold").await });
    eventually("it is in the upstream", async || stage.blue.requests() > 0).await;
    request
}

#[tokio::test]
async fn a_busy_upstream_has_a_queue_and_the_queue_has_an_end() {
    let stage = Stage::with(|config| {
        narrow(config);
        config.set("timeouts", "queue_wait", r#""10m""#);
    })
    .await;
    let first = held(&stage).await;
    // Which of the two comes first is theirs to settle: one waits, the other is turned away.
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let mut client = stage.h1().await;
        clients.spawn(async move { client.get("/").await });
    }
    let response = within("the answer to one", clients.join_next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("5"));
    assert_eq!(stage.blue.requests(), 1);
    assert_eq!(stage.proxy.rejects("queue_per_upstream").await, 1);
    stage.blue.release();
    assert_eq!(first.await.unwrap().text(), "blue");
    let response = within("the turn of the other", clients.join_next()).await;
    assert_eq!(response.unwrap().unwrap().text(), "blue");
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn a_wait_in_the_queue_has_a_deadline() {
    let stage = Stage::with(|config| {
        narrow(config);
        config.set("timeouts", "queue_wait", r#""100ms""#);
    })
    .await;
    let first = held(&stage).await;
    let late = stage.h1().await.get("/").await;
    assert_eq!((late.status, late.header("retry-after")), (503, Some("5")));
    // The count may come a moment after the answer.
    eventually("it is counted", async || {
        stage.proxy.rejects("queue_wait").await == 1
    })
    .await;
    stage.blue.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn who_leaves_the_queue_gives_its_place_to_the_next() {
    let stage = Stage::with(|config| {
        narrow(config);
        config.set("timeouts", "queue_wait", r#""10m""#);
    })
    .await;
    let first = held(&stage).await;
    let queue_is_full = async || stage.h1().await.get("/").await.status == 503;
    // An HTTP/1 client that closes, then an HTTP/2 client that resets its stream.
    let mut h1 = stage.h1().await;
    h1.send(format!("GET /left HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    eventually("it waits", async || queue(&stage).await == 1).await;
    assert!(queue_is_full().await);
    drop(h1);
    eventually("it has left", async || queue(&stage).await == 0).await;
    let h2 = stage.h2().await;
    let (_response, mut body) = h2.begin(H2::to("/left").body(()).unwrap()).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    eventually("it waits", async || queue(&stage).await == 1).await;
    assert!(queue_is_full().await);
    body.send_reset(h2::Reason::CANCEL);
    eventually("it has left", async || queue(&stage).await == 0).await;
    stage.blue.release();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(stage.who_answers().await, "blue");
    assert_eq!(stage.blue.requests(), 2, "those who left were not sent on");
}

#[tokio::test]
async fn tunnels_and_event_streams_take_no_place_of_requests() {
    let stage = Stage::with(narrow).await;
    let mut socket = stage.websocket().await;
    let mut events = stage.h1().await;
    events
        .send(format!(
            "GET /sse?n=1000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    assert_eq!(events.reader.head().await.status, 200);
    assert_eq!(stage.who_answers().await, "blue");
    socket.echo("still here").await;
    socket.close().await;
}

#[tokio::test]
async fn without_descriptors_connections_wait_and_everything_else_goes_on() {
    const LIMIT: u32 = 96;
    let blue = Upstream::start("blue").await;
    let green = Upstream::start("green").await;
    let config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
    let proxy = Home::new(&config).start_with_descriptors(LIMIT).await;
    proxy.wait_for_health("blue", true).await;
    proxy.wait_for_health("green", true).await;
    let before = connect(proxy.https(), &Offer::h1(HOST)).await.unwrap();
    let mut before = H1::over(before);
    assert_eq!(before.get("/").await.text(), "blue");
    let mut flood = Vec::new();
    for _ in 0..LIMIT * 2 {
        flood.push(TcpStream::connect(proxy.http()).await.unwrap());
    }
    eventually("it is noticed", async || {
        proxy.stderr().contains("file descriptors run out")
    })
    .await;
    // Connections, the control socket, probes, metrics and a whole cutover do not notice.
    for _ in 0..3 {
        assert_eq!(before.get("/").await.text(), "blue");
    }
    assert!(proxy.rejects("descriptors").await >= 1);
    let pings = blue.pings();
    eventually("probes go on", async || blue.pings() > pings + 3).await;
    let switched = proxy.done("switch green").await;
    assert_eq!(switched["drained"], true, "{switched}");
    assert_eq!(before.get("/").await.text(), "green");
    assert_eq!(proxy.site().await["slots"]["green"]["healthy"], true);
    // Those that waited have their turn when there is room.
    let mut last = H1::over(flood.pop().unwrap());
    drop(flood);
    let turn = tokio::time::timeout(Duration::from_secs(30), last.get("/"));
    assert_eq!(turn.await.unwrap().status, 301);
}
