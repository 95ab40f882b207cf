//! The two rewrites: a client's request head for the upstream, an upstream's response head for the client.
//!
//! Owns which fields pass, which are dropped and which are set. What passes is written anew from its parts, never
//! copied raw, and in one pass. Pure; the forwarding loop sends the results.

use std::cell::Cell;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use mana_control::table::ResponseFields;

use crate::client_address::{Client, Peer};
use crate::compress_decision::{Marker, Plan};
use crate::date::DateText;
use crate::fields::{Field, Fields, Known, content_length, has_connection_option};
use crate::request_head::RequestHead;
use crate::request_id::RequestId;
use crate::response_head::{BodyLength, ResponseHead};

/// How a message's body is delimited towards the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The end of the connection ends it; responses to HTTP/1.0 clients only.
    UntilClose,
    /// The protocol delimits it (HTTP/2).
    Frames,
}

/// What the proxy itself says to the upstream about a request.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Who the client is, how it spoke and through whom.
    pub client: &'a Client,
    /// Host and port as the client named them.
    pub authority: &'a [u8],
    /// The id under which this request is logged.
    pub request_id: RequestId,
}

/// What the proxy says to the client about a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules<'a> {
    /// The value of HSTS for this response.
    pub strict_transport_security: Option<&'a HeaderValue>,
    /// What the site sets and removes.
    pub fields: &'a ResponseFields,
    /// The id under which the request is logged.
    pub request_id: RequestId,
    /// Tells the time, as `Date` has it; asked where the upstream did not say one.
    pub date: fn() -> DateText,
}

/// Whether a request asks for a websocket (RFC 6455 s4.1). Other upgrades are not offered to upstreams.
pub fn is_websocket_upgrade(request: &RequestHead) -> bool {
    request.version == Version::HTTP_11
        && request.method == Method::GET
        && has_connection_option(&request.fields, b"upgrade")
        && request
            .fields
            .get(Known::Upgrade)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
}

/// Writes the request head that goes to the upstream. Field names keep the letters that an HTTP/1 client wrote: they mean
/// nothing, but there are programs that compare them.
pub fn write_request(
    into: &mut Vec<u8>,
    request: &RequestHead,
    framing: Framing,
    is_upgrade: bool,
    about: About<'_>,
) {
    let fields = &request.fields;
    let client = about.client;
    into.extend_from_slice(request.method.as_str().as_bytes());
    into.push(b' ');
    into.extend_from_slice(request.target());
    into.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(into, b"Host", about.authority);
    let nominated = Nominated::of(fields);
    for field in fields.iter() {
        let passes = passes_to_upstream(field.known, field.name, client.peer);
        if passes && !nominated.has(field.name) {
            write_field(into, field.name, field.value);
        }
    }
    if !nominated.has(b"cookie") {
        write_cookies(into, fields);
    }
    // RFC 9110 s10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore that expectation."
    if request.version != Version::HTTP_10
        && let Some(expect) = fields.get(Known::Expect)
    {
        write_field(into, b"Expect", expect);
    }
    if is_upgrade {
        into.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n");
    }
    match framing {
        Framing::Chunked => into.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => write_length(into, length),
        // RFC 9110 s8.6: a method that anticipates content says so when there is none.
        Framing::Empty if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) => {
            write_length(into, 0);
        }
        Framing::Empty | Framing::UntilClose | Framing::Frames => {}
    }
    write_field(into, b"X-Real-IP", client.text.as_bytes());
    write_field(into, b"X-Forwarded-For", client.forwarded_for.as_bytes());
    write_field(
        into,
        b"X-Forwarded-Proto",
        client.scheme.as_str().as_bytes(),
    );
    write_field(into, b"X-Forwarded-Host", about.authority);
    write_field(into, b"X-Request-ID", about.request_id.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Writes the response head that goes to an HTTP/1 client, `connection` with it if that is said. Field names keep the
/// upstream's letters, as those of requests do.
pub fn write_response(
    into: &mut Vec<u8>,
    response: &ResponseHead,
    framing: Framing,
    plan: Plan,
    rules: ResponseRules<'_>,
    connection: Option<&'static str>,
) {
    into.extend_from_slice(b"HTTP/1.1 ");
    into.extend_from_slice(response.status.as_str().as_bytes());
    into.push(b' ');
    match response.reason() {
        b"" => {
            let reason = response.status.canonical_reason().unwrap_or_default();
            into.extend_from_slice(reason.as_bytes());
        }
        reason => into.extend_from_slice(reason),
    }
    into.extend_from_slice(b"\r\n");
    for_client(response, framing, plan, rules, |field| {
        write_field(into, field.name, field.value);
    });
    if let Some(connection) = connection {
        write_field(into, b"Connection", connection.as_bytes());
    }
    into.extend_from_slice(b"\r\n");
}

/// The fields of the response head that goes to an HTTP/2 client: its framing is none, or frames.
pub fn response_map(
    response: &ResponseHead,
    framing: Framing,
    plan: Plan,
    rules: ResponseRules<'_>,
) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(response.fields.len() + FIELDS_ADDED);
    // One copy of all values, of which each is a piece, instead of one for each.
    let bytes = response.fields.bytes();
    let shared = Bytes::copy_from_slice(bytes);
    for_client(response, framing, plan, rules, |field| {
        let start = field
            .value
            .as_ptr()
            .addr()
            .wrapping_sub(bytes.as_ptr().addr());
        let value = match start.checked_add(field.value.len()) {
            _ if field.value == rules.request_id.as_bytes() => Ok(rules.request_id.to_value()),
            Some(end) if end <= bytes.len() => {
                HeaderValue::from_maybe_shared(shared.slice(start..end))
            }
            Some(_) | None => HeaderValue::from_bytes(field.value),
        };
        // What HTTP/2 has no place for is left out: a control byte in a value, for one.
        if let (Some(name), Ok(mut value)) = (header_name(field), value) {
            // An upstream's own, in an informational head, is unlike any other as well.
            if field.known == Known::XRequestId {
                value.set_sensitive(true);
            }
            map.append(name, value);
        }
    });
    map
}

