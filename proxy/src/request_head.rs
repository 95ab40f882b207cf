//! The head of a request, however it came: the one shape that verdicts, rewrites and records look at.
//!
//! Owns the shape, and what a head that came in frames must be like. HTTP/1 heads are read into it by `head.rs`.

use http::{Method, Version};

use crate::fields::{Fields, Known, Span, content_length};
use crate::head::is_same_host;

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Its method.
    pub method: Method,
    /// HTTP/1.0, HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Its fields, and the bytes of its target.
    pub fields: Fields,
    path: Span,
    authority: Option<Span>,
}

impl RequestHead {
    /// A head whose target stands in the buffer of `fields`. `authority` is the one that the target has.
    pub fn new(
        method: Method,
        version: Version,
        fields: Fields,
        path: Span,
        authority: Option<Span>,
    ) -> RequestHead {
        RequestHead {
            method,
            version,
            fields,
            path,
            authority,
        }
    }

    /// A head that came in frames, whose names and values the codec has checked: pseudo-header fields once each and first,
    /// no connection-specific fields, no bytes that a field may not have.
    ///
    /// # Errors
    /// It can be read in two ways, or it names no host. See [`FrameFault`].
    pub fn from_frames(parts: &http::request::Parts) -> Result<RequestHead, FrameFault> {
        let uri = &parts.uri;
        let mut fields = Fields::with_capacity(FIELDS_BYTES_USUAL);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // "OPTIONS requests for "*" include the ":path" pseudo-header field with a value of "*"" (RFC 9113 s8.3.1); what
        // CONNECT names is refused, whatever it is.
        let has_form = path.starts_with('/')
            || (path == "*" && parts.method == Method::OPTIONS)
            || parts.method == Method::CONNECT;
        if !has_form {
            return Err(FrameFault::Path);
        }
        let path = fields.keep(path.as_bytes());
        let named = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let authority = named.map(|authority| fields.keep(authority));
        fields.extend(&parts.headers);
        let mut hosts = fields.all(Known::Host);
        match (named, hosts.next(), hosts.next()) {
            (_, _, Some(_)) => return Err(FrameFault::Hosts),
            // "If these fields are present, they MUST NOT be empty" (RFC 9113 s8.3.1).
            (_, Some(b""), None) => return Err(FrameFault::NoHost),
            (None, None, None) => return Err(FrameFault::NoHost),
            (Some(authority), Some(host), None) if !is_same_host(authority, host) => {
                return Err(FrameFault::Hosts);
            }
            _ => {}
        }
        drop(hosts);
        let has_length = fields.has(Known::ContentLength);
        let is_clear = !has_length || content_length(&fields).is_some();
        if !is_clear || fields.has(Known::TransferEncoding) {
            return Err(FrameFault::Framing);
        }
        let method = parts.method.clone();
        Ok(RequestHead::new(
            method,
            parts.version,
            fields,
            path,
            authority,
        ))
    }

    /// Path and query, byte for byte; `*` for OPTIONS of no path.
    pub fn path_and_query(&self) -> &str {
        // Both readers let ASCII through alone.
        std::str::from_utf8(self.target()).unwrap_or("/")
    }

    /// The same as bytes.
    pub fn target(&self) -> &[u8] {
        self.fields.at(self.path)
    }

    /// Host and port as the client named them. HTTP/2 has them in `:authority`, an absolute-form target has them itself,
    /// and both win over `Host` (RFC 9113 s8.3.1, RFC 9112 s3.2.2); the readers have refused a `Host` that differs.
    /// None where it named none, as HTTP/1.0 may.
    pub fn authority(&self) -> Option<&[u8]> {
        match self.authority {
            Some(span) => Some(self.fields.at(span)),
            None => self.fields.get(Known::Host),
        }
    }
}

