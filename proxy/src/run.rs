//! The composition root: what the daemon starts, in order, and how it ends.
//!
//! Owns threads, signals and the way out. Three kinds of threads: workers serve requests, one accepts connections, and
//! the one that calls [`run`] does everything that is not a request: control socket, probes, admin listener, signals.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use mana_certs::store::Store;
use mana_certs::{Challenges, renew};
use mana_control::caller::{Allowed, Caller};
use mana_control::driver::DriverHandle;
use mana_control::hooks::StatusExtra;
use mana_control::server::SocketOptions;
use mana_control::start::{Running, ServeOptions, open};
use mana_control::{Request, Verb};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access_log::AccessLog;
use crate::admin;
use crate::certificates::{Verbs, load_bundles, work};
use crate::config::{Config, SiteConfig};
use crate::descriptors::{self, Descriptors};
use crate::edge::{HttpsPort, Scheme};
use crate::handshakes::Handshakes;
use crate::listen::{Begins, Listener, Seat, accept, bind};
use crate::metrics::Metrics;
use crate::per_address::RequestRates;
use crate::reload::FromFile;
use crate::tls::Keyring;
use crate::worker::{self, Phase, Settings, Shared};

/// Why the daemon cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A runtime, a thread or a signal handler cannot be had.
    #[error("cannot start {what}")]
    Start {
        /// The thing.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate is missing or does not fit its site.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    /// rustls cannot be set up.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// Counters cannot be set up.
    #[error("cannot set up the metrics")]
    Metrics(#[from] prometheus::Error),
    /// State directory or control socket.
    #[error(transparent)]
    Control(#[from] mana_control::start::StartError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] crate::listen::BindError),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] crate::access_log::OpenError),
}

impl RunError {
    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            RunError::Bind(error) => Some(error.hint().to_owned()),
            RunError::Admin(_) => Some(
                "another process listens there: `ss -ltnp` names it; stop it or change admin.listen"
                    .to_owned(),
            ),
            RunError::Certificate(_) => Some(
                "`mana-proxy check` says what is wrong with each certificate without starting anything"
                    .to_owned(),
            ),
            RunError::AccessLog(_) => {
                Some("let this user write there, or change access_log.to".to_owned())
            }
            RunError::Start { .. }
            | RunError::Tls(_)
            | RunError::Metrics(_)
            | RunError::Control(_) => None,
        }
    }
}

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|source| RunError::Start {
            what: "the control runtime",
            source,
        })?;
    let ended = runtime.block_on(serve(config, file.to_owned(), beside));
    // What the deadline left behind must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn serve<F>(
    config: Config,
    file: PathBuf,
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
    keyring.replace_all(loaded.bundles, loaded.bare);
    let parts = renew::Parts {
        store: Store::at(&config.state_dir),
        challenges: Arc::clone(&challenges),
        publish: keyring.clone(),
        observe: metrics.clone(),
    };
    let (keeper, keeping) = renew::start(parts, work(&config)?);
    let (access, access_thread) =
        AccessLog::open(&config.access_log.to, config.access_log.buffer_lines)?;
    let opened = open(&config.state_dir, &site_settings(&config.sites))?;

    let listeners = bind_all(&config)?;
    let admin_listener = match &config.admin {
        Some(admin) => Some(admin::bind(admin.listen).await?),
        None => None,
    };
    let bound = Bound {
        http: addresses(&listeners, Scheme::Http),
        https: addresses(&listeners, Scheme::Https),
        admin: admin_listener.as_ref().map(|(_, address)| *address),
    };
    let (phase, phase_watch) = watch::channel(Phase::Serving);
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
    let mut signals = Signals::listen()?;
    let shutdown_deadline = config.server.shutdown_deadline;
    let (socket, workers) = (socket_options(&config), config.server.workers);
    let sites = Arc::new(ArcSwap::from_pointee(config.sites.clone()));
    let certificates = Arc::new(Verbs {
        keeper: keeper.clone(),
        keyring: Arc::clone(&shared.keyring),
        sites: Arc::clone(&sites),
    });
    let options = ServeOptions {
        socket,
        reloader: Arc::new(FromFile::new(
            file,
            config,
            Arc::clone(&shared),
            keeper,
            sites,
        )),
        certificates,
        status_extra: Arc::new(About::new(&shared, &bound, workers)),
    };
    let running = opened.serve(options).await?;

    let front = Front::start(&shared, listeners, workers)?;
    // Behind the listeners: a CA that is asked comes to them at once.
    let keeping = tokio::spawn(keeping);
    let admin = admin_listener
        .map(|(listener, _)| tokio::spawn(admin::serve(listener, Arc::clone(&shared))));
    announce(&bound, workers);
    tokio::select! {
        () = signals.until_stop(&running, &shared) => {}
        () = async { beside(bound).await; std::future::pending().await } => {}
    }

    stop(&phase, &shared, front, shutdown_deadline).await;
    // An order that is under way is on the disk, and is taken up at the next start.
    keeping.abort();
    if timeout(CONTROL_TIME, running.stop()).await.is_err() {
        tracing::warn!("the control side does not end in time; the disk may hang");
    }
    if let Some(admin) = admin {
        admin.abort();
        // Aborted on purpose; there is nothing to learn from how it ended.
        admin.await.ok();
    }
    drop(shared);
    finish_log(access_thread).await;
    tracing::info!("stopped");
    Ok(())
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

fn bind_all(config: &Config) -> Result<Vec<Listener>, RunError> {
    let http = config
        .listen
        .http
        .iter()
        .map(|address| (address, Scheme::Http));
    let https = config
        .listen
        .https
        .iter()
        .map(|address| (address, Scheme::Https));
    http.chain(https)
        .map(|(address, scheme)| {
            let begins = match config.listen.proxy_protocol.contains(address) {
                true => Begins::WithProxyHead,
                false => Begins::Plainly,
            };
            Ok(bind(*address, scheme, begins)?)
        })
        .collect()
}

