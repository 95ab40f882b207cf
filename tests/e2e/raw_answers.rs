//! Answers that no well-behaved upstream gives, byte for byte: what comes of them at the client.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::tls::{Offer, connect};
use crate::support::{ConfigBuilder, H1, H2, HOST, Proxy, Upstream, eventually, within};

/// An upstream that answers each request with the same bytes, closes, and remembers what it was asked.
struct Raw {
    proxy: Proxy,
    heads: Arc<Mutex<Vec<String>>>,
    _standby: Upstream,
}

impl Raw {
    async fn answering(answer: impl Into<Vec<u8>>) -> Raw {
        let answer: Arc<[u8]> = answer.into().into();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match connection.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let is_probe = head.contains("ping");
                    let pong = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    let bytes = if is_probe { &pong[..] } else { &answer };
                    connection.write_all(bytes).await.ok();
                    if !is_probe {
                        seen.lock().unwrap().push(head);
                    }
                });
            }
        });
        let standby = Upstream::start("green").await;
        let mut config = ConfigBuilder::new(&[&address], &[&standby.address()]);
        config.set("compression", "enabled", "false");
        let proxy = Proxy::start(&config).await;
        proxy.wait_for_health("blue", true).await;
        Raw {
            proxy,
            heads,
            _standby: standby,
        }
    }

    async fn h1(&self) -> H1 {
        let tls = connect(self.proxy.https(), &Offer::h1(HOST)).await;
        H1::over(tls.unwrap())
    }

    async fn h2(&self) -> H2 {
        let tls = connect(self.proxy.https(), &Offer::h2(HOST)).await;
        H2::over(tls.unwrap()).await
    }

    /// All bytes that a client of HTTP/1 gets for a request.
    async fn bytes_for(&self, request: &str) -> String {
        let mut client = self.h1().await;
        client.send(request).await;
        String::from_utf8(client.closed().await).unwrap()
    }

    async fn last_head(&self) -> String {
        eventually("a request came", async || {
            !self.heads.lock().unwrap().is_empty()
        })
        .await;
        self.heads.lock().unwrap().last().unwrap().clone()
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn what_came_of_an_answer_that_breaks_off_is_handed_on() {
    let raw = Raw::answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nSEE-THIS").await;
    for _ in 0..20 {
        let seen = raw.bytes_for(&get("/")).await;
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen:?}");
        assert!(seen.ends_with("\r\n\r\nSEE-THIS"), "{seen:?}");
        let old = format!("GET / HTTP/1.0\r\nhost: {HOST}\r\n\r\n");
        let seen = raw.bytes_for(&old).await;
        assert!(seen.ends_with("\r\n\r\nSEE-THIS"), "{seen:?}");
    }
    let client = raw.h2().await;
    for _ in 0..20 {
        let request = H2::to("/").body(()).unwrap();
        let (response, mut body) = client.begin(request).await.unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        let response = within("the head", response).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let piece = within("the part", body.data()).await.unwrap().unwrap();
        assert_eq!(&piece[..], b"SEE-THIS");
        let end = within("the end", body.data()).await;
        assert!(matches!(end, Some(Err(_))), "{end:?}");
    }
}

#[tokio::test]
async fn the_letters_of_field_names_stay_as_they_were_written() {
    let answer = "HTTP/1.1 200 OK\r\nX-CoNnEcTiOn: 7\r\nLocation: /\r\nContent-Length: 2\r\n\r\nok";
    let raw = Raw::answering(answer).await;
    let request =
        format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nX-MiXeD: a\r\nconnection: close\r\n\r\n");
    let seen = raw.bytes_for(&request).await;
    for line in [
        "\r\nX-CoNnEcTiOn: 7\r\n",
        "\r\nLocation: /\r\n",
        "\r\nContent-Length: 2\r\n",
        "\r\nX-Request-ID: ",
    ] {
        assert!(seen.contains(line), "{line:?} in {seen:?}");
    }
    let head = raw.last_head().await;
    for line in [
        "\r\nX-MiXeD: a\r\n",
        "\r\nHost: mana.so\r\n",
        "\r\nX-Forwarded-For: 127.0.0.1\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in {head:?}");
    }
}

#[tokio::test]
async fn a_length_that_is_said_twice_is_said_once() {
    for lengths in [
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
    ] {
        let raw = Raw::answering(format!("HTTP/1.1 200 OK\r\n{lengths}\r\nok")).await;
        let seen = raw.bytes_for(&get("/")).await.to_lowercase();
        assert_eq!(seen.matches("content-length: 2\r\n").count(), 1, "{seen}");
        let response = raw.h2().await.get("/").await;
        assert_eq!(response.header("content-length"), Some("2"));
        assert_eq!(response.text(), "ok");
    }
}

