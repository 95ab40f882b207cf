//! The body of an HTTP/1 message: taken out of the bytes that carry it, and put between those that delimit it.
//!
//! Owns RFC 9112 s6 and s7 in both directions. Pure: buffers in, pieces out; the sessions read and write. However the
//! bytes of a message are cut, its body is the same.

use bytes::{Buf, Bytes, BytesMut};
use http::header::HeaderMap;

use crate::response_head::BodyLength;
use crate::trailers::Trailers;

/// Takes one body out of a connection's bytes.
///
/// `Known(n) => Known(n - taken)`, `Size => Data | Trailer`, `Data => DataEnd`, `DataEnd => Size`, `Trailer => Done`
#[derive(Debug)]
pub struct BodyReader {
    state: Reading,
    trailers: Trailers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// So many bytes are still to come.
    Known(u64),
    UntilClose,
    /// `1a;extension CRLF`
    Size,
    /// So many bytes of this chunk are still to come.
    Data(u64),
    /// The line end behind a chunk's data.
    DataEnd,
    /// A line of the trailer section.
    Trailer,
    Done,
}

/// What a look at the bytes gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A piece of the body; never empty.
    Data(Bytes),
    /// More bytes are needed.
    More,
    /// The body is complete.
    End,
}

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// The size of a chunk is no number, or stands in no line of its own.
    #[error("a chunk has no size")]
    Size,
    /// A chunk is longer than it says.
    #[error("a chunk does not end where it should")]
    ChunkEnd,
    /// A line of the trailer section does not end with CRLF.
    #[error("a trailer does not end as it should")]
    LineEnd,
    /// A chunk's line, or the trailer section, is too long.
    #[error("a chunk's line or the trailers are too long")]
    TooLong,
    /// The connection ended before the body did.
    #[error("the body is cut")]
    Cut,
}

impl BodyReader {
    /// A body that is delimited in this way.
    pub fn new(length: BodyLength) -> BodyReader {
        BodyReader {
            state: match length {
                BodyLength::Known(0) => Reading::Done,
                BodyLength::Known(length) => Reading::Known(length),
                BodyLength::Chunked => Reading::Size,
                BodyLength::UntilClose => Reading::UntilClose,
            },
            trailers: Trailers::default(),
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == Reading::Done
    }

    /// How many more bytes are known to come, at least.
    pub fn left(&self) -> u64 {
        match self.state {
            Reading::Known(left) | Reading::Data(left) => left,
            _ => 0,
        }
    }

    /// The next piece at the front of `bytes`, which it takes away.
    ///
    /// # Errors
    /// See [`BodyFault`].
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Taken, BodyFault> {
        loop {
            match self.state {
                Reading::Done => return Ok(Taken::End),
                Reading::UntilClose => return Ok(take_up_to(bytes, u64::MAX).0),
                Reading::Known(left) => {
                    let (taken, left) = take_up_to(bytes, left);
                    self.state = match left {
                        0 => Reading::Done,
                        left => Reading::Known(left),
                    };
                    return Ok(taken);
                }
                Reading::Data(left) => {
                    let (taken, left) = take_up_to(bytes, left);
                    self.state = match left {
                        0 => Reading::DataEnd,
                        left => Reading::Data(left),
                    };
                    if taken != Taken::More {
                        // Whoever asks whether this was the last piece need not ask again, if the bytes tell.
                        self.skip_to_data(bytes)?;
                    }
                    return Ok(taken);
                }
                Reading::Size | Reading::DataEnd | Reading::Trailer => {
                    if !self.skip_to_data(bytes)? {
                        return Ok(Taken::More);
                    }
                }
            }
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// [`BodyFault::Cut`] if the body should have gone on.
    pub fn close(&mut self) -> Result<(), BodyFault> {
        match self.state {
            Reading::Done | Reading::UntilClose => {
                self.state = Reading::Done;
                Ok(())
            }
            _ => Err(BodyFault::Cut),
        }
    }

    /// The trailers of a body that is complete; nothing if it had none.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().filter(|_| self.is_done())
    }

    /// Goes over what stands between pieces. Whether it came to a piece or to the end.
    fn skip_to_data(&mut self, bytes: &mut BytesMut) -> Result<bool, BodyFault> {
        loop {
            match self.state {
                Reading::DataEnd => match bytes.as_ref() {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.state = Reading::Size;
                    }
                    [] | [b'\r'] => return Ok(false),
                    _ => return Err(BodyFault::ChunkEnd),
                },
                Reading::Size => {
                    let Some(line) = take_line(bytes)? else {
                        return Ok(false);
                    };
                    self.state = match chunk_size(&line).ok_or(BodyFault::Size)? {
                        0 => Reading::Trailer,
                        size => Reading::Data(size),
                    };
                }
                Reading::Trailer => {
                    let Some(line) = take_line(bytes)? else {
                        return Ok(false);
                    };
                    let line = line.strip_suffix(b"\r\n").ok_or(BodyFault::LineEnd)?;
                    if line.is_empty() {
                        self.state = Reading::Done;
                    } else if !self.trailers.note(line) {
                        return Err(BodyFault::TooLong);
                    }
                }
                Reading::Known(_) | Reading::UntilClose | Reading::Data(_) | Reading::Done => {
                    return Ok(true);
                }
            }
        }
    }
}

/// A piece, and how much is left behind it.
fn take_up_to(bytes: &mut BytesMut, left: u64) -> (Taken, u64) {
    let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    if count == 0 {
        return (Taken::More, left);
    }
    let piece = bytes.split_to(count).freeze();
    (Taken::Data(piece), left - count as u64)
}

/// The next line, with its end.
fn take_line(bytes: &mut BytesMut) -> Result<Option<BytesMut>, BodyFault> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    match end {
        Some(end) if end < LINE_BYTES_MAX => Ok(Some(bytes.split_to(end + 1))),
        None if bytes.len() < LINE_BYTES_MAX => Ok(None),
        Some(_) | None => Err(BodyFault::TooLong),
    }
}

