//! What is asked of every contender, and by which load generator.

use std::path::Path;

use crate::Outcome;
use crate::contender::Scheme;
use crate::load::{self, Load};
use crate::process::Cores;
use crate::stalled::Stalled;

/// One way to ask. All requests are GET; all bodies come from the same upstream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
    /// HTTP/1.1 without TLS, kept connections, 1 KiB.
    H1Plain,
    /// HTTP/1.1 over TLS 1.3, kept connections, 1 KiB.
    H1Tls,
    /// HTTP/2 over TLS 1.3, some streams on each connection, 1 KiB.
    H2Tls,
    /// A new connection with a full TLS 1.3 handshake for each request, 1 KiB.
    FullHandshake,
    /// A new connection that resumes a TLS 1.3 session for each request, 1 KiB.
    ResumedHandshake,
    /// HTTP/1.1 over TLS 1.3, kept connections, 1 MiB.
    LargeTls,
    /// As [`Scenario::H1Plain`], while some hundred other connections stall: heads and bodies that trickle, responses that
    /// nobody reads.
    BesideStalled,
    /// HTTP/1.1 over TLS 1.3, many connections that have asked once and rest: what each takes in memory.
    IdleTls,
    /// As [`Scenario::H1Tls`], at half of the rate that nginx can take: the time that is added to a direct request.
    HalfLoad,
}

/// How a scenario is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// As much as the contender can take, for some seconds.
    Flood,
    /// Connections that rest, on a contender that was just started.
    Rest,
    /// The same rate for all.
    Pace,
}

// === impl Scenario ===

impl Scenario {
    /// In the order of measuring and of the table.
    pub const ALL: [Scenario; 9] = [
        Scenario::H1Plain,
        Scenario::H1Tls,
        Scenario::H2Tls,
        Scenario::FullHandshake,
        Scenario::ResumedHandshake,
        Scenario::LargeTls,
        Scenario::BesideStalled,
        Scenario::IdleTls,
        Scenario::HalfLoad,
    ];

    /// As it is called in the table, the raw figures and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::H1Plain => "h1-plain-1k",
            Scenario::H1Tls => "h1-tls-1k",
            Scenario::H2Tls => "h2-tls-1k",
            Scenario::FullHandshake => "handshake-full",
            Scenario::ResumedHandshake => "handshake-resumed",
            Scenario::LargeTls => "h1-tls-1m",
            Scenario::BesideStalled => "h1-plain-stalled",
            Scenario::IdleTls => "idle-tls-10k",
            Scenario::HalfLoad => "latency-half-load",
        }
    }

    /// Which server it needs.
    pub fn scheme(self) -> Scheme {
        match self {
            Scenario::H1Plain | Scenario::BesideStalled => Scheme::Plain,
            Scenario::H1Tls
            | Scenario::H2Tls
            | Scenario::FullHandshake
            | Scenario::ResumedHandshake
            | Scenario::LargeTls
            | Scenario::IdleTls
            | Scenario::HalfLoad => Scheme::Tls,
        }
    }

    /// How it is measured.
    pub fn kind(self) -> Kind {
        match self {
            Scenario::H1Plain
            | Scenario::H1Tls
            | Scenario::H2Tls
            | Scenario::FullHandshake
            | Scenario::ResumedHandshake
            | Scenario::LargeTls
            | Scenario::BesideStalled => Kind::Flood,
            Scenario::IdleTls => Kind::Rest,
            Scenario::HalfLoad => Kind::Pace,
        }
    }

    /// Loads `127.0.0.1:port` for `seconds` with as much as it can take. `directory` is for files that generators write.
    ///
    /// # Errors
    /// The generator fails, or saw a failed request: then the figure would be of something else. The scenario is not of
    /// [`Kind::Flood`].
    pub fn load(self, port: u16, directory: &Path, cores: &Cores, seconds: u32) -> Outcome<Load> {
        let core = cores.around;
        match self {
            Scenario::H1Plain => load::wrk(
                core,
                &format!("http://localhost:{port}/1k"),
                32,
                &[],
                seconds,
            ),
            Scenario::H1Tls => load::wrk(
                core,
                &format!("https://localhost:{port}/1k"),
                32,
                &[],
                seconds,
            ),
            Scenario::H2Tls => load::h2load(core, port, 16, 8, directory, seconds),
            Scenario::FullHandshake => load::ab(core, port, 16, directory, seconds),
            // wrk keeps the session of a connection that it opens again; see benches/README.md for how to check that.
            Scenario::ResumedHandshake => load::wrk(
                core,
                &format!("https://localhost:{port}/1k"),
                16,
                &["-H", "Connection: close"],
                seconds,
            ),
            Scenario::LargeTls => load::wrk(
                core,
                &format!("https://localhost:{port}/1m"),
                8,
                &[],
                seconds,
            ),
            Scenario::BesideStalled => {
                let stalled = Stalled::open(port)?;
                let load = Scenario::H1Plain.load(port, directory, cores, seconds);
                drop(stalled);
                load
            }
            Scenario::IdleTls | Scenario::HalfLoad => {
                Err(format!("{} is measured in another way", self.name()).into())
            }
        }
    }
}
