//! What two parsers could read in two ways is answered, and never reaches an upstream.

use bytes::Bytes;

use crate::support::{H2, Stage};

/// Bytes of a request head at most.
const HEAD_BYTES_MAX: usize = 8 * 1024;

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused() {
    let stage = Stage::start().await;
    let table: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: mana.so\r\nhost: mana.so\r\n\r\n",
            400,
        ),
        (
            "GET / HTTP/1.1\r\nhost: mana.so\r\nhost: evil.example\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost: mana.so, evil.example\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost : mana.so\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n host: mana.so\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: mana.so\r\nx: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\nhost: mana.so\r\r\n\n", 400),
        ("GET / HTTP/1.1\r\nhost: mana.so\r\nx: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: mana.so\r\nx: a\0b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: mana.so\r\nx y: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: mana.so\r\nno colon\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET /<a> HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET ,a?b HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET mana.so HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET ?a HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET ftp://mana.so/ HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET http:// HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("G@T / HTTP/1.1\r\nhost: mana.so\r\n\r\n", 400),
        ("GET / HTTP/1.1x\r\nhost: mana.so\r\n\r\n", 505),
        ("GET / HTTP/2.0\r\nhost: mana.so\r\n\r\n", 505),
        ("\u{0}\u{1}\u{2}\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 3, 3\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: +3\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: -3\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 0x3\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 99999999999999999999\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: identity\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (
            "POST / HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.0\r\nhost: mana.so\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("TRACE / HTTP/1.1\r\nhost: mana.so\r\n\r\n", 405),
        ("CONNECT mana.so:443 HTTP/1.1\r\nhost: mana.so\r\n\r\n", 405),
        (
            "GET https://mana.so@evil.example/ HTTP/1.1\r\nhost: mana.so\r\n\r\n",
            400,
        ),
    ];
    for (bytes, status) in table {
        let mut client = stage.h1().await;
        client.send(bytes).await;
        let response = client.response("GET").await;
        assert_eq!(response.status, *status, "{bytes:?}");
    }
    assert_eq!(stage.blue.requests() + stage.green.requests(), 0);
}

#[tokio::test]
async fn after_a_malformed_request_nothing_more_is_read_from_the_connection() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: mana.so\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: mana.so\r\n\r\n",
        )
        .await;
    assert_eq!(client.response("POST").await.status, 400);
    assert!(client.closed().await.is_empty());
    assert_eq!(stage.blue.requests(), 0);
}

#[tokio::test]
async fn chunks_that_can_be_read_in_two_ways_end_the_request() {
    let stage = Stage::start().await;
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
    ] {
        let mut client = stage.h1().await;
        client
            .send(format!(
                "POST /sink HTTP/1.1\r\nhost: mana.so\r\ntransfer-encoding: chunked\r\n\r\n{body}"
            ))
            .await;
        client.finish().await;
        let answer = String::from_utf8_lossy(&client.closed().await).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{body:?}: {answer}"
        );
    }
    stage.proxy.wait_until_idle().await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_head_beyond_its_limit_is_answered_431_and_a_target_414() {
    let stage = Stage::with(|config| {
        config
            .head_bytes_max(HEAD_BYTES_MAX)
            .set("limits", "uri_bytes", "1024")
            .set("limits", "headers", "20");
    })
    .await;
    let long = "a".repeat(HEAD_BYTES_MAX);
    let many: String = (0..30).map(|number| format!("x-{number}: 1\r\n")).collect();
    let table = [
        (
            format!("GET / HTTP/1.1\r\nhost: mana.so\r\nx-long: {long}\r\n\r\n"),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: mana.so\r\n{many}\r\n"),
            431,
        ),
        (
            format!(
                "GET /{} HTTP/1.1\r\nhost: mana.so\r\n\r\n",
                "a".repeat(2000)
            ),
            414,
        ),
    ];
    for (bytes, status) in table {
        let mut client = stage.h1().await;
        client.send(bytes).await;
        assert_eq!(client.response("GET").await.status, status);
    }
    let nearly = "a".repeat(HEAD_BYTES_MAX - 200);
    let response = stage
        .h1()
        .await
        .request("GET", "/", &format!("x-long: {nearly}\r\n"), b"")
        .await;
    assert_eq!(response.status, 200);
    assert_eq!(stage.blue.requests(), 1);
}

#[tokio::test]
async fn a_body_beyond_its_limit_is_answered_413() {
    let stage = Stage::with(|config| {
        config.set("limits", "body_bytes", "1000");
    })
    .await;
    let response = stage
        .h1()
        .await
        .request("POST", "/sink", "", &[0; 1001])
        .await;
    assert_eq!(response.status, 413);
    assert_eq!(stage.blue.requests(), 0);
    let response = stage
        .h1()
        .await
        .request("POST", "/sink", "", &[0; 1000])
        .await;
    assert_eq!((response.status, response.text().as_str()), (200, "1000"));
}

#[tokio::test]
async fn an_h2_request_that_is_malformed_ends_its_stream_and_no_other() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    let requests = [
        H2::to("/").header("transfer-encoding", "chunked"),
        H2::to("/").header("connection", "keep-alive"),
        H2::to("/").method("POST").header("content-length", "100"),
    ];
    for request in requests {
        let answer = client
            .try_request(request.body(()).unwrap(), Bytes::from_static(b"short"))
            .await;
        let is_refused = match answer {
            Ok(response) => response.status == 400,
            Err(error) => error.is_reset() || !error.is_go_away(),
        };
        assert!(is_refused);
    }
    assert_eq!(stage.h2().await.get("/").await.text(), "blue");
}
