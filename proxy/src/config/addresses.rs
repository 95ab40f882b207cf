//! Parsers of names and addresses: a TOML value in, a checked type or the reason out. Pure; resolves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mana_control::Host;
use toml::de::DeValue;

use super::section::Parsed;
use super::values::string;

/// An address to listen on: `127.0.0.1:8080`, `[::]:443`.
pub(super) fn socket_address(value: &DeValue<'_>) -> Parsed<SocketAddr> {
    let text = string(value)?;
    text.parse().map_err(|_| {
        format!("{text:?} is no address to listen on: write 127.0.0.1:8080 or [::]:443")
    })
}

/// A host name or an IPv4 address.
pub(super) fn host(value: &DeValue<'_>) -> Parsed<Host> {
    parse_host(string(value)?)
}

/// `name` or `name:port`, as a `Host` header has it.
pub(super) fn host_header(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    let name = match text.rsplit_once(':') {
        Some((name, port)) => {
            parse_port(port).ok_or_else(|| format!("{text:?} is no host: {port:?} is no port"))?;
            name
        }
        None => text,
    };
    let is_ipv6 = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok());
    if !is_ipv6 {
        parse_host(name)?;
    }
    Ok(text.to_owned())
}

/// An upstream as it is written, and the addresses that it may be, for comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UpstreamAddress {
    /// `localhost:4000`
    pub(super) text: String,
    /// One, or both loopback addresses for `localhost`.
    pub(super) endpoints: Vec<Endpoint>,
}

/// What makes two addresses the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    Ip(SocketAddr),
    Name(Host, u16),
}

/// `127.0.0.1:4000`, `[::1]:4000`, `localhost:4000`.
pub(super) fn upstream(value: &DeValue<'_>) -> Parsed<UpstreamAddress> {
    let text = string(value)?;
    let endpoints = parse_endpoints(text)
        .map_err(|reason| format!("{text:?} is no upstream address: {reason}"))?;
    Ok(UpstreamAddress {
        text: text.to_owned(),
        endpoints,
    })
}

fn parse_endpoints(text: &str) -> Parsed<Vec<Endpoint>> {
    const FORM: &str = "write 127.0.0.1:4000, [::1]:4000 or localhost:4000";
    if let Ok(address) = text.parse::<SocketAddr>() {
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() {
            return Err(format!("{ip} is only an address to listen on"));
        }
        if address.port() == 0 {
            return Err("port 0 cannot be connected to".to_owned());
        }
        return Ok(vec![Endpoint::Ip(SocketAddr::new(ip, address.port()))]);
    }
    let (name, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port = parse_port(port).ok_or_else(|| format!("{port:?} is no port, {FORM}"))?;
    if name.contains(':') || name.starts_with('[') {
        return Err(FORM.to_owned());
    }
    let host = parse_host(name)?;
    if host.as_str() == "localhost" {
        let loopback = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        let endpoints = loopback.map(|ip| Endpoint::Ip(SocketAddr::new(ip, port)));
        return Ok(endpoints.to_vec());
    }
    Ok(vec![Endpoint::Name(host, port)])
}

fn parse_host(text: &str) -> Parsed<Host> {
    let host: Host = text
        .parse()
        .map_err(|fault: mana_control::host::NotAHost| fault.to_string())?;
    let name = host.as_str();
    let last = name.rsplit('.').next().unwrap_or(name);
    // `127.0.0.256` is a name by its letters; no one means it as one, and no name ends in a number.
    if last.bytes().all(|b| b.is_ascii_digit()) && name.parse::<Ipv4Addr>().is_err() {
        return Err(format!(
            "{text:?} is neither a host name nor an IPv4 address"
        ));
    }
    Ok(host)
}

/// 1 to 65535, digits only.
fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}
