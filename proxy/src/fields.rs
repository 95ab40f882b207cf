//! The fields of one head: names and values as bytes, in the order in which they came.
//!
//! Owns their storage and the recognition of the names that the proxy acts on, once per field: asking for one of those is
//! a look at a bit, then a walk. Names keep the letters that they came with. What the fields mean is said elsewhere.

use http::header::HeaderMap;

/// Names and values in one buffer.
///
/// ```text
/// "Host: mana.so", "Cookie: a=1"   as they stand in a head; the colon and the line ends are not kept
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// A bit for each [`Known`] that is there.
    present: u64,
    length: Length,
}

/// What the `Content-Length` fields say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    Unsaid,
    Agreed(u64),
    Unclear,
}

/// A piece of [`Fields`]' buffer. Heads are far below 4 GiB: they have a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    name: Span,
    value: Span,
    known: Known,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, as it was written.
    pub name: &'a [u8],
    /// Its value, without the white space around it.
    pub value: &'a [u8],
    /// Which name it is.
    pub known: Known,
}

macro_rules! known {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A field name that the proxy acts on, or that most responses have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is named after its field")]
        pub enum Known {
            /// Any other.
            Other,
            /// `x-forwarded-*` beside those that have a name of their own here.
            XForwarded,
            $($(#[$doc])* $name,)*
        }

        impl Known {
            /// All that have one text.
            pub const ALL: &[Known] = &[$(Known::$name,)*];

            /// The name in small letters; empty for [`Known::Other`] and [`Known::XForwarded`], which are many.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Known::Other | Known::XForwarded => "",
                    $(Known::$name => $text,)*
                }
            }
        }
    };
}

known! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptRanges = "accept-ranges",
    CacheControl = "cache-control",
    CfConnectingIp = "cf-connecting-ip",
    Connection = "connection",
    ContentDigest = "content-digest",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentMd5 = "content-md5",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Digest = "digest",
    Etag = "etag",
    Expect = "expect",
    Forwarded = "forwarded",
    Host = "host",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    Server = "server",
    SetCookie = "set-cookie",
    StrictTransportSecurity = "strict-transport-security",
    Te = "te",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    TrueClientIp = "true-client-ip",
    Upgrade = "upgrade",
    Vary = "vary",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XMiddlewareSubrequest = "x-middleware-subrequest",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

// === impl Field ===

impl<'a> Field<'a> {
    /// A field of a name that is known already, or [`Known::of`] told.
    pub fn new(known: Known, name: &'a [u8], value: &'a [u8]) -> Field<'a> {
        Field { name, value, known }
    }
}

// === impl Known ===

impl Known {
    /// Which name this token is; letters may be large or small.
    pub fn of(name: &[u8]) -> Known {
        let Some(first) = name.first() else {
            return Known::Other;
        };
        // By length and first letter: most names are compared with one other, and many with none.
        let candidates: &[Known] = match (name.len(), fold(*first)) {
            (2, b't') => &[Known::Te],
            (4, b'd') => &[Known::Date],
            (4, b'e') => &[Known::Etag],
            (4, b'h') => &[Known::Host],
            (4, b'v') => &[Known::Vary],
            (6, b'a') => &[Known::Accept],
            (6, b'c') => &[Known::Cookie],
            (6, b'd') => &[Known::Digest],
            (6, b'e') => &[Known::Expect],
            (6, b's') => &[Known::Server],
            (7, b't') => &[Known::Trailer],
            (7, b'u') => &[Known::Upgrade],
            (8, b'l') => &[Known::Location],
            (9, b'f') => &[Known::Forwarded],
            (9, b'x') => &[Known::XRealIp],
            (10, b'c') => &[Known::Connection],
            (10, b'k') => &[Known::KeepAlive],
            (10, b's') => &[Known::SetCookie],
            (11, b'c') => &[Known::ContentMd5],
            (12, b'c') => &[Known::ContentType],
            (12, b'x') => &[Known::XRequestId],
            (13, b'a') => &[Known::AcceptRanges],
            (13, b'c') => &[Known::CacheControl, Known::ContentRange],
            (13, b'l') => &[Known::LastModified],
            (14, b'c') => &[Known::ContentLength, Known::ContentDigest],
            (14, b't') => &[Known::TrueClientIp],
            (15, b'a') => &[Known::AcceptEncoding],
            (15, b'x') => &[Known::XForwardedFor],
            (16, b'c') => &[Known::ContentEncoding, Known::CfConnectingIp],
            (16, b'p') => &[Known::ProxyConnection],
            (17, b't') => &[Known::TransferEncoding],
            (17, b'x') => &[Known::XForwardedProto],
            (18, b'p') => &[Known::ProxyAuthenticate],
            (19, b'p') => &[Known::ProxyAuthorization],
            (23, b'x') => &[Known::XMiddlewareSubrequest],
            (25, b's') => &[Known::StrictTransportSecurity],
            _ => &[],
        };
        let is_it = |known: &&Known| folds_to(name, known.as_str().as_bytes());
        match candidates.iter().find(is_it) {
            Some(known) => *known,
            None => match name.get(..X_FORWARDED.len()) {
                Some(start) if fold(*first) == b'x' && folds_to(start, X_FORWARDED) => {
                    Known::XForwarded
                }
                Some(_) | None => Known::Other,
            },
        }
    }

