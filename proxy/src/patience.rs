//! How long a client is waited for, and how what it moves restores that.
//!
//! Owns the arithmetic of a minimum rate. Pure: times and bytes in, the time left out. A deadline that every byte sets
//! back can be held off for ever by a byte now and then; here a byte restores what it is worth at the minimum rate.

use std::time::Duration;

/// The time that a client has left.
///
/// `0 <= left <= limit`. A client that moves nothing is let go of after `limit`, one that moves less than the minimum
/// rate some time later, and one that moves more never; a pause shorter than `limit` is forgiven once what was moved
/// has made up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    limit: Duration,
    bytes_per_second: u32,
    left: Duration,
}

impl Patience {
    /// All of it. With 0 bytes a second every byte restores it whole.
    pub fn new(limit: Duration, bytes_per_second: u32) -> Patience {
        Patience {
            limit,
            bytes_per_second,
            left: limit,
        }
    }

    /// The client was waited for and then moved some bytes.
    pub fn moved(&mut self, waited: Duration, bytes: usize) {
        if self.bytes_per_second == 0 {
            self.left = self.limit;
            return;
        }
        let worth_ms = (bytes as u64).saturating_mul(1000) / u64::from(self.bytes_per_second);
        self.left = self
            .left
            .saturating_sub(waited)
            .saturating_add(Duration::from_millis(worth_ms))
            .min(self.limit);
    }

    /// The client was waited for and moved nothing.
    pub fn waited(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }

    /// It is as if nothing had been waited for.
    pub fn restore(&mut self) {
        self.left = self.limit;
    }

    /// How long the client may be waited for now.
    pub fn left(&self) -> Duration {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Seconds until a client that moves so many bytes each second is let go of; none within a day.
    fn lasts(bytes_per_second: u32, bytes: usize) -> Option<u32> {
        let mut patience = Patience::new(LIMIT, bytes_per_second);
        let second = Duration::from_secs(1);
        (0..86_400).find(|_| {
            let is_over = patience.left() < second;
            patience.moved(second, bytes);
            is_over
        })
    }

    #[test]
    fn a_trickle_ends_and_the_minimum_rate_does_not() {
        assert_eq!(lasts(100, 0), Some(30));
        assert_eq!(lasts(100, 1), Some(30));
        assert_eq!(lasts(100, 50), Some(59));
        assert_eq!(lasts(100, 99), Some(2901));
        assert_eq!(lasts(100, 100), None);
        assert_eq!(lasts(0, 1), None);
    }

    #[test]
    fn no_credit_is_saved_beyond_the_limit() {
        let mut patience = Patience::new(LIMIT, 100);
        patience.moved(Duration::ZERO, 1 << 30);
        assert_eq!(patience.left(), LIMIT);
        patience.moved(Duration::from_secs(40), 0);
        assert_eq!(patience.left(), Duration::ZERO);
        patience.restore();
        assert_eq!(patience.left(), LIMIT);
    }
}
