//! Tables of the two rewrites.

use super::*;
use crate::edge::Scheme;

fn request(version: Version, fields: &[(&str, &str)]) -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.version = version;
    parts.uri = "/a?b".parse().expect("a target");
    for (name, value) in fields {
        parts.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    RequestHeader::from(parts)
}

fn rewritten(request: &RequestHeader) -> Vec<String> {
    rewritten_for(request, Peer::Stranger)
}

fn rewritten_for(request: &RequestHeader, peer: Peer) -> Vec<String> {
    let client = Client {
        ip: [192, 0, 2, 1].into(),
        text: HeaderValue::from_static("192.0.2.1"),
        forwarded_for: HeaderValue::from_static("192.0.2.1"),
        scheme: Scheme::Https,
        peer,
    };
    let about = About {
        client: &client,
        authority: &HeaderValue::from_static("mana.so"),
        request_id: &HeaderValue::from_static("abc"),
    };
    let head = request_for_upstream(request, Framing::Empty, false, about);
    let mut fields: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
        .collect();
    fields.sort();
    fields
}

const SET: [&str; 6] = [
    "host: mana.so",
    "x-forwarded-for: 192.0.2.1",
    "x-forwarded-host: mana.so",
    "x-forwarded-proto: https",
    "x-real-ip: 192.0.2.1",
    "x-request-id: abc",
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
fn a_response_is_framed_for_its_client() {
    let mut response = ResponseHeader::build_no_case(200, None).expect("a response");
    let get = &Method::GET;
    assert_eq!(
        response_framing(&response, get, Version::HTTP_11),
        Framing::Chunked
    );
    assert_eq!(
        response_framing(&response, get, Version::HTTP_10),
        Framing::UntilClose
    );
    assert_eq!(
        response_framing(&response, get, Version::HTTP_2),
        Framing::Frames
    );
    assert_eq!(
        response_framing(&response, &Method::HEAD, Version::HTTP_11),
        Framing::Empty
    );
    response
        .insert_header("content-length", "5")
        .expect("a field");
    assert_eq!(
        response_framing(&response, get, Version::HTTP_10),
        Framing::Length(5)
    );
    response.set_status(304).expect("a status");
    assert_eq!(
        response_framing(&response, get, Version::HTTP_11),
        Framing::Empty
    );
}

#[test]
fn a_response_loses_its_hop_by_hop_fields_and_keeps_the_rest() {
    let mut response = ResponseHeader::build_no_case(200, None).expect("a response");
    for (name, value) in [
        ("connection", "keep-alive, x-hop"),
        ("keep-alive", "timeout=5"),
        ("x-hop", "1"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ] {
        response.append_header(name, value).expect("a field");
    }
    let id = HeaderValue::from_static("abc");
    let hsts = HeaderValue::from_static("max-age=1");
    let rules = ResponseRules {
        strict_transport_security: Some(&hsts),
        fields: &ResponseFields::default(),
    };
    let head = response_for_client(&response, Framing::Chunked, rules, &id);
    let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "set-cookie",
            "strict-transport-security",
            "transfer-encoding",
            "x-request-id"
        ]
    );
    assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
}

#[test]
fn a_site_sets_and_removes_fields_of_final_responses() {
    let mut response = ResponseHeader::build_no_case(200, None).expect("a response");
    for (name, value) in [
        ("server", "Express"),
        ("x-powered-by", "Next.js"),
        ("x-powered-by", "PHP"),
        ("x-frame-options", "ALLOW"),
        ("x-frame-options", "ALLOW"),
    ] {
        response.append_header(name, value).expect("a field");
    }
    let fields = ResponseFields {
        set: vec![(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))],
        remove: vec![header::SERVER, HeaderName::from_static("x-powered-by")],
    };
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &fields,
    };
    let id = HeaderValue::from_static("abc");
    let head = response_for_client(&response, Framing::Empty, rules, &id);
    let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-frame-options", "x-request-id"]);
    assert_eq!(head.headers[header::X_FRAME_OPTIONS], "DENY");
    response.set_status(103).expect("a status");
    let early = response_for_client(&response, Framing::Empty, rules, &id);
    assert_eq!(early.headers[header::SERVER], "Express");
}
