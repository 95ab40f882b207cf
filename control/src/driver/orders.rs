//! Does what a cutover asks for: probes, stores, publishes, waits, replies.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;
use tracing::info;

use super::{Driver, EventLine, Message, now};
use crate::change::Change;
use crate::cutover::{Effect, Event, Outcome, Step, Ticket};
use crate::failpoint::{self, Failpoint};
use crate::gate;
use crate::host::Host;
use crate::inflight::Inflight;
use crate::slot::Slot;
use crate::table::Trust;

impl Driver {
    /// Hands an event to the site's cutover and does what follows from it.
    pub(super) fn drive(&mut self, host: &Host, event: Event) {
        self.drive_with(host, event, None);
    }

    /// `gone` resolves when the caller of the order goes away; only a gate listens.
    pub(super) fn drive_with(
        &mut self,
        host: &Host,
        event: Event,
        mut gone: Option<oneshot::Receiver<()>>,
    ) {
        let Some(cutover) = self.cutovers.get_mut(host) else {
            return;
        };
        for effect in cutover.handle(event, now()) {
            match effect {
                Effect::Gate(ticket, slot) => self.gate(host, ticket, slot, gone.take()),
                Effect::StopGate(ticket) | Effect::StopWaiting(ticket) => self.stop_task(ticket),
                Effect::Persist(ticket, step) => self.persist(host, ticket, step),
                Effect::Publish(ticket, step) => self.publish_step(host, ticket, step),
                Effect::AwaitDrained(ticket, slot) => self.await_drained(host, ticket, slot),
                Effect::CutTunnels(slot) => self.cut_tunnels(host, slot),
                Effect::WakeAt(at) => {
                    self.wakes.insert(host.clone(), at);
                }
                Effect::Reply(ticket, outcome) => self.finish(ticket, &outcome),
            }
        }
    }

