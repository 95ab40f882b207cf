//! Who the client is: the peer, or whom a trusted peer says that it speaks for.
//!
//! Owns which fields are believed, from whom and how far. Pure: the peer, a request's fields and the rules in, one
//! [`Client`] out, which access log, limits, redirects and the upstream's fields all use. A peer is the other end of
//! the connection, or what the head of the PROXY protocol names in its place.
//!
//! `Forwarded` (RFC 7239) is never believed: none of the CDNs that this was made for sends it, and a second syntax for
//! the same claim is a second way to be wrong about it.

use std::net::{IpAddr, Ipv6Addr};

use http::header::HeaderValue;
use ipnet::IpNet;

use crate::edge::Scheme;
use crate::fields::{Fields, Known};

/// Whom to believe, and whom not to count. Checked by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRules {
    /// Networks whose hosts are believed.
    pub trusted: Vec<IpNet>,
    /// The fields that are believed, the first that names an address first.
    pub address_headers: Vec<AddressHeader>,
    /// Networks to which the limits per address do not apply.
    pub unlimited: Vec<IpNet>,
}

/// A field in which a trusted peer names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressHeader {
    /// `X-Forwarded-For`: a list to which every proxy on the way has appended; walked from the right.
    XForwardedFor,
    /// `CF-Connecting-IP`: one address.
    CfConnectingIp,
    /// `True-Client-IP`: one address.
    TrueClientIp,
    /// `X-Real-IP`: one address.
    XRealIp,
}

/// Whether a peer is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// It is in one of the trusted networks.
    Trusted,
    /// It is not: what it says of itself and others is dropped.
    Stranger,
}

/// The one decision about the client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; never v4-mapped.
    pub ip: IpAddr,
    /// `ip` as it is logged and as `X-Real-IP` has it.
    pub text: HeaderValue,
    /// `X-Forwarded-For` towards the upstream: the client, the proxies that are believed, the peer.
    pub forwarded_for: HeaderValue,
    /// How the client spoke, which a CDN need not have done in the same way.
    pub scheme: Scheme,
    /// Whether the peer is believed.
    pub peer: Peer,
}

// === impl ClientRules ===

impl Default for ClientRules {
    /// Nobody is believed; this machine is not counted.
    fn default() -> ClientRules {
        ClientRules {
            trusted: Vec::new(),
            address_headers: vec![AddressHeader::XForwardedFor],
            unlimited: vec![
                IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8),
                IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            ],
        }
    }
}

impl ClientRules {
    /// Whether a peer is believed.
    pub fn peer(&self, ip: IpAddr) -> Peer {
        if contains(&self.trusted, ip.to_canonical()) {
            Peer::Trusted
        } else {
            Peer::Stranger
        }
    }

    /// Whether the limits per address apply. They do not to a trusted proxy, which stands for many clients.
    pub fn is_limited(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !contains(&self.trusted, ip) && !contains(&self.unlimited, ip)
    }

    /// Decides who the client is. `peer_text` is `peer` as text, made once for its connection.
    pub fn client(
        &self,
        peer: IpAddr,
        peer_text: &HeaderValue,
        scheme: Scheme,
        fields: &Fields,
    ) -> Client {
        let peer = peer.to_canonical();
        let stranger = Client {
            ip: peer,
            text: peer_text.clone(),
            forwarded_for: peer_text.clone(),
            scheme,
            peer: self.peer(peer),
        };
        if stranger.peer == Peer::Stranger {
            return stranger;
        }
        let trusted = Client {
            scheme: forwarded_scheme(fields).unwrap_or(scheme),
            ..stranger
        };
        let mut headers_in_order = self.address_headers.iter();
        let Some(chain) = headers_in_order.find_map(|header| self.chain(*header, fields)) else {
            return trusted;
        };
        let Some(ip) = chain.last().copied() else {
            return trusted;
        };
        let mut forwarded_for = String::new();
        for ip in chain.iter().rev() {
            forwarded_for.push_str(&ip.to_string());
            forwarded_for.push_str(", ");
        }
        forwarded_for.push_str(peer_text.to_str().unwrap_or_default());
        Client {
            ip,
            text: field_value(&ip.to_string()),
            forwarded_for: field_value(&forwarded_for),
            ..trusted
        }
    }

    /// The addresses that a field names, nearest first; none if it is absent or its nearest one is no address.
    fn chain(&self, header: AddressHeader, fields: &Fields) -> Option<Vec<IpAddr>> {
        let mut lines = fields.all(header.known());
        if header != AddressHeader::XForwardedFor {
            let only = lines.next()?;
            // Two of a field that has one address: somebody added theirs.
            return match lines.next() {
                Some(_) => None,
                None => parse_address(only).map(|ip| vec![ip]),
            };
        }
        let hops = lines
            .rev()
            .flat_map(|line| line.rsplit(|byte| *byte == b','));
        let mut chain = Vec::new();
        for hop in hops.take(HOPS_MAX) {
            // What stands to the left of garbage was not written by anyone who is believed.
            let Some(ip) = parse_address(hop) else { break };
            chain.push(ip);
            if !contains(&self.trusted, ip) {
                break;
            }
        }
        (!chain.is_empty()).then_some(chain)
    }
}

// === impl AddressHeader ===

impl AddressHeader {
    /// All of them.
    pub const ALL: [AddressHeader; 4] = [
        AddressHeader::XForwardedFor,
        AddressHeader::CfConnectingIp,
        AddressHeader::TrueClientIp,
        AddressHeader::XRealIp,
    ];

    /// The field's name, in lower case.
    pub fn as_str(self) -> &'static str {
        self.known().as_str()
    }

    /// The field.
    pub fn known(self) -> Known {
        match self {
            AddressHeader::XForwardedFor => Known::XForwardedFor,
            AddressHeader::CfConnectingIp => Known::CfConnectingIp,
            AddressHeader::TrueClientIp => Known::TrueClientIp,
            AddressHeader::XRealIp => Known::XRealIp,
        }
    }
}

/// An address as text for a field.
pub fn field_value(text: &str) -> HeaderValue {
    // Digits, letters, colons, dots, commas and spaces are valid in a field.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// What an address is counted under: IPv4 whole, IPv6 by /64, which one customer has all of.
pub fn counted_under(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64))),
    }
}

/// The last word is the trusted peer's own.
fn forwarded_scheme(fields: &Fields) -> Option<Scheme> {
    let line = fields.all(Known::XForwardedProto).next_back()?;
    let word = line.rsplit(|byte| *byte == b',').next()?;
    match word.trim_ascii() {
        word if word.eq_ignore_ascii_case(b"https") => Some(Scheme::Https),
        word if word.eq_ignore_ascii_case(b"http") => Some(Scheme::Http),
        _ => None,
    }
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:443`; v4-mapped becomes IPv4.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        let ip: Ipv6Addr = ip.parse().ok()?;
        return is_port.then(|| IpAddr::V6(ip).to_canonical());
    }
    let ip = match text.split_once(':') {
        Some((ip, port)) if is_port(port) && ip.contains('.') => ip,
        _ => text,
    };
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn is_port(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok()
}

fn contains(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

/// Proxies in one chain; nobody has so many.
const HOPS_MAX: usize = 32;

#[cfg(test)]
mod tests;
