//! The request head of HTTP/1 as raw bytes: where it ends, whether it is one that nobody can read in two ways, and what it
//! says.
//!
//! Owns the strict rules. There is no second parser behind this one that could read the bytes differently. Pure: bytes in,
//! verdict out; the connection loop reads the bytes and writes the answer.

use http::{Method, StatusCode, Version};
use memchr::memchr;

use crate::fields::{Fields, Known, Span};
use crate::request_head::RequestHead;

/// What the bytes read so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadScan {
    /// The head is not complete yet.
    Partial,
    /// The head is complete and well formed; it ends before this index. `0 < end <= bytes.len()`.
    Complete {
        /// Bytes of the head, the empty line included.
        end: usize,
        /// What it says.
        head: RequestHead,
    },
    /// The head can never become acceptable.
    Refused(HeadFault),
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// Not HTTP/1.0 or HTTP/1.1. 505.
    #[error("the HTTP version is not supported")]
    Version,
    /// The request line is longer than `limits.uri_bytes` allows. 414.
    #[error("the request target is too long")]
    TargetTooLong,
    /// The head is larger than `limits.head_bytes`, or has more fields than `limits.headers`. 431.
    #[error("the request head is too large")]
    TooLarge,
    /// A transfer coding other than `chunked`. 501, RFC 9112 s6.1.
    #[error("the transfer coding is not supported")]
    TransferCoding,
    /// Anything else, in the words of the answer. 400.
    #[error("{0}")]
    Malformed(&'static str),
}

impl HeadFault {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            HeadFault::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            HeadFault::TargetTooLong => StatusCode::URI_TOO_LONG,
            HeadFault::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            HeadFault::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            HeadFault::Malformed(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The sizes that a head must stay within.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub head_bytes: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
    /// Header fields.
    pub headers: usize,
}

/// Empty lines before a request line are skipped, RFC 9112 s2.2; this returns how many bytes they are.
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    let mut start = 0;
    loop {
        match &bytes[start..] {
            [b'\n', ..] => start += 1,
            [b'\r', b'\n', ..] => start += 2,
            _ => return start,
        }
    }
}

/// Looks at the bytes of a connection from the start of a request. `searched` is how many of them an earlier call has
/// already seen without finding the end.
pub fn scan(bytes: &[u8], searched: usize, limits: HeadLimits) -> HeadScan {
    let Some(end) = find_head_end(bytes, searched) else {
        if bytes.len() > limits.head_bytes {
            return HeadScan::Refused(too_large(bytes, limits));
        }
        return match early_fault(bytes, limits) {
            Some(fault) => HeadScan::Refused(fault),
            None => HeadScan::Partial,
        };
    };
    if end > limits.head_bytes {
        return HeadScan::Refused(too_large(bytes, limits));
    }
    match read(&bytes[..end], limits) {
        Ok(head) => HeadScan::Complete { end, head },
        Err(fault) => HeadScan::Refused(fault),
    }
}

/// The bytes before the authority of an `http` URL, and the authority.
fn authority_of_url(target: &[u8]) -> Option<(usize, &[u8])> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| {
            target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme)
        })?
        .len();
    let rest = &target[scheme..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
    Some((scheme, &rest[..end.unwrap_or(rest.len())]))
}

/// Whether two authorities name one host, and no two ports.
pub(crate) fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    let parts = |authority: &'_ [u8]| -> (Vec<u8>, Vec<u8>) {
        let bracket = authority.iter().rposition(|b| *b == b']').unwrap_or(0);
        let colon = authority[bracket..].iter().position(|b| *b == b':');
        let (name, port) = match colon {
            Some(at) => (&authority[..bracket + at], &authority[bracket + at + 1..]),
            None => (authority, &b""[..]),
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        (name.to_ascii_lowercase(), port.to_vec())
    };
    let ((name, port), (other_name, other_port)) = (parts(one), parts(other));
    name == other_name && (port == other_port || port.is_empty() || other_port.is_empty())
}

/// The index behind the first empty line. An earlier call has looked at `searched` bytes and has not found it.
pub(crate) fn find_head_end(bytes: &[u8], searched: usize) -> Option<usize> {
    let mut from = searched.saturating_sub(3).min(bytes.len());
    while let Some(at) = memchr(b'\n', &bytes[from..]) {
        let after = from + at + 1;
        match &bytes[after..] {
            [b'\r', b'\n', ..] => return Some(after + 2),
            [b'\n', ..] => return Some(after + 1),
            _ => from = after,
        }
    }
    None
}

fn too_large(bytes: &[u8], limits: HeadLimits) -> HeadFault {
    let line = bytes.iter().position(|b| *b == b'\n');
    match line {
        Some(length) if length <= limits.uri_bytes => HeadFault::TooLarge,
        _ => HeadFault::TargetTooLong,
    }
}

