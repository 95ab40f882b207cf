//! Bodies pass both ways at once, whole, in bounded memory, and framed as the other side can read them.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;

use crate::support::client::read;
use crate::support::client::tls::{Offer, connect};
use crate::support::{H1, H2, HOST, Stage, pattern, within, within_time};

const MIB: usize = 1 << 20;
/// For what moves hundreds of megabytes through an unoptimized build.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_body_comes_back_as_it_was_sent() {
    let stage = Stage::start().await;
    let body = pattern(MIB);
    let response = stage.h1().await.request("POST", "/echo", "", &body).await;
    assert_eq!(response.status, 200);
    assert!(response.body == body, "the body has changed");

    let request = H2::to("/echo").method("POST").body(()).unwrap();
    let response = stage
        .h2()
        .await
        .request(request, Bytes::from(body.clone()))
        .await;
    assert_eq!(response.status, 200);
    assert!(response.body == body, "the body has changed over h2");
}

#[tokio::test]
async fn a_body_of_unknown_length_stays_chunked_both_ways() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"))
        .await;
    let head = client.reader.head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    // The first chunk comes back before the second is sent.
    let first = client.reader.until("hello").await;
    assert!(first.ends_with("hello"), "{first:?}");
    client.send("6\r\n again\r\n0\r\n\r\n").await;
    let rest = client.reader.until("0\r\n\r\n").await;
    assert!(rest.contains(" again"), "{rest:?}");
}

