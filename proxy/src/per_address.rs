//! What one address may have: connections at once, requests a second.
//!
//! Owns both counts for the whole process. Which address a connection or a request is counted under, and whether at
//! all, is decided in `client_address.rs`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pingora_limits::rate::Rate;

/// Connections by address. Exact: an estimate could turn away one who has none. It holds no more addresses than there
/// are connections.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection in the count of its address, until it is dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Arc<ConnectionCounts>,
    address: IpAddr,
}

/// Requests by address, estimated from above in memory that does not grow with the number of addresses.
///
/// Time is cut into windows in which an address may have `burst` requests; they are as long as `burst` takes at
/// `per_second`. Over two windows it may have twice that, over many the mean is `per_second`.
#[derive(Default)]
pub struct RequestRates {
    window: Mutex<Option<Window>>,
}

struct Window {
    limit: RateLimit,
    rate: Rate,
}

/// How many requests an address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In the mean; not 0.
    pub per_second: u32,
    /// At once; not less than `per_second`.
    pub burst: u32,
}

/// Too many requests: when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComeBack {
    /// Seconds, rounded up.
    pub after_s: u32,
}

// === impl ConnectionCounts ===

impl ConnectionCounts {
    /// Counts a connection in; none if its address has `max` already.
    pub fn enter(self: &Arc<ConnectionCounts>, address: IpAddr, max: usize) -> Option<Counted> {
        let mut open = lock(&self.open);
        let count = open.entry(address).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Counted {
            counts: Arc::clone(self),
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.counts.open).entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

// === impl RequestRates ===

impl RequestRates {
    /// Counts a request.
    ///
    /// The counter is behind a lock, although it is made of atomics: two threads that turn its window over at once
    /// trip over its own assertions.
    ///
    /// # Errors
    /// The address has had its requests; this one was counted all the same.
    pub fn count(&self, address: IpAddr, limit: RateLimit) -> Result<(), ComeBack> {
        let mut window = lock(&self.window);
        let window = match &mut *window {
            Some(window) if window.limit == limit => window,
            // The first one, or the limit was changed by a reload.
            other => other.insert(Window::new(limit)),
        };
        let count = window.rate.observe(&address, 1);
        if count <= isize::try_from(limit.burst).unwrap_or(isize::MAX) {
            return Ok(());
        }
        let length = limit.window();
        let after_s = window.rate.rate_with(&address, |seen| {
            length.as_secs_f64() * (1.0 - seen.current_interval_fraction)
        });
        Err(ComeBack {
            after_s: (after_s.ceil() as u32).max(1),
        })
    }
}

impl RateLimit {
    fn window(self) -> Duration {
        Duration::from_secs(u64::from(self.burst)) / self.per_second.max(1)
    }
}

impl Window {
    fn new(limit: RateLimit) -> Window {
        let length = limit.window().max(Duration::from_millis(1));
        Window {
            limit,
            rate: Rate::new_with_estimator_config(length, RATE_HASHES, RATE_SLOTS),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics is called with the lock held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two counters of 4 x 16384 x 8 bytes are 1 MiB. An address is charged at most `e / RATE_SLOTS` of all requests of a
/// window that are not its own, with a probability of 98 %: at 100 000 a second, some 80 of the 1000 of the default.
const RATE_HASHES: usize = 4;
const RATE_SLOTS: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, last])
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let counts = Arc::new(ConnectionCounts::default());
        let first = counts.enter(ip(1), 2).expect("room");
        let second = counts.enter(ip(1), 2).expect("room");
        assert!(counts.enter(ip(1), 2).is_none());
        assert!(counts.enter(ip(2), 2).is_some());
        drop(first);
        let third = counts.enter(ip(1), 2).expect("room again");
        drop((second, third));
        assert!(lock(&counts.open).is_empty(), "nothing is left");
    }

    #[test]
    fn an_address_has_its_burst_and_then_comes_back() {
        let rates = RequestRates::default();
        let limit = RateLimit {
            per_second: 1,
            burst: 60,
        };
        for _ in 0..60 {
            assert_eq!(rates.count(ip(1), limit), Ok(()));
        }
        let refused = rates.count(ip(1), limit).expect_err("the burst is used up");
        assert!((1..=60).contains(&refused.after_s), "{refused:?}");
        assert_eq!(rates.count(ip(2), limit), Ok(()));
        let larger = RateLimit { burst: 61, ..limit };
        assert_eq!(rates.count(ip(1), larger), Ok(()));
    }
}
