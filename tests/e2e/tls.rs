//! What a TLS client may expect, and what a stalling one may not.

use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::{H1, HOST, Stage, within};

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_with_both_protocols() {
    let stage = Stage::start().await;
    let versions = [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ];
    for (offered, expected) in versions {
        for alpn in ["h2", "http/1.1"] {
            let offer = Offer::of(HOST, &[alpn.as_bytes()], &[offered]);
            let agreed = agreed(&connect(stage.proxy.https(), &offer).await.unwrap());
            assert_eq!(
                (agreed.version, agreed.alpn.as_deref()),
                (Some(expected), Some(alpn))
            );
        }
    }
}

#[tokio::test]
async fn h2_is_preferred_and_http_1_1_is_what_a_client_without_alpn_gets() {
    let stage = Stage::start().await;
    let both = Offer::of(HOST, &[b"http/1.1", b"h2"], rustls::ALL_VERSIONS);
    let stream = connect(stage.proxy.https(), &both).await.unwrap();
    assert_eq!(agreed(&stream).alpn.as_deref(), Some("h2"));
    let none = Offer::of(HOST, &[], rustls::ALL_VERSIONS);
    let stream = connect(stage.proxy.https(), &none).await.unwrap();
    assert_eq!(agreed(&stream).alpn, None);
    assert_eq!(H1::over(stream).get("/").await.text(), "blue");
}

#[tokio::test]
async fn a_client_with_no_common_protocol_is_refused() {
    let stage = Stage::start().await;
    let offer = Offer::of(HOST, &[b"spdy/3"], rustls::ALL_VERSIONS);
    assert!(connect(stage.proxy.https(), &offer).await.is_err());
}

#[tokio::test]
async fn the_key_exchange_withstands_a_quantum_computer() {
    let stage = Stage::start().await;
    let stream = connect(stage.proxy.https(), &Offer::h1(HOST))
        .await
        .unwrap();
    assert_eq!(agreed(&stream).group, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn a_second_handshake_is_resumed_by_ticket() {
    let stage = Stage::start().await;
    for version in [&TLS12, &TLS13] {
        let offer = Offer::of(HOST, &[b"http/1.1"], &[version]);
        let stream = connect(stage.proxy.https(), &offer).await.unwrap();
        assert!(!agreed(&stream).is_resumed);
        // Tickets of TLS 1.3 come after the handshake, so something has to be read.
        assert_eq!(H1::over(stream).get("/").await.status, 200);
        for _ in 0..3 {
            // Connections are spread over the workers: a ticket of one is good at the other.
            let stream = connect(stage.proxy.https(), &offer).await.unwrap();
            assert!(agreed(&stream).is_resumed, "{version:?}");
            assert_eq!(H1::over(stream).get("/").await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended_by_its_deadline() {
    let stage = Stage::with(|config| {
        config.handshake_timeout("300ms");
    })
    .await;
    for beginning in [&b""[..], &[22, 3, 1, 2, 0, 1]] {
        let mut stream = TcpStream::connect(stage.proxy.https()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        // An alert may come before the end.
        let mut rest = Vec::new();
        within("the end of the handshake", stream.read_to_end(&mut rest))
            .await
            .ok();
    }
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn what_is_not_tls_harms_nobody() {
    let stage = Stage::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n"[..],
        &[0; 3000],
        &[0xff; 3000],
        &[22, 3, 1, 0, 0],
    ] {
        let mut client = H1::plain(stage.proxy.https()).await;
        client.try_send(garbage).await.ok();
        client.finish().await;
        client.closed().await;
    }
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_request_head_that_trickles_is_ended_by_its_deadline() {
    let stage = Stage::with(|config| {
        config.head_timeout("500ms");
    })
    .await;
    let mut client = stage.h1().await;
    client
        .send("GET / HTTP/1.1\r\nhost: mana.so\r\nx-slow: ")
        .await;
    let mut closing = Box::pin(client.reader.response("GET"));
    let response = loop {
        tokio::select! {
            response = &mut closing => break response,
            // A byte now and then does not extend the deadline.
            _ = tokio::time::sleep(std::time::Duration::from_millis(50)) => {
                tokio::io::AsyncWriteExt::write_all(&mut client.writer, b"a").await.ok();
                client.writer.flush().await.ok();
            }
        }
    };
    assert_eq!(response.status, 408);
    assert_eq!(stage.blue.requests(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_ended_by_its_deadline() {
    let stage = Stage::with(|config| {
        config.idle_timeout("300ms");
    })
    .await;
    let mut h1 = stage.h1().await;
    assert_eq!(h1.get("/").await.status, 200);
    assert!(h1.closed().await.is_empty());
    let h2 = stage.h2().await;
    assert_eq!(h2.get("/").await.status, 200);
    crate::support::eventually("the h2 connection is closed", async || h2.is_closed()).await;
}

#[tokio::test]
async fn an_h2_client_that_never_says_its_preface_is_ended_by_a_deadline() {
    let stage = Stage::with(|config| {
        config.head_timeout("300ms").idle_timeout("300ms");
    })
    .await;
    let stream = connect(stage.proxy.https(), &Offer::h2(HOST))
        .await
        .unwrap();
    H1::over(stream).closed().await;
}
