//! Properties of the pure parts that read what peers send: no input panics them, and what leaves is unambiguous.
//!
//! The head guard's are beside it in `head.rs`. `PROPTEST_CASES` sets how many inputs each property gets.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};
use mana_control::table::ResponseFields;
use pingora::http::{RequestHeader, ResponseHeader};
use proptest::prelude::*;

use crate::client_address::{Client, Peer};
use crate::compress_decision::Plan;
use crate::config::Compression;
use crate::edge::Scheme;
use crate::headers::{
    About, Framing, ResponseRules, request_for_upstream, response_for_client, response_framing,
};
use crate::trailers::TrailerTap;
use crate::websocket::FrameTracker;

const NAMES: [&str; 28] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-anything",
    "x-real-ip",
    "x-request-id",
    "x-middleware-subrequest",
    "cookie",
    "set-cookie",
    "accept",
    "accept-encoding",
    "cache-control",
    "content-type",
    "content-encoding",
    "etag",
    "vary",
    "x-kept",
    "x-hop",
];

const VALUES: [&str; 20] = [
    "",
    "close",
    "keep-alive, X-Hop",
    "host, content-length, x-real-ip",
    "upgrade",
    "websocket",
    "chunked",
    "5",
    "5, 5",
    "gzip;q=0.5, br;q=1.5;q=0, *",
    "zstd;q=",
    "no-transform",
    "text/html; charset=utf-8",
    "*/*",
    "W/\"a\"",
    "\"a",
    "a=1",
    "mana.so:443",
    "x",
    "a, b",
];

fn fields() -> impl Strategy<Value = HeaderMap> {
    let value = prop_oneof![
        8 => prop::sample::select(VALUES.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..=0xff], 0..40),
    ];
    let field = (prop::sample::select(NAMES.to_vec()), value);
    prop::collection::vec(field, 0..12).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(&value).expect("valid bytes");
            map.append(HeaderName::from_static(name), value);
        }
        map
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Empty),
        Just(Framing::Chunked),
        (1_u64..u64::MAX).prop_map(Framing::Length),
    ]
}

fn request(fields: HeaderMap, version: Version) -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.version = version;
    parts.headers = fields;
    RequestHeader::from(parts)
}

fn response(fields: HeaderMap, status: u16) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = http::StatusCode::from_u16(status).expect("a status");
    parts.headers = fields;
    ResponseHeader::from(parts)
}

fn count(fields: &HeaderMap, name: &HeaderName) -> usize {
    fields.get_all(name).iter().count()
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2])
}

proptest! {
    #[test]
    fn what_goes_to_the_upstream_can_be_read_in_one_way(
        fields in fields(), version in version(), framing in framing(), is_upgrade in any::<bool>()
    ) {
        let kept: Vec<_> = fields.get_all("x-kept").iter().cloned().collect();
        let request = request(fields, version);
        let client = Client {
            ip: [192, 0, 2, 1].into(),
            text: HeaderValue::from_static("192.0.2.1"),
            forwarded_for: HeaderValue::from_static("192.0.2.1"),
            scheme: Scheme::Https,
            peer: Peer::Stranger,
        };
        let about = About {
            client: &client,
            authority: &HeaderValue::from_static("mana.so"),
            request_id: &HeaderValue::from_static("abc"),
        };
        let head = request_for_upstream(&request, framing, is_upgrade, about);
        let out = &head.headers;
        prop_assert_eq!(out.get_all(header::HOST).iter().collect::<Vec<_>>(), ["mana.so"]);
        prop_assert!(
            count(out, &header::CONTENT_LENGTH) + count(out, &header::TRANSFER_ENCODING) <= 1
        );
        prop_assert_eq!(framing == Framing::Chunked, out.contains_key(header::TRANSFER_ENCODING));
        prop_assert!(count(out, &header::COOKIE) <= 1);
        for name in ["keep-alive", "te", "trailer", "proxy-authorization", "proxy-connection"] {
            prop_assert!(!out.contains_key(name), "{} passed", name);
        }
        prop_assert_eq!(out.contains_key("connection"), is_upgrade);
        prop_assert_eq!(out.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.1"]);
        prop_assert_eq!(out.get_all("x-real-ip").iter().collect::<Vec<_>>(), ["192.0.2.1"]);
        prop_assert!(!out.contains_key("x-forwarded-anything"));
        prop_assert!(!out.contains_key("x-middleware-subrequest"));
        prop_assert_eq!(out.get_all("x-kept").iter().cloned().collect::<Vec<_>>(), kept);
    }

    #[test]
    fn what_goes_to_the_client_can_be_read_in_one_way(
        fields in fields(), asked in fields(), version in version(),
        status in prop::sample::select(vec![200_u16, 204, 206, 304, 404, 500])
    ) {
        // The session has refused a response whose length is no number, or is there twice.
        let mut fields = fields;
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(header::TRANSFER_ENCODING);
        let cookies: Vec<_> = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
        let request = request(asked, version);
        let response = response(fields, status);
        let framing = response_framing(&response, &Method::GET, version);
        let id = HeaderValue::from_static("abc");
        let rules = ResponseRules { strict_transport_security: None, fields: &ResponseFields::default() };
        let mut out = response_for_client(&response, framing, rules, &id);
        let plan = Plan::of(&Compression::default(), &request, &response);
        plan.mark(&mut out);
        for name in ["keep-alive", "te", "trailer", "upgrade", "proxy-connection"] {
            prop_assert!(!out.headers.contains_key(name), "{} passed", name);
        }
        prop_assert_eq!(framing == Framing::Chunked, out.headers.contains_key(header::TRANSFER_ENCODING));
        let mut nominated = response.headers.get_all(header::CONNECTION).iter();
        if !nominated.any(|value| value.as_bytes().starts_with(b"host")) {
            let out: Vec<_> = out.headers.get_all(header::SET_COOKIE).iter().cloned().collect();
            prop_assert_eq!(out, cookies);
        }
        if let Plan::Encode(coding) = plan {
            prop_assert_eq!(&out.headers[header::CONTENT_ENCODING], coding.as_str());
            prop_assert!(out.headers.get(header::ETAG).is_none_or(|etag| etag.as_bytes().starts_with(b"W/")));
            prop_assert!(status != 206 && status != 304 && status != 204);
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_of_a_response_are_cut(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "transfer-encoding: chunked\r\n", "\r\n",
                "3\r\nabc\r\n", "0\r\n", "x: 1\r\n", "a", "\n", "\r", "ffffffffffffffff\r\n", " fold\r\n",
            ]),
            0..14,
        ),
        size in 1_usize..9,
    ) {
        let bytes = pieces.concat();
        let mut whole = TrailerTap::default();
        whole.pass(bytes.as_bytes());
        let mut cut = TrailerTap::default();
        for piece in bytes.as_bytes().chunks(size) {
            cut.pass(piece);
        }
        prop_assert_eq!(whole.take(), cut.take());
    }

    #[test]
    fn no_frames_of_a_websocket_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..9) {
        let mut whole = FrameTracker::default();
        whole.pass(&bytes);
        let mut cut = FrameTracker::default();
        for piece in bytes.chunks(size) {
            cut.pass(piece);
        }
        prop_assert_eq!(whole.is_at_boundary(), cut.is_at_boundary());
        prop_assert_eq!(whole.has_closed(), cut.has_closed());
    }
}