fn addresses(listeners: &[Listener], scheme: Scheme) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter(|listener| listener.scheme == scheme)
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

// === impl Front ===

/// The threads that serve.
struct Front {
    workers: Vec<worker::Handle>,
    acceptor: std::thread::JoinHandle<()>,
}

impl Front {
    fn start(
        shared: &Arc<Shared>,
        listeners: Vec<Listener>,
        workers: usize,
    ) -> Result<Front, RunError> {
        let start = |what| move |source| RunError::Start { what, source };
        let workers = (0..workers)
            .map(|index| worker::start(Arc::clone(shared), index))
            .collect::<Result<Vec<_>, _>>()
            .map_err(start("a worker"))?;
        let seats: Vec<Seat> = workers
            .iter()
            .map(|worker| Seat {
                connections: worker.connections.clone(),
                open: Arc::clone(&worker.open),
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(start("the acceptor's runtime"))?;
        let shared = Arc::clone(shared);
        let acceptor = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut accepting = tokio::task::JoinSet::new();
                    for listener in listeners {
                        accepting.spawn(accept(listener, Arc::clone(&shared), seats.clone()));
                    }
                    while accepting.join_next().await.is_some() {}
                });
            })
            .map_err(start("the acceptor"))?;
        Ok(Front { workers, acceptor })
    }

    /// Waits until all threads have ended.
    fn join(self) {
        let Front { workers, acceptor } = self;
        if acceptor.join().is_err() {
            tracing::error!("the acceptor panicked");
        }
        for worker in workers {
            drop(worker.connections);
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// Listeners close, every response is its connection's last, tunnels are cut in the middle of the deadline, and what is
/// left at its end is dropped and said.
async fn stop(
    phase: &watch::Sender<Phase>,
    shared: &Arc<Shared>,
    front: Front,
    deadline: Duration,
) {
    let began = Instant::now();
    tracing::info!(
        connections = shared.connections.open(),
        ?deadline,
        "draining"
    );
    phase.send_replace(Phase::Draining);
    let joined = tokio::task::spawn_blocking(|| front.join());
    tokio::pin!(joined);
    let until_cut = (deadline / 2).min(TUNNELS_STAY_MAX);
    if tokio::time::timeout(until_cut, &mut joined).await.is_ok() {
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "drained");
        return;
    }
    phase.send_replace(Phase::Closing);
    let left = deadline.saturating_sub(began.elapsed());
    if tokio::time::timeout(left, &mut joined).await.is_ok() {
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "drained");
    } else {
        let connections = shared.connections.open();
        tracing::warn!(connections, "the deadline passed; what is left is dropped");
    }
}

async fn finish_log(thread: Option<std::thread::JoinHandle<()>>) {
    let Some(thread) = thread else { return };
    let joined = tokio::task::spawn_blocking(move || thread.join());
    // A log that cannot be written in this time must not keep the process.
    tokio::time::timeout(LOG_TIME, joined).await.ok();
}

// === impl Signals ===

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, RunError> {
        let on = |kind| {
            signal(kind).map_err(|source| RunError::Start {
                what: "a signal handler",
                source,
            })
        };
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            reopen: on(SignalKind::user_defined1())?,
        })
    }

    async fn until_stop(&mut self, running: &Running, shared: &Shared) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Beside this loop, so that a reload that takes its time does not delay a stop.
                _ = self.hangup.recv() => {
                    tokio::spawn(reload(running.handle.clone()));
                }
                _ = self.reopen.recv() => shared.access.reopen(),
            }
        }
    }
}

async fn reload(handle: DriverHandle) {
    let caller = Caller::this_process("SIGHUP");
    let reply = handle.call(Request::new(Verb::Reload), caller, None).await;
    match reply.error() {
        None => tracing::info!(reply = %reply.to_line(), "reloaded"),
        Some(error) => tracing::error!(error, "not reloaded; the configuration before goes on"),
    }
}

// === impl About ===

/// What the proxy adds to `status`.
struct About {
    shared: Arc<Shared>,
    bound: Bound,
    workers: usize,
    started: Instant,
}

impl About {
    fn new(shared: &Arc<Shared>, bound: &Bound, workers: usize) -> About {
        About {
            shared: Arc::clone(shared),
            bound: bound.clone(),
            workers,
            started: Instant::now(),
        }
    }
}

impl StatusExtra for About {
    fn add(&self, status: &mut Map<String, Value>) {
        let text = |list: &[SocketAddr]| -> Vec<String> {
            list.iter().map(SocketAddr::to_string).collect()
        };
        let listen = json!({
            "http": text(&self.bound.http),
            "https": text(&self.bound.https),
            "admin": self.bound.admin.map(|address| address.to_string()),
        });
        let fields = [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("pid", json!(std::process::id())),
            ("uptime_s", json!(self.started.elapsed().as_secs())),
            ("workers", json!(self.workers)),
            ("connections", json!(self.shared.connections.open())),
            ("tunnels", json!(self.shared.metrics.tunnels_open())),
            ("listen", listen),
        ];
        for (name, value) in fields {
            status.insert(name.to_owned(), value);
        }
    }
}

/// fsyncs, file reads, name resolution.
const BLOCKING_THREADS_MAX: usize = 8;
/// The longest that tunnels stay open once the process drains.
const TUNNELS_STAY_MAX: Duration = Duration::from_secs(10);
/// For the end of what the driver is storing.
const CONTROL_TIME: Duration = Duration::from_secs(5);
/// For the last lines of the access log.
const LOG_TIME: Duration = Duration::from_secs(2);
