//! The composition root: what the daemon starts, in order, and how it ends.
//!
//! Owns threads, signals and the way out. Three kinds of threads: workers serve requests, one accepts connections, and
//! the one that calls [`run`] does everything that is not a request: control socket, probes, admin listener, signals.

mod error;
mod serving;
mod sockets;
mod state;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mana_certs::store::Store;
use mana_certs::{Challenges, renew};
use mana_control::caller::Allowed;
use mana_control::server::SocketOptions;
use mana_control::start::ServeOptions;
use tokio::sync::{mpsc, watch};

use crate::about::About;
use crate::access_log::AccessLog;
use crate::admin;
use crate::certificates::{Verbs, load_bundles, work};
use crate::config::{Config, SiteConfig};
use crate::descriptors::{self, Descriptors};
use crate::edge::{HttpsPort, Scheme};
use crate::front::Front;
use crate::handshakes::Handshakes;
use crate::inherit::{self, Inherited};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::per_address::RequestRates;
use crate::reload::FromFile;
use crate::signals::Signals;
use crate::tls::Keyring;
use crate::upgrade::arrival::Arrival;
use crate::upgrade::before::Before;
use crate::upgrade::linger::Deadlines;
use crate::upgrade::outgoing::{self, Outgoing};
use crate::upgrade::sockets::Sockets;
use crate::watchdog;
use crate::worker::{self, Phase, Settings, Shared};

pub use error::RunError;
use serving::Serving;

/// Where the daemon listens; ports are never 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// `listen.http`
    pub http: Vec<SocketAddr>,
    /// `listen.https`
    pub https: Vec<SocketAddr>,
    /// `admin.listen`
    pub admin: Option<SocketAddr>,
}

/// Runs the daemon until SIGTERM or SIGINT. `file` is read again at a reload; `beside` runs on the control thread as long
/// as the daemon does, and learns where it listens.
///
/// # Errors
/// It could not start; nothing is left behind then. Once it serves, it ends without an error.
pub fn run<F>(config: Config, file: &Path, beside: impl FnOnce(Bound) -> F) -> Result<(), RunError>
where
    F: Future<Output = ()>,
{
    // First of all: it changes the environment, which no other thread may read meanwhile.
    let inherited = inherit::from_service_manager()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|source| RunError::Start {
            what: "the control runtime",
            source,
        })?;
    let ended = runtime.block_on(serve(config, file.to_owned(), inherited, beside));
    // What the deadline left behind must not keep the process.
    runtime.shutdown_background();
    ended
}

/// A process that takes over tells the one before why it does not.
async fn serve<F>(
    config: Config,
    file: PathBuf,
    inherited: Vec<Inherited>,
    beside: impl FnOnce(Bound) -> F,
) -> Result<(), RunError>
where
    F: Future<Output = ()>,
{
    let mut arrival = Arrival::from_environment().await?;
    let served = start_and_serve(config, file, inherited, &mut arrival, beside).await;
    if let (Err(error), Some(arrival)) = (&served, &arrival) {
        arrival.failed(error, error.hint()).await;
    }
    served
}