#[tokio::test]
async fn an_answer_without_a_body_has_no_length_of_one() {
    let raw = Raw::answering("HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\n").await;
    let response = raw.h1().await.get("/").await;
    assert_eq!(
        (response.status, response.header("content-length")),
        (204, None)
    );
    let response = raw.h2().await.get("/").await;
    assert_eq!(
        (response.status, response.header("content-length")),
        (204, None)
    );
}

#[tokio::test]
async fn an_answer_whose_end_or_coding_is_unclear_is_502() {
    for fields in [
        "Transfer-Encoding: foo\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 3\r\n",
        "Content-Length: two\r\n",
    ] {
        let raw = Raw::answering(format!(
            "HTTP/1.1 200 OK\r\n{fields}\r\n2\r\nok\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.h1().await.get("/").await.status, 502, "{fields}");
        assert_eq!(raw.h2().await.get("/").await.status, 502, "{fields}");
    }
}

#[tokio::test]
async fn a_101_whose_lines_end_with_lf_alone_begins_a_tunnel() {
    let answer =
        "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\n\nfirst";
    let raw = Raw::answering(answer).await;
    let mut client = raw.h1().await;
    client
        .send(format!(
            "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        ))
        .await;
    let head = client.reader.head().await;
    assert_eq!(head.status, 101);
    assert_eq!(client.closed().await, b"first");
}

#[tokio::test]
async fn heads_of_old_clients_are_understood_and_written_anew() {
    let raw = Raw::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    for request in [
        format!("GET /old HTTP/1.0\nHost: {HOST}\nX: y\n\n"),
        format!("\n\r\nGET /old HTTP/1.1\nHost: {HOST}:\r\nConnection: close\n\r\n"),
        // It names no host, and there is one site alone.
        "GET /old HTTP/1.0\n\n".to_owned(),
        format!("GET http://{HOST}:8080/old HTTP/1.0\r\nHost: {HOST}:8080\r\n\r\n"),
        "GET http://Mana.SO/old HTTP/1.0\r\nHost: mana.so.\r\n\r\n".to_owned(),
        "GET https://mana.so:443/old HTTP/1.0\r\nHost: mana.so\r\n\r\n".to_owned(),
    ] {
        let seen = raw.bytes_for(&request).await;
        assert!(seen.starts_with("HTTP/1.1 200"), "{request:?}: {seen:?}");
        assert!(seen.ends_with("\r\n\r\nok"), "{request:?}: {seen:?}");
        let head = raw.last_head().await;
        assert!(head.starts_with("GET /old HTTP/1.1\r\n"), "{head:?}");
        assert!(head.contains("\r\nHost: "), "{head:?}");
        assert!(!head.contains("\r\nHost: \r\n"), "{head:?}");
        assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    }
    let other = "GET http://mana.so/old HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert!(raw.bytes_for(other).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn the_date_is_the_upstreams_and_there_is_always_one() {
    let old = "Thu, 01 Jan 1970 00:00:00 GMT";
    for (said, expected) in [
        (format!("date: {old}\r\n"), Some(old)),
        (String::new(), None),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{said}content-length: 0\r\n\r\n");
        let raw = Raw::answering(answer).await;
        for response in [raw.h1().await.get("/").await, raw.h2().await.get("/").await] {
            let date = response.header("date").unwrap();
            match expected {
                Some(expected) => assert_eq!(date, expected),
                None => assert!(date.ends_with(" GMT") && !date.contains("1970"), "{date}"),
            }
        }
    }
}

#[tokio::test]
async fn informational_heads_beyond_their_limits_are_502() {
    const END: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let hint = |bytes: usize| format!("HTTP/1.1 103 Hint\r\nlink: {}\r\n\r\n", "a".repeat(bytes));
    for (hints, expected) in [
        (hint(1).repeat(16), 200),
        (hint(1).repeat(17), 502),
        (hint(30_000).repeat(2), 200),
        (hint(30_000).repeat(3), 502),
    ] {
        let raw = Raw::answering(format!("{hints}{END}")).await;
        assert_eq!(raw.h1().await.get("/").await.status, expected);
        assert_eq!(raw.h2().await.get("/").await.status, expected);
    }
}
