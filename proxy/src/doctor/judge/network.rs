//! Ports, names, and who can be reached at them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::client_address::Peer;
use crate::config::Config;
use crate::doctor::Report;
use crate::doctor::facts::{Answerer, Facts, Listening, Place, Process};

/// A process that holds a port of ours keeps the daemon from starting, or takes part of its connections.
pub(super) fn other_processes(config: &Config, facts: &Facts, report: &mut Report) {
    let listening = match &facts.listening {
        Ok(listening) => listening,
        Err(why) => return report.gap("listening sockets", why),
    };
    let wanted: Vec<SocketAddr> = config
        .listen
        .http
        .iter()
        .chain(&config.listen.https)
        .copied()
        .collect();
    let is_ours = |address| wanted.iter().any(|wanted| overlap(address, *wanted));
    for socket in listening.iter().filter(|socket| is_ours(socket.address)) {
        let owners = match &socket.owners {
            Ok(owners) => owners,
            Err(why) => {
                report.gap(format!("who listens on {}", socket.address), why);
                continue;
            }
        };
        let is_stranger = |owner: &&Process| !OURS.contains(&owner.name.as_str());
        for Process { pid, name } in owners.iter().filter(is_stranger) {
            report.red(
                format!("port {}", socket.address.port()),
                format!("{name} (pid {pid}) listens on {}", socket.address),
                format!(
                    "systemctl status {pid} names its unit; sudo systemctl disable --now {name}"
                ),
            );
        }
    }
}

/// systemd holds the sockets of the socket unit.
const OURS: [&str; 2] = ["mana-proxy", "systemd"];

/// A socket on `[::]` may take IPv4 too; one on an IPv4 address is never in the way of IPv6.
fn overlap(found: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (found.ip(), wanted.ip());
    let any_of_both = a.is_unspecified() && a.is_ipv6();
    let any_of_one = a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
    found.port() == wanted.port() && (a == b || any_of_both || any_of_one)
}

/// An application that the whole network reaches is reached without TLS, limits, or `only_trusted`.
pub(super) fn published_ports(config: &Config, facts: &Facts, report: &mut Report) {
    let Ok(listening) = &facts.listening else {
        return; // Said already.
    };
    for port in upstream_ports(config) {
        let about = format!("upstream port {port}");
        let on_port = |socket: &&Listening| {
            socket.address.port() == port && !socket.address.ip().to_canonical().is_loopback()
        };
        let mut open = listening.iter().filter(on_port).peekable();
        if open.peek().is_none() {
            report.green(&about, "not reachable from outside");
        }
        for socket in open {
            report.red(
                &about,
                format!(
                    "it listens on {}: whoever reaches it goes round the proxy",
                    socket.address
                ),
                format!(
                    "publish it on loopback: ports: [\"127.0.0.1:{port}:...\"] in the compose file, or let the application listen on 127.0.0.1"
                ),
            );
        }
    }
}

/// Ports of upstreams that are written as loopback: one that is written with another address is meant to be there.
pub(super) fn upstream_ports(config: &Config) -> BTreeSet<u16> {
    let written = config
        .sites
        .iter()
        .flat_map(|site| site.settings.upstreams.iter().flatten());
    let loopback = written.filter_map(|address| {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback());
        port.parse().ok().filter(|_| is_loopback)
    });
    loopback.collect()
}

/// A CA asks at port 80; what keeps it from us ends in no certificate.
pub(super) fn challenges(facts: &Facts, report: &mut Report) {
    for challenge in &facts.challenges {
        let about = format!("challenges at http://{}/", challenge.name);
        match &challenge.answer {
            Err(why) => report.gap(about, why),
            Ok(Answerer::Proxy) => report.green(about, "a CA reaches the proxy"),
            Ok(Answerer::Another(line)) => report.red(
                about,
                format!("something else answers: {line}"),
                "let the CDN pass /.well-known/acme-challenge/ on unchanged, and the name lead to this machine",
            ),
            Ok(Answerer::Nobody(why)) => report.red(
                about,
                format!("nobody answers: {why}"),
                "open port 80 in the firewall, and add it to listen.http",
            ),
        }
    }
}

/// A name that leads elsewhere is served by somebody else.
pub(super) fn names(config: &Config, facts: &Facts, report: &mut Report) {
    for name in &facts.names {
        let addresses = match &name.addresses {
            Ok(addresses) => addresses,
            Err(why) => {
                report.red(
                    &name.name,
                    format!("it does not resolve: {why}"),
                    format!("add an A and an AAAA record for {}", name.name),
                );
                continue;
            }
        };
        let elsewhere: Vec<IpAddr> = addresses
            .iter()
            .filter(|(_, place)| *place == Place::Elsewhere)
            .map(|(ip, _)| *ip)
            .collect();
        let list = elsewhere.iter().map(IpAddr::to_string);
        let list = list.collect::<Vec<_>>().join(", ");
        if elsewhere.is_empty() {
            report.green(&name.name, "resolves to this machine");
        } else if elsewhere
            .iter()
            .all(|ip| config.client.peer(*ip) == Peer::Trusted)
        {
            report.green(
                &name.name,
                format!("resolves to the CDN in client.trusted: {list}"),
            );
        } else if !config.client.trusted.is_empty() {
            report.yellow(
                &name.name,
                format!("resolves to {list}, which is neither this machine nor in client.trusted"),
                "if that is the CDN or a router that leads here, all is well; list the CDN's networks in client.trusted",
            );
        } else {
            report.red(
                &name.name,
                format!("resolves to {list}, which is not this machine"),
                "change its records; if a CDN or a router is in front, list its networks in client.trusted",
            );
        }
    }
}
