//! The `[compression]` section, with its defaults and why they are what they are.

use toml::de::DeValue;

use super::section::{Parsed, Section};
use super::values;

/// `[compression]`: what is compressed on its way to the client if the upstream has not done so.
///
/// Never compressed, whatever is written here: responses that are encoded already, parts of a range, answers to
/// HTTP/1.0, and what either side marked `Cache-Control: no-transform`. That mark is also the way out for pages that
/// show a secret next to what a stranger can put into them: the length of a compressed page tells about both (BREACH).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// `enabled`, default true. False leaves every body as the upstream sent it.
    pub enabled: bool,
    /// `min_bytes`, default `1KiB`, `0B` to `1MiB`: shorter bodies are left alone.
    ///
    /// They fit into one segment either way. Lower costs time for nothing, higher leaves bytes on the wire. A body of
    /// unknown length counts as long.
    pub min_bytes: u64,
    /// `types`, default the textual ones of the web: `text/*`, `*+json` or a whole media type; lower case.
    ///
    /// Images, video and most fonts are compressed by themselves: to compress them again only costs time.
    pub types: Vec<String>,
    /// `zstd_level`, default 3, 0 to 9; 0 = not used. It is offered first: it costs the least for what it saves.
    pub zstd_level: u32,
    /// `brotli_level`, default 4, 0 to 9; 0 = not used. Above 4 a page costs several times as much.
    pub brotli_level: u32,
    /// `gzip_level`, default 4, 0 to 9; 0 = not used.
    pub gzip_level: u32,
    /// `streams`, default 1000, 1 to 100000: responses being compressed at once; further ones go out as they are.
    ///
    /// Each holds up to about 1 MiB until it ends, event streams for as long as they live.
    pub streams: usize,
}

impl Default for Compression {
    fn default() -> Compression {
        Compression {
            enabled: true,
            min_bytes: 1024,
            types: TYPES.iter().map(|kind| (*kind).to_owned()).collect(),
            zstd_level: 3,
            brotli_level: 4,
            gzip_level: 4,
            streams: 1000,
        }
    }
}

impl Compression {
    /// Takes the section; what is not there has its default.
    pub(super) fn read(mut section: Section<'_>) -> Compression {
        let default = Compression::default();
        let compression = Compression {
            enabled: section.or("enabled", default.enabled, values::flag),
            min_bytes: section
                .optional("min_bytes", values::size(0..=MIN_BYTES_MAX))
                .map_or(default.min_bytes, |at| at.value),
            types: if section.has_filled("types") {
                let types = section.list("types", media_type);
                types.into_iter().map(|at| at.value).collect()
            } else {
                section.list("types", media_type);
                default.types
            },
            zstd_level: section.or("zstd_level", default.zstd_level, values::count(0..=9)),
            brotli_level: section.or("brotli_level", default.brotli_level, values::count(0..=9)),
            gzip_level: section.or("gzip_level", default.gzip_level, values::count(0..=9)),
            streams: section.or("streams", default.streams, values::count(1..=100_000)),
        };
        section.finish();
        compression
    }
}

/// `text/*`, `*+json` or `application/json`: bytes of tokens, one slash or one star at an end.
fn media_type(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    let inner = text.strip_suffix('*').unwrap_or(text);
    let inner = inner.strip_prefix('*').unwrap_or(inner);
    let is_known = inner
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"/+.-_".contains(&b));
    let has_one_star = inner.len() + 1 >= text.len() && !inner.is_empty();
    if !is_known || !has_one_star || !(inner.contains('/') || text.starts_with("*+")) {
        return Err(format!(
            "{text:?} is no media type: write text/*, *+json or application/json, in lower case"
        ));
    }
    Ok(text.to_owned())
}

/// A longer body is worth it in any case.
const MIN_BYTES_MAX: u64 = 1 << 20;
/// `text/x-component` of React and `text/event-stream` are in `text/*`.
const TYPES: [&str; 9] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/wasm",
    "*+json",
    "*+xml",
    "font/ttf",
    "font/otf",
];
