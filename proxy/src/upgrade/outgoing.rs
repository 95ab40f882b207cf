//! `upgrade`, as the running process carries it out: from the caller's wish to a successor that may be let write.
//!
//! Owns the effects of the predecessor's side: starting the successor, sending, waiting under the caller's deadline, and
//! going on as before if nothing comes of it. What is done next is decided by [`super::handing`].

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mana_certs::renew;
use mana_control::driver::Pen;
use mana_control::hooks::{Committing, UpgradeOrder, Upgraded, Upgrader, Upgrading};
use mana_control::{Code, Reply, process};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::PROTOCOL;
use super::before::Before;
use super::channel::{Channel, ChannelError, DESCRIPTORS_MAX};
use super::handing::{Heard, Next, Reason, Stage};
use super::launch::{Started, own_program};
use super::message::{Down, Role, Up};
use super::sockets::Sockets;
use crate::error_text::with_sources;
use crate::failpoint::{self, Failpoint};
use crate::tls::Keyring;

/// Hands this process's work to a new one.
#[derive(Clone)]
pub struct Outgoing(Arc<Parts>);

/// What is handed over, and who is asked to rest meanwhile.
pub struct Parts {
    /// Every socket that this process listens on.
    pub sockets: Sockets,
    /// The keys of session tickets.
    pub keyring: Arc<Keyring>,
    /// Obtains certificates; two processes must not.
    pub keeper: renew::Handle,
    /// The process before this one.
    pub before: Arc<Before>,
    /// Where a successor that is ready goes.
    pub ready: mpsc::Sender<Ready>,
}

/// A successor that accepts and waits to be let write.
pub struct Ready {
    /// Its process.
    pub started: Started,
    /// The line of the journal, for it to write.
    pub entry: Map<String, Value>,
    /// Told whether it was let write.
    pub is_done: oneshot::Sender<bool>,
}

impl Outgoing {
    /// See [`Parts`].
    pub fn new(parts: Parts) -> Outgoing {
        Outgoing(Arc::new(parts))
    }

    /// This process accepts no more.
    pub fn close(&self) {
        self.0.sockets.close();
    }

    async fn carry_out(
        self,
        order: UpgradeOrder,
        gone: oneshot::Receiver<()>,
        pen: Pen,
    ) -> Result<Upgraded, Reply> {
        let program = self.program(&order)?;
        self.alone(&order, gone).await?;
        let mut started = Started::start(&program).map_err(|error| failed(&error))?;
        tracing::info!(program = %program.display(), pid = started.pid(), "upgrading");
        let handed = self.hand_over(&mut started, &order, &pen).await;
        let (version, pid) = match handed {
            Ok(version) => (version, started.pid()),
            Err(error) => return Err(self.give_up(started, error, &program).await),
        };
        for line in started.words() {
            tracing::info!(line, "the new process said");
        }
        let reply = Reply::done()
            .with("changed", true)
            .with("pid", pid)
            .with("version", version)
            .with("previous_pid", std::process::id())
            .with("previous_version", env!("CARGO_PKG_VERSION"));
        let ready = self.0.ready.clone();
        let commit = Box::new(move |entry| -> Committing {
            Box::pin(async move {
                let (is_done, done) = oneshot::channel();
                let successor = Ready {
                    started,
                    entry,
                    is_done,
                };
                ready.send(successor).await.ok();
                match done.await {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => {
                        self.0.keeper.go_on().await;
                        let reason = Reason::GoneBeforeReady.as_text();
                        Err(not_upgraded(
                            &format!("the new process {reason}"),
                            Vec::new(),
                        ))
                    }
                }
            })
        });
        Ok(Upgraded { reply, commit })
    }

    /// Which program it is to be. One that a caller names runs as this user: only those may name one who could do that
    /// anyway.
    fn program(&self, order: &UpgradeOrder) -> Result<PathBuf, Reply> {
        let Some(named) = &order.binary else {
            return own_program().map_err(|error| failed(&error));
        };
        let uid = order.caller.uid;
        if may_name_a_program(uid, process::own_uid().ok()) {
            return Ok(named.clone());
        }
        let refused = Reply::refusal(Code::Refused, format!("uid {uid} may not name a binary"));
        Err(refused.with_hint(
            "root and the daemon's own user may; without --binary the installed one is started",
        ))
    }

