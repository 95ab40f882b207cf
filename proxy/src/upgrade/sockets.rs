//! Every socket that this process listens on once more, for a successor.
//!
//! Owns these copies and what each of them is. As long as they are open, connections come in: they are closed when this
//! process accepts no more.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mana_control::server::Door;

use super::message::Role;
use crate::inherit::Inherited;

/// The copies.
pub struct Sockets {
    clients: Mutex<Clients>,
    door: Door,
    control: PathBuf,
}

/// What clients and metrics come through, the latter with what the configuration has for it.
#[derive(Debug, Default)]
pub struct Clients {
    /// `[listen]`
    pub listeners: Vec<Inherited>,
    /// `[admin]`
    pub admin: Option<(TcpListener, SocketAddr)>,
}

impl Sockets {
    /// `door` is the control socket, and `control` where it is.
    pub fn of(clients: Clients, door: Door, control: PathBuf) -> Sockets {
        Sockets {
            clients: Mutex::new(clients),
            door,
            control,
        }
    }

    /// Each socket with its role, stderr among them.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn again(&self) -> io::Result<Vec<(Role, OwnedFd)>> {
        let mut all = vec![(Role::Stderr, io::stderr().as_fd().try_clone_to_owned()?)];
        // Nothing panics while it holds the lock, here and below.
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        for Inherited { socket, place } in &clients.listeners {
            if let Some(wanted) = place.wanted {
                let role = Role::of(place, wanted);
                all.push((role, socket.as_fd().try_clone_to_owned()?));
            }
        }
        if let Some((socket, wanted)) = &clients.admin {
            let role = Role::Admin { wanted: *wanted };
            all.push((role, socket.as_fd().try_clone_to_owned()?));
        }
        if let Some(door) = self.door.socket()? {
            let path = self.control.clone();
            all.push((Role::Control { path }, door));
        }
        Ok(all)
    }

    /// This process accepts no more.
    pub fn close(&self) {
        *self.clients.lock().unwrap_or_else(PoisonError::into_inner) = Clients::default();
    }
}
