//! Clients at a constant rate, and when each request was due, answered, and by whom.
//!
//! A thread for each connection, not a task: tokio's timer rounds to a millisecond, which is more than what is to be seen.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::asking;
use crate::upstream::{BODY_BYTES, Slot};

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When it should have been sent: a client that is late counts its own delay, too.
    pub due: Instant,
    /// When the last byte of the answer was there, or when it failed.
    pub ended: Instant,
    /// Who has answered. None: the connection broke, or the answer was not 200.
    pub by: Option<Slot>,
}

/// How often to ask.
#[derive(Clone, Copy)]
pub enum Pace {
    /// The next request follows the answer.
    AsFastAsItGoes,
    /// So many requests a second, over all connections.
    Rate(f64),
}

/// Clients at work. They stop when they are told, or when this goes away.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Asked>>>,
}

// === impl Load ===

impl Load {
    /// [`CONNECTIONS`] clients begin to ask.
    pub fn start(address: SocketAddr, pace: Pace) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let clients = (0..CONNECTIONS)
            .map(|index| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || client(address, pace, index, began, &stop))
            })
            .collect();
        Load { stop, clients }
    }

    /// Waits for the last answers and returns all requests.
    pub fn end(mut self) -> Outcome<Vec<Asked>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for client in self.clients.drain(..) {
            all.extend(client.join().map_err(|_| "a client has panicked")?);
        }
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn client(
    address: SocketAddr,
    pace: Pace,
    index: u32,
    began: Instant,
    stop: &AtomicBool,
) -> Vec<Asked> {
    let mut asked = Vec::new();
    let mut connection = None;
    let mut turn = 0_u32;
    while !stop.load(Ordering::Relaxed) && asked.len() < REQUESTS_MAX {
        let due = match pace {
            Pace::AsFastAsItGoes => Instant::now(),
            Pace::Rate(rate) => {
                let nth = f64::from(turn) * f64::from(CONNECTIONS) + f64::from(index);
                began + Duration::from_secs_f64(nth / rate)
            }
        };
        turn += 1;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let by = exchange(&mut connection, address).unwrap_or_else(|_| {
            // The next request needs a new one; this one has failed.
            connection = None;
            None
        });
        asked.push(Asked {
            due,
            ended: Instant::now(),
            by,
        });
    }
    asked
}

/// One request on the connection that is there, or on a new one if there is none, or if the proxy has closed it while
/// nothing was asked: every client has to bear that, and does.
fn exchange(connection: &mut Option<TcpStream>, address: SocketAddr) -> io::Result<Option<Slot>> {
    if connection.as_ref().is_none_or(is_closed) {
        let new = TcpStream::connect(address)?;
        new.set_nodelay(true)?;
        new.set_read_timeout(Some(ANSWER_DEADLINE))?;
        *connection = Some(new);
    }
    let Some(stream) = connection else {
        return Ok(None);
    };
    let request = b"GET /page HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
    let head = asking::ask(stream, request, BODY_BYTES)?;
    if head
        .windows(17)
        .any(|field| field.eq_ignore_ascii_case(b"connection: close"))
    {
        *connection = None;
    }
    Ok(Slot::of(&head))
}

/// Whether the proxy has said goodbye. Nothing else may have come, since nothing was asked.
fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let peeked = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut byte));
    let is_open = matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    !(is_open && stream.set_nonblocking(false).is_ok())
}

/// Kept alive, one request at a time on each.
pub const CONNECTIONS: u32 = 32;
/// Of one client: memory, if somebody measures for a day.
const REQUESTS_MAX: usize = 10_000_000;
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
