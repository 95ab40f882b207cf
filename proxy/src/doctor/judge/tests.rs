//! Facts in, findings out.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::judge;
use crate::config::Config;
use crate::doctor::facts::*;
use crate::doctor::{Level, Report};

const CONFIG: &str = r#"
[listen]
http = ["0.0.0.0:80"]
https = ["0.0.0.0:443", "[::]:443"]
[client]
trusted = ["198.51.100.0/24"]
[[site]]
host = "mana.so"
blue = ["localhost:4000"]
green = ["127.0.0.1:4001", "10.0.0.7:4002"]
certificate = "acme"
[deploy]
compose_file = "/srv/mana/compose.yml"
project = "mana"
blue = { service = "web_blue", image_variable = "BLUE_IMAGE" }
green = { service = "web_green", image_variable = "GREEN_IMAGE" }
[acme]
contact = ["mailto:ops@mana.so"]
"#;

fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(number * 24 * 3600)
}

fn config(text: &str) -> ConfigFact {
    ConfigFact::Good(Box::new(Config::parse(text, "mana-proxy.toml").unwrap()))
}

/// Of a process that is not the daemon.
fn socket(address: &str, name: &str) -> Listening {
    socket_of(8, address, name)
}

fn socket_of(pid: i32, address: &str, name: &str) -> Listening {
    Listening {
        address: address.parse().unwrap(),
        owners: Ok(vec![Process {
            pid,
            name: name.to_owned(),
        }]),
    }
}

fn name(address: &str, place: Place) -> Vec<Name> {
    vec![Name {
        name: "mana.so".to_owned(),
        addresses: Ok(vec![(address.parse().unwrap(), place)]),
    }]
}

fn permissions(path: &str, uid: u32, mode: u32) -> Seen<Permissions> {
    Ok(Permissions {
        path: PathBuf::from(path),
        uid,
        mode,
    })
}

fn disk(bytes: u64, inodes: u64) -> Vec<Disk> {
    vec![Disk {
        path: PathBuf::from("/var/lib/mana-proxy"),
        holds: "state and certificates",
        room: Ok(Room {
            bytes,
            inodes: Some(inodes),
        }),
    }]
}

fn container(name: &str, restart: &str, port: u16) -> Container {
    Container {
        name: name.to_owned(),
        restart: restart.to_owned(),
        ports: vec![port],
    }
}

fn certificate(state: CertificateState) -> Vec<Certificate> {
    vec![Certificate {
        host: "mana.so".to_owned(),
        state: Ok(state),
    }]
}

fn challenge(answer: Answerer) -> Vec<Challenge> {
    vec![Challenge {
        name: "mana.so".to_owned(),
        answer: Ok(answer),
    }]
}

/// A machine on which all is well.
fn healthy() -> Facts {
    Facts {
        now: day(20_000),
        file: PathBuf::from("/etc/mana-proxy/mana-proxy.toml"),
        config: config(CONFIG),
        version: "0.1.0".to_owned(),
        built: Ok(day(19_000)),
        is_clock_synchronised: Ok(true),
        daemon: Ok(Daemon {
            pid: 7,
            predecessor: None,
            version: "0.1.0".to_owned(),
            uid: Ok(990),
            files_max: Ok(524_288),
        }),
        unit: Ok(Unit {
            files_max: Some(524_288),
            stop_timeout: Some(Duration::from_secs(45)),
            is_enabled: true,
            is_socket_enabled: true,
        }),
        enabled_units: Ok(Vec::new()),
        is_reconciled: Ok(true),
        listening: Ok(vec![
            socket("0.0.0.0:80", "mana-proxy"),
            socket("0.0.0.0:443", "systemd"),
            socket("127.0.0.1:4000", "docker-proxy"),
            socket("[::1]:4000", "docker-proxy"),
            socket("0.0.0.0:22", "sshd"),
        ]),
        containers: Ok(vec![
            container("blue", "unless-stopped", 4000),
            container("green", "always", 4001),
            container("database", "always", 5432),
        ]),
        names: name("192.0.2.1", Place::Here),
        challenges: challenge(Answerer::Proxy),
        certificates: certificate(CertificateState::Valid {
            is_self_signed: false,
            is_renewed: true,
            not_before: day(19_990),
            not_after: day(20_080),
        }),
        disks: disk(1 << 40, 1 << 20),
        state_dir: permissions("/var/lib/mana-proxy", 990, 0o700),
        socket: permissions("/run/mana-proxy/control.sock", 990, 0o660),
    }
}

#[test]
fn of_a_machine_on_which_all_is_well_everything_is_green() {
    let report = judge(&healthy());
    let not_green: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.level != Level::Green)
        .collect();
    assert!(not_green.is_empty(), "{not_green:#?}");
    assert!(report.not_looked_at.is_empty(), "{report:#?}");
    assert!(!report.is_red());
}

