//! Whether a response is compressed, with which coding, and what its head says then.
//!
//! Pure: two heads and the configuration in, a plan out. The bytes are `compress.rs`.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use crate::config::Compression;
use crate::fields::{Field, Fields, Known, content_length};
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;

/// A content coding that the proxy can apply (RFC 9110 s8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

/// What is done with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It passes as it is.
    Leave,
    /// It passes as it is, but another client would get it compressed: caches have to know.
    Vary,
    /// It is compressed.
    Encode(Coding),
}

// === impl Coding ===

impl Coding {
    /// The token of `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
        }
    }

    /// The configured level; 0 = not used.
    pub fn level(self, settings: &Compression) -> u32 {
        match self {
            Coding::Zstd => settings.zstd_level,
            Coding::Brotli => settings.brotli_level,
            Coding::Gzip => settings.gzip_level,
        }
    }
}

// === impl Plan ===

impl Plan {
    /// The plan for a final response to `request`.
    pub fn of(settings: &Compression, request: &RequestHead, response: &ResponseHead) -> Plan {
        if !settings.enabled || !is_eligible(settings, request, response) {
            return Plan::Leave;
        }
        match preferred(settings, &request.fields) {
            Some(coding) if request.version != Version::HTTP_10 => Plan::Encode(coding),
            Some(_) | None => Plan::Vary,
        }
    }
}

/// Makes the fields that go to the client say what is done: each passes through it on its way out. The caller sets the
/// framing.
#[derive(Debug)]
pub struct Marker {
    plan: Plan,
    varies: bool,
}

impl Marker {
    /// Of a response with this plan.
    pub fn new(plan: Plan) -> Marker {
        Marker {
            plan,
            varies: false,
        }
    }

    /// Passes a field on to `put`, as it is or changed, or leaves it out.
    pub fn pass(&mut self, field: Field<'_>, put: &mut impl FnMut(Field<'_>)) {
        if self.plan == Plan::Leave {
            return put(field);
        }
        let is_encoded = matches!(self.plan, Plan::Encode(_));
        let value = field.value;
        match field.known {
            Known::Vary => {
                let mut items = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.varies |=
                    items.any(|item| item == b"*" || item.eq_ignore_ascii_case(ACCEPT_ENCODING));
                put(field);
            }
            // A range of the compressed bytes cannot be asked for.
            Known::ContentEncoding | Known::AcceptRanges | Known::ContentLength if is_encoded => {}
            // RFC 9110 s8.8.1: a strong validator is for one sequence of bytes, and these are others now.
            Known::Etag if is_encoded && !value.starts_with(b"W/") => {
                let weak = [b"W/", value].concat();
                put(Field::new(Known::Etag, field.name, &weak));
            }
            _ => put(field),
        }
    }

    /// Puts what the response did not say itself.
    pub fn end(self, put: &mut impl FnMut(Field<'_>)) {
        if self.plan != Plan::Leave && !self.varies {
            put(Field::new(Known::Vary, b"Vary", ACCEPT_ENCODING));
        }
        if let Plan::Encode(coding) = self.plan {
            let coding = coding.as_str().as_bytes();
            put(Field::new(
                Known::ContentEncoding,
                b"Content-Encoding",
                coding,
            ));
        }
    }
}

/// Everything but what the client accepts.
fn is_eligible(settings: &Compression, request: &RequestHead, response: &ResponseHead) -> bool {
    let fields = &response.fields;
    let has_body = !response.status.is_informational()
        && !matches!(
            response.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT
        )
        && request.method != Method::CONNECT;
    let is_as_it_must_be = fields.has(Known::ContentEncoding)
        || fields.has(Known::ContentRange)
        // Digests of the bytes as they were sent.
        || fields.has(Known::ContentDigest)
        || fields.has(Known::Digest)
        || fields.has(Known::ContentMd5)
        // RFC 9111 s5.2.2.6: "MUST NOT transform the content".
        || has_no_transform(fields)
        || has_no_transform(&request.fields);
    let is_long = !fields.has(Known::ContentLength)
        || content_length(fields).is_some_and(|length| length >= settings.min_bytes && length > 0);
    has_body && !is_as_it_must_be && is_long && has_type(settings, fields)
}

fn has_type(settings: &Compression, fields: &Fields) -> bool {
    let Some(value) = fields.get(Known::ContentType) else {
        return false;
    };
    let kind = value.split(|byte| *byte == b';').next();
    let kind = kind.unwrap_or_default().trim_ascii();
    let mut types = settings.types.iter();
    types.any(|pattern| matches(pattern.as_bytes(), kind))
}

/// `text/*`, `*+json`, or the whole.
fn matches(pattern: &[u8], kind: &[u8]) -> bool {
    let is = |part: Option<&[u8]>, text: &[u8]| part.is_some_and(|p| p.eq_ignore_ascii_case(text));
    match pattern {
        [start @ .., b'*'] => is(kind.get(..start.len()), start),
        [b'*', end @ ..] => {
            let from = kind.len().checked_sub(end.len());
            is(from.and_then(|from| kind.get(from..)), end)
        }
        whole => kind.eq_ignore_ascii_case(whole),
    }
}

