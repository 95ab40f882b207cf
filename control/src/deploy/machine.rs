//! What the machine has left: room on a disk, memory.
//!
//! Owns the judgement, and the reading of `/proc/meminfo` and of what `docker stats` prints.

use std::io;
use std::path::Path;

/// Why there is not enough for another copy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Scarce {
    /// Too little room for images.
    #[error("{free} are free where the engine keeps its images ({path}), {wanted} are wanted")]
    Disk {
        /// The directory.
        path: String,
        /// What there is.
        free: String,
        /// What there should be.
        wanted: String,
    },
    /// Too little memory for a second copy.
    #[error("{free} of memory are free, a second copy wants {wanted}")]
    Memory {
        /// What there is.
        free: String,
        /// What there should be.
        wanted: String,
    },
}

/// Whether there is room for another image.
///
/// # Errors
/// There is not.
pub fn check_disk(path: &Path, free: u64, wanted: u64) -> Result<(), Scarce> {
    match free >= wanted {
        true => Ok(()),
        false => Err(Scarce::Disk {
            path: path.display().to_string(),
            free: readable(free),
            wanted: readable(wanted),
        }),
    }
}

/// Whether there is memory for a second copy of what uses so much.
///
/// # Errors
/// There is not.
pub fn check_memory(free: u64, used_by_active: Option<u64>, at_least: u64) -> Result<(), Scarce> {
    let wanted = used_by_active.unwrap_or(0).max(at_least);
    match free >= wanted {
        true => Ok(()),
        false => Err(Scarce::Memory {
            free: readable(free),
            wanted: readable(wanted),
        }),
    }
}

/// Bytes that may be written by others than root to the file system of a directory.
///
/// # Errors
/// The directory is not there or may not be looked at.
pub fn disk_free(path: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(path)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// Bytes of memory that can be had without swapping.
///
/// # Errors
/// `/proc/meminfo` cannot be read.
pub fn memory_free() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    available(&text).ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Reads `90.1MiB / 23.5GiB` as `docker stats` prints it; the first of the two.
pub fn parse_usage(text: &str) -> Option<u64> {
    let used = text.split('/').next()?.trim();
    let digits = used.len()
        - used
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .len();
    let (number, unit) = used.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    // Neither negative, for it begins with a digit, nor beyond what a machine has.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some((number * unit) as u64)
}

/// `1.5 GiB`.
pub fn readable(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_second_copy_wants_what_the_first_uses_and_at_least_so_much() {
        for (free, used, at_least, is_enough) in [
            (300, Some(90), 256, true),
            (255, Some(90), 256, false),
            (400, Some(500), 256, false),
            (256, None, 256, true),
        ] {
            let result = check_memory(free * MIB, used.map(|used| used * MIB), at_least * MIB);
            assert_eq!(result.is_ok(), is_enough, "{free} {used:?}");
        }
        let error =
            check_disk(Path::new("/var/lib/docker"), 300 * MIB, 1024 * MIB).expect_err("scarce");
        let expected = "300.0 MiB are free where the engine keeps its images (/var/lib/docker), 1.0 GiB are wanted";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_others_print_is_read() {
        assert_eq!(
            available("MemTotal:  1 kB\nMemAvailable:   2048 kB\n"),
            Some(2048 * 1024)
        );
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_usage("90.5MiB / 23.5GiB"), Some(90 * MIB + MIB / 2));
        assert_eq!(parse_usage("0B / 0B"), Some(0));
        assert_eq!(parse_usage("-- / --"), None);
        assert!(memory_free().expect("memory") > 0);
        assert!(disk_free(Path::new("/")).is_ok());
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1536 * MIB, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }
}