    fn bit(self) -> u64 {
        1 << (self as u8)
    }
}

// === impl Fields ===

impl Fields {
    /// None, with room for this many bytes.
    pub fn with_capacity(bytes: usize) -> Fields {
        Fields {
            bytes: Vec::with_capacity(bytes),
            lines: Vec::with_capacity(LINES_USUAL),
            ..Fields::default()
        }
    }

    /// None, above a buffer that has their bytes already: [`Fields::point_at`] says where.
    pub fn above(bytes: &[u8]) -> Fields {
        Fields {
            bytes: bytes.to_vec(),
            lines: Vec::with_capacity(LINES_USUAL),
            ..Fields::default()
        }
    }

    /// Appends a field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let name = self.keep(name);
        let value = self.keep(value);
        self.note(name, value);
    }

    /// Appends a field whose parts stand in the buffer.
    pub fn point_at(&mut self, name: Span, value: Span) {
        self.note(name, value);
    }

    /// Keeps bytes beside the fields, for whoever owns the head.
    pub fn keep(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span::new(start, bytes.len())
    }

    /// The buffer below all of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes of a span; empty if it is not of this buffer.
    pub fn at(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes
            .get(start..start + span.length as usize)
            .unwrap_or_default()
    }

    /// The value of the first field of a name.
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.all(known).next()
    }

    /// Whether there is a field of a name.
    pub fn has(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// The values of all fields of a name, in their order.
    pub fn all(&self, known: Known) -> impl DoubleEndedIterator<Item = &[u8]> {
        let lines: &[Line] = match self.has(known) {
            true => &self.lines,
            false => &[],
        };
        let named = lines.iter().filter(move |line| line.known == known);
        named.map(|line| self.at(line.value))
    }

    /// The items of a list field, over all its lines: what stands between commas, trimmed, where there is something.
    pub fn items(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.all(known)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|item| !item.is_empty())
    }

    /// Every field, in its order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| Field {
            name: self.at(line.name),
            value: self.at(line.value),
            known: line.known,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Appends all fields of a map.
    pub fn extend(&mut self, map: &HeaderMap) {
        for (name, value) in map {
            self.push(name.as_str().as_bytes(), value.as_bytes());
        }
    }

    fn note(&mut self, name: Span, value: Span) {
        let known = Known::of(self.at(name));
        self.present |= known.bit();
        if known == Known::ContentLength {
            self.length = self.length.and(self.at(value));
        }
        self.lines.push(Line { name, value, known });
    }
}

// === impl Length ===

impl Length {
    /// With one more field, which may be a list.
    fn and(self, value: &[u8]) -> Length {
        let mut items = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        items
            .try_fold(self, |length, item| match (length, number(item)) {
                (Length::Unsaid, Some(said)) => Some(Length::Agreed(said)),
                (Length::Agreed(agreed), Some(said)) if agreed == said => Some(length),
                _ => None,
            })
            .unwrap_or(Length::Unclear)
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Fields {
        let mut fields = Fields::default();
        fields.extend(map);
        fields
    }
}

// === impl Span ===

impl Span {
    /// `length` bytes from `start`.
    pub fn new(start: usize, length: usize) -> Span {
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Span {
            start: count(start),
            length: count(length),
        }
    }
}

/// Makes small letters of large ones. Of a token's bytes (RFC 9110 s5.6.2), no other becomes a letter, a digit or `-` by it.
fn fold(byte: u8) -> u8 {
    byte | FOLD
}

/// Whether a token is `text`, which is of small letters, digits and `-`. This is asked of each field, so it is not done byte
/// by byte: the first and the last bytes, which overlap, are all of most names.
fn folds_to(token: &[u8], text: &[u8]) -> bool {
    if token.len() != text.len() {
        return false;
    }
    match text.len() {
        4..8 => ends_of_4(token).map(|ends| ends | ALL_FOLD) == ends_of_4(text),
        8..=16 => ends_of_8(token).map(|ends| ends.map(|end| end | ALL_FOLD)) == ends_of_8(text),
        17..=32 => {
            let rest = text.len() - 16;
            folds_to(&token[..16], &text[..16]) && folds_to(&token[rest..], &text[rest..])
        }
        _ => {
            let folded = token.iter().map(|byte| fold(*byte));
            folded.eq(text.iter().copied())
        }
    }
}

fn ends_of_4(bytes: &[u8]) -> Option<u64> {
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some(u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)))
}

