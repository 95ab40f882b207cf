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
mod tests {
    use super::*;
    use crate::testing::site;

    fn table() -> Table {
        Table::new(1, vec![Arc::new(site("mana.so", &["www.mana.so"]))])
    }

    fn ask(scheme: Scheme, method: Method, authority: &str, path: &str) -> String {
        let asked = Asked {
            scheme,
            peer: Peer::Stranger,
            method: &method,
            authority,
            path_and_query: path,
        };
        match verdict(
            asked,
            &table(),
            HttpsPort::Port(8443),
            &Challenges::default(),
        ) {
            Verdict::Challenge(_) => "challenge".to_owned(),
            Verdict::Redirect {
                status, location, ..
            } => format!("{} {location}", status.as_u16()),
            Verdict::Refuse { status, .. } => status.as_u16().to_string(),
            Verdict::Forward(site) => format!("forward {}", site.settings.host),
        }
    }

    #[test]
    fn every_name_leads_to_the_canonical_host_over_https_in_one_hop() {
        use Scheme::{Http, Https};
        let table = [
            (Https, "mana.so", "forward mana.so"),
            (Https, "MANA.SO.", "forward mana.so"),
            (Https, "mana.so:8443", "forward mana.so"),
            (Https, "www.mana.so", "301 https://mana.so/a?b=%2F&c"),
            (
                Https,
                "www.mana.so:8443",
                "301 https://mana.so:8443/a?b=%2F&c",
            ),
            (Http, "mana.so", "301 https://mana.so/a?b=%2F&c"),
            (Http, "www.mana.so", "301 https://mana.so/a?b=%2F&c"),
            (
                Http,
                "www.mana.so:8080",
                "301 https://mana.so:8443/a?b=%2F&c",
            ),
        ];
        for (scheme, authority, expected) in table {
            let path = "/a?b=%2F&c";
            assert_eq!(
                ask(scheme, Method::GET, authority, path),
                expected,
                "{authority}"
            );
        }
    }

    #[test]
    fn methods_other_than_get_and_head_keep_their_method() {
        assert!(ask(Scheme::Http, Method::HEAD, "mana.so", "/").starts_with("301 "));
        assert!(ask(Scheme::Http, Method::POST, "mana.so", "/").starts_with("308 "));
    }

    #[test]
    fn a_host_that_is_not_ours_is_never_redirected_to() {
        for host in [
            "evil.example",
            "mana.so.evil.example",
            "[::1]:80",
            "1.2.3.4",
        ] {
            assert_eq!(ask(Scheme::Http, Method::GET, host, "/"), "400", "{host}");
            assert_eq!(ask(Scheme::Https, Method::GET, host, "/"), "421", "{host}");
        }
    }

    #[test]
    fn who_names_no_host_means_the_only_site() {
        assert_eq!(
            ask(Scheme::Http, Method::GET, "", "/a"),
            "301 https://mana.so/a"
        );
        assert_eq!(ask(Scheme::Https, Method::GET, "", "/"), "forward mana.so");
        let two = [site("mana.so", &[]), site("other.so", &[])];
        let table = Table::new(1, two.into_iter().map(Arc::new).collect());
        let asked = Asked {
            scheme: Scheme::Https,
            peer: Peer::Stranger,
            method: &Method::GET,
            authority: "",
            path_and_query: "/",
        };
        let verdict = verdict(asked, &table, HttpsPort::None, &Challenges::default());
        assert!(matches!(
            verdict,
            Verdict::Refuse {
                status: StatusCode::MISDIRECTED_REQUEST,
                ..
            }
        ));
    }

    #[test]
    fn a_path_cannot_become_a_host() {
        let location = ask(Scheme::Http, Method::GET, "mana.so", "//evil.example/");
        assert_eq!(location, "301 https://mana.so//evil.example/");
    }

