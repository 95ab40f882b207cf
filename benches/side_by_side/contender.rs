//! Who is measured: names, what each can do, and starting it. How each is configured is in a file of its own below.
//!
//! All have one worker, one core, an access log to a file and the same certificate. The relay and the direct way have no
//! log: they are not proxies but the floor that proxies stand on.

mod caddy;
mod haproxy;
mod mana_proxy;
pub mod nginx;
mod sozu;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use mana_proxy::binary as mana_proxy_binary;
pub use sozu::binary as sozu_binary;

use crate::Outcome;
use crate::bed::{Bed, free_port};
use crate::process::{Cores, Process};
use crate::relay;
use crate::scenario::Scenario;

/// What requests go through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// nginx with the configuration that mana-proxy replaces: a new HTTP/1.0 connection to the upstream per request.
    NginxLegacy,
    /// nginx as its manual recommends: connections to the upstream are kept, the access log is buffered.
    NginxTuned,
    /// This project as it ships: default limits and timeouts, probes, access log, metrics.
    ManaProxy,
    /// haproxy with one thread, connections to the upstream shared by all clients, probes.
    Haproxy,
    /// caddy on one core, probes.
    Caddy,
    /// sozu with one worker, probes.
    Sozu,
    /// Bytes copied both ways without a look at them: what the sockets, tokio and rustls cost by themselves.
    Relay,
    /// Nothing: the upstream itself.
    Direct,
}

/// What clients speak below HTTP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scheme {
    Plain,
    Tls,
}

/// One running contender.
pub struct Server {
    pub contender: Contender,
    pub scheme: Scheme,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// None if there is none of its own.
    pub process: Option<Process>,
    log: Option<PathBuf>,
}

/// What a start needs to know.
struct Place<'a> {
    /// Unique in the run; of files and in messages.
    name: &'a str,
    scheme: Scheme,
    port: u16,
    log: &'a Path,
    bed: &'a Bed,
    core: usize,
}

// === impl Scheme ===

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Plain => "plain",
            Scheme::Tls => "tls",
        }
    }
}

// === impl Server ===

impl Server {
    /// Empties the access log after a load, so that a long run does not fill the disk. All contenders append to it.
    ///
    /// # Errors
    /// Nothing comes into it: the contender does less than the others, and its figures say nothing.
    pub fn empty_log(&self) -> Outcome<()> {
        let Some(log) = &self.log else {
            return Ok(());
        };
        let deadline = Instant::now() + LOG_DEADLINE;
        while log.metadata()?.len() == 0 {
            if Instant::now() > deadline {
                return Err(format!("{} writes no access log", self.contender.name()).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        OpenOptions::new().write(true).truncate(true).open(log)?;
        Ok(())
    }
}

// === impl Contender ===

impl Contender {
    /// In the order of measuring and of the table.
    pub const ALL: [Contender; 8] = [
        Contender::NginxLegacy,
        Contender::NginxTuned,
        Contender::ManaProxy,
        Contender::Haproxy,
        Contender::Caddy,
        Contender::Sozu,
        Contender::Relay,
        Contender::Direct,
    ];

    /// As it is called in the table, the raw figures and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Contender::NginxLegacy => "nginx-legacy",
            Contender::NginxTuned => "nginx-tuned",
            Contender::ManaProxy => "mana-proxy",
            Contender::Haproxy => "haproxy",
            Contender::Caddy => "caddy",
            Contender::Sozu => "sozu",
            Contender::Relay => "relay",
            Contender::Direct => "direct",
        }
    }

    /// Whether it takes part without being asked for. `make bench` installs the others.
    pub fn is_usual(self) -> bool {
        match self {
            Contender::NginxLegacy
            | Contender::NginxTuned
            | Contender::ManaProxy
            | Contender::Haproxy
            | Contender::Caddy
            | Contender::Relay
            | Contender::Direct => true,
            Contender::Sozu => {
                let mut version = Command::new(sozu::binary());
                version.arg("--version").stdout(Stdio::null());
                version.stderr(Stdio::null()).status().is_ok()
            }
        }
    }

    /// Whether there can be a figure: the relay does not know what HTTP/2 is, and the direct way is there to be compared
    /// with in time alone.
    pub fn is_fit_for(self, scenario: Scenario) -> bool {
        match self {
            Contender::NginxLegacy
            | Contender::NginxTuned
            | Contender::ManaProxy
            | Contender::Haproxy
            | Contender::Caddy
            | Contender::Sozu => true,
            Contender::Relay => scenario != Scenario::H2Tls,
            Contender::Direct => scenario == Scenario::HalfLoad,
        }
    }

    /// How many files it has open for each client, at rest too: one more for those whose clients do not share their
    /// connections to the upstream.
    pub fn files_per_client(self) -> u64 {
        match self {
            Contender::NginxLegacy
            | Contender::NginxTuned
            | Contender::ManaProxy
            | Contender::Haproxy
            | Contender::Caddy => 1,
            Contender::Sozu | Contender::Relay | Contender::Direct => 2,
        }
    }

    /// Starts it on a core of its own. Plain and TLS are two processes, since mana-proxy with an https listener only
    /// redirects on http. `number` tells several starts of one run apart.
    ///
    /// # Errors
    /// It is not installed, or does not listen.
    pub fn start(self, scheme: Scheme, number: usize, bed: &Bed, cores: &Cores) -> Outcome<Server> {
        if self == Contender::Direct {
            return Ok(Server {
                contender: self,
                // That it speaks no TLS is known to those who measure it.
                scheme,
                port: bed.upstream,
                process: None,
                log: None,
            });
        }
        let name = format!("{}-{}-{number}", self.name(), scheme.name());
        let log = bed.path().join(format!("{name}.access.log"));
        let port = free_port()?;
        let place = Place {
            name: &name,
            scheme,
            port,
            log: &log,
            bed,
            core: cores.contender,
        };
        let process = match self {
            Contender::NginxLegacy => nginx::start_legacy(&place)?,
            Contender::NginxTuned => nginx::start_tuned(&place)?,
            Contender::ManaProxy => mana_proxy::start(&place)?,
            Contender::Haproxy => haproxy::start(&place)?,
            Contender::Caddy => caddy::start(&place)?,
            Contender::Sozu => sozu::start(&place)?,
            Contender::Relay | Contender::Direct => {
                relay::start(&name, scheme, port, bed, cores.contender)?
            }
        };
        Ok(Server {
            contender: self,
            scheme,
            port,
            process: Some(process),
            log: log.exists().then_some(log),
        })
    }
}

/// Longer than anybody keeps lines in a buffer.
const LOG_DEADLINE: Duration = Duration::from_secs(3);
