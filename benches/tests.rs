//! Tests of the pure parts of the benches, which are programs of their own and have no place for them.

// A test that cannot go on fails, and says where.
#![allow(clippy::unwrap_used)]

#[path = "instructions/stored_tests.rs"]
mod stored_tests;

#[path = "instructions/stored.rs"]
mod stored;