/// What one changed fact makes of a healthy machine: exactly one finding that is not green.
#[test]
fn each_trouble_is_found_with_its_level_and_its_remedy() {
    type Change = fn(&mut Facts);
    let table: &[(Change, Level, &str, &str, &str)] = &[
        (
            |facts| facts.built = Ok(day(20_002)),
            Level::Red,
            "clock",
            "this binary is of",
            "set-ntp true",
        ),
        (
            |facts| facts.is_clock_synchronised = Ok(false),
            Level::Yellow,
            "clock",
            "no time server",
            "timedatectl",
        ),
        (
            |facts| facts.daemon = Err("no such file".to_owned()),
            Level::Yellow,
            "mana-proxy",
            "does not answer: no such file",
            "systemctl start",
        ),
        (
            |facts| facts.daemon.as_mut().unwrap().version = "0.0.9".to_owned(),
            Level::Yellow,
            "mana-proxy",
            "the daemon is version 0.0.9, and this is 0.1.0",
            "mana-proxy upgrade",
        ),
        (
            |facts| facts.unit.as_mut().unwrap().files_max = Some(1024),
            Level::Red,
            "LimitNOFILE",
            "limits.connections = 20000 needs 41024",
            "LimitNOFILE=41024",
        ),
        (
            |facts| facts.daemon.as_mut().unwrap().files_max = Ok(20_000),
            Level::Red,
            "file limit of the daemon",
            "20000 file descriptors",
            "LimitNOFILE=41024",
        ),
        (
            |facts| {
                facts.unit.as_mut().unwrap().files_max = None;
                facts.daemon.as_mut().unwrap().files_max = Ok(4096);
            },
            Level::Red,
            "file limit of the daemon",
            "4096 file descriptors",
            "LimitNOFILE=41024",
        ),
        (
            |facts| {
                facts.unit.as_mut().unwrap().stop_timeout = Some(Duration::from_secs(30));
            },
            Level::Red,
            "TimeoutStopSec",
            "30s: systemd would kill",
            "TimeoutStopSec=45",
        ),
        (
            |facts| {
                let unit = facts.unit.as_mut().unwrap();
                (unit.is_enabled, unit.is_socket_enabled) = (false, false);
            },
            Level::Red,
            "mana-proxy.service",
            "nothing is served after a reboot",
            "systemctl enable",
        ),
        (
            |facts| facts.unit.as_mut().unwrap().is_enabled = false,
            Level::Yellow,
            "mana-proxy.service",
            "mana-proxy.socket is",
            "systemctl enable",
        ),
        (
            |facts| facts.is_reconciled = Ok(false),
            Level::Yellow,
            "mana-proxy-reconcile.timer",
            "the slot before a deploy runs on for ever",
            "systemctl enable --now mana-proxy-reconcile.timer",
        ),
        (
            |facts| facts.enabled_units = Ok(vec!["nginx.service".to_owned()]),
            Level::Red,
            "nginx.service",
            "may have the ports first",
            "systemctl disable --now nginx.service",
        ),
        (
            |facts| facts.enabled_units = Ok(vec!["certbot.timer".to_owned()]),
            Level::Yellow,
            "certbot.timer",
            "two programs renew",
            "systemctl disable --now certbot.timer",
        ),
        (
            |facts| {
                let listening = facts.listening.as_mut().unwrap();
                listening.push(socket("192.0.2.1:443", "nginx"));
            },
            Level::Red,
            "port 443",
            "nginx (pid 8) listens on 192.0.2.1:443",
            "disable --now nginx",
        ),
        (
            |facts| {
                let listening = facts.listening.as_mut().unwrap();
                listening.push(socket("0.0.0.0:4001", "docker-proxy"));
            },
            Level::Red,
            "upstream port 4001",
            "it listens on 0.0.0.0:4001",
            "127.0.0.1:4001",
        ),
        (
            |facts| {
                let containers = facts.containers.as_mut().unwrap();
                containers[0].restart = "always".to_owned();
            },
            Level::Yellow,
            "containers",
            "blue and green have",
            "docker update --restart unless-stopped blue green",
        ),
        (
            |facts| facts.names[0].addresses = Err("no such host".to_owned()),
            Level::Red,
            "mana.so",
            "does not resolve: no such host",
            "A and an AAAA record",
        ),
        // Nobody was asked there.
        (
            |facts| {
                facts.names = name("203.0.113.9", Place::Elsewhere);
                facts.challenges.clear();
            },
            Level::Yellow,
            "mana.so",
            "neither this machine nor in client.trusted",
            "client.trusted",
        ),
        (
            |facts| {
                facts.config = config(&CONFIG.replace("trusted", "unlimited"));
                facts.names = name("203.0.113.9", Place::Elsewhere);
                facts.challenges[0].answer = Err("the daemon does not run".to_owned());
            },
            Level::Yellow,
            "mana.so",
            "neither this machine nor in client.trusted",
            "change the records",
        ),
        // Somebody else was.
        (
            |facts| {
                let via = "[acme]\npreflight_via = \"127.0.0.1:80\"";
                facts.config = config(&CONFIG.replace("[acme]", via));
                facts.names = name("203.0.113.9", Place::Elsewhere);
            },
            Level::Yellow,
            "mana.so",
            "neither this machine nor in client.trusted",
            "change the records",
        ),
        // The proxy answers, perhaps at the other address.
        (
            |facts| {
                facts.names = name("203.0.113.9", Place::Elsewhere);
                let addresses = facts.names[0].addresses.as_mut().unwrap();
                addresses.push(("192.0.2.1".parse().unwrap(), Place::Here));
            },
            Level::Yellow,
            "mana.so",
            "resolves to 203.0.113.9, which is neither",
            "change the records",
        ),
        (
            |facts| {
                let listening = facts.listening.as_mut().unwrap();
                listening.push(socket("0.0.0.0:5432", "docker-proxy"));
                listening.push(socket("[::]:5432", "docker-proxy"));
            },
            Level::Yellow,
            "published port 5432",
            "docker-proxy listens on 0.0.0.0:5432 and [::]:5432",
            "127.0.0.1:5432",
        ),
        (
            |facts| facts.challenges = challenge(Answerer::Another("HTTP/1.1 403 No".to_owned())),
            Level::Red,
            "challenges at http://mana.so/",
            "something else answers: HTTP/1.1 403 No",
            "acme-challenge",
        ),
        (
            |facts| facts.challenges = challenge(Answerer::Nobody("refused".to_owned())),
            Level::Red,
            "challenges",
            "nobody answers: refused",
            "firewall",
        ),
        (
            |facts| facts.certificates = certificate(CertificateState::SelfSigned),
            Level::Yellow,
            "certificate of mana.so",
            "self-signed",
            "acme",
        ),
        (
            |facts| facts.certificates = certificate(CertificateState::Awaited),
            Level::Yellow,
            "certificate of mana.so",
            "not issued one yet",
            "certs list",
        ),
        (
            |facts| {
                facts.certificates = certificate(CertificateState::Valid {
                    is_self_signed: false,
                    is_renewed: true,
                    not_before: day(19_900),
                    not_after: day(20_001),
                });
            },
            Level::Red,
            "certificate of mana.so",
            "24 hours left",
            "certs renew",
        ),
        (
            |facts| facts.disks = disk(1 << 20, 1 << 20),
            Level::Red,
            "/var/lib/mana-proxy",
            "1 MiB and 1048576 files left",
            "df -h",
        ),
        (
            |facts| facts.disks = disk(1 << 40, 12),
            Level::Red,
            "/var/lib/mana-proxy",
            "12 files left",
            "df -i",
        ),
        (
            |facts| facts.disks = disk(500 << 20, 1 << 20),
            Level::Yellow,
            "/var/lib/mana-proxy",
            "500 MiB",
            "make room",
        ),
        (
            |facts| facts.state_dir = permissions("/var/lib/mana-proxy", 990, 0o777),
            Level::Red,
            "/var/lib/mana-proxy",
            "others may write",
            "chmod 0700",
        ),
        (
            |facts| facts.state_dir = permissions("/var/lib/mana-proxy", 0, 0o755),
            Level::Red,
            "/var/lib/mana-proxy",
            "belongs to uid 0 and the daemon is uid 990",
            "chown -R 990",
        ),
        (
            |facts| facts.socket = permissions("/run/mana-proxy/control.sock", 990, 0o666),
            Level::Yellow,
            "control.sock",
            "everybody may connect",
            "chmod o-rwx",
        ),
    ];
    for (change, level, about, what, mend) in table {
        let mut facts = healthy();
        change(&mut facts);
        let report = judge(&facts);
        let mut troubles = report.findings.iter().filter(|f| f.level != Level::Green);
        let found = troubles.next().unwrap_or_else(|| panic!("{about}: {what}"));
        assert_eq!(troubles.next(), None, "{about}: {what}");
        assert_eq!(found.level, *level, "{found:?}");
        assert!(found.about.contains(about), "{about}: {found:?}");
        assert!(found.what.contains(what), "{what}: {found:?}");
        let remedy = found.mend.as_deref().unwrap_or_default();
        assert!(remedy.contains(mend), "{mend}: {found:?}");
        assert_eq!(report.is_red(), *level == Level::Red, "{found:?}");
    }
}

