//! One worker: a thread with a runtime of its own, its connections, its pool. And what all workers share.
//!
//! Owns the thread and the loop that takes connections over from the acceptor. What a connection does is in
//! `connection.rs` and `connection_h2.rs`. Nothing here is written by more than one thread, except the counters.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mana_certs::Challenges;
use mana_control::Published;
use tokio::sync::{mpsc, watch};

use crate::access::Record;
use crate::access_log::AccessLog;
use crate::client_address::{ClientRules, counted_under};
use crate::config::{Compression, Limits, Timeouts};
use crate::connection;
use crate::descriptors::Descriptors;
use crate::edge::{HttpsPort, Scheme};
use crate::failpoint::{self, Failpoint};
use crate::handshakes::Handshakes;
use crate::listen::Begins;
use crate::metrics::{KnownCounters, Metrics};
use crate::per_address::{ConnectionCounts, Counted, RequestRates};
use crate::pool::Pool;
use crate::request_head::RequestHead;
use crate::tls::Keyring;
use crate::watchdog::Pulse;

/// What a reload may change for requests that start after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// All deadlines.
    pub timeouts: Timeouts,
    /// All sizes and counts.
    pub limits: Limits,
    /// Who the client is.
    pub client: ClientRules,
    /// What is compressed.
    pub compression: Compression,
}

/// How far the process is on its way. `(Arriving) => Serving => (HandedOver) => Draining => Closing`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Another process still decides whether this one takes over: nothing is accepted, so that nothing is lost with it.
    Arriving,
    /// Connections are accepted.
    Serving,
    /// Another process accepts; each response is the last one of its connection. Connections at rest stay as long as
    /// they would, and so do tunnels: nobody waits for this process to end.
    HandedOver,
    /// None are accepted, and those at rest end soon.
    Draining,
    /// Tunnels are cut, connections at rest are closed; requests still finish.
    Closing,
}

/// What all workers read.
pub struct Shared {
    /// The table.
    pub published: Arc<Published>,
    /// Deadlines and limits.
    pub settings: ArcSwap<Settings>,
    /// Certificates and the TLS configuration on them.
    pub keyring: Arc<Keyring>,
    /// What a CA asks for.
    pub challenges: Arc<Challenges>,
    /// Where redirects to https lead.
    pub https_port: HttpsPort,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where records go.
    pub access: AccessLog,
    /// The way out.
    pub phase: watch::Receiver<Phase>,
    /// Open client connections of all workers.
    pub connections: Connections,
    /// The same by address.
    pub connection_counts: Arc<ConnectionCounts>,
    /// Requests by address.
    pub request_rates: RequestRates,
    /// TLS handshakes in flight.
    pub handshakes: Handshakes,
    /// Which file descriptors connections may have.
    pub descriptors: Descriptors,
}

/// Counts open connections and wakes the acceptor when one closes.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    closed: tokio::sync::Notify,
}

impl Connections {
    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Resolves when fewer than `max` are open.
    pub async fn below(&self, max: usize) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open() < max {
                return;
            }
            closed.await;
        }
    }
}

impl Shared {
    /// How far the process is on its way out.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves when the process is in `phase` or behind it.
    pub async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.clone();
        if watch.wait_for(|now| *now >= phase).await.is_err() {
            // The sender ends with the process.
            std::future::pending::<()>().await;
        }
    }

    /// Counts a connection in at its address, if its address is one that is counted.
    ///
    /// # Errors
    /// The address has as many as it may; the connection is to be closed.
    pub fn count_connection(&self, address: IpAddr) -> Result<Option<Counted>, TooMany> {
        let settings = self.settings.load();
        if !settings.client.is_limited(address) {
            return Ok(None);
        }
        let max = settings.limits.connections_per_address;
        match self.connection_counts.enter(counted_under(address), max) {
            Some(counted) => Ok(Some(counted)),
            None => {
                self.metrics.reject("connections_per_address");
                Err(TooMany)
            }
        }
    }

    /// Resolves when tunnels must end because the process does.
    pub async fn cut_tunnels(&self) {
        self.reached(Phase::Closing).await;
    }
}

