//! What was read of a machine. Plain values: no clock, socket or file behind them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::Config;

/// What was seen, or why it was not looked at.
pub type Seen<T> = Result<T, String>;

/// A machine at one moment.
#[derive(Debug)]
pub struct Facts {
    /// When.
    pub now: SystemTime,
    /// The configuration file.
    pub file: PathBuf,
    /// What is in it.
    pub config: ConfigFact,
    /// Of this binary.
    pub version: String,
    /// When this binary was written, by its file.
    pub built: Seen<SystemTime>,
    /// Whether the clock is kept by a time server.
    pub is_clock_synchronised: Seen<bool>,
    /// The daemon, if one answers.
    pub daemon: Seen<Daemon>,
    /// The unit, if systemd knows it.
    pub unit: Seen<Unit>,
    /// Units of others that are enabled, of those that were asked about.
    pub enabled_units: Seen<Vec<String>>,
    /// Whether the timer that tidies up after deploys starts at boot.
    pub is_reconciled: Seen<bool>,
    /// Listening TCP sockets.
    pub listening: Seen<Vec<Listening>>,
    /// All containers, also those that do not run.
    pub containers: Seen<Vec<Container>>,
    /// Hosts and aliases of the sites.
    pub names: Vec<Name>,
    /// Names that a CA would have to reach, and who answers it.
    pub challenges: Vec<Challenge>,
    /// Certificates of the sites.
    pub certificates: Vec<Certificate>,
    /// Where something is written.
    pub disks: Vec<Disk>,
    /// The state directory.
    pub state_dir: Seen<Permissions>,
    /// The control socket.
    pub socket: Seen<Permissions>,
}

/// What the configuration file holds.
#[derive(Debug)]
pub enum ConfigFact {
    /// No faults.
    Good(Box<Config>),
    /// Faults, one a line.
    Faulty(Vec<String>),
    /// It cannot be read.
    Unreadable(String),
}

/// A daemon that answers on its control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Its process.
    pub pid: i32,
    /// The process before it, while that still drains.
    pub predecessor: Option<i32>,
    /// Of the binary that it runs.
    pub version: String,
    /// Its user.
    pub uid: Seen<u32>,
    /// The most file descriptors that it may have.
    pub files_max: Seen<u64>,
}

/// `mana-proxy.service` as systemd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `LimitNOFILE=`; `u64::MAX` for infinity.
    pub files_max: Option<u64>,
    /// `TimeoutStopSec=`; `Duration::MAX` for infinity.
    pub stop_timeout: Option<Duration>,
    /// Whether it starts at boot.
    pub is_enabled: bool,
    /// Whether `mana-proxy.socket` does, which starts it with the first connection.
    pub is_socket_enabled: bool,
}

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Processes that have it, or why they are not known.
    pub owners: Seen<Vec<Process>>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its name as the kernel has it.
    pub name: String,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// `mana-blue`
    pub name: String,
    /// `always`, `unless-stopped`, `on-failure`, `no`.
    pub restart: String,
    /// Ports of this machine that lead to it.
    pub ports: Vec<u16>,
}

/// A name of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: String,
    /// What it resolves to, and whether that is an address of this machine.
    pub addresses: Seen<Vec<(IpAddr, Place)>>,
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here,
    /// On another one, or on a router that leads here.
    Elsewhere,
}

/// What somebody saw who asked for a challenge at port 80 of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The name.
    pub name: String,
    /// Who answered.
    pub answer: Seen<Answerer>,
}

/// Who answers at port 80 of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answerer {
    /// A mana-proxy that keeps these paths for itself.
    Proxy,
    /// Something else; its first line.
    Another(String),
    /// Nobody; why.
    Nobody(String),
}

/// The certificate of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The canonical host.
    pub host: String,
    /// What is there, or why it could not be looked at.
    pub state: Seen<CertificateState>,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// One that the configuration asks to be self-signed.
    SelfSigned,
    /// One of a CA has not come yet.
    Awaited,
    /// It does not hold together; the proxy would not start with it.
    Unusable(String),
    /// A good one.
    Valid {
        /// Whether it signs itself.
        is_self_signed: bool,
        /// Whether the proxy renews it.
        is_renewed: bool,
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
    },
}

/// The file system that a directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The directory, or the nearest one above it that is there.
    pub path: PathBuf,
    /// What is written there.
    pub holds: &'static str,
    /// How much room it has.
    pub room: Seen<Room>,
}

/// Room on a file system for users other than root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are free.
    pub bytes: u64,
    /// Files that can still be made; none where the file system does not count them.
    pub inodes: Option<u64>,
}

/// Who owns a file and who may write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The file.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// The lower twelve bits of its mode.
    pub mode: u32,
}
