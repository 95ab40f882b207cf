//! Faults of HTTP/2 that were found and mended, each shown to stay so.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::support::client::pausing::Pausing;
use crate::support::client::read;
use crate::support::client::tls::{Offer, connect, connect_over};
use crate::support::{H2, HOST, Stage, eventually, pattern, within};

/// So large that no window update wakes the proxy.
const HUGE_WINDOW: u32 = 1 << 30;
/// Round trips over other connections, in which the proxy gets as far as it can on this one.
const ROUND_TRIPS: usize = 20;

async fn round_trips(stage: &Stage) {
    for _ in 0..ROUND_TRIPS {
        stage.who_answers().await;
    }
}

#[tokio::test]
async fn a_client_that_pauses_with_huge_windows_gets_the_whole_body() {
    const LENGTH: usize = 16 << 20;
    let stage = Stage::with(|config| {
        // One thread serves all, so that a round trip tells how far it is.
        config.set("server", "workers", "1");
    })
    .await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let tcp = within("connect", socket.connect(stage.proxy.https())).await;
    let tls = connect_over(tcp.unwrap(), &Offer::h2(HOST)).await.unwrap();
    let (stream, gate) = Pausing::new(tls);
    let client = H2::with_windows(stream, HUGE_WINDOW, HUGE_WINDOW).await;
    // Whatever the two sides say to each other at the beginning has been said.
    assert_eq!(client.get("/").await.text(), "blue");
    gate.close();
    let large = H2::to(&format!("/size?n={LENGTH}")).body(()).unwrap();
    let (large, mut body) = client.begin(large).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    stage.blue.wait_for("/size", 1).await;
    round_trips(&stage).await;
    // A second stream has written and wants that to leave; nothing leaves.
    let held = H2::to("/hold-chunk").body(()).unwrap();
    let (held, mut body) = client.begin(held).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    stage.blue.wait_for("/hold-chunk", 1).await;
    round_trips(&stage).await;
    // The size of its next chunk is nothing to pass on, and wakes it all the same.
    stage.blue.release();
    round_trips(&stage).await;
    gate.open();
    let response = within("the large body", read(large)).await.unwrap();
    assert!(response.body == pattern(LENGTH), "the body has changed");
    stage.blue.release();
    let response = within("the held body", read(held)).await.unwrap();
    assert_eq!(response.text(), "firstafter");
}

