//! Listening sockets that are there before this process: from a socket unit, or from the process before.
//!
//! Owns where they come from, what must hold of them, and which configured address each of them serves. What is not
//! inherited is bound by `listen.rs`. An inherited socket stays open in whoever handed it over, so connections that
//! nobody has accepted outlive this process: it is closed here and never shut down.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

use crate::edge::Scheme;

/// A listening socket that another process has bound.
#[derive(Debug)]
pub struct Inherited {
    /// Not blocking, and closed in processes that this one starts.
    pub socket: TcpListener,
    /// Where it is bound, and by whom.
    pub place: Place,
}

/// Where an inherited socket is bound, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its local address.
    pub address: SocketAddr,
    /// What the configuration of the process before had for it; none from a socket unit.
    pub wanted: Option<Wanted>,
    /// Somebody else holds it as well, for the next process: connections come in even where nobody accepts.
    pub is_kept_outside: bool,
    /// What the socket unit calls it.
    pub name: Option<String>,
}

/// An address of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The list that it is in.
    pub scheme: Scheme,
    /// As it is written; the port may be 0.
    pub address: SocketAddr,
}

/// An inherited socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// It is no TCP socket.
    #[error("cannot use inherited socket {number} ({name})")]
    NotTcp {
        /// Counted from 0, as the socket unit lists them.
        number: usize,
        /// What the socket unit calls it.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It does not listen: `Accept=yes`, or a socket unit of something else.
    #[error("the inherited socket on {address} does not listen")]
    NotListening {
        /// Its local address.
        address: SocketAddr,
    },
    /// It takes IPv4 too.
    #[error("the inherited socket on {address} takes IPv4 as well as IPv6")]
    DualStack {
        /// Its local address.
        address: SocketAddr,
    },
    /// No address of the configuration is its own.
    #[error("nobody would accept on the inherited socket on {address} ({name})")]
    NotWanted {
        /// Its local address.
        address: SocketAddr,
        /// What the socket unit calls it.
        name: String,
    },
}

impl InheritError {
    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            InheritError::NotTcp { .. } => {
                "the socket unit has another socket than TCP: ListenStream= with a port is one"
            }
            InheritError::NotListening { .. } => "the socket unit needs Accept=no",
            InheritError::DualStack { .. } => {
                "the socket unit needs BindIPv6Only=ipv6-only, and a ListenStream= of its own for IPv4"
            }
            InheritError::NotWanted { .. } => {
                "add the address to [listen] of the configuration, or take it out of the socket unit: else its clients would wait for ever"
            }
        }
    }
}

/// What the service manager has passed to this process, if it has. The variables that say so are taken out of the
/// environment: call it while the process has one thread.
///
/// # Errors
/// `NotTcp`, `NotListening`, `DualStack`.
pub fn from_service_manager() -> Result<Vec<Inherited>, InheritError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for number in 0..passed.len() {
        let name = names.next().filter(|name| !name.is_empty());
        let not_tcp = |source| InheritError::NotTcp {
            number,
            name: name.unwrap_or("unnamed").to_owned(),
            source,
        };
        let taken = passed.take_tcp_listener(number).map_err(not_tcp)?;
        // Each number is asked for once, so it is there.
        let Some(socket) = taken else { continue };
        let address = checked(&socket, not_tcp)?;
        sockets.push(Inherited {
            socket,
            place: Place {
                address,
                wanted: None,
                is_kept_outside: true,
                name: name.map(str::to_owned),
            },
        });
    }
    Ok(sockets)
}

/// Its address, once all holds that has to.
fn checked(
    socket: &TcpListener,
    failed: impl Fn(io::Error) -> InheritError,
) -> Result<SocketAddr, InheritError> {
    let address = socket.local_addr().map_err(&failed)?;
    let options = SockRef::from(socket);
    if !options.is_listener().map_err(&failed)? {
        return Err(InheritError::NotListening { address });
    }
    if address.is_ipv6() && !options.only_v6().map_err(&failed)? {
        return Err(InheritError::DualStack { address });
    }
    socket.set_nonblocking(true).map_err(&failed)?;
    Ok(address)
}

/// Takes out of `sockets` the one that this address of the configuration is served by.
pub fn take(sockets: &mut Vec<Inherited>, wanted: Wanted) -> Option<Inherited> {
    let places = sockets.iter().map(|socket| &socket.place);
    let found = position(places, wanted)?;
    Some(sockets.remove(found))
}

