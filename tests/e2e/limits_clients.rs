//! What one client can have: connections, requests, patience, frames. Who stays below is not touched.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{MissedTickBehavior, interval};

use crate::support::client::tls::{Offer, connect};
use crate::support::{ConfigBuilder, H1, H2, HOST, Stage, eventually, within};

/// Between two bytes of a client that trickles.
const TRICKLE: Duration = Duration::from_millis(20);

async fn from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    within("connect", socket.connect(address)).await.unwrap()
}

/// A client whose kernel keeps little of what it does not read.
async fn with_little_room(stage: &Stage) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let tcp = within("connect", socket.connect(stage.proxy.https()))
        .await
        .unwrap();
    crate::support::client::tls::connect_over(tcp, &Offer::h1(HOST))
        .await
        .unwrap()
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_others_have_theirs() {
    let stage = Stage::with(|config| {
        config.set("client", "unlimited", r#"["127.0.0.1"]"#).set(
            "limits",
            "connections_per_address",
            "2",
        );
    })
    .await;
    let http = stage.proxy.http();
    let mut first = H1::over(from("127.0.0.3", http).await);
    let mut second = H1::over(from("127.0.0.3", http).await);
    assert_eq!(first.get("/").await.status, 301);
    assert_eq!(second.get("/").await.status, 301);
    let mut third = from("127.0.0.3", http).await;
    let mut rest = Vec::new();
    within("the end", third.read_to_end(&mut rest)).await.ok();
    assert!(rest.is_empty(), "closed without an answer");
    assert_eq!(stage.proxy.rejects("connections_per_address").await, 1);
    let mut other = H1::over(from("127.0.0.4", http).await);
    assert_eq!(other.get("/").await.status, 301);
    assert_eq!(first.get("/").await.status, 301);
    drop(second);
    eventually("there is room again", async || {
        let mut again = H1::over(from("127.0.0.3", http).await);
        again.try_request("GET", "/", "", b"").await.is_ok()
    })
    .await;
}

fn five_requests(config: &mut ConfigBuilder) {
    config
        .set("client", "trusted", r#"["127.0.0.1"]"#)
        .set("limits", "requests_per_address", "1")
        .set("limits", "requests_burst", "5");
}

#[tokio::test]
async fn a_client_beyond_its_requests_is_answered_429_and_told_when_to_come_back() {
    let stage = Stage::with(|config| {
        five_requests(config);
        // One window for the whole test, however slow the machine is.
        config.set("limits", "requests_burst", "5000");
    })
    .await;
    let mut proxy = stage.h1().await;
    let eager = "x-forwarded-for: 203.0.113.7\r\n";
    let mut answered = 0;
    let refused = loop {
        let response = proxy.request("GET", "/", eager, b"").await;
        if response.status != 200 {
            break response;
        }
        answered += 1;
    };
    assert_eq!((answered, refused.status), (5000, 429));
    let after: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5000).contains(&after));
    assert_eq!(stage.proxy.rejects("requests_per_address").await, 1);
    // Over HTTP/2 it is the same client; another client, and the proxy that both come through, are not.
    let request = H2::to("/").header("x-forwarded-for", "203.0.113.7");
    let response = stage
        .h2()
        .await
        .request(request.body(()).unwrap(), Bytes::new())
        .await;
    assert_eq!(response.status, 429);
    let other = proxy
        .request("GET", "/", "x-forwarded-for: 203.0.113.8\r\n", b"")
        .await;
    assert_eq!(other.status, 200);
    assert_eq!(proxy.get("/").await.status, 200);
    assert_eq!(stage.blue.requests(), 5002);
}

