//! What the service manager is told: ready, reloading, stopping, alive, and one line about the sites.
//!
//! Owns the words of sd_notify(3) and who may say them: after a handover only the new process. Without
//! `NOTIFY_SOCKET` nothing is said. A service manager that cannot be told is said once in the log; the proxy serves all
//! the same.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mana_control::{Mode, Published, Table};
use sd_notify::NotifyState;
use tokio::sync::watch;

/// Tells the service manager, as long as this process is the service.
#[derive(Debug, Default)]
pub struct Notifier {
    /// Another process is the service now.
    is_silent: AtomicBool,
    has_failed: AtomicBool,
}

impl Notifier {
    /// Everything serves. Also the end of a reload. `status` is the line that `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        // The process that answers, whoever was started first.
        let pid = NotifyState::MainPid(std::process::id());
        self.tell(&[NotifyState::Ready, pid, NotifyState::Status(status)]);
    }

    /// The configuration is read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            // systemd takes a reload without its time for one of Type=notify.
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// The reload is over, whatever came of it.
    pub fn reloaded(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The line about the sites has changed.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The process drains, and wants to be let for that long.
    pub fn stopping(&self, wanted: Duration) {
        let usec = u32::try_from(wanted.as_micros()).unwrap_or(u32::MAX);
        let wanted = NotifyState::ExtendTimeoutUsec(usec);
        self.tell(&[
            NotifyState::Stopping,
            wanted,
            NotifyState::Status("draining"),
        ]);
    }

    /// Everything that serves has shown that it does.
    pub fn watchdog(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// Another process is the service from now on; this one says nothing more.
    pub fn hand_over(&self, pid: u32) {
        self.tell(&[NotifyState::MainPid(pid)]);
        self.is_silent.store(true, Ordering::Release);
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.is_silent.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = sd_notify::notify(state)
            && !self.has_failed.swap(true, Ordering::AcqRel)
        {
            tracing::warn!(%error, "the service manager cannot be told how it stands");
        }
    }
}

/// Keeps the line about the sites as it is. Ends when tables are no longer published.
pub async fn follow(
    notifier: Arc<Notifier>,
    published: Arc<Published>,
    mut publications: watch::Receiver<u64>,
) {
    let mut said = status_line(&published.load());
    while publications.changed().await.is_ok() {
        let line = status_line(&published.load());
        if line != said {
            notifier.status(&line);
            said = line;
        }
    }
}

/// The line about the sites: `mana.so: green (generation 7); b.so: blue (generation 3), paused`.
pub fn status_line(table: &Table) -> String {
    let mut line = String::new();
    for (index, site) in table.sites().iter().enumerate() {
        if line.len() > STATUS_BYTES_MAX {
            let left = table.sites().len() - index;
            // Writing to a String cannot fail, here and below.
            write!(line, "; and {left} more").ok();
            break;
        }
        let (host, active) = (&site.settings.host, site.active);
        let separator = if index == 0 { "" } else { "; " };
        let generation = site.generation;
        write!(
            line,
            "{separator}{host}: {active} (generation {generation})"
        )
        .ok();
        line.push_str(match site.mode {
            Mode::Serving => "",
            Mode::Paused(_) => ", paused",
            Mode::Maintenance => ", maintenance",
        });
    }
    line
}

/// Sites are listed up to this length of the line; a host has at most 253 bytes more.
const STATUS_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::site;

    #[test]
    fn the_line_names_slot_and_generation_of_each_site() {
        let mut second = site("b.so", &[]);
        second.generation = 3;
        second.mode = Mode::Maintenance;
        let sites = vec![site("a.so", &[]).into(), second.into()];
        assert_eq!(
            status_line(&Table::new(7, sites)),
            "a.so: blue (generation 1); b.so: blue (generation 3), maintenance"
        );
    }

    #[test]
    fn the_line_of_many_sites_has_an_end() {
        let hosts = (0..100).map(|index| site(&format!("site-{index}.example"), &[]).into());
        let line = status_line(&Table::new(1, hosts.collect()));
        assert!(line.len() < STATUS_BYTES_MAX + 300, "{}", line.len());
        assert!(line.ends_with(" more"), "{line}");
    }
}
