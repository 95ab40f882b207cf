//! Constant load of every kind, which notices anything that a user would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::client::tls::{Offer, connect};
use super::client::websocket::{Received, Socket};
use super::{H1, H2, HOST, Proxy, Response};

/// Time between two requests of one client, so that many clients fit on a small machine.
const PACE: Duration = Duration::from_millis(2);
/// An answer that takes longer is late: by then somebody has pressed reload.
pub const LATE: Duration = Duration::from_secs(10);
/// What a websocket is closed with by a proxy that is taking its slot out of use (RFC 6455 7.4.1: going away).
const GOING_AWAY: u16 = 1001;

/// Clients that are at it until they are told to stop.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<Tally>,
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests answered as they should be.
    pub answered: usize,
    /// Anything else, as sentences.
    pub faults: Vec<String>,
    /// Requests over HTTP/2 that came after a GOAWAY, and were asked for again.
    pub put_off: usize,
    /// Answers that took longer than [`LATE`], connecting included.
    pub late: usize,
    /// What the slowest answer took, connecting included.
    pub slowest: Duration,
    /// The `x-test-id` of every POST.
    pub posts: Vec<String>,
    /// Messages and events that came.
    pub messages: usize,
    /// Websockets that were opened.
    pub websockets: usize,
    /// Websockets closed with 1001.
    pub websockets_cut: usize,
    /// Event streams that have ended.
    pub streams_ended: usize,
}

struct Shared {
    https: SocketAddr,
    is_over: tokio::sync::watch::Sender<bool>,
    /// Raised when streams and websockets are to be opened anew.
    round: tokio::sync::watch::Sender<usize>,
    answered: AtomicUsize,
    next_id: AtomicUsize,
}

// === impl Load ===

impl Load {
    /// Keep-alive, one connection each and HTTP/2, GET and POST.
    pub fn requests(proxy: &Proxy) -> Load {
        Load::requests_to(proxy.https())
    }

    /// The same to an address, whichever process answers there.
    pub fn requests_to(https: SocketAddr) -> Load {
        let mut load = Load::none(https);
        for _ in 0..3 {
            load.add(keep_alive);
        }
        for _ in 0..2 {
            load.add(multiplexed);
        }
        load.add(connection_each);
        load
    }

    /// All of that, and event streams and websockets.
    pub fn everything(proxy: &Proxy) -> Load {
        let mut load = Load::requests_and_websockets_to(proxy.https());
        for _ in 0..2 {
            load.add(events);
        }
        load
    }

    /// Requests, and websockets.
    pub fn requests_and_websockets_to(https: SocketAddr) -> Load {
        let mut load = Load::requests_to(https);
        for _ in 0..2 {
            load.add(websockets);
        }
        load
    }

    fn none(https: SocketAddr) -> Load {
        Load {
            shared: Arc::new(Shared {
                https,
                is_over: tokio::sync::watch::Sender::new(false),
                round: tokio::sync::watch::Sender::new(0),
                answered: AtomicUsize::new(0),
                next_id: AtomicUsize::new(0),
            }),
            clients: JoinSet::new(),
        }
    }

    fn add<F>(&mut self, client: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = Tally> + Send + 'static,
    {
        self.clients.spawn(client(Arc::clone(&self.shared)));
    }

    /// Requests answered so far, by all clients.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests have been answered.
    pub async fn goes_on_for(&self, requests: usize) {
        let goal = self.answered() + requests;
        super::eventually("the load goes on", async || self.answered() >= goal).await;
    }

    /// Has clients that hold an event stream or a websocket close it and open another one.
    pub fn renew_streams(&self) {
        self.shared.round.send_modify(|round| *round += 1);
    }

    /// Lets every client finish what it is at.
    pub async fn stop(self) -> Tally {
        self.shared.is_over.send_replace(true);
        let tallies = super::within("the load stops", self.clients.join_all()).await;
        tallies.into_iter().fold(Tally::default(), Tally::and)
    }
}

// === impl Tally ===

impl Tally {
    fn and(mut self, other: Tally) -> Tally {
        self.answered += other.answered;
        self.faults.extend(other.faults);
        self.put_off += other.put_off;
        self.late += other.late;
        self.slowest = self.slowest.max(other.slowest);
        self.posts.extend(other.posts);
        self.messages += other.messages;
        self.websockets += other.websockets;
        self.websockets_cut += other.websockets_cut;
        self.streams_ended += other.streams_ended;
        self
    }