/// One address has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub struct TooMany;

/// A connection that was accepted, on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Not blocking.
    pub tcp: TcpStream,
    /// The other end.
    pub peer: SocketAddr,
    /// Which kind of listener accepted it.
    pub scheme: Scheme,
    /// Whether a head of the PROXY protocol comes first.
    pub begins: Begins,
    /// Its place in the count of its address; none if it has none, or is not known yet.
    pub counted: Option<Counted>,
    /// Its place in the counts.
    pub admission: Admission,
}

/// A connection's place in the counts; it leaves them when this is dropped.
pub struct Admission {
    shared: Arc<Shared>,
    of_worker: Arc<AtomicUsize>,
}

impl Admission {
    /// Counts a connection in.
    pub fn new(shared: &Arc<Shared>, of_worker: &Arc<AtomicUsize>) -> Admission {
        shared.connections.open.fetch_add(1, Ordering::AcqRel);
        of_worker.fetch_add(1, Ordering::AcqRel);
        Admission {
            shared: Arc::clone(shared),
            of_worker: Arc::clone(of_worker),
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.of_worker.fetch_sub(1, Ordering::AcqRel);
        self.shared.connections.open.fetch_sub(1, Ordering::AcqRel);
        self.shared.connections.closed.notify_waiters();
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

/// What the connections of one worker share.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This worker's upstream connections at rest.
    pub pool: Pool,
    known_counters: KnownCounters,
}

impl Worker {
    /// How far the process is on its way out.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Counts and logs a request that is over. `head` is what it said, if it became one.
    pub fn finished(&self, record: &Record, head: Option<&RequestHead>) {
        let took = record.duration();
        record.count_on_upstream();
        let metrics = &self.shared.metrics;
        metrics.finished(record, took, &self.known_counters);
        self.shared.access.write(record, head, took);
    }
}

/// A running worker, as the acceptor sees it.
pub struct Handle {
    /// Takes connections over; bounded by `HANDOVER_MAX`.
    pub connections: mpsc::Sender<Accepted>,
    /// How many it has.
    pub open: Arc<AtomicUsize>,
    /// Joins when `connections` is dropped and the last connection is over.
    pub thread: JoinHandle<()>,
}

/// Starts a worker's thread.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn start(
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    beat_every: Duration,
) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    let (sender, receiver) = mpsc::channel(HANDOVER_MAX);
    let thread = std::thread::Builder::new()
        .name(pulse.name().to_owned())
        .spawn(move || {
            runtime.block_on(run(shared, receiver, &pulse, beat_every));
            pulse.end();
        })?;
    Ok(Handle {
        connections: sender,
        open: Arc::new(AtomicUsize::new(0)),
        thread,
    })
}

async fn run(
    shared: Arc<Shared>,
    mut connections: mpsc::Receiver<Accepted>,
    pulse: &Pulse,
    beat_every: Duration,
) {
    let worker = Arc::new(Worker {
        shared,
        pool: Pool::default(),
        known_counters: KnownCounters::default(),
    });
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut beats = tokio::time::interval(beat_every);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connections.recv() => match accepted {
                Some(accepted) => {
                    failpoint::hang(Failpoint::WorkerHangs);
                    tasks.spawn(connection::serve(accepted, Arc::clone(&worker)));
                }
                None => break,
            },
            _ = sweep.tick() => {
                let idle_max = worker.shared.settings.load().timeouts.upstream_idle;
                worker.pool.sweep(idle_max, Instant::now());
            }
            _ = beats.tick() => pulse.beat(),
            Some(ended) = tasks.join_next() => log_panic(ended),
        }
    }
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => log_panic(ended),
                None => return,
            },
            _ = beats.tick() => pulse.beat(),
        }
    }
}

/// A panic ends its connection and nothing else; it is a fault of ours all the same.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Connections on their way to a worker; the acceptor waits when there are more.
const HANDOVER_MAX: usize = 1024;
/// How often connections at rest are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
