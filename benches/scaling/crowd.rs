//! The clients: some ask all the time, the others have asked once and keep their connection.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::asking::ask;
use crate::setting::BODY_BYTES;
use crate::{Case, Outcome, host};

/// Open connections.
pub struct Crowd {
    busy: Vec<TcpStream>,
    /// Kept open.
    _idle: Vec<TcpStream>,
    request: String,
}

// === impl Crowd ===

impl Crowd {
    /// Opens all connections of a case, one after the other; each has one request answered.
    ///
    /// # Errors
    /// A connection that is refused, or an answer that is not 200.
    pub fn connect(address: SocketAddr, case: Case) -> Outcome<Crowd> {
        // The last one: a search from the first would show.
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n",
            host(case.sites - 1)
        );
        let mut all = Vec::with_capacity(case.connections);
        for number in 0..case.connections {
            let mut stream = connect(address, number)
                .map_err(|error| format!("connection {number} of {case:?}: {error}"))?;
            ask(&mut stream, request.as_bytes(), BODY_BYTES)?;
            all.push(stream);
        }
        let idle = all.split_off(BUSY.min(case.connections));
        Ok(Crowd {
            busy: all,
            _idle: idle,
            request,
        })
    }

    /// The busy ones ask for so long, each one request after the other. Returns how many were answered, in what time.
    ///
    /// # Errors
    /// A connection that breaks, or an answer that is not 200: the figure would be of something else.
    pub fn ask(&mut self, time: Duration) -> Outcome<(u64, Duration)> {
        let began = Instant::now();
        let end = began + time;
        let request = self.request.as_str();
        let requests = thread::scope(|scope| {
            let clients: Vec<_> = self
                .busy
                .iter_mut()
                .map(|stream| {
                    scope.spawn(move || -> io::Result<u64> {
                        let mut requests = 0;
                        while Instant::now() < end {
                            ask(stream, request.as_bytes(), BODY_BYTES)?;
                            requests += 1;
                        }
                        Ok(requests)
                    })
                })
                .collect();
            let mut requests = 0;
            for client in clients {
                requests += client.join().map_err(|_| "a client has panicked")??;
            }
            Ok::<u64, Box<dyn std::error::Error>>(requests)
        })?;
        Ok((requests, began.elapsed()))
    }
}

/// From an address of its own for each [`PER_ADDRESS`]: a pair of addresses has 28 000 ports, not all of them free.
fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let block = u8::try_from(number / PER_ADDRESS + 1).unwrap_or(u8::MAX);
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, block), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    Ok(stream)
}

/// Connections that ask; each is a thread.
pub const BUSY: usize = 32;
const PER_ADDRESS: usize = 5_000;
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
