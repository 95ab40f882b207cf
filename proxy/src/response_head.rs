//! The head of an upstream's response, and the reading of it.
//!
//! Owns the shape, and what is taken for a head: what `httparse` reads, with the leniencies that upstreams need. A value
//! that was folded over lines becomes one line, as RFC 9112 s5.2 asks of a proxy. Pure.

use std::mem::MaybeUninit;

use http::{StatusCode, Version};

use crate::fields::{Fields, Known, Span, content_length};

/// A response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Its status.
    pub status: StatusCode,
    /// Its fields, and the bytes of its reason phrase.
    pub fields: Fields,
    reason: Span,
}

/// Why a response cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseFault {
    /// It is no head of HTTP/1.
    #[error("the head is malformed")]
    Malformed,
    /// It is larger than [`HEAD_BYTES_MAX`], or has more fields than [`FIELDS_MAX`].
    #[error("the head is too large")]
    TooLarge,
    /// RFC 9112 s6.3: it cannot be told where the body ends.
    #[error("the length of the body is unclear")]
    Framing,
}

impl ResponseHead {
    /// A head of one's own.
    pub fn new(status: StatusCode, version: Version) -> ResponseHead {
        ResponseHead {
            version,
            status,
            fields: Fields::default(),
            reason: Span::default(),
        }
    }

    /// Reads the head at the start of `bytes`, and says how long it is; nothing if it is not complete.
    ///
    /// # Errors
    /// See [`ResponseFault`].
    pub fn read(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, ResponseFault> {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .parse_response_with_uninit_headers(&mut response, bytes, &mut room);
        let end = match parsed {
            Ok(httparse::Status::Complete(end)) if end <= HEAD_BYTES_MAX => end,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(ResponseFault::TooLarge),
            Err(_) => return Err(ResponseFault::Malformed),
        };
        let (Some(code), Some(version)) = (response.code, response.version) else {
            return Err(ResponseFault::Malformed);
        };
        let head = &bytes[..end];
        // Everything is pointed at where it stands: the parts are slices of `head`, and `fields` has a copy of that.
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
            Span::new(start, part.len())
        };
        let mut fields = Fields::above(head);
        let reason = place(response.reason.unwrap_or_default().as_bytes());
        for field in response.headers.iter() {
            let value = match field.value.iter().any(|byte| is_line_byte(*byte)) {
                false => place(field.value),
                true => fields.keep(&unfolded(field.value)),
            };
            fields.point_at(place(field.name.as_bytes()), value);
        }
        let head = ResponseHead {
            version: match version {
                0 => Version::HTTP_10,
                _ => Version::HTTP_11,
            },
            status: StatusCode::from_u16(code).map_err(|_| ResponseFault::Malformed)?,
            fields,
            reason,
        };
        match head.has_clear_framing() {
            true => Ok(Some((head, end))),
            false => Err(ResponseFault::Framing),
        }
    }

    /// The reason phrase; empty where the upstream gave none.
    pub fn reason(&self) -> &[u8] {
        self.fields.at(self.reason)
    }

    /// How its body is delimited, in an answer to a request whose method is HEAD or not (RFC 9112 s6.3).
    pub fn body(&self, is_for_head: bool) -> BodyLength {
        let has_none = is_for_head
            || self.status.is_informational()
            || self.status == StatusCode::NO_CONTENT
            || self.status == StatusCode::NOT_MODIFIED;
        if has_none {
            return BodyLength::Known(0);
        }
        if self.fields.has(Known::TransferEncoding) {
            // "the Transfer-Encoding overrides the Content-Length"
            return BodyLength::Chunked;
        }
        match content_length(&self.fields) {
            Some(length) => BodyLength::Known(length),
            None => BodyLength::UntilClose,
        }
    }

    /// Whether the upstream keeps its connection open after it (RFC 9112 s9.3).
    pub fn keeps_connection(&self) -> bool {
        let says = |option: &[u8]| crate::fields::has_connection_option(&self.fields, option);
        if says(b"close") {
            return false;
        }
        match self.version {
            // RFC 9112 s6.1: Transfer-Encoding in HTTP/1.0 is faulty framing.
            Version::HTTP_10 => says(b"keep-alive") && !self.fields.has(Known::TransferEncoding),
            _ => true,
        }
    }

    /// Whether it can be told where the body ends, and what it is: no length beside another one, no transfer coding but
    /// `chunked`, which nobody here would decode.
    fn has_clear_framing(&self) -> bool {
        let mut codings = self.fields.all(Known::TransferEncoding);
        let is_chunked_at_most = match (codings.next(), codings.next()) {
            (None, _) => true,
            (Some(only), None) => only.eq_ignore_ascii_case(b"chunked"),
            (Some(_), Some(_)) => false,
        };
        let has_length = self.fields.has(Known::ContentLength);
        is_chunked_at_most && (!has_length || content_length(&self.fields).is_some())
    }
}

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes.
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The end of the connection ends it; responses alone.
    UntilClose,
}

