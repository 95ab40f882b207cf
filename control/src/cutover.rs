//! The cutover of one site as a pure state machine.
//!
//! Owns the order of the steps, who is turned away while they run, and what each caller is promised. Knows no clock, no
//! disk and no socket: the driver does what the [`Effect`]s say and reports back by [`Event`]s.
//!
//! ```text
//! Steady => (Gating | Persisting)      an order; `force`, `drain` and its undoing need no gate
//! Gating => (Persisting | Steady)      the gate passed | failed, or the caller went away
//! Persisting => (Publishing | Steady)  stored | not stored
//! Publishing => (Draining | Steady)    there is an old slot to wait for | there is none
//! Draining => (Gating | Steady)        an order the other way | drained, or all deadlines passed
//! ```
//!
//! A drain may still run behind the next order, because an operator who must go back is never held up by a stuck
//! download; so it is a field beside the stage and not one of its variants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::slot::Slot;
use crate::table::DrainLimits;

/// Tunnels that would be cut just as the wait ends are cut this much earlier (or a tenth of the wait, if that is
/// less), so that they are gone when the reply is given.
pub const CUT_AHEAD: Duration = Duration::from_secs(1);

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

/// Where a site is in its cutover.
#[derive(Debug)]
pub enum Stage {
    /// No order is being carried out (a drain may be).
    Idle,
    /// The new slot is probed.
    Gating(Order),
    /// The new state is written.
    Persisting(Order),
    /// The new table is about to be published.
    Publishing(Order),
}

/// A closed slot that is waited for.
#[derive(Debug)]
pub struct Drain {
    order: Order,
    slot: Slot,
    /// Whether the caller still waits for the reply.
    is_owed: bool,
    is_cut: bool,
    requests_until: Instant,
    tunnels_until: Instant,
}

/// The cutover of one site.
#[derive(Debug)]
pub struct Cutover {
    active: Slot,
    previous: Option<Slot>,
    generation: u64,
    stage: Stage,
    drain: Option<Drain>,
}

// === impl Cutover ===

impl Cutover {
    /// A site at rest.
    pub fn new(active: Slot, previous: Option<Slot>, generation: u64) -> Cutover {
        Cutover {
            active,
            previous,
            generation,
            stage: Stage::Idle,
            drain: None,
        }
    }

    /// The slot that gets new requests, as published.
    pub fn active(&self) -> Slot {
        self.active
    }

    /// The slot that was active before the last cutover.
    pub fn previous(&self) -> Option<Slot> {
        self.previous
    }

