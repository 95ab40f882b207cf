//! The promises of mana-proxy, shown on the real binary over real sockets.
//!
//! One file per part of the promise; each test is named as the claim that it proves.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

mod bodies;
mod clients;
mod compression;
mod control;
mod crash;
mod cutover;
mod demo;
mod deploy_key;
mod deploy_output;
mod differential;
mod doctor;
mod edge;
mod failover;
mod gate;
mod harness;
mod headers;
mod lifecycle;
mod limits;
mod limits_clients;
mod limits_process;
mod malformed;
mod modes;
mod observability;
mod proxy_protocol;
mod raw_answers;
mod regressions;
mod regressions_h2;
mod reload;
mod service;
mod soak;
mod streams;
mod tls;
mod tunnels;
mod under_load;
mod upgrade;
mod uptime;
