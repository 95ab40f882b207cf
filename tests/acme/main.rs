//! Certificates that renew themselves, shown on the real binary and a real ACME server.
//!
//! `pebble` validates and issues; `double.rs` stands in front of it and adds what Debian's version lacks (RFC 9773,
//! profiles) and what no good CA does. Everything listens on loopback, on ports that each test takes for itself.

#![allow(clippy::unwrap_used, missing_docs)]

// Shared with `e2e`, which uses all of it.
#[allow(dead_code, unused_imports)]
#[path = "../e2e/support/mod.rs"]
mod support;

mod ca;
mod double;
mod scene;

mod alpn;
mod budget;
mod crash;
mod failures;
mod files;
mod issue;
mod options;
mod renewal;
mod under_load;
mod verbs;
