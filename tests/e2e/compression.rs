//! Bodies are compressed for whom it helps, come out as they went in, and are kept back for nobody.

use std::io::Read;

use bytes::Bytes;

use crate::support::{H2, HOST, Response, Stage, text, within};

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// What a decoder that knows nothing of the proxy makes of it; of a stream that goes on, what is there so far.
fn decoded(coding: &str, bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let mut reader: Box<dyn Read + '_> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("{other} is no coding"),
    };
    reader.read_to_end(&mut out).ok();
    String::from_utf8(out).unwrap()
}

/// `GET` with the coding accepted, and the answer's fields dictated.
async fn h1(stage: &Stage, path: &str, accept: &str, say: &str) -> Response {
    let headers = format!("accept-encoding: {accept}\r\n{say}");
    stage.h1().await.request("GET", path, &headers, b"").await
}

#[tokio::test]
async fn a_page_is_compressed_for_who_accepts_it_and_comes_out_as_it_went_in() {
    let stage = Stage::start().await;
    let say =
        "x-say-content-type: text/html\r\nx-say-etag: \"v1\"\r\nx-say-accept-ranges: bytes\r\n";
    let page = text(300_000);
    let mut client = stage.h1().await;
    let h2 = stage.h2().await;
    for coding in CODINGS {
        for path in ["/say?n=300000", "/say?n=300000&chunked"] {
            let headers = format!("accept-encoding: {coding}\r\n{say}");
            let over_h1 = client.request("GET", path, &headers, b"").await;
            let request = H2::to(path)
                .header("accept-encoding", coding)
                .header("x-say-content-type", "text/html")
                .header("x-say-etag", "\"v1\"")
                .body(())
                .unwrap();
            let over_h2 = h2.request(request, Bytes::new()).await;
            for response in [over_h1, over_h2] {
                assert_eq!(response.header("content-encoding"), Some(coding));
                assert_eq!(response.header("vary"), Some("accept-encoding"));
                assert_eq!(response.header("etag"), Some("W/\"v1\""));
                assert_eq!(response.header("content-length"), None);
                assert_eq!(response.header("accept-ranges"), None);
                assert!(response.body.len() < page.len() / 3, "{coding} {path}");
                assert!(decoded(coding, &response.body) == page, "{coding} {path}");
            }
        }
    }
    // The connections are still in order.
    assert_eq!(client.get("/").await.text(), "blue");
    assert_eq!(h2.get("/").await.text(), "blue");
}

#[tokio::test]
async fn who_accepts_nothing_gets_the_bytes_as_they_are() {
    let stage = Stage::start().await;
    for accept in ["identity", "gzip;q=0", "deflate"] {
        let say = "x-say-content-type: text/html\r\nx-say-etag: \"v1\"\r\n";
        let response = h1(&stage, "/say?n=5000", accept, say).await;
        assert_eq!(response.header("content-encoding"), None, "{accept}");
        assert_eq!(response.header("content-length"), Some("5000"));
        assert_eq!(response.header("etag"), Some("\"v1\""));
        // A cache has to know that others get it otherwise.
        assert_eq!(response.header("vary"), Some("accept-encoding"));
        assert_eq!(response.text(), text(5000));
    }
}

#[tokio::test]
async fn what_must_not_be_changed_is_not_compressed() {
    let stage = Stage::start().await;
    let html = "x-say-content-type: text/html\r\n";
    let table = [
        ("/say?n=1023", html.to_owned()),
        (
            "/say?n=5000",
            "x-say-content-type: image/png\r\n".to_owned(),
        ),
        (
            "/say?n=5000",
            format!("{html}x-say-cache-control: private, no-transform\r\n"),
        ),
        (
            "/say?n=5000",
            format!("{html}cache-control: no-transform\r\n"),
        ),
        (
            "/say?n=5000",
            format!("{html}x-say-content-encoding: br\r\n"),
        ),
        (
            "/say?n=5000&code=206",
            format!("{html}x-say-content-range: bytes 0-4999/9999\r\n"),
        ),
    ];
    for (path, say) in table {
        let response = h1(&stage, path, "gzip, br, zstd", &say).await;
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        assert_eq!(response.text(), text(length), "{path} {say}");
        assert_eq!(response.header("vary"), None, "{path} {say}");
    }
    let mut old = stage.h1().await;
    old.send(format!(
        "GET /say?n=5000 HTTP/1.0\r\nhost: {HOST}\r\naccept-encoding: gzip\r\n{html}\r\n"
    ))
    .await;
    assert_eq!(old.response("GET").await.text(), text(5000));
}

