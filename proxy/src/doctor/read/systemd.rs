//! What systemd says, by its own commands: its bus would be a dependency for four answers.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::DEADLINE;
use crate::doctor::facts::{Seen, Unit};

/// Services that want ports 80 and 443, or the CA's attention.
const OTHERS: [&str; 6] = [
    "nginx.service",
    "apache2.service",
    "caddy.service",
    "haproxy.service",
    "lighttpd.service",
    "certbot.timer",
];

/// `mana-proxy.service`
pub(super) async fn unit() -> Seen<Unit> {
    let properties = "--property=Id,LoadState,LimitNOFILE,TimeoutStopUSec,UnitFileState";
    let units = ["mana-proxy.service", "mana-proxy.socket"];
    let arguments = [&["show", properties], &units[..]].concat();
    unit_of(&run("systemctl", &arguments).await?)
}

/// From the two blocks of the service and of the socket.
fn unit_of(shown: &str) -> Seen<Unit> {
    let block = |id: &str| {
        let mut blocks = shown.split("\n\n");
        blocks.find(|block| {
            block
                .lines()
                .any(|line| line.strip_prefix("Id=") == Some(id))
        })
    };
    let value = |id: &str, key: &str| {
        let mut lines = block(id)?.lines();
        lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let is_enabled =
        |id| value(id, "UnitFileState").is_some_and(|state| state.starts_with("enabled"));
    let (service, socket) = ("mana-proxy.service", "mana-proxy.socket");
    if value(service, "LoadState") != Some("loaded") {
        return Err(format!("systemd has no {service}"));
    }
    Ok(Unit {
        files_max: value(service, "LimitNOFILE").and_then(number),
        stop_timeout: value(service, "TimeoutStopUSec").and_then(time_span),
        is_enabled: is_enabled(service),
        is_socket_enabled: is_enabled(socket),
    })
}

/// Which of the services that could be in the way start at boot.
pub(super) async fn enabled_units() -> Seen<Vec<String>> {
    let mut arguments = vec!["show", "--property=Id,UnitFileState"];
    arguments.extend(OTHERS);
    let shown = run("systemctl", &arguments).await?;
    Ok(enabled_of(&shown))
}

/// Whether the timer that tidies up after deploys starts at boot.
pub(super) async fn is_reconciled() -> Seen<bool> {
    let shown = run(
        "systemctl",
        &["show", "--property=Id,UnitFileState", RECONCILE],
    )
    .await?;
    Ok(enabled_of(&shown) == [RECONCILE])
}

const RECONCILE: &str = "mana-proxy-reconcile.timer";

/// From one block of `Id=`, `UnitFileState=` for each unit.
fn enabled_of(shown: &str) -> Vec<String> {
    let blocks = shown.split("\n\n");
    let enabled = blocks.filter(|block| {
        block
            .lines()
            .any(|line| line.starts_with("UnitFileState=enabled"))
    });
    let ids = enabled.filter_map(|block| block.lines().find_map(|line| line.strip_prefix("Id=")));
    ids.map(str::to_owned).collect()
}

/// Whether a time server keeps the clock.
pub(super) async fn is_clock_synchronised() -> Seen<bool> {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    match run("timedatectl", &arguments).await?.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(format!("timedatectl says {other:?}")),
    }
}

/// What a command prints.
async fn run(program: &str, arguments: &[&str]) -> Seen<String> {
    let output = Command::new(program)
        .args(arguments)
        // Their words are read, not shown.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(DEADLINE, output)
        .await
        .map_err(|_| format!("{program} does not answer in time"))?
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it failed");
        return Err(format!("{program}: {first}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number(text: &str) -> Option<u64> {
    match text {
        "infinity" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// `1min 30s`, as systemd writes times.
fn time_span(text: &str) -> Option<Duration> {
    if text == "infinity" {
        return Some(Duration::MAX);
    }
    let mut total = Duration::ZERO;
    for part in text.split_whitespace() {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, unit) = part.split_at(digits);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let count: f64 = count.parse().ok()?;
        total += Duration::try_from_secs_f64(count * seconds).ok()?;
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_systemd_writes_them() {
        for (text, expected) in [
            ("45s", Some(Duration::from_secs(45))),
            ("1min 30s", Some(Duration::from_secs(90))),
            ("2h", Some(Duration::from_secs(7200))),
            ("500ms", Some(Duration::from_millis(500))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("infinity", Some(Duration::MAX)),
            ("", None),
            ("soon", None),
            ("5 fortnights", None),
            ("99999999999999999999999d", None),
        ] {
            assert_eq!(time_span(text), expected, "{text}");
        }
    }

    #[test]
    fn the_service_is_told_from_its_socket() {
        let unit = |service: &str, socket: &str| {
            unit_of(&format!(
                "LimitNOFILE=1024\nTimeoutStopUSec=45s\nId=mana-proxy.service\nLoadState=loaded\n\
                 UnitFileState={service}\n\nLimitNOFILE=5\nId=mana-proxy.socket\nLoadState=loaded\n\
                 UnitFileState={socket}\n"
            ))
        };
        for (service, socket, expected) in [
            ("enabled", "enabled", (true, true)),
            ("disabled", "enabled", (false, true)),
            ("enabled-runtime", "masked", (true, false)),
        ] {
            let unit = unit(service, socket).expect("a unit");
            assert_eq!((unit.is_enabled, unit.is_socket_enabled), expected);
            assert_eq!(unit.files_max, Some(1024));
            assert_eq!(unit.stop_timeout, Some(Duration::from_secs(45)));
        }
        let alone = "Id=mana-proxy.service\nLoadState=not-found\n\nId=mana-proxy.socket\nLoadState=loaded\n";
        assert!(unit_of(alone).is_err());
    }

    #[test]
    fn enabled_units_are_told_from_those_that_are_not() {
        let shown = "Id=nginx.service\nUnitFileState=enabled\n\nId=apache2.service\nUnitFileState=\n\n\
                     Id=caddy.service\nUnitFileState=disabled\n\nId=certbot.timer\nUnitFileState=enabled-runtime\n";
        assert_eq!(enabled_of(shown), ["nginx.service", "certbot.timer"]);
    }
}