async fn start_and_serve<F>(
    config: Config,
    file: PathBuf,
    inherited: Vec<Inherited>,
    arrival: &mut Option<Arrival>,
    beside: impl FnOnce(Bound) -> F,
) -> Result<(), RunError>
where
    F: Future<Output = ()>,
{
    let descriptors = Descriptors::of_limit(raise_file_limit(config.limits.connections));
    let metrics = Arc::new(Metrics::new()?);
    let challenges = Arc::new(Challenges::default());
    let keyring = Arc::new(Keyring::new(Arc::clone(&challenges))?);
    let loaded = load_bundles(&config, &keyring, &metrics, SystemTime::now())?;
    keyring.replace_all(loaded.bundles, loaded.bare, loaded.own);
    let parts = renew::Parts {
        store: Store::at(&config.state_dir),
        challenges: Arc::clone(&challenges),
        publish: keyring.clone(),
        observe: metrics.clone(),
    };
    let (keeper, keeping) = renew::start(parts, work(&config, loaded.watched)?);
    let (access, access_thread) =
        AccessLog::open(&config.access_log.to, config.access_log.buffer_lines)?;
    let sockets = sockets::take(&config, inherited, arrival).await?;
    // Behind everything that can fail for a reason in the configuration.
    let opened = state::open(&config, &keyring, arrival).await?;
    let control = sockets::control(&config, arrival).await?;

    let sockets::Taken {
        listeners,
        admin: admin_listener,
        again,
    } = sockets;
    let bound = Bound {
        http: addresses(&listeners, Scheme::Http),
        https: addresses(&listeners, Scheme::Https),
        admin: admin_listener.as_ref().map(|(_, address)| *address),
    };
    let (phase, phase_watch) = watch::channel(match arrival {
        Some(_) => Phase::Arriving,
        None => Phase::Serving,
    });
    let shared = Arc::new(Shared {
        published: opened.published(),
        settings: ArcSwap::from_pointee(settings_of(&config)),
        keyring,
        challenges,
        https_port: match bound.https.first() {
            Some(address) => HttpsPort::Port(address.port()),
            None => HttpsPort::None,
        },
        metrics,
        access,
        phase: phase_watch,
        connections: worker::Connections::default(),
        connection_counts: Arc::default(),
        request_rates: RequestRates::default(),
        handshakes: Handshakes::default(),
        descriptors,
    });
    let signals = Signals::listen()?;
    let notifier = Arc::new(Notifier::default());
    let (workers, deadlines) = (config.server.workers, deadlines(&config));
    let sites = Arc::new(ArcSwap::from_pointee(config.sites.clone()));
    let certificates = Arc::new(Verbs {
        keeper: keeper.clone(),
        keyring: Arc::clone(&shared.keyring),
        sites: Arc::clone(&sites),
    });
    let (before, courier) = Before::nobody();
    let (ready, successors) = mpsc::channel(1);
    let outgoing = Outgoing::new(outgoing::Parts {
        sockets: Sockets::of(again, control.door(), config.control.socket.clone()),
        keyring: Arc::clone(&shared.keyring),
        keeper: keeper.clone(),
        before: Arc::clone(&before),
        ready,
    });
    let options = ServeOptions {
        socket: socket_options(&config),
        reloader: Arc::new(FromFile::new(
            file,
            config,
            Arc::clone(&shared),
            keeper,
            sites,
            Arc::clone(&notifier),
        )),
        certificates,
        status_extra: Arc::new(About::new(&shared, &bound, workers, Arc::clone(&before))),
        upgrader: Arc::new(outgoing.clone()),
        predecessor: before,
    };
    let silence_max = watchdog::limit();
    let beat_every = watchdog::beat_every(silence_max);
    let front = Front::start(&shared, listeners, workers, beat_every)?;
    let running = state::begin(opened, control, options, arrival, courier, deadlines).await?;
    phase.send_replace(Phase::Serving);
    // Behind the listeners: a CA that is asked comes to them at once.
    let keeping = tokio::spawn(keeping);
    let admin = admin_listener
        .map(|(listener, _)| tokio::spawn(admin::serve(listener, Arc::clone(&shared))));
    announce(&bound, workers);
    let telling = serving::tell(&notifier, &shared, &running, &front, silence_max);
    let serving = Serving {
        shared,
        phase,
        front,
        running,
        admin,
        keeping,
        telling,
        notifier,
        outgoing,
        successors,
        access_thread,
    };
    serving
        .until_the_end(signals, deadlines, beside(bound))
        .await;
    Ok(())
}

fn deadlines(config: &Config) -> Deadlines {
    Deadlines {
        upgrade: config.server.upgrade_deadline,
        shutdown: config.server.shutdown_deadline,
    }
}

/// What a reload may change for requests.
pub fn settings_of(config: &Config) -> Settings {
    Settings {
        timeouts: config.timeouts.clone(),
        limits: config.limits.clone(),
        client: config.client.clone(),
        compression: config.compression.clone(),
    }
}

/// What the table needs of each site.
pub fn site_settings(sites: &[SiteConfig]) -> Vec<mana_control::SiteSettings> {
    sites.iter().map(|site| site.settings.clone()).collect()
}

fn socket_options(config: &Config) -> SocketOptions {
    SocketOptions {
        path: config.control.socket.clone(),
        gid: config.control.group_gid,
        allowed: Allowed {
            uids: config.control.allow_uids.clone(),
            gids: config.control.allow_gids.clone(),
        },
    }
}

fn addresses(listeners: &[Listener], scheme: Scheme) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter(|listener| listener.wanted.scheme == scheme)
        .map(|listener| listener.address)
        .collect()
}

fn announce(bound: &Bound, workers: usize) {
    for address in &bound.http {
        tracing::info!(%address, "listening for http");
    }
    for address in &bound.https {
        tracing::info!(%address, "listening for https");
    }
    if let Some(address) = bound.admin {
        tracing::info!(%address, "listening for metrics and health");
    }
    tracing::info!(workers, version = env!("CARGO_PKG_VERSION"), "serving");
}

/// A limit that stays lower than what is wanted is said, not hidden: near it, new connections wait in the kernel's queue.
/// Returns what the limit is.
fn raise_file_limit(connections: usize) -> u64 {
    let wanted = descriptors::wanted(connections);
    match rlimit::increase_nofile_limit(wanted) {
        Ok(limit) => {
            if limit < wanted {
                tracing::info!(
                    limit,
                    wanted,
                    "fewer file descriptors than limits.connections may need"
                );
            }
            limit
        }
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of file descriptors");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(wanted, |(soft, _)| soft)
        }
    }
}

/// fsyncs, file reads, name resolution.
const BLOCKING_THREADS_MAX: usize = 8;
