//! The two rewrites: a client's request head for the upstream, an upstream's response head for the client.
//!
//! Owns which fields pass, which are dropped and which are set. What passes is written anew from its parts, never
//! copied raw. Pure; the forwarding loop sends the results.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use mana_control::table::ResponseFields;
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};

use crate::client_address::{Client, Peer, names_the_client};

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
    pub authority: &'a HeaderValue,
    /// The id under which this request is logged.
    pub request_id: &'a HeaderValue,
}

/// What the site says of its responses.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules<'a> {
    /// The value of HSTS for this response.
    pub strict_transport_security: Option<&'a HeaderValue>,
    /// What is set and removed.
    pub fields: &'a ResponseFields,
}

/// Whether a request asks for a websocket (RFC 6455 s4.1). Other upgrades are not offered to upstreams.
pub fn is_websocket_upgrade(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && request.method == Method::GET
        && has_token(&request.headers, &header::CONNECTION, "upgrade")
        && request
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The request head that goes to the upstream. Field names keep the letters that an HTTP/1 client wrote: they mean
/// nothing, but there are programs that compare them.
pub fn request_for_upstream(
    request: &RequestHeader,
    framing: Framing,
    is_upgrade: bool,
    about: About<'_>,
) -> RequestHeader {
    // Copied whole and then cut down: cheaper than field by field.
    let mut head = match request.has_case() {
        true => request.clone(),
        false => RequestHeader::from(request.as_owned_parts()),
    };
    head.set_version(Version::HTTP_11);
    head.set_uri(origin_form(&request.uri));
    let nominated = Nominated::of(&request.headers);
    for name in request.headers.keys() {
        if !passes_to_upstream(name, about.client.peer) || nominated.has(name) {
            head.remove_header(name);
        }
    }
    let cookies = request.headers.get_all(header::COOKIE).iter().count();
    if cookies > 1 {
        set(&mut head, "Cookie", joined_cookies(&request.headers));
    }
    if request.version == Version::HTTP_11
        && let Some(expect) = request.headers.get(header::EXPECT)
    {
        set(&mut head, "Expect", expect.clone());
    }
    if is_upgrade {
        set(&mut head, "Connection", HeaderValue::from_static("upgrade"));
        set(&mut head, "Upgrade", HeaderValue::from_static("websocket"));
    }
    set_framing(&mut head, framing);
    set(&mut head, "Host", about.authority.clone());
    set(&mut head, "X-Real-IP", about.client.text.clone());
    set(
        &mut head,
        "X-Forwarded-For",
        about.client.forwarded_for.clone(),
    );
    let scheme = HeaderValue::from_static(about.client.scheme.as_str());
    set(&mut head, "X-Forwarded-Proto", scheme);
    set(&mut head, "X-Forwarded-Host", about.authority.clone());
    set(&mut head, "X-Request-ID", about.request_id.clone());
    head
}

/// The response head that goes to the client. Field names keep the upstream's letters, as those of requests do.
pub fn response_for_client(
    response: &ResponseHeader,
    framing: Framing,
    rules: ResponseRules<'_>,
    request_id: &HeaderValue,
) -> ResponseHeader {
    let mut head = match framing {
        // HTTP/2 has small letters alone.
        Framing::Frames => ResponseHeader::from(response.as_owned_parts()),
        Framing::Empty | Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {
            response.clone()
        }
    };
    let nominated = Nominated::of(&response.headers);
    for name in response.headers.keys() {
        if is_hop_by_hop(name) || nominated.has(name) {
            head.remove_header(name);
        }
    }
    set_response_framing(&mut head, response, framing);
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        set(&mut head, "Connection", HeaderValue::from_static("upgrade"));
        set(&mut head, "Upgrade", HeaderValue::from_static("websocket"));
    }
    if !response.status.is_informational() {
        for name in &rules.fields.remove {
            head.remove_header(name);
        }
        for (name, value) in &rules.fields.set {
            set(&mut head, name, value.clone());
        }
        if let Some(value) = rules.strict_transport_security {
            set(&mut head, "Strict-Transport-Security", value.clone());
        }
        set(&mut head, "X-Request-ID", request_id.clone());
    }
    head
}