    fn gate(
        &mut self,
        host: &Host,
        ticket: Ticket,
        slot: Slot,
        gone: Option<oneshot::Receiver<()>>,
    ) {
        let table = self.published.load();
        let Some((site, _)) = table.by_name(host.as_str()) else {
            return;
        };
        let (upstreams, check) = (
            Arc::clone(&site.slot(slot).upstreams),
            site.settings.health.clone(),
        );
        let (messages, host) = (self.messages.clone(), host.clone());
        let probing = async move {
            let caller_gone = async {
                match gone {
                    // It resolves with an error when the caller drops its end, which is what is waited for.
                    Some(gone) => drop(gone.await),
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                result = gate::pass(slot, &upstreams, &check) => match result {
                    Ok(()) => Event::GatePassed(ticket),
                    Err(failure) => Event::GateFailed(ticket, failure.to_string()),
                },
                () = caller_gone => Event::CallerGone(ticket),
            };
            // A driver that is gone needs no gate.
            messages.send(Message::Happened(host, event)).await.ok();
        };
        self.start_task(ticket, probing);
        self.tell(
            ticket,
            event_line("gating", &[("slot", slot.as_str().into())]),
        );
    }

    fn persist(&mut self, host: &Host, ticket: Ticket, step: Step) {
        self.stop_task(ticket);
        self.tell(ticket, event_line("persisting", &[]));
        failpoint::reach(Failpoint::BeforePersist);
        let change = match step {
            Step::Activate(slot) => Change::Activate(host.clone(), slot, self.trust(ticket)),
            Step::MarkDrained(slot, is_drained) => {
                Change::MarkDrained(host.clone(), slot, is_drained)
            }
        };
        self.write(ticket, change, None);
    }

    fn trust(&self, ticket: Ticket) -> Trust {
        let pending = self.pending.get(&ticket);
        match pending.is_some_and(|pending| pending.request.options.force) {
            true => Trust::Forced,
            false => Trust::Probed,
        }
    }

    /// The state is stored and is `self.state`; the table follows.
    fn publish_step(&mut self, host: &Host, ticket: Ticket, step: Step) {
        let (change, from, to) = match step {
            Step::Activate(slot) => (
                Change::Activate(host.clone(), slot, self.trust(ticket)),
                slot.other(),
                Some(slot),
            ),
            Step::MarkDrained(slot, is_drained) => (
                Change::MarkDrained(host.clone(), slot, is_drained),
                slot,
                None,
            ),
        };
        let next = change.to_table(&self.published.load_full(), &self.state);
        self.publish(next);
        let generation = self.state.generation;
        let table = self.published.load_full();
        let opened = to.and_then(|slot| {
            let (site, _) = table.by_name(host.as_str())?;
            Some(Arc::clone(&site.slot(slot).inflight))
        });
        if let Some(pending) = self.pending.get_mut(&ticket) {
            pending.generation = generation;
            pending.from = Some(from);
            pending.to = to;
            pending.opened = opened;
        }
        info!(site = %host, generation, slot = %to.unwrap_or(from), ?step, "published");
        self.tell(
            ticket,
            event_line("published", &[("generation", generation.into())]),
        );
        self.drive(host, Event::Published(ticket, generation));
    }

    fn await_drained(&mut self, host: &Host, ticket: Ticket, slot: Slot) {
        let closed: Vec<Arc<Inflight>> = self.retired_of(host, slot).cloned().collect();
        for inflight in &closed {
            // Those that a reload left open: this drain promises that the slot is empty.
            inflight.close();
        }
        let in_flight = self.retired_count(host, slot);
        self.tell_draining(ticket, slot, in_flight);
        failpoint::reach(Failpoint::Draining);
        let elsewhere = self.predecessor.drained(host, slot, self.state.generation);
        let (messages, host) = (self.messages.clone(), host.clone());
        self.start_task(ticket, async move {
            for inflight in closed {
                inflight.drained().await;
            }
            elsewhere.await;
            // A driver that is gone waits for nobody.
            messages
                .send(Message::Happened(host, Event::Drained(ticket)))
                .await
                .ok();
        });
    }

    fn cut_tunnels(&mut self, host: &Host, slot: Slot) {
        let cut: usize = self
            .retired_of(host, slot)
            .map(|inflight| inflight.cut_tunnels())
            .sum();
        self.predecessor.cut_tunnels(host, slot);
        info!(site = %host, %slot, cut, "tunnels cut");
        let of_slot = |pending: &&mut super::Pending| {
            pending.host.as_ref() == Some(host) && pending.from == Some(slot)
        };
        for pending in self.pending.values_mut().filter(of_slot) {
            pending.tunnels_cut += cut;
        }
    }

    fn tell_draining(&mut self, ticket: Ticket, slot: Slot, in_flight: usize) {
        let fields = [
            ("slot", slot.as_str().into()),
            ("in_flight", in_flight.into()),
        ];
        self.tell(ticket, event_line("draining", &fields));
    }

    /// Tells those who follow a drain how many requests are left.
    pub(super) fn report_drains(&mut self) {
        let draining: Vec<(Ticket, Slot, usize)> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.wants_progress())
            .filter_map(|(ticket, pending)| {
                let slot = pending.from?;
                let in_flight = self.retired_count(pending.host.as_ref()?, slot);
                Some((*ticket, slot, in_flight))
            })
            .collect();
        for (ticket, slot, in_flight) in draining {
            self.tell_draining(ticket, slot, in_flight);
        }
    }

    fn tell(&self, ticket: Ticket, line: EventLine) {
        let events = self
            .pending
            .get(&ticket)
            .and_then(|pending| pending.events.as_ref());
        if let Some(events) = events {
            // A caller who does not read loses event lines, never the reply.
            events.try_send(line).ok();
        }
    }

    pub(super) fn start_task(
        &mut self,
        ticket: Ticket,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.finishing.spawn(work);
        self.tasks.insert(ticket, task);
    }

    fn stop_task(&mut self, ticket: Ticket) {
        if let Some(task) = self.tasks.remove(&ticket) {
            task.abort();
        }
    }

    /// Says how an order ended: to the journal, if it changed or tried to change something, then to the caller.
    pub(super) fn finish(&mut self, ticket: Ticket, outcome: &Outcome) {
        let reply = self.reply_to(ticket, outcome);
        match outcome.journal_word() {
            Some(word) => self.record_and_answer(ticket, word, reply),
            None => self.refuse(ticket, reply),
        }
    }
}

pub(super) fn event_line(event: &str, fields: &[(&str, Value)]) -> EventLine {
    let mut line = EventLine::new();
    line.insert("event".to_owned(), Value::from(event));
    for (name, value) in fields {
        line.insert((*name).to_owned(), value.clone());
    }
    line
}
