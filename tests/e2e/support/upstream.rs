//! An upstream that is strict about what it is sent, records it, and misbehaves when it is told to.
//!
//! It runs on a thread of its own, so that a test that blocks does not stop it. What it answers at which path is in
//! `answers.rs`; how it reads requests is in `connection.rs`. Anything that no proxy should send is a fault, and a
//! test ends in a panic if an upstream of it has seen one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::eventually;

mod answers;
mod connection;
mod websocket;

use connection::{Connection, End};

/// A running upstream.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// `Some` until it is dropped.
    runtime: Option<Runtime>,
}

/// How it treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests are answered.
    Serving,
    /// Connections are accepted and closed at once, as a port forwarder without a backend does.
    ClosingOnAccept,
    /// A request head is read, then the connection is closed.
    ClosingAfterHead,
    /// Requests are answered, and then the connection is closed, which no answer says.
    ClosingAfterAnswer,
    /// Requests are read and never answered, probes included.
    Silent,
}

/// How it answers probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// With this status; redirects lead to a page that answers 200.
    Status(u16),
    /// Not at all.
    Never,
    /// By closing the connection.
    Close,
}

/// Answers to the next probes, before [`Ping`] holds again.
type Script = std::collections::VecDeque<u16>;

/// One request that has reached the upstream. Probes are not among them.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The head as it came.
    pub head: String,
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Which connection it came on, counted from 1.
    pub connection: usize,
}

struct State {
    name: String,
    mode: Mutex<Mode>,
    ping: Mutex<Ping>,
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    faults: Mutex<Vec<String>>,
    /// Close codes of websockets, `None` where the connection ended without a close frame.
    websocket_ends: Mutex<Vec<Option<u16>>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    pings: AtomicUsize,
    /// Every `Host` that a probe has named.
    ping_hosts: Mutex<std::collections::BTreeSet<String>>,
    /// Counts calls of `release`.
    released: watch::Sender<usize>,
}

// === impl Upstream ===