#[tokio::test]
async fn responses_that_a_client_still_reads_are_no_idle_connection() {
    const LENGTH: usize = 200_000;
    let stage = Stage::with(|config| {
        config.set("timeouts", "idle", r#""500ms""#);
        config.set("timeouts", "h2_drain", r#""100ms""#);
    })
    .await;
    let h2 = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        let tcp = within("connect", socket.connect(stage.proxy.https())).await;
        let tls = connect_over(tcp.unwrap(), &Offer::h2(HOST)).await.unwrap();
        let (stream, gate) = Pausing::new(tls);
        (
            H2::with_windows(stream, HUGE_WINDOW, HUGE_WINDOW).await,
            gate,
        )
    };
    let (client, gate) = h2().await;
    assert_eq!(client.get("/").await.text(), "blue");
    gate.close();
    // More than the kernel takes, and each small enough to wait in the codec while its request is over.
    let mut responses = Vec::new();
    for _ in 0..40 {
        let request = H2::to(&format!("/size?n={LENGTH}")).body(()).unwrap();
        let (response, mut body) = client.begin(request).await.unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        responses.push(response);
    }
    eventually("all requests are over", async || {
        stage.proxy.site().await["slots"]["blue"]["in_flight"] == 0 && stage.blue.requests() >= 40
    })
    .await;
    // Others come later, rest, and are closed for that: the first as this one would hear GOAWAY, the second as it would end.
    for _ in 0..2 {
        let (other, _gate) = h2().await;
        eventually("a connection at rest ends", async || other.is_closed()).await;
    }
    gate.open();
    for response in responses {
        let response = within("a body", read(response)).await.unwrap();
        assert!(response.body == pattern(LENGTH), "the body has changed");
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_goaway_is_told_which_streams_were_taken() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "idle", r#""500ms""#);
        config.set("timeouts", "h2_drain", r#""100ms""#);
    })
    .await;
    let tls = connect(stage.proxy.https(), &Offer::h2(HOST)).await;
    let (mut reader, mut writer) = tokio::io::split(tls.unwrap());
    // The preface, empty SETTINGS, GET / on stream 1; no PING is answered.
    let length = u8::try_from(5 + HOST.len()).unwrap();
    let name = length - 5;
    let head = [
        0, 0, length, 1, 0x5, 0, 0, 0, 1, 0x82, 0x87, 0x84, 0x41, name,
    ];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let asked = [&preface[..], &head, HOST.as_bytes()].concat();
    writer.write_all(&asked).await.unwrap();
    writer.flush().await.unwrap();
    let mut goaways = Vec::new();
    let reading = async {
        let mut header = [0; 9];
        while reader.read_exact(&mut header).await.is_ok() {
            let length = usize::from(header[1]) << 8 | usize::from(header[2]);
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).await.unwrap();
            if header[3] == 7 {
                let number = |at: usize| u32::from_be_bytes(*payload[at..].first_chunk().unwrap());
                goaways.push((number(0), number(4)));
            }
        }
    };
    within("the end of the connection", reading).await;
    // RFC 9113 s6.8: first as many as there may be, then what it was; both without an error.
    assert_eq!(goaways, [(0x7fff_ffff, 0), (1, 0)]);
}

