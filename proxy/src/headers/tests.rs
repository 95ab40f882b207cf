//! Tables of the two rewrites.

use super::*;
use crate::edge::Scheme;

fn fields(of: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in of {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn request(version: Version, of: &[(&str, &str)]) -> RequestHead {
    let mut fields = fields(of);
    let path = fields.keep(b"/a?b");
    RequestHead::new(Method::GET, version, fields, path, None)
}

fn rewritten(request: &RequestHead) -> Vec<String> {
    rewritten_for(request, Peer::Stranger)
}

fn rewritten_for(request: &RequestHead, peer: Peer) -> Vec<String> {
    let (line, fields) = lines(&written(request, Framing::Empty, peer));
    assert_eq!(line, "GET /a?b HTTP/1.1");
    let mut fields: Vec<String> = fields.iter().map(|field| field.to_lowercase()).collect();
    fields.sort();
    fields
}

fn written(request: &RequestHead, framing: Framing, peer: Peer) -> Vec<u8> {
    let client = Client {
        ip: [192, 0, 2, 1].into(),
        text: HeaderValue::from_static("192.0.2.1"),
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        scheme: Scheme::Https,
        peer,
    };
    let about = About {
        client: &client,
        authority: b"mana.so",
        request_id: RequestId::from(0x86fa_7fa5_06d1_9313_2f0d_eb00_2b69_4e7c),
    };
    let mut bytes = Vec::new();
    write_request(&mut bytes, request, framing, false, about);
    bytes
}

/// The first line, and the others, of a head that ends where it should.
fn lines(head: &[u8]) -> (String, Vec<String>) {
    let text = String::from_utf8(head.to_vec()).expect("text");
    let text = text.strip_suffix("\r\n\r\n").expect("a head");
    let mut lines = text.split("\r\n").map(str::to_owned);
    (lines.next().expect("a first line"), lines.collect())
}

const SET: [&str; 6] = [
    "host: mana.so",
    "x-forwarded-for: 192.0.2.1",
    "x-forwarded-host: mana.so",
    "x-forwarded-proto: https",
    "x-real-ip: 192.0.2.1",
    "x-request-id: 86fa7fa506d193132f0deb002b694e7c",
];

#[test]
fn what_a_stranger_says_about_himself_is_replaced() {
    let fields = [
        ("host", "mana.so"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-port", "1"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-request-id", "mine"),
        ("x-middleware-subrequest", "middleware"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-real_ip", "1.2.3.4"),
        ("x_middleware_subrequest", "middleware"),
        ("x-middleware-subrequest", "src/middleware:src/middleware"),
        ("X-Forwarded-Ssl", "on"),
        ("X-FORWARDED-PROTO", "http"),
        ("cf-connecting-ip", "1.2.3.4"),
        ("true-client-ip", "1.2.3.4"),
    ];
    assert_eq!(rewritten(&request(Version::HTTP_11, &fields)), SET);
}

#[test]
fn of_a_trusted_peer_only_its_own_fields_pass() {
    let fields = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.example"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-middleware-subrequest", "middleware"),
        ("x_forwarded_for", "1.2.3.4"),
        ("x-real_ip", "1.2.3.4"),
        ("x_middleware_subrequest", "middleware"),
        ("cf-connecting-ip", "192.0.2.1"),
    ];
    let mut expected = vec!["cf-connecting-ip: 192.0.2.1"];
    expected.extend(SET);
    let request = request(Version::HTTP_11, &fields);
    assert_eq!(rewritten_for(&request, Peer::Trusted), expected);
}

#[test]
fn fields_for_this_hop_alone_go_no_further() {
    let fields = [
        ("connection", "close, X-Secret"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "x"),
        ("x-secret", "1"),
        ("proxy-authorization", "x"),
    ];
    let mut expected = vec!["host: mana.so", "http2-settings: x"];
    expected.extend(&SET[1..]);
    assert_eq!(rewritten(&request(Version::HTTP_11, &fields)), expected);
}

#[test]
fn connection_cannot_nominate_the_host_away() {
    let fields = [("connection", "host, x-real-ip")];
    assert_eq!(rewritten(&request(Version::HTTP_11, &fields)), SET);
}

#[test]
fn cookie_crumbs_are_joined() {
    let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let rewritten = rewritten(&request(Version::HTTP_2, &fields));
    assert!(
        rewritten.contains(&"cookie: a=1; b=2; c=3".to_owned()),
        "{rewritten:?}"
    );
}

#[test]
fn a_request_is_written_in_one_piece() {
    let mut head = request(
        Version::HTTP_11,
        &[
            ("Host", "mana.so"),
            ("X-One", "1"),
            ("COOKIE", "a"),
            ("expect", "100-continue"),
            ("x-One", "2"),
        ],
    );
    head.method = Method::POST;
    let text = |framing| String::from_utf8(written(&head, framing, Peer::Stranger)).expect("text");
    let expected = "POST /a?b HTTP/1.1\r\nHost: mana.so\r\nX-One: 1\r\nx-One: 2\r\nCookie: a\r\nExpect: 100-continue\r\n\
        Content-Length: 0\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: mana.so\r\nX-Request-ID: 86fa7fa506d193132f0deb002b694e7c\r\n\r\n";
    assert_eq!(text(Framing::Empty), expected);
    assert!(text(Framing::Length(12)).contains("\r\nContent-Length: 12\r\n"));
    assert!(text(Framing::Chunked).contains("\r\nTransfer-Encoding: chunked\r\n"));
}

fn response(status: u16, of: &[(&str, &str)]) -> ResponseHead {
    let mut response = ResponseHead::new(
        StatusCode::from_u16(status).expect("a status"),
        Version::HTTP_11,
    );
    response.fields = fields(of);
    response
}

#[test]
fn a_response_is_framed_for_its_client() {
    let get = &Method::GET;
    let plain = response(200, &[]);
    let length = response(200, &[("content-length", "5")]);
    let coded = response(
        200,
        &[("content-length", "5"), ("transfer-encoding", "chunked")],
    );
    let unchanged = response(304, &[("content-length", "5")]);
    for (response, method, version, expected) in [
        (&plain, get, Version::HTTP_11, Framing::Chunked),
        (&plain, get, Version::HTTP_10, Framing::UntilClose),
        (&plain, get, Version::HTTP_2, Framing::Frames),
        (&plain, &Method::HEAD, Version::HTTP_11, Framing::Empty),
        (&length, get, Version::HTTP_10, Framing::Length(5)),
        (&length, get, Version::HTTP_11, Framing::Length(5)),
        (&coded, get, Version::HTTP_11, Framing::Chunked),
        (&unchanged, get, Version::HTTP_11, Framing::Empty),
        (&unchanged, get, Version::HTTP_2, Framing::Empty),
    ] {
        assert_eq!(
            response_framing(response, method, version),
            expected,
            "{response:?}"
        );
    }
}

fn answered(
    response: &ResponseHead,
    framing: Framing,
    hsts: Option<&'static str>,
    site: &ResponseFields,
) -> Vec<String> {
    let hsts = hsts.map(HeaderValue::from_static);
    let rules = ResponseRules {
        strict_transport_security: hsts.as_ref(),
        fields: site,
        request_id: RequestId::from(0x86fa_7fa5_06d1_9313_2f0d_eb00_2b69_4e7c),
        date: || *b"Sun, 22 Nov 2026 09:00:00 GMT",
    };
    let mut bytes = Vec::new();
    write_response(
        &mut bytes,
        response,
        framing,
        Plan::Leave,
        rules,
        Some("keep-alive"),
    );
    let (line, fields) = lines(&bytes);
    let status = response.status;
    assert_eq!(
        line,
        format!(
            "HTTP/1.1 {} {}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        )
    );
    let map = response_map(response, Framing::Frames, Plan::Leave, rules);
    for (name, value) in &map {
        let field = format!("{name}: {}", value.to_str().expect("text"));
        let is_there = fields.iter().any(|one| one.eq_ignore_ascii_case(&field));
        assert!(
            is_there || name == "content-length",
            "{field} is told over HTTP/2 alone"
        );
    }
    fields
}

#[test]
fn a_response_loses_its_hop_by_hop_fields_and_keeps_the_rest() {
    let response = response(
        200,
        &[
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "timeout=5"),
            ("X-Hop", "1"),
            ("Set-Cookie", "a=1"),
            ("content-length", "5, 5"),
            ("strict-transport-security", "max-age=9"),
            ("x-request-id", "mine"),
            ("Set-Cookie", "b=2"),
        ],
    );
    let none = ResponseFields::default();
    let common = ["Set-Cookie: a=1", "Set-Cookie: b=2"];
    let rest = [
        "Strict-Transport-Security: max-age=1",
        "X-Request-ID: 86fa7fa506d193132f0deb002b694e7c",
        "Date: Sun, 22 Nov 2026 09:00:00 GMT",
        "Connection: keep-alive",
    ];
    for (framing, own) in [
        (Framing::Chunked, &["Transfer-Encoding: chunked"][..]),
        (Framing::Length(5), &["Content-Length: 5"]),
        (Framing::UntilClose, &[]),
    ] {
        let expected = [&common[..], own, &rest].concat();
        assert_eq!(
            answered(&response, framing, Some("max-age=1"), &none),
            expected
        );
    }
}

#[test]
fn what_an_upstream_says_of_its_own_time_and_transport_stays() {
    let response = response(
        204,
        &[
            ("date", "then"),
            ("strict-transport-security", "max-age=9"),
            ("content-length", "0"),
        ],
    );
    let fields = answered(&response, Framing::Empty, None, &ResponseFields::default());
    let expected = [
        "date: then",
        "strict-transport-security: max-age=9",
        "X-Request-ID: 86fa7fa506d193132f0deb002b694e7c",
        "Connection: keep-alive",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_site_sets_and_removes_fields_of_final_responses() {
    let of = [
        ("server", "Express"),
        ("x-powered-by", "Next.js"),
        ("X-Powered-By", "PHP"),
        ("x-frame-options", "ALLOW"),
        ("x-frame-options", "ALLOW"),
    ];
    let site = ResponseFields {
        set: vec![(
            http::header::X_FRAME_OPTIONS,
            HeaderValue::from_static("DENY"),
        )],
        remove: vec![
            http::header::SERVER,
            HeaderName::from_static("x-powered-by"),
        ],
    };
    let fields = answered(&response(200, &of), Framing::Empty, None, &site);
    let expected = [
        "x-frame-options: DENY",
        "X-Request-ID: 86fa7fa506d193132f0deb002b694e7c",
        "Date: Sun, 22 Nov 2026 09:00:00 GMT",
        "Connection: keep-alive",
    ];
    assert_eq!(fields, expected);
    let early = answered(&response(103, &of), Framing::Empty, None, &site);
    assert_eq!(early.len(), of.len() + 1);
    assert_eq!(early[0], "server: Express");
}

#[test]
fn there_is_one_date_whoever_says_it() {
    let date = |of: &[(&str, &str)], site: &ResponseFields| {
        let fields = answered(&response(200, of), Framing::Empty, None, site);
        let is_date = |field: &&String| field.to_lowercase().starts_with("date:");
        fields.iter().filter(is_date).cloned().collect::<Vec<_>>()
    };
    let none = ResponseFields::default();
    let sets = ResponseFields {
        set: vec![(http::header::DATE, HeaderValue::from_static("set"))],
        remove: Vec::new(),
    };
    let removes = ResponseFields {
        set: Vec::new(),
        remove: vec![http::header::DATE],
    };
    assert_eq!(date(&[], &none), ["Date: Sun, 22 Nov 2026 09:00:00 GMT"]);
    assert_eq!(date(&[("DATE", "then")], &none), ["DATE: then"]);
    assert_eq!(date(&[("date", "then")], &sets), ["date: set"]);
    assert_eq!(date(&[], &sets), ["date: set"]);
    assert_eq!(
        date(&[("date", "then")], &removes),
        ["Date: Sun, 22 Nov 2026 09:00:00 GMT"]
    );
    let hop = [("connection", "date"), ("date", "then")];
    assert_eq!(date(&hop, &none), ["Date: Sun, 22 Nov 2026 09:00:00 GMT"]);
}

#[test]
fn ids_of_requests_are_nothing_for_hpack_to_remember() {
    let id = RequestId::from(7);
    let none = ResponseFields::default();
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &none,
        request_id: id,
        date: || *b"Sun, 22 Nov 2026 09:00:00 GMT",
    };
    for (status, value) in [(200, id.as_str()), (103, "the upstream's")] {
        let response = response(status, &[("x-request-id", "the upstream's")]);
        let map = response_map(&response, Framing::Frames, Plan::Leave, rules);
        let values: Vec<&HeaderValue> = map.get_all(X_REQUEST_ID).iter().collect();
        assert_eq!(values, [value], "{status}");
        assert!(values[0].is_sensitive(), "{status}");
    }
}
