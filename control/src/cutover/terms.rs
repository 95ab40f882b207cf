//! What goes into a cutover and what comes out of it: orders and events, effects and outcomes.
//!
//! Owns the words between the state machine and the driver, and no behaviour.

use std::sync::Arc;
use std::time::Instant;

use crate::slot::Slot;
use crate::table::DrainLimits;

/// The number of one order; never used twice in the life of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Who gave an order, for those who are turned away by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// The name of the calling process.
    pub command: String,
    /// Its user.
    pub uid: u32,
    /// Its number, if the kernel knew it.
    pub pid: Option<i32>,
    /// Since when, as RFC 3339 has it.
    pub since: String,
}

/// One order for one site.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its number.
    pub ticket: Ticket,
    /// Who gave it.
    pub holder: Arc<Holder>,
    /// What is wanted.
    pub intent: Intent,
    /// Without the gate.
    pub force: bool,
    /// The reply is due when the change is published.
    pub no_wait: bool,
    /// Only if the site's generation is this.
    pub if_generation: Option<u64>,
    /// How long the old slot is waited for.
    pub limits: DrainLimits,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Make this slot active.
    Switch(Slot),
    /// Make the previous slot active.
    Rollback,
    /// Take this standby slot out of use.
    Drain(Slot),
    /// Put it back.
    Undrain(Slot),
}

/// What is to be stored and published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This slot becomes active.
    Activate(Slot),
    /// This slot is marked as drained, or no longer.
    MarkDrained(Slot, bool),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A caller wants something.
    Ordered(Order),
    /// k of n probes of every upstream were good.
    GatePassed(Ticket),
    /// They were not; the reason is for the caller.
    GateFailed(Ticket, String),
    /// The caller's connection is closed.
    CallerGone(Ticket),
    /// The state is durable.
    Persisted(Ticket),
    /// It is not; the old one still is.
    PersistFailed(Ticket, String),
    /// The table is published with this generation.
    Published(Ticket, u64),
    /// The slot that this order closed is empty.
    Drained(Ticket),
    /// Time has passed.
    Tick,
}

/// What the driver is to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Probe this slot.
    Gate(Ticket, Slot),
    /// Stop probing.
    StopGate(Ticket),
    /// Store this.
    Persist(Ticket, Step),
    /// Publish this.
    Publish(Ticket, Step),
    /// Wait for the requests in this slot's closed counters.
    AwaitDrained(Ticket, Slot),
    /// Wait no more.
    StopWaiting(Ticket),
    /// Close the tunnels of this slot's closed counters.
    CutTunnels(Slot),
    /// Send a [`Event::Tick`] then.
    WakeAt(Instant),
    /// Tell the caller.
    Reply(Ticket, Outcome),
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The slot was active before; nothing changed.
    AlreadyActive,
    /// Another order is being carried out.
    Busy(Arc<Holder>),
    /// The generation is not the one that was asked for but this one.
    Conflict(u64),
    /// There was no cutover that could be undone.
    NoPrevious,
    /// The active slot cannot be drained.
    DrainOfActive,
    /// The probes spoke against it.
    GateFailed(String),
    /// The caller went away while it was probed.
    Abandoned,
    /// It could not be stored.
    PersistFailed(String),
    /// Published; no wait was wanted, or there was nothing to wait for.
    Published,
    /// Published, and the old slot is empty.
    Drained,
    /// Published, and the old slot still has requests that go on.
    DeadlinePassed,
    /// Published, but the change with this generation came before the old slot was empty.
    Superseded(u64),
}

// === impl Event ===

impl Event {
    /// The order whose gate or wait this event ends.
    pub fn ended_task(&self) -> Option<Ticket> {
        match self {
            Event::GatePassed(ticket)
            | Event::GateFailed(ticket, _)
            | Event::CallerGone(ticket)
            | Event::Drained(ticket) => Some(*ticket),
            Event::Ordered(_)
            | Event::Persisted(_)
            | Event::PersistFailed(..)
            | Event::Published(..)
            | Event::Tick => None,
        }
    }
}