#[tokio::test]
async fn so_many_malformed_requests_end_a_connection_with_a_word_and_what_was_good_is_answered() {
    let stage = Stage::with(|config| {
        config.access_log("./access.log");
    })
    .await;
    let client = stage.h2().await;
    let held = H2::to("/hold-body").body(()).unwrap();
    let (held, mut body) = client.begin(held).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    stage.blue.wait_for("/hold-body", 1).await;
    let malformed = async || {
        let request = H2::to("/").header("host", "another.example");
        let request = request.body(()).unwrap();
        client.try_request(request, Bytes::new()).await
    };
    for _ in 0..31 {
        let response = malformed().await.unwrap();
        assert_eq!(response.status, 400);
        assert!(response.header("x-request-id").is_some());
    }
    // A good one makes up for one that was not.
    assert_eq!(client.get("/").await.text(), "blue");
    assert_eq!(malformed().await.unwrap().status, 400);
    assert_eq!(client.get("/").await.text(), "blue");
    for _ in 0..2 {
        assert_eq!(malformed().await.unwrap().status, 400);
    }
    eventually("no new streams are taken", async || {
        let request = H2::to("/").body(()).unwrap();
        match client.try_request(request, Bytes::new()).await {
            Ok(_) => false,
            Err(error) => error.is_go_away(),
        }
    })
    .await;
    stage.blue.release();
    let response = within("the held body", read(held)).await.unwrap();
    assert_eq!(response.text(), "firstafter");
    let path = stage.proxy.path().join("access.log");
    eventually("each malformed one is in the access log", async || {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        log.matches(r#""status":400,"#).count() == 34
    })
    .await;
}

/// A client that takes no byte of a body, and a request that the proxy answers itself, with 421.
async fn unread_answer(stage: &Stage) -> (H2, h2::RecvStream) {
    let tls = connect(stage.proxy.https(), &Offer::h2(HOST))
        .await
        .unwrap();
    let client = H2::with_windows(tls, 0, HUGE_WINDOW).await;
    let request = http::Request::builder().uri("https://elsewhere.example/");
    let (response, mut body) = client.begin(request.body(()).unwrap()).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    let response = within("the head", response).await.unwrap();
    assert_eq!(response.status(), 421);
    (client, response.into_body())
}

#[tokio::test]
async fn an_answer_of_the_proxys_own_that_is_not_read_ends_by_client_stall() {
    let stage = Stage::with(|config| {
        config.set("timeouts", "client_stall", r#""500ms""#);
    })
    .await;
    let (client, mut body) = unread_answer(&stage).await;
    let piece = within("the end of the stream", body.data()).await;
    assert!(matches!(piece, Some(Err(_))), "{piece:?}");
    drop((client, body));
    eventually("nothing is left", async || {
        stage.proxy.done("status").await["connections"] == 0
    })
    .await;
}

#[tokio::test]
async fn an_answer_of_the_proxys_own_that_is_not_read_does_not_hold_up_a_stop() {
    let mut stage = Stage::with(|config| {
        config
            .shutdown_deadline("10m")
            .set("timeouts", "client_stall", r#""3s""#);
    })
    .await;
    let _unread = unread_answer(&stage).await;
    stage.proxy.signal("TERM");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn so_many_cookie_crumbs_are_one_field() {
    let stage = Stage::start().await;
    let crumbs: Vec<String> = (0..150)
        .map(|number| format!("c{number}={number}"))
        .collect();
    let request = crumbs.iter().fold(H2::to("/reflect"), |request, crumb| {
        request.header("cookie", crumb)
    });
    let client = stage.h2().await;
    let response = client
        .request(request.body(()).unwrap(), Bytes::new())
        .await;
    assert_eq!(response.status, 200);
    let seen = stage.blue.last_seen("/reflect");
    assert_eq!(seen.header("cookie"), Some(crumbs.join("; ").as_str()));
}

#[tokio::test]
async fn more_fields_than_headers_are_answered_431() {
    let stage = Stage::with(|config| {
        config.set("limits", "headers", "20");
    })
    .await;
    let client = stage.h2().await;
    let with_fields = |count: usize| {
        let request = (0..count).fold(H2::to("/"), |request, number| {
            request.header(format!("x-field-{number}"), "1")
        });
        request.body(()).unwrap()
    };
    let response = client.request(with_fields(20), Bytes::new()).await;
    assert_eq!(response.status, 200);
    let response = client.request(with_fields(21), Bytes::new()).await;
    assert_eq!(response.status, 431);
    assert_eq!(stage.blue.requests(), 1);
}

#[tokio::test]
async fn a_target_longer_than_uri_bytes_is_answered_414() {
    let stage = Stage::with(|config| {
        config.set("limits", "uri_bytes", "256");
    })
    .await;
    let client = stage.h2().await;
    let of_length = |length: usize| format!("/{}", "a".repeat(length - 1));
    assert_eq!(client.get(&of_length(256)).await.status, 200);
    assert_eq!(client.get(&of_length(257)).await.status, 414);
    assert_eq!(stage.blue.requests(), 1);
}

#[tokio::test]
async fn clients_that_left_give_their_places_in_a_pause_back() {
    let stage = Stage::with(|config| {
        config.site().pause(2, "5m", "0ms");
    })
    .await;
    let held = async || stage.proxy.site().await["waiting"].as_u64();
    stage.proxy.done("pause").await;
    let client = stage.h2().await;
    let mut left = Vec::new();
    for _ in 0..2 {
        let request = H2::to("/left").body(()).unwrap();
        let (response, mut body) = client.begin(request).await.unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        left.push((response, body));
    }
    eventually("both wait", async || held().await == Some(2)).await;
    for (_, body) in &mut left {
        body.send_reset(h2::Reason::CANCEL);
    }
    eventually("both places are free", async || held().await == Some(0)).await;
    let (response, mut body) = client.begin(H2::to("/").body(()).unwrap()).await.unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    eventually("the third waits", async || held().await == Some(1)).await;
    stage.proxy.done("resume").await;
    let response = within("the third", read(response)).await.unwrap();
    assert_eq!(response.text(), "blue");
    assert_eq!(stage.blue.requests(), 1);
    stage.proxy.wait_until_idle().await;
}