/// What can be refused before the head is complete: a first line that is no request line.
fn early_fault(bytes: &[u8], limits: HeadLimits) -> Option<HeadFault> {
    match memchr(b'\n', bytes) {
        Some(end) => request_line(line_of(&bytes[..=end]), limits).err(),
        None if bytes.len() > limits.uri_bytes + REQUEST_LINE_EXTRA => {
            Some(HeadFault::TargetTooLong)
        }
        None => bytes
            .first()
            .filter(|b| !is_token_byte(**b) && **b != b'\r')
            .map(|_| HeadFault::Malformed("the request does not start with a method")),
    }
}

/// Reads a whole head, the empty line included.
fn read(head: &[u8], limits: HeadLimits) -> Result<RequestHead, HeadFault> {
    let mut rest = head;
    let first = take_line(&mut rest)?;
    let (method, target, version) = request_line(first, limits)?;
    // Everything is pointed at where it stands: the lines are slices of `head`, and `fields` has a copy of that.
    let place = |part: &[u8]| Span::new(part.as_ptr().addr() - head.as_ptr().addr(), part.len());
    let mut fields = Fields::above(head);
    loop {
        let line = take_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        if fields.len() == limits.headers {
            return Err(HeadFault::TooLarge);
        }
        let (name, value) = split_field(line)?;
        fields.point_at(place(name), place(value));
    }
    check_framing(&fields, version)?;
    let Some((scheme, authority)) = authority_of_url(target) else {
        // What CONNECT names is refused, whatever it is, and is no path.
        let path = match target {
            [b'/' | b'*', ..] => place(target),
            _ => fields.keep(b"/"),
        };
        return Ok(RequestHead::new(method, version, fields, path, None));
    };
    if !is_host(authority) {
        return Err(HeadFault::Malformed("the request target has no host name"));
    }
    // RFC 9112 s3.2.2 lets the target win; two names in one request are an attack or a mistake all the same.
    if let Some(host) = fields.get(Known::Host)
        && !is_same_host(authority, host)
    {
        return Err(HeadFault::Malformed(
            "the request target names another host than Host",
        ));
    }
    let path = match &target[scheme + authority.len()..] {
        path @ [b'/', ..] => place(path),
        path => fields.keep(&[b"/", path].concat()),
    };
    let authority = Some(place(authority));
    Ok(RequestHead::new(method, version, fields, path, authority))
}

/// The next line, without its end.
fn take_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], HeadFault> {
    let end = memchr(b'\n', rest).ok_or(HeadFault::Malformed("a line does not end"))?;
    let (line, behind) = rest.split_at(end + 1);
    *rest = behind;
    Ok(line_of(line))
}

/// A line without its end: CRLF, or a bare LF, which RFC 9112 s2.2 lets a recipient take and old clients send. What is
/// forwarded is written anew, so that the next parser has nothing to disagree about.
fn line_of(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// `method SP request-target SP HTTP-version`, RFC 9112 s3, each once and with single spaces.
fn request_line(line: &[u8], limits: HeadLimits) -> Result<(Method, &[u8], Version), HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadFault::Malformed("the request line has not three parts"));
    };
    if method.is_empty() || !method.iter().all(|b| is_token_byte(*b)) {
        return Err(HeadFault::Malformed("the method is no token"));
    }
    if target.is_empty() {
        return Err(HeadFault::Malformed("the request target is empty"));
    }
    if target.len() > limits.uri_bytes {
        return Err(HeadFault::TargetTooLong);
    }
    if !target.iter().all(|b| is_target_byte(*b)) {
        return Err(HeadFault::Malformed(
            "the request target has a byte that must be percent-encoded",
        ));
    }
    if !has_form(method, target) {
        return Err(HeadFault::Malformed(
            "the request target has none of the forms that there are",
        ));
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ if version.starts_with(b"HTTP/") => return Err(HeadFault::Version),
        _ => return Err(HeadFault::Malformed("the request line has no HTTP version")),
    };
    let method =
        Method::from_bytes(method).map_err(|_| HeadFault::Malformed("the method is no token"))?;
    Ok((method, target, version))
}

/// RFC 9112 s3.2: a path, `*` for OPTIONS, or a whole URL; what CONNECT names is refused later, whatever it is. Anything
/// else is a path to one parser and a host to another.
fn has_form(method: &[u8], target: &[u8]) -> bool {
    let starts = |scheme: &[u8]| {
        target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme)
    };
    target.starts_with(b"/")
        || starts(b"http://")
        || starts(b"https://")
        || (target == b"*" && method == b"OPTIONS")
        || method == b"CONNECT"
}

