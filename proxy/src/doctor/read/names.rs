//! Where names lead, and who answers there.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use mana_certs::ask_at_port_80;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::{DEADLINE, is_of_ca};
use crate::answer::NO_CHALLENGE;
use crate::certificates::names;
use crate::config::Config;
use crate::doctor::facts::{Answerer, Challenge, Name, Place, Seen};

/// Names that are asked about; a configuration with more has the rest told by `certs list`.
const NAMES_MAX: usize = 100;

/// Resolves every host and alias.
pub(super) async fn resolve(config: &Config) -> Vec<Name> {
    let mut found = Vec::new();
    for name in config.sites.iter().flat_map(names).take(NAMES_MAX) {
        found.push(Name {
            name: name.to_owned(),
            addresses: addresses(name).await,
        });
    }
    found
}

async fn addresses(name: &str) -> Seen<Vec<(IpAddr, Place)>> {
    let resolved = timeout(DEADLINE, lookup_host((name, 0))).await;
    let resolved = resolved
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses.into_iter().map(|ip| (ip, place(ip))).collect())
}

/// The kernel lets a socket be bound to an address of this machine and to no other.
fn place(ip: IpAddr) -> Place {
    match UdpSocket::bind(SocketAddr::new(ip, 0)) {
        Ok(_) => Place::Here,
        Err(_) => Place::Elsewhere,
    }
}

/// Asks for a challenge at each name that has its certificate from a CA. Without a daemon there is nobody to answer.
pub(super) async fn challenges(config: &Config, has_daemon: bool) -> Vec<Challenge> {
    let sites = config.sites.iter();
    let of_ca = sites.filter(|site| is_of_ca(&site.certificate));
    let mut found = Vec::new();
    for name in of_ca.flat_map(names).take(NAMES_MAX) {
        let answer = if has_daemon {
            Ok(ask(name, config).await)
        } else {
            Err("the daemon does not run".to_owned())
        };
        found.push(Challenge {
            name: name.to_owned(),
            answer,
        });
    }
    found
}

async fn ask(name: &str, config: &Config) -> Answerer {
    match ask_at_port_80(name, config.acme.preflight_via).await {
        Err(why) => Answerer::Nobody(why),
        Ok(answer) if answer.contains(NO_CHALLENGE) => Answerer::Proxy,
        Ok(answer) => {
            let first = answer.lines().next().unwrap_or_default();
            Answerer::Another(first.chars().take(LINE_CHARS_MAX).collect())
        }
    }
}

const LINE_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_is_told_from_others() {
        assert_eq!(place(IpAddr::from([127, 0, 0, 1])), Place::Here);
        // TEST-NET-1, which nobody has.
        assert_eq!(place(IpAddr::from([192, 0, 2, 1])), Place::Elsewhere);
    }
}
