//! The trailer section of a chunked response, read beside the session that reads the body.
//!
//! The session underneath drops trailers. This follows the same bytes as they pass, remembers only what stands behind
//! the last chunk, and gives up at anything that it does not expect: then there are no trailers, and the body is none
//! the worse. Pure; `upstream_io.rs` feeds it, `exchange.rs` asks it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Follows one response.
///
/// `Head => Head | Size | Over`, `Size => Data | Line`, `Data => Size`, `Line => Line | Over`
#[derive(Debug, Default)]
pub struct TrailerTap {
    state: State,
    /// The head, the line of a chunk size or a trailer, as far as it has come.
    line: Vec<u8>,
    /// Bytes of the trailer section so far.
    section_bytes: usize,
    trailers: HeaderMap,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// A head, perhaps an informational one.
    #[default]
    Head,
    /// `1a;extension CRLF`
    Size,
    /// So many bytes of data and its CRLF are still to come.
    Data(u64),
    /// A line of the trailer section.
    Line,
    /// The end, or something that is not understood.
    Over,
}

impl TrailerTap {
    /// Follows bytes that passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.state {
                State::Over => return,
                State::Data(left) => {
                    let count = left.min(bytes.len() as u64);
                    bytes = &bytes[count as usize..];
                    self.state = match left - count {
                        0 => State::Size,
                        left => State::Data(left),
                    };
                }
                State::Head | State::Size | State::Line => {
                    let end = bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
                    let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    self.line.extend_from_slice(part);
                    bytes = rest;
                    if self.line.len() > LINE_BYTES_MAX {
                        self.give_up();
                    } else if end.is_some() {
                        self.line_ends();
                    }
                }
            }
        }
    }

    /// The trailers, once the whole response has passed; nothing if it had none.
    pub fn take(&mut self) -> Option<HeaderMap> {
        let trailers = std::mem::take(&mut self.trailers);
        (self.state == State::Over && !trailers.is_empty()).then_some(trailers)
    }

    fn line_ends(&mut self) {
        match self.state {
            State::Head => {
                if self.line.ends_with(b"\r\n\r\n") {
                    self.state = after_head(&self.line);
                    self.line.clear();
                }
            }
            State::Size => {
                self.state = match chunk_size(&self.line) {
                    None => State::Over,
                    Some(0) => State::Line,
                    Some(size) => State::Data(size.saturating_add(2)),
                };
                self.line.clear();
            }
            State::Line => self.trailer_ends(),
            State::Data(_) | State::Over => {}
        }
    }

    fn trailer_ends(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line == b"\r\n" {
            self.state = State::Over;
            return;
        }
        self.section_bytes += line.len();
        let is_small =
            self.section_bytes <= SECTION_BYTES_MAX && self.trailers.len() < TRAILERS_MAX;
        match field(&line).filter(|_| is_small) {
            Some((name, value)) if may_trail(&name) => {
                self.trailers.append(name, value);
            }
            Some(_) => {}
            None => self.give_up(),
        }
    }

    fn give_up(&mut self) {
        self.state = State::Over;
        self.line = Vec::new();
        self.trailers.clear();
    }
}

/// RFC 9112 s6.3: an informational head is followed by another, and only a chunked body has trailers.
fn after_head(head: &[u8]) -> State {
    let is_informational = head.get(9) == Some(&b'1') && !head[9..].starts_with(b"101");
    if is_informational {
        return State::Head;
    }
    let is_chunked = head.split(|b| *b == b'\n').any(|line| {
        let name = line.get(..TRANSFER_ENCODING.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(TRANSFER_ENCODING))
            && line[TRANSFER_ENCODING.len()..]
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
    });
    if is_chunked { State::Size } else { State::Over }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next()?.trim_ascii();
    let text = std::str::from_utf8(digits).ok()?;
    let is_plain = text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| is_plain)
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let line = line.strip_suffix(b"\r\n")?;
    let colon = line.iter().position(|b| *b == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((name, value))
}

