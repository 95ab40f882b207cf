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
}

// === impl Scenario ===

impl Scenario {
    /// In the order of measuring and of the table.
    pub const ALL: [Scenario; 7] = [
        Scenario::H1Plain,
        Scenario::H1Tls,
        Scenario::H2Tls,
        Scenario::FullHandshake,
        Scenario::ResumedHandshake,
        Scenario::LargeTls,
        Scenario::BesideStalled,
    ];

    /// As it is called in the table and the raw figures.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::H1Plain => "h1-plain-1k",
            Scenario::H1Tls => "h1-tls-1k",
            Scenario::H2Tls => "h2-tls-1k",
            Scenario::FullHandshake => "handshake-full",
            Scenario::ResumedHandshake => "handshake-resumed",
            Scenario::LargeTls => "h1-tls-1m",
            Scenario::BesideStalled => "h1-plain-stalled",
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
            | Scenario::LargeTls => Scheme::Tls,
        }
    }

    /// Loads `127.0.0.1:port` for `seconds`. `directory` is for files that generators write.
    ///
    /// # Errors
    /// The generator fails, or saw a failed request: then the figure would be of something else.
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
        }
    }
}