    /// Asserts that no client has noticed anything.
    pub fn assert_unnoticed(&self) {
        let shown: Vec<_> = self.faults.iter().take(10).collect();
        assert!(
            self.faults.is_empty(),
            "{} faults among {} requests, such as {shown:#?}",
            self.faults.len(),
            self.answered
        );
    }
}

// === impl Shared ===

impl Shared {
    fn is_over(&self) -> bool {
        *self.is_over.borrow()
    }

    fn id(&self) -> String {
        format!("id-{}", self.next_id.fetch_add(1, Ordering::SeqCst))
    }

    /// Notes an answer to what began then; whether the connection can be used again.
    fn note<E: std::fmt::Debug>(
        &self,
        tally: &mut Tally,
        (what, begun): (&str, Instant),
        sent: &[u8],
        answer: Result<Response, E>,
    ) -> bool {
        let took = begun.elapsed();
        tally.slowest = tally.slowest.max(took);
        tally.late += usize::from(took > LATE);
        match answer {
            Ok(response)
                if response.status == 200 && (sent.is_empty() || response.body == sent) =>
            {
                tally.answered += 1;
                self.answered.fetch_add(1, Ordering::SeqCst);
                response.header("connection") != Some("close")
            }
            other => {
                tally.faults.push(format!("{what}: {other:?}"));
                false
            }
        }
    }
}

// === the clients ===

async fn keep_alive(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    let mut client = None;
    while !shared.is_over() {
        let begun = Instant::now();
        let connection = match client.take() {
            Some(connection) => Some(connection),
            None => dial(&shared, &mut tally).await,
        };
        let Some(mut connection) = connection else {
            continue;
        };
        if get_and_post(&shared, &mut tally, &mut connection, begun).await {
            client = Some(connection);
        }
        tokio::time::sleep(PACE).await;
    }
    tally
}

async fn connection_each(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    while !shared.is_over() {
        let begun = Instant::now();
        if let Some(mut connection) = dial(&shared, &mut tally).await {
            let answer = connection
                .try_request("GET", "/", "connection: close\r\n", b"")
                .await;
            shared.note(&mut tally, ("GET, one connection each", begun), b"", answer);
        }
        tokio::time::sleep(PACE).await;
    }
    tally
}

async fn multiplexed(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    let mut client: Option<H2> = None;
    while !shared.is_over() {
        let begun = Instant::now();
        let connection = match client.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => match dial_h2(&shared, &mut tally).await {
                Some(connection) => connection,
                None => continue,
            },
        };
        let id = shared.id();
        let body = Bytes::from(format!("body of {id}"));
        let post = H2::to("/echo")
            .method("POST")
            .header("x-test-id", &id)
            .body(())
            .unwrap();
        let (get, posted) = tokio::join!(
            connection.try_request(H2::to("/size?n=2000").body(()).unwrap(), Bytes::new()),
            connection.try_request(post, body.clone()),
        );
        if !is_unprocessed(&posted) {
            tally.posts.push(id);
        }
        let mut is_good = true;
        for (what, sent, answer) in [
            ("GET over h2", b"".as_ref(), get),
            ("POST over h2", &body, posted),
        ] {
            // It was not begun, and is asked for anew over another connection.
            if is_unprocessed(&answer) {
                tally.put_off += 1;
                is_good = false;
            } else {
                is_good &= shared.note(&mut tally, (what, begun), sent, answer);
            }
        }
        client = is_good.then_some(connection);
        tokio::time::sleep(PACE).await;
    }
    tally
}