#[tokio::test]
async fn head_says_what_get_would_and_sends_nothing() {
    let stage = Stage::start().await;
    let headers = "accept-encoding: gzip\r\nx-say-content-type: text/html\r\nx-say-etag: \"a\"\r\n";
    let mut client = stage.h1().await;
    for _ in 0..2 {
        let response = client.request("HEAD", "/say?n=5000", headers, b"").await;
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        assert_eq!(response.header("content-length"), None);
        assert_eq!(response.header("etag"), Some("W/\"a\""));
    }
    assert_eq!(client.get("/").await.text(), "blue");
}

#[tokio::test]
async fn an_event_arrives_long_before_its_stream_ends_when_compressed() {
    let stage = Stage::start().await;
    for coding in CODINGS {
        let request = H2::to("/sse")
            .header("accept-encoding", coding)
            .body(())
            .unwrap();
        let client = stage.h2().await;
        let (response, mut body) = client.begin(request).await.unwrap();
        body.send_data(Bytes::new(), true).unwrap();
        let response = within("the head", response).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], coding);
        let mut events = response.into_body();
        let mut received = Vec::new();
        // The stream has no end, so that having the first events at all is having them early.
        while !decoded(coding, &received).contains("data: blue 3\n\n") {
            let piece = within("an event", events.data()).await.unwrap().unwrap();
            received.extend_from_slice(&piece);
        }
        assert!(decoded(coding, &received).starts_with("data: blue 0\n\n"));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off_when_compressed() {
    let stage = Stage::start().await;
    let headers = "accept-encoding: gzip\r\n";
    let answer = stage
        .h1()
        .await
        .try_request("GET", "/diemid?type=text/html", headers, b"")
        .await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn beyond_its_limit_of_streams_a_body_goes_out_as_it_is() {
    let stage = Stage::with(|config| {
        config.set("compression", "streams", "1");
    })
    .await;
    let mut events = stage.h1().await;
    events
        .send(format!(
            "GET /sse HTTP/1.1\r\nhost: {HOST}\r\naccept-encoding: gzip\r\n\r\n"
        ))
        .await;
    let head = events.reader.head().await;
    assert_eq!(head.header("content-encoding"), Some("gzip"));
    let html = "x-say-content-type: text/html\r\n";
    let response = h1(&stage, "/say?n=5000", "gzip", html).await;
    assert_eq!(response.header("content-encoding"), None);
    assert_eq!(response.text(), text(5000));
    drop(events);
    stage.proxy.wait_until_idle().await;
    let response = h1(&stage, "/say?n=5000", "gzip", html).await;
    assert_eq!(response.header("content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn compression_that_is_switched_off_leaves_everything_alone() {
    let stage = Stage::with(|config| {
        config.set("compression", "enabled", "false");
    })
    .await;
    let html = "x-say-content-type: text/html\r\n";
    let response = h1(&stage, "/say?n=5000", "gzip", html).await;
    assert_eq!(response.header("content-encoding"), None);
    assert_eq!(response.header("vary"), None);
    assert_eq!(response.text(), text(5000));
}

#[tokio::test]
async fn a_site_that_sets_no_transform_is_not_compressed() {
    let stage = Stage::with(|config| {
        config.site().set(
            "response_headers",
            r#"{ cache-control = "private, No-Transform" }"#,
        );
    })
    .await;
    let html = "x-say-content-type: text/html\r\n";
    let response = h1(&stage, "/say?n=5000", "gzip, br, zstd", html).await;
    assert_eq!(response.text(), text(5000));
    assert_eq!(response.header("content-encoding"), None);
}
