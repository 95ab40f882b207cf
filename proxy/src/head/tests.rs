//! Tables and properties of the head guard.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 1024,
    uri_bytes: 200,
    headers: 10,
};

fn verdict(head: &str) -> HeadScan {
    scan(head.as_bytes(), 0, LIMITS)
}

fn status(head: &str) -> Option<u16> {
    match verdict(head) {
        HeadScan::Refused(fault) => Some(fault.status().as_u16()),
        HeadScan::Partial | HeadScan::Complete { .. } => None,
    }
}

#[test]
fn a_complete_head_ends_before_its_body() {
    let head = "POST /a?b=c HTTP/1.1\r\nHost: mana.so\r\nContent-Length: 3\r\n\r\n";
    let with_body = format!("{head}abc");
    assert!(matches!(verdict(&with_body), HeadScan::Complete { end, .. } if end == head.len()));
}

#[test]
fn a_head_is_found_however_it_is_cut() {
    let head = "GET / HTTP/1.1\r\nHost: mana.so\r\n\r\n";
    for cut in 0..head.len() {
        assert_eq!(verdict(&head[..cut]), HeadScan::Partial, "cut at {cut}");
        let resumed = scan(head.as_bytes(), cut, LIMITS);
        let is_whole = matches!(resumed, HeadScan::Complete { end, .. } if end == head.len());
        assert!(is_whole, "cut at {cut}");
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let table = [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\r\r\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("G\u{e4}T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("\x16\x03\x01\x02", 400),
    ];
    for (head, expected) in table {
        assert_eq!(status(head), Some(expected), "{head:?}");
    }
}

#[test]
fn each_size_has_its_own_answer() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(200));
    assert_eq!(status(&long_target), Some(414));
    let endless_line = "G".repeat(300);
    assert_eq!(status(&endless_line), Some(414));
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(1024)
    );
    assert_eq!(status(&large), Some(431));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10));
    assert_eq!(status(&many), Some(431));
}

#[test]
fn ordinary_heads_pass() {
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\nHost: mana.so:\r\nX: y\n\n",
        "OPTIONS * HTTP/1.1\r\nHost: mana.so:8443\r\n\r\n",
        "GET http://mana.so/a?b HTTP/1.1\r\nHost: mana.so\r\n\r\n",
        "GET /a|b^c`{d}%20[e] HTTP/1.1\r\nHost: [::1]:80\r\nX-Empty:\r\nCookie: a=\"b\"; c=\u{e4}\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:  Chunked \r\n\r\n",
    ] {
        let is_whole = matches!(verdict(head), HeadScan::Complete { end, .. } if end == head.len());
        assert!(is_whole, "{head:?}");
    }
}

#[test]
fn a_target_that_is_a_url_is_taken_apart() {
    let read = |target: &str, host: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nX: y\r\nHost: {host}\r\n\r\n");
        match verdict(&head) {
            HeadScan::Complete { head, .. } => {
                let authority = head.authority().expect("a host").to_vec();
                (
                    String::from_utf8(authority).expect("text"),
                    head.path_and_query().to_owned(),
                )
            }
            other => panic!("{target}: {other:?}"),
        }
    };
    let table = [
        ("/http://a/", "b", ("b", "/http://a/")),
        ("http://a/b", "a", ("a", "/b")),
        ("HTTP://A/", "a", ("A", "/")),
        ("https://a:443?c", "a.", ("a:443", "/?c")),
        ("http://[::1]:80/", "[::1]", ("[::1]:80", "/")),
        ("http://a", "A:80", ("a", "/")),
    ];
    for (target, host, (authority, path)) in table {
        let expected = (authority.to_owned(), path.to_owned());
        assert_eq!(read(target, host), expected, "{target}");
    }
    for (target, host) in [
        ("http://a/", "b"),
        ("http://a:1/", "a:2"),
        ("http://b@a/", "a"),
        ("http:///", "a"),
        ("http://[::1]/", "[::2]"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(status(&head), Some(400), "{head:?}");
    }
}

#[test]
fn what_a_head_says_is_read() {
    let text = "OPTIONS * HTTP/1.0\r\nX-One:  1 \r\nCookie: \t\r\nx-ONE:2\n\r\n";
    let HeadScan::Complete { end, head } = verdict(text) else {
        panic!("{:?}", verdict(text));
    };
    assert_eq!(
        (end, head.path_and_query(), head.authority()),
        (text.len(), "*", None)
    );
    assert_eq!(
        (head.method, head.version),
        (http::Method::OPTIONS, http::Version::HTTP_10)
    );
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    assert_eq!(
        fields,
        [
            (&b"X-One"[..], &b"1"[..]),
            (b"Cookie", b""),
            (b"x-ONE", b"2")
        ]
    );
    let HeadScan::Complete { head, .. } = verdict("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
    else {
        panic!("refused later");
    };
    assert_eq!(head.path_and_query(), "/");
}

#[test]
fn empty_lines_before_a_request_are_counted() {
    assert_eq!(leading_empty_lines(b"\r\n\n\r\nGET"), 5);
    assert_eq!(leading_empty_lines(b"GET"), 0);
}

/// Bytes as a fuzzer sends them: pieces of real heads, glued and spoilt.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /a?b HTTP/1.1\r\n", "GET / HTTP/1.0\r\n", "Host: mana.so\r\n",
            "host: a:80\r\n", "Content-Length: 5\r\n", "Content-Length: 05\r\n", "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n", "X: y\r\n", "\r\n", "\n", " folded\r\n", "X : y\r\n",
            "Connection: close\r\n", "Cookie: a=1\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_panic_and_resuming_a_scan_changes_nothing(bytes in head_like(), cut in any::<prop::sample::Index>()) {
        let whole = scan(&bytes, 0, LIMITS);
        let cut = cut.index(bytes.len() + 1);
        if let HeadScan::Partial = scan(&bytes[..cut], 0, LIMITS) {
            prop_assert_eq!(scan(&bytes, cut, LIMITS), whole);
        }
    }

    #[test]
    fn what_passes_is_read_in_one_way_by_another_parser(bytes in head_like()) {
        if let HeadScan::Complete { end, .. } = scan(&bytes, 0, LIMITS) {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(&bytes);
            prop_assert_eq!(parsed, Ok(httparse::Status::Complete(end)));
            let count = |name: &str| {
                request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
            };
            prop_assert!(count("host") <= 1);
            prop_assert!(count("content-length") + count("transfer-encoding") <= 1);
        }
    }
}