/// Whether a request was turned away before anybody looked at it, because its connection is going away: RFC 9113 s8.7 lets
/// it be sent again, and browsers do so unasked.
fn is_unprocessed(answer: &Result<Response, h2::Error>) -> bool {
    let reason = |error: &h2::Error| error.is_remote().then(|| error.reason()).flatten();
    match answer {
        Ok(_) => false,
        Err(error) => match reason(error) {
            Some(h2::Reason::NO_ERROR) => error.is_go_away(),
            Some(reason) => reason == h2::Reason::REFUSED_STREAM,
            None => false,
        },
    }
}

async fn get_and_post(
    shared: &Shared,
    tally: &mut Tally,
    connection: &mut H1,
    begun: Instant,
) -> bool {
    let answer = connection.try_request("GET", "/", "", b"").await;
    if !shared.note(tally, ("GET, keep-alive", begun), b"", answer) {
        return false;
    }
    let begun = Instant::now();
    let id = shared.id();
    tally.posts.push(id.clone());
    let body = format!("body of {id}");
    let header = format!("x-test-id: {id}\r\n");
    let answer = connection
        .try_request("POST", "/echo", &header, body.as_bytes())
        .await;
    let what = ("POST, keep-alive", begun);
    shared.note(tally, what, body.as_bytes(), answer)
}

async fn events(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    let mut over = shared.is_over.subscribe();
    let mut round = shared.round.subscribe();
    while !shared.is_over() {
        round.mark_unchanged();
        let Some(mut connection) = dial(&shared, &mut tally).await else {
            continue;
        };
        let request = format!("GET /sse HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        if let Err(error) = connection.try_send(request.as_bytes()).await {
            tally.faults.push(format!("event stream: {error}"));
            continue;
        }
        let head = connection.reader.head().await;
        if head.status != 200 {
            tally.faults.push(format!("event stream: {head:?}"));
            continue;
        }
        loop {
            let event = tokio::select! {
                event = connection.reader.try_until(b"\n\n") => event,
                _ = over.wait_for(|over| *over) => return tally,
                _ = round.changed() => break,
            };
            if event.is_err() {
                tally.streams_ended += 1;
                break;
            }
            tally.messages += 1;
        }
    }
    tally
}

async fn websockets(shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::default();
    let mut round = shared.round.subscribe();
    while !shared.is_over() {
        round.mark_unchanged();
        let mut socket = match Socket::try_open(shared.https).await {
            Ok(socket) => socket,
            Err(error) => {
                tally.faults.push(format!("websocket: {error}"));
                continue;
            }
        };
        tally.websockets += 1;
        while !shared.is_over() {
            if round.has_changed().is_ok_and(|has_changed| has_changed) {
                socket.close().await;
                break;
            }
            // A send may fail where the close has come already; the close itself is what counts.
            socket.send("tick").await.ok();
            match socket.receive().await {
                Received::Text(text) if text == "tick" => tally.messages += 1,
                Received::Close(Some(GOING_AWAY)) => {
                    tally.websockets_cut += 1;
                    break;
                }
                other => {
                    tally.faults.push(format!("websocket: {other:?}"));
                    break;
                }
            }
            tokio::time::sleep(PACE * 5).await;
        }
    }
    tally
}

async fn dial(shared: &Shared, tally: &mut Tally) -> Option<H1> {
    match connect(shared.https, &Offer::h1(HOST)).await {
        Ok(stream) => Some(H1::over(stream)),
        Err(error) => {
            tally.faults.push(format!("connect: {error}"));
            None
        }
    }
}

async fn dial_h2(shared: &Shared, tally: &mut Tally) -> Option<H2> {
    let connection = match connect(shared.https, &Offer::h2(HOST)).await {
        Ok(stream) => H2::try_over(stream)
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match connection {
        Ok(connection) => Some(connection),
        Err(error) => {
            tally.faults.push(format!("h2 connect: {error}"));
            None
        }
    }
}
