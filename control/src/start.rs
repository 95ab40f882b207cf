//! From a state directory and some sites to a running control side, and back to nothing.
//!
//! Owns the order of the steps. [`open`] does whatever can fail for a reason in the state or the configuration, before
//! anything is bound; [`Opened::serve`] binds the socket and starts the tasks; [`Running::stop`] ends them all.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::change::{add_new_sites, first_table};
use crate::driver::{Driver, DriverHandle, Parts, Stopper};
use crate::hooks::{Certificates, Predecessor, Reloader, StatusExtra, Upgrader};
use crate::host::Host;
use crate::journal::{Journal, JournalError, read_last, timestamp};
use crate::prober;
use crate::server::{ControlSocket, Door, SocketError, SocketOptions};
use crate::slot::Slot;
use crate::state::{State, StateDir, StateError};
use crate::table::{Published, SiteSettings};

/// Why the control side does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to serve.
    #[error("the configuration has no site")]
    NoSites,
    /// The state cannot be trusted or kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal cannot be kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// The state is read and the first table is there; nothing runs yet.
#[derive(Debug)]
pub struct Opened {
    dir: Arc<StateDir>,
    journal: Journal,
    state: State,
    published: Arc<Published>,
}

/// What [`Opened::serve`] needs of the proxy.
pub struct ServeOptions {
    /// The control socket.
    pub socket: SocketOptions,
    /// Reads the configuration again for `reload`.
    pub reloader: Arc<dyn Reloader>,
    /// Adds to `status`.
    pub status_extra: Arc<dyn StatusExtra>,
    /// Answers `certs`.
    pub certificates: Arc<dyn Certificates>,
    /// Carries out `upgrade`.
    pub upgrader: Arc<dyn Upgrader>,
    /// The process before this one.
    pub predecessor: Arc<dyn Predecessor>,
}

/// The control side at work.
pub struct Running {
    /// The table. The driver is the only one who stores to it.
    pub published: Arc<Published>,
    /// Gives orders without the socket, for example the `reload` of a SIGHUP.
    pub handle: DriverHandle,
    /// Changes with each publication of a table.
    pub publications: watch::Receiver<u64>,
    stopper: Stopper,
    stopping: watch::Sender<bool>,
    door: Door,
    driver: JoinHandle<()>,
    server: JoinHandle<()>,
    prober: JoinHandle<()>,
}

/// Reads the state and makes the first table. Blocks on the disk, and on the resolver where upstreams have names.
///
/// The state wins over the configuration for the active slot, and only for that: addresses come from the
/// configuration. A site without a state starts at its `initial` slot, which is stored at once.
///
/// # Errors
/// `NoSites`, `State`, `Journal`. Nothing was changed then, and there is no table.
pub fn open(state_dir: &Path, sites: &[SiteSettings]) -> Result<Opened, StartError> {
    open_in(StateDir::open(state_dir)?, sites)
}

/// The same with the lock that the process before has handed over.
///
/// # Errors
/// As [`open`].
pub fn take_over(
    state_dir: &Path,
    lock: File,
    sites: &[SiteSettings],
) -> Result<Opened, StartError> {
    open_in(StateDir::take_over(state_dir, lock)?, sites)
}

fn open_in(dir: StateDir, sites: &[SiteSettings]) -> Result<Opened, StartError> {
    if sites.is_empty() {
        return Err(StartError::NoSites);
    }
    let state_dir = dir.path().to_owned();
    let stored = dir.load()?;
    let mut journal = Journal::open(&state_dir)?;
    if let Some(stored) = &stored {
        note_what_is_missing(&dir, &mut journal, stored)?;
    }
    let mut state = stored.clone().unwrap_or(State {
        generation: 1,
        ..State::default()
    });
    add_new_sites(&mut state, sites);
    if stored.as_ref() != Some(&state) {
        dir.store(&state)?;
    }
    let table = first_table(&state, sites);
    for site in table.sites() {
        info!(site = %site.settings.host, active = %site.active, generation = site.generation, "site opened");
    }
    Ok(Opened {
        dir: Arc::new(dir),
        journal,
        state,
        published: Arc::new(Published::from_pointee(table)),
    })
}

