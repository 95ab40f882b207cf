//! Clients that hold connections without using them, beside those that are measured.
//!
//! Owns opening them, keeping them barely alive, and opening others in the place of those that were closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Outcome;
use crate::bed::HOST;

/// Some hundred stalled connections to one server. They go with this value.
pub struct Stalled {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How a connection stalls; a third of them each.
#[derive(Clone, Copy)]
enum Way {
    /// A head of which a byte comes now and then.
    Head,
    /// The same of a body.
    Body,
    /// A long response that nobody reads.
    Reader,
}

struct Client {
    way: Way,
    stream: TcpStream,
}

// === impl Stalled ===

impl Stalled {
    /// Opens all of them at `127.0.0.1:port`; returns when they are open.
    ///
    /// # Errors
    /// The server does not take them.
    pub fn open(port: u16) -> Outcome<Stalled> {
        let ways = [Way::Head, Way::Body, Way::Reader];
        let mut clients = Vec::new();
        for way in ways.into_iter().cycle().take(CLIENTS) {
            clients.push(Client::open(way, port)?);
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                thread::sleep(BETWEEN_BYTES);
                for client in &mut clients {
                    // A server that refuses new ones has ended its part of the comparison; the load will say so.
                    if !client.go_on()
                        && let Ok(other) = Client::open(client.way, port)
                    {
                        *client = other;
                    }
                }
            }
        });
        Ok(Stalled {
            is_over,
            thread: Some(thread),
        })
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panicked: the connections are gone all the same.
            let _ = thread.join();
        }
    }
}

// === impl Client ===

impl Client {
    fn open(way: Way, port: u16) -> Outcome<Client> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let head = match way {
            Way::Head => format!("GET /1k HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: "),
            Way::Body => {
                format!("POST /1k HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n")
            }
            Way::Reader => format!("GET /1m HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        };
        stream.write_all(head.as_bytes())?;
        stream.set_nonblocking(true)?;
        Ok(Client { way, stream })
    }

    /// Sends or takes one byte; whether the connection is still open.
    fn go_on(&mut self) -> bool {
        let mut byte = [b'a'];
        let moved = match self.way {
            Way::Head | Way::Body => match self.stream.write(&byte) {
                // Whoever was answered and closed is not waited for any more.
                Ok(_) => self.stream.peek(&mut byte),
                Err(error) => Err(error),
            },
            Way::Reader => self.stream.read(&mut byte),
        };
        match moved {
            Ok(0) => false,
            Ok(_) => matches!(self.way, Way::Reader),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// As many as one bored person opens from one machine.
const CLIENTS: usize = 600;
const BETWEEN_BYTES: Duration = Duration::from_millis(500);