#[tokio::test]
async fn clients_of_one_ipv6_network_are_one_client() {
    let stage = Stage::with(five_requests).await;
    let mut proxy = stage.h1().await;
    let mut statuses = Vec::new();
    for last in 0..20 {
        let from = format!("x-forwarded-for: 2001:db8:1:2::{last:x}\r\n");
        statuses.push(proxy.request("GET", "/", &from, b"").await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    let elsewhere = "x-forwarded-for: 2001:db8:1:3::1\r\n";
    assert_eq!(proxy.request("GET", "/", elsewhere, b"").await.status, 200);
}

fn impatient(config: &mut ConfigBuilder) {
    config.set("timeouts", "client_stall", r#""500ms""#).set(
        "limits",
        "client_bytes_per_second",
        "10000",
    );
}

#[tokio::test]
async fn a_body_that_trickles_is_answered_408() {
    let stage = Stage::with(impatient).await;
    let H1 {
        mut reader,
        mut writer,
    } = stage.h1().await;
    let head = format!("POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100000\r\n\r\n");
    writer.write_all(head.as_bytes()).await.unwrap();
    let mut response = Box::pin(reader.response("POST"));
    let mut ticks = interval(TRICKLE);
    let response = loop {
        tokio::select! {
            response = &mut response => break response,
            _ = ticks.tick() => {
                writer.write_all(b"z").await.ok();
                writer.flush().await.ok();
            }
        }
    };
    assert_eq!(response.status, 408);
    assert_eq!(stage.proxy.rejects("client_stall").await, 1);
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn an_h2_body_that_trickles_is_answered_408() {
    let stage = Stage::with(impatient).await;
    let client = stage.h2().await;
    let held = H2::to("/hold").body(()).unwrap();
    let (held, mut nothing) = client.begin(held).await.unwrap();
    nothing.send_data(Bytes::new(), true).unwrap();
    let request = H2::to("/sink").method("POST").body(()).unwrap();
    let (response, mut body) = client.begin(request).await.unwrap();
    let mut response = Box::pin(crate::support::client::read(response));
    let mut ticks = interval(TRICKLE);
    let response = loop {
        tokio::select! {
            response = &mut response => break response.unwrap(),
            _ = ticks.tick() => {
                body.send_data(Bytes::from_static(b"z"), false).ok();
            }
        }
    };
    assert_eq!(response.status, 408);
    // The connection ends as well, in good order: what else it carries is answered.
    stage.blue.release();
    let held = within("the held answer", crate::support::client::read(held)).await;
    assert_eq!(held.unwrap().text(), "blue");
    eventually("the connection is over", async || client.is_closed()).await;
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn a_body_above_the_minimum_rate_takes_as_long_as_it_takes() {
    let stage = Stage::with(impatient).await;
    let mut client = stage.h1().await;
    let body = vec![b'z'; 30_000];
    let head = format!(
        "POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await;
    // 1000 bytes each 40 ms are 25 000 a second; the whole takes more than twice what a client may stall.
    let mut ticks = interval(TRICKLE * 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for piece in body.chunks(1000) {
        ticks.tick().await;
        client.send(piece).await;
    }
    assert_eq!(client.response("POST").await.text(), "30000");
}

#[tokio::test]
async fn a_reader_that_takes_a_byte_now_and_then_is_let_go_of() {
    let stage = Stage::with(impatient).await;
    let mut tls = with_little_room(&stage).await;
    let head = format!("GET /size?n=50000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut idle = Box::pin(stage.proxy.wait_until_idle());
    let mut ticks = interval(TRICKLE);
    let mut byte = [0];
    let mut is_begun = false;
    loop {
        tokio::select! {
            () = &mut idle, if is_begun => break,
            _ = ticks.tick() => {
                tls.read_exact(&mut byte).await.ok();
                is_begun = true;
            }
        }
    }
    eventually("it is counted", async || {
        stage.proxy.rejects("client_stall").await == 1
    })
    .await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\xff\xff";
const PRIORITY: &[u8] = b"\0\0\x05\x02\0\0\0\0\x03\0\0\0\0\x10";
const WINDOW_UPDATE: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

#[tokio::test]
async fn a_flood_of_h2_control_frames_ends_with_a_word() {
    let stage = Stage::start().await;
    let floods = [PING, SETTINGS, PRIORITY, WINDOW_UPDATE];
    for (count, flood) in floods.into_iter().enumerate() {
        let tls = connect(stage.proxy.https(), &Offer::h2(HOST))
            .await
            .unwrap();
        let (mut reader, mut writer) = tokio::io::split(tls);
        let writing = tokio::spawn(async move {
            writer.write_all(PREFACE).await.ok();
            for _ in 0..100 {
                if writer.write_all(&flood.repeat(100)).await.is_err() {
                    break;
                }
            }
            writer.flush().await.ok();
            writer
        });
        let mut last = None;
        let reading = async {
            let mut header = [0; 9];
            while reader.read_exact(&mut header).await.is_ok() {
                let length = usize::from(header[1]) << 8 | usize::from(header[2]);
                let mut payload = vec![0; length];
                if reader.read_exact(&mut payload).await.is_err() {
                    break;
                }
                last = Some((header[3], payload.get(7).copied()));
            }
        };
        within("the end of the flood", reading).await;
        drop(writing.await.unwrap());
        if let Some((GOAWAY, code)) = last {
            assert_eq!(code, Some(ENHANCE_YOUR_CALM));
        }
        eventually("it is counted", async || {
            stage.proxy.rejects("h2_control_frames").await == count as u64 + 1
        })
        .await;
    }
    assert_eq!(stage.h2().await.get("/").await.text(), "blue");
}

#[tokio::test]
async fn a_flood_of_cancelled_streams_and_one_of_continuations_are_counted() {
    let stage = Stage::start().await;
    // Indexed fields: GET, https, /; the host is a literal.
    let mut head = vec![0x82, 0x87, 0x84, 0x41, 7];
    head.extend(HOST.as_bytes());
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let header = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&header, payload].concat()
    };
    let cancelled = (0..5000).flat_map(|number| {
        let stream = 2 * number + 1;
        [
            frame(1, 5, stream, &head),
            frame(3, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    let cancelled: Vec<u8> = cancelled.collect();
    // A field of 4000 bytes, again and again.
    let field = [&[0, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    let mut continued = frame(1, 0, 1, &head);
    for _ in 0..200 {
        continued.extend(frame(9, 0, 1, &field));
    }
    for (count, flood) in [cancelled, continued].into_iter().enumerate() {
        let tls = connect(stage.proxy.https(), &Offer::h2(HOST))
            .await
            .unwrap();
        let (mut reader, mut writer) = tokio::io::split(tls);
        let writing = tokio::spawn(async move {
            writer.write_all(&[PREFACE, &flood].concat()).await.ok();
            writer.flush().await.ok();
            writer
        });
        let mut rest = Vec::new();
        within("the end of the flood", reader.read_to_end(&mut rest))
            .await
            .ok();
        drop(writing.await.unwrap());
        eventually("it is counted", async || {
            stage.proxy.rejects("h2_flood").await == count as u64 + 1
        })
        .await;
    }
    assert_eq!(stage.h2().await.get("/").await.text(), "blue");
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn an_h2_head_that_is_never_finished_ends_as_one_of_http_1_does() {
    let stage = Stage::with(|config| {
        config
            .head_timeout("300ms")
            .set("timeouts", "idle", r#""10m""#);
    })
    .await;
    // GET, https, / in a HEADERS frame without END_HEADERS; and half of the header of a PING.
    let half_heads: [&[u8]; 2] = [
        &[0, 0, 3, 1, 1, 0, 0, 0, 1, 0x82, 0x87, 0x84],
        &[0, 0, 8, 6],
    ];
    for (count, half) in half_heads.into_iter().enumerate() {
        let mut tls = connect(stage.proxy.https(), &Offer::h2(HOST))
            .await
            .unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        tls.write_all(&[PREFACE, &settings, half].concat())
            .await
            .unwrap();
        tls.flush().await.unwrap();
        let mut rest = Vec::new();
        within("the end", tls.read_to_end(&mut rest)).await.ok();
        eventually("it is counted", async || {
            stage.proxy.rejects("request_head_timeout").await == count as u64 + 1
        })
        .await;
    }
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn downloads_in_small_pieces_are_no_flood() {
    let stage = Stage::with(|config| {
        config.set("limits", "h2_control_frames", "100");
    })
    .await;
    let tls = connect(stage.proxy.https(), &Offer::h2(HOST))
        .await
        .unwrap();
    // A window of one small frame: each one that comes is answered with updates of both windows.
    let handshake = h2::client::Builder::new()
        .initial_window_size(1000)
        .initial_connection_window_size(65_535)
        .handshake::<_, Bytes>(tls);
    let (sender, connection) = within("h2 handshake", handshake).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..3 {
        let mut sender = sender.clone().ready().await.unwrap();
        let request = H2::to("/size?n=1000000").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = within("the download", crate::support::client::read(response)).await;
        assert_eq!(response.unwrap().body.len(), 1_000_000);
    }
    assert_eq!(stage.proxy.rejects("h2_control_frames").await, 0);
    driver.abort();
}

#[tokio::test]
async fn a_slow_client_is_not_held_against_its_upstream() {
    const LENGTH: usize = 1_000_000;
    let stage = Stage::with(|config| {
        config.set("timeouts", "response_stall", r#""300ms""#);
    })
    .await;
    let mut tls = with_little_room(&stage).await;
    let head =
        format!("GET /size?n={LENGTH} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    // The upstream has all of it ready; each piece waits for the client, for longer than an upstream may stall.
    let mut ticks = interval(Duration::from_millis(600));
    let mut read = 0;
    let mut piece = vec![0; LENGTH / 5];
    while read < LENGTH {
        ticks.tick().await;
        match tls.read_exact(&mut piece).await {
            Ok(count) => read += count,
            Err(error) => panic!("cut after {read} bytes: {error}"),
        }
    }
}
