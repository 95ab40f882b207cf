//! Starting and stopping, without anybody's request being dropped.

use tokio::net::TcpStream;

use crate::support::client::websocket::Received;
use crate::support::proxy::Home;
use crate::support::{ConfigBuilder, H1, H2, HOST, Stage, Upstream, eventually, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n";

#[tokio::test]
async fn sigterm_lets_requests_finish_and_then_ends_with_0() {
    let mut stage = Stage::start().await;
    let mut h1 = stage.h1().await;
    h1.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    let h2 = stage.h2().await;
    let (response, mut body) = h2.begin(H2::to("/hold").body(()).unwrap()).await.unwrap();
    body.send_data(bytes::Bytes::new(), true).unwrap();
    stage.blue.wait_for("/hold", 2).await;
    let https = stage.proxy.https();
    stage.proxy.signal("TERM");
    eventually("new connections are refused", async || {
        TcpStream::connect(https).await.is_err()
    })
    .await;
    stage.blue.release();
    let over_h1 = h1.response("GET").await;
    assert_eq!(over_h1.text(), "blue");
    assert_eq!(over_h1.header("connection"), Some("close"));
    let over_h2 = within("the h2 response", crate::support::client::read(response))
        .await
        .unwrap();
    assert_eq!(over_h2.text(), "blue");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    eventually("the h2 connection is closed", async || h2.is_closed()).await;
}

#[tokio::test]
async fn a_connection_that_is_idle_at_sigterm_may_ask_once_more() {
    let mut stage = Stage::start().await;
    let mut idle = stage.h1().await;
    assert_eq!(idle.get("/").await.status, 200);
    let https = stage.proxy.https();
    // Something in flight, so that the process is still there.
    let mut busy = stage.h1().await;
    busy.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    stage.proxy.signal("TERM");
    eventually("new connections are refused", async || {
        TcpStream::connect(https).await.is_err()
    })
    .await;
    // Either it was told to go, or it is served and told to go. What it must not be is left without an answer.
    if idle.try_send(GET.as_bytes()).await.is_ok() {
        match idle.reader.try_response("GET").await {
            Ok(response) => assert_eq!(response.header("connection"), Some("close")),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof),
        }
    }
    stage.blue.release();
    assert_eq!(busy.response("GET").await.text(), "blue");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_daemon_ends_at_once_whatever_its_deadline() {
    let mut stage = Stage::with(|config| {
        config.shutdown_deadline("10m");
    })
    .await;
    let mut idle = stage.h1().await;
    idle.get("/").await;
    let h2 = stage.h2().await;
    h2.get("/").await;
    stage.proxy.signal("TERM");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_does_not_finish_is_ended_by_the_deadline() {
    let mut stage = Stage::with(|config| {
        config.shutdown_deadline("500ms");
    })
    .await;
    let mut stuck = stage.h1().await;
    stuck
        .send(format!("GET /hang HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hang", 1).await;
    let mut socket = stage.websocket().await;
    stage.proxy.signal("TERM");
    assert_eq!(socket.receive().await, Received::Close(Some(1001)));
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_stopped_daemon_takes_its_socket_with_it() {
    let mut stage = Stage::start().await;
    stage.proxy.signal("TERM");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    assert!(!stage.proxy.socket().exists());
    stage.proxy.restart(&[]).await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_left_running() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (blue, green) = (
        Upstream::start("blue").await,
        Upstream::start("green").await,
    );
    let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
    config.set("listen", "https", &format!("[{address:?}]"));
    let home = Home::new(&config);
    let output = home.run(&["run", "--config", "mana-proxy.toml"]).await;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&address), "{said}");
}

#[tokio::test]
async fn check_finds_every_fault_and_binds_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut config = ConfigBuilder::new(&["127.0.0.1:4000"], &["127.0.0.1:4001"]);
    config.set("listen", "https", &format!("[{address:?}]"));
    let home = Home::new(&config);
    let output = home.run(&["check", "--config", "mana-proxy.toml"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    config
        .site()
        .set("hots", "1")
        .set("initial", r#""red""#)
        .drain("fast", "1s");
    home.write_config(&config.text());
    let output = home.run(&["check", "--config", "mana-proxy.toml"]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for fault in ["hots", "red", "fast", "mana-proxy.toml"] {
        assert!(said.contains(fault), "{fault} in {said}");
    }
    let output = home.run(&["run", "--config", "mana-proxy.toml"]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[tokio::test]
async fn the_daemon_serves_both_its_ports_from_the_first_status_on() {
    let stage = Stage::start().await;
    let mut client = H1::plain(stage.proxy.http()).await;
    client.send(GET).await;
    assert_eq!(client.response("GET").await.status, 301);
    assert_eq!(stage.who_answers().await, "blue");
}
