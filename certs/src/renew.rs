//! The keeper: one task that sees to it that every site has a certificate, and a newer one before it ends.
//!
//! Owns the rhythm: it looks at the plan of each site, starts attempts beside itself, takes in what came of them, and
//! publishes. Runs on the control thread; nothing here is in the way of a request. Invariants: a bundle is stored before
//! it is published, an attempt that fails changes nothing of what is served, and nothing that goes wrong ends the keeper:
//! an attempt that panics has failed, and a keeper that panics begins anew.

mod attempt;
mod case;
mod keeper;
mod report;
mod watch;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use crate::account::CaSettings;
use crate::budget::{Budget, Terms};
use crate::challenge::Challenges;
use crate::files::Watched;
use crate::order::Prefer;
use crate::preflight::Preflight;
use crate::publish::Publish;
use crate::request::KeyKind;
use crate::store::Store;

pub use keeper::ATTEMPTS_AT_ONCE;
use keeper::{Given, Keeper};
pub use report::{Renewed, SiteReport, days_left};

/// A site that gets its certificate from a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSite {
    /// The canonical host.
    pub host: String,
    /// The host, then its aliases: what the certificate is for.
    pub names: Vec<String>,
}

/// How certificates are obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The CAs: the first one, and those to fall back on. Not empty.
    pub cas: Vec<CaSettings>,
    /// The kind of key.
    pub key: KeyKind,
    /// The challenge.
    pub prefer: Prefer,
    /// What a name that does not lead here leads to.
    pub preflight: Preflight,
    /// Where the preflight looks, in place of port 80 of each name.
    pub preflight_via: Option<SocketAddr>,
    /// How much may be tried.
    pub budget: Budget,
}

// === impl Settings ===

impl Settings {
    /// Whether names are looked at over http: only where a CA will look there.
    pub(crate) fn looks_ahead(&self) -> bool {
        self.preflight != Preflight::Off && self.prefer == Prefer::Http01
    }

    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms {
            budget: self.budget,
            cas: &self.cas,
        }
    }
}

/// What the keeper keeps.
#[derive(Clone, Debug)]
pub struct Work {
    /// Sites with a certificate of a CA.
    pub acme: Vec<AcmeSite>,
    /// Sites with a certificate from files, and how these looked when they were read.
    pub files: Vec<Watched>,
    /// How certificates are obtained.
    pub settings: Settings,
}

/// What the keeper tells those who count.
pub trait Observe: Send + Sync {
    /// A site is not seen to any more: it has left the configuration, or gets its certificate elsewhere.
    fn left(&self, host: &str);
    /// The certificate of a site that is served from now on.
    fn served(&self, host: &str, not_after: SystemTime);
    /// When the next attempt for a site is made.
    fn next_attempt(&self, host: &str, at: SystemTime);
    /// An attempt has ended, with a certificate or without.
    fn attempted(&self, host: &str, is_issued: bool);
    /// A pair of files was refused.
    fn refused(&self, host: &str);
}

/// What the keeper works with.
#[derive(Clone)]
pub struct Parts {
    /// Where certificates are kept.
    pub store: Store,
    /// Where challenges are answered.
    pub challenges: Arc<Challenges>,
    /// Where certificates are served.
    pub publish: Arc<dyn Publish>,
    /// Who counts.
    pub observe: Arc<dyn Observe>,
}

/// Gives orders to the keeper.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    List(oneshot::Sender<Vec<SiteReport>>),
    Renew {
        host: Option<String>,
        is_forced: bool,
        reply: oneshot::Sender<Vec<Renewed>>,
    },
    Take(Box<Work>),
    Rest(oneshot::Sender<()>),
    GoOn,
}

// === impl Handle ===

impl Handle {
    /// All sites as they are now; none if the keeper has ended.
    pub async fn list(&self) -> Option<Vec<SiteReport>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::List(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Looks at a site again, or at all of them, without waiting for the next attempt, and waits for what comes of it.
    /// The CA is asked whether a renewal is due; `is_forced` renews in any case. The budget holds all the same.
    ///
    /// None if the keeper has ended; nothing in it if there is no such site.
    pub async fn renew(&self, host: Option<String>, is_forced: bool) -> Option<Vec<Renewed>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Renew {
            host,
            is_forced,
            reply,
        };
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    /// Drops what is under way and begins nothing, so that another process may: an order is on the disk, and is taken up
    /// from there. Returns once nothing runs.
    pub async fn rest(&self) {
        let (rests, resting) = oneshot::channel();
        // A keeper that has ended rests.
        self.commands.send(Command::Rest(rests)).await.ok();
        resting.await.ok();
    }

    /// Ends a rest. What another process has done meanwhile is read anew.
    pub async fn go_on(&self) {
        self.commands.send(Command::GoOn).await.ok();
    }

    /// Takes other work, after a reload. Does not wait. What was published by others is replaced by what is kept.
    pub fn take(&self, work: Work) {
        let command = Command::Take(Box::new(work));
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            // Rare, and not to be lost: somebody renews many sites at the same moment.
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(command).await.ok() });
        }
    }
}

/// A keeper that has not begun, and the way to reach it. The future ends when every handle is dropped.
pub fn start(parts: Parts, work: Work) -> (Handle, impl Future<Output = ()> + Send) {
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    (Handle { commands }, keep(parts, work, orders))
}

/// Without a keeper every certificate ends some day, and nobody notices before; with the process gone, all of its
/// connections end at once. So one that panics, which would be a bug here, is said, and another one begins with what is
/// on the disk. Orders that were waiting for an answer get none; others wait in the channel.
async fn keep(parts: Parts, work: Work, mut orders: mpsc::Receiver<Command>) {
    let mut given = Given {
        work,
        is_resting: false,
    };
    loop {
        let keeper = Keeper::new(parts.clone(), &given.work);
        let run = AssertUnwindSafe(keeper.run(&mut given, &mut orders));
        let Err(panic) = run.catch_unwind().await else {
            return;
        };
        let error = panic_text(&*panic);
        let wait_s = BEGIN_AGAIN.as_secs();
        tracing::error!(
            error,
            wait_s,
            "the keeper of certificates panicked, which is a bug; what is served is served on, and it begins anew"
        );
        tokio::time::sleep(BEGIN_AGAIN).await;
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it does not say why".to_owned())
}

/// Orders of operators that may wait.
const COMMANDS_MAX: usize = 64;
/// Between a keeper that panicked and the next one: a bug that is there each time must not take a whole core.
const BEGIN_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "renew/keeper_tests.rs"]
mod tests;