    /// The generation of the last cutover.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Where it is: `steady`, `gating`, `persisting`, `publishing` or `draining`.
    pub fn stage_name(&self) -> &'static str {
        match (&self.stage, &self.drain) {
            (Stage::Idle, None) => "steady",
            (Stage::Idle, Some(_)) => "draining",
            (Stage::Gating(_), _) => "gating",
            (Stage::Persisting(_), _) => "persisting",
            (Stage::Publishing(_), _) => "publishing",
        }
    }

    /// Who holds the site between `Gating` and `Publishing`; nobody while it only drains.
    pub fn holder(&self) -> Option<&Arc<Holder>> {
        match &self.stage {
            Stage::Idle => None,
            Stage::Gating(order) | Stage::Persisting(order) | Stage::Publishing(order) => {
                Some(&order.holder)
            }
        }
    }

    /// Takes in what happened and says what is to be done. Events of an order that is over are ignored.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Ordered(order) => self.ordered(order),
            Event::GatePassed(ticket) => self.gate_passed(ticket),
            Event::GateFailed(ticket, reason) => {
                self.leave_gate(ticket, Outcome::GateFailed(reason))
            }
            Event::CallerGone(ticket) => {
                let mut effects = self.leave_gate(ticket, Outcome::Abandoned);
                if !effects.is_empty() {
                    effects.insert(0, Effect::StopGate(ticket));
                }
                effects
            }
            Event::Persisted(ticket) => self.persisted(ticket),
            Event::PersistFailed(ticket, reason) => self.persist_failed(ticket, reason),
            Event::Published(ticket, generation) => self.published(ticket, generation, now),
            Event::Drained(ticket) => self.drained(ticket),
            Event::Tick => self.tick(now),
        }
    }

    fn ordered(&mut self, order: Order) -> Vec<Effect> {
        let ticket = order.ticket;
        let answer = |outcome| vec![Effect::Reply(ticket, outcome)];
        if let Some(holder) = self.holder() {
            return answer(Outcome::Busy(Arc::clone(holder)));
        }
        if order
            .if_generation
            .is_some_and(|wanted| wanted != self.generation)
        {
            return answer(Outcome::Conflict(self.generation));
        }
        let to = match (order.intent, self.previous, &self.drain) {
            (Intent::Switch(slot), _, _) | (Intent::Rollback, Some(slot), _) => slot,
            (Intent::Rollback, None, _) => return answer(Outcome::NoPrevious),
            (Intent::Drain(slot), _, _) if slot == self.active => {
                return answer(Outcome::DrainOfActive);
            }
            (Intent::Drain(_), _, Some(drain)) => {
                return answer(Outcome::Busy(Arc::clone(&drain.order.holder)));
            }
            (Intent::Drain(slot), _, None) => {
                return self.persist(order, Step::MarkDrained(slot, true));
            }
            (Intent::Undrain(slot), _, _) => {
                return self.persist(order, Step::MarkDrained(slot, false));
            }
        };
        if to == self.active {
            return answer(Outcome::AlreadyActive);
        }
        if order.force {
            return self.persist(order, Step::Activate(to));
        }
        self.stage = Stage::Gating(order);
        vec![Effect::Gate(ticket, to)]
    }

    fn persist(&mut self, order: Order, step: Step) -> Vec<Effect> {
        let ticket = order.ticket;
        self.stage = Stage::Persisting(order);
        vec![Effect::Persist(ticket, step)]
    }

    fn gate_passed(&mut self, ticket: Ticket) -> Vec<Effect> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Gating(order) if order.ticket == ticket => {
                let step = self.step_of(order.intent);
                self.persist(order, step)
            }
            stage => self.stay(stage),
        }
    }

    fn leave_gate(&mut self, ticket: Ticket, outcome: Outcome) -> Vec<Effect> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Gating(order) if order.ticket == ticket => {
                vec![Effect::Reply(ticket, outcome)]
            }
            stage => self.stay(stage),
        }
    }

    fn persisted(&mut self, ticket: Ticket) -> Vec<Effect> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Persisting(order) if order.ticket == ticket => {
                let step = self.step_of(order.intent);
                self.stage = Stage::Publishing(order);
                vec![Effect::Publish(ticket, step)]
            }
            stage => self.stay(stage),
        }
    }

    fn persist_failed(&mut self, ticket: Ticket, reason: String) -> Vec<Effect> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Persisting(order) if order.ticket == ticket => {
                vec![Effect::Reply(ticket, Outcome::PersistFailed(reason))]
            }
            stage => self.stay(stage),
        }
    }

    fn published(&mut self, ticket: Ticket, generation: u64, now: Instant) -> Vec<Effect> {
        let order = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Publishing(order) if order.ticket == ticket => order,
            stage => return self.stay(stage),
        };
        let closed = match self.step_of(order.intent) {
            Step::Activate(slot) => {
                let closed = self.active;
                self.previous = Some(closed);
                self.active = slot;
                self.generation = generation;
                closed
            }
            Step::MarkDrained(slot, true) => slot,
            Step::MarkDrained(slot, false) => return self.reopened(ticket, slot, generation),
        };
        let mut effects = self.supersede(generation);
        if order.no_wait {
            effects.push(Effect::Reply(ticket, Outcome::Published));
        }
        let drain = Drain {
            slot: closed,
            is_owed: !order.no_wait,
            is_cut: false,
            requests_until: now + order.limits.requests,
            tunnels_until: now + order.limits.tunnels,
            order,
        };
        effects.push(Effect::AwaitDrained(ticket, closed));
        effects.push(Effect::WakeAt(drain.next_deadline()));
        self.drain = Some(drain);
        effects
    }

    /// A slot is in use again: whoever waited for it to be empty waits in vain.
    fn reopened(&mut self, ticket: Ticket, slot: Slot, generation: u64) -> Vec<Effect> {
        let was_marked = |drain: &Drain| drain.order.intent == Intent::Drain(slot);
        let mut effects = if self.drain.as_ref().is_some_and(was_marked) {
            self.supersede(generation)
        } else {
            Vec::new()
        };
        effects.push(Effect::Reply(ticket, Outcome::Published));
        effects
    }

    fn supersede(&mut self, generation: u64) -> Vec<Effect> {
        match self.drain.take() {
            None => Vec::new(),
            Some(drain) => {
                let mut effects = vec![Effect::StopWaiting(drain.order.ticket)];
                effects.extend(drain.reply(Outcome::Superseded(generation)));
                effects
            }
        }
    }

    fn drained(&mut self, ticket: Ticket) -> Vec<Effect> {
        match self.drain.take_if(|drain| drain.order.ticket == ticket) {
            None => Vec::new(),
            Some(drain) => drain.reply(Outcome::Drained).into_iter().collect(),
        }
    }

    fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let Some(drain) = &mut self.drain else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        if !drain.is_cut && now >= drain.tunnels_until {
            drain.is_cut = true;
            effects.push(Effect::CutTunnels(drain.slot));
        }
        if now >= drain.requests_until {
            effects.extend(drain.reply(Outcome::DeadlinePassed));
            drain.is_owed = false;
        }
        if drain.is_cut && now >= drain.requests_until {
            effects.push(Effect::StopWaiting(drain.order.ticket));
            self.drain = None;
        } else {
            effects.push(Effect::WakeAt(drain.next_deadline()));
        }
        effects
    }

    fn step_of(&self, intent: Intent) -> Step {
        match intent {
            Intent::Switch(slot) => Step::Activate(slot),
            // An order to roll back is only taken where there is a previous slot, and that is the other one.
            Intent::Rollback => Step::Activate(self.active.other()),
            Intent::Drain(slot) => Step::MarkDrained(slot, true),
            Intent::Undrain(slot) => Step::MarkDrained(slot, false),
        }
    }

    fn stay(&mut self, stage: Stage) -> Vec<Effect> {
        self.stage = stage;
        Vec::new()
    }
}

// === impl Drain ===

impl Drain {
    fn reply(&self, outcome: Outcome) -> Option<Effect> {
        self.is_owed
            .then(|| Effect::Reply(self.order.ticket, outcome))
    }

    fn next_deadline(&self) -> Instant {
        match (self.is_cut, self.is_owed) {
            (true, _) => self.requests_until,
            (false, true) => self.tunnels_until.min(self.requests_until),
            (false, false) => self.tunnels_until,
        }
    }
}

/// The limits of a drain: the site's own, both bounded by what the caller asked for.
pub fn drain_limits(site: DrainLimits, asked: Option<Duration>) -> DrainLimits {
    let requests = asked.unwrap_or(site.requests);
    let tunnels = asked.map_or(site.tunnels, |asked| site.tunnels.min(asked));
    let ahead = CUT_AHEAD.min(requests / 10);
    let collide = tunnels <= requests && tunnels > requests - ahead;
    DrainLimits {
        requests,
        tunnels: if collide { requests - ahead } else { tunnels },
    }
}

#[cfg(test)]
#[path = "cutover_tests.rs"]
mod tests;
