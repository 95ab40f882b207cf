//! The daemon's unit, and services and containers that get in its way.

use std::collections::BTreeSet;

use super::network::upstream_ports;
use crate::config::{Config, format_duration};
use crate::doctor::Report;
use crate::doctor::facts::{Container, Facts};

/// What SIGKILL ends has not drained.
pub(super) fn stop_timeout(config: &Config, facts: &Facts, report: &mut Report) {
    let about = "TimeoutStopSec of mana-proxy.service";
    let timeout = match &facts.unit {
        Err(why) => return report.gap("mana-proxy.service", why),
        Ok(unit) => unit.stop_timeout,
    };
    let Some(timeout) = timeout else {
        return report.gap(about, "systemd did not say");
    };
    let deadline = config.server.shutdown_deadline;
    let written = format_duration(deadline);
    if timeout <= deadline {
        report.red(
            about,
            format!(
                "{}: systemd would kill what server.shutdown_deadline = {written} still lets finish",
                format_duration(timeout)
            ),
            format!(
                "sudo systemctl edit mana-proxy.service: [Service] TimeoutStopSec={}",
                deadline.as_secs() + 15
            ),
        );
    } else {
        report.green(about, format!("above server.shutdown_deadline = {written}"));
    }
}

/// Whether it runs, and will after a reboot.
pub(super) fn daemon(facts: &Facts, report: &mut Report) {
    match &facts.daemon {
        Ok(daemon) if daemon.version != facts.version => report.yellow(
            "mana-proxy",
            format!(
                "the daemon is version {}, and this is {}",
                daemon.version, facts.version
            ),
            "mana-proxy upgrade",
        ),
        Ok(daemon) => report.green("mana-proxy", format!("runs as pid {}", daemon.pid)),
        Err(why) => report.yellow(
            "mana-proxy",
            format!("the daemon does not answer: {why}"),
            "sudo systemctl start mana-proxy; journalctl -u mana-proxy -n 50",
        ),
    }
    let Ok(unit) = &facts.unit else {
        return; // Said already.
    };
    if unit.is_enabled {
        return;
    }
    let mend = "sudo systemctl enable mana-proxy.socket mana-proxy.service";
    if unit.is_socket_enabled {
        report.yellow(
            "mana-proxy.service",
            "it is not enabled, mana-proxy.socket is: after a reboot the first client waits for it to start, and \
             no certificate is renewed before",
            mend,
        );
    } else {
        report.red(
            "mana-proxy.service",
            "it is not enabled: nothing is served after a reboot",
            mend,
        );
    }
}

/// Whoever starts at boot and wants the same ports may be first.
pub(super) fn others(config: &Config, facts: &Facts, report: &mut Report) {
    let enabled = match &facts.enabled_units {
        Ok(enabled) => enabled,
        Err(why) => return report.gap("other services", why),
    };
    for unit in enabled {
        let mend = format!("sudo systemctl disable --now {unit}");
        if unit.starts_with("certbot") {
            report.yellow(
                unit,
                "it is enabled: two programs renew one certificate and share the CA's limits",
                mend,
            );
        } else if listens_elsewhere(unit, config, facts) {
            report.green(unit, "it is enabled, and listens on other ports");
        } else {
            report.red(
                unit,
                "it is enabled: after a reboot it may have the ports first",
                mend,
            );
        }
    }
    if enabled.is_empty() {
        report.green("other services", "no other web server starts at boot");
    }
}

/// Whether a service was seen at work, and not on a port of ours.
fn listens_elsewhere(unit: &str, config: &Config, facts: &Facts) -> bool {
    let process = unit.trim_end_matches(".service");
    let ours: BTreeSet<u16> = config
        .listen
        .http
        .iter()
        .chain(&config.listen.https)
        .map(std::net::SocketAddr::port)
        .collect();
    let Ok(listening) = &facts.listening else {
        return false;
    };
    let mut its = listening
        .iter()
        .filter(|socket| {
            let owners = socket.owners.as_deref().unwrap_or_default();
            owners.iter().any(|owner| owner.name == process)
        })
        .peekable();
    its.peek().is_some() && its.all(|socket| !ours.contains(&socket.address.port()))
}

/// With both slots started at boot, a release that was taken out of use comes back as the standby that answers when the
/// active slot is slow to start.
pub(super) fn containers(config: &Config, facts: &Facts, report: &mut Report) {
    let containers = match &facts.containers {
        Ok(containers) => containers,
        Err(why) => return report.gap("containers", why),
    };
    let ports = upstream_ports(config);
    let of_slots = |container: &&Container| container.ports.iter().any(|p| ports.contains(p));
    let of_slots: Vec<&Container> = containers.iter().filter(of_slots).collect();
    let always: Vec<&str> = of_slots
        .iter()
        .filter(|container| container.restart == "always")
        .map(|container| container.name.as_str())
        .collect();
    if always.len() > 1 {
        report.yellow(
            "containers",
            format!(
                "{} have `restart: always`: after a reboot both slots run, also one that was stopped",
                always.join(" and ")
            ),
            format!("docker update --restart unless-stopped {}", always.join(" ")),
        );
    } else if !of_slots.is_empty() {
        report.green(
            "containers",
            "a slot that was stopped stays so after a reboot",
        );
    }
}

/// Without the timer nobody stops the slot that a deploy has kept warm, or finishes a deploy that was cut off.
pub(super) fn deploys(config: &Config, facts: &Facts, report: &mut Report) {
    if config.deploy.is_none() {
        return;
    }
    let timer = "mana-proxy-reconcile.timer";
    match &facts.is_reconciled {
        Ok(true) => report.green(timer, "it is enabled: what deploys leave is tidied up"),
        Ok(false) => report.yellow(
            timer,
            "it is not enabled: the slot before a deploy runs on for ever, and after a reboot so may the standby",
            format!("sudo systemctl enable --now {timer}"),
        ),
        Err(why) => report.gap(timer, why),
    }
}