/// A head of either kind, as far as fields are set in it.
trait Head {
    fn insert(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> bool;
}

impl Head for RequestHeader {
    fn insert(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> bool {
        self.insert_header(name, value).is_ok()
    }
}

impl Head for ResponseHeader {
    fn insert(&mut self, name: impl IntoCaseHeaderName, value: HeaderValue) -> bool {
        self.insert_header(name, value).is_ok()
    }
}

/// Sets a field, in the place of all that have its name. It fails for a name that is none alone, and names here are
/// constants or were checked with the configuration.
fn set(head: &mut impl Head, name: impl IntoCaseHeaderName, value: HeaderValue) {
    let is_set = head.insert(name, value);
    debug_assert!(is_set, "a field name that is none");
}

fn set_response_framing(head: &mut ResponseHeader, response: &ResponseHeader, framing: Framing) {
    match framing {
        Framing::Chunked => {
            head.remove_header(&header::CONTENT_LENGTH);
            let chunked = HeaderValue::from_static("chunked");
            set(head, "Transfer-Encoding", chunked);
        }
        Framing::UntilClose => {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        // RFC 9110 s8.6: "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
        // (Informational) or 204 (No Content)."
        Framing::Empty if has_no_length(response.status) => {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        _ if response.headers.contains_key(header::TRANSFER_ENCODING) => {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        // The same length said twice is said once.
        Framing::Empty | Framing::Length(_) | Framing::Frames => {
            if let Some(length) = length_of(&response.headers)
                && !is_said_plainly(&response.headers)
            {
                set(head, "Content-Length", HeaderValue::from(length));
            }
        }
    }
}

fn has_no_length(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT
}

/// Whether it can be told where the response's body ends, and what it is: no length beside another one, no transfer coding
/// but `chunked`, which nobody here would decode.
pub fn has_clear_framing(response: &ResponseHeader) -> bool {
    let headers = &response.headers;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked_at_most = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let has_length = headers.contains_key(header::CONTENT_LENGTH);
    is_chunked_at_most && (!has_length || length_of(headers).is_some())
}

/// The length that the fields agree on; none if there is none, or if they do not agree (RFC 9110 s8.6).
fn length_of(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|one| {
            let digits = one.trim_ascii();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
            text.parse::<u64>().ok()
        });
    let first = lengths.next()??;
    lengths.all(|other| other == Some(first)).then_some(first)
}

fn is_said_plainly(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let only = values.next().filter(|_| values.next().is_none());
    only.is_some_and(|value| !value.as_bytes().contains(&b','))
}

/// How a response body is delimited towards the client.
pub fn response_framing(
    response: &ResponseHeader,
    request_method: &Method,
    client: Version,
) -> Framing {
    let has_no_body = request_method == Method::HEAD
        || response.status == StatusCode::NO_CONTENT
        || response.status == StatusCode::NOT_MODIFIED;
    if has_no_body {
        return Framing::Empty;
    }
    if client == Version::HTTP_2 {
        return Framing::Frames;
    }
    // RFC 9112 s6.3: "the Transfer-Encoding overrides the Content-Length".
    let is_coded = response.headers.contains_key(header::TRANSFER_ENCODING);
    match length_of(&response.headers).filter(|_| !is_coded) {
        Some(length) => Framing::Length(length),
        // RFC 9112 s6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding
        // request indicates HTTP/1.1 (or later minor revisions)."
        None if client == Version::HTTP_10 => Framing::UntilClose,
        None => Framing::Chunked,
    }
}

fn origin_form(uri: &http::Uri) -> http::Uri {
    match uri.path_and_query() {
        Some(path) if uri.authority().is_some() || uri.scheme().is_some() => {
            http::Uri::from(path.clone())
        }
        Some(_) => uri.clone(),
        None => http::Uri::from_static("/"),
    }
}

fn set_framing(head: &mut RequestHeader, framing: Framing) {
    match framing {
        Framing::Chunked => {
            let chunked = HeaderValue::from_static("chunked");
            set(head, "Transfer-Encoding", chunked);
        }
        Framing::Length(length) => set(head, "Content-Length", HeaderValue::from(length)),
        // RFC 9110 s8.6: a method that anticipates content says so when there is none.
        Framing::Empty if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            set(head, "Content-Length", HeaderValue::from_static("0"));
        }
        Framing::Empty | Framing::UntilClose | Framing::Frames => {}
    }
}

/// RFC 9113 s8.2.3: crumbs "MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b,
/// 0x20 (the ASCII string \"; \")" before they leave HTTP/2.
fn joined_cookies(headers: &HeaderMap) -> HeaderValue {
    let mut joined = Vec::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    // The parts are valid, and so is the delimiter.
    HeaderValue::from_bytes(&joined).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Connection-specific fields, RFC 9110 s7.6.1.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// Fields of a request that are handled apart, or that only the proxy may set. `x-middleware-subrequest` makes some
/// Next.js versions skip their authorisation (CVE-2025-29927).
fn passes_to_upstream(name: &HeaderName, peer: Peer) -> bool {
    if peer == Peer::Stranger && names_the_client(name) {
        return false;
    }
    if matches!(
        *name,
        header::CONTENT_LENGTH | header::EXPECT | header::FORWARDED
    ) {
        return false;
    }
    let text = name.as_str();
    if text.contains('_') {
        // CGI and its heirs fold `_` and `-` into one, so `X_Forwarded_For` would be another word for ours.
        let folded = text.replace('_', "-");
        return HeaderName::from_bytes(folded.as_bytes())
            .is_ok_and(|name| !names_the_client(&name) && passes_to_upstream(&name, peer));
    }
    let is_ours = text.starts_with("x-")
        && (text.starts_with("x-forwarded-")
            || *name == X_REAL_IP
            || *name == X_REQUEST_ID
            || text == "x-middleware-subrequest");
    !is_ours && !is_hop_by_hop(name)
}

/// The fields that `Connection` names as meant for this hop alone.
struct Nominated(Vec<HeaderName>);

impl Nominated {
    fn of(headers: &HeaderMap) -> Nominated {
        let names = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|token| !token.is_empty() && !is_connection_option(token))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .collect();
        Nominated(names)
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.0.contains(name)
    }
}

fn is_connection_option(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade"]
        .iter()
        .any(|option| token.eq_ignore_ascii_case(option))
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The field that carries the request id both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests;