    /// One predecessor at a time. Who waits for it may give up; who has begun may not.
    async fn alone(&self, order: &UpgradeOrder, gone: oneshot::Receiver<()>) -> Result<(), Reply> {
        if order.wait {
            tokio::select! {
                () = self.0.before.gone() => {}
                _ = gone => {
                    let text = "the caller waits no more for the process before";
                    return Err(Reply::refusal(Code::Refused, text));
                }
            }
        }
        match self.0.before.in_words() {
            None => Ok(()),
            Some(words) => {
                let reply = Reply::refusal(
                    Code::Busy,
                    format!("the process before still drains: {words}"),
                );
                Err(reply
                    .with_hint("`upgrade --wait` waits for it; `status` shows what it still has"))
            }
        }
    }

    /// Talks to the successor until it accepts. Its version, or why not.
    async fn hand_over(
        &self,
        started: &mut Started,
        order: &UpgradeOrder,
        pen: &Pen,
    ) -> Result<String, GaveUp> {
        self.greet(&started.channel).await?;
        let mut stage = Stage::Preparing;
        let mut deadline = Instant::now() + order.timeout;
        let mut version = String::new();
        let mut lock: Option<File> = None;
        let mut heard = Said::default();
        let mut event = self.hear(&mut heard, started, deadline).await;
        loop {
            if let Some(said) = heard.version.take() {
                version = said;
            }
            let (next_stage, next) = stage.handle(event);
            stage = next_stage;
            event = match next {
                Next::PutDown => {
                    failpoint::reach(Failpoint::PredecessorPrepared);
                    self.0.keeper.rest().await;
                    match timeout_at(deadline, pen.put_down()).await {
                        Ok(Ok(held)) => {
                            lock = Some(held);
                            Heard::PenIsDown
                        }
                        Ok(Err(reply)) => return Err(GaveUp::Refused(reply)),
                        Err(_) => Heard::PenIsKept,
                    }
                }
                Next::Go => {
                    let tickets = self.0.keyring.tickets().secrets();
                    let lock: Vec<_> = lock.iter().map(|lock| lock.as_fd()).collect();
                    // One that is gone is found gone below.
                    started
                        .channel
                        .send(&Down::Go { tickets }, &lock)
                        .await
                        .ok();
                    failpoint::reach(Failpoint::PredecessorGone);
                    deadline = Instant::now() + order.timeout;
                    self.hear(&mut heard, started, deadline).await
                }
                // Out of turn: it was not let write.
                Next::LetGo => Heard::Nonsense,
                Next::Commit => {
                    failpoint::reach(Failpoint::PredecessorReady);
                    return Ok(version);
                }
                Next::GiveUp(reason) => {
                    return Err(GaveUp::Because(reason, heard.failure.take()));
                }
            };
        }
    }

    /// What the successor says, unless this process is told to end: one that took over now would be ended with it.
    async fn hear(&self, heard: &mut Said, started: &Started, deadline: Instant) -> Heard {
        tokio::select! {
            biased;
            () = self.0.ready.closed() => Heard::Stopping,
            event = heard.from(started, deadline) => event,
        }
    }

    async fn greet(&self, channel: &Channel) -> Result<(), GaveUp> {
        let all = self.0.sockets.again();
        let (sockets, descriptors): (Vec<Role>, Vec<OwnedFd>) = all
            .map_err(|error| GaveUp::Unsent(error.to_string()))?
            .into_iter()
            .unzip();
        if sockets.len() > DESCRIPTORS_MAX {
            let count = sockets.len();
            return Err(GaveUp::Unsent(format!(
                "{count} sockets are more than can be handed over ({DESCRIPTORS_MAX})"
            )));
        }
        let hello = Down::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            sockets,
        };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        match channel.send(&hello, &borrowed).await {
            // It has ended already, and is found gone when it is listened to.
            Err(ChannelError::Send(source)) if source.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(GaveUp::Unsent(with_sources(&error))),
            Ok(()) => Ok(()),
        }
    }

    /// Ends the successor, and goes on as if nothing had been asked.
    async fn give_up(
        &self,
        mut started: Started,
        error: GaveUp,
        program: &std::path::Path,
    ) -> Reply {
        let status = started.end().await;
        self.0.keeper.go_on().await;
        let words = started.words();
        let program = program.display();
        let text = match error {
            GaveUp::Refused(reply) => return reply,
            GaveUp::Unsent(error) => format!("cannot hand over: {error}"),
            GaveUp::Because(reason, Some(failure)) => {
                format!("{program} {}: {failure}", reason.as_text())
            }
            GaveUp::Because(
                reason @ (Reason::GoneBeforePrepared | Reason::GoneBeforeReady),
                None,
            ) => {
                let status = status.map_or_else(String::new, |status| format!(" ({status})"));
                let last = words
                    .last()
                    .map_or_else(String::new, |last| format!("; it said: {last}"));
                format!("{program} {}{status}{last}", reason.as_text())
            }
            GaveUp::Because(reason, None) => format!("{program} {}", reason.as_text()),
        };
        tracing::error!(error = text, "not upgraded; this process goes on");
        not_upgraded(&text, words)
    }
}

