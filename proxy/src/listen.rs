//! Listening sockets and the acceptor.
//!
//! Owns binding, accepting, the connection cap and the spreading over workers: each connection goes to the worker that
//! has the fewest. At the cap nothing is accepted; connections wait in the kernel's queue instead of being refused.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::config::Listen;
use crate::edge::Scheme;
use crate::inherit::{self, InheritError, Inherited, Place, Wanted};
use crate::worker::{Accepted, Admission, Phase, Shared, TooMany};

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// What the configuration has for it.
    pub wanted: Wanted,
    /// Somebody else holds it as well, for the process after this one.
    pub is_kept_outside: bool,
    /// How their connections begin.
    pub begins: Begins,
    /// Where it is bound; the port is never 0.
    pub address: SocketAddr,
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// With the client's own bytes.
    Plainly,
    /// With a head of the PROXY protocol, from a load balancer.
    WithProxyHead,
}

/// Not every address of the configuration can be listened on, or something else would be.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket that is there already cannot be used.
    #[error(transparent)]
    Inherit(#[from] InheritError),
}

impl ListenError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ListenError::Bind(error) => error.hint(),
            ListenError::Inherit(error) => error.hint(),
        }
    }
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

impl BindError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there: `ss -ltnp` names it; stop it or change [listen]"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: setcap cap_net_bind_service=+ep on the binary, or higher ports"
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            _ => "change [listen] in the configuration",
        }
    }
}

/// Every address of the configuration with a socket: one of `inherited` where there is one for it, else one that is
/// bound here.
///
/// # Errors
/// `Bind`: an address is in use, not this machine's, or not permitted. `Inherit`: an inherited socket that nobody wants.
pub fn open_all(
    config: &Listen,
    mut inherited: Vec<Inherited>,
) -> Result<Vec<Listener>, ListenError> {
    let of = |scheme| {
        move |address: &SocketAddr| Wanted {
            scheme,
            address: *address,
        }
    };
    let http = config.http.iter().map(of(Scheme::Http));
    let https = config.https.iter().map(of(Scheme::Https));
    let listeners = http.chain(https).map(|wanted| {
        let begins = match config.proxy_protocol.contains(&wanted.address) {
            true => Begins::WithProxyHead,
            false => Begins::Plainly,
        };
        match inherit::take(&mut inherited, wanted) {
            Some(taken) => Ok(Listener {
                socket: taken.socket,
                wanted,
                is_kept_outside: taken.place.is_kept_outside,
                begins,
                address: taken.place.address,
            }),
            None => bind(wanted, begins),
        }
    });
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    inherit::close_the_rest(inherited)?;
    Ok(listeners)
}

/// Binds an address. An IPv6 address takes IPv6 alone, so that `[::]:80` and `0.0.0.0:80` live side by side.
fn bind(wanted: Wanted, begins: Begins) -> Result<Listener, BindError> {
    let address = wanted.address;
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Without it a restart would wait for the connections of the process before to time out.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let refused = |source| BindError { address, source };
    let socket = bound().map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    Ok(Listener {
        socket,
        wanted,
        is_kept_outside: false,
        begins,
        address,
    })
}

impl Listener {
    /// The same socket once more, for another process. As long as it is open, connections come in.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn again(&self) -> io::Result<Inherited> {
        Ok(Inherited {
            socket: self.socket.try_clone()?,
            place: Place {
                address: self.address,
                wanted: Some(self.wanted),
                is_kept_outside: self.is_kept_outside,
                name: None,
            },
        })
    }
}

/// A worker as the acceptor sees it.
#[derive(Clone)]
pub struct Seat {
    /// Where its connections are handed over.
    pub connections: mpsc::Sender<Accepted>,
    /// How many it has.
    pub open: Arc<std::sync::atomic::AtomicUsize>,
}

