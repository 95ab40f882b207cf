//! One worker's idle upstream connections.
//!
//! Owns them and decides which may be used again: the youngest first, none older than `timeouts.upstream_idle`, none
//! of which the witness knows that the upstream has closed it. One that rested for long enough that the upstream may be
//! tired of it is known by the kernel alone. Belongs to one worker, so nothing crosses a core.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::upstream_io::{UpstreamIo, Witness};

/// Idle connections by address.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
}

struct Idle {
    io: UpstreamIo,
    since: Instant,
}

impl Pool {
    /// A connection to `address` that is younger than `idle_max` and, as far as the witness knows, still open, if there is one.
    pub fn take(
        &self,
        address: SocketAddr,
        idle_max: Duration,
        by: Witness,
        now: Instant,
    ) -> Option<UpstreamIo> {
        let mut idle = self.lock();
        let connections = idle.get_mut(&address)?;
        while let Some(Idle { io, since }) = connections.pop() {
            let rested = now.saturating_duration_since(since);
            if rested >= idle_max {
                // Those below are older still.
                connections.clear();
                return None;
            }
            let by = match rested < RESTED_LONG {
                true => by,
                false => Witness::Kernel,
            };
            if io.is_alive(by) {
                return Some(io);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless there are `idle_connections_max` already.
    pub fn keep(&self, io: UpstreamIo, idle_connections_max: usize, now: Instant) {
        let mut idle = self.lock();
        let connections = idle.entry(io.address()).or_default();
        if connections.len() < idle_connections_max {
            io.rest();
            connections.push(Idle { io, since: now });
        }
    }

    /// Closes what is too old, so that an upstream that is about to stop is not held up by connections at rest.
    pub fn sweep(&self, idle_max: Duration, now: Instant) {
        self.lock().retain(|_, connections| {
            connections.retain(|idle| now.saturating_duration_since(idle.since) < idle_max);
            !connections.is_empty()
        });
    }

    /// Connections at rest.
    pub fn len(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Whether no connection is at rest.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Idle>>> {
        // Nothing in this file panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No upstream closes a connection that rested for less; one that rested for more is not on a busy way, where a system
/// call counts.
const RESTED_LONG: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    const IDLE_MAX: Duration = Duration::from_secs(4);

    async fn connection(listener: &TcpListener) -> (UpstreamIo, TcpStream) {
        let address = listener.local_addr().expect("bound");
        let connecting = TcpStream::connect(address);
        let (ours, theirs) = tokio::join!(connecting, listener.accept());
        let io = UpstreamIo::new(ours.expect("connects"), address);
        (io, theirs.expect("accepts").0)
    }

    #[tokio::test]
    async fn the_youngest_open_connection_is_taken_and_old_ones_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let pool = Pool::default();
        let start = Instant::now();
        let (first, _keep) = connection(&listener).await;
        let address = first.address();
        pool.keep(first, 8, start);
        assert!(
            pool.take(address, IDLE_MAX, Witness::Kernel, start + IDLE_MAX)
                .is_none()
        );
        assert!(pool.is_empty());

        let (second, their_end) = connection(&listener).await;
        pool.keep(second, 8, start);
        assert!(
            pool.take(address, IDLE_MAX, Witness::Kernel, start)
                .is_some()
        );
        drop(their_end);
    }

    #[tokio::test]
    async fn a_connection_that_the_upstream_closed_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let pool = Pool::default();
        let now = Instant::now();
        let (io, their_end) = connection(&listener).await;
        let address = io.address();
        drop(their_end);
        pool.keep(io, 8, now);
        assert!(pool.take(address, IDLE_MAX, Witness::Kernel, now).is_none());
    }

    #[tokio::test]
    async fn the_kernel_is_asked_about_one_that_rested_for_long_whoever_asks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let pool = Pool::default();
        let start = Instant::now();
        for (rested, is_taken) in [(Duration::ZERO, true), (RESTED_LONG, false)] {
            let (io, their_end) = connection(&listener).await;
            let address = io.address();
            pool.keep(io, 8, start);
            their_end.writable().await.expect("open");
            // No turn of the runtime behind this.
            their_end.try_write(b"unasked").expect("written");
            let taken = pool.take(address, IDLE_MAX, Witness::Runtime, start + rested);
            assert_eq!(taken.is_some(), is_taken, "{rested:?}");
        }
    }

    #[tokio::test]
    async fn the_pool_is_bounded_per_address_and_swept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let pool = Pool::default();
        let now = Instant::now();
        let mut theirs = Vec::new();
        for _ in 0..3 {
            let (io, their_end) = connection(&listener).await;
            theirs.push(their_end);
            pool.keep(io, 2, now);
        }
        assert_eq!(pool.len(), 2);
        pool.sweep(IDLE_MAX, now + IDLE_MAX);
        assert!(pool.is_empty());
    }
}