impl Ready {
    /// Lets the successor write, and waits until it says that it does. The way to it, and its process; none if it is
    /// dead, and this process goes on.
    pub async fn commit(self) -> Option<(Channel, u32, oneshot::Sender<bool>)> {
        let Ready {
            mut started,
            entry,
            is_done,
        } = self;
        let pid = started.pid();
        // One that is gone is found gone below.
        started
            .channel
            .send(&Down::Commit { entry }, &[])
            .await
            .ok();
        let heard = Said::default()
            .from(&started, Instant::now() + COMMIT_TIME)
            .await;
        match (Stage::Committing.handle(heard), pid) {
            ((_, Next::LetGo), Some(pid)) => Some((started.let_go(), pid, is_done)),
            _ => {
                started.end().await;
                // The driver waits; if it does not, the process is ending.
                is_done.send(false).ok();
                None
            }
        }
    }
}

impl Upgrader for Outgoing {
    fn upgrade(&self, order: UpgradeOrder, gone: oneshot::Receiver<()>, pen: Pen) -> Upgrading {
        Box::pin(self.clone().carry_out(order, gone, pen))
    }
}

/// Whether a caller could run anything as the daemon's user anyway.
fn may_name_a_program(caller: u32, daemon: Option<u32>) -> bool {
    caller == 0 || daemon == Some(caller)
}

/// Why there is no successor.
enum GaveUp {
    /// Somebody here is changing something.
    Refused(Reply),
    /// The first message could not be sent.
    Unsent(String),
    /// What the successor did, and what it said of it.
    Because(Reason, Option<String>),
}

/// What a successor has said, beside that it was heard.
#[derive(Default)]
struct Said {
    version: Option<String>,
    failure: Option<String>,
}

impl Said {
    async fn from(&mut self, started: &Started, deadline: Instant) -> Heard {
        let received = match timeout_at(deadline, started.channel.receive()).await {
            Err(_) => return Heard::TimedOut,
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Heard::Gone,
            Ok(Err(_)) => return Heard::Nonsense,
        };
        match serde_json::from_slice(&received.bytes) {
            Ok(Up::Prepared { protocol, version }) => {
                self.version = Some(
                    version
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(VERSION_MAX)
                        .collect(),
                );
                Heard::Prepared(protocol)
            }
            Ok(Up::Ready) => Heard::Ready,
            Ok(Up::Serving) => Heard::Serving,
            Ok(Up::Failed { error, .. }) => {
                self.failure = Some(error);
                Heard::Failed
            }
            Ok(Up::Follow { .. } | Up::CutTunnels { .. }) | Err(_) => Heard::Nonsense,
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Reply {
    not_upgraded(&with_sources(error), Vec::new())
}

fn not_upgraded(error: &str, words: Vec<String>) -> Reply {
    Reply::refusal(Code::Failed, error)
        .with("said", json!(words))
        .with_hint(
            "nothing was changed, the running process goes on; its log has what the new one said",
        )
}

/// For the successor's first line in the journal.
const COMMIT_TIME: Duration = Duration::from_secs(10);
/// The longest version that is believed.
const VERSION_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployer_may_not_have_the_daemon_run_any_program() {
        for (caller, daemon, expected) in [
            (0, Some(998), true),
            (998, Some(998), true),
            (1000, Some(998), false),
            (1000, Some(0), false),
            (1000, None, false),
        ] {
            assert_eq!(
                may_name_a_program(caller, daemon),
                expected,
                "{caller} {daemon:?}"
            );
        }
    }
}
