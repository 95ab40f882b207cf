//! One upstream: an address of a slot, what probes and traffic say of it, and its counters.
//!
//! Owns the live facts about an address. They outlive tables: a reload or a cutover that keeps the address keeps this
//! value. Written by the prober (`Health`, `addresses`) and by the forwarding path (marks and counters); read by both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;

use crate::room::Room;

/// What the probes say of an upstream. In text: `unknown`, `up`, `down`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Not enough probes have been answered or missed yet.
    Unknown,
    /// k of the last n probes were as expected.
    Up,
    /// Too few were. Normal for a standby that is not running.
    Down,
}

/// One address of a slot.
#[derive(Debug)]
pub struct Upstream {
    /// As the configuration has it: `127.0.0.1:4000`, `localhost:4000`, `[::1]:4000`.
    pub address: String,
    /// What the address resolves to, in the order in which it is tried. Refreshed by the prober for names.
    pub addresses: ArcSwap<Vec<SocketAddr>>,
    /// Requests of all tables inside this upstream now.
    pub in_flight: AtomicUsize,
    /// Requests that were sent to this upstream since the start.
    pub requests: AtomicU64,
    /// How many of them it answered with 500 or above, or not at all.
    pub server_errors: AtomicU64,
    /// Why the last probe was not good; none if it was good or there was none.
    pub last_failure: ArcSwapOption<String>,
    /// Places for requests, and the queue for them.
    pub room: Arc<Room>,
    health: AtomicU8,
    /// Microseconds since `born` until which traffic passes this upstream over; 0 = not marked.
    marked_until_us: AtomicU64,
    born: Instant,
}

impl Upstream {
    /// An upstream about which nothing is known yet.
    pub fn new(address: impl Into<String>, addresses: Vec<SocketAddr>) -> Arc<Upstream> {
        Arc::new(Upstream {
            address: address.into(),
            addresses: ArcSwap::from_pointee(addresses),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            last_failure: ArcSwapOption::empty(),
            room: Arc::default(),
            health: AtomicU8::new(0),
            marked_until_us: AtomicU64::new(0),
            born: Instant::now(),
        })
    }

    /// What the probes say.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            1 => Health::Up,
            2 => Health::Down,
            _ => Health::Unknown,
        }
    }

    /// Set by the prober, or by a gate that has just seen k of n good probes.
    pub fn set_health(&self, health: Health) {
        let code = match health {
            Health::Unknown => 0,
            Health::Up => 1,
            Health::Down => 2,
        };
        self.health.store(code, Ordering::Release);
        if health == Health::Up {
            self.marked_until_us.store(0, Ordering::Release);
        }
    }

    /// A connection could not be made: other upstreams come first until `now + for_time`.
    pub fn mark(&self, for_time: Duration, now: Instant) {
        let until = now.saturating_duration_since(self.born) + for_time;
        let until_us = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        self.marked_until_us.store(until_us, Ordering::Release);
    }

    /// Whether a recent connection failure speaks against this upstream.
    pub fn is_marked(&self, now: Instant) -> bool {
        let until = self.marked_until_us.load(Ordering::Acquire);
        until != 0 && u128::from(until) > now.saturating_duration_since(self.born).as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_ends_by_itself_and_by_a_good_probe() {
        let upstream = Upstream::new("127.0.0.1:1", Vec::new());
        let now = Instant::now();
        assert!(!upstream.is_marked(now));
        upstream.mark(Duration::from_secs(1), now);
        assert!(upstream.is_marked(now));
        assert!(!upstream.is_marked(now + Duration::from_secs(2)));
        upstream.set_health(Health::Up);
        assert!(!upstream.is_marked(now));
    }
}
