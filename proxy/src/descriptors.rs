//! The last file descriptors: who may have them when there are few.
//!
//! Owns the two marks below the process's limit. The kernel gives out the lowest number that is free, so that the number
//! of a new descriptor tells how many are taken: clients stop at the lower mark and upstreams at the higher one, and what
//! is above is left to the control socket, the probes and the state file, which have to work just then.

use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Which numbers connections may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    clients_below: u64,
    upstreams_below: u64,
}

impl Descriptors {
    /// For a process that may have `limit`.
    pub fn of_limit(limit: u64) -> Descriptors {
        let kept = (limit / KEPT_PART).clamp(KEPT_MIN, KEPT_MAX);
        Descriptors {
            clients_below: limit.saturating_sub(kept),
            upstreams_below: limit.saturating_sub(kept / 2),
        }
    }

    /// Whether a client's connection may have the number that it got.
    pub fn is_for_clients(&self, connection: &impl AsRawFd) -> bool {
        number(connection.as_raw_fd()) < self.clients_below
    }

    /// Whether an upstream's connection may.
    pub fn is_for_upstreams(&self, connection: &impl AsRawFd) -> bool {
        number(connection.as_raw_fd()) < self.upstreams_below
    }

    /// Whether a client's connection that came now would get such a number. `any` is copied for a moment.
    pub fn are_free_for_clients(&self, any: &impl AsFd) -> bool {
        any.as_fd()
            .try_clone_to_owned()
            .is_ok_and(|copy| self.is_for_clients(&copy))
    }
}

/// How many a process may need for so many connections: each takes two while it is forwarded.
pub fn wanted(connections: usize) -> u64 {
    connections as u64 * 2 + BESIDE
}

/// Descriptors beside those of connections: listeners, logs, probes, pools at rest.
const BESIDE: u64 = 1024;

fn number(descriptor: RawFd) -> u64 {
    u64::try_from(descriptor).unwrap_or(u64::MAX)
}

/// One in so many is kept back.
const KEPT_PART: u64 = 8;
/// The control socket's callers, a probe of each upstream and the state file need about this many.
const KEPT_MIN: u64 = 16;
const KEPT_MAX: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back_whatever_the_limit() {
        for (limit, clients, upstreams) in [
            (64, 48, 56),
            (1024, 896, 960),
            (41_024, 40_512, 40_768),
            (8, 0, 0),
        ] {
            let descriptors = Descriptors::of_limit(limit);
            assert_eq!(descriptors.clients_below, clients, "{limit}");
            assert_eq!(descriptors.upstreams_below, upstreams, "{limit}");
        }
    }

    #[test]
    fn the_number_of_a_new_descriptor_tells_how_many_are_taken() {
        let file = std::io::stderr();
        assert!(Descriptors::of_limit(1024).are_free_for_clients(&file));
        assert!(!Descriptors::of_limit(16).are_free_for_clients(&file));
        assert!(!Descriptors::of_limit(16).is_for_clients(&file));
    }
}