/// `field-name ":" OWS field-value OWS`, RFC 9112 s5. No space before the colon, no folding, no control bytes.
fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(HeadFault::Malformed("a header field is folded"));
    }
    let end = line.iter().position(|b| !is_token_byte(*b));
    let (name, value) = match end {
        Some(colon) if line[colon] == b':' => (&line[..colon], &line[colon + 1..]),
        Some(_) if line.contains(&b':') => {
            return Err(HeadFault::Malformed("a header field name is no token"));
        }
        Some(_) | None => return Err(HeadFault::Malformed("a header field has no colon")),
    };
    if name.is_empty() {
        return Err(HeadFault::Malformed("a header field name is no token"));
    }
    // All of them are looked at, whatever they are: many at a time, then.
    let has_control = value.iter().fold(false, |has, b| {
        has | ((*b < 0x20 && *b != b'\t') | (*b == 0x7f))
    });
    if has_control {
        return Err(HeadFault::Malformed(
            "a header field value has a control byte",
        ));
    }
    Ok((name, value.trim_ascii()))
}

/// The fields that decide where a message ends and whose it is.
///
/// RFC 9112 s3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks a
/// Host header field". RFC 9112 s6.1 and s6.3 for the rest, where this is as strict as they allow.
fn check_framing(fields: &Fields, version: Version) -> Result<(), HeadFault> {
    let host = only(fields, Known::Host, "Host is there twice")?;
    let length = only(
        fields,
        Known::ContentLength,
        "Content-Length is there twice",
    )?;
    let coding = only(
        fields,
        Known::TransferEncoding,
        "Transfer-Encoding is there twice",
    )?;
    match host {
        None if version == Version::HTTP_11 => {
            return Err(HeadFault::Malformed("Host is missing"));
        }
        Some(host) if !is_host(host) => {
            return Err(HeadFault::Malformed("Host is not a host name"));
        }
        Some(_) | None => {}
    }
    if let Some(length) = length {
        let is_number = !length.is_empty()
            && length.len() <= CONTENT_LENGTH_DIGITS_MAX
            && length.iter().all(u8::is_ascii_digit);
        if !is_number {
            return Err(HeadFault::Malformed("Content-Length is not one number"));
        }
    }
    match coding {
        None => Ok(()),
        Some(_) if version == Version::HTTP_10 => Err(HeadFault::Malformed(
            "Transfer-Encoding has no meaning in HTTP/1.0",
        )),
        Some(_) if length.is_some() => Err(HeadFault::Malformed(
            "Content-Length and Transfer-Encoding are both there",
        )),
        Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        Some(coding) if ends_in_chunked(coding) => Err(HeadFault::TransferCoding),
        Some(_) => Err(HeadFault::Malformed(
            "Transfer-Encoding does not end in chunked",
        )),
    }
}

fn only<'a>(
    fields: &'a Fields,
    known: Known,
    doubled: &'static str,
) -> Result<Option<&'a [u8]>, HeadFault> {
    let mut values = fields.all(known);
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(HeadFault::Malformed(doubled)),
    }
}

fn ends_in_chunked(coding: &[u8]) -> bool {
    let mut codings = coding.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let last_is_chunked = codings
        .next_back()
        .is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
    last_is_chunked
        && codings.all(|other| !other.is_empty() && other.iter().all(|b| is_token_byte(*b)))
        && !coding
            .split(|b| *b == b',')
            .rev()
            .skip(1)
            .any(|other| other.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// `uri-host [":" port]`, RFC 9110 s7.2: the bytes of names, IPv4 and bracketed IPv6 literals, and nothing else.
pub fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host {
        [b'[', ..] => match host.iter().position(|b| *b == b']') {
            Some(end) => host.split_at(end + 1),
            None => return false,
        },
        _ => match host.iter().position(|b| *b == b':') {
            Some(colon) => host.split_at(colon),
            None => (host, &b""[..]),
        },
    };
    let is_name = match name {
        [b'[', inside @ .., b']'] => {
            !inside.is_empty()
                && inside
                    .iter()
                    .all(|b| b.is_ascii_hexdigit() || *b == b':' || *b == b'.')
        }
        _ => {
            !name.is_empty()
                && name
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        }
    };
    let is_port = match port {
        [] => true,
        // "port = *DIGIT" (RFC 3986 s3.2.3)
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

/// `tchar`, RFC 9110 s5.6.2.
pub fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[usize::from(byte)]
}

/// What may stand in a request target. Wider than RFC 3986 (browsers send `|` and `^` as they are), but no space, no
/// control byte, nothing outside ASCII, no fragment, and none of `<>"\` with which proxies and servers differ.
pub fn is_target_byte(byte: u8) -> bool {
    (0x21..0x7f).contains(&byte) && !matches!(byte, b'"' | b'<' | b'>' | b'#' | b'\\')
}

const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.'
                | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};
/// Method, version and spaces of a request line beside its target.
const REQUEST_LINE_EXTRA: usize = 64;
/// 10^18 - 1 bytes fit into 63 bits; a longer number is an attack or a mistake.
const CONTENT_LENGTH_DIGITS_MAX: usize = 18;

#[cfg(test)]
mod tests;