/// Accepts from [`Phase::Serving`] until the process hands over or drains. Returns with the listener closed.
pub async fn accept(listener: Listener, shared: Arc<Shared>, seats: Vec<Seat>) {
    let address = listener.address;
    let socket = match tokio::net::TcpListener::from_std(listener.socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%address, %error, "cannot watch a listener");
            return;
        }
    };
    let mut backoff = Backoff::default();
    shared.reached(Phase::Serving).await;
    loop {
        let cap = shared.settings.load().limits.connections;
        if shared.connections.open() >= cap {
            shared.metrics.reject("connections");
            tokio::select! {
                () = shared.connections.below(cap) => {}
                () = shared.reached(Phase::HandedOver) => return,
            }
        }
        let accepted = tokio::select! {
            biased;
            () = shared.reached(Phase::HandedOver) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                if !shared.descriptors.is_for_clients(&tcp) {
                    shared.metrics.reject("descriptors");
                    tracing::warn!(%address, "file descriptors run out; connections wait in the kernel's queue");
                    tokio::select! {
                        () = until_there_are_descriptors(&tcp, &shared, &mut backoff) => {}
                        // It was accepted here, and nobody else can serve it.
                        () = shared.reached(Phase::HandedOver) => {}
                    }
                }
                backoff.reset();
                let how = (listener.wanted.scheme, listener.begins);
                hand_over(tcp, peer, how, &shared, &seats).await;
            }
            Err(error) => {
                if let Some(wait) = backoff.after(&error) {
                    shared.metrics.reject("accept");
                    tracing::warn!(%address, %error, "cannot accept; connections wait in the kernel's queue");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// Keeps a connection that took one of the last descriptors until there are more: whoever has waited so long is not
/// turned away.
async fn until_there_are_descriptors(
    held: &tokio::net::TcpStream,
    shared: &Shared,
    backoff: &mut Backoff,
) {
    loop {
        tokio::time::sleep(backoff.longer()).await;
        if shared.descriptors.are_free_for_clients(held) {
            return;
        }
    }
}

async fn hand_over(
    tcp: tokio::net::TcpStream,
    peer: SocketAddr,
    (scheme, begins): (Scheme, Begins),
    shared: &Arc<Shared>,
    seats: &[Seat],
) {
    let counted = match begins {
        Begins::Plainly => match shared.count_connection(peer.ip()) {
            Ok(counted) => counted,
            Err(TooMany) => return,
        },
        // The client is not known before its head is read, and the balancer is not counted.
        Begins::WithProxyHead => None,
    };
    // Off this thread's reactor: the worker registers it with its own.
    let tcp = match tcp.into_std() {
        Ok(tcp) => tcp,
        Err(error) => {
            tracing::warn!(%peer, %error, "cannot hand a connection over");
            return;
        }
    };
    let fewest = seats
        .iter()
        .min_by_key(|seat| seat.open.load(Ordering::Acquire));
    let Some(seat) = fewest else {
        return;
    };
    shared.metrics.accepted(scheme.as_str());
    let accepted = Accepted {
        tcp,
        peer,
        scheme,
        begins,
        counted,
        admission: Admission::new(shared, &seat.open),
    };
    if seat.connections.send(accepted).await.is_err() {
        tracing::error!("a worker is gone");
    }
}

/// How long to wait after an accept that failed for want of something (descriptors, memory).
#[derive(Debug, Default)]
struct Backoff {
    wait: Duration,
}

impl Backoff {
    fn reset(&mut self) {
        self.wait = Duration::ZERO;
    }

    fn longer(&mut self) -> Duration {
        self.wait = (self.wait * 2).clamp(ACCEPT_WAIT_MIN, ACCEPT_WAIT_MAX);
        self.wait
    }

    /// `None` when the error is about that one connection alone.
    fn after(&mut self, error: &io::Error) -> Option<Duration> {
        if matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        ) {
            return None;
        }
        Some(self.longer())
    }
}

/// Connections that the kernel keeps ready; it takes less if net.core.somaxconn is lower.
const BACKLOG: i32 = 4096;
const ACCEPT_WAIT_MIN: Duration = Duration::from_millis(10);
const ACCEPT_WAIT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_with_what_to_do() {
        let at = |address| Wanted {
            scheme: Scheme::Http,
            address,
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = bind(at(any), Begins::Plainly).expect("binds");
        let error = bind(at(first.address), Begins::Plainly).expect_err("is taken");
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {}", first.address)
        );
        assert!(error.hint().contains("ss -ltnp"));
    }

    #[test]
    fn accepting_waits_longer_each_time_until_it_succeeds() {
        let mut backoff = Backoff::default();
        let want = io::Error::from_raw_os_error(24);
        assert_eq!(backoff.after(&want), Some(ACCEPT_WAIT_MIN));
        assert_eq!(backoff.after(&want), Some(ACCEPT_WAIT_MIN * 2));
        for _ in 0..20 {
            backoff.after(&want);
        }
        assert_eq!(backoff.after(&want), Some(ACCEPT_WAIT_MAX));
        backoff.reset();
        assert_eq!(backoff.after(&want), Some(ACCEPT_WAIT_MIN));
        assert_eq!(
            backoff.after(&io::ErrorKind::ConnectionAborted.into()),
            None
        );
    }
}
