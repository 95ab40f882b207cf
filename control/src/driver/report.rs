//! What callers and the journal are told about how an order ended.

use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tracing::error;

use super::calls::{answer, busy, with_source};
use super::{Driver, Pending, now};
use crate::cutover::{Outcome, Ticket};
use crate::failpoint::{self, Failpoint};
use crate::journal::timestamp;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::wire::Verb;

impl Driver {
    /// Answers and writes nothing to the journal: nothing was changed.
    pub(super) fn refuse(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(pending) = self.pending.remove(&ticket) {
            answer(pending.reply, reply);
        }
    }

    /// Writes the line of the journal, then answers. A journal that fails does not undo the change; the reply says so.
    pub(super) fn record_and_answer(&mut self, ticket: Ticket, outcome: &str, reply: Reply) {
        let Some(pending) = self.pending.remove(&ticket) else {
            return;
        };
        let entry = journal_entry(&pending, self.state.generation, outcome, &reply);
        let journal = std::sync::Arc::clone(&self.journal);
        let under_way = std::sync::Arc::clone(&self.journaling);
        self.finishing.spawn_blocking(move || {
            let result = journal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .append(&entry);
            drop(under_way);
            let reply = match result {
                Ok(()) => reply,
                Err(error) => {
                    let reason = with_source(&error);
                    error!(reason, "a change is not in the journal");
                    reply.with(
                        "warning",
                        format!("the change is not in the journal: {reason}"),
                    )
                }
            };
            failpoint::reach(Failpoint::BeforeReply);
            answer(pending.reply, reply);
        });
    }

    pub(super) fn reply_to(&self, ticket: Ticket, outcome: &Outcome) -> Reply {
        let Some(pending) = self.pending.get(&ticket) else {
            return Reply::done();
        };
        let refused = |error: String| Reply::refusal(Code::Refused, error);
        let site = pending.host.as_ref().map_or("", |host| host.as_str());
        match outcome {
            Outcome::AlreadyActive => self.no_op_reply(pending),
            Outcome::Busy(holder) => busy(&format!("a cutover of {site} is being carried out"), holder),
            Outcome::Conflict(actual) => {
                Reply::refusal(Code::Conflict, format!("the generation of {site} is {actual}"))
                    .with("generation", *actual)
                    .with_hint("somebody else has changed it; look at `status` and `history`")
            }
            Outcome::NoPrevious => refused(format!("{site} has had no cutover that could be undone"))
                .with_hint("`switch blue` or `switch green` names the slot"),
            Outcome::DrainOfActive => refused(format!("the slot is the active one of {site}"))
                .with_hint("`switch` to the other slot first; that drains this one"),
            Outcome::GateFailed(reason) => refused(reason.clone()).with_hint(
                "nothing was changed; see whether the release runs and answers its health check, or use force",
            ),
            Outcome::Abandoned => refused("the caller went away while the slot was probed; nothing was changed".into()),
            Outcome::PersistFailed(reason) => Reply::refusal(Code::Failed, reason)
                .with_hint("nothing was changed; look at the disk and the state directory"),
            Outcome::Published | Outcome::Drained | Outcome::DeadlinePassed => self.done_reply(pending),
            Outcome::Superseded(generation) => {
                self.done_reply(pending).with("drained", false).with("superseded_by", *generation)
            }
        }
    }

    /// Nothing had to be done. `drained` is a promise here too: it is true only if the other slot is empty.
    fn no_op_reply(&self, pending: &Pending) -> Reply {
        let Some((host, cutover)) = pending
            .host
            .as_ref()
            .and_then(|host| Some((host, self.cutovers.get(host)?)))
        else {
            return Reply::done();
        };
        let in_flight = self.in_flight(host, cutover.active().other());
        Reply::done()
            .with("site", host.as_str())
            .with("active", cutover.active().as_str())
            .with("previous", cutover.previous().map(Slot::as_str))
            .with("generation", cutover.generation())
            .with("changed", false)
            .with("drained", in_flight == 0)
            .with("in_flight", in_flight)
            .with("tunnels_cut", 0)
            .with("first_request_us", Value::Null)
            .with("took_ms", ms(pending.began, now()))
    }

