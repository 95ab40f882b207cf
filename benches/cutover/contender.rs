//! Who is measured, how each is configured, and how each is told to go to the other slot.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::process::{Cores, Process, pinned};
use crate::upstream::Slot;

/// A proxy that can be told at runtime.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// `switch` over the control socket: probes the slot, stores the change, then makes it.
    ManaProxy,
    /// The upstream is rewritten in the configuration, then `nginx -s reload`.
    Nginx,
    /// `set server ... state` over the stats socket. Nothing is stored: a restart forgets it.
    Haproxy,
    /// The whole configuration to `/load` of the admin API.
    Caddy,
}

/// One running contender.
pub struct Server {
    contender: Contender,
    /// Where clients ask.
    pub address: SocketAddr,
    home: PathBuf,
    slots: [SocketAddr; 2],
    admin: SocketAddr,
    _process: Process,
}

// === impl Contender ===

impl Contender {
    /// In the order of measuring and of the table.
    pub const ALL: [Contender; 4] = [
        Contender::ManaProxy,
        Contender::Nginx,
        Contender::Haproxy,
        Contender::Caddy,
    ];

    /// As it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Contender::ManaProxy => "mana-proxy",
            Contender::Nginx => "nginx",
            Contender::Haproxy => "haproxy",
            Contender::Caddy => "caddy",
        }
    }

    /// Starts it on a core of its own with blue active. `slots` are blue and green.
    ///
    /// # Errors
    /// It cannot be started or does not listen; what it said is in the message.
    pub fn start(self, slots: [SocketAddr; 2], directory: &Path, cores: &Cores) -> Outcome<Server> {
        let home = directory.join(self.name());
        fs::create_dir(&home)?;
        let (address, admin) = (free_address()?, free_address()?);
        let file = home.join("config");
        fs::write(&file, self.config(address, admin, slots, &home, Slot::Blue))?;
        let mut command = match self {
            Contender::ManaProxy => {
                let mut command = pinned(cores.contender, &mana_proxy_binary());
                command.args(["run", "--config"]).arg(&file);
                command
            }
            Contender::Nginx => {
                let mut command = pinned(cores.contender, Path::new("nginx"));
                command.args(["-e", "stderr", "-c"]).arg(&file);
                command
            }
            Contender::Haproxy => {
                let mut command = pinned(cores.contender, Path::new("haproxy"));
                command.arg("-f").arg(&file);
                command
            }
            Contender::Caddy => {
                let mut command = pinned(cores.contender, Path::new("caddy"));
                command.args(["run", "--config"]).arg(&file);
                command
            }
        };
        command
            .current_dir(&home)
            .env("GOMAXPROCS", "1")
            .env("HOME", &home);
        Ok(Server {
            contender: self,
            address,
            slots,
            admin,
            _process: Process::start(self.name(), command, address.port(), directory)?,
            home,
        })
    }

    fn config(
        self,
        address: SocketAddr,
        admin: SocketAddr,
        [blue, green]: [SocketAddr; 2],
        home: &Path,
        active: Slot,
    ) -> String {
        let home = home.display();
        let upstream = match active {
            Slot::Blue => blue,
            Slot::Green => green,
        };
        match self {
            Contender::ManaProxy => format!(
                r#"[server]
workers = 1
[listen]
http = ["{address}"]
[control]
socket = "{home}/socket"
[state]
dir = "{home}/state"
[admin]
listen = "{admin}"
[access_log]
to = "{home}/access.log"
[limits]
requests_per_address = 0
[[site]]
host = "localhost"
certificate = "self-signed"
initial = "blue"
health = {{ path = "/health", expect = 200, interval = "1s", timeout = "2s" }}
blue = ["{blue}"]
green = ["{green}"]
"#
            ),
            Contender::Nginx => {
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .iter()
                    .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
                    .collect();
                format!(
                    "daemon off; worker_processes 1; pid {home}/pid; error_log stderr;
                     events {{ worker_connections 8192; }}
                     http {{ {temporary} access_log {home}/access.log combined buffer=64k flush=1s;
                       keepalive_requests 1000000;
                       upstream app {{ server {upstream}; keepalive 256; keepalive_requests 1000000; }}
                       server {{ listen {address} backlog=4096;
                         location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
                )
            }
            Contender::Haproxy => format!(
                "global
  nbthread 1
  stats socket {home}/socket level admin
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend web
  bind {address}
  default_backend app
backend app
  server blue {blue}
  server green {green} disabled
"
            ),
            Contender::Caddy => format!(
                r#"{{"admin":{{"listen":"{admin}"}},"logging":{{"logs":{{"default":{{"writer":{{"output":"file","filename":"{home}/log"}}}}}}}},
"apps":{{"http":{{"grace_period":"10s","servers":{{"web":{{"listen":["{address}"],"automatic_https":{{"disable":true}},"logs":{{}},
"routes":[{{"handle":[{{"handler":"reverse_proxy","upstreams":[{{"dial":"{upstream}"}}]}}]}}]}}}}}}}}}}"#
            ),
        }
    }
}

// === impl Server ===

impl Server {
    /// Tells it to go to a slot, and returns once it has answered. mana-proxy says how long after the store the first
    /// request entered the new slot, in microseconds.
    ///
    /// # Errors
    /// It cannot be told, or refuses.
    pub fn switch(&self, slot: Slot) -> Outcome<Option<u64>> {
        let config = || {
            self.contender
                .config(self.address, self.admin, self.slots, &self.home, slot)
        };
        let socket = self.home.join("socket");
        match self.contender {
            Contender::ManaProxy => {
                let reply = ask(&socket, &format!("switch {}\n", slot.name()))?;
                let reply: serde_json::Value = serde_json::from_str(&reply)?;
                match reply["ok"].as_bool() {
                    Some(true) => Ok(reply["first_request_us"].as_u64()),
                    _ => Err(format!("mana-proxy refuses: {reply}").into()),
                }
            }
            Contender::Nginx => {
                let file = self.home.join("config");
                fs::write(&file, config())?;
                let output = Command::new("nginx")
                    .args(["-e", "stderr", "-s", "reload", "-c"])
                    .arg(&file)
                    .output()?;
                match output.status.success() {
                    true => Ok(None),
                    false => Err(String::from_utf8_lossy(&output.stderr).into()),
                }
            }
            Contender::Haproxy => {
                let order = format!(
                    "set server app/{} state ready; set server app/{} state maint\n",
                    slot.name(),
                    slot.other().name()
                );
                let reply = ask(&socket, &order)?;
                match reply.trim().is_empty() {
                    true => Ok(None),
                    false => Err(format!("haproxy refuses: {reply}").into()),
                }
            }
            Contender::Caddy => {
                let body = config();
                let mut stream = TcpStream::connect(self.admin)?;
                stream.set_read_timeout(Some(REPLY_DEADLINE))?;
                write!(
                    stream,
                    "POST /load HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    self.admin,
                    body.len()
                )?;
                let mut reply = String::new();
                stream.read_to_string(&mut reply)?;
                match reply.starts_with("HTTP/1.1 200 ") {
                    true => Ok(None),
                    false => Err(format!("caddy refuses: {reply}").into()),
                }
            }
        }
    }
}

/// Sends one line to a unix socket and reads one.
fn ask(socket: &Path, line: &str) -> Outcome<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(REPLY_DEADLINE))?;
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(reply)
}

/// The binary that is measured: the one that Cargo built for this bench, or the one that `MANA_PROXY_BIN` names.
fn mana_proxy_binary() -> PathBuf {
    std::env::var_os("MANA_PROXY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mana-proxy").into(), PathBuf::from)
}

/// One that nobody has. Somebody may take it before it is bound; then the start fails and says so.
fn free_address() -> Outcome<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A drain takes as long as its longest request.
const REPLY_DEADLINE: Duration = Duration::from_secs(30);