/// The name of a field as a map has it; none if it is no token. Those that most responses have are not read letter by letter.
fn header_name(field: Field<'_>) -> Option<HeaderName> {
    Some(match field.known {
        Known::AcceptRanges => header::ACCEPT_RANGES,
        Known::CacheControl => header::CACHE_CONTROL,
        Known::ContentEncoding => header::CONTENT_ENCODING,
        Known::ContentLength => header::CONTENT_LENGTH,
        Known::ContentType => header::CONTENT_TYPE,
        Known::Date => header::DATE,
        Known::Etag => header::ETAG,
        Known::LastModified => header::LAST_MODIFIED,
        Known::Location => header::LOCATION,
        Known::Server => header::SERVER,
        Known::SetCookie => header::SET_COOKIE,
        Known::StrictTransportSecurity => header::STRICT_TRANSPORT_SECURITY,
        Known::Vary => header::VARY,
        Known::XRequestId => X_REQUEST_ID,
        _ => return HeaderName::from_bytes(field.name).ok(),
    })
}

/// Hands each field of the response head that goes to the client to `put`.
fn for_client(
    response: &ResponseHead,
    framing: Framing,
    plan: Plan,
    rules: ResponseRules<'_>,
    mut put: impl FnMut(Field<'_>),
) {
    let fields = &response.fields;
    let nominated = Nominated::of(fields);
    if response.status.is_informational() {
        for field in fields.iter() {
            let passes = !is_hop_by_hop(field.known) && field.known != Known::ContentLength;
            if passes && !nominated.has(field.name) {
                put(field);
            }
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            put(Field::new(Known::Connection, b"Connection", b"upgrade"));
            put(Field::new(Known::Upgrade, b"Upgrade", b"websocket"));
        }
        return;
    }
    let has_date = Cell::new(false);
    let mut put = |field: Field<'_>| {
        if field.known == Known::Date {
            has_date.set(true);
        }
        put(field);
    };
    let mut marker = Marker::new(plan);
    let site = rules.fields;
    let is_site_s = |name: &[u8]| {
        let is_it = |one: &HeaderName| name.eq_ignore_ascii_case(one.as_str().as_bytes());
        site.set.iter().any(|(one, _)| is_it(one)) || site.remove.iter().any(is_it)
    };
    for field in fields.iter() {
        let is_set = match field.known {
            Known::ContentLength | Known::XRequestId => true,
            Known::StrictTransportSecurity => rules.strict_transport_security.is_some(),
            known => is_hop_by_hop(known),
        };
        if !is_set && !is_site_s(field.name) && !nominated.has(field.name) {
            marker.pass(field, &mut put);
        }
    }
    for (name, value) in &site.set {
        let name = name.as_str().as_bytes();
        let field = Field::new(Known::of(name), name, value.as_bytes());
        marker.pass(field, &mut put);
    }
    match framing {
        Framing::Chunked => put(Field::new(
            Known::TransferEncoding,
            b"Transfer-Encoding",
            b"chunked",
        )),
        Framing::UntilClose => {}
        // RFC 9110 s8.6: "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
        // (Informational) or 204 (No Content)."
        Framing::Empty if response.status == StatusCode::NO_CONTENT => {}
        _ if fields.has(Known::TransferEncoding) => {}
        Framing::Empty | Framing::Length(_) | Framing::Frames => {
            // The same length said twice is said once.
            if let Some(length) = content_length(fields) {
                let mut text = itoa::Buffer::new();
                let text = text.format(length).as_bytes();
                // Mostly it is the upstream's own text, and stands in its head.
                let first = fields.get(Known::ContentLength);
                let value = first.filter(|first| *first == text).unwrap_or(text);
                let field = Field::new(Known::ContentLength, b"Content-Length", value);
                marker.pass(field, &mut put);
            }
        }
    }
    marker.end(&mut put);
    if let Some(value) = rules.strict_transport_security {
        let name = b"Strict-Transport-Security";
        put(Field::new(
            Known::StrictTransportSecurity,
            name,
            value.as_bytes(),
        ));
    }
    let id = rules.request_id.as_bytes();
    put(Field::new(Known::XRequestId, b"X-Request-ID", id));
    // RFC 9110 s6.6.1: whoever receives a response without one adds it.
    if !has_date.get() {
        put(Field::new(Known::Date, b"Date", &(rules.date)()));
    }
}

