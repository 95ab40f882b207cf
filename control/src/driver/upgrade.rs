//! The driver's half of an upgrade: it stops writing, and writes again if nothing comes of it.
//!
//! Owns who is the writer. The rule: this driver writes as long as it has not put down its pen; then nobody does, until
//! the new process is let write or this driver has its pen back. What the new process is, and how it is seen to work, is
//! the [`crate::hooks::Upgrader`]'s matter.

use std::fs::File;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use super::calls::{answer, busy, holder, with_source};
use super::report::journal_entry;
use super::{Call, Driver, Message};
use crate::change::Change;
use crate::cutover::Ticket;
use crate::hold::Hold;
use crate::hooks::{UpgradeOrder, Upgraded};
use crate::host::Host;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::state::{SiteState, State, StateError};
use crate::table::{Mode, Trust};
use crate::wire::UPGRADE_TIMEOUT_DEFAULT;

/// The right to write: to change the state, the journal and the table.
#[derive(Clone)]
pub struct Pen(mpsc::Sender<Message>);

/// Who writes.
pub(super) enum Standing {
    /// This driver.
    Writer,
    /// Still this driver, until what it is writing is written.
    PuttingDown(oneshot::Sender<Result<File, Reply>>),
    /// Nobody: it is not decided yet.
    Nobody,
    /// Another process.
    HandedOver,
}

impl Pen {
    /// Has the driver stop writing. What is being written is finished and durable then; the lock of the state directory
    /// comes along, held by this process as well. Give up by failing the upgrade.
    ///
    /// # Errors
    /// The reply to the caller: somebody else is changing something.
    pub async fn put_down(&self) -> Result<File, Reply> {
        let (answer, answered) = oneshot::channel();
        // A driver that is gone drops its end, which is seen below.
        self.0.send(Message::PutDown(answer)).await.ok();
        answered
            .await
            .unwrap_or_else(|_| Err(Reply::refusal(Code::Failed, "the daemon is stopping")))
    }
}

impl Driver {
    /// Why nothing can be changed now, if so.
    pub(super) fn busy_with_upgrade(&self) -> Option<Reply> {
        match self.standing {
            Standing::Writer => return None,
            Standing::PuttingDown(_) | Standing::Nobody => {}
            Standing::HandedOver => {
                let reply = Reply::refusal(Code::Busy, "another process has just taken over");
                return Some(reply.with_hint("nothing was changed; ask again, and it will answer"));
            }
        }
        let pending = self.pending.get(&self.upgrade?)?;
        Some(busy(
            "an upgrade is being carried out",
            &holder(&pending.caller),
        ))
    }

    pub(super) fn begin_upgrade(&mut self, call: Call) {
        let first = self.upgrade.and_then(|ticket| self.pending.get(&ticket));
        if let Some(first) = first {
            let reply = busy("an upgrade is being carried out", &holder(&first.caller));
            return answer(call.reply, reply);
        }
        if let Some(reply) = self.in_the_way(None) {
            return answer(call.reply, reply);
        }
        let options = call.request.options;
        let order = UpgradeOrder {
            binary: call.request.binary.clone(),
            timeout: options.timeout.unwrap_or(UPGRADE_TIMEOUT_DEFAULT),
            wait: options.wait,
            caller: call.caller.clone(),
        };
        let ticket = self.next_ticket();
        let gone = self.wait_for(ticket, None, call);
        self.upgrade = Some(ticket);
        let upgrading = self
            .upgrader
            .upgrade(order, gone, Pen(self.messages.clone()));
        let messages = self.messages.clone();
        self.start_task(ticket, async move {
            let result = upgrading.await;
            // A driver that is gone answers nobody.
            messages.send(Message::Upgraded(ticket, result)).await.ok();
        });
    }

    /// What an upgrade must not cut short: another order, or a pause, which no other process would know of.
    fn in_the_way(&self, upgrade: Option<Ticket>) -> Option<Reply> {
        let mut others = self
            .pending
            .iter()
            .filter(|(ticket, _)| Some(**ticket) != upgrade);
        if let Some((_, other)) = others.next() {
            let what = format!("a {} is being carried out", other.request.verb.as_str());
            return Some(busy(&what, &holder(&other.caller)));
        }
        let table = self.published.load();
        let paused = table
            .sites()
            .iter()
            .find(|site| matches!(site.mode, Mode::Paused(_)))?;
        let host = &paused.settings.host;
        let reply = Reply::refusal(Code::Refused, format!("{host} is paused"));
        Some(reply.with_hint("`resume` first: a new process would not know of the pause"))
    }

    pub(super) fn put_down(&mut self, to: oneshot::Sender<Result<File, Reply>>) {
        if let Some(reply) = self.in_the_way(self.upgrade) {
            // An upgrade that is gone needs no answer; so everywhere below.
            to.send(Err(reply)).ok();
            return;
        }
        self.standing = Standing::PuttingDown(to);
    }

    /// Answers who waits for the pen once nothing is being written.
    pub(super) fn put_down_when_idle(&mut self) {
        let is_writing = self.writing.is_some()
            || !self.writes.is_empty()
            || Arc::strong_count(&self.journaling) > 1;
        if is_writing || !matches!(self.standing, Standing::PuttingDown(_)) {
            return;
        }
        if let Standing::PuttingDown(to) = std::mem::replace(&mut self.standing, Standing::Nobody) {
            let failed = |source: StateError| Reply::refusal(Code::Failed, with_source(&source));
            to.send(self.dir.lock_again().map_err(failed)).ok();
        }
    }

