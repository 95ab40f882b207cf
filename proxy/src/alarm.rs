//! One timer for many deadlines, one after the other.
//!
//! Owns the timer. Deadlines of a connection move on with each request, and hardly any is ever reached: a timer that is
//! set anew each time is taken out of the runtime's wheel and put back for nothing. This one stays where it was first set
//! and, when it fires before its time, sets itself to what is due by then.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// Rings once the deadline that was set last has passed.
pub struct Alarm {
    /// None as long as nothing was set.
    set: Option<Set>,
}

struct Set {
    due: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Not set.
    pub fn new() -> Alarm {
        Alarm { set: None }
    }

    /// It shall ring at `due`, whatever it was set to before.
    pub fn set(&mut self, due: Instant) {
        let Some(set) = &mut self.set else {
            let timer = Box::pin(tokio::time::sleep_until(due));
            self.set = Some(Set { due, timer });
            return;
        };
        set.due = due;
        // It would fire too late; one that fires too early is found to when it does.
        if set.timer.deadline() > due {
            set.timer.as_mut().reset(due);
        }
    }

    /// Resolves when what was set is due; never if nothing was.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn rings(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// [`Alarm::rings`], polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Set { due, timer }) = &mut self.set else {
            return Poll::Pending;
        };
        loop {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if timer.deadline() >= *due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(*due);
        }
    }
}

impl Default for Alarm {
    fn default() -> Alarm {
        Alarm::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_what_was_set_last() {
        let start = Instant::now();
        // Later, sooner, later again: the timer is at the first, the second and the second.
        let mut alarm = Alarm::new();
        for seconds in [30, 2, 9] {
            alarm.set(start + SECOND * seconds);
        }
        alarm.rings().await;
        assert_eq!(start.elapsed().as_secs(), 9);
        // It has rung: set again, it rings again.
        alarm.set(start + SECOND * 20);
        alarm.rings().await;
        assert_eq!(start.elapsed().as_secs(), 20);
        // What is past rings at once.
        alarm.set(start);
        alarm.rings().await;
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_set_is_silent() {
        let mut alarm = Alarm::new();
        let silent = tokio::time::timeout(SECOND * 100, alarm.rings()).await;
        assert!(silent.is_err());
    }
}
