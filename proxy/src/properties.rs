//! What must hold of the pure parts that read what peers send, whatever the bytes: nothing panics, and what leaves is
//! unambiguous.
//!
//! Owns the properties alone, as functions that panic where one does not hold. Inputs come from two sides: `generated`
//! makes them up for `cargo test`, and the fuzzer of `tests/fuzz` finds its own by coverage. The head guard's own are
//! beside it in `head.rs`.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use mana_control::table::ResponseFields;
use pingora::http::{RequestHeader, ResponseHeader};

use crate::client_address::{AddressHeader, Client, ClientRules, Peer, field_value};
use crate::compress_decision::Plan;
use crate::config::Compression;
use crate::edge::Scheme;
use crate::headers::{
    About, Framing, ResponseRules, request_for_upstream, response_for_client, response_framing,
};
use crate::trailers::TrailerTap;
use crate::websocket::FrameTracker;

#[cfg(test)]
mod generated;

/// A request with these fields can be read in one way by its upstream, and says what the proxy decided.
pub fn what_goes_to_the_upstream_can_be_read_in_one_way(
    fields: HeaderMap,
    version: Version,
    framing: Framing,
    is_upgrade: bool,
) {
    let kept: Vec<_> = fields.get_all("x-kept").iter().cloned().collect();
    let is_hop = is_nominated(&fields, b"x-kept");
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
    assert_eq!(all(out, "host"), ["mana.so"]);
    assert!(count(out, &header::CONTENT_LENGTH) + count(out, &header::TRANSFER_ENCODING) <= 1);
    assert_eq!(
        framing == Framing::Chunked,
        out.contains_key(header::TRANSFER_ENCODING)
    );
    assert!(count(out, &header::COOKIE) <= 1);
    for name in [
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "proxy-connection",
        "x-forwarded-anything",
        "x-middleware-subrequest",
    ] {
        assert!(!out.contains_key(name), "{name} passed");
    }
    assert_eq!(out.contains_key("connection"), is_upgrade);
    assert_eq!(all(out, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(all(out, "x-real-ip"), ["192.0.2.1"]);
    if !is_hop {
        assert_eq!(all(out, "x-kept"), kept);
    }
}

/// A response with these fields can be read in one way by the client that `asked`.
pub fn what_goes_to_the_client_can_be_read_in_one_way(
    mut fields: HeaderMap,
    asked: HeaderMap,
    version: Version,
    status: StatusCode,
) {
    // The session has refused a response whose length is no number, or is there twice.
    fields.remove(header::CONTENT_LENGTH);
    fields.remove(header::TRANSFER_ENCODING);
    let cookies: Vec<_> = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
    let is_hop = is_nominated(&fields, b"set-cookie");
    let request = request(asked, version);
    let response = response(fields, status);
    let framing = response_framing(&response, &Method::GET, version);
    let id = HeaderValue::from_static("abc");
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &ResponseFields::default(),
    };
    let mut out = response_for_client(&response, framing, rules, &id);
    let plan = Plan::of(&Compression::default(), &request, &response);
    plan.mark(&mut out);
    let out = &out.headers;
    for name in ["keep-alive", "te", "trailer", "upgrade", "proxy-connection"] {
        assert!(!out.contains_key(name), "{name} passed");
    }
    assert_eq!(
        framing == Framing::Chunked,
        out.contains_key(header::TRANSFER_ENCODING)
    );
    if !is_hop {
        assert_eq!(all(out, "set-cookie"), cookies);
    }
    if let Plan::Encode(coding) = plan {
        assert_eq!(out[header::CONTENT_ENCODING], coding.as_str());
        let etag = out.get(header::ETAG);
        assert!(etag.is_none_or(|etag| etag.as_bytes().starts_with(b"W/")));
        assert!(!matches!(status.as_u16(), 204 | 206 | 304));
    }
}

/// Who a client is said to be is an address of the chain, the peer's own unless it is believed.
pub fn a_client_is_its_peer_or_whom_a_trusted_one_names(fields: &HeaderMap, is_trusted: bool) {
    let peer = IpAddr::from([10, 0, 0, 1]);
    let rules = ClientRules {
        trusted: match is_trusted {
            true => vec![peer.into(), IpAddr::from([10, 0, 0, 2]).into()],
            false => Vec::new(),
        },
        address_headers: AddressHeader::ALL.to_vec(),
        ..ClientRules::default()
    };
    let client = rules.client(peer, &field_value("10.0.0.1"), Scheme::Http, fields);
    let words = |value: &HeaderValue| value.to_str().expect("ASCII").to_owned();
    assert_eq!(words(&client.text), client.ip.to_string());
    let forwarded_for = words(&client.forwarded_for);
    let chain: Vec<IpAddr> = forwarded_for
        .split(", ")
        .map(|ip| ip.parse().expect("an address"))
        .collect();
    assert_eq!(chain.first(), Some(&client.ip));
    assert_eq!(chain.last(), Some(&peer));
    if !is_trusted {
        assert_eq!(
            (client.ip, client.scheme, chain.len()),
            (peer, Scheme::Http, 1)
        );
    }
}

/// A response's trailers are found alike, whole or in pieces of `size`.
pub fn it_does_not_matter_how_the_bytes_of_a_response_are_cut(bytes: &[u8], size: usize) {
    let mut whole = TrailerTap::default();
    whole.pass(bytes);
    let mut cut = TrailerTap::default();
    for piece in bytes.chunks(size) {
        cut.pass(piece);
    }
    assert_eq!(whole.take(), cut.take());
}

/// Nor those of a websocket.
pub fn it_does_not_matter_how_the_frames_of_a_websocket_are_cut(bytes: &[u8], size: usize) {
    let mut whole = FrameTracker::default();
    whole.pass(bytes);
    let mut cut = FrameTracker::default();
    for piece in bytes.chunks(size) {
        cut.pass(piece);
    }
    assert_eq!(whole.is_at_boundary(), cut.is_at_boundary());
    assert_eq!(whole.has_closed(), cut.has_closed());
}

fn request(fields: HeaderMap, version: Version) -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.version = version;
    parts.headers = fields;
    RequestHeader::from(parts)
}

fn response(fields: HeaderMap, status: StatusCode) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = fields;
    ResponseHeader::from(parts)
}

fn all(fields: &HeaderMap, name: &str) -> Vec<HeaderValue> {
    fields.get_all(name).iter().cloned().collect()
}

fn count(fields: &HeaderMap, name: &HeaderName) -> usize {
    fields.get_all(name).iter().count()
}

/// Whether `Connection` says that a field is for the next hop alone.
fn is_nominated(fields: &HeaderMap, name: &[u8]) -> bool {
    let mut values = fields.get_all(header::CONNECTION).iter();
    values.any(|value| {
        let mut names = value.as_bytes().split(|byte| *byte == b',');
        names.any(|one| one.trim_ascii().eq_ignore_ascii_case(name))
    })
}
