//! The two slots: small upstreams in this process that say in a header which one they are.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// The two upstreams of a cutover.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Slot {
    Blue,
    Green,
}

// === impl Slot ===

impl Slot {
    /// As it is written in `X-Slot`, and in orders.
    pub fn name(self) -> &'static str {
        match self {
            Slot::Blue => "blue",
            Slot::Green => "green",
        }
    }

    /// The one that is not this one.
    pub fn other(self) -> Slot {
        match self {
            Slot::Blue => Slot::Green,
            Slot::Green => Slot::Blue,
        }
    }

    /// The one that a response head names.
    pub fn of(head: &[u8]) -> Option<Slot> {
        [Slot::Blue, Slot::Green].into_iter().find(|slot| {
            let field = format!("x-slot: {}\r\n", slot.name());
            head.windows(field.len())
                .any(|window| window.eq_ignore_ascii_case(field.as_bytes()))
        })
    }
}

/// Starts one. It ends with this process.
pub fn start(slot: Slot) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answer = format!(
        "HTTP/1.1 200 OK\r\nX-Slot: {}\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        slot.name(),
        "x".repeat(BODY_BYTES)
    );
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let answer = answer.clone();
            // A connection that breaks is the proxy's to answer for: its client sees it.
            thread::spawn(move || serve(stream, answer.as_bytes()));
        }
    });
    Ok(address)
}

/// One connection. Requests have no bodies, and the next one comes after the answer.
fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&buffer[..read]),
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(answer)?;
        }
    }
}

/// Of each response.
pub const BODY_BYTES: usize = 1024;
