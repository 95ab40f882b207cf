//! Tables and generated chains: nobody but a trusted peer is believed, and nobody beyond the first stranger.

use proptest::prelude::*;

use super::*;

fn rules(headers: &[AddressHeader]) -> ClientRules {
    let networks = ["10.0.0.0/8", "2001:db8:c::/48", "192.0.2.53/32"];
    ClientRules {
        trusted: networks
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect(),
        address_headers: headers.to_vec(),
        unlimited: vec!["127.0.0.0/8".parse().expect("a network")],
    }
}

fn decide(rules: &ClientRules, peer: &str, fields: &[(&'static str, &str)]) -> Client {
    let mut headers = Fields::default();
    for (name, value) in fields {
        headers.push(name.as_bytes(), value.as_bytes());
    }
    let peer: IpAddr = peer.parse().expect("an address");
    let text = field_value(&peer.to_canonical().to_string());
    rules.client(peer, &text, Scheme::Http, &headers)
}

fn seen(peer: &str, fields: &[(&'static str, &str)]) -> (String, String) {
    let client = decide(&rules(&[AddressHeader::XForwardedFor]), peer, fields);
    let chain = client.forwarded_for.to_str().expect("text").to_owned();
    assert_eq!(client.text, client.ip.to_string());
    (client.ip.to_string(), chain)
}

#[test]
fn the_chain_is_walked_from_the_right_past_trusted_proxies() {
    #[rustfmt::skip]
    let table = [
        // peer, X-Forwarded-For, client, chain for the upstream
        ("198.51.100.7", "203.0.113.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.1", "203.0.113.1", "203.0.113.1, 10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.1", "203.0.113.1", "203.0.113.1, 10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.1, 10.9.9.9", "203.0.113.1", "203.0.113.1, 10.9.9.9, 10.0.0.1"),
        ("10.0.0.1", "10.1.1.1,10.2.2.2", "10.1.1.1", "10.1.1.1, 10.2.2.2, 10.0.0.1"),
        // IPv6, v4-mapped, ports, brackets
        ("::ffff:10.0.0.1", "203.0.113.1", "203.0.113.1", "203.0.113.1, 10.0.0.1"),
        ("10.0.0.1", "::ffff:203.0.113.1", "203.0.113.1", "203.0.113.1, 10.0.0.1"),
        ("10.0.0.1", "203.0.113.1, ::ffff:10.0.0.9", "203.0.113.1", "203.0.113.1, 10.0.0.9, 10.0.0.1"),
        ("2001:db8:c::1", "2001:db8:f::2", "2001:db8:f::2", "2001:db8:f::2, 2001:db8:c::1"),
        ("10.0.0.1", "203.0.113.1:4711", "203.0.113.1", "203.0.113.1, 10.0.0.1"),
        ("10.0.0.1", "[2001:db8:f::2]:443", "2001:db8:f::2", "2001:db8:f::2, 10.0.0.1"),
        ("10.0.0.1", "\t[2001:db8:f::2] ", "2001:db8:f::2", "2001:db8:f::2, 10.0.0.1"),
        // garbage: the last one that was believed is the client
        ("10.0.0.1", "unknown", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1,", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1, _hidden, 10.2.2.2", "10.2.2.2", "10.2.2.2, 10.0.0.1"),
        ("10.0.0.1", "203.0.113.256", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.1:99999", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "fe80::1%eth0", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "\"203.0.113.1\"", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1:443:", "10.0.0.1", "10.0.0.1"),
    ];
    for (peer, value, client, chain) in table {
        let fields = [("x-forwarded-for", value)];
        let expected = (client.to_owned(), chain.to_owned());
        assert_eq!(seen(peer, &fields), expected, "{peer}: {value:?}");
    }
}

#[test]
fn several_lines_are_one_list_in_their_order() {
    let fields = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "203.0.113.1, 10.3.3.3"),
        ("x-forwarded-for", "10.2.2.2"),
    ];
    assert_eq!(
        seen("10.0.0.1", &fields),
        (
            "203.0.113.1".to_owned(),
            "203.0.113.1, 10.3.3.3, 10.2.2.2, 10.0.0.1".to_owned()
        )
    );
}

#[test]
fn a_peer_that_names_nobody_is_the_client() {
    assert_eq!(
        seen("10.0.0.1", &[("forwarded", "for=203.0.113.1")]),
        ("10.0.0.1".to_owned(), "10.0.0.1".to_owned())
    );
}

#[test]
fn the_first_field_of_the_list_that_names_an_address_wins() {
    use AddressHeader::{CfConnectingIp, TrueClientIp, XForwardedFor, XRealIp};
    let fields = [
        ("cf-connecting-ip", "203.0.113.1"),
        ("true-client-ip", "203.0.113.2"),
        ("x-real-ip", "203.0.113.3"),
        ("x-forwarded-for", "203.0.113.4"),
    ];
    for (order, client) in [
        (&[CfConnectingIp, XForwardedFor][..], "203.0.113.1"),
        (&[TrueClientIp], "203.0.113.2"),
        (&[XRealIp, CfConnectingIp], "203.0.113.3"),
        (&[XForwardedFor, XRealIp], "203.0.113.4"),
    ] {
        let decided = decide(&rules(order), "10.0.0.1", &fields);
        assert_eq!(decided.ip.to_string(), client, "{order:?}");
        assert_eq!(decided.forwarded_for, format!("{client}, 10.0.0.1"));
    }
    let rules = rules(&[CfConnectingIp, XForwardedFor]);
    for unusable in [
        &[("cf-connecting-ip", "garbage")][..],
        &[("cf-connecting-ip", "1.2.3.4, 1.2.3.4")],
        &[
            ("cf-connecting-ip", "1.2.3.4"),
            ("cf-connecting-ip", "1.2.3.4"),
        ],
    ] {
        let fields = [unusable, &[("x-forwarded-for", "203.0.113.4")]].concat();
        let decided = decide(&rules, "10.0.0.1", &fields);
        assert_eq!(decided.ip.to_string(), "203.0.113.4", "{unusable:?}");
    }
}

#[test]
fn the_scheme_is_believed_of_a_trusted_peer_alone() {
    let rules = rules(&[AddressHeader::XForwardedFor]);
    for (peer, value, scheme) in [
        ("10.0.0.1", "https", Scheme::Https),
        ("10.0.0.1", "HTTPS", Scheme::Https),
        ("10.0.0.1", "http, https", Scheme::Https),
        ("10.0.0.1", "https,http", Scheme::Http),
        ("10.0.0.1", "ftp", Scheme::Http),
        ("10.0.0.1", "", Scheme::Http),
        ("198.51.100.7", "https", Scheme::Http),
    ] {
        let decided = decide(&rules, peer, &[("x-forwarded-proto", value)]);
        assert_eq!(decided.scheme, scheme, "{peer}: {value}");
    }
}

#[test]
fn limits_per_address_spare_proxies_and_count_networks_of_64_bits() {
    let rules = rules(&[]);
    for (ip, is_limited) in [
        ("10.0.0.1", false),
        ("127.0.0.1", false),
        ("::ffff:127.0.0.1", false),
        ("203.0.113.1", true),
        ("2001:db8:f::1", true),
    ] {
        assert_eq!(
            rules.is_limited(ip.parse().expect("an address")),
            is_limited,
            "{ip}"
        );
    }
    let under = |text: &str| counted_under(text.parse().expect("an address")).to_string();
    assert_eq!(under("203.0.113.1"), "203.0.113.1");
    assert_eq!(under("::ffff:203.0.113.1"), "203.0.113.1");
    assert_eq!(under("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
}

/// Addresses of which about half are trusted.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(|bits| IpAddr::from(bits).to_canonical()),
    ]
}

proptest! {
    #[test]
    fn whatever_is_in_the_field_the_client_was_named_by_a_trusted_hop(
        peer in address(),
        value in proptest::collection::vec(prop_oneof![Just(b','), Just(b':'), Just(b'['), Just(b' '), 0x30_u8..0x3a, 0x20_u8..0x7f, 0x80_u8..=0xff], 0..80),
    ) {
        let rules = rules(&AddressHeader::ALL);
        let mut headers = Fields::default();
        for header in AddressHeader::ALL {
            headers.push(header.as_str().as_bytes(), &value);
        }
        let client = rules.client(peer, &field_value(&peer.to_string()), Scheme::Http, &headers);
        if rules.peer(peer) == Peer::Stranger {
            prop_assert_eq!(client.ip, peer);
            prop_assert_eq!(client.forwarded_for.to_str().expect("text"), peer.to_string());
        }
    }

    #[test]
    fn the_client_is_the_rightmost_stranger(peer in address(), chain in proptest::collection::vec(address(), 0..12)) {
        let rules = rules(&[AddressHeader::XForwardedFor]);
        let text: Vec<String> = chain.iter().map(ToString::to_string).collect();
        let mut headers = Fields::default();
        if !text.is_empty() {
            headers.push(b"x-forwarded-for", text.join(", ").as_bytes());
        }
        let client = rules.client(peer, &field_value(&peer.to_string()), Scheme::Http, &headers);
        let mut hops = chain.clone();
        hops.push(peer);
        let is_stranger = |ip: &IpAddr| rules.peer(*ip) == Peer::Stranger;
        let expected = hops.iter().rev().find(|ip| is_stranger(ip)).unwrap_or(&hops[0]);
        prop_assert_eq!(client.ip, *expected);
        // The chain that is passed on reads to the same client.
        let passed = client.forwarded_for.to_str().expect("text").to_owned();
        prop_assert!(passed.starts_with(&client.ip.to_string()), "{}", passed);
        prop_assert!(passed.ends_with(&peer.to_string()), "{}", passed);
    }
}