/// RFC 9110 s6.5.1: nothing that says how the message is framed, routed, authenticated, stored or read.
fn may_trail(name: &HeaderName) -> bool {
    let text = name.as_str();
    let is_barred = matches!(
        *name,
        header::HOST
            | header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::UPGRADE
            | header::SET_COOKIE
            | header::AUTHORIZATION
            | header::AGE
            | header::CACHE_CONTROL
            | header::DATE
            | header::EXPIRES
            | header::LOCATION
            | header::RETRY_AFTER
            | header::STRICT_TRANSPORT_SECURITY
            | header::TRANSFER_ENCODING
            | header::VARY
    );
    let is_about_content = text.starts_with("content-") && text != "content-digest";
    let is_about_the_hop =
        text.starts_with("proxy-") || text == "keep-alive" || text.starts_with("access-control-");
    !is_barred && !is_about_content && !is_about_the_hop
}

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";
/// A head, a chunk's line or a trailer beyond this is not followed; heads of responses are far smaller.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of trailers that are kept.
const SECTION_BYTES_MAX: usize = 8 * 1024;
/// Trailers that are kept.
const TRAILERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn taken(bytes: &str) -> Vec<String> {
        // However the bytes are cut, the outcome is one.
        let whole = pieces(bytes.as_bytes(), bytes.len());
        for size in [1, 2, 3, 7, 50] {
            assert_eq!(pieces(bytes.as_bytes(), size), whole, "{bytes:?}");
        }
        whole
    }

    fn pieces(bytes: &[u8], size: usize) -> Vec<String> {
        let mut tap = TrailerTap::default();
        for piece in bytes.chunks(size.max(1)) {
            tap.pass(piece);
        }
        let trailers = tap.take().unwrap_or_default();
        trailers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect()
    }

    #[test]
    fn trailers_are_found_behind_the_last_chunk_and_nowhere_else() {
        let table: &[(&str, &[&str])] = &[
            ("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", &["x-sum: 1"]),
            (
                "3;a=b\r\nabc\r\n00\r\na: 1\r\nb:2 \r\na: 3\r\n\r\n",
                &["a: 1", "a: 3", "b: 2"],
            ),
            ("0\r\n\r\n", &[]),
            // What looks like the end inside a chunk is data.
            (
                "e\r\n0\r\n\r\nx-no: 1\r\n\r\n0\r\nx-yes: 1\r\n\r\n",
                &["x-yes: 1"],
            ),
            // Not complete yet.
            ("0\r\nx-sum: 1\r\n", &[]),
            // Not for a trailer.
            (
                "0\r\ncontent-length: 5\r\ntransfer-encoding: x\r\nset-cookie: a\r\nx: 1\r\n\r\n",
                &["x: 1"],
            ),
            // Not understood: nothing at all.
            ("0\r\nx-sum: 1\r\n folded\r\n\r\n", &[]),
            ("0\r\nx-sum: 1\r\nno colon\r\n\r\n", &[]),
            ("0\r\nx-sum: 1\n\r\n", &[]),
            ("zz\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", &[]),
            ("+3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n", &[]),
            ("ffffffffffffffff\r\n0\r\nx-sum: 1\r\n\r\n", &[]),
        ];
        for (body, expected) in table {
            assert_eq!(taken(&format!("{HEAD}{body}")), *expected, "{body:?}");
        }
    }

    #[test]
    fn informational_heads_come_before_the_one_that_counts() {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n";
        let whole = format!("{hints}{hints}{HEAD}0\r\nx: 1\r\n\r\n");
        assert_eq!(taken(&whole), ["x: 1"]);
    }

    #[test]
    fn what_is_not_chunked_has_none() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        ] {
            assert!(
                taken(&format!("{head}0\r\nx: 1\r\n\r\n")).is_empty(),
                "{head}"
            );
        }
    }

    #[test]
    fn too_many_and_too_large_trailers_are_dropped() {
        let many: String = (0..=TRAILERS_MAX)
            .map(|n| format!("x-{n}: 1\r\n"))
            .collect();
        assert!(pieces(format!("{HEAD}0\r\n{many}\r\n").as_bytes(), 4096).is_empty());
        let large = "a".repeat(SECTION_BYTES_MAX);
        assert!(pieces(format!("{HEAD}0\r\nx: {large}\r\n\r\n").as_bytes(), 4096).is_empty());
        let endless = "a".repeat(LINE_BYTES_MAX + 1);
        let mut tap = TrailerTap::default();
        tap.pass(format!("{HEAD}0\r\nx: {endless}").as_bytes());
        assert!(tap.state == State::Over && tap.line.capacity() == 0);
    }
}