/// Why a head that came in frames is malformed (RFC 9113 s8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// `:path` is the `*` that OPTIONS alone may have; what is no path at all the codec refuses.
    #[error("the path is none")]
    Path,
    /// Neither `:authority` nor `Host`.
    #[error("no host is named")]
    NoHost,
    /// RFC 9113 s8.3.1: "a Host header field that identifies an entity that differs from the entity in the \":authority\"
    /// pseudo-header field", or two of them.
    #[error("two hosts are named")]
    Hosts,
    /// A length that is none, or lengths that do not agree, or a transfer coding.
    #[error("the length of the body is unclear")]
    Framing,
}

/// Most heads fit without growing.
const FIELDS_BYTES_USUAL: usize = 1024;

#[cfg(test)]
mod tests {
    use http::{Request, Uri};

    use super::*;

    type Case = (
        &'static str,
        Option<&'static str>,
        &'static str,
        &'static [(&'static str, &'static str)],
        Result<&'static str, FrameFault>,
    );

    #[test]
    fn a_head_in_frames_names_one_host_one_path_and_one_length() {
        let named = Some("mana.so");
        let cases: &[Case] = &[
            ("GET", named, "/a?b", &[], Ok("mana.so")),
            ("GET", None, "/", &[("host", "mana.so")], Ok("mana.so")),
            ("GET", named, "/", &[("host", "Mana.so.")], Ok("mana.so")),
            ("GET", named, "/", &[("host", "mana.so:443")], Ok("mana.so")),
            ("OPTIONS", named, "*", &[], Ok("mana.so")),
            ("GET", None, "/", &[], Err(FrameFault::NoHost)),
            ("GET", None, "/", &[("host", "")], Err(FrameFault::NoHost)),
            ("GET", named, "*", &[], Err(FrameFault::Path)),
        ];
        check(cases);
        check(&[
            (
                "GET",
                named,
                "/",
                &[("host", "evil.so")],
                Err(FrameFault::Hosts),
            ),
            (
                "GET",
                Some("mana.so:1"),
                "/",
                &[("host", "mana.so:2")],
                Err(FrameFault::Hosts),
            ),
            (
                "GET",
                named,
                "/",
                &[("host", "mana.so"), ("host", "mana.so")],
                Err(FrameFault::Hosts),
            ),
            (
                "GET",
                None,
                "/",
                &[("host", "mana.so"), ("host", "mana.so")],
                Err(FrameFault::Hosts),
            ),
        ]);
        let framing = Err(FrameFault::Framing);
        check(&[
            (
                "POST",
                named,
                "/",
                &[("content-length", "5"), ("content-length", "5")],
                Ok("mana.so"),
            ),
            (
                "POST",
                named,
                "/",
                &[("content-length", "5, 5")],
                Ok("mana.so"),
            ),
            (
                "POST",
                named,
                "/",
                &[("content-length", "5"), ("content-length", "6")],
                framing,
            ),
            ("POST", named, "/", &[("content-length", "+5")], framing),
            (
                "POST",
                named,
                "/",
                &[("transfer-encoding", "chunked")],
                framing,
            ),
            ("POST", named, "/", &[("transfer-encoding", "")], framing),
        ]);
    }

    fn check(cases: &[Case]) {
        for (method, authority, path, fields, expected) in cases {
            let mut uri = http::uri::Parts::default();
            uri.path_and_query = Some(path.parse().expect("a path to the codec"));
            if let Some(authority) = authority {
                uri.scheme = Some(http::uri::Scheme::HTTPS);
                uri.authority = Some(authority.parse().expect("an authority to the codec"));
            }
            let uri = Uri::from_parts(uri).expect("a URI to the codec");
            let mut request = Request::builder().method(*method).uri(uri);
            for (name, value) in *fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let read = RequestHead::from_frames(&parts);
            let host = read.map(|head| head.authority().unwrap_or_default().to_vec());
            let expected = expected.map(|host| host.as_bytes().to_vec());
            assert_eq!(host, expected, "{method} {authority:?} {path} {fields:?}");
        }
    }
}
