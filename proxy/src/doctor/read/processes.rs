//! What `/proc` says: who listens where, and what a process may have.

use std::collections::HashMap;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, LimitValue, Process, all_processes};

use crate::doctor::facts::{self, Listening, Seen};

/// All listening TCP sockets, with those who have them.
pub(super) fn listening() -> Seen<Vec<Listening>> {
    let mut entries = procfs::net::tcp().map_err(|error| error.to_string())?;
    // A kernel without IPv6 has no such file, and no such sockets.
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let listening: Vec<TcpNetEntry> = entries
        .into_iter()
        .filter(|entry| entry.state == TcpState::Listen)
        .collect();
    let owners = owners(&listening);
    let found = listening.iter().map(|entry| Listening {
        address: entry.local_address,
        owners: owners
            .get(&entry.inode)
            .cloned()
            .ok_or_else(|| "processes of other users; use sudo".to_owned()),
    });
    Ok(found.collect())
}

/// Who has which of these sockets, as far as this user may see.
fn owners(listening: &[TcpNetEntry]) -> HashMap<u64, Vec<facts::Process>> {
    let mut owners: HashMap<u64, Vec<facts::Process>> = HashMap::new();
    let Ok(processes) = all_processes() else {
        return owners;
    };
    // A process that ends while it is looked at, or that is not ours to look at, has nothing to say.
    for process in processes.flatten() {
        let Ok(descriptors) = process.fd() else {
            continue;
        };
        let mut sockets: Vec<u64> = descriptors
            .flatten()
            .filter_map(|descriptor| match descriptor.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .filter(|inode| listening.iter().any(|entry| entry.inode == *inode))
            .collect();
        sockets.sort_unstable();
        sockets.dedup();
        let Ok(stat) = process.stat() else {
            continue;
        };
        for inode in sockets {
            owners.entry(inode).or_default().push(facts::Process {
                pid: stat.pid,
                name: stat.comm.clone(),
            });
        }
    }
    owners
}

/// The effective user of a process.
pub(super) fn uid(pid: i32) -> Seen<u32> {
    let status = Process::new(pid).and_then(|process| process.status());
    status
        .map(|status| status.euid)
        .map_err(|error| error.to_string())
}

/// The most file descriptors that a process can raise its limit to.
pub(super) fn files_max(pid: i32) -> Seen<u64> {
    let limits = Process::new(pid).and_then(|process| process.limits());
    match limits.map(|limits| limits.max_open_files.hard_limit) {
        Ok(LimitValue::Unlimited) => Ok(u64::MAX),
        Ok(LimitValue::Value(limit)) => Ok(limit),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let listening = listening().expect("/proc");
        let found = listening.iter().find(|socket| socket.address == address);
        let owners = found.expect("the listener").owners.as_ref().expect("owner");
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert!(owners.iter().any(|owner| owner.pid == pid), "{owners:?}");
    }

    #[test]
    fn limits_and_user_of_this_process_are_read() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert!(files_max(pid).expect("limit") > 0);
        assert_eq!(
            uid(pid).expect("uid"),
            mana_control::process::own_uid().expect("uid")
        );
    }
}