    pub(super) fn upgraded(&mut self, ticket: Ticket, result: Result<Upgraded, Reply>) {
        self.tasks.remove(&ticket);
        match (result, &self.standing) {
            (Ok(Upgraded { reply, commit }), Standing::Nobody) => {
                let Some(pending) = self.pending.get(&ticket) else {
                    return;
                };
                let generation = self.state.generation;
                let entry = journal_entry(pending, generation, "handed_over", &reply);
                let messages = self.messages.clone();
                self.is_committing = true;
                self.start_task(ticket, async move {
                    let result = commit(entry).await.map(|()| reply);
                    messages.send(Message::Committed(ticket, result)).await.ok();
                });
            }
            // Nothing was handed over.
            (Err(reply), Standing::Writer | Standing::PuttingDown(_)) => {
                self.standing = Standing::Writer;
                self.not_upgraded(ticket, reply);
            }
            (Err(reply), Standing::Nobody) => self.take_back(ticket, reply),
            (Ok(_) | Err(_), _) => error!("an upgrade ended that had not begun"),
        }
    }

    /// The new process was let write, or it was gone before it could be.
    pub(super) fn committed(&mut self, ticket: Ticket, result: Result<Reply, Reply>) {
        self.tasks.remove(&ticket);
        self.is_committing = false;
        match result {
            Ok(reply) => {
                self.standing = Standing::HandedOver;
                self.dir.let_go();
                self.upgrade = None;
                info!("handed over");
                self.refuse(ticket, reply);
            }
            Err(reply) => self.take_back(ticket, reply),
        }
    }

    /// Reads what the new process may have stored; see [`Driver::took_back`].
    fn take_back(&mut self, ticket: Ticket, reply: Reply) {
        let (dir, messages) = (Arc::clone(&self.dir), self.messages.clone());
        self.finishing.spawn(async move {
            let reading = tokio::task::spawn_blocking(move || dir.load()).await;
            let state = reading.unwrap_or(Ok(None));
            let message = Message::TookBack(ticket, state, reply);
            // A driver that is gone writes nothing more.
            messages.send(message).await.ok();
        });
    }

    /// This driver writes again. The new process may have stored something before it failed: sites that the
    /// configuration has got meanwhile.
    pub(super) fn took_back(
        &mut self,
        ticket: Ticket,
        stored: Result<Option<State>, StateError>,
        reply: Reply,
    ) {
        match stored {
            Ok(Some(stored)) if stored.generation >= self.state.generation => self.state = stored,
            Ok(_) => error!(
                "the state went back while another process had it; it is stored anew with the next change"
            ),
            Err(failed) => {
                let reason = with_source(&failed);
                error!(
                    reason,
                    "the state cannot be read back; it is stored anew with the next change"
                );
            }
        }
        self.standing = Standing::Writer;
        self.not_upgraded(ticket, reply);
    }

    fn not_upgraded(&mut self, ticket: Ticket, reply: Reply) {
        self.upgrade = None;
        match reply.code() {
            Some(Code::Busy) => self.refuse(ticket, reply),
            Some(Code::Refused) => self.record_and_answer(ticket, "refused", reply),
            _ => self.record_and_answer(ticket, "failed", reply),
        }
    }

    /// Publishes what the process that has taken over has published. Nothing is stored here.
    pub(super) fn follow(&mut self, state: &State, paused: &[Host]) {
        if !matches!(self.standing, Standing::HandedOver) {
            return;
        }
        for (host, site) in &state.sites {
            let Some(last) = self.state.sites.get(host).cloned() else {
                continue;
            };
            for change in differences(host, &last, site) {
                self.state.generation = state.generation;
                self.state.sites.insert(host.clone(), site.clone());
                let next = change.to_table(&self.published.load_full(), &self.state);
                self.publish(next);
                info!(site = %host, ?change, "followed");
            }
        }
        self.state.generation = state.generation;
        let table = self.published.load_full();
        for site in table.sites() {
            let host = &site.settings.host;
            match (&site.mode, paused.contains(host)) {
                (Mode::Serving, true) => {
                    let hold = Arc::new(Hold::new(site.settings.pause));
                    self.set_mode(site, &Mode::Paused(hold));
                    info!(site = %host, "paused, as the other process did");
                }
                (Mode::Paused(_), false) => {
                    self.set_mode(site, &Mode::Serving);
                    info!(site = %host, "resumed, as the other process did");
                }
                (Mode::Serving | Mode::Maintenance, false)
                | (Mode::Paused(_) | Mode::Maintenance, true) => {}
            }
        }
    }

    /// Tunnels of every counter of a slot.
    pub(super) fn cut_all_tunnels(&mut self, host: &Host, slot: Slot) {
        let cut: usize = self
            .retired_of(host, slot)
            .map(|inflight| inflight.cut_tunnels())
            .sum();
        info!(site = %host, %slot, cut, "tunnels cut");
    }
}

/// The changes that lead from one state of a site to another.
fn differences(host: &Host, last: &SiteState, next: &SiteState) -> Vec<Change> {
    let mut changes = Vec::new();
    if last.active != next.active {
        changes.push(Change::Activate(host.clone(), next.active, Trust::Probed));
    }
    for slot in [Slot::Blue, Slot::Green] {
        let is_drained = next.drained.contains(&slot);
        if last.drained.contains(&slot) != is_drained {
            changes.push(Change::MarkDrained(host.clone(), slot, is_drained));
        }
    }
    if last.maintenance != next.maintenance {
        changes.push(Change::Maintenance(host.clone(), next.maintenance));
    }
    changes
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
