//! A response body on its way through a compressor: pieces in, pieces out, nothing kept back for longer than it has to.
//!
//! Owns the three compressors, their memory, and how many of them there are. When to flush is the exchange's to say.
//! pingora's own compression context is not used: it knows no weights, and it keeps back the beginning of a stream until
//! there is more of it. The crates below it are the same.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::compress_decision::Coding;
use crate::config::Compression;

/// The compressor of one response.
pub struct Encoder {
    writer: Writer,
    /// Bytes went in and have not come out.
    holds_back: bool,
    _place: Place,
}

enum Writer {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

// === impl Encoder ===

impl Encoder {
    /// A compressor, unless there are [`Compression::streams`] already, or no memory for another.
    pub fn new(coding: Coding, settings: &Compression) -> Option<Encoder> {
        let place = Place::take(&OPEN, settings.streams)?;
        let level = coding.level(settings);
        let writer = match coding {
            Coding::Zstd => Writer::Zstd(zstd_encoder(level).ok()?),
            Coding::Brotli => {
                let writer =
                    brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, level, WINDOW_BITS);
                Writer::Brotli(Box::new(writer))
            }
            Coding::Gzip => {
                let level = flate2::Compression::new(level);
                Writer::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
        };
        Some(Encoder {
            writer,
            holds_back: false,
            _place: place,
        })
    }

    /// Whether a flush would bring something out.
    pub fn holds_back(&self) -> bool {
        self.holds_back
    }

    /// Takes a piece; what comes out may be empty.
    ///
    /// # Errors
    /// Only from the compressor itself; what came out so far cannot be completed then.
    pub fn encode(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        self.holds_back |= !piece.is_empty();
        self.writer.as_write().write_all(piece)?;
        Ok(self.take())
    }

    /// Everything that went in comes out, so that the client can read it.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn flush(&mut self) -> io::Result<Bytes> {
        self.writer.as_write().flush()?;
        self.holds_back = false;
        Ok(self.take())
    }

    /// The end of the body.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn finish(self) -> io::Result<Bytes> {
        let rest = match self.writer {
            Writer::Zstd(writer) => writer.finish()?,
            Writer::Brotli(writer) => writer.into_inner(),
            Writer::Gzip(writer) => writer.finish()?,
        };
        Ok(Bytes::from(rest))
    }

    fn take(&mut self) -> Bytes {
        let out = match &mut self.writer {
            Writer::Zstd(writer) => writer.get_mut(),
            Writer::Brotli(writer) => writer.get_mut(),
            Writer::Gzip(writer) => writer.get_mut(),
        };
        Bytes::from(std::mem::take(out))
    }
}

impl Writer {
    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Writer::Zstd(writer) => writer,
            Writer::Brotli(writer) => writer,
            Writer::Gzip(writer) => writer,
        }
    }
}

fn zstd_encoder(level: u32) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    // The configuration allows no level that does not fit.
    let level = i32::try_from(level).unwrap_or(i32::MAX);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
    encoder.window_log(WINDOW_BITS)?;
    Ok(encoder)
}

// === impl Place ===

/// One of the places that there are for compressors.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(open: &'static AtomicUsize, max: usize) -> Option<Place> {
        let taken = open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < max).then_some(count + 1)
        });
        taken.ok().map(|_| Place(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Compressors of the whole process.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// How far back a match may lie: 128 KiB, enough for a page, and small enough for a thousand of them.
const WINDOW_BITS: u32 = 17;
/// What brotli's writer collects before it passes it on.
const BROTLI_BUFFER: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).expect("a decoder")),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        // A stream that was flushed and not finished has its bytes out before it is found to be cut.
        reader.read_to_end(&mut out).ok();
        out
    }

    fn encoder(coding: Coding) -> Encoder {
        Encoder::new(coding, &Compression::default()).expect("a place")
    }

    #[test]
    fn what_was_flushed_can_be_read_before_more_comes() {
        for coding in ALL {
            let mut encoder = encoder(coding);
            let mut out = Vec::new();
            let mut sent = Vec::new();
            for number in 0..50 {
                let piece = format!("data: event {number}\n\n");
                sent.extend_from_slice(piece.as_bytes());
                out.extend_from_slice(&encoder.encode(piece.as_bytes()).expect("it encodes"));
                assert!(encoder.holds_back());
                out.extend_from_slice(&encoder.flush().expect("it flushes"));
                assert!(!encoder.holds_back());
                assert!(decoded(coding, &out) == sent, "{coding:?} after {number}");
            }
            out.extend_from_slice(&encoder.finish().expect("it ends"));
            assert!(decoded(coding, &out) == sent, "{coding:?}");
        }
    }

    #[test]
    fn a_long_body_comes_back_and_got_smaller() {
        let body: Vec<u8> = (0..2_000_000_u32)
            .flat_map(|i| (i / 7).to_le_bytes())
            .collect();
        for coding in ALL {
            let mut encoder = encoder(coding);
            let mut out = Vec::new();
            for piece in body.chunks(65_536) {
                out.extend_from_slice(&encoder.encode(piece).expect("it encodes"));
            }
            out.extend_from_slice(&encoder.finish().expect("it ends"));
            assert!(out.len() < body.len() / 2, "{coding:?}");
            assert!(decoded(coding, &out) == body, "{coding:?}");
        }
    }

    #[test]
    fn an_empty_body_is_still_a_whole_stream() {
        for coding in ALL {
            let out = encoder(coding).finish().expect("it ends");
            assert!(!out.is_empty(), "{coding:?}");
            assert!(decoded(coding, &out).is_empty(), "{coding:?}");
        }
    }

    #[test]
    fn there_are_no_more_places_than_configured() {
        static HERE: AtomicUsize = AtomicUsize::new(0);
        let first = Place::take(&HERE, 2).expect("a place");
        let second = Place::take(&HERE, 2).expect("a place");
        assert!(Place::take(&HERE, 2).is_none());
        drop(first);
        let third = Place::take(&HERE, 2).expect("the place of the first");
        drop((second, third));
        assert_eq!(HERE.load(Ordering::Acquire), 0);
    }
}
