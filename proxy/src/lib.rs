//! The proxy: everything between a client's connection and an upstream's, and the binary around it.
//!
//! `ARCHITECTURE.md` shows the way of a request through these files. The crate is a library so that its tests and
//! benches can reach it; the product is the binary `mana-proxy`.

pub mod about;
pub mod access;
mod access_line;
pub mod access_log;
pub mod admin;
mod alarm;
pub mod answer;
mod attempts;
pub mod body;
pub mod certificates;
pub mod cli;
pub mod client_address;
pub mod client_io;
pub mod client_session;
pub mod client_stream;
pub mod client_transport;
pub mod compress;
pub mod compress_decision;
pub mod config;
pub mod connection;
pub mod connection_h2;
mod date;
pub mod demo;
pub mod descriptors;
pub mod doctor;
pub mod edge;
mod error_text;
pub mod exchange;
pub mod failpoint;
pub mod fault;
pub mod fields;
pub mod forward;
pub mod front;
pub mod h2_frames;
pub mod handshakes;
pub mod head;
pub mod headers;
pub mod inherit;
pub mod listen;
pub mod logging;
pub mod lull;
pub mod messages;
pub mod metrics;
pub mod notify;
pub mod patience;
pub mod per_address;
pub mod pool;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod proxy_protocol;
mod pump;
mod pump_events;
pub mod reload;
pub mod request_head;
pub mod request_id;
pub mod response_head;
pub mod run;
pub mod select;
pub mod signals;
pub mod stall;
#[cfg(test)]
mod testing;
pub mod tickets;
pub mod tls;
mod trailers;
pub mod tunnel;
pub mod upgrade;
pub mod upstream;
pub mod upstream_io;
pub mod upstream_session;
pub mod watchdog;
pub mod websocket;
pub mod worker;
