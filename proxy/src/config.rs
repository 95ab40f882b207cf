//! The configuration: `mana-proxy.toml` read into types that cannot be wrong.
//!
//! Owns what can be configured, with defaults, units and reasons, and every fault that a file can have. All faults are
//! found in one pass, each with file, line, key and reason; nothing is clamped and no unknown key is skipped. Reads the
//! file and nothing else: certificates, sockets and names are looked at by those who use them.
//!
//! [`Config::load`] is called at start, by `mana-proxy check` and at a reload; [`needs_restart`] tells a reload which
//! changes it cannot make. Relative paths are kept as they are written and so are relative to the working directory of
//! the process, not to the file.

pub mod acme;
mod addresses;
mod check;
mod client;
mod compression;
mod deploy;
mod fault;
mod limits;
mod message;
mod read;
mod response_fields;
mod section;
mod site;
mod timeouts;
mod units;
mod values;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mana_control::SiteSettings;

use crate::client_address::ClientRules;

pub use acme::{Acme, AcmeCa, EabConfig, First};
pub use compression::Compression;
pub use deploy::Deploy;
pub use fault::Fault;
pub use limits::Limits;
pub use timeouts::Timeouts;
pub use units::{format_duration, parse_duration};

/// A whole checked configuration. What it says is possible; nothing of it has happened yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[listen]`
    pub listen: Listen,
    /// `[control]`
    pub control: Control,
    /// `[state] dir`, default `/var/lib/mana-proxy`: where the active slot of each site and the journal are kept.
    ///
    /// It has to outlive a reboot: without it every site starts again with its `initial` slot.
    pub state_dir: PathBuf,
    /// `[admin]`, absent unless written: no metrics listener.
    pub admin: Option<Admin>,
    /// `[access_log]`
    pub access_log: AccessLog,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[limits]`
    pub limits: Limits,
    /// `[client]`: who the client of a request is.
    ///
    /// `trusted`, default `[]`: networks (`10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`) whose hosts are believed about the
    /// client: the CDN's, the load balancer's. Everybody else's claims are replaced. A network too many lets its hosts
    /// forge addresses; one too few takes all of a CDN's users for one client, and limits them as one.
    ///
    /// `address_headers`, default `["x-forwarded-for"]`: the fields in which they name it, the first that names an
    /// address first; also `cf-connecting-ip`, `true-client-ip` and `x-real-ip`. List only what the proxies in front
    /// set: they pass on what they do not know, and that is the client's own word.
    ///
    /// `unlimited`, default `["127.0.0.0/8", "::1"]`: networks to which the limits per address do not apply, as they do
    /// not to `trusted`. The default is this machine, on which tunnels and measurements run.
    pub client: ClientRules,
    /// `[compression]`
    pub compression: Compression,
    /// `[acme]`
    pub acme: Acme,
    /// `[deploy]`, absent unless written: then `mana-proxy deploy` refuses. The daemon does not look at it.
    pub deploy: Option<Deploy>,
    /// `[[site]]`, one or more, in the order of the file. Hosts and aliases are unique over all of them.
    pub sites: Vec<SiteConfig>,
}

/// `[server]`: the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `workers`, default one for each core, 1 to 256: threads that serve requests.
    ///
    /// Fewer leave cores unused, more than there are cores only adds switches between them.
    pub workers: usize,
    /// `shutdown_deadline`, default `30s`, `0s` to `24h`: how long SIGTERM waits for requests in flight.
    ///
    /// It has to be shorter than what systemd or docker wait before SIGKILL. `0s` drops every request in flight; too
    /// long lets one slow download delay a restart.
    pub shutdown_deadline: Duration,
    /// `upgrade_deadline`, default `1h`, `0s` to `24h`: how long the process before an upgrade may finish what it has.
    ///
    /// Websockets and downloads stay on it as long as that; then it ends as at SIGTERM. Too short cuts them for an
    /// upgrade that could wait; too long keeps the next upgrade waiting, and the memory of two processes in use.
    pub upgrade_deadline: Duration,
}

/// `[listen]`: where clients connect. At least one address in one of the lists; no address twice.
///
/// IPv4 and IPv6 are listed apart: `["0.0.0.0:80", "[::]:80"]`. Port 0 takes any free port, which tests use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `http`, default `[]`: plain HTTP; redirected to https.
    pub http: Vec<SocketAddr>,
    /// `https`, default `[]`: TLS with HTTP/2 and HTTP/1.1.
    pub https: Vec<SocketAddr>,
    /// `proxy_protocol`, default `[]`: those of the addresses above where each connection begins with a head of the
    /// PROXY protocol, version 1 or 2. Required there, and no valid beginning elsewhere.
    ///
    /// Whoever reaches such an address can claim to be anybody: let only the load balancer reach it.
    pub proxy_protocol: Vec<SocketAddr>,
}

/// `[control]`: the socket that the verbs of the command line talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// `socket`, default `/run/mana-proxy/control.sock`: at most 107 bytes, as the kernel has it.
    pub socket: PathBuf,
    /// `allow_uids`, default `[]`: users beside root and the daemon's own who may change things.
    pub allow_uids: Vec<u32>,
    /// `allow_gids`, default `[]`: groups whose members may change things.
    pub allow_gids: Vec<u32>,
    /// `group_gid`, default absent: the group that the socket file is given. Absent = the daemon's own.
    pub group_gid: Option<u32>,
}

/// `[admin]`: a plain HTTP listener for metrics and health, without authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `listen`, for example `127.0.0.1:9090`: loopback, unless `allow_remote`.
    pub listen: SocketAddr,
    /// `allow_remote`, default false: permits another than a loopback address. Whoever reaches it can read it.
    pub allow_remote: bool,
}

/// `[access_log]`: one line for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// `to`, default `stdout`, which systemd keeps in its journal.
    pub to: AccessLogTarget,
    /// `buffer_lines`, default 8192, 1 to 1000000: lines that wait for a slow disk or pipe; those beyond it are
    /// dropped and counted.
    ///
    /// A request never waits for its log line. Too few drops lines at every peak, too many is memory.
    pub buffer_lines: usize,
}

/// Where access lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// `stdout`
    Stdout,
    /// `off`
    Off,
    /// A path; it has a `/` in it, so that a misspelt word is a fault and not a file.
    File(PathBuf),
}

/// `[[site]]`: a canonical host with its aliases, two slots and a certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteConfig {
    /// Everything that the table holds of the site. Defaults: `aliases = []`, `initial = "blue"`;
    /// `health = { path = "/", expect = 200, interval = "1s", timeout = "2s", method = "GET", pass = 2, of = 3 }` with
    /// the canonical host as `host`; `drain = { requests = "30s", tunnels = "10s" }`;
    /// `pause = { waiting = 1000, wait = "30s", spread = "1s" }`; no `hsts`.
    ///
    /// `only_trusted`, default false: peers outside `client.trusted` are answered 403, so that nobody steps round the
    /// CDN. ACME challenges are answered to everyone.
    ///
    /// `response_headers`, default `{}`: fields set in every response of the upstreams, in place of theirs:
    /// `{ "x-frame-options" = "DENY" }`. `remove_response_headers`, default `[]`: fields taken out:
    /// `["server", "x-powered-by"]`. The proxy's own answers are left as they are. At most 64 of each.
    pub settings: SiteSettings,
    /// `certificate`, required: nobody should find out in a browser that a default was self-signed.
    pub certificate: CertificateSource,
}

/// Where a site's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// `"self-signed"`: made at each start, trusted by nobody. For development.
    SelfSigned,
    /// `{ chain = "cert.pem", key = "key.pem" }`: PEM files, leaf first. Read at start, by `check`, and whenever they change.
    Files {
        /// The certificate and its intermediates.
        chain: PathBuf,
        /// The private key of the first certificate.
        key: PathBuf,
    },
    /// `"acme"`: ordered from a CA and renewed by the proxy itself, for the host and all aliases; see [`Acme`].
    Acme,
}

// === impl Config ===

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, may not be read, is longer than [`FILE_BYTES_MAX`] or is not UTF-8.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// As the operator named it.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read; it has these faults, at least one, in the order of its lines. Displayed one a line.
    #[error("{}", one_a_line(.0))]
    Faults(Vec<Fault>),
}

/// A longer file is not read: it is no configuration.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] if there is nothing to check, else [`ConfigError::Faults`] with all of them.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = read_bounded(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, &path.display().to_string()).map_err(ConfigError::Faults)
    }

    /// Checks a text; `file` is the name that the faults carry. Touches neither files nor network.
    ///
    /// # Errors
    /// All faults, at least one.
    pub fn parse(text: &str, file: &str) -> Result<Config, Vec<Fault>> {
        read::read(text, file)
    }
}

/// The settings, by dotted key, that differ and that a reload cannot change in a running process. Empty: reload all.
///
/// Everything else is read anew by the next request or connection.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let changed = [
        ("server.workers", old.server.workers != new.server.workers),
        (
            "server.shutdown_deadline",
            old.server.shutdown_deadline != new.server.shutdown_deadline,
        ),
        (
            "server.upgrade_deadline",
            old.server.upgrade_deadline != new.server.upgrade_deadline,
        ),
        ("listen.http", old.listen.http != new.listen.http),
        ("listen.https", old.listen.https != new.listen.https),
        (
            "listen.proxy_protocol",
            old.listen.proxy_protocol != new.listen.proxy_protocol,
        ),
        ("control.socket", old.control.socket != new.control.socket),
        (
            "control.allow_uids",
            old.control.allow_uids != new.control.allow_uids,
        ),
        (
            "control.allow_gids",
            old.control.allow_gids != new.control.allow_gids,
        ),
        (
            "control.group_gid",
            old.control.group_gid != new.control.group_gid,
        ),
        ("state.dir", old.state_dir != new.state_dir),
        (
            "admin.listen",
            old.admin.as_ref().map(|admin| admin.listen)
                != new.admin.as_ref().map(|admin| admin.listen),
        ),
        ("access_log.to", old.access_log.to != new.access_log.to),
        (
            "access_log.buffer_lines",
            old.access_log.buffer_lines != new.access_log.buffer_lines,
        ),
    ];
    let named = changed.iter().filter(|(_, differs)| *differs);
    named.map(|(key, _)| (*key).to_owned()).collect()
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;

    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    // One more than the limit, so that a longer file is told from one of exactly that length.
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            "it is longer than 1 MiB",
        ));
    }
    Ok(text)
}

fn one_a_line(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    lines.join("\n")
}
