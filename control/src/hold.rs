//! Requests that wait while a site is paused.
//!
//! Owns the bounded queue, each waiter's deadline and the spreading at `resume`. Does not know what a request is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::table::PauseLimits;

/// The queue of one pause. Made by `pause`, released once by `resume`.
#[derive(Debug)]
pub struct Hold {
    limits: PauseLimits,
    /// Requests that have joined since the pause began; a waiter's number in the line.
    joined: AtomicUsize,
    waiting: AtomicUsize,
    released: watch::Sender<bool>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldOutcome {
    /// The site was resumed: load the table again and go on.
    Released,
    /// The queue was full: 503 at once.
    Full,
    /// The request's own deadline passed: 503.
    TimedOut,
}

impl Hold {
    /// An empty queue.
    pub fn new(limits: PauseLimits) -> Hold {
        Hold {
            limits,
            joined: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            released: watch::Sender::new(false),
        }
    }

    /// Requests that wait now: `waiting() <= limits.waiting_max`.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Waits for `resume`, at most for the limit's `wait_max`.
    ///
    /// # Cancel safety
    /// A dropped future leaves the queue.
    pub async fn wait(&self) -> HoldOutcome {
        let Some(_place) = Place::take(self) else {
            return HoldOutcome::Full;
        };
        let number = self.joined.fetch_add(1, Ordering::AcqRel);
        let mut released = self.released.subscribe();
        let deadline = tokio::time::sleep(self.limits.wait_max);
        let is_released = tokio::select! {
            biased;
            result = released.wait_for(|released| *released) => result.is_ok(),
            () = deadline => false,
        };
        if !is_released {
            return HoldOutcome::TimedOut;
        }
        let of = self.joined.load(Ordering::Acquire);
        tokio::time::sleep(release_delay(number, of, self.limits.spread)).await;
        HoldOutcome::Released
    }

    /// Lets all waiters go, each after its share of the spread. Idempotent.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

/// How long waiter `number` of `of` waits after the release: the first not at all, the last nearly the whole spread.
pub fn release_delay(number: usize, of: usize, spread: Duration) -> Duration {
    if number == 0 || of == 0 {
        return Duration::ZERO;
    }
    let share = number.min(of) as f64 / of as f64;
    spread.mul_f64(share)
}

struct Place<'a>(&'a Hold);

impl<'a> Place<'a> {
    fn take(hold: &'a Hold) -> Option<Place<'a>> {
        hold.waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
                (waiting < hold.limits.waiting_max).then_some(waiting + 1)
            })
            .ok()
            .map(|_| Place(hold))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limits() -> PauseLimits {
        PauseLimits {
            waiting_max: 2,
            wait_max: Duration::from_secs(30),
            spread: Duration::from_secs(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_its_waiters_are_released() {
        let hold = Arc::new(Hold::new(limits()));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let hold = Arc::clone(&hold);
                tokio::spawn(async move { hold.wait().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(hold.waiting(), 2);
        assert_eq!(hold.wait().await, HoldOutcome::Full);
        hold.release();
        for waiter in waiters {
            assert_eq!(waiter.await.expect("waiter"), HoldOutcome::Released);
        }
        assert_eq!(hold.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_gives_up_at_its_own_deadline() {
        let hold = Hold::new(limits());
        assert_eq!(hold.wait().await, HoldOutcome::TimedOut);
        assert_eq!(hold.waiting(), 0);
    }

    #[test]
    fn a_release_is_spread_evenly() {
        let spread = Duration::from_secs(1);
        assert_eq!(release_delay(0, 4, spread), Duration::ZERO);
        assert_eq!(release_delay(1, 4, spread), Duration::from_millis(250));
        assert_eq!(release_delay(3, 4, spread), Duration::from_millis(750));
    }
}