/// RFC 9112 s7.1: `chunk-size [ chunk-ext ] CRLF`. The line end is CRLF and nothing else, here and behind trailers: a bare LF,
/// which s2.2 lets one take in a head, is where parsers of bodies differ.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let count = digits.count();
    if count == 0 || count > CHUNK_SIZE_DIGITS_MAX {
        return None;
    }
    let rest = line[count..].trim_ascii_start();
    let is_extension = rest.is_empty() || rest[0] == b';';
    let has_control = rest
        .iter()
        .any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f);
    if !is_extension || has_control {
        return None;
    }
    let text = std::str::from_utf8(&line[..count]).ok()?;
    u64::from_str_radix(text, 16).ok()
}

// === the other way ===

/// Puts a body between what delimits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyWriter {
    /// There is none; what is written is left out.
    Nothing,
    /// So many bytes are still to come.
    Length(u64),
    /// Each piece is a chunk.
    Chunked,
    /// The end of the connection ends it.
    UntilClose,
}

/// More, or fewer, bytes than `Content-Length` promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body has not the length that was promised")]
pub struct WrongLength;

impl BodyWriter {
    /// Whether nothing more has to be written, [`BodyWriter::end`] included.
    pub fn needs_nothing_more(self) -> bool {
        matches!(self, BodyWriter::Nothing | BodyWriter::Length(0))
    }

    /// What stands around a piece of this length. An empty one is left out: it would end a chunked body.
    ///
    /// # Errors
    /// [`WrongLength`] if there are more bytes than were promised.
    pub fn around(&mut self, length: usize) -> Result<Around, WrongLength> {
        let mut around = Around {
            line: NO_LINE,
            start: NO_LINE.len(),
            after: b"",
            passes: length > 0,
        };
        match self {
            BodyWriter::Nothing => around.passes = false,
            BodyWriter::UntilClose => {}
            BodyWriter::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(WrongLength)?;
            }
            BodyWriter::Chunked if length > 0 => {
                around.start -= 2;
                let mut left = length;
                while left > 0 {
                    around.start -= 1;
                    around.line[around.start] = b"0123456789abcdef"[left & 0xf];
                    left >>= 4;
                }
                around.after = b"\r\n";
            }
            BodyWriter::Chunked => {}
        }
        Ok(around)
    }

    /// What ends the body.
    ///
    /// # Errors
    /// [`WrongLength`] if there were fewer bytes than were promised.
    pub fn end(&mut self) -> Result<&'static [u8], WrongLength> {
        let end: &[u8] = match self {
            BodyWriter::Length(1..) => return Err(WrongLength),
            BodyWriter::Chunked => b"0\r\n\r\n",
            BodyWriter::Nothing | BodyWriter::Length(0) | BodyWriter::UntilClose => b"",
        };
        *self = BodyWriter::Nothing;
        Ok(end)
    }
}

/// What delimits one piece.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    line: [u8; 18],
    start: usize,
    /// What comes behind it.
    pub after: &'static [u8],
    /// Whether the piece is written at all.
    pub passes: bool,
}

impl Around {
    /// What comes before the piece.
    pub fn before(&self) -> &[u8] {
        &self.line[self.start..]
    }
}

