//! What the proxy supplies: the reading of its configuration, its certificates, its way to a new process, and what else
//! `status` should say.
//!
//! Owns the traits that keep this crate ignorant of configuration files, listeners, TLS and other processes.

use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Map, Value};

use tokio::sync::oneshot;

use crate::caller::Caller;
use crate::driver::Pen;
use crate::host::Host;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::state::State;
use crate::table::SiteSettings;

/// Reads the configuration again.
pub trait Reloader: Send + Sync {
    /// Reads and checks everything, and changes nothing. Called on a blocking thread.
    ///
    /// # Errors
    /// All faults of the configuration, as the caller of `reload` should see them.
    fn prepare(&self) -> Result<Prepared, String>;

    /// A reload has been asked for and is about to be prepared. Must not block.
    fn begins(&self) {}

    /// The reload that had begun is over, whatever came of it. Must not block.
    fn is_over(&self) {}
}

/// A configuration that was read and is sound.
pub struct Prepared {
    /// The sites. Not empty.
    pub sites: Vec<SiteSettings>,
    /// Keys that changed and are only looked at when the daemon starts.
    pub needs_restart: Vec<String>,
    /// Something that is not the table's differs from what is in force: limits, deadlines, certificates.
    pub is_changed_beside: bool,
    /// Takes over what is not the table's. Called after the table is published, on the control thread: it must not
    /// block.
    pub commit: Box<dyn FnOnce() + Send>,
}

/// Adds to the reply of `status`: version, uptime, listeners, connections.
pub trait StatusExtra: Send + Sync {
    /// Puts fields beside `sites`. Must not block.
    fn add(&self, status: &mut Map<String, Value>);
}

/// Answers the verbs about certificates, of which this crate knows nothing.
pub trait Certificates: Send + Sync {
    /// All certificates, or the one of a site.
    fn list(&self, site: Option<Host>) -> Answer;
    /// Renews what is due, of all sites or of one; everything with `force`. May take minutes.
    fn renew(&self, site: Option<Host>, force: bool) -> Answer;
}

/// Hands everything to a new process.
pub trait Upgrader: Send + Sync {
    /// Starts the new process and sees it take over. The driver's half is in `pen`: whoever has put it down and fails
    /// after that gets it back by failing. `gone` resolves when the caller waits no more, which ends a wait for the process
    /// before, and nothing that has begun.
    fn upgrade(&self, order: UpgradeOrder, gone: oneshot::Receiver<()>, pen: Pen) -> Upgrading;
}

/// What a caller wants of an upgrade.
pub struct UpgradeOrder {
    /// The program; the one that runs unless given.
    pub binary: Option<PathBuf>,
    /// For each of the two steps of the new process.
    pub timeout: Duration,
    /// Wait for the process before this one, rather than be refused.
    pub wait: bool,
    /// Who wants it.
    pub caller: Caller,
}

/// An upgrade under way. An error is the reply to the caller: nothing was changed then.
pub type Upgrading = Pin<Box<dyn Future<Output = Result<Upgraded, Reply>> + Send>>;

/// A new process serves, and waits to be let write.
pub struct Upgraded {
    /// What the caller is told.
    pub reply: Reply,
    /// Lets the new process write. It is given the journal's line of the upgrade, which is the first that it writes.
    pub commit: Commit,
}

/// Lets the new process write, given the line of the journal. An error is the reply to the caller: nothing was changed.
pub type Commit = Box<dyn FnOnce(Map<String, Value>) -> Committing + Send>;

/// A new process on its way to being the writer.
pub type Committing = Pin<Box<dyn Future<Output = Result<(), Reply>> + Send>>;

/// The process before this one, which still serves what it had begun.
pub trait Predecessor: Send + Sync {
    /// Tells it what was published, so that its requests go where those of this process go, or wait where those do. Must
    /// not block.
    fn follow(&self, state: &State, paused: &[Host]);
    /// Requests that it has in this slot, tunnels included.
    fn in_flight(&self, host: &Host, slot: Slot) -> usize;
    /// Resolves when it has none in this slot, and has followed this generation, so that none can come.
    fn drained(&self, host: &Host, slot: Slot, generation: u64) -> Drained;
    /// Has it close the tunnels of this slot. Must not block.
    fn cut_tunnels(&self, host: &Host, slot: Slot);
}

/// The end of what a predecessor has in a slot.
pub type Drained = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A reply that takes its time.
pub type Answer = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// No configuration to read and nothing to add: for tests, and for a daemon without a configuration file.
#[derive(Debug)]
pub struct NoHooks;

impl Reloader for NoHooks {
    fn prepare(&self) -> Result<Prepared, String> {
        Err("this daemon has no configuration file to read again".to_owned())
    }
}

impl Certificates for NoHooks {
    fn list(&self, _site: Option<Host>) -> Answer {
        no_certificates()
    }

    fn renew(&self, _site: Option<Host>, _force: bool) -> Answer {
        no_certificates()
    }
}

fn no_certificates() -> Answer {
    let reply = Reply::refusal(Code::Refused, "this daemon keeps no certificates");
    Box::pin(std::future::ready(reply))
}

impl Upgrader for NoHooks {
    fn upgrade(&self, _order: UpgradeOrder, _gone: oneshot::Receiver<()>, _pen: Pen) -> Upgrading {
        let reply = Reply::refusal(Code::Refused, "this daemon cannot be upgraded");
        Box::pin(std::future::ready(Err(reply)))
    }
}

impl Predecessor for NoHooks {
    fn follow(&self, _state: &State, _paused: &[Host]) {}

    fn in_flight(&self, _host: &Host, _slot: Slot) -> usize {
        0
    }

    fn drained(&self, _host: &Host, _slot: Slot, _generation: u64) -> Drained {
        Box::pin(std::future::ready(()))
    }

    fn cut_tunnels(&self, _host: &Host, _slot: Slot) {}
}

impl StatusExtra for NoHooks {
    fn add(&self, _status: &mut Map<String, Value>) {}
}