#[test]
fn what_is_well_in_another_way_is_green_too() {
    type Change = fn(&mut Facts);
    let table: &[Change] = &[
        // Behind the CDN that is trusted.
        |facts| facts.names = name("198.51.100.4", Place::Elsewhere),
        // Behind a router, whose address is on no interface of this machine.
        |facts| facts.names = name("203.0.113.9", Place::Elsewhere),
        |facts| {
            facts.config = config(&CONFIG.replace("trusted", "unlimited"));
            facts.names = name("203.0.113.9", Place::Elsewhere);
        },
        // A binary of another name, and the process before it.
        |facts| {
            facts.daemon.as_mut().unwrap().predecessor = Some(6);
            let listening = facts.listening.as_mut().unwrap();
            listening.push(socket_of(7, "192.0.2.1:443", "mana-proxy-2"));
            listening.push(socket_of(6, "[::]:443", "mana-proxy-1"));
        },
        // Docker publishes what is an upstream, or on loopback.
        |facts| {
            let listening = facts.listening.as_mut().unwrap();
            listening.push(socket("10.0.0.7:4002", "docker-proxy"));
            listening.push(socket("127.0.0.1:5432", "docker-proxy"));
        },
        // A web server that serves something else.
        |facts| {
            facts.enabled_units = Ok(vec!["nginx.service".to_owned()]);
            let listening = facts.listening.as_mut().unwrap();
            listening.push(socket("0.0.0.0:8080", "nginx"));
        },
        // An upstream that is written with an address of the network is meant to be reached there.
        |facts| {
            let listening = facts.listening.as_mut().unwrap();
            listening.push(socket("10.0.0.7:4002", "node"));
        },
        |facts| facts.unit.as_mut().unwrap().stop_timeout = Some(Duration::MAX),
        |facts| facts.unit.as_mut().unwrap().files_max = Some(u64::MAX),
        // A disk that makes inodes as it needs them.
        |facts| {
            facts.disks[0].room = Ok(Room {
                bytes: 1 << 40,
                inodes: None,
            });
        },
    ];
    for (index, change) in table.iter().enumerate() {
        let mut facts = healthy();
        change(&mut facts);
        let report = judge(&facts);
        let worst = report.findings.first().unwrap();
        assert_eq!(worst.level, Level::Green, "{index}: {worst:?}");
    }
}

