//! Slots that somebody is at work on: nobody else makes them active or puts them into use meanwhile.
//!
//! Owns the reservations. One lasts as long as its caller's connection, so that it cannot outlive whoever made it. It is in
//! no state and no journal: it changes nothing.

use serde_json::Value;
use tokio::sync::oneshot;

use super::calls::{answer, busy, holder};
use super::orders::event_line;
use super::{Call, Driver, Message};
use crate::cutover::{Holder, Intent, Ticket};
use crate::host::Host;
use crate::reply::{Code, Reply};
use crate::slot::Slot;

/// One slot in somebody's hands.
pub(super) struct Reservation {
    pub(super) ticket: Ticket,
    pub(super) host: Host,
    pub(super) slot: Slot,
    pub(super) holder: Holder,
    /// Kept, so that the caller goes on waiting; dropped with the driver, which tells the caller that it stops.
    _reply: oneshot::Sender<Reply>,
}

impl Reservation {
    /// Whether the caller is the process that has made it.
    fn is_of(&self, call: &Call) -> bool {
        self.holder.pid.is_some() && self.holder.pid == call.caller.pid
    }
}

impl Driver {
    /// Gives a standby slot into the caller's hands until its connection ends.
    pub(super) fn reserve(&mut self, call: Call, slot: Slot) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        let host = site.settings.host.clone();
        if site.active == slot {
            let reply = Reply::refusal(
                Code::Refused,
                format!("{slot} is the active slot of {host}"),
            );
            return answer(
                call.reply,
                reply.with_hint("the standby slot alone can be reserved"),
            );
        }
        let others = self
            .reservation(&host, slot)
            .filter(|reserved| !reserved.is_of(&call));
        if let Some(reserved) = others {
            let reply = busy(&format!("{slot} of {host} is reserved"), &reserved.holder);
            return answer(call.reply, reply);
        }
        if let Some(events) = &call.events {
            let fields = [
                ("site", Value::from(host.as_str())),
                ("slot", slot.as_str().into()),
            ];
            // Whoever does not listen knows by not being refused.
            events.try_send(event_line("reserved", &fields)).ok();
        }
        let ticket = self.next_ticket();
        self.reservations.push(Reservation {
            ticket,
            host,
            slot,
            holder: holder(&call.caller),
            _reply: call.reply,
        });
        let messages = self.messages.clone();
        tokio::spawn(async move {
            // It resolves with an error when the caller drops its end, which is what is waited for.
            call.gone.await.ok();
            // A driver that is gone reserves nothing.
            messages.send(Message::LetGo(ticket)).await.ok();
        });
    }

    pub(super) fn let_go(&mut self, ticket: Ticket) {
        self.reservations
            .retain(|reserved| reserved.ticket != ticket);
    }

    pub(super) fn reservation(&self, host: &Host, slot: Slot) -> Option<&Reservation> {
        let mut reservations = self.reservations.iter();
        reservations.find(|reserved| reserved.host == *host && reserved.slot == slot)
    }

    /// Why this order has to wait, if it would put a slot into use that is in somebody else's hands. Who forces it knows why.
    pub(super) fn refuse_reserved(
        &self,
        host: &Host,
        active: Slot,
        intent: Intent,
        call: &Call,
    ) -> Option<Reply> {
        let slot = match intent {
            Intent::Switch(slot) | Intent::Undrain(slot) => slot,
            Intent::Rollback => active.other(),
            Intent::Drain(_) => return None,
        };
        let reserved = self.reservation(host, slot)?;
        if reserved.is_of(call) || call.request.options.force || slot == active {
            return None;
        }
        let reply = busy(&format!("{slot} of {host} is reserved"), &reserved.holder);
        Some(reply.with_hint("what is in it is being replaced; wait for it, or use force"))
    }
}