/// Whether the fields that a site sets say `Cache-Control: no-transform`: then its responses go out as they came, whatever
/// the upstream says.
pub fn is_forbidden_by(set: &[(HeaderName, HeaderValue)]) -> bool {
    set.iter()
        .filter(|(name, _)| *name == header::CACHE_CONTROL)
        .filter_map(|(_, value)| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case("no-transform"))
}

fn has_no_transform(fields: &Fields) -> bool {
    fields
        .items(Known::CacheControl)
        .any(|item| item.eq_ignore_ascii_case(b"no-transform"))
}

/// RFC 9110 s12.5.3. Without the field any coding would do, but then the client has likely never heard of them.
fn preferred(settings: &Compression, request: &Fields) -> Option<Coding> {
    let mut weights = Weights::default();
    for item in request.items(Known::AcceptEncoding) {
        weights.note(std::str::from_utf8(item).unwrap_or_default());
    }
    let mut best = None;
    let mut best_weight = weights.identity.unwrap_or(1).max(1);
    for coding in ORDER {
        let weight = weights.of(coding);
        let is_better = match best {
            None => weight >= best_weight,
            Some(_) => weight > best_weight,
        };
        if coding.level(settings) > 0 && weight > 0 && is_better {
            best = Some(coding);
            best_weight = weight;
        }
    }
    best
}

/// Weights in thousandths, as far as they are named.
#[derive(Default)]
struct Weights {
    zstd: Option<u16>,
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Weights {
    fn note(&mut self, item: &str) {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = match parts.next() {
            None => 1000,
            Some(parameter) => quality(parameter),
        };
        let place = match name {
            "*" => &mut self.any,
            _ if name.eq_ignore_ascii_case("zstd") => &mut self.zstd,
            _ if name.eq_ignore_ascii_case("br") => &mut self.brotli,
            _ if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                &mut self.gzip
            }
            _ if name.eq_ignore_ascii_case("identity") => &mut self.identity,
            _ => return,
        };
        *place = Some(weight);
    }

    fn of(&self, coding: Coding) -> u16 {
        let named = match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        };
        named.or(self.any).unwrap_or(0)
    }
}

