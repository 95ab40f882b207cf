//! `upgrade`, as the running process carries it out: from the caller's wish to a successor that may be let write.
//!
//! Owns the effects of the predecessor's side: starting the successor, sending, waiting under the caller's deadline, and
//! going on as before if nothing comes of it. What is done next is decided by [`super::handing`].

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mana_certs::renew;
use mana_control::driver::Pen;
use mana_control::hooks::{Committing, UpgradeOrder, Upgraded, Upgrader, Upgrading};
use mana_control::{Code, Reply, process};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::PROTOCOL;
use super::before::Before;
use super::channel::{Channel, ChannelError, DESCRIPTORS_MAX};
use super::failure::{Complaint, GaveUp, not_upgraded};
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
    /// Told that it writes, or why it does not.
    pub done: oneshot::Sender<Result<(), Fallen>>,
}

/// A successor that was let write and does not. It is yet to be ended.
pub struct Fallen {
    started: Started,
    error: GaveUp,
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
                let (done, outcome) = oneshot::channel();
                let successor = Ready {
                    started,
                    entry,
                    done,
                };
                // Nobody there drops the other end of `outcome`.
                ready.send(successor).await.ok();
                match outcome.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(Fallen { started, error })) => {
                        Err(self.give_up(started, error, &program).await)
                    }
                    // Whoever lets it write is gone, and the successor has been ended with that.
                    Err(_) => {
                        self.0.keeper.go_on().await;
                        let gave_up = GaveUp::Because(Reason::Stopping, None);
                        Err(gave_up.into_reply(&program, None, Vec::new()))
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
            "root and the daemon's own user may; without --binary it is the file that the running process was started from",
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
            () = started.chatters() => Heard::Chatters,
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
    async fn give_up(&self, mut started: Started, error: GaveUp, program: &Path) -> Reply {
        let status = started.end().await;
        self.0.keeper.go_on().await;
        let words = started.words();
        for line in &words {
            tracing::error!(line, "the new process said");
        }
        let reply = error.into_reply(program, status, words);
        tracing::error!(
            error = reply.error(),
            hint = reply.hint(),
            "not upgraded; this process goes on"
        );
        reply
    }
}

impl Ready {
    /// Lets the successor write, and waits until it says that it does. The way to it, its process, and who is to be told;
    /// none if it does not write: then that was told, and this process goes on.
    pub async fn commit(self) -> Option<(Channel, u32, oneshot::Sender<Result<(), Fallen>>)> {
        let Ready {
            started,
            entry,
            done,
        } = self;
        let pid = started.pid();
        // One that is gone is found gone below.
        started
            .channel
            .send(&Down::Commit { entry }, &[])
            .await
            .ok();
        let mut said = Said::default();
        let heard = said.from(&started, Instant::now() + COMMIT_TIME).await;
        let reason = match (Stage::Committing.handle(heard).1, pid) {
            (Next::LetGo, Some(pid)) => return Some((started.let_go(), pid, done)),
            (Next::LetGo, None) => Reason::GoneBeforeReady,
            (Next::GiveUp(reason), _) => reason,
            // Out of turn: it was let write already.
            (Next::PutDown | Next::Go | Next::Commit, _) => Reason::Nonsense,
        };
        let error = GaveUp::Because(reason, said.failure);
        // The driver waits; if it does not, the process is ending, and the successor is ended when this is dropped.
        done.send(Err(Fallen { started, error })).ok();
        None
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

/// What a successor has said, beside that it was heard.
#[derive(Default)]
struct Said {
    version: Option<String>,
    failure: Option<Complaint>,
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
            Ok(Up::Failed { error, hint }) => {
                self.failure = Some(Complaint::new(&error, hint.as_deref()));
                Heard::Failed
            }
            Ok(Up::Follow { .. } | Up::CutTunnels { .. }) | Err(_) => Heard::Nonsense,
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Reply {
    not_upgraded(&with_sources(error), None, Vec::new())
}

/// For the successor's first line in the journal.
const COMMIT_TIME: Duration = Duration::from_secs(10);
/// The longest version that is believed.
const VERSION_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use tokio::process::Command;

    use super::*;

    /// The clock is the test's: the time of the commit passes at once.
    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_once_it_was_let_write_is_said_to_be_late() {
        let mut sleeping = Command::new("sleep");
        sleeping.arg("600");
        let (done, outcome) = oneshot::channel();
        let ready = Ready {
            started: Started::by(sleeping).expect("started"),
            entry: Map::new(),
            done,
        };
        assert!(ready.commit().await.is_none());
        let Ok(Err(Fallen { mut started, error })) = outcome.await else {
            panic!("it was said to write");
        };
        let status = started.end().await;
        assert!(status.is_some(), "it was still there to be ended");
        let reply = error.into_reply(Path::new("/new"), status, Vec::new());
        assert_eq!(reply.error(), Some("/new did not take over in time"));
    }

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
