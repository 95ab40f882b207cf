//! Where the two directions of one exchange stand, and when what is waited for is overdue.
//!
//! Owns the state and the deadlines; decides nothing else. `exchange.rs` moves the bytes and keeps this up to date.

use std::time::Duration;

use tokio::time::Instant;

use crate::compress::Encoder;
use crate::config::Timeouts;
use crate::fault::Fault;
use crate::patience::Patience;
use crate::pump_events::WaitsBehind;

/// Where the two directions stand.
pub(crate) struct Pump {
    pub(crate) request_done: bool,
    /// It is the upstream's turn: it does not read what was sent to it.
    pub(crate) waits_for_room: bool,
    /// What the client sends is looked at before what the upstream sends.
    pub(crate) is_clients_turn: bool,
    pub(crate) head_received: bool,
    /// With the client that sends its body; once the head of the response is there, with both sides.
    pub(crate) patience: Patience,
    /// Informational heads so far.
    pub(crate) informational: u32,
    pub(crate) informational_bytes: usize,
    /// Bytes may wait in the client's write buffer. Over HTTP/2 the connection's own task writes them, and no other may
    /// wait for the socket: it has room for one waker.
    pub(crate) is_unflushed: bool,
    pub(crate) encoder: Option<Encoder>,
    pub(crate) client_moved_at: Instant,
    pub(crate) upstream_moved_at: Instant,
    pub(crate) half_closed_at: Option<Instant>,
}

impl Pump {
    /// Both sides are waited for from `now` on.
    pub(crate) fn new(request_done: bool, patience: Patience, now: Instant) -> Pump {
        Pump {
            request_done,
            waits_for_room: false,
            is_clients_turn: false,
            head_received: false,
            patience,
            informational: 0,
            informational_bytes: 0,
            is_unflushed: false,
            encoder: None,
            client_moved_at: now,
            upstream_moved_at: now,
            half_closed_at: None,
        }
    }

    /// What waits to be sent until the upstream has nothing more to say at once.
    pub(crate) fn waits_behind(&self) -> WaitsBehind {
        WaitsBehind {
            head_received: self.head_received,
            is_held_back: self.encoder.as_ref().is_some_and(Encoder::holds_back),
            is_unflushed: self.is_unflushed,
        }
    }

    /// When the next deadline passes if nothing moves until then.
    pub(crate) fn due(&self, timeouts: &Timeouts) -> Instant {
        let (by_sides, _) = self.next_deadline(timeouts);
        match self.half_closed_at {
            Some(at) => by_sides.min(at + HALF_CLOSED_GRACE),
            None => by_sides,
        }
    }

    pub(crate) fn overdue(&self, timeouts: &Timeouts) -> Fault {
        let (by_sides, fault) = self.next_deadline(timeouts);
        match self.half_closed_at {
            Some(at) if at + HALF_CLOSED_GRACE < by_sides => Fault::ClientGone,
            Some(_) | None => fault,
        }
    }

    pub(crate) fn next_deadline(&self, timeouts: &Timeouts) -> (Instant, Fault) {
        if self.head_received {
            let moved_at = self.upstream_moved_at.max(self.client_moved_at);
            return (moved_at + self.patience.left(), Fault::UpstreamTimedOut);
        }
        if self.request_done || self.waits_for_room {
            let due = self.upstream_moved_at + timeouts.response_head;
            return (due, Fault::UpstreamTimedOut);
        }
        (
            self.client_moved_at + self.patience.left(),
            Fault::ClientStalled,
        )
    }
}

/// A client that closed its sending side may still read: it gets its response if that comes within this time.
const HALF_CLOSED_GRACE: Duration = Duration::from_secs(10);
