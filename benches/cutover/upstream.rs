//! The two slots: small upstreams in this process that say in a header which one they are.

use std::io;
use std::net::SocketAddr;

use crate::answering;

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
    let answer = format!(
        "HTTP/1.1 200 OK\r\nX-Slot: {}\r\nContent-Type: text/plain\r\nContent-Length: {BODY_BYTES}\r\n\r\n{}",
        slot.name(),
        "x".repeat(BODY_BYTES)
    );
    answering::start(answer.into_bytes())
}

/// Of each response.
pub const BODY_BYTES: usize = 1024;