    #[test]
    fn trace_and_connect_are_refused() {
        assert_eq!(ask(Scheme::Https, Method::TRACE, "mana.so", "/"), "405");
        assert_eq!(ask(Scheme::Https, Method::CONNECT, "mana.so", ""), "405");
    }

    #[test]
    fn a_method_that_parsers_may_not_know_is_refused() {
        for method in ["PRI", "GETX", "get", "FOO"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            assert_eq!(ask(Scheme::Https, method, "mana.so", "/"), "501");
        }
    }

    #[test]
    fn a_locked_site_is_shown_to_trusted_peers_alone() {
        let mut locked = site("mana.so", &["www.mana.so"]);
        Arc::make_mut(&mut locked.settings).only_trusted = true;
        let table = Table::new(1, vec![Arc::new(locked)]);
        for (peer, authority, expected) in [
            (Peer::Stranger, "mana.so", "403"),
            (Peer::Stranger, "www.mana.so", "403"),
            (Peer::Stranger, "evil.example", "421"),
            (Peer::Trusted, "mana.so", "forward"),
            (Peer::Trusted, "www.mana.so", "301"),
        ] {
            let asked = Asked {
                scheme: Scheme::Https,
                peer,
                method: &Method::GET,
                authority,
                path_and_query: "/",
            };
            let found = match verdict(asked, &table, HttpsPort::Port(443), &Challenges::default()) {
                Verdict::Challenge(_) => "challenge".to_owned(),
                Verdict::Redirect { status, .. } | Verdict::Refuse { status, .. } => {
                    status.as_u16().to_string()
                }
                Verdict::Forward(_) => "forward".to_owned(),
            };
            assert_eq!(found, expected, "{authority}");
        }
    }

    #[test]
    fn without_an_https_listener_sites_are_served_over_http() {
        let asked = |authority| Asked {
            scheme: Scheme::Http,
            peer: Peer::Stranger,
            method: &Method::GET,
            authority,
            path_and_query: "/",
        };
        let (table, challenges) = (table(), Challenges::default());
        assert!(matches!(
            verdict(asked("mana.so:8080"), &table, HttpsPort::None, &challenges),
            Verdict::Forward(_)
        ));
        match verdict(
            asked("www.mana.so:8080"),
            &table,
            HttpsPort::None,
            &challenges,
        ) {
            Verdict::Redirect { location, .. } => assert_eq!(location, "http://mana.so:8080/"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_challenge_is_answered_before_every_other_rule_and_only_while_it_is_on_offer() {
        let challenges = Arc::new(Challenges::default());
        let ask = |authority: &str, path: &str| {
            let asked = Asked {
                scheme: Scheme::Http,
                peer: Peer::Stranger,
                method: &Method::GET,
                authority,
                path_and_query: path,
            };
            match verdict(asked, &table(), HttpsPort::Port(443), &challenges) {
                Verdict::Challenge(answer) => answer.map(|answer| answer.to_string()),
                other => Some(format!("{other:?}").chars().take(6).collect()),
            }
        };
        let path = "/.well-known/acme-challenge/token";
        let _offer = challenges.offer_http("token", "token.thumb");
        // Without a site that needs it, the path is the upstream's.
        assert_eq!(ask("mana.so", path).as_deref(), Some("Redire"));
        challenges.answer(true);
        for authority in ["mana.so", "WWW.mana.so.", "evil.example", "", "1.2.3.4:80"] {
            let answer = ask(authority, path);
            assert_eq!(answer.as_deref(), Some("token.thumb"), "{authority}");
        }
        for tail in ["", "/", "x", "?x", "/../token", "%2e"] {
            assert_eq!(ask("mana.so", &format!("{path}{tail}x")), None, "{tail}");
        }
        assert_eq!(ask("mana.so", "/.well-known/acme-challenge/"), None);
        let long = format!("{HTTP_PATH}{}", "a".repeat(10_000));
        assert_eq!(ask("mana.so", &long), None);
        let other = ask("mana.so", "/.well-known/other");
        assert_eq!(other.as_deref(), Some("Redire"));
    }
}
