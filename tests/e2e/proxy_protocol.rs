//! The PROXY protocol: the client that a load balancer names is the client, where that is configured and nowhere else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::tls::{Offer, connect, connect_over};
use crate::support::{H1, HOST, Stage, within};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
/// PROXY, TCP over IPv6, 2001:db8::7 to ::, ports 4711 and 443, and one TLV.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x12\x67\x01\xbb\
    \x04\0\x01\0";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The second listener of each kind is for a balancer.
async fn stage() -> Stage {
    Stage::with(|config| {
        let both = r#"["127.0.0.1:0", "127.0.0.2:0"]"#;
        config
            .set("listen", "http", both)
            .set("listen", "https", both)
            .set("listen", "proxy_protocol", r#"["127.0.0.2:0"]"#)
            .set("limits", "connections_per_address", "2")
            .handshake_timeout("500ms");
    })
    .await
}

async fn introduced(address: SocketAddr, head: &[u8]) -> TcpStream {
    let mut tcp = within("connect", TcpStream::connect(address))
        .await
        .unwrap();
    tcp.write_all(head).await.unwrap();
    tcp
}

async fn ends(mut tcp: TcpStream) {
    let mut rest = Vec::new();
    // However it is closed, it is closed, and without an answer.
    within("the end", tcp.read_to_end(&mut rest)).await.ok();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn the_client_that_a_balancer_names_is_the_client() {
    let stage = stage().await;
    let https = stage.proxy.listener("https", 1);
    for (head, client) in [
        (V1, "203.0.113.7"),
        (V2, "2001:db8::7"),
        (V2_LOCAL, "127.0.0.1"),
    ] {
        let tcp = introduced(https, head).await;
        let tls = connect_over(tcp, &Offer::h1(HOST)).await.unwrap();
        let response = H1::over(tls)
            .request("GET", "/reflect", "x-forwarded-for: 1.2.3.4\r\n", b"")
            .await;
        assert_eq!(response.status, 200);
        let seen = stage.blue.last_seen("/reflect");
        assert_eq!(seen.header("x-forwarded-for"), Some(client));
        assert_eq!(seen.header("x-real-ip"), Some(client));
    }
    let tcp = introduced(stage.proxy.listener("http", 1), V1).await;
    assert_eq!(H1::over(tcp).get("/").await.status, 301);
}

#[tokio::test]
async fn a_connection_that_is_not_introduced_is_closed_where_it_has_to_be() {
    let stage = stage().await;
    let http = stage.proxy.listener("http", 1);
    let https = stage.proxy.listener("https", 1);
    ends(introduced(http, b"GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n").await).await;
    ends(introduced(http, b"PROXY TCP4 1.2.3.4\r\n").await).await;
    assert!(connect(https, &Offer::h1(HOST)).await.is_err());
    assert_eq!(stage.proxy.rejects("proxy_protocol").await, 3);
    // Half a head is waited for, but not for long.
    for half in [&V1[..20], &V2[..20], b""] {
        ends(introduced(http, half).await).await;
    }
    assert_eq!(stage.proxy.rejects("proxy_protocol_timeout").await, 3);
    assert_eq!(stage.blue.requests(), 0);
}

#[tokio::test]
async fn elsewhere_an_introduction_is_garbage() {
    let stage = stage().await;
    for head in [V1, V2] {
        let mut http = H1::over(introduced(stage.proxy.http(), head).await);
        http.send("GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n").await;
        assert_eq!(http.response("GET").await.status, 400);
        let tcp = introduced(stage.proxy.https(), head).await;
        assert!(connect_over(tcp, &Offer::h1(HOST)).await.is_err());
    }
    assert_eq!(stage.blue.requests(), 0);
}

#[tokio::test]
async fn connections_are_counted_at_the_client_and_not_at_the_balancer() {
    let stage = stage().await;
    let http = stage.proxy.listener("http", 1);
    let mut held = Vec::new();
    for last in 1..=4 {
        for _ in 0..2 {
            let head = format!("PROXY TCP4 203.0.113.{last} 192.0.2.1 1 2\r\n");
            let mut client = H1::over(introduced(http, head.as_bytes()).await);
            assert_eq!(client.get("/").await.status, 301);
            held.push(client);
        }
    }
    ends(introduced(http, b"PROXY TCP4 203.0.113.1 192.0.2.1 1 2\r\n").await).await;
    assert_eq!(stage.proxy.rejects("connections_per_address").await, 1);
    for client in &mut held {
        assert_eq!(client.get("/").await.status, 301);
    }
}
