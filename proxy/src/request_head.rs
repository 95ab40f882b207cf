//! The head of a request, however it came: the one shape that verdicts, rewrites and records look at.
//!
//! Owns the shape. HTTP/1 heads are read into it by `head.rs`, HTTP/2 heads come here from the session.

use http::header::HeaderMap;
use http::{Method, Uri, Version};

use crate::fields::{Fields, Known, Span};

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

    /// A head from its parts, as HTTP/2 delivers them.
    pub fn from_parts(
        method: &Method,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> RequestHead {
        let mut fields = Fields::with_capacity(FIELDS_BYTES_USUAL);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = fields.keep(path.as_bytes());
        let authority = uri
            .authority()
            .map(|authority| fields.keep(authority.as_str().as_bytes()));
        fields.extend(headers);
        RequestHead::new(method.clone(), version, fields, path, authority)
    }

    /// Path and query, byte for byte; `*` for OPTIONS of no path.
    pub fn path_and_query(&self) -> &str {
        // Both readers let ASCII through alone.
        std::str::from_utf8(self.fields.at(self.path)).unwrap_or("/")
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

/// Most heads fit without growing.
const FIELDS_BYTES_USUAL: usize = 1024;
