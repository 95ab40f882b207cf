//! What the driver does with a request: answer it, start it, or turn it away.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::{Call, Driver, Message, ORDERS_MAX, Pending, RELOAD_DEADLINE, now, status};
use crate::caller::Caller;
use crate::change::{Change, resolve, with_mode};
use crate::cutover::{Event, Holder, Intent, Order, Ticket, drain_limits};
use crate::gate;
use crate::hold::Hold;
use crate::host::Host;
use crate::journal::{self, timestamp};
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::table::{Mode, Site};
use crate::wire::{Request, Verb};

impl Driver {
    pub(super) fn called(&mut self, call: Call) {
        let changes = !matches!(
            call.request.verb,
            Verb::Status | Verb::Probe(_) | Verb::History { .. } | Verb::CertsList
        );
        if changes && let Some(reply) = self.busy_with_upgrade() {
            return answer(call.reply, reply);
        }
        if changes && self.pending.len() >= ORDERS_MAX {
            let reply = Reply::refusal(Code::Busy, "too many orders are being carried out");
            return answer(call.reply, reply);
        }
        match call.request.verb {
            Verb::Status => {
                let reply = self.status(&call.request);
                answer(call.reply, reply);
            }
            Verb::Probe(slot) => self.probe(call, slot),
            Verb::Note => self.note(call),
            Verb::Reserve(slot) => self.reserve(call, slot),
            Verb::History { last } => self.history(call, last),
            Verb::Reload => self.reload(call),
            Verb::Switch(slot) => self.order(call, Intent::Switch(slot)),
            Verb::Rollback => self.order(call, Intent::Rollback),
            Verb::Drain(slot) => self.order(call, Intent::Drain(slot)),
            Verb::Undrain(slot) => self.order(call, Intent::Undrain(slot)),
            Verb::Maintenance(is_on) => self.maintenance(call, is_on),
            Verb::Pause => self.pause(call),
            Verb::Resume => self.resume(call),
            Verb::CertsList | Verb::CertsRenew => self.certificates(call),
            Verb::Upgrade => self.begin_upgrade(call),
        }
    }

    fn status(&self, request: &Request) -> Reply {
        let only = match &request.site {
            None => None,
            Some(_) => match self.site_of(request) {
                Ok(site) => Some(site.settings.host.clone()),
                Err(reply) => return reply,
            },
        };
        let mut reply = status::of_sites(self, only.as_ref());
        self.status_extra.add(&mut reply);
        Reply::from_fields(reply)
    }

    fn history(&mut self, call: Call, last: usize) {
        let dir = self.dir.path().to_owned();
        self.finishing.spawn_blocking(move || {
            let reply = match journal::read_last(&dir, last) {
                Ok(history) => Reply::done()
                    .with(
                        "entries",
                        history
                            .entries
                            .into_iter()
                            .map(Value::Object)
                            .collect::<Vec<_>>(),
                    )
                    .with("skipped", history.skipped),
                Err(error) => Reply::refusal(Code::Failed, with_source(&error)),
            };
            answer(call.reply, reply);
        });
    }

