//! A connection to an upstream: one that rests in the pool, or a new one.
//!
//! Owns connecting and its deadline. Which upstream it is was decided in `select.rs`; what is sent on it is not known
//! here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mana_control::Upstream;
use tokio::net::TcpStream;

use crate::descriptors::Descriptors;
use crate::pool::Pool;
use crate::upstream_io::{UpstreamIo, Witness};

/// A connection on which a request can be sent now.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub io: UpstreamIo,
    /// It has served a request before, so the upstream may be closing it at this moment.
    pub is_reused: bool,
}

/// A pooled connection to one of the upstream's addresses, if there is one.
pub fn reuse(
    pool: &Pool,
    upstream: &Upstream,
    idle_max: Duration,
    by: Witness,
    now: Instant,
) -> Option<Connected> {
    upstream.addresses.load().iter().find_map(|address| {
        let taken = pool.take(*address, idle_max, by, now);
        taken.map(|io| Connected {
            io,
            is_reused: true,
        })
    })
}

/// Why there is no new connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The last address's error; `NotFound` when the name resolves to nothing.
    #[error("cannot connect")]
    Upstream(#[source] io::Error),
    /// This process has no descriptor, port or memory for it, of which the upstream is innocent.
    #[error("nothing is left to connect with")]
    Exhausted(#[source] io::Error),
}

/// A new connection: each address in turn, each under the deadline.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// A dropped future leaves nothing behind.
pub async fn connect(
    upstream: &Upstream,
    descriptors: Descriptors,
    deadline: Duration,
) -> Result<Connected, ConnectError> {
    let addresses = upstream.addresses.load_full();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.iter() {
        match tokio::time::timeout(deadline, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) if !descriptors.is_for_upstreams(&tcp) => {
                return Err(ConnectError::Exhausted(io::ErrorKind::QuotaExceeded.into()));
            }
            Ok(Err(error)) if is_exhausted(&error) => return Err(ConnectError::Exhausted(error)),
            Ok(Ok(tcp)) => {
                // Heads and small bodies must not wait for an acknowledgement. A socket that refuses this still works.
                tcp.set_nodelay(true).ok();
                return Ok(Connected {
                    io: UpstreamIo::new(tcp, *address),
                    is_reused: false,
                });
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(ConnectError::Upstream(last))
}

/// ENFILE, EMFILE, ENOMEM, ENOBUFS, and EADDRNOTAVAIL, which says that all ports are taken.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 12 | 105 | 99))
}

/// One request's presence in an upstream's counters.
#[derive(Debug)]
pub struct Busy(Arc<Upstream>);

impl Busy {
    /// Counts a request in.
    pub fn count(upstream: &Arc<Upstream>) -> Busy {
        upstream.in_flight.fetch_add(1, Ordering::Relaxed);
        upstream.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(upstream))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