#[tokio::test]
async fn an_h2_body_without_a_length_reaches_the_upstream_whole() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    let request = H2::to("/echo").method("POST").body(()).unwrap();
    let (response, mut body) = client.begin(request).await.unwrap();
    body.send_data(Bytes::from_static(b"in two "), false)
        .unwrap();
    body.send_data(Bytes::from_static(b"pieces"), false)
        .unwrap();
    // An empty frame with END_STREAM: a forwarder that makes a chunk of it ends the body twice.
    body.send_data(Bytes::new(), true).unwrap();
    let response = within("echo", read(response)).await.unwrap();
    assert_eq!(response.text(), "in two pieces");
    // The upstream connection is still in order.
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "blue");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_echoed_while_it_is_sent_does_not_deadlock() {
    const LENGTH: usize = 256 * MIB;
    let stage = Stage::start().await;
    let received = echo_while_sending(&stage, LENGTH).await;
    assert_eq!(received, LENGTH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs minutes in the dev profile"]
async fn a_gibibyte_that_is_echoed_while_it_is_sent_does_not_deadlock() {
    const LENGTH: usize = 1024 * MIB;
    let stage = Stage::start().await;
    let received = echo_while_sending(&stage, LENGTH).await;
    assert_eq!(received, LENGTH);
}

/// Sends `length` bytes and reads them back at the same time; how many came back right.
async fn echo_while_sending(stage: &Stage, length: usize) -> usize {
    let H1 { mut reader, writer } = stage.h1().await;
    let sending = tokio::spawn(send_zeroes(writer, length));
    let head = reader.head().await;
    assert_eq!(head.status, 200);
    let mut received = 0;
    let receiving = async {
        while received < length {
            let piece = reader.some().await;
            assert!(piece.iter().all(|byte| *byte == 0));
            received += piece.len();
        }
    };
    within_time("the echo", LONG, receiving).await;
    sending.await.unwrap();
    received
}

async fn send_zeroes(mut writer: impl tokio::io::AsyncWrite + Unpin, length: usize) {
    use tokio::io::AsyncWriteExt;
    let head = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\n\r\n");
    writer.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![0; MIB];
    for _ in 0..length / MIB {
        writer.write_all(&piece).await.unwrap();
    }
    writer.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_and_a_large_download_need_no_memory() {
    const LENGTH: usize = 256 * MIB;
    const GROWTH_MAX: u64 = 64 << 20;
    let stage = Stage::start().await;
    stage
        .h1()
        .await
        .request("POST", "/echo", "", &pattern(MIB))
        .await;
    let before = stage.proxy.memory_peak();

    let mut download = stage.h1().await;
    download
        .send(format!(
            "GET /size?n={LENGTH} HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    let head = download.reader.head().await;
    assert_eq!(head.version, "HTTP/1.1");
    assert_eq!(
        head.header("content-length"),
        Some(LENGTH.to_string().as_str())
    );
    let mut received = 0;
    let receiving = async {
        while received < LENGTH {
            received += download.reader.some().await.len();
        }
    };
    within_time("the download", LONG, receiving).await;
    assert_eq!(received, LENGTH);

    let H1 {
        mut reader,
        mut writer,
    } = stage.h1().await;
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head =
            format!("POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {LENGTH}\r\n\r\n");
        writer.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![7; MIB];
        for _ in 0..LENGTH / MIB {
            writer.write_all(&piece).await.unwrap();
        }
        writer.flush().await.unwrap();
        writer
    });
    let response = within_time("the upload", LONG, reader.try_response("POST"))
        .await
        .unwrap();
    assert_eq!(response.text(), LENGTH.to_string());
    drop(sending.await.unwrap());

    let growth = stage.proxy.memory_growth(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
}

#[tokio::test]
async fn a_reader_that_stops_reading_stops_the_upstream_and_not_the_proxy() {
    const LENGTH: usize = 512 * MIB;
    let stage = Stage::start().await;
    let before = stage.proxy.memory_peak();
    let mut stuck = stage.h1().await;
    stuck
        .send(format!(
            "GET /size?n={LENGTH} HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    assert_eq!(stuck.reader.head().await.status, 200);
    for _ in 0..20 {
        assert_eq!(stage.who_answers().await, "blue");
    }
    let growth = stage.proxy.memory_growth(before);
    assert!(growth < 32 << 20, "grew by {growth} bytes");
}

#[tokio::test]
async fn an_upload_to_an_upstream_that_reads_slowly_and_says_nothing_goes_on() {
    const LENGTH: usize = 16 * MIB;
    let stage = Stage::start().await;
    let body = Bytes::from(vec![7; LENGTH]);
    let response = stage
        .h1()
        .await
        .request("POST", "/sink?slow=1", "", &body)
        .await;
    assert_eq!(response.text(), LENGTH.to_string());

    let request = H2::to("/sink?slow=1").method("POST").body(()).unwrap();
    let response = stage.h2().await.request(request, body).await;
    assert_eq!(response.text(), LENGTH.to_string());
}

#[tokio::test]
async fn an_answer_before_the_body_is_read_reaches_the_client() {
    let stage = Stage::start().await;
    for path in ["/early", "/early?close=1"] {
        let mut client = stage.h1().await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10000000\r\n\r\nonly this"
            ))
            .await;
        let response = client.response("POST").await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (413, "early"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_early_answer_to_an_h2_upload_leaves_the_connection_in_use() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    let request = H2::to("/early").method("POST").body(()).unwrap();
    let (response, mut body) = client.begin(request).await.unwrap();
    body.send_data(Bytes::from_static(b"a beginning"), false)
        .unwrap();
    let response = within("an early answer", read(response)).await.unwrap();
    assert_eq!(response.status, 413);
    assert_eq!(client.get("/").await.text(), "blue");
}

#[tokio::test]
async fn expect_100_continue_is_the_upstreams_to_answer() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("POST /100 HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"))
        .await;
    assert_eq!(client.reader.head().await.status, 100);
    client.send("12345").await;
    assert_eq!(client.response("POST").await.text(), "5");

    let mut client = stage.h1().await;
    client
        .send(format!("POST /100?refuse=1 HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"))
        .await;
    let response = client.response("POST").await;
    assert_eq!(response.status, 417);
    assert!(response.informational.is_empty());

    let client = stage.h2().await;
    for (path, expected) in [("/100", 200), ("/100?refuse=1", 417)] {
        let request = H2::to(path).method("POST").header("expect", "100-continue");
        let (mut response, mut body) = client.begin(request.body(()).unwrap()).await.unwrap();
        let said = poll_fn(|cx| response.poll_informational(cx));
        let said = within("100 or the answer", said).await.transpose().unwrap();
        assert_eq!(said.is_some(), expected == 200);
        if let Some(said) = said {
            assert_eq!(said.status(), 100);
            body.send_data(Bytes::from_static(b"12345"), true).unwrap();
        }
        let response = read(response).await.unwrap();
        assert_eq!(response.status, expected);
        assert_eq!(response.text() == "5", expected == 200);
    }
}

#[tokio::test]
async fn early_hints_are_passed_on() {
    let stage = Stage::start().await;
    let responses = [
        stage.h1().await.get("/103").await,
        stage.h2().await.get("/103").await,
    ];
    for response in responses {
        assert_eq!(response.text(), "blue");
        let hints = &response.informational;
        assert_eq!(hints.len(), 1, "{response:?}");
        assert_eq!(hints[0].status, 103);
        assert_eq!(hints[0].header("link"), Some("</style.css>; rel=preload"));
    }
}

#[tokio::test]
async fn head_204_and_304_have_no_body_and_leave_the_connection_in_use() {
    let stage = Stage::start().await;
    let mut h1 = stage.h1().await;
    let h2 = stage.h2().await;
    for _ in 0..2 {
        let response = h1.request("HEAD", "/head", "", b"").await;
        assert_eq!(
            (response.status, response.header("content-length")),
            (200, Some("1000"))
        );
        for code in [204, 304] {
            let response = h1.get(&format!("/status?code={code}")).await;
            assert_eq!(
                (response.status, response.header("etag")),
                (code, Some("\"a\""))
            );
            assert_eq!(response.header("transfer-encoding"), None);
            let response = h2.get(&format!("/status?code={code}")).await;
            assert_eq!((response.status, response.body.len()), (code, 0));
        }
        let request = H2::to("/head").method("HEAD").body(()).unwrap();
        let response = h2.request(request, Bytes::new()).await;
        assert_eq!((response.status, response.body.len()), (200, 0));
        assert_eq!(h1.get("/").await.text(), "blue");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_passed_on_whole() {
    let stage = Stage::start().await;
    let mut h1 = stage.h1().await;
    assert!(h1.get("/close-delimited?n=100000").await.body == pattern(100_000));
    // The client's connection need not end with the upstream's.
    assert_eq!(h1.get("/").await.text(), "blue");
    assert!(stage.h2().await.get("/close-delimited?n=100000").await.body == pattern(100_000));
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!(
            "GET /chunked?n=100000 HTTP/1.0\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    let response = client.response("GET").await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("transfer-encoding"), None);
    assert!(response.body == pattern(100_000));
}

#[tokio::test]
async fn a_chunked_download_arrives_whole_over_both_protocols() {
    let stage = Stage::start().await;
    assert!(stage.h1().await.get("/chunked?n=3000000").await.body == pattern(3_000_000));
    assert!(stage.h2().await.get("/chunked?n=3000000").await.body == pattern(3_000_000));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let stage = Stage::start().await;
    let answer = stage
        .h1()
        .await
        .try_request("GET", "/diemid", "", b"")
        .await;
    assert!(answer.is_err(), "{answer:?}");
    let request = H2::to("/diemid").body(()).unwrap();
    let answer = stage.h2().await.try_request(request, Bytes::new()).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_is_let_go() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hang HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hang", 1).await;
    drop(client);
    stage.proxy.wait_until_idle().await;

    let stream = connect(stage.proxy.https(), &Offer::h2(HOST))
        .await
        .unwrap();
    let client = H2::over(stream).await;
    let (response, _) = client
        .begin(H2::to("/hang").body(()).unwrap())
        .await
        .unwrap();
    stage.blue.wait_for("/hang", 2).await;
    drop(response);
    drop(client);
    stage.proxy.wait_until_idle().await;
}