/// Then it is red at its port as well: a CA would not reach us either.
#[test]
fn a_name_at_which_another_machine_answers_is_red() {
    let mut facts = healthy();
    facts.names = name("203.0.113.9", Place::Elsewhere);
    facts.challenges = challenge(Answerer::Another("HTTP/1.1 404 Not Found".to_owned()));
    for (text, level) in [
        (CONFIG.replace("trusted", "unlimited"), Level::Red),
        // Perhaps the CDN.
        (CONFIG.to_owned(), Level::Yellow),
    ] {
        facts.config = config(&text);
        let report = judge(&facts);
        let found = report.findings.iter().find(|f| f.about == "mana.so");
        assert_eq!(found.unwrap().level, level, "{report:#?}");
    }
}

#[test]
fn faults_of_the_configuration_come_first_and_leave_the_rest_unseen() {
    let mut facts = healthy();
    facts.config = ConfigFact::Faulty(vec!["a.toml:1: x".to_owned(), "a.toml:2: y".to_owned()]);
    facts.is_clock_synchronised = Ok(false);
    let report = judge(&facts);
    let whats: Vec<&str> = report.findings.iter().map(|f| f.what.as_str()).collect();
    assert_eq!(&whats[..2], ["a.toml:1: x", "a.toml:2: y"]);
    assert_eq!(report.findings[2].level, Level::Yellow);
    assert!(report.is_red());
    assert!(report.not_looked_at[0].why.contains("mend it first"));
}

#[test]
fn the_worst_comes_first_and_what_was_not_seen_is_not_well() {
    let mut facts = healthy();
    facts.is_clock_synchronised = Ok(false);
    facts.disks = disk(1, 1);
    facts.unit = Err("systemd does not run here".to_owned());
    facts.containers = Err("no socket".to_owned());
    facts.listening.as_mut().unwrap()[0].owners = Err("use sudo".to_owned());
    let report = judge(&facts);
    let levels: Vec<Level> = report.findings.iter().map(|f| f.level).collect();
    assert!(levels.is_sorted(), "{levels:?}");
    let abouts = gaps(&report);
    for about in [
        "mana-proxy.service",
        "containers",
        "who listens on 0.0.0.0:80",
    ] {
        assert!(abouts.contains(&about), "{about}: {abouts:?}");
    }
    assert!(!report.findings.iter().any(|f| f.about == "containers"));
}

fn gaps(report: &Report) -> Vec<&str> {
    report
        .not_looked_at
        .iter()
        .map(|gap| gap.about.as_str())
        .collect()
}