/// `q=0.5`, RFC 9110 s12.4.2; what is no weight counts as 0: nothing is done that was not asked for.
fn quality(parameter: &str) -> u16 {
    let Some((name, value)) = parameter.split_once('=') else {
        return 0;
    };
    if !name.trim().eq_ignore_ascii_case("q") {
        return 0;
    }
    let value = value.trim();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_number = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    match (whole, is_number) {
        ("1", true) if fraction.bytes().all(|b| b == b'0') => 1000,
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// At equal weights the first one is taken: least time for what it saves.
const ORDER: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
const ACCEPT_ENCODING: &[u8] = b"accept-encoding";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Span;
    use Coding::{Brotli, Gzip, Zstd};

    type Field = (&'static str, &'static str);

    fn fields(fields: &[(&'static str, &str)]) -> Fields {
        let mut all = Fields::default();
        for (name, value) in fields {
            all.push(name.as_bytes(), value.as_bytes());
        }
        all
    }

    fn request(version: Version, of: &[(&'static str, &str)]) -> RequestHead {
        RequestHead::new(Method::GET, version, fields(of), Span::default(), None)
    }

    fn response(status: u16, of: &[(&'static str, &str)]) -> ResponseHead {
        let status = StatusCode::from_u16(status).expect("a status");
        let mut response = ResponseHead::new(status, Version::HTTP_11);
        response.fields = fields(of);
        response
    }

    fn plan(accept: &str) -> Plan {
        let request = request(Version::HTTP_11, &[("accept-encoding", accept)]);
        let response = response(200, &[("content-type", "text/html")]);
        Plan::of(&Compression::default(), &request, &response)
    }

    #[test]
    fn the_client_gets_the_coding_that_it_weighs_most() {
        let table = [
            ("", Plan::Vary),
            ("gzip", Plan::Encode(Gzip)),
            ("x-gzip", Plan::Encode(Gzip)),
            ("GZIP", Plan::Encode(Gzip)),
            ("gzip, deflate, br", Plan::Encode(Brotli)),
            ("gzip, deflate, br, zstd", Plan::Encode(Zstd)),
            ("zstd;q=0.5, br;q=0.8, gzip;q=0.9", Plan::Encode(Gzip)),
            ("zstd;q=0, br", Plan::Encode(Brotli)),
            ("zstd ; q=0.001", Plan::Encode(Zstd)),
            ("*", Plan::Encode(Zstd)),
            ("*;q=0.1, zstd;q=0", Plan::Encode(Brotli)),
            ("identity, gzip;q=0.5", Plan::Vary),
            ("identity;q=0.5, gzip", Plan::Encode(Gzip)),
            ("identity, gzip", Plan::Encode(Gzip)),
            ("gzip;q=0", Plan::Vary),
            ("gzip;q=0.000", Plan::Vary),
            ("gzip;q=2", Plan::Vary),
            ("gzip;q=", Plan::Vary),
            ("gzip;level=1", Plan::Vary),
            ("deflate, compress", Plan::Vary),
            (",,;;q,=", Plan::Vary),
        ];
        for (accept, expected) in table {
            assert_eq!(plan(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn only_what_gains_by_it_and_may_be_changed_is_compressed() {
        let html = ("content-type", "text/html; charset=utf-8");
        let yes = Plan::Encode(Gzip);
        let table: &[(u16, &[Field], Plan)] = &[
            (200, &[html], yes),
            (200, &[html, ("content-length", "1024")], yes),
            (200, &[html, ("content-length", "1023")], Plan::Leave),
            (200, &[html, ("content-length", "0")], Plan::Leave),
            (200, &[html, ("content-encoding", "br")], Plan::Leave),
            (200, &[html, ("cache-control", "no-transform")], Plan::Leave),
            (
                200,
                &[html, ("cache-control", "public, No-Transform")],
                Plan::Leave,
            ),
            (200, &[html, ("content-range", "bytes 0-1/2")], Plan::Leave),
            (200, &[html, ("content-digest", "x")], Plan::Leave),
            (206, &[html], Plan::Leave),
            (204, &[html], Plan::Leave),
            (304, &[html], Plan::Leave),
            (103, &[html], Plan::Leave),
            (404, &[html], yes),
            (500, &[html], yes),
            (200, &[], Plan::Leave),
            (200, &[("content-type", "image/png")], Plan::Leave),
            (200, &[("content-type", "font/woff2")], Plan::Leave),
            (200, &[("content-type", "image/svg+xml")], yes),
            (200, &[("content-type", "TEXT/X-Component")], yes),
            (200, &[("content-type", "text/event-stream")], yes),
            (200, &[("content-type", "application/problem+json")], yes),
            (200, &[("content-type", "application/json;v=1")], yes),
            (200, &[("content-type", "application/jsonx")], Plan::Leave),
        ];
        let request = request(Version::HTTP_2, &[("accept-encoding", "gzip")]);
        for (status, fields, expected) in table {
            let response = response(*status, fields);
            let plan = Plan::of(&Compression::default(), &request, &response);
            assert_eq!(plan, *expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn a_client_that_forbids_it_or_is_too_old_gets_the_bytes_as_they_are() {
        let html = response(200, &[("content-type", "text/html")]);
        let settings = Compression::default();
        let old = request(Version::HTTP_10, &[("accept-encoding", "gzip")]);
        assert_eq!(Plan::of(&settings, &old, &html), Plan::Vary);
        let fields = [
            ("accept-encoding", "gzip"),
            ("cache-control", "no-transform"),
        ];
        let strict = request(Version::HTTP_11, &fields);
        assert_eq!(Plan::of(&settings, &strict, &html), Plan::Leave);
        let off = Compression {
            enabled: false,
            ..settings.clone()
        };
        let plain = request(Version::HTTP_11, &[("accept-encoding", "gzip")]);
        assert_eq!(Plan::of(&off, &plain, &html), Plan::Leave);
        let no_gzip = Compression {
            gzip_level: 0,
            ..settings
        };
        assert_eq!(Plan::of(&no_gzip, &plain, &html), Plan::Vary);
    }

    fn marked(plan: Plan, of: &[(&'static str, &str)]) -> Vec<String> {
        let mut out = Vec::new();
        let text = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec())
                .expect("text")
                .to_lowercase()
        };
        let mut put = |field: super::Field<'_>| {
            out.push(format!("{}: {}", text(field.name), text(field.value)))
        };
        let mut marker = Marker::new(plan);
        for field in fields(of).iter() {
            marker.pass(field, &mut put);
        }
        marker.end(&mut put);
        out
    }

    #[test]
    fn the_head_says_what_was_done() {
        let all = [
            ("content-type", "text/html"),
            ("content-length", "5000"),
            ("accept-ranges", "bytes"),
            ("etag", "\"a\""),
            ("vary", "cookie"),
        ];
        let expected = [
            "content-type: text/html",
            "etag: w/\"a\"",
            "vary: cookie",
            "vary: accept-encoding",
            "content-encoding: zstd",
        ];
        assert_eq!(marked(Plan::Encode(Zstd), &all), expected);
        let weak = [("etag", "W/\"a\""), ("vary", "Cookie, Accept-Encoding")];
        let expected = [
            "etag: w/\"a\"",
            "vary: cookie, accept-encoding",
            "content-encoding: gzip",
        ];
        assert_eq!(marked(Plan::Encode(Gzip), &weak), expected);
        let length = [("content-length", "5000")];
        assert_eq!(
            marked(Plan::Vary, &length),
            ["content-length: 5000", "vary: accept-encoding"]
        );
        assert!(marked(Plan::Leave, &[]).is_empty());
    }
}