/// The size of a chunk is written into its end.
const NO_LINE: [u8; 18] = *b"0000000000000000\r\n";
/// A chunk's line or a trailer; extensions are for nobody.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// More would not fit into 64 bits.
const CHUNK_SIZE_DIGITS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, and what is left behind it, or the fault; the bytes come in pieces of `size`.
    fn read(length: BodyLength, text: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), BodyFault> {
        let read = crate::properties::read_body(length, text, size.max(1));
        read.map(|(body, _, rest)| (body, rest))
    }

    fn read_in_all_pieces(length: BodyLength, text: &str) -> Result<(String, String), BodyFault> {
        let whole = read(length, text.as_bytes(), text.len());
        for size in [1, 2, 3, 5, 17] {
            assert_eq!(
                read(length, text.as_bytes(), size),
                whole,
                "{text:?} by {size}"
            );
        }
        let string = |bytes| String::from_utf8(bytes).expect("text");
        whole.map(|(body, rest)| (string(body), string(rest)))
    }

    #[test]
    fn chunks_are_joined_and_nothing_behind_them_is_touched() {
        for (text, expected) in [
            ("3\r\nabc\r\n0\r\n\r\nGET", Ok(("abc", "GET"))),
            (
                "3;a=b\r\nabc\r\nA \t;x=\"y\"\r\n0123456789\r\n000\r\nx: 1\r\ny\r\n\r\nrest",
                Ok(("abc0123456789", "rest")),
            ),
            // What looks like the end inside a chunk is data.
            ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", Ok(("0\r\n\r\n", ""))),
            ("0\r\nx: 1\n\r\n", Err(BodyFault::LineEnd)),
            ("0\r\nx: 1\r\n\n", Err(BodyFault::LineEnd)),
            ("3\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("3\r\nabcd\r\n0\r\n\r\n", Err(BodyFault::ChunkEnd)),
            ("3\r\nabc\n0\r\n\r\n", Err(BodyFault::ChunkEnd)),
            ("+3\r\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("0x3\r\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("\r\n\r\n", Err(BodyFault::Size)),
            (" 3\r\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("3 a\r\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("3;a\rb\r\nabc\r\n0\r\n\r\n", Err(BodyFault::Size)),
            ("10000000000000000\r\n", Err(BodyFault::Size)),
            ("3\r\nab", Err(BodyFault::Cut)),
            ("3\r\nabc\r\n0\r\n", Err(BodyFault::Cut)),
            ("", Err(BodyFault::Cut)),
        ] {
            let expected = expected.map(|(body, rest)| (body.to_owned(), rest.to_owned()));
            assert_eq!(
                read_in_all_pieces(BodyLength::Chunked, text),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_length_is_kept_to_and_a_close_ends_what_it_may() {
        let read = |length, text: &str| {
            read_in_all_pieces(length, text).map(|(body, rest)| body + "|" + &rest)
        };
        assert_eq!(
            read(BodyLength::Known(3), "abcGET"),
            Ok("abc|GET".to_owned())
        );
        assert_eq!(read(BodyLength::Known(0), "GET"), Ok("|GET".to_owned()));
        assert_eq!(read(BodyLength::Known(4), "abc"), Err(BodyFault::Cut));
        assert_eq!(read(BodyLength::UntilClose, "abc"), Ok("abc|".to_owned()));
    }

    #[test]
    fn lines_that_do_not_end_are_given_up() {
        let long = "1".to_owned() + &"x".repeat(LINE_BYTES_MAX);
        for text in [
            format!("1;{long}"),
            format!("0\r\n{long}"),
            format!("1;{long}\r\n"),
        ] {
            assert_eq!(
                read(BodyLength::Chunked, text.as_bytes(), 4096),
                Err(BodyFault::TooLong)
            );
        }
        let endless = "0\r\n".to_owned() + &"x: y\r\n".repeat(20_000);
        assert_eq!(
            read(BodyLength::Chunked, endless.as_bytes(), 4096),
            Err(BodyFault::TooLong)
        );
    }

    #[test]
    fn the_last_piece_is_known_as_such_if_the_bytes_tell() {
        let mut reader = BodyReader::new(BodyLength::Chunked);
        let mut bytes = BytesMut::from(&b"3\r\nabc\r\n0\r\n\r\n"[..]);
        assert!(matches!(reader.take(&mut bytes), Ok(Taken::Data(_))));
        assert!(reader.is_done());
    }

    fn written(mut writer: BodyWriter, pieces: &[&[u8]]) -> Result<String, WrongLength> {
        let mut out = Vec::new();
        for piece in pieces {
            let around = writer.around(piece.len())?;
            if around.passes {
                out.extend_from_slice(&[around.before(), piece, around.after].concat());
            }
        }
        out.extend_from_slice(writer.end()?);
        assert!(writer.needs_nothing_more());
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn what_is_written_is_delimited() {
        let long = [b'a'; 0x1f0];
        let chunked = written(BodyWriter::Chunked, &[b"abc", b"", &long]).expect("any length");
        let (body, rest) = read_in_all_pieces(BodyLength::Chunked, &chunked).expect("good");
        assert!(chunked.starts_with("3\r\nabc\r\n1f0\r\n") && rest.is_empty());
        assert_eq!(body.len(), 3 + long.len());
        assert_eq!(
            written(BodyWriter::Length(3), &[b"ab", b"c"]).as_deref(),
            Ok("abc")
        );
        assert_eq!(written(BodyWriter::Length(3), &[b"ab"]), Err(WrongLength));
        assert_eq!(
            written(BodyWriter::Length(3), &[b"ab", b"cd"]),
            Err(WrongLength)
        );
        assert_eq!(written(BodyWriter::Nothing, &[b"abc"]).as_deref(), Ok(""));
        assert_eq!(
            written(BodyWriter::UntilClose, &[b"abc"]).as_deref(),
            Ok("abc")
        );
    }
}