    fn done_reply(&self, pending: &Pending) -> Reply {
        let Some((host, cutover)) = pending
            .host
            .as_ref()
            .and_then(|host| Some((host, self.cutovers.get(host)?)))
        else {
            return Reply::done();
        };
        let closed = pending
            .from
            .filter(|_| !matches!(pending.request.verb, Verb::Undrain(_)));
        let in_flight = closed.map_or(0, |slot| self.retired_count(host, slot));
        let active = pending.to.unwrap_or(cutover.active());
        let previous = pending.to.map_or(cutover.previous(), |to| Some(to.other()));
        let first_request = pending
            .opened
            .as_ref()
            .and_then(|inflight| inflight.first_entry());
        // A later cutover may have come before this reply: then the site's generation is not what this order made.
        let site_generation = match pending.to {
            Some(_) => pending.generation,
            None => cutover.generation(),
        };
        let mut reply = Reply::done()
            .with("site", host.as_str())
            .with("active", active.as_str())
            .with("previous", previous.map(Slot::as_str))
            .with("generation", site_generation)
            .with("table_generation", pending.generation)
            .with("changed", true)
            .with("drained", in_flight == 0)
            .with("in_flight", in_flight)
            .with("tunnels_cut", pending.tunnels_cut)
            .with("first_request_us", first_request.map(us))
            .with("took_ms", ms(pending.began, now()));
        if let (Verb::Drain(_) | Verb::Undrain(_), Some(slot)) =
            (pending.request.verb, pending.from)
        {
            reply = reply.with("slot", slot.as_str());
        }
        if pending.request.options.force {
            reply = reply.with("forced", true);
        }
        reply
    }
}

// === impl Pending ===

impl Pending {
    /// Whether the caller follows a drain by event lines.
    pub(super) fn wants_progress(&self) -> bool {
        self.events.is_some() && self.from.is_some()
    }
}

// === impl Outcome ===

impl Outcome {
    /// The `outcome` of the journal's line; none if nothing was changed or tried.
    pub(super) fn journal_word(&self) -> Option<&'static str> {
        match self {
            Outcome::AlreadyActive
            | Outcome::Busy(_)
            | Outcome::Conflict(_)
            | Outcome::NoPrevious
            | Outcome::DrainOfActive => None,
            Outcome::GateFailed(_) => Some("refused"),
            Outcome::Abandoned => Some("abandoned"),
            Outcome::PersistFailed(_) => Some("failed"),
            Outcome::Published => Some("published"),
            Outcome::Drained => Some("drained"),
            Outcome::DeadlinePassed => Some("deadline"),
            Outcome::Superseded(_) => Some("superseded"),
        }
    }
}

/// One line of the journal. Its generation is the one that the order made, or the one that it left as it was.
pub(super) fn journal_entry(
    pending: &Pending,
    current: u64,
    outcome: &str,
    reply: &Reply,
) -> Map<String, Value> {
    let verb = pending.request.verb;
    let mut entry = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            entry.insert(name.to_owned(), value);
        }
    };
    put("time", json!(timestamp(SystemTime::now())));
    let generation = match pending.generation {
        0 => current,
        made => made,
    };
    put("generation", json!(generation));
    put(
        "site",
        json!(pending.host.as_ref().map(|host| host.as_str())),
    );
    put("verb", json!(verb.as_str()));
    match (verb, pending.from) {
        (Verb::Drain(slot), _) => put("slot", json!(slot)),
        (Verb::Undrain(slot), _) => {
            put("slot", json!(slot));
            put("undo", json!(true));
        }
        (_, from) => {
            put("from", json!(from));
            put("to", json!(pending.to));
        }
    }
    if let (Verb::Switch(slot), None) = (verb, pending.to) {
        put("to", json!(slot));
    }
    put("uid", json!(pending.caller.uid));
    put("gid", json!(pending.caller.gid));
    put("pid", json!(pending.caller.pid));
    put("command", json!(pending.caller.command));
    put("note", json!(pending.request.note));
    put("outcome", json!(outcome));
    for name in [
        "in_flight",
        "tunnels_cut",
        "first_request_us",
        "superseded_by",
        "forced",
        "error",
    ] {
        put(name, reply.field(name).cloned().unwrap_or(Value::Null));
    }
    put("took_ms", json!(ms(pending.began, now())));
    entry
}

fn ms(from: Instant, to: Instant) -> u64 {
    let passed = to.saturating_duration_since(from);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
