//! Ports, names, and who can be reached at them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::client_address::Peer;
use crate::config::Config;
use crate::doctor::Report;
use crate::doctor::facts::{Answerer, Facts, Listening, Name, Place, Process};

/// A process that holds a port of ours keeps the daemon from starting, or takes part of its connections.
pub(super) fn other_processes(config: &Config, facts: &Facts, report: &mut Report) {
    let listening = match &facts.listening {
        Ok(listening) => listening,
        Err(why) => return report.gap("listening sockets", why),
    };
    let ours = listening.iter();
    for socket in ours.filter(|socket| is_wanted(socket.address, config)) {
        let owners = match &socket.owners {
            Ok(owners) => owners,
            Err(why) => {
                report.gap(format!("who listens on {}", socket.address), why);
                continue;
            }
        };
        let is_stranger = |owner: &&Process| !is_of_ours(owner, facts);
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

/// The daemon is known by its number as well: a binary may have any name, and after an upgrade the process before still
/// has the sockets for a moment.
fn is_of_ours(process: &Process, facts: &Facts) -> bool {
    let daemon = facts.daemon.as_ref().ok();
    let pids = daemon.map(|daemon| [Some(daemon.pid), daemon.predecessor]);
    OURS.contains(&process.name.as_str())
        || pids.is_some_and(|pids| pids.contains(&Some(process.pid)))
}

/// systemd holds the sockets of the socket unit.
const OURS: [&str; 2] = ["mana-proxy", "systemd"];

/// Whether a socket has an address of `[listen]`.
fn is_wanted(found: SocketAddr, config: &Config) -> bool {
    let mut wanted = config.listen.http.iter().chain(&config.listen.https);
    wanted.any(|wanted| overlap(found, *wanted))
}

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

/// What else Docker publishes is reached past the proxy and past most firewalls too: a database, or a slot that the
/// configuration has by another address.
pub(super) fn other_published_ports(config: &Config, facts: &Facts, report: &mut Report) {
    let Ok(listening) = &facts.listening else {
        return; // Said already.
    };
    let told = upstream_ports(config);
    // Written with this address, it is meant to be there.
    let is_upstream = |address: SocketAddr| {
        let sites = config.sites.iter();
        let mut written = sites.flat_map(|site| site.settings.upstreams.iter().flatten());
        written.any(|upstream| upstream.parse() == Ok(address))
    };
    let mut published: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for Listening { address, owners } in listening {
        let mut owners = owners.as_deref().unwrap_or_default().iter();
        let is_open = !address.ip().to_canonical().is_loopback();
        let is_told = told.contains(&address.port()) || is_wanted(*address, config);
        let is_of_docker = owners.any(|owner| owner.name == DOCKER);
        if is_open && is_of_docker && !is_told && !is_upstream(*address) {
            let addresses = published.entry(address.port()).or_default();
            addresses.insert(address.ip());
        }
    }
    for (port, addresses) in published {
        let list = addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, port).to_string());
        report.yellow(
            format!("published port {port}"),
            format!("{DOCKER} listens on {}", list.collect::<Vec<_>>().join(" and ")),
            format!(
                "if it is not meant for everybody: ports: [\"127.0.0.1:{port}:...\"] in the compose file"
            ),
        );
    }
}

/// What holds the ports that Docker publishes, by its name as the kernel has it.
const DOCKER: &str = "docker-proxy";

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

/// A name that leads elsewhere is served by somebody else, unless what is there leads here.
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
        if elsewhere.is_empty() {
            report.green(&name.name, "resolves to this machine");
            continue;
        }
        // What was asked at another address than the name's says nothing of the name.
        let mut asked = facts.challenges.iter();
        let asked = asked.find(|asked| asked.name == name.name);
        let asked = asked.filter(|_| config.acme.preflight_via.is_none());
        let answer = asked.and_then(|asked| asked.answer.as_ref().ok());
        led_elsewhere(name, &elsewhere, answer, config, report);
    }
}

/// The address of a machine behind NAT is its router's, so that the address alone does not tell. Who answers there does.
fn led_elsewhere(
    name: &Name,
    elsewhere: &[IpAddr],
    answer: Option<&Answerer>,
    config: &Config,
    report: &mut Report,
) {
    let about = &name.name;
    let list = elsewhere.iter().map(IpAddr::to_string);
    let list = list.collect::<Vec<_>>().join(", ");
    let is_trusted = |ip: &IpAddr| config.client.peer(*ip) == Peer::Trusted;
    // Of several addresses it is not known which one was asked.
    let is_only = matches!(&name.addresses, Ok(all) if all.len() == 1);
    match answer {
        _ if elsewhere.iter().all(is_trusted) => report.green(
            about,
            format!("resolves to the CDN in client.trusted: {list}"),
        ),
        Some(Answerer::Proxy) if is_only => report.green(
            about,
            format!("resolves to {list}, where a mana-proxy answers: it leads here"),
        ),
        // A CDN answers some requests by itself.
        Some(Answerer::Another(line)) if config.client.trusted.is_empty() => report.red(
            about,
            format!("resolves to {list}, which is not this machine, and another one answers: {line}"),
            "change its records; if a CDN or a router is in front, let it pass requests on, and list a CDN's networks in client.trusted",
        ),
        Some(Answerer::Proxy | Answerer::Another(_) | Answerer::Nobody(_)) | None => report.yellow(
            about,
            format!("resolves to {list}, which is neither this machine nor in client.trusted"),
            "if that is a router or a CDN that leads here, all is well; list a CDN's networks in client.trusted, else change the records",
        ),
    }
}
