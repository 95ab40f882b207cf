//! Reads `[client]`: whom to believe about the client, and whom not to count.

use ipnet::IpNet;
use toml::de::DeValue;

use super::section::{Parsed, Section};
use super::values;
use crate::client_address::{AddressHeader, ClientRules};

/// Reads all keys of the section and names those that are none.
pub(super) fn read_client(mut section: Section<'_>) -> ClientRules {
    let default = ClientRules::default();
    let rules = ClientRules {
        trusted: section.list_or("trusted", default.trusted, network),
        address_headers: section.list_or(
            "address_headers",
            default.address_headers,
            address_header,
        ),
        unlimited: section.list_or("unlimited", default.unlimited, network),
    };
    section.finish();
    rules
}

/// `10.0.0.0/8`, `2001:db8::/32`, or one address.
fn network(value: &DeValue<'_>) -> Parsed<IpNet> {
    let text = values::string(value)?;
    let parsed = match text.parse::<std::net::IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip)),
        Err(_) => text.parse::<IpNet>().ok(),
    };
    let network = parsed.ok_or_else(|| {
        format!("{text:?} is no network: write 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")
    })?;
    if network.trunc() != network {
        let meant = network.trunc();
        return Err(format!(
            "{text:?} has bits behind its prefix: write {meant}"
        ));
    }
    if network.prefix_len() == 0 {
        return Err(format!("{text:?} is everybody"));
    }
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is IPv4 inside IPv6: write it as IPv4"));
    }
    Ok(network)
}

fn address_header(value: &DeValue<'_>) -> Parsed<AddressHeader> {
    let text = values::string(value)?;
    let mut all = AddressHeader::ALL.into_iter();
    all.find(|header| header.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| {
            format!("{text:?} is not believed: write x-forwarded-for, cf-connecting-ip, true-client-ip or x-real-ip")
        })
}