impl Upstream {
    /// Starts one on a free port. The name is what it answers at `/`.
    pub async fn start(name: &str) -> Upstream {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("upstream {name}"))
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let upstream = Upstream {
            address: listener.local_addr().unwrap(),
            state: Arc::new(State::new(name)),
            accepting: Mutex::new(None),
            runtime: Some(runtime),
        };
        upstream.accept_from(listener);
        upstream
    }

    /// Where it listens, `127.0.0.1:PORT`, also while it is stopped.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Closes the listener and every connection.
    pub async fn stop(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            accepting.await.ok();
        }
        eventually("its connections are closed", async || self.open() == 0).await;
    }

    /// Listens again at the same address.
    pub async fn start_again(&self) {
        let _guard = self.runtime().enter();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.accept_from(socket.listen(1024).unwrap().into_std().unwrap());
    }

    fn accept_from(&self, listener: std::net::TcpListener) {
        let state = Arc::clone(&self.state);
        let accepting = self.runtime().spawn(async move {
            accept(TcpListener::from_std(listener).unwrap(), state).await;
        });
        *lock(&self.accepting) = Some(accepting);
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until drop")
    }

    /// Changes how connections are treated.
    pub fn be(&self, mode: Mode) {
        *lock(&self.state.mode) = mode;
    }

    /// Changes how probes are answered.
    pub fn answer_pings(&self, ping: Ping) {
        *lock(&self.state.ping) = ping;
    }

    /// Answers the next probes with these, one each.
    pub fn answer_next_pings(&self, statuses: &[u16]) {
        *lock(&self.state.script) = statuses.iter().copied().collect();
    }

    /// Lets everything go on that waits at `/hold` and `/hold-body`.
    pub fn release(&self) {
        self.state.released.send_modify(|released| *released += 1);
    }

    /// Requests that have reached it, probes not counted.
    pub fn requests(&self) -> usize {
        lock(&self.state.seen).len()
    }

    /// Everything that has reached it, probes not included.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.state.seen).clone()
    }

    /// The last request to a path.
    pub fn last_seen(&self, path: &str) -> Seen {
        let seen = lock(&self.state.seen);
        let found = seen.iter().rev().find(|seen| seen.path() == path);
        found
            .unwrap_or_else(|| panic!("{} has seen no {path}", self.state.name))
            .clone()
    }

    /// Waits until so many requests to a path have reached it.
    pub async fn wait_for(&self, path: &str, count: usize) {
        eventually(
            &format!("{count} times {path} at {}", self.state.name),
            async || {
                lock(&self.state.seen)
                    .iter()
                    .filter(|seen| seen.path() == path)
                    .count()
                    >= count
            },
        )
        .await;
    }

    /// How often each `x-test-id` has reached it.
    pub fn ids(&self) -> HashMap<String, usize> {
        let mut ids = HashMap::new();
        for seen in lock(&self.state.seen).iter() {
            if let Some(id) = seen.header("x-test-id") {
                *ids.entry(id.to_owned()).or_default() += 1;
            }
        }
        ids
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        lock(&self.state.seen).clear();
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Probes answered or left without an answer so far.
    pub fn pings(&self) -> usize {
        self.state.pings.load(Ordering::SeqCst)
    }

    /// Every `Host` that a probe has named.
    pub fn ping_hosts(&self) -> Vec<String> {
        lock(&self.state.ping_hosts).iter().cloned().collect()
    }

    /// What it was sent that no proxy should send.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.state.faults).clone()
    }

    /// Forgets the faults, so that the end of the test is no panic.
    pub fn forgive(&self) {
        lock(&self.state.faults).clear();
    }

    /// How its websockets have ended: the close code that reached it, if one did.
    pub fn websocket_ends(&self) -> Vec<Option<u16>> {
        lock(&self.state.websocket_ends).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let faults = self.faults();
        if !faults.is_empty() && !std::thread::panicking() {
            panic!(
                "{} was sent what no proxy should send: {faults:#?}",
                self.state.name
            );
        }
    }
}

// === impl Seen ===

impl Seen {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The one value of a header; a panic if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "several {name}: {values:?}");
        values.first().copied()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn query(&self, key: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.query(key)?.parse().ok()
    }
}

// === impl State ===

impl State {
    fn new(name: &str) -> State {
        State {
            name: name.to_owned(),
            mode: Mutex::new(Mode::Serving),
            ping: Mutex::new(Ping::Status(200)),
            script: Mutex::default(),
            seen: Mutex::default(),
            faults: Mutex::default(),
            websocket_ends: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            pings: AtomicUsize::new(0),
            ping_hosts: Mutex::default(),
            released: watch::Sender::new(0),
        }
    }

    fn next_ping(&self) -> Ping {
        match lock(&self.script).pop_front() {
            Some(status) => Ping::Status(status),
            None => *lock(&self.ping),
        }
    }

    fn mode(&self) -> Mode {
        *lock(&self.mode)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, _) = listener.accept().await.unwrap();
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        if state.mode() == Mode::ClosingOnAccept {
            continue;
        }
        let place = Open::count(&state);
        connections.spawn(async move {
            serve(&place.0, stream, number).await;
        });
    }
}

async fn serve(state: &Arc<State>, stream: TcpStream, number: usize) {
    stream.set_nodelay(true).unwrap();
    let mut connection = Connection::new(stream, number);
    loop {
        match answers::answer_one(state, connection).await {
            Ok(Some(next)) => connection = next,
            Ok(None) | Err(End::Gone) => return,
            Err(End::Fault(fault)) => {
                lock(&state.faults).push(fault);
                return;
            }
        }
    }
}

/// Counts one open connection until it is dropped.
struct Open(Arc<State>);

impl Open {
    fn count(state: &Arc<State>) -> Open {
        state.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
