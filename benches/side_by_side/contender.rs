//! Who is measured, and how each is configured: one worker, one core, an access log to a file, the same certificate.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::bed::{Bed, HOST, free_port, start_nginx};
use crate::process::{Cores, Process, pinned};

/// A proxy in one configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contender {
    /// nginx with the configuration that mana-proxy replaces: a new HTTP/1.0 connection to the upstream per request.
    NginxLegacy,
    /// nginx as its manual recommends: connections to the upstream are kept, the access log is buffered.
    NginxTuned,
    /// This project as it ships: default limits and timeouts, probes, access log, metrics.
    ManaProxy,
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
    pub process: Process,
    log: PathBuf,
}

// === impl Server ===

impl Server {
    /// Empties the access log, so that a long run does not fill the disk. All contenders append to it.
    pub fn empty_log(&self) -> Outcome<()> {
        File::create(&self.log)?;
        Ok(())
    }
}

// === impl Contender ===

impl Contender {
    /// In the order of measuring and of the table.
    pub const ALL: [Contender; 3] = [
        Contender::NginxLegacy,
        Contender::NginxTuned,
        Contender::ManaProxy,
    ];

    /// As it is called in the table and the raw figures.
    pub fn name(self) -> &'static str {
        match self {
            Contender::NginxLegacy => "nginx-legacy",
            Contender::NginxTuned => "nginx-tuned",
            Contender::ManaProxy => "mana-proxy",
        }
    }

    /// Starts it on a core of its own. Plain and TLS are two processes, since mana-proxy with an https listener only
    /// redirects on http.
    pub fn start(self, scheme: Scheme, bed: &Bed, cores: &Cores) -> Outcome<Server> {
        let name = match scheme {
            Scheme::Plain => format!("{}-plain", self.name()),
            Scheme::Tls => format!("{}-tls", self.name()),
        };
        let port = free_port()?;
        let log = bed.path().join(format!("{name}.access.log"));
        let process = match self {
            Contender::NginxLegacy => {
                let http = nginx_legacy(scheme, port, &log, bed);
                start_nginx(&name, &http, port, bed.path(), cores.contender)?
            }
            Contender::NginxTuned => {
                let http = nginx_tuned(scheme, port, &log, bed);
                start_nginx(&name, &http, port, bed.path(), cores.contender)?
            }
            Contender::ManaProxy => start_mana_proxy(&name, scheme, port, &log, bed, cores)?,
        };
        Ok(Server {
            contender: self,
            scheme,
            port,
            process,
            log,
        })
    }
}

/// The binary that is measured: the one that Cargo built for this bench, or the one that `MANA_PROXY_BIN` names.
pub fn mana_proxy_binary() -> PathBuf {
    std::env::var_os("MANA_PROXY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mana-proxy").into(), PathBuf::from)
}

/// The TLS lines are those that Certbot writes. `http2` is ours: without it there would be no h2 row to compare.
/// So is `keepalive_requests`, which is mana-proxy's default: otherwise the connections of the h2 load end early.
fn nginx_legacy(scheme: Scheme, port: u16, log: &Path, bed: &Bed) -> String {
    let tls =
        "ssl_session_cache shared:tls:10m; ssl_session_timeout 1440m; ssl_session_tickets off;
               ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers off;";
    format!(
        "{tls} access_log {}; keepalive_requests 10000;
         upstream mana_backend {{ server 127.0.0.1:{}; server 127.0.0.1:{} backup; }}
         server {{
           {}
           server_name {HOST};
           location / {{
             proxy_pass http://mana_backend;
             proxy_set_header Host $host;
             proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
           }}
         }}",
        log.display(),
        bed.upstream,
        bed.upstream_other,
        nginx_listen(scheme, port, bed),
    )
}

/// Kept connections, the headers that mana-proxy sets too, and a buffered access log.
fn nginx_tuned(scheme: Scheme, port: u16, log: &Path, bed: &Bed) -> String {
    format!(
        "ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;
         access_log {} combined buffer=64k flush=1s; keepalive_requests 10000;
         upstream mana_backend {{
           server 127.0.0.1:{}; server 127.0.0.1:{} backup;
           keepalive 256; keepalive_requests 1000000;
         }}
         server {{
           {}
           server_name {HOST};
           location / {{
             proxy_pass http://mana_backend;
             proxy_http_version 1.1;
             proxy_set_header Connection \"\";
             proxy_set_header Host $host;
             proxy_set_header X-Real-IP $remote_addr;
             proxy_set_header X-Forwarded-For $remote_addr;
             proxy_set_header X-Forwarded-Proto $scheme;
           }}
         }}",
        log.display(),
        bed.upstream,
        bed.upstream_other,
        nginx_listen(scheme, port, bed),
    )
}

fn nginx_listen(scheme: Scheme, port: u16, bed: &Bed) -> String {
    match scheme {
        Scheme::Plain => format!("listen 127.0.0.1:{port} backlog=4096;"),
        Scheme::Tls => format!(
            "listen 127.0.0.1:{port} ssl http2 backlog=4096; ssl_certificate {}; ssl_certificate_key {};",
            bed.chain().display(),
            bed.key().display()
        ),
    }
}

/// One worker, and everything else as it ships.
fn start_mana_proxy(
    name: &str,
    scheme: Scheme,
    port: u16,
    log: &Path,
    bed: &Bed,
    cores: &Cores,
) -> Outcome<Process> {
    let listen = match scheme {
        Scheme::Plain => "http",
        Scheme::Tls => "https",
    };
    let home = bed.path().join(name);
    fs::create_dir(&home)?;
    let config = home.join("mana-proxy.toml");
    fs::write(
        &config,
        format!(
            r#"[server]
workers = 1
[listen]
{listen} = ["127.0.0.1:{port}"]
[control]
socket = "{home}/control.sock"
[state]
dir = "{home}/state"
[admin]
listen = "127.0.0.1:{admin}"
[access_log]
to = "{log}"
[[site]]
host = "{HOST}"
initial = "blue"
certificate = {{ chain = "{chain}", key = "{key}" }}
health = {{ path = "/1k", expect = 200, interval = "1s", timeout = "2s" }}
blue = ["127.0.0.1:{blue}"]
green = ["127.0.0.1:{green}"]
"#,
            home = home.display(),
            admin = free_port()?,
            log = log.display(),
            chain = bed.chain().display(),
            key = bed.key().display(),
            blue = bed.upstream,
            green = bed.upstream_other,
        ),
    )?;
    let mut command = pinned(cores.contender, &mana_proxy_binary());
    command.args(["run", "--config"]).arg(&config);
    Process::start(name, command, port, bed.path())
}