/// How a response body is delimited towards the client.
pub fn response_framing(
    response: &ResponseHead,
    request_method: &Method,
    client: Version,
) -> Framing {
    let is_for_head = request_method == Method::HEAD;
    match response.body(is_for_head) {
        _ if is_for_head => Framing::Empty,
        BodyLength::Known(0) if is_without_body(response.status) => Framing::Empty,
        _ if client == Version::HTTP_2 => Framing::Frames,
        BodyLength::Known(length) => Framing::Length(length),
        // RFC 9112 s6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding
        // request indicates HTTP/1.1 (or later minor revisions)."
        BodyLength::Chunked | BodyLength::UntilClose if client == Version::HTTP_10 => {
            Framing::UntilClose
        }
        BodyLength::Chunked | BodyLength::UntilClose => Framing::Chunked,
    }
}

fn is_without_body(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Appends `name: value CRLF`.
pub fn write_field(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

fn write_length(into: &mut Vec<u8>, length: u64) {
    let mut text = itoa::Buffer::new();
    write_field(into, b"Content-Length", text.format(length).as_bytes());
}

/// RFC 9113 s8.2.3: crumbs "MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b,
/// 0x20 (the ASCII string \"; \")" before they leave HTTP/2.
fn write_cookies(into: &mut Vec<u8>, fields: &Fields) {
    let mut crumbs = fields.all(Known::Cookie);
    let Some(first) = crumbs.next() else {
        return;
    };
    into.extend_from_slice(b"Cookie: ");
    into.extend_from_slice(first);
    for crumb in crumbs {
        into.extend_from_slice(b"; ");
        into.extend_from_slice(crumb);
    }
    into.extend_from_slice(b"\r\n");
}

/// Connection-specific fields, RFC 9110 s7.6.1.
fn is_hop_by_hop(known: Known) -> bool {
    matches!(
        known,
        Known::Connection
            | Known::KeepAlive
            | Known::ProxyAuthenticate
            | Known::ProxyAuthorization
            | Known::ProxyConnection
            | Known::Te
            | Known::Trailer
            | Known::TransferEncoding
            | Known::Upgrade
    )
}

/// Leaves out the fields of a request that are written apart, and those that only the proxy may set.
/// `x-middleware-subrequest` makes some Next.js versions skip their authorisation (CVE-2025-29927).
fn passes_to_upstream(known: Known, name: &[u8], peer: Peer) -> bool {
    match known {
        Known::Other if name.contains(&b'_') => {
            // CGI and its heirs fold `_` and `-` into one, so `X_Forwarded_For` would be another word for ours.
            let dashed = name
                .iter()
                .map(|byte| if *byte == b'_' { b'-' } else { *byte });
            let folded = Known::of(&dashed.collect::<Vec<u8>>());
            let names_the_client = matches!(folded, Known::CfConnectingIp | Known::TrueClientIp);
            !names_the_client && passes_to_upstream(folded, b"", peer)
        }
        // Whoever is believed may go on naming the client; a stranger's word is not passed on.
        Known::CfConnectingIp | Known::TrueClientIp => peer == Peer::Trusted,
        Known::Host | Known::Cookie | Known::ContentLength | Known::Expect | Known::Forwarded => {
            false
        }
        Known::XForwarded
        | Known::XForwardedFor
        | Known::XForwardedProto
        | Known::XRealIp
        | Known::XRequestId
        | Known::XMiddlewareSubrequest => false,
        known => !is_hop_by_hop(known),
    }
}

/// The fields that `Connection` names as meant for this hop alone.
struct Nominated<'a>(Vec<&'a [u8]>);

impl<'a> Nominated<'a> {
    fn of(fields: &'a Fields) -> Nominated<'a> {
        let options = fields.items(Known::Connection);
        Nominated(
            options
                .filter(|option| !is_connection_option(option))
                .collect(),
        )
    }

    fn has(&self, name: &[u8]) -> bool {
        self.0.iter().any(|one| one.eq_ignore_ascii_case(name))
    }
}

fn is_connection_option(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade"]
        .iter()
        .any(|option| token.eq_ignore_ascii_case(option))
}

/// The field that carries the request id both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Fields that a response mostly has more than its upstream gave it, but for a site's own. More of them make it grow.
const FIELDS_ADDED: usize = 3;

#[cfg(test)]
mod tests;