fn is_line_byte(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n' | 0)
}

/// RFC 9112 s5.2: a line end with the white space around it becomes one space.
fn unfolded(value: &[u8]) -> Vec<u8> {
    let mut lines = value.split(|byte| is_line_byte(*byte));
    let mut joined = lines.next().unwrap_or_default().trim_ascii_end().to_vec();
    for line in lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
    {
        joined.push(b' ');
        joined.extend_from_slice(line);
    }
    joined
}

/// Bytes of a response head; browsers take 256 KiB at most.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;
/// Fields of a response head.
pub const FIELDS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(ResponseHead, usize)>, ResponseFault> {
        ResponseHead::read(text.as_bytes())
    }

    #[test]
    fn a_head_is_read_when_it_is_complete_and_no_byte_sooner() {
        let text = "HTTP/1.1 404 Not here\r\nServer: x\r\nX-Two:  a b \r\n\r\nbody";
        let end = text.len() - 4;
        for cut in 0..end {
            assert_eq!(read(&text[..cut]), Ok(None), "{cut}");
        }
        let (head, length) = read(text).expect("good").expect("complete");
        assert_eq!(
            (length, head.status.as_u16(), head.reason()),
            (end, 404, &b"Not here"[..])
        );
        let fields: Vec<_> = head
            .fields
            .iter()
            .map(|field| (field.name, field.value))
            .collect();
        assert_eq!(fields, [(&b"Server"[..], &b"x"[..]), (b"X-Two", b"a b")]);
    }

    #[test]
    fn a_folded_value_is_one_line() {
        let (head, _) = read("HTTP/1.1 200 OK\r\nCSP: a;\r\n  b;\r\n\t c\r\nX: y\r\n\r\n")
            .expect("good")
            .expect("complete");
        let values: Vec<_> = head.fields.iter().map(|field| field.value).collect();
        assert_eq!(values, [&b"a; b; c"[..], b"y"]);
    }

    #[test]
    fn what_cannot_be_delimited_is_refused() {
        for (fields, expected) in [
            ("Content-Length: 5\r\n", Ok(BodyLength::Known(5))),
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Ok(BodyLength::Known(5)),
            ),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Err(ResponseFault::Framing),
            ),
            ("Content-Length: x\r\n", Err(ResponseFault::Framing)),
            ("Transfer-Encoding: Chunked\r\n", Ok(BodyLength::Chunked)),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Ok(BodyLength::Chunked),
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Err(ResponseFault::Framing),
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(ResponseFault::Framing),
            ),
            ("", Ok(BodyLength::UntilClose)),
        ] {
            let read = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
            let body = read.map(|read| read.expect("complete").0.body(false));
            assert_eq!(body, expected, "{fields:?}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        for (status, is_for_head) in [(204, false), (304, false), (100, false), (200, true)] {
            let text = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n");
            let (head, _) = read(&text).expect("good").expect("complete");
            assert_eq!(head.body(is_for_head), BodyLength::Known(0), "{status}");
        }
    }

    #[test]
    fn a_connection_stays_open_as_the_version_and_the_options_say() {
        for (line, fields, expected) in [
            ("HTTP/1.1", "", true),
            ("HTTP/1.1", "Connection: Close\r\n", false),
            (
                "HTTP/1.1",
                "Connection: keep-alive\r\nConnection: x, close\r\n",
                false,
            ),
            ("HTTP/1.0", "", false),
            ("HTTP/1.0", "Connection: keep-alive\r\n", true),
            (
                "HTTP/1.0",
                "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
                false,
            ),
        ] {
            let text = format!("{line} 200 OK\r\n{fields}\r\n");
            let (head, _) = read(&text).expect("good").expect("complete");
            assert_eq!(head.keeps_connection(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_head_or_too_large_is_refused() {
        for text in [
            "SSH-2.0-x\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
        ] {
            assert_eq!(read(text), Err(ResponseFault::Malformed), "{text:?}");
        }
        let many = "X: y\r\n".repeat(FIELDS_MAX + 1);
        let text = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
        assert_eq!(read(&text), Err(ResponseFault::TooLarge));
        for end in ["", "\r\n\r\n"] {
            let text = format!("HTTP/1.1 200 OK\r\nX: {}{end}", "a".repeat(HEAD_BYTES_MAX));
            assert_eq!(read(&text), Err(ResponseFault::TooLarge));
        }
    }
}