/// What was there before for the same entry of the configuration, else what is bound to that address. Port 0 stands for
/// the port that it was given then.
fn position<'a>(places: impl Iterator<Item = &'a Place> + Clone, wanted: Wanted) -> Option<usize> {
    let same_entry = |place: &Place| place.wanted == Some(wanted);
    let same_address = |place: &Place| place.address == wanted.address;
    places
        .clone()
        .position(same_entry)
        .or_else(|| places.clone().position(same_address))
}

/// What no address of the configuration has asked for is closed, if that ends it.
///
/// # Errors
/// `NotWanted`: it is kept outside, and would take connections that nobody serves.
pub fn close_the_rest(sockets: Vec<Inherited>) -> Result<(), InheritError> {
    for Inherited { place, .. } in sockets {
        if place.is_kept_outside {
            return Err(InheritError::NotWanted {
                address: place.address,
                name: place.name.unwrap_or_else(|| "unnamed".to_owned()),
            });
        }
        tracing::info!(address = %place.address, "no longer in the configuration; closed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, before: Option<(Scheme, &str)>) -> Place {
        Place {
            address: address.parse().expect("an address"),
            wanted: before.map(|(scheme, address)| wanted(scheme, address)),
            is_kept_outside: before.is_none(),
            name: None,
        }
    }

    fn wanted(scheme: Scheme, address: &str) -> Wanted {
        Wanted {
            scheme,
            address: address.parse().expect("an address"),
        }
    }

    #[test]
    fn an_address_is_served_by_the_socket_that_is_bound_to_it() {
        let places = [
            place("0.0.0.0:80", None),
            place("[::]:80", None),
            place("0.0.0.0:443", None),
        ];
        for (address, expected) in [
            ("0.0.0.0:80", Some(0)),
            ("[::]:80", Some(1)),
            ("0.0.0.0:443", Some(2)),
            ("[::]:443", None),
            ("127.0.0.1:80", None),
            ("0.0.0.0:0", None),
        ] {
            let found = position(places.iter(), wanted(Scheme::Http, address));
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn an_entry_of_the_configuration_gets_what_it_had_before() {
        let places = [
            place("127.0.0.1:4001", Some((Scheme::Http, "127.0.0.1:0"))),
            place("127.0.0.1:4002", Some((Scheme::Https, "127.0.0.1:0"))),
            place("127.0.0.1:443", Some((Scheme::Http, "127.0.0.1:443"))),
        ];
        for (scheme, address, expected) in [
            (Scheme::Https, "127.0.0.1:0", Some(1)),
            (Scheme::Http, "127.0.0.1:0", Some(0)),
            // It was in the other list: the address is the same.
            (Scheme::Https, "127.0.0.1:443", Some(2)),
        ] {
            let found = position(places.iter(), wanted(scheme, address));
            assert_eq!(found, expected, "{scheme:?} {address}");
        }
    }

    #[test]
    fn a_socket_is_taken_once() {
        let bound = || {
            let socket = TcpListener::bind("127.0.0.1:0").expect("binds");
            let address = socket.local_addr().expect("an address");
            let place = place(&address.to_string(), None);
            Inherited { socket, place }
        };
        let mut sockets = vec![bound(), bound()];
        let wanted = Wanted {
            scheme: Scheme::Http,
            address: sockets[1].place.address,
        };
        assert!(take(&mut sockets, wanted).is_some());
        assert!(take(&mut sockets, wanted).is_none());
        let left = sockets[0].place.address;
        let error = close_the_rest(sockets).expect_err("it is kept outside");
        assert!(error.to_string().contains(&left.to_string()), "{error}");
    }

    #[test]
    fn a_socket_that_does_not_listen_or_takes_ipv4_too_is_refused() {
        let failed = |source| InheritError::NotTcp {
            number: 0,
            name: String::new(),
            source,
        };
        let bound = |address: &str, only_v6| {
            use socket2::{Domain, Socket, Type};
            let address: SocketAddr = address.parse().expect("an address");
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(only_v6)?;
            }
            socket.bind(&address.into())?;
            io::Result::Ok(socket)
        };
        let idle = bound("127.0.0.1:0", true).expect("binds");
        let refused = checked(&idle.into(), failed).expect_err("it does not listen");
        assert!(matches!(refused, InheritError::NotListening { .. }));
        // A machine without IPv6 has nothing to refuse.
        if let Ok(both) = bound("[::]:0", false) {
            both.listen(1).expect("listens");
            let refused = checked(&both.into(), failed).expect_err("it takes both");
            assert!(matches!(refused, InheritError::DualStack { .. }));
        }
    }
}
