//! When an HTTP/2 connection on which no request is being served ends.
//!
//! Owns the difference between a connection that rests and one whose client still takes what was served. Pure: what is going
//! on and times in, the end out; the connection's loop asks each time it is polled.

use std::time::Duration;

use tokio::time::Instant;

use crate::patience::Patience;

/// `(Serving) => (Sending) => Resting`, and back with each request.
#[derive(Clone, Copy, Debug)]
pub struct Lull {
    state: State,
    /// When the state was seen first; while it is [`State::Sending`], last.
    since: Instant,
    /// All bytes of bodies that had left by then.
    sent: u64,
    /// What is left of it. Only bytes and a rest restore it: requests in between do not.
    patience: Patience,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Sending,
    Resting,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoingOn {
    /// Requests are being served; each has its own deadlines.
    pub is_serving: bool,
    /// Parts of responses wait for the client.
    pub is_sending: bool,
    /// All bytes of bodies that have left so far.
    pub sent: u64,
}

/// Why the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The client does not take what was served, or too slowly.
    Stalled,
    /// Nothing is going on.
    Idle,
}

impl Lull {
    /// A connection that begins; its clients have `patience` to take what was served.
    pub fn new(patience: Patience, now: Instant) -> Lull {
        Lull {
            state: State::Serving,
            since: now,
            sent: 0,
            patience,
        }
    }

    /// A rest begins anew, whatever was rested before.
    pub fn begin_anew(&mut self, now: Instant) {
        if self.state == State::Resting {
            self.since = now;
        }
    }

    /// When the connection ends, and why, if it goes on like this; a connection at rest may stay for `idle`.
    pub fn due(&mut self, on: GoingOn, idle: Duration, now: Instant) -> Option<(Instant, Due)> {
        let state = match on {
            GoingOn {
                is_serving: true, ..
            } => State::Serving,
            GoingOn {
                is_sending: true, ..
            } => State::Sending,
            _ => State::Resting,
        };
        let before = std::mem::replace(&mut self.state, state);
        if before == State::Sending {
            self.patience.waited(now - self.since);
        }
        let moved = on.sent - std::mem::replace(&mut self.sent, on.sent);
        if moved > 0 {
            let moved = usize::try_from(moved).unwrap_or(usize::MAX);
            self.patience.moved(Duration::ZERO, moved);
        }
        if before != State::Resting || state != State::Resting {
            self.since = now;
        }
        match state {
            State::Serving => None,
            State::Sending => Some((now + self.patience.left(), Due::Stalled)),
            State::Resting => {
                self.patience.restore();
                Some((self.since + idle, Due::Idle))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(75);

    /// The second in which it is due, asked at the begin of each with what goes on then; at most 1000.
    fn ends(mut goes_on: impl FnMut(u64) -> GoingOn) -> Option<(u64, Due)> {
        let start = Instant::now();
        let patience = Patience::new(Duration::from_secs(30), 100);
        let mut lull = Lull::new(patience, start);
        (0..1000).find_map(|second| {
            let now = start + Duration::from_secs(second);
            let (at, due) = lull.due(goes_on(second), IDLE, now)?;
            (at < now + Duration::from_secs(1)).then_some((second, due))
        })
    }

    fn going_on(is_serving: bool, is_sending: bool, sent: u64) -> GoingOn {
        GoingOn {
            is_serving,
            is_sending,
            sent,
        }
    }

    #[test]
    fn a_connection_ends_when_it_rests_and_when_its_client_takes_nothing() {
        assert_eq!(ends(|_| going_on(false, false, 0)), Some((75, Due::Idle)));
        assert_eq!(ends(|_| going_on(true, true, 0)), None);
        assert_eq!(ends(|_| going_on(false, true, 9)), Some((30, Due::Stalled)));
        // A client that reads is waited for as long as it takes; one that trickles is not.
        assert_eq!(ends(|second| going_on(false, true, second * 100)), None);
        let trickle = ends(|second| going_on(false, true, second));
        assert_eq!(trickle, Some((30, Due::Stalled)));
        // The rest begins when all is taken, and again behind each request.
        let slow = ends(|second| going_on(false, second < 100, second * 1000));
        assert_eq!(slow, Some((175, Due::Idle)));
        // Requests that cost a client nothing do not hold the end off.
        let asking = ends(|second| going_on(second % 3 == 0, true, 9));
        assert_eq!(asking, Some((46, Due::Stalled)));
        let busy = ends(|second| going_on(second % 50 == 49 && second < 200, false, 0));
        assert_eq!(busy, Some((275, Due::Idle)));
    }

    #[test]
    fn a_rest_that_begins_anew_has_all_its_time() {
        let start = Instant::now();
        let mut lull = Lull::new(Patience::new(IDLE, 100), start);
        let rests = going_on(false, false, 0);
        lull.due(rests, IDLE, start);
        let later = start + IDLE;
        lull.begin_anew(later);
        let ten = Duration::from_secs(10);
        assert_eq!(lull.due(rests, ten, later), Some((later + ten, Due::Idle)));
    }
}
