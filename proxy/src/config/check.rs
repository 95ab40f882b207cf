//! What has to hold across keys: names, upstream addresses and listen addresses are each used once.
//!
//! Every fault is at the later place and names the line of the earlier one. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

use mana_control::{Host, Slot};

use super::addresses::{Endpoint, UpstreamAddress};
use super::fault::{At, Faults};
use super::site::SiteDraft;
use crate::client_address::ClientRules;

/// An address to listen on and the key that it stands under.
pub(super) type Listener = (&'static str, At<SocketAddr>);

/// Records every fault across sites and listeners.
pub(super) fn across(faults: &Faults, listeners: &[Listener], sites: &[SiteDraft]) {
    listeners_are_apart(faults, listeners);
    names_are_unique(faults, sites);
    upstreams_are_unique(faults, sites);
    upstreams_are_not_listeners(faults, listeners, sites);
}

/// A site that serves only trusted proxies, of which there are none, serves nobody.
pub(super) fn locks_have_keys(faults: &Faults, client: &ClientRules, sites: &[SiteDraft]) {
    if !client.trusted.is_empty() {
        return;
    }
    let locks = sites.iter().filter_map(|site| site.only_trusted.as_ref());
    for lock in locks.filter(|lock| lock.value) {
        let reason = "nobody is trusted: write the networks of the CDN under client.trusted";
        faults.add(lock.line, "site.only_trusted", reason);
    }
}

fn listeners_are_apart(faults: &Faults, listeners: &[Listener]) {
    for (index, (key, later)) in listeners.iter().enumerate() {
        let mut earlier = listeners[..index].iter().map(|(_, at)| at);
        let Some(earlier) = earlier.find(|at| overlap(at.value, later.value)) else {
            continue;
        };
        let (address, line) = (later.value, earlier.line);
        let reason = if earlier.value == address {
            format!("{address} is already listened on in line {line}")
        } else {
            format!("{address} overlaps with {} in line {line}", earlier.value)
        };
        faults.add(later.line, *key, reason);
    }
}

/// Whether both cannot be bound: the same address, or one that the other's wildcard covers. Port 0 is any free port.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let is_covered = a.ip() == b.ip()
        || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() == b.port() && a.port() != 0 && is_covered
}

/// Hosts first, so that a name which is both is a fault of the alias.
fn names_are_unique(faults: &Faults, sites: &[SiteDraft]) {
    let mut used: HashMap<&Host, (&str, usize)> = HashMap::new();
    let hosts = sites.iter().filter_map(|site| site.host.as_ref());
    let aliases = sites.iter().flat_map(|site| &site.aliases);
    let names = hosts
        .map(|at| ("site.host", "a host", at))
        .chain(aliases.map(|at| ("site.aliases", "an alias", at)));
    for (key, noun, at) in names {
        if let Some((earlier, line)) = used.get(&at.value) {
            let reason = format!("{} is already {earlier} in line {line}", at.value);
            faults.add(at.line, key, reason);
        } else {
            used.insert(&at.value, (noun, at.line));
        }
    }
}

/// Two slots that share an upstream cannot be switched between: draining one would drain the other.
fn upstreams_are_unique(faults: &Faults, sites: &[SiteDraft]) {
    let mut used: HashMap<&Endpoint, (&At<UpstreamAddress>, Slot)> = HashMap::new();
    for (slot, at) in upstreams(sites) {
        let earlier = at.value.endpoints.iter().find_map(|e| used.get(e));
        if let Some((earlier, earlier_slot)) = earlier {
            let (text, line) = (&at.value.text, earlier.line);
            let mut reason =
                format!("{text} is already an upstream of {earlier_slot} in line {line}");
            if earlier.value.text != *text {
                reason.push_str(&format!(", as {}", earlier.value.text));
            }
            faults.add(at.line, format!("site.{slot}"), reason);
        }
        for endpoint in &at.value.endpoints {
            used.entry(endpoint).or_insert((at, slot));
        }
    }
}

/// A proxy that is its own upstream forwards a request until some limit ends it.
fn upstreams_are_not_listeners(faults: &Faults, listeners: &[Listener], sites: &[SiteDraft]) {
    for (slot, at) in upstreams(sites) {
        let reached = at
            .value
            .endpoints
            .iter()
            .find_map(|endpoint| match endpoint {
                Endpoint::Ip(address) => listeners.iter().find(|(_, l)| reaches(*address, l.value)),
                Endpoint::Name(..) => None,
            });
        if let Some((key, listener)) = reached {
            let (text, line) = (&at.value.text, listener.line);
            let reason = format!("{text} is this proxy itself: {key} in line {line}");
            faults.add(at.line, format!("site.{slot}"), reason);
        }
    }
}

/// Whether a connection to `address` certainly ends at `listener`.
fn reaches(address: SocketAddr, listener: SocketAddr) -> bool {
    let is_local = address.ip() == listener.ip().to_canonical()
        || (listener.ip().is_unspecified() && address.ip().is_loopback());
    address.port() == listener.port() && is_local
}

fn upstreams(sites: &[SiteDraft]) -> impl Iterator<Item = (Slot, &At<UpstreamAddress>)> {
    sites.iter().flat_map(|site| {
        Slot::BOTH.into_iter().flat_map(move |slot| {
            let of_slot = site.upstreams[slot.index()].iter();
            of_slot.map(move |at| (slot, at))
        })
    })
}