fn ends_of_8(bytes: &[u8]) -> Option<[u64; 2]> {
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some([u64::from_ne_bytes(*first), u64::from_ne_bytes(*last)])
}

/// [`FOLD`] in each byte.
const ALL_FOLD: u64 = u64::from_ne_bytes([FOLD; 8]);
/// The bit that small letters have and large ones have not.
const FOLD: u8 = 0x20;

/// The length that all `Content-Length` fields agree on (RFC 9110 s8.6); none if there is none, or if they do not agree.
pub fn content_length(fields: &Fields) -> Option<u64> {
    match fields.length {
        Length::Agreed(length) => Some(length),
        Length::Unsaid | Length::Unclear => None,
    }
}

/// `1*DIGIT` that fits.
fn number(digits: &[u8]) -> Option<u64> {
    let mut number = (!digits.is_empty()).then_some(0_u64)?;
    for digit in digits {
        let value = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number = number.checked_mul(10)?.checked_add(value)?;
    }
    Some(number)
}

/// Whether one of the `Connection` options is this one.
pub fn has_connection_option(fields: &Fields, option: &[u8]) -> bool {
    fields
        .items(Known::Connection)
        .any(|item| item.eq_ignore_ascii_case(option))
}

const X_FORWARDED: &[u8] = b"x-forwarded-";
/// A browser sends about fifteen fields, a CDN some more.
const LINES_USUAL: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_however_it_is_written() {
        for known in Known::ALL {
            let name = known.as_str();
            assert_eq!(Known::of(name.as_bytes()), *known);
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), *known);
            assert_eq!(
                Known::of(format!("{name}x").as_bytes()),
                match name {
                    "x-forwarded-for" | "x-forwarded-proto" => Known::XForwarded,
                    _ => Known::Other,
                }
            );
        }
        // One bit each.
        assert!((Known::XRequestId as u8) < 64);
        assert_eq!(Known::of(b"X-Forwarded-Port"), Known::XForwarded);
        assert_eq!(Known::of(b"x-forwarded"), Known::Other);
        assert_eq!(Known::of(b""), Known::Other);
    }

    #[test]
    fn no_other_token_is_taken_for_a_known_one() {
        for known in Known::ALL {
            let name = known.as_str().as_bytes();
            for at in 0..name.len() {
                for byte in (0x21..0x7f).filter(|byte| crate::head::is_token_byte(*byte)) {
                    let mut other = name.to_vec();
                    other[at] = byte;
                    let is_it = byte.to_ascii_lowercase() == name[at];
                    assert_eq!(Known::of(&other) == *known, is_it, "{other:?}");
                }
            }
        }
    }

    #[test]
    fn fields_come_back_in_their_order_and_as_they_were_written() {
        let mut fields = Fields::default();
        for (name, value) in [("Accept", "a, ,b"), ("X-One", "1"), ("ACCEPT", "c")] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        let all: Vec<&[u8]> = fields.iter().map(|field| field.name).collect();
        assert_eq!(all, [&b"Accept"[..], b"X-One", b"ACCEPT"]);
        assert_eq!(fields.get(Known::Accept), Some(&b"a, ,b"[..]));
        let items: Vec<&[u8]> = fields.items(Known::Accept).collect();
        assert_eq!(items, [b"a", b"b", b"c"]);
        assert!(!fields.has(Known::Host) && fields.get(Known::Host).is_none());
        assert_eq!(fields.at(Span::new(1000, 1)), b"");
    }

    #[test]
    fn lengths_have_to_agree() {
        for (values, expected) in [
            (&["5"][..], Some(5)),
            (&["5", "5"], Some(5)),
            (&["5, 5"], Some(5)),
            (&["5", "6"], None),
            (&["+5"], None),
            (&[""], None),
            (&["18446744073709551616"], None),
            (&[], None),
        ] {
            let mut fields = Fields::default();
            for value in values {
                fields.push(b"content-length", value.as_bytes());
            }
            assert_eq!(content_length(&fields), expected, "{values:?}");
        }
    }
}
