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
        /// A field name that the proxy acts on.
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
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
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
    /// Which name this is; letters may be large or small.
    pub fn of(name: &[u8]) -> Known {
        // By length first: most names are compared with one or two others, and many with none.
        let candidates: &[Known] = match name.len() {
            2 => &[Known::Te],
            4 => &[Known::Host, Known::Date, Known::Vary, Known::Etag],
            6 => &[Known::Accept, Known::Cookie, Known::Expect, Known::Digest],
            7 => &[Known::Upgrade, Known::Trailer],
            9 => &[Known::XRealIp, Known::Forwarded],
            10 => &[Known::Connection, Known::KeepAlive],
            11 => &[Known::ContentMd5],
            12 => &[Known::ContentType, Known::XRequestId],
            13 => &[
                Known::CacheControl,
                Known::AcceptRanges,
                Known::ContentRange,
            ],
            14 => &[
                Known::ContentLength,
                Known::TrueClientIp,
                Known::ContentDigest,
            ],
            15 => &[Known::AcceptEncoding, Known::XForwardedFor],
            16 => &[
                Known::ContentEncoding,
                Known::CfConnectingIp,
                Known::ProxyConnection,
            ],
            17 => &[Known::TransferEncoding, Known::XForwardedProto],
            18 => &[Known::ProxyAuthenticate],
            19 => &[Known::ProxyAuthorization],
            23 => &[Known::XMiddlewareSubrequest],
            25 => &[Known::StrictTransportSecurity],
            _ => &[],
        };
        let is_it = |known: &&Known| {
            let text = known.as_str().as_bytes();
            // Most that have the length begin with another letter.
            name[0] | 0x20 == text[0] && name.eq_ignore_ascii_case(text)
        };
        match candidates.iter().find(is_it) {
            Some(known) => *known,
            None => {
                let start = name.get(..X_FORWARDED.len());
                match start.is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED)) {
                    true => Known::XForwarded,
                    false => Known::Other,
                }
            }
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
            present: 0,
        }
    }

    /// None, above a buffer that has their bytes already: [`Fields::point_at`] says where.
    pub fn above(bytes: &[u8]) -> Fields {
        Fields {
            bytes: bytes.to_vec(),
            lines: Vec::with_capacity(LINES_USUAL),
            present: 0,
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
        self.lines.push(Line { name, value, known });
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

/// The length that all `Content-Length` fields agree on (RFC 9110 s8.6); none if there is none, or if they do not agree.
pub fn content_length(fields: &Fields) -> Option<u64> {
    let mut agreed = None;
    for value in fields.all(Known::ContentLength) {
        for one in value.split(|byte| *byte == b',') {
            let length = number(one.trim_ascii())?;
            if *agreed.get_or_insert(length) != length {
                return None;
            }
        }
    }
    agreed
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
