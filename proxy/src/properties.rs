//! What must hold of the pure parts that read what peers send, whatever the bytes: nothing panics, and what leaves is
//! unambiguous.
//!
//! Owns the properties alone, as functions that panic where one does not hold. Inputs come from two sides: `generated`
//! makes them up for `cargo test`, and the fuzzer of `tests/fuzz` finds its own by coverage. The head guard's own are
//! beside it in `head.rs`.

use std::net::IpAddr;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use mana_control::table::ResponseFields;

use crate::body::{BodyFault, BodyReader, Taken};
use crate::client_address::{AddressHeader, Client, ClientRules, Peer, field_value};
use crate::compress_decision::Plan;
use crate::config::Compression;
use crate::edge::Scheme;
use crate::fields::{Fields, Span};
use crate::headers::{
    About, Framing, ResponseRules, response_framing, response_map, write_request, write_response,
};
use crate::request_head::RequestHead;
use crate::request_id::RequestId;
use crate::response_head::{BodyLength, ResponseHead};
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
    let kept = all(&fields, "x-kept");
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
        authority: b"mana.so",
        request_id: RequestId::from(0xabc),
    };
    let mut bytes = Vec::new();
    write_request(&mut bytes, &request, framing, is_upgrade, about);
    let out = &fields_of_whole(&bytes);
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
    fields: HeaderMap,
    asked: HeaderMap,
    version: Version,
    status: StatusCode,
) {
    let cookies = all(&fields, "set-cookie");
    let is_hop = is_nominated(&fields, b"set-cookie");
    let request = request(asked, version);
    // A response whose end is unclear is refused.
    let Some(response) = response(fields, status) else {
        return;
    };
    let framing = response_framing(&response, &Method::GET, version);
    let rules = ResponseRules {
        strict_transport_security: None,
        fields: &ResponseFields::default(),
        request_id: RequestId::from(0xabc),
        date: || *b"Sun, 22 Nov 2026 09:00:00 GMT",
    };
    let plan = Plan::of(&Compression::default(), &request, &response);
    let framing = match plan {
        Plan::Encode(_) if framing != Framing::Empty => Framing::Chunked,
        _ => framing,
    };
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response, framing, plan, rules, Some("close"));
    let out = &fields_of_whole(&bytes);
    let framing_h2 = response_framing(&response, &Method::GET, Version::HTTP_2);
    let over_h2 = response_map(&response, framing_h2, plan, rules);
    assert!(!over_h2.contains_key(header::TRANSFER_ENCODING));
    assert!(!over_h2.contains_key(header::CONNECTION));
    assert!(count(out, &header::CONTENT_LENGTH) + count(out, &header::TRANSFER_ENCODING) <= 1);
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
pub fn a_client_is_its_peer_or_whom_a_trusted_one_names(fields: &Fields, is_trusted: bool) {
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

/// A body and its trailers are read alike, whole or in pieces of `size`.
pub fn it_does_not_matter_how_the_bytes_of_a_body_are_cut(bytes: &[u8], size: usize) {
    for length in [
        BodyLength::Chunked,
        BodyLength::Known(5),
        BodyLength::UntilClose,
    ] {
        let whole = read_body(length, bytes, bytes.len().max(1));
        assert_eq!(read_body(length, bytes, size), whole);
    }
}

type Body = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// A body, its trailers, and what is left behind it; the bytes come in pieces of `size`.
pub(crate) fn read_body(length: BodyLength, bytes: &[u8], size: usize) -> Result<Body, BodyFault> {
    let mut reader = BodyReader::new(length);
    let (mut read, mut body) = (BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(size);
    loop {
        match reader.take(&mut read)? {
            Taken::Data(piece) => body.extend_from_slice(&piece),
            Taken::More => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => reader.close()?,
            },
            Taken::End => {
                pieces.for_each(|piece| read.extend_from_slice(piece));
                return Ok((body, reader.take_trailers(), read.to_vec()));
            }
        }
    }
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

fn request(map: HeaderMap, version: Version) -> RequestHead {
    let mut fields = Fields::from(&map);
    let path: Span = fields.keep(b"/");
    RequestHead::new(Method::POST, version, fields, path, None)
}

/// As it is read from an upstream.
fn response(map: HeaderMap, status: StatusCode) -> Option<ResponseHead> {
    let mut bytes = format!("HTTP/1.1 {} \r\n", status.as_u16()).into_bytes();
    for (name, value) in &map {
        crate::headers::write_field(&mut bytes, name.as_str().as_bytes(), value.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    ResponseHead::read(&bytes).ok()?.map(|(head, _)| head)
}

/// What another parser reads behind the first line; it has to take all of the bytes for one head.
fn fields_of_whole(head: &[u8]) -> HeaderMap {
    let line = head
        .iter()
        .position(|byte| *byte == b'\n')
        .expect("a first line");
    let mut room = [httparse::EMPTY_HEADER; 256];
    let parsed = httparse::parse_headers(&head[line + 1..], &mut room);
    let Ok(httparse::Status::Complete((end, fields))) = parsed else {
        panic!("{parsed:?}: {}", head.escape_ascii());
    };
    assert_eq!(line + 1 + end, head.len());
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_bytes(field.value).expect("a value"));
    }
    map
}

/// The values of a name; white space around them is no part of them.
fn all(fields: &HeaderMap, name: &str) -> Vec<HeaderValue> {
    let trimmed = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes().trim_ascii());
    let values = fields.get_all(name).iter().map(trimmed);
    values.collect::<Result<_, _>>().expect("values")
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
