//! `mana-proxy deploy` on a real Docker Engine, under load that comes from outside.
//!
//! Each test has an engine of its own with its own network, processes and mounts (`apart.rs`), so that ports are those of
//! production, and nothing is left on this machine however a test ends. Images are made here (`release.rs`, `app.rs`) and
//! come from a real registry on loopback (`registry.rs`). Needs root, dockerd, docker-compose, docker-registry and
//! iptables: `make test-system` sees to all of them.

#![allow(clippy::unwrap_used, missing_docs)]

// Shared with `e2e`, which uses all of it.
#[allow(dead_code, unused_imports)]
#[path = "../e2e/support/mod.rs"]
mod support;

mod apart;
mod deploying;
mod engine;
mod files;
mod registry;
mod release;
mod scene;

mod engine_facts;
mod failures;
mod interrupted;
mod legacy;
mod lock;
mod messages;
mod promises;
mod reboot;
mod secrets;
