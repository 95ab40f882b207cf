//! Tables of the verdict.

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
