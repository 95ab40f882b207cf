//! Two parsers never disagree: thousands of generated requests, read by another parser, by the proxy, and by an upstream
//! that takes nothing doubtful. One request in is at most one request out, with the same body.

use std::sync::Arc;

use fastrand::Rng;

use crate::support::{H1, HOST, Stage, within};

/// Requests that are sent; half a minute's worth in the dev profile.
const CASES: u64 = 3000;
/// Clients that send them side by side.
const CLIENTS: u64 = 6;
/// A case that fails is found again by its number.
const SEED: u64 = 9112;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_in_is_at_most_one_request_out_with_the_same_body() {
    let stage = Arc::new(
        Stage::with(|config| {
            // All of them come from one address.
            config.set("limits", "requests_per_address", "0");
        })
        .await,
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                let mut expected = Read::default();
                for case in (client..CASES).step_by(CLIENTS as usize) {
                    expected.add(judge(&stage, case).await);
                }
                expected
            })
        })
        .collect();
    let mut expected = Read::default();
    for client in clients {
        expected.add(client.await.unwrap());
    }
    stage.proxy.wait_until_idle().await;
    let out = stage.blue.requests() + stage.green.requests();
    assert!(
        out <= expected.heads,
        "{out} came out of {}",
        expected.heads
    );
    // Enough of them are in order for the rest to mean something.
    assert!(
        out > expected.heads / 2,
        "{out} came out of {}",
        expected.heads
    );
    assert!(stage.blue.faults().is_empty(), "{:?}", stage.blue.faults());
    let seen = stage.blue.seen();
    let mut ids: Vec<_> = seen
        .iter()
        .map(|seen| seen.header("x-request-id"))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), out, "a request was sent twice");
}

/// Sends one case; what another parser reads in it.
async fn judge(stage: &Stage, case: u64) -> Read {
    let bytes = generate(case);
    let expected = read(&bytes);
    let mut client: H1 = stage.h1().await;
    // The proxy may have refused it before it was all sent.
    let sent = client.try_send(&bytes).await.is_ok();
    if sent {
        tokio::io::AsyncWriteExt::shutdown(&mut client.writer)
            .await
            .ok();
    }
    let mut answered = 0;
    while let Ok(response) =
        within("an answer or the end", client.reader.try_response("POST")).await
    {
        if response.status == 200 {
            let shown = String::from_utf8_lossy(&bytes);
            let body = expected.bodies.get(answered);
            assert!(
                body.is_some_and(|body| body
                    .as_ref()
                    .is_none_or(|body| *body == response.body[..])),
                "case {case}, answer {answered}: {:?} came back of {shown:?}",
                response.text()
            );
        }
        answered += 1;
    }
    expected
}

// === the second reader ===

/// What was read: heads, and the bodies that are whole; `None` where another path than that of the echo was asked.
#[derive(Default)]
struct Read {
    heads: usize,
    bodies: Vec<Option<Vec<u8>>>,
}

impl Read {
    fn add(&mut self, other: Read) {
        self.heads += other.heads;
    }
}

/// Reads requests as `httparse` does, up to the first thing that is not in order.
fn read(mut bytes: &[u8]) -> Read {
    let mut read = Read::default();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(end)) = request.parse(bytes) else {
            return read;
        };
        let values = |name: &str| -> Vec<&[u8]> {
            let named = request
                .headers
                .iter()
                .filter(|f| f.name.eq_ignore_ascii_case(name));
            named.map(|field| field.value).collect()
        };
        let body = match (
            &values("content-length")[..],
            &values("transfer-encoding")[..],
        ) {
            ([], []) => Some((Vec::new(), 0)),
            ([length], []) => sized(&bytes[end..], length),
            ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => chunked(&bytes[end..]),
            _ => return read,
        };
        read.heads += 1;
        let Some((body, used)) = body else {
            return read;
        };
        let path = request.path.unwrap_or_default();
        let is_echo = path == "/echo" || path.starts_with("/echo?");
        read.bodies.push(is_echo.then_some(body));
        bytes = &bytes[end + used..];
    }
}

fn sized(bytes: &[u8], length: &[u8]) -> Option<(Vec<u8>, usize)> {
    let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
    bytes.get(..length).map(|body| (body.to_vec(), length))
}

fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(&bytes[at..]).ok()?
        else {
            return None;
        };
        at += line;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(bytes.get(at..end)?);
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    loop {
        let length = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        at += length + 2;
        if length == 0 {
            return Some((body, at));
        }
    }
}

// === the generator ===

fn generate(case: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(SEED.wrapping_mul(1_000_003).wrapping_add(case));
    let mut bytes = request(&mut rng, &format!("case-{case}"));
    if rng.u8(..) < 60 {
        bytes.extend(request(&mut rng, &format!("case-{case}-second")));
    }
    if rng.u8(..) < 110 {
        for _ in 0..rng.usize(1..4) {
            mutate(&mut rng, &mut bytes);
        }
    }
    bytes
}

fn request(rng: &mut Rng, id: &str) -> Vec<u8> {
    let method = pick(rng, &["POST", "POST", "PUT", "GET", "DELETE"]);
    let body = body(rng);
    let mut head = format!("{method} /echo?{id} HTTP/1.1\r\nhost: {HOST}\r\nx-test-id: {id}\r\n");
    for _ in 0..rng.usize(0..3) {
        head.push_str(pick(rng, FIELDS));
        head.push_str("\r\n");
    }
    let length = body.len();
    let (framing, body) = match rng.u8(0..12) {
        0..=3 => (format!("content-length: {length}\r\n"), body),
        4..=7 => (
            "transfer-encoding: chunked\r\n".to_owned(),
            in_chunks(rng, &body),
        ),
        8 => (String::new(), Vec::new()),
        9 => (
            format!("content-length: {}\r\n", length.saturating_sub(3)),
            body,
        ),
        10 => {
            let line = pick(rng, FRAMINGS);
            (
                format!("{line}\r\ncontent-length: {length}\r\n"),
                in_chunks(rng, &body),
            )
        }
        _ => (
            format!("{}\r\n", pick(rng, FRAMINGS)),
            in_chunks(rng, &body),
        ),
    };
    head.push_str(&framing);
    head.push_str("\r\n");
    [head.into_bytes(), body].concat()
}

fn body(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(0..4) {
        0 => format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n").into_bytes(),
        1 => b"\r\n".repeat(rng.usize(0..4)),
        _ => (0..rng.usize(0..3000)).map(|_| rng.u8(..)).collect(),
    }
}

fn in_chunks(rng: &mut Rng, mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let (piece, rest) = body.split_at(rng.usize(1..=body.len()));
        let extension = pick(rng, &["", "", "", ";a=b", ";a=\"b\""]);
        out.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
        body = rest;
    }
    let end = pick(
        rng,
        &[
            "0\r\n\r\n",
            "0\r\n\r\n",
            "0\r\nx-sum: 1\r\n\r\n",
            "000\r\n\r\n",
        ],
    );
    out.extend_from_slice(end.as_bytes());
    out
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    // Mostly in the heads and the chunk sizes, where it matters.
    let at = rng.usize(..bytes.len().clamp(1, 400)).min(bytes.len());
    let piece = pick(rng, PIECES);
    match rng.u8(0..3) {
        0 if at < bytes.len() => drop(bytes.remove(at)),
        1 if at < bytes.len() => drop(bytes.splice(at..=at, piece.iter().copied())),
        _ => drop(bytes.splice(at..at, piece.iter().copied())),
    }
}

fn pick<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

const FIELDS: &[&str] = &[
    "connection: keep-alive",
    "connection: close",
    "connection: content-length",
    "connection: transfer-encoding, host",
    "expect: 100-continue",
    "te: trailers",
    "trailer: x-sum",
    "accept: */*",
    "x-empty:",
    "content_length: 3",
    "upgrade: h2c",
    "cookie: a=1; b=2",
];

const FRAMINGS: &[&str] = &[
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: xchunked",
    "transfer-encoding: identity",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding:\tchunked",
    "transfer-encoding: chunked ",
    "transfer-encoding : chunked",
    "Transfer-Encoding: CHUNKED",
    "transfer-encoding: \"chunked\"",
    " transfer-encoding: chunked",
    "x: y\n transfer-encoding: chunked",
    "content-length: +3",
    "content-length: 3, 3",
    "content-length: 0x3",
    "content-length: 18446744073709551619",
    "content-length:",
];

const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b":",
    b"\t",
    b" ",
    b"\x0b",
    b",",
    b"0",
    b"\r\n\r\n",
    b"\x80",
    b";",
    b"f",
];
