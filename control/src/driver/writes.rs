//! One write of the state after the other: stored first, published then.

use std::sync::Arc;

use tracing::{error, info};

use super::calls::with_source;
use super::{Driver, Message};
use crate::change::{Change, Resolved};
use crate::cutover::{Cutover, Event, Ticket};
use crate::failpoint::{self, Failpoint};
use crate::hooks::Prepared;
use crate::host::Host;
use crate::reply::{Code, Reply};
use crate::state::{State, StateError};

/// A change that waits for its turn. At most one for each order, so at most `ORDERS_MAX`.
pub(super) struct Write {
    ticket: Ticket,
    change: Change,
    prepared: Option<Prepared>,
}

/// The change that is being stored.
pub(super) struct Writing {
    write: Write,
    state: State,
}

impl Driver {
    pub(super) fn write(&mut self, ticket: Ticket, change: Change, prepared: Option<Prepared>) {
        self.writes.push_back(Write {
            ticket,
            change,
            prepared,
        });
        self.write_next();
    }

    pub(super) fn has_write_for(&self, host: &Host) -> bool {
        let writing = self.writing.iter().map(|writing| &writing.write);
        writing
            .chain(&self.writes)
            .any(|write| match &write.change {
                Change::Maintenance(of, _) => of == host,
                Change::Activate(..) | Change::MarkDrained(..) | Change::Sites(..) => false,
            })
    }

    fn write_next(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let Some(write) = self.writes.pop_front() else {
            return;
        };
        let state = write.change.to_state(&self.state);
        let (dir, messages) = (Arc::clone(&self.dir), self.messages.clone());
        let (last, next) = (self.state.clone(), state.clone());
        self.writing = Some(Writing { write, state });
        self.finishing.spawn(async move {
            let storing = tokio::task::spawn_blocking(move || {
                let result = dir.store(&next);
                if matches!(result, Err(StateError::NotDurable { .. })) {
                    // The new file is in its place but will not be published: a restart must not find it there. If
                    // this fails too, the disk is lost and the error below says so.
                    dir.store(&last).ok();
                }
                result
            });
            let result = storing.await.unwrap_or_else(|panic| {
                let (path, source) = (std::path::PathBuf::new(), std::io::Error::other(panic));
                Err(StateError::Store { path, source })
            });
            // A driver that is gone has stored and not published, as after a crash.
            messages.send(Message::Written(result)).await.ok();
        });
    }

    pub(super) fn written(&mut self, result: Result<(), StateError>) {
        let Some(Writing { write, state }) = self.writing.take() else {
            return;
        };
        match result {
            Ok(()) => {
                failpoint::reach(Failpoint::AfterPersist);
                self.state = state;
                self.stored(write);
            }
            Err(error) => {
                let reason = with_source(&error);
                error!(reason, "the state cannot be stored, nothing was changed");
                self.not_written(write, reason);
            }
        }
        self.write_next();
    }

    fn stored(&mut self, write: Write) {
        let Write {
            ticket,
            change,
            prepared,
        } = write;
        match &change {
            Change::Activate(host, ..) | Change::MarkDrained(host, ..) => {
                self.drive(host, Event::Persisted(ticket));
            }
            Change::Maintenance(host, is_on) => {
                let next = change.to_table(&self.published.load_full(), &self.state);
                self.publish(next);
                let generation = self.set_generation(ticket);
                info!(site = %host, is_on, generation, "maintenance");
                let of_site = self.cutovers.get(host).map(Cutover::generation);
                let reply = Reply::done()
                    .with("site", host.as_str())
                    .with("maintenance", *is_on)
                    .with("generation", of_site)
                    .with("table_generation", generation)
                    .with("changed", true);
                self.record_and_answer(ticket, if *is_on { "on" } else { "off" }, reply);
            }
            Change::Sites(..) => {
                let next = change.to_table(&self.published.load_full(), &self.state);
                self.publish(next);
                self.set_generation(ticket);
                if let Some(prepared) = prepared {
                    self.reloaded(ticket, prepared, true);
                }
            }
        }
    }

    pub(super) fn not_written(&mut self, write: Write, reason: String) {
        let Write { ticket, change, .. } = write;
        match &change {
            Change::Activate(host, ..) | Change::MarkDrained(host, ..) => {
                self.drive(host, Event::PersistFailed(ticket, reason));
            }
            Change::Maintenance(..) | Change::Sites(..) => {
                if self.reload == Some(ticket) {
                    self.end_reload();
                }
                self.record_and_answer(ticket, "failed", Reply::refusal(Code::Failed, reason));
            }
        }
    }

    /// The configuration was read; its sites become the table if they differ.
    pub(super) fn prepared(
        &mut self,
        ticket: Ticket,
        result: Result<(Prepared, Resolved), String>,
    ) {
        let (prepared, resolved) = match result {
            Ok((prepared, _)) if prepared.sites.is_empty() => {
                return self.not_reloaded(ticket, "the configuration has no site".to_owned());
            }
            Ok(read) => read,
            Err(faults) => return self.not_reloaded(ticket, faults),
        };
        let table = self.published.load();
        let is_changed = !table
            .sites()
            .iter()
            .map(|site| &*site.settings)
            .eq(&prepared.sites);
        drop(table);
        if is_changed {
            let change = Change::Sites(prepared.sites.clone().into(), Arc::new(resolved));
            self.write(ticket, change, Some(prepared));
        } else {
            self.reloaded(ticket, prepared, false);
        }
    }

    fn reloaded(&mut self, ticket: Ticket, prepared: Prepared, is_table_changed: bool) {
        let is_changed = is_table_changed || prepared.is_changed_beside;
        (prepared.commit)();
        self.end_reload();
        let generation = self.state.generation;
        info!(generation, is_changed, "configuration reloaded");
        let reply = Reply::done()
            .with("changed", is_changed)
            .with("needs_restart", prepared.needs_restart)
            .with("generation", generation);
        self.record_and_answer(
            ticket,
            if is_changed { "changed" } else { "unchanged" },
            reply,
        );
    }

    fn end_reload(&mut self) {
        self.reload = None;
        self.reloader.is_over();
    }

    fn not_reloaded(&mut self, ticket: Ticket, faults: String) {
        self.end_reload();
        let reply = Reply::refusal(Code::Invalid, faults)
            .with_hint("nothing was changed; correct it and reload again");
        self.record_and_answer(ticket, "refused", reply);
    }

    fn set_generation(&mut self, ticket: Ticket) -> u64 {
        let generation = self.state.generation;
        if let Some(pending) = self.pending.get_mut(&ticket) {
            pending.generation = generation;
        }
        generation
    }
}
