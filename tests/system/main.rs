//! The installed package on a real systemd: restarts, upgrades and crashes under load that comes from outside.
//!
//! A Debian of the release of this machine boots in a container that shares the network of this machine, the package is installed in it as an
//! operator would, and the clients of `e2e` are at it all the time. Needs root, `systemd-nspawn`, `debootstrap` and the
//! packages of `make deb`: `make test-system` sees to all of them. Nothing outside `target/` is written, and no port is
//! taken but free ones of loopback.

#![allow(clippy::unwrap_used, missing_docs)]

// Shared with `e2e`, which uses all of it.
#[allow(dead_code, unused_imports)]
#[path = "../e2e/support/mod.rs"]
mod support;

mod container;
mod service;
mod table;

mod promises;
mod reconcile;