    /// The gate without a cutover. The driver neither waits for it nor remembers it.
    fn probe(&self, call: Call, slot: Slot) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        tokio::spawn(async move {
            let upstreams = &site.slot(slot).upstreams;
            let check = &site.settings.health;
            let reply = tokio::select! {
                result = gate::pass(slot, upstreams, check) => match result {
                    Ok(()) => Reply::done()
                        .with("site", site.settings.host.as_str())
                        .with("slot", slot.as_str())
                        .with("upstreams", upstreams.len())
                        .with("pass", check.pass)
                        .with("of", check.of)
                        .with("path", check.path.as_str()),
                    Err(failure) => Reply::refusal(Code::Refused, failure)
                        .with_hint("see whether the release runs and answers its health check"),
                },
                // It resolves when the caller goes, who then needs no answer.
                _ = call.gone => return,
            };
            answer(call.reply, reply);
        });
    }

    /// A line of the journal that changes nothing: what somebody does beside the daemon.
    fn note(&mut self, call: Call) {
        let host = match &call.request.site {
            None => None,
            Some(_) => match self.site_of(&call.request) {
                Ok(site) => Some(site.settings.host.clone()),
                Err(reply) => return answer(call.reply, reply),
            },
        };
        let ticket = self.next_ticket();
        self.wait_for(ticket, host, call);
        self.record_and_answer(ticket, "noted", Reply::done());
    }

    /// Hands the call on. It takes as long as a CA does, so the driver neither waits for it now nor when it stops.
    fn certificates(&self, call: Call) {
        let site = match &call.request.site {
            None => None,
            Some(_) => match self.site_of(&call.request) {
                Ok(site) => Some(site.settings.host.clone()),
                Err(reply) => return answer(call.reply, reply),
            },
        };
        let answering = match call.request.verb {
            Verb::CertsRenew => self.certificates.renew(site, call.request.options.force),
            _ => self.certificates.list(site),
        };
        tokio::spawn(async move { answer(call.reply, answering.await) });
    }

    fn order(&mut self, call: Call, intent: Intent) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        if let Some(reply) = self.busy_with_reload() {
            return answer(call.reply, reply);
        }
        let host = site.settings.host.clone();
        if let Some(reply) = self.refuse_reserved(&host, site.active, intent, &call) {
            return answer(call.reply, reply);
        }
        let options = call.request.options;
        let order = Order {
            ticket: self.next_ticket(),
            holder: Arc::new(holder(&call.caller)),
            intent,
            force: options.force,
            no_wait: options.no_wait,
            if_generation: options.if_generation,
            limits: drain_limits(site.settings.drain, options.drain_timeout),
        };
        let ticket = order.ticket;
        let gone = self.wait_for(ticket, Some(host.clone()), call);
        self.drive_with(&host, Event::Ordered(order), Some(gone));
    }

    fn maintenance(&mut self, call: Call, is_on: bool) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        if let Some(reply) = self.busy_with_reload() {
            return answer(call.reply, reply);
        }
        let host = site.settings.host.clone();
        let is_there =
            matches!(site.mode, Mode::Maintenance) == is_on && !self.has_write_for(&host);
        if is_there {
            let reply = Reply::done()
                .with("site", host.as_str())
                .with("maintenance", is_on)
                .with("generation", site.generation)
                .with("table_generation", self.state.generation)
                .with("changed", false);
            return answer(call.reply, reply);
        }
        let ticket = self.next_ticket();
        self.wait_for(ticket, Some(host.clone()), call);
        self.write(ticket, Change::Maintenance(host, is_on), None);
    }

    fn pause(&mut self, call: Call) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        match &site.mode {
            Mode::Maintenance => {
                let reply = Reply::refusal(
                    Code::Refused,
                    format!("{} is in maintenance", site.settings.host),
                )
                .with_hint("`maintenance off` first");
                answer(call.reply, reply);
            }
            Mode::Paused(hold) => {
                let reply = mode_reply(&site, "paused", false).with("waiting", hold.waiting());
                answer(call.reply, reply);
            }
            Mode::Serving => {
                let hold = Arc::new(Hold::new(site.settings.pause));
                self.set_mode(&site, &Mode::Paused(hold));
                self.answer_mode(call, &site, "paused");
            }
        }
    }

    fn resume(&mut self, call: Call) {
        let site = match self.site_of(&call.request) {
            Ok(site) => site,
            Err(reply) => return answer(call.reply, reply),
        };
        match &site.mode {
            Mode::Maintenance => {
                let reply = Reply::refusal(
                    Code::Refused,
                    format!("{} is in maintenance", site.settings.host),
                )
                .with_hint("`maintenance off` ends it");
                answer(call.reply, reply);
            }
            Mode::Serving => answer(call.reply, mode_reply(&site, "serving", false)),
            // Publishing a table without the hold lets its requests go.
            Mode::Paused(_) => {
                self.set_mode(&site, &Mode::Serving);
                self.answer_mode(call, &site, "serving");
            }
        }
    }

    /// A pause is not stored, so it does not raise the generation: a restart serves.
    pub(super) fn set_mode(&mut self, site: &Site, mode: &Mode) {
        let table = self.published.load_full();
        self.publish(with_mode(
            &table,
            table.generation,
            &site.settings.host,
            mode,
        ));
    }

    fn answer_mode(&mut self, call: Call, site: &Site, mode: &str) {
        let ticket = self.next_ticket();
        self.wait_for(ticket, Some(site.settings.host.clone()), call);
        self.record_and_answer(ticket, mode, mode_reply(site, mode, true));
    }

    /// Keeps the caller until the order ends. What is given back resolves when the caller waits no more.
    pub(super) fn wait_for(
        &mut self,
        ticket: Ticket,
        host: Option<Host>,
        call: Call,
    ) -> oneshot::Receiver<()> {
        let pending = Pending {
            host,
            request: call.request,
            caller: call.caller,
            events: call.events,
            reply: call.reply,
            began: now(),
            from: None,
            to: None,
            opened: None,
            generation: 0,
            tunnels_cut: 0,
        };
        self.pending.insert(ticket, pending);
        call.gone
    }

    pub(super) fn site_of(&self, request: &Request) -> Result<Arc<Site>, Reply> {
        let table = self.published.load();
        let names = || {
            let names: Vec<_> = table
                .sites()
                .iter()
                .map(|site| site.settings.host.as_str())
                .collect();
            names.join(", ")
        };
        let invalid = |error: String| Err(Reply::refusal(Code::Invalid, error));
        match (&request.site, table.sites()) {
            (Some(host), _) => match table.by_name(host.as_str()) {
                Some((site, _)) => Ok(Arc::clone(site)),
                None => invalid(format!("there is no site {host}; there is {}", names())),
            },
            (None, [site]) => Ok(Arc::clone(site)),
            (None, _) => invalid(format!("there are several sites, name one: {}", names())),
        }
    }

    pub(super) fn busy_with_reload(&self) -> Option<Reply> {
        let pending = self.pending.get(&self.reload?)?;
        let holder = holder(&pending.caller);
        Some(busy("a reload is being carried out", &holder))
    }

    /// Begins a reload: the configuration is read beside the driver.
    fn reload(&mut self, call: Call) {
        if let Some(reply) = self.busy_with_reload() {
            return answer(call.reply, reply);
        }
        let held = self
            .cutovers
            .iter()
            .find_map(|(host, cutover)| Some((host, cutover.holder()?)));
        if let Some((host, holder)) = held {
            let reply = busy(&format!("a cutover of {host} is being carried out"), holder);
            return answer(call.reply, reply);
        }
        let ticket = self.next_ticket();
        self.wait_for(ticket, None, call);
        self.reload = Some(ticket);
        self.reloader.begins();
        let (reloader, messages) = (Arc::clone(&self.reloader), self.messages.clone());
        self.finishing.spawn(async move {
            let reading = tokio::task::spawn_blocking(move || {
                let prepared = reloader.prepare()?;
                // Here, where a resolver that does not answer holds up nobody.
                let resolved = resolve(&prepared.sites);
                Ok((prepared, resolved))
            });
            let result = match tokio::time::timeout(RELOAD_DEADLINE, reading).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err("reading the configuration panicked".to_owned()),
                Err(_) => Err("reading the configuration took longer than 30 s".to_owned()),
            };
            // A driver that is gone answers nobody.
            messages.send(Message::Prepared(ticket, result)).await.ok();
        });
    }
}

/// `busy`, naming who is at it.
pub(super) fn busy(what: &str, holder: &Holder) -> Reply {
    let pid = holder
        .pid
        .map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
    let Holder {
        command,
        uid,
        since,
        ..
    } = holder;
    Reply::refusal(
        Code::Busy,
        format!("{what} by {command} (uid {uid}, pid {pid}) since {since}"),
    )
    .with("holder_command", command.as_str())
    .with("holder_uid", *uid)
    .with("holder_pid", holder.pid)
    .with("holder_since", since.as_str())
}

/// Tells the caller; one who is gone is not told.
pub(super) fn answer(to: oneshot::Sender<Reply>, reply: Reply) {
    to.send(reply).ok();
}

/// An error and what caused it, for a reply.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

pub(super) fn holder(caller: &Caller) -> Holder {
    Holder {
        command: caller.command.clone(),
        uid: caller.uid,
        pid: caller.pid,
        since: timestamp(std::time::SystemTime::now()),
    }
}

fn mode_reply(site: &Site, mode: &str, is_changed: bool) -> Reply {
    Reply::done()
        .with("site", site.settings.host.as_str())
        .with("mode", mode)
        .with("generation", site.generation)
        .with("changed", is_changed)
}