/// A change that was stored but is not in the journal: the daemon ended in between, or the journal was lost. Says so.
fn note_what_is_missing(
    dir: &StateDir,
    journal: &mut Journal,
    state: &State,
) -> Result<(), StartError> {
    let history = read_last(dir.path(), 20)?;
    let last = history
        .entries
        .iter()
        .filter_map(|entry| entry.get("generation")?.as_u64())
        .max();
    // A journal without a line belongs to the first generation, which nobody has made.
    if last.unwrap_or(1) >= state.generation {
        return Ok(());
    }
    warn!(
        generation = state.generation,
        "the last change is not in the journal"
    );
    let entry: Map<String, Value> = Map::from_iter([
        ("time".to_owned(), json!(timestamp(SystemTime::now()))),
        ("generation".to_owned(), json!(state.generation)),
        ("outcome".to_owned(), json!("unrecorded")),
    ]);
    journal.append(&entry)?;
    Ok(())
}

// === impl Opened ===

impl Opened {
    /// Adds a line to the journal that the process before could not write any more. Blocks on the disk.
    ///
    /// # Errors
    /// `Journal`
    pub fn record(&mut self, entry: &Map<String, Value>) -> Result<(), StartError> {
        Ok(self.journal.append(entry)?)
    }

    /// Where requests find the table, from now on.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published)
    }

    /// Binds the socket and starts the driver, the prober and the server. Call it in the runtime of the control thread.
    ///
    /// # Errors
    /// `Socket`. Nothing runs then.
    pub async fn serve(self, options: ServeOptions) -> Result<Running, StartError> {
        let socket = ControlSocket::bind(&options.socket).await?;
        Ok(self.serve_on(socket, options))
    }

    /// The same on a socket that is bound already, or was handed over. Call it in the runtime of the control thread.
    pub fn serve_on(self, socket: ControlSocket, options: ServeOptions) -> Running {
        let door = socket.door();
        door.claim();
        let (publications, published_again) = watch::channel(0);
        let (stopping, is_stopping) = watch::channel(false);
        let published = self.published();
        let (handle, stopper, driver) = Driver::start(Parts {
            dir: self.dir,
            journal: self.journal,
            state: self.state,
            published: self.published,
            publications,
            reloader: options.reloader,
            status_extra: options.status_extra,
            certificates: options.certificates,
            upgrader: options.upgrader,
            predecessor: options.predecessor,
        });
        Running {
            driver: tokio::spawn(driver),
            server: tokio::spawn(socket.serve(handle.clone(), is_stopping)),
            // Ends with the driver, which owns the sender.
            prober: tokio::spawn(prober::run(Arc::clone(&published), published_again.clone())),
            publications: published_again,
            published,
            handle,
            stopper,
            stopping,
            door,
        }
    }
}

// === impl Running ===

impl Running {
    /// The control socket, for the process that takes over.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// Leaves the control socket to the process that has taken over: whoever connects from now on is answered there.
    /// Requests that are under way are answered here.
    pub fn leave_socket(&self) {
        self.door.leave();
        self.stopping.send_replace(true);
    }

    /// Publishes what the process that has taken over has published, and pauses what it has paused.
    pub async fn follow(&self, state: State, paused: Vec<Host>) {
        self.stopper.follow(state, paused).await;
    }

    /// Closes the tunnels of a slot for the process that has taken over.
    pub async fn cut_tunnels(&self, host: Host, slot: Slot) {
        self.stopper.cut_tunnels(host, slot).await;
    }

    /// Ends everything: what is being stored is stored and published, whoever waits is answered, the socket is
    /// removed, the state directory is let go.
    pub async fn stop(self) {
        self.stopper.stop().await;
        self.stopping.send_replace(true);
        for task in [self.driver, self.server, self.prober] {
            // A task that panicked has ended too; the panic was reported where it happened.
            task.await.ok();
        }
    }
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
