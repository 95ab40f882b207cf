//! Every socket that the daemon listens on: inherited, handed over, or bound.
//!
//! Owns which of the three it is, for clients, `[admin]` and the control socket.

use std::net::SocketAddr;

use mana_control::server::ControlSocket;
use tokio::net::TcpListener;

use super::{RunError, socket_options};
use crate::admin;
use crate::config::Config;
use crate::inherit::Inherited;
use crate::listen::{Listener, open_all};
use crate::upgrade::arrival::Arrival;
use crate::upgrade::sockets::Clients;

/// What clients and metrics come through.
pub(super) struct Taken {
    /// `[listen]`
    pub listeners: Vec<Listener>,
    /// `[admin]`, and where it is bound.
    pub admin: Option<(TcpListener, SocketAddr)>,
    /// The same once more, for the process after this one.
    pub again: Clients,
}

/// Listens wherever the configuration says so.
pub(super) async fn take(
    config: &Config,
    mut inherited: Vec<Inherited>,
    arrival: &mut Option<Arrival>,
) -> Result<Taken, RunError> {
    let mut before = None;
    if let Some(arrival) = arrival {
        inherited.append(&mut arrival.sockets);
        before = arrival.admin.take();
    }
    let listeners = open_all(&config.listen, inherited)?;
    let admin = match (&config.admin, before) {
        (None, _) => None,
        (Some(admin), Some((socket, wanted))) if admin.listen == wanted => {
            Some(admin::take_over(socket, wanted)?)
        }
        (Some(admin), _) => Some(admin::bind(admin.listen).await?),
    };
    let again = again(&listeners, config, admin.as_ref()).map_err(|source| RunError::Start {
        what: "the sockets for a later upgrade",
        source,
    })?;
    Ok(Taken {
        listeners,
        admin,
        again,
    })
}

fn again(
    listeners: &[Listener],
    config: &Config,
    admin: Option<&(TcpListener, SocketAddr)>,
) -> std::io::Result<Clients> {
    use std::os::fd::AsFd;

    let listeners = listeners.iter().map(Listener::again);
    let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
    let admin = match (admin, &config.admin) {
        (Some((socket, _)), Some(admin)) => {
            let socket = socket.as_fd().try_clone_to_owned()?;
            Some((socket.into(), admin.listen))
        }
        (None, _) | (_, None) => None,
    };
    Ok(Clients { listeners, admin })
}

/// The control socket. One that was handed over is not answered, and its file is left alone, before this process is the
/// service.
pub(super) async fn control(
    config: &Config,
    arrival: &mut Option<Arrival>,
) -> Result<ControlSocket, RunError> {
    let options = socket_options(config);
    let before = arrival.as_mut().and_then(|arrival| arrival.control.take());
    let socket = match before {
        Some((socket, path)) if path == options.path => ControlSocket::take_over(socket, &options),
        Some(_) | None => ControlSocket::bind(&options).await,
    };
    Ok(socket.map_err(mana_control::StartError::from)?)
}
