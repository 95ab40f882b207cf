//! Faults that were found and mended, each shown to stay so. Those of HTTP/2 are in `regressions_h2.rs`.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::net::unix::pipe;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::support::client::tls::{Offer, connect_over};
use crate::support::{DEADLINE, H1, H2, HOST, Stage, eventually, pattern, within, within_time};

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_gets_the_whole_body() {
    /// More than all buffers on the way hold.
    const LENGTH: usize = 16 << 20;
    const PIECE_BYTES: usize = 16 * 1024;
    /// Pieces that are read slowly; the rest is read as fast as it comes.
    const PIECES: usize = 80;
    let stage = Stage::with(|config| {
        config.set("timeouts", "client_stall", r#""1s""#);
    })
    .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let tcp = within("connect", socket.connect(stage.proxy.https())).await;
    let tls = connect_over(tcp.unwrap(), &Offer::h1(HOST)).await.unwrap();
    let mut client = H1::over(tls);
    let get = format!("GET /size?n={LENGTH} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.send(get).await;
    assert_eq!(client.reader.head().await.status, 200);
    // 400 KiB a second: they take three times what a client may stall, and each of them a fraction of that.
    let mut ticks = interval(Duration::from_millis(40));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut body = Vec::with_capacity(LENGTH);
    for _ in 0..PIECES {
        ticks.tick().await;
        let piece = within("a piece", client.reader.exactly(PIECE_BYTES)).await;
        body.extend_from_slice(&piece.unwrap());
    }
    let rest = within("the rest", client.reader.exactly(LENGTH - body.len())).await;
    body.extend_from_slice(&rest.unwrap());
    assert!(body == pattern(LENGTH), "the body has changed");
    assert_eq!(stage.proxy.rejects("client_stall").await, 0);
}

#[tokio::test]
async fn a_tunnel_whose_upstream_has_closed_ends_though_its_client_does_not_close() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!(
            "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await;
    assert_eq!(client.reader.head().await.status, 101);
    client.reader.until("blue").await;
    let tunnels = async || stage.proxy.done("status").await["tunnels"].as_u64();
    assert_eq!(tunnels().await, Some(1));
    stage.blue.stop().await;
    assert!(client.closed().await.is_empty());
    eventually("the tunnel is over", async || tunnels().await == Some(0)).await;
    stage.proxy.wait_until_idle().await;
    drop(client);
}

#[tokio::test]
async fn a_cut_response_to_a_client_of_http_1_0_ends_in_a_reset() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!(
            "GET /diemid?chunked=1 HTTP/1.0\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    let head = client.reader.head().await;
    // Only the end of the connection ends this body.
    assert_eq!(head.header("content-length"), None);
    assert_eq!(head.header("transfer-encoding"), None);
    let end = loop {
        match within("the end", client.reader.exactly(1)).await {
            Ok(_) => {}
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn fields_that_differ_from_the_proxys_own_by_underscores_do_not_reach_the_upstream() {
    let stage = Stage::start().await;
    let forged = "X_Forwarded_For: 1.2.3.4\r\nx-forwarded_proto: http\r\nX_Real_IP: 1.2.3.4\r\n\
                  x_request_id: mine\r\nx_middleware_subrequest: middleware\r\nmy_own: kept\r\n";
    stage.h1().await.request("GET", "/h1", forged, b"").await;
    let over_h2 = forged.lines().fold(H2::to("/h2"), |to, line| {
        let (name, value) = line.split_once(": ").unwrap();
        to.header(name, value)
    });
    let client = stage.h2().await;
    client
        .request(over_h2.body(()).unwrap(), Bytes::new())
        .await;
    for path in ["/h1", "/h2"] {
        let seen = stage.blue.last_seen(path);
        let underscored = seen.headers.iter().filter(|(name, _)| name.contains('_'));
        let names: Vec<_> = underscored.map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["my_own"], "{path}");
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{path}");
    }
}

#[tokio::test]
async fn sigterm_is_heard_while_a_reload_hangs() {
    /// Half of what a reload may take.
    const SOON: Duration = Duration::from_secs(15);
    let mut stage = Stage::start().await;
    let path = stage.proxy.path().join("mana-proxy.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    stage.proxy.signal("HUP");
    // It can be opened for writing once somebody reads it.
    let opening = async {
        loop {
            match pipe::OpenOptions::new().open_sender(&path) {
                Ok(sender) => break sender,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let opened = timeout(DEADLINE, opening).await;
    // A test that fails shows the configuration, and must not wait for a pipe.
    fs::remove_file(&path).unwrap();
    stage.proxy.write_config(&config);
    let silent = opened.expect("the reload reads the configuration");
    stage.proxy.signal("TERM");
    let ended = within_time("the end of the process", SOON, stage.proxy.ended()).await;
    assert_eq!(ended.code(), Some(0));
    drop(silent);
}

#[tokio::test]
async fn a_fresh_connection_that_says_nothing_does_not_hold_up_a_stop() {
    let mut stage = Stage::with(|config| {
        config.head_timeout("10m").shutdown_deadline("10m");
    })
    .await;
    let plain = stage.plain().await;
    let tls = stage.h1().await;
    eventually("both are there", async || {
        stage.proxy.done("status").await["connections"] == 2
    })
    .await;
    stage.proxy.signal("TERM");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    drop((plain, tls));
}
