//! What one peer can hold is bounded, by default and by configuration.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use crate::support::client::tls::{Offer, connect};
use crate::support::client::websocket::Socket;
use crate::support::{H1, H2, HOST, Stage, eventually, within};

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn_and_the_others_go_on() {
    let stage = Stage::with(|config| {
        config.set("limits", "connections", "5");
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut client = stage.h1().await;
        assert_eq!(client.get("/").await.status, 200);
        held.push(client);
    }
    let https = stage.proxy.https();
    let mut sixth = tokio::spawn(async move { connect(https, &Offer::h1(HOST)).await });
    for client in &mut held {
        assert_eq!(client.get("/").await.status, 200);
    }
    eventually("it is counted", async || {
        stage
            .proxy
            .metrics()
            .await
            .contains(r#"rejects_total{limit="connections"}"#)
    })
    .await;
    assert!(!sixth.is_finished());
    held.pop();
    let stream = within("its turn", &mut sixth).await.unwrap().unwrap();
    assert_eq!(H1::over(stream).get("/").await.status, 200);
}

#[tokio::test]
async fn tunnels_beyond_the_limit_are_answered_503() {
    let stage = Stage::with(|config| {
        config.set("limits", "tunnels", "1");
    })
    .await;
    let mut first = stage.websocket().await;
    let second = Socket::try_open(stage.proxy.https()).await;
    assert!(second.is_err_and(|error| error.to_string().contains("503")));
    first.echo("still here").await;
    first.close().await;
    eventually("there is room again", async || {
        Socket::try_open(stage.proxy.https()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_closed_in_good_order_after_its_last_request() {
    let stage = Stage::with(|config| {
        config.set("limits", "requests_per_connection", "3");
    })
    .await;
    let mut client = stage.h1().await;
    for _ in 0..2 {
        assert_ne!(client.get("/").await.header("connection"), Some("close"));
    }
    assert_eq!(client.get("/").await.header("connection"), Some("close"));
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_of() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "client_stall", r#""500ms""#);
    })
    .await;
    let mut stuck = stage.h1().await;
    stuck
        .send(format!(
            "GET /size?n=500000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    assert_eq!(stuck.reader.head().await.status, 200);
    let h2 = stage.h2().await;
    let (response, mut body) = h2
        .begin(H2::to("/size?n=500000000").body(()).unwrap())
        .await
        .unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    let stuck_stream = within("the head", response).await.unwrap();
    stage.proxy.wait_until_idle().await;
    drop((stuck, stuck_stream));
}

#[tokio::test]
async fn a_client_that_does_not_send_its_body_is_answered_408() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "client_stall", r#""500ms""#);
    })
    .await;
    let mut client = stage.h1().await;
    client
        .send(format!(
            "POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10\r\n\r\nhalf"
        ))
        .await;
    assert_eq!(client.response("POST").await.status, 408);
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn a_slow_upstream_is_not_held_against_a_client_that_waits_to_send() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "client_stall", r#""1s""#);
    })
    .await;
    let mut client = stage.h1().await;
    // More than all buffers on the way take; the upstream reads none of it for longer than a client may stall.
    let body = vec![0; 64 << 20];
    let head = format!(
        "POST /late-sink?ms=3000 HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await;
    let mut writer = client.writer;
    let sending = tokio::spawn(async move {
        writer.write_all(&body).await.ok();
        writer
    });
    let response = client.reader.response("POST").await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "67108864")
    );
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn a_burst_of_cancelled_streams_hurts_nobody_else() {
    const STREAMS: usize = 2000;
    let stage = Stage::start().await;
    let before = stage.proxy.memory_peak();
    let hostile = stage.h2().await;
    for _ in 0..STREAMS {
        // The connection may be taken away in the middle of it.
        let Ok(begun) = hostile
            .begin(H2::to("/slow?ms=1000").body(()).unwrap())
            .await
        else {
            break;
        };
        drop(begun);
    }
    assert_eq!(stage.h2().await.get("/").await.text(), "blue");
    assert_eq!(stage.who_answers().await, "blue");
    drop(hostile);
    stage.proxy.wait_until_idle().await;
    assert!(stage.proxy.memory_growth(before) < 64 << 20);
}

#[tokio::test]
async fn connections_that_never_ask_anything_do_not_keep_others_out() {
    let stage = Stage::with(|config| {
        config.handshake_timeout("1s").head_timeout("1s");
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(
            tokio::net::TcpStream::connect(stage.proxy.https())
                .await
                .unwrap(),
        );
        silent.push(
            tokio::net::TcpStream::connect(stage.proxy.http())
                .await
                .unwrap(),
        );
    }
    assert_eq!(stage.who_answers().await, "blue");
    for mut stream in silent {
        let mut rest = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
        // However it is closed, it is closed.
        tokio::time::timeout(Duration::from_secs(30), end)
            .await
            .unwrap()
            .ok();
    }
}

#[tokio::test]
async fn both_families_of_addresses_are_listened_on() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6: not checked");
        return;
    }
    let stage = Stage::with(|config| {
        config.set("listen", "https", r#"["127.0.0.1:0", "[::1]:0"]"#);
    })
    .await;
    let status = stage.proxy.done("status").await;
    let six: std::net::SocketAddr = status["listen"]["https"][1]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(six.is_ipv6());
    let stream = connect(six, &Offer::h1(HOST)).await.unwrap();
    crate::support::H1::over(stream).get("/reflect").await;
    assert_eq!(
        stage.blue.last_seen("/reflect").header("x-forwarded-for"),
        Some("::1")
    );
    assert_eq!(stage.who_answers().await, "blue");
}
