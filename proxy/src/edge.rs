//! The first decision about a request: redirect it, refuse it, or forward it to a site.
//!
//! Owns which names lead where. Pure: the head and the table in, a verdict out. Runs after the head was found to be
//! well formed (`head.rs`) and before anything is sent to an upstream. ACME challenges come before every other rule.

use std::sync::Arc;

use http::{Method, StatusCode};
use mana_certs::Challenges;
use mana_certs::challenge::HTTP_PATH;
use mana_control::{NameRole, Site, Table};

use crate::client_address::Peer;

/// How the client's connection reached the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A listener of `listen.http`.
    Http,
    /// A listener of `listen.https`.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The part of a request head that the verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How the client spoke.
    pub scheme: Scheme,
    /// Whether the other end of the connection is a trusted proxy.
    pub peer: Peer,
    /// Its method.
    pub method: &'a Method,
    /// Host and port as the client wrote them; empty when it named none.
    pub authority: &'a str,
    /// Path and query, byte for byte.
    pub path_and_query: &'a str,
}

/// Where https is to be found, for redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpsPort {
    /// There is no https listener: sites are served over http.
    None,
    /// The port of the first https listener.
    Port(u16),
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Answer the challenge of a CA, or 404 where the token is not on offer.
    Challenge(Option<Arc<str>>),
    /// Send the client to `location`.
    Redirect {
        /// Whose name was asked for.
        site: Arc<Site>,
        /// 301 for GET and HEAD, 308 for the rest, whose method and body must be kept (RFC 9110 s15.4.9).
        status: StatusCode,
        /// An absolute URL on a configured host, never on one that the client chose.
        location: String,
    },
    /// Answer with this status.
    Refuse {
        /// 400, 403, 405, 421 or 501.
        status: StatusCode,
        /// The sentence of the error page.
        reason: &'static str,
    },
    /// Forward it.
    Forward(Arc<Site>),
}

/// Decides what is done with a request.
pub fn verdict(
    asked: Asked<'_>,
    table: &Table,
    https_port: HttpsPort,
    challenges: &Challenges,
) -> Verdict {
    // RFC 8555 s8.3: a CA asks on port 80, and follows redirects to where nobody may have a certificate yet; so it is
    // answered on every listener, for any host.
    if let Some(token) = asked.path_and_query.strip_prefix(HTTP_PATH)
        && challenges.is_answering()
    {
        return Verdict::Challenge(challenges.http(token));
    }
    if asked.method == Method::TRACE || asked.method == Method::CONNECT {
        return Verdict::Refuse {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: "this method is not served",
        };
    }
    if !METHODS.contains(&asked.method.as_str()) {
        return Verdict::Refuse {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "this method is not known here",
        };
    }
    let (name, port) = split_authority(asked.authority);
    let named = match (name, table.sites()) {
        // HTTP/1.0 need not name one, and of one site it is clear which is meant.
        ("", [only]) => Some((only, NameRole::Canonical)),
        _ => table.by_name(name),
    };
    let Some((site, role)) = named else {
        return refuse_host(asked.scheme, name);
    };
    if site.settings.only_trusted && asked.peer == Peer::Stranger {
        return Verdict::Refuse {
            status: StatusCode::FORBIDDEN,
            reason: "this site is reached through its CDN",
        };
    }
    let wanted = match (asked.scheme, https_port) {
        (Scheme::Http, HttpsPort::Port(_)) | (Scheme::Https, _) => Scheme::Https,
        (Scheme::Http, HttpsPort::None) => Scheme::Http,
    };
    if wanted == asked.scheme && role == NameRole::Canonical {
        return Verdict::Forward(Arc::clone(site));
    }
    let port = match (asked.scheme, https_port) {
        // The client reached http on a port that it named, so https is on a port that has to be named too.
        (Scheme::Http, HttpsPort::Port(https)) => port.map(|_| https).filter(|p| *p != 443),
        (Scheme::Http, HttpsPort::None) => port.and_then(|p| p.parse().ok()).filter(|p| *p != 80),
        (Scheme::Https, _) => port.and_then(|p| p.parse().ok()).filter(|p| *p != 443),
    };
    let port = port.map(|p| format!(":{p}")).unwrap_or_default();
    let path = match asked.path_and_query {
        path if path.starts_with('/') => path,
        // OPTIONS * has no path.
        _ => "/",
    };
    let status = if asked.method == Method::GET || asked.method == Method::HEAD {
        StatusCode::MOVED_PERMANENTLY
    } else {
        StatusCode::PERMANENT_REDIRECT
    };
    let scheme = wanted.as_str();
    let host = &site.settings.host;
    Verdict::Redirect {
        site: Arc::clone(site),
        status,
        location: format!("{scheme}://{host}{port}{path}"),
    }
}

/// RFC 9110 s15.5.20: 421 says that this connection is not the one for that host. Over plain http there is no
/// connection that would be, so the request itself is bad.
fn refuse_host(scheme: Scheme, name: &str) -> Verdict {
    let (status, reason) = match scheme {
        Scheme::Https => (
            StatusCode::MISDIRECTED_REQUEST,
            "this host is not served here",
        ),
        Scheme::Http if name.is_empty() => (StatusCode::BAD_REQUEST, "the request names no host"),
        Scheme::Http => (StatusCode::BAD_REQUEST, "this host is not served here"),
    };
    Verdict::Refuse { status, reason }
}

/// `host[:port]` in its two parts; an IPv6 literal keeps its brackets.
pub fn split_authority(authority: &str) -> (&str, Option<&str>) {
    let colon = match authority.rfind(']') {
        Some(bracket) => authority[bracket..].find(':').map(|at| bracket + at),
        None => authority.find(':'),
    };
    match colon {
        Some(at) => (&authority[..at], Some(&authority[at + 1..])),
        None => (authority, None),
    }
}

/// The methods that are forwarded: those that the usual servers know (RFC 9110, WebDAV, caches, Node.js' own list). Others
/// are refused with 501 (RFC 9110 s15.6.2), because parsers disagree about what an unknown one is; `PRI` starts HTTP/2 for
/// some.
const METHODS: [&str; 33] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "SEARCH",
    "REPORT",
    "ACL",
    "BIND",
    "REBIND",
    "UNBIND",
    "LINK",
    "UNLINK",
    "PURGE",
    "QUERY",
    "MKACTIVITY",
    "MKCALENDAR",
    "CHECKOUT",
    "MERGE",
    "M-SEARCH",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "SOURCE",
];

#[cfg(test)]
mod tests;
