//! What the pure pieces of a request's way cost, one by one: reading its head, the verdict, the choice of an upstream, the
//! two rewrites, a body in chunks, the load of the table.
//!
//! Run by `make bench-pieces`. Figures are nanoseconds of this machine: for looking at what a change does, not to compare
//! with anybody.

#[path = "../../proxy/src/testing.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod testing;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use http::header::HeaderValue;
use http::{Method, Version};
use mana_certs::Challenges;
use mana_control::Table;
use mana_control::table::ResponseFields;
use mana_proxy::body::{BodyReader, Taken};
use mana_proxy::client_address::{Client, Peer};
use mana_proxy::compress_decision::Plan;
use mana_proxy::config::Compression;
use mana_proxy::edge::{Asked, HttpsPort, Scheme, verdict};
use mana_proxy::head::{HeadLimits, HeadScan, scan};
use mana_proxy::headers::{
    About, Framing, ResponseRules, response_framing, response_map, write_request, write_response,
};
use mana_proxy::request_head::RequestHead;
use mana_proxy::request_id::RequestId;
use mana_proxy::response_head::{BodyLength, ResponseHead};
use mana_proxy::select::candidates;

/// As a browser sends it through a CDN.
const REQUEST: &[u8] = b"GET /projects/42?tab=activity HTTP/1.1\r\nHost: mana.so\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.9\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\n\
    Referer: https://mana.so/\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\
    X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nPriority: u=0, i\r\n\r\n";

/// As Next.js answers.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nVary: RSC, Next-Router-State-Tree, Next-Router-Prefetch\r\n\
    Cache-Control: private, no-cache, no-store, max-age=0, must-revalidate\r\nX-Powered-By: Next.js\r\n\
    Content-Type: text/html; charset=utf-8\r\nDate: Sun, 22 Nov 2026 09:00:00 GMT\r\nConnection: keep-alive\r\n\
    Keep-Alive: timeout=5\r\nETag: \"abcdef0123456789\"\r\nTransfer-Encoding: chunked\r\n\r\n";

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 64 * 1024,
    uri_bytes: 16 * 1024,
    headers: 100,
};

fn request() -> RequestHead {
    match scan(REQUEST, 0, LIMITS) {
        HeadScan::Complete { head, .. } => head,
        other => panic!("{other:?}"),
    }
}

fn response() -> ResponseHead {
    let read = ResponseHead::read(RESPONSE).expect("good");
    read.expect("complete").0
}

fn heads(criterion: &mut Criterion) {
    criterion.bench_function("head: bytes to what they say", |bench| {
        bench.iter(|| scan(black_box(REQUEST), 0, LIMITS));
    });
    criterion.bench_function("response head: bytes to what they say", |bench| {
        bench.iter(|| ResponseHead::read(black_box(RESPONSE)));
    });
}

fn decisions(criterion: &mut Criterion) {
    let challenges = Challenges::default();
    for sites in [1, 1000] {
        let all = (0..sites).map(|n| Arc::new(testing::site(&format!("s{n}.mana.so"), &[])));
        let table = Table::new(1, all.collect());
        let host = format!("s{}.mana.so", sites - 1);
        criterion.bench_function(&format!("edge: a verdict, of {sites} sites"), |bench| {
            let asked = Asked {
                scheme: Scheme::Https,
                peer: Peer::Stranger,
                method: &Method::GET,
                authority: &host,
                path_and_query: "/projects/42?tab=activity",
            };
            let port = HttpsPort::Port(443);
            bench.iter(|| verdict(black_box(asked), &table, port, &challenges));
        });
        let published = ArcSwap::from_pointee(table);
        criterion.bench_function(&format!("table: a load, of {sites} sites"), |bench| {
            bench.iter(|| published.load().generation);
        });
    }
    for upstreams in [1, 8, 64] {
        let names: Vec<String> = (0..upstreams)
            .map(|n| format!("127.0.0.1:{}", 4000 + n))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let site = testing::site_with(&names, &names);
        let now = Instant::now();
        criterion.bench_function(&format!("select: of {upstreams} upstreams"), |bench| {
            bench.iter(|| candidates(black_box(&site), now, 0x1234_5678_9abc));
        });
    }
}

fn rewrites(criterion: &mut Criterion) {
    let (request, response) = (request(), response());
    let client = Client {
        ip: [192, 0, 2, 1].into(),
        text: HeaderValue::from_static("192.0.2.1"),
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        scheme: Scheme::Https,
        peer: Peer::Stranger,
    };
    let request_id = RequestId::random();
    let about = About {
        client: &client,
        authority: b"mana.so",
        request_id,
    };
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &ResponseFields::default(),
        request_id,
        date: || *b"Sun, 22 Nov 2026 09:00:00 GMT",
    };
    let plan = Plan::of(&Compression::default(), &request, &response);
    criterion.bench_function("headers: a request for the upstream", |bench| {
        bench.iter(|| {
            let mut bytes = Vec::with_capacity(2048);
            write_request(
                &mut bytes,
                black_box(&request),
                Framing::Empty,
                false,
                about,
            );
            bytes
        });
    });
    criterion.bench_function("compression: a plan", |bench| {
        bench.iter(|| Plan::of(&Compression::default(), black_box(&request), &response));
    });
    criterion.bench_function("headers: a response for HTTP/1", |bench| {
        let framing = response_framing(&response, &request.method, Version::HTTP_11);
        bench.iter(|| {
            let mut bytes = Vec::with_capacity(2048);
            write_response(&mut bytes, black_box(&response), framing, plan, rules, None);
            bytes
        });
    });
    criterion.bench_function("headers: a response for HTTP/2", |bench| {
        bench.iter(|| response_map(black_box(&response), Framing::Frames, plan, rules));
    });
}

fn bodies(criterion: &mut Criterion) {
    let chunk = [&b"400\r\n"[..], &[b'a'; 1024], b"\r\n"].concat();
    let whole = [chunk.repeat(16), b"0\r\n\r\n".to_vec()].concat();
    criterion.bench_function("body: 16 KiB in chunks of 1 KiB", |bench| {
        bench.iter(|| {
            let mut bytes = BytesMut::from(&whole[..]);
            let mut reader = BodyReader::new(BodyLength::Chunked);
            let mut length = 0;
            while let Ok(Taken::Data(piece)) = reader.take(&mut bytes) {
                length += piece.len();
            }
            assert_eq!(length, 16 * 1024);
        });
    });
}

criterion_group!(pieces, heads, decisions, rewrites, bodies);
criterion_main!(pieces);
