//! The machine itself: clock, disks, permissions, file descriptors.

use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::descriptors;
use crate::doctor::Report;
use crate::doctor::facts::{Facts, Permissions, Room};

/// A clock that is off breaks certificates, renewals and the order of the journal.
pub(super) fn clock(facts: &Facts, report: &mut Report) {
    match &facts.built {
        Ok(built) if is_before(facts.now, *built) => {
            report.red(
                "clock",
                format!(
                    "it says {}, and this binary is of {}",
                    mana_certs::text(facts.now),
                    mana_certs::text(*built)
                ),
                "sudo timedatectl set-ntp true; without a time server: sudo date -s ...",
            );
            return;
        }
        Ok(_) => {}
        Err(why) => report.gap("date of the binary", why),
    }
    match &facts.is_clock_synchronised {
        Ok(true) => report.green("clock", "it is kept by a time server"),
        Ok(false) => report.yellow(
            "clock",
            "no time server keeps it: certificates will be judged by a wrong date sooner or later",
            "sudo apt-get install systemd-timesyncd && sudo timedatectl set-ntp true",
        ),
        Err(why) => report.gap("time server", why),
    }
}

/// A file that was written in another time zone, or a second ago by a clock that was then set back, is no proof.
fn is_before(now: SystemTime, built: SystemTime) -> bool {
    built
        .duration_since(now)
        .is_ok_and(|ahead| ahead > CLOCK_SLACK)
}

const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// What cannot be stored is not published: a full disk stops switches and renewals.
pub(super) fn disks(facts: &Facts, report: &mut Report) {
    for disk in &facts.disks {
        let about = disk.path.display().to_string();
        let room = match &disk.room {
            Ok(room) => *room,
            Err(why) => {
                report.gap(about, why);
                continue;
            }
        };
        let left = format!(
            "{} MiB{} left for {}",
            room.bytes / MIB,
            room.inodes
                .map_or_else(String::new, |inodes| format!(" and {inodes} files")),
            disk.holds
        );
        let mend = format!("df -h {about}; df -i {about}; then make room, or grow the disk");
        if is_below(room, BYTES_RED, INODES_RED) {
            report.red(about, format!("{left}: a switch could not be stored"), mend);
        } else if is_below(room, BYTES_YELLOW, INODES_YELLOW) {
            report.yellow(about, left, mend);
        } else {
            report.green(about, left);
        }
    }
}

fn is_below(room: Room, bytes: u64, inodes: u64) -> bool {
    room.bytes < bytes || room.inodes.is_some_and(|left| left < inodes)
}

const MIB: u64 = 1024 * 1024;
/// State, journal and certificates are a few MiB together; each is written anew beside the old one.
const BYTES_RED: u64 = 64 * MIB;
const BYTES_YELLOW: u64 = 1024 * MIB;
const INODES_RED: u64 = 1000;
const INODES_YELLOW: u64 = 10_000;

/// Whoever may write in the state directory chooses what is served.
pub(super) fn permissions(facts: &Facts, report: &mut Report) {
    match &facts.state_dir {
        Ok(found) => state_dir(found, facts, report),
        Err(why) => report.gap("state directory", why),
    }
    match &facts.socket {
        Ok(found) if found.mode & OTHERS_WRITE != 0 => report.yellow(
            found.path.display().to_string(),
            format!(
                "everybody may connect to the control socket (mode {:04o})",
                found.mode
            ),
            format!("sudo chmod o-rwx {}", found.path.display()),
        ),
        Ok(found) => report.green(
            found.path.display().to_string(),
            format!("mode {:04o}", found.mode),
        ),
        Err(why) => report.gap("control socket", why),
    }
}

fn state_dir(found: &Permissions, facts: &Facts, report: &mut Report) {
    let about = found.path.display().to_string();
    if found.mode & (OTHERS_WRITE | GROUP_WRITE) != 0 {
        report.red(
            about,
            format!(
                "others may write in it (mode {:04o}), and so choose slots and certificates",
                found.mode
            ),
            format!("sudo chmod 0700 {}", found.path.display()),
        );
        return;
    }
    match facts.daemon.as_ref().map(|daemon| &daemon.uid) {
        Ok(Ok(uid)) if *uid != found.uid && *uid != 0 => report.red(
            about,
            format!(
                "it belongs to uid {} and the daemon is uid {uid}: nothing can be stored",
                found.uid
            ),
            format!("sudo chown -R {uid} {}", found.path.display()),
        ),
        _ => report.green(about, format!("mode {:04o}, uid {}", found.mode, found.uid)),
    }
}

const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;

/// Beyond the limit connections wait, however many the configuration would allow.
pub(super) fn file_limit(config: &Config, facts: &Facts, report: &mut Report) {
    let needed = descriptors::wanted(config.limits.connections);
    let of_unit = facts.unit.as_ref().ok().and_then(|unit| unit.files_max);
    let of_daemon = match &facts.daemon {
        Ok(daemon) => daemon.files_max.clone(),
        Err(why) => Err(why.clone()),
    };
    // What the unit asks for is not what the daemon got where the kernel allows less, or where the unit was changed since.
    let (about, limit) = match (of_unit, of_daemon) {
        (Some(unit), Ok(daemon)) if daemon < unit => (DAEMON, Ok(daemon)),
        (Some(unit), _) => (UNIT, Ok(unit)),
        (None, daemon) => (DAEMON, daemon),
    };
    match limit {
        Err(why) => report.gap(about, why),
        Ok(limit) if limit < needed => report.red(
            about,
            format!(
                "{limit} file descriptors; limits.connections = {} needs {needed}",
                config.limits.connections
            ),
            format!(
                "sudo systemctl edit mana-proxy.service: [Service] LimitNOFILE={needed}; then sudo systemctl restart mana-proxy"
            ),
        ),
        Ok(u64::MAX) => report.green(about, "no limit"),
        Ok(limit) => report.green(about, format!("{limit}, {needed} are needed")),
    }
}

const UNIT: &str = "LimitNOFILE of mana-proxy.service";
const DAEMON: &str = "file limit of the daemon";
