//! What `/proc` says of a process: whose it is, which groups it has, what it is called.
//!
//! Owns the reading of `/proc/PID`. The standard library knows no effective uid and no groups of a peer, and a
//! dependency for two numbers is not worth its cost.

use std::fs::File;
use std::io::{self, Read};

/// The longest command name that is kept.
pub const COMMAND_BYTES_MAX: usize = 256;
/// The most that is read of a file in `/proc`; a process with thousands of groups is cut here.
const PROC_BYTES_MAX: u64 = 64 * 1024;

/// The effective uid of this process.
///
/// # Errors
/// `/proc` is not mounted, or not as Linux has it.
pub fn own_uid() -> io::Result<u32> {
    let status = read_bounded("/proc/self/status")?;
    numbers(&status, "Uid:")
        .nth(1)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Uid in /proc/self/status"))
}

/// The supplementary groups of a process; none if it is gone.
pub fn groups(pid: i32) -> Vec<u32> {
    match read_bounded(&format!("/proc/{pid}/status")) {
        Ok(status) => numbers(&status, "Groups:").collect(),
        Err(_) => Vec::new(),
    }
}

/// The name of a process as the kernel has it, for example `mana-proxy`; empty if it is gone.
pub fn command(pid: i32) -> String {
    let name = read_bounded(&format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(COMMAND_BYTES_MAX / 4)
        .collect()
}

fn numbers<'a>(status: &'a str, key: &'a str) -> impl Iterator<Item = u32> + 'a {
    status
        .lines()
        .find_map(move |line| line.strip_prefix(key))
        .into_iter()
        .flat_map(|rest| rest.split_whitespace().filter_map(|word| word.parse().ok()))
}

fn read_bounded(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(PROC_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn this_process_is_known() {
        let file = tempfile::tempfile().expect("file");
        assert_eq!(
            own_uid().expect("uid"),
            file.metadata().expect("metadata").uid()
        );
        let pid = i32::try_from(std::process::id()).expect("pid");
        assert!(!command(pid).is_empty());
    }

    #[test]
    fn numbers_are_read_after_their_key() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGroups:\t4 27 1000 \n";
        assert_eq!(
            numbers(status, "Groups:").collect::<Vec<_>>(),
            [4, 27, 1000]
        );
        assert_eq!(numbers(status, "Uid:").nth(1), Some(2));
        assert_eq!(numbers(status, "Nothing:").next(), None);
    }

    #[test]
    fn a_process_that_is_gone_has_neither_groups_nor_a_name() {
        assert!(groups(i32::MAX).is_empty());
        assert_eq!(command(i32::MAX), "");
    }
}
