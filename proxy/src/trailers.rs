//! The trailer section of a chunked body: what of it may be passed on.
//!
//! Owns the choice. `body.rs` finds the lines. A line that is no field leaves the message without trailers, and its body
//! is none the worse. Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The trailers of one message.
#[derive(Debug, Default)]
pub struct Trailers {
    /// Bytes of the section so far.
    section_bytes: usize,
    is_given_up: bool,
    fields: Option<Box<HeaderMap>>,
}

impl Trailers {
    /// Notes a line, without its end. False when the section has become too long to be read on.
    pub fn note(&mut self, line: &[u8]) -> bool {
        self.section_bytes += line.len() + 2;
        if self.is_given_up {
            return self.section_bytes <= SECTION_BYTES_MAX;
        }
        let fields = self.fields.get_or_insert_default();
        let is_small = self.section_bytes <= KEPT_BYTES_MAX && fields.len() < TRAILERS_MAX;
        match field(line).filter(|_| is_small) {
            Some((name, value)) if may_trail(&name) => {
                fields.append(name, value);
            }
            Some(_) => {}
            None => {
                self.is_given_up = true;
                self.fields = None;
            }
        }
        true
    }

    /// What may be passed on; nothing if there is none.
    pub fn take(&mut self) -> Option<HeaderMap> {
        let fields = self.fields.take()?;
        (!fields.is_empty()).then_some(*fields)
    }
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
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

/// Bytes of a trailer section; a longer one ends its message.
const SECTION_BYTES_MAX: usize = 64 * 1024;
/// Bytes of trailers that are kept.
const KEPT_BYTES_MAX: usize = 8 * 1024;
/// Trailers that are kept.
const TRAILERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lines: &[&str]) -> Vec<String> {
        let mut trailers = Trailers::default();
        for line in lines {
            assert!(trailers.note(line.as_bytes()), "{line}");
        }
        let fields = trailers.take().unwrap_or_default();
        fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect()
    }

    #[test]
    fn what_says_how_a_message_is_read_is_no_trailer() {
        let table: &[(&[&str], &[&str])] = &[
            (&["X-Sum: 1"], &["x-sum: 1"]),
            (&["a: 1", "b:2 ", "a: 3"], &["a: 1", "a: 3", "b: 2"]),
            (&[], &[]),
            (
                &[
                    "content-length: 5",
                    "transfer-encoding: x",
                    "set-cookie: a",
                    "x: 1",
                ],
                &["x: 1"],
            ),
            // Not understood: nothing at all.
            (&["x-sum: 1", " folded"], &[]),
            (&["x-sum: 1", "no colon", "y: 1"], &[]),
            (&["x sum: 1"], &[]),
        ];
        for (lines, expected) in table {
            assert_eq!(taken(lines), *expected, "{lines:?}");
        }
    }

    #[test]
    fn too_many_and_too_large_trailers_are_dropped_and_endless_ones_are_not_read() {
        let many: Vec<String> = (0..=TRAILERS_MAX).map(|n| format!("x-{n}: 1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(taken(&many).is_empty());
        let large = format!("x: {}", "a".repeat(KEPT_BYTES_MAX));
        assert!(taken(&[&large]).is_empty());
        let mut trailers = Trailers::default();
        let lines = (0..).take_while(|_| trailers.note(b"x: 1")).count();
        assert!(lines > 1000 && lines <= SECTION_BYTES_MAX / 6);
    }
}
