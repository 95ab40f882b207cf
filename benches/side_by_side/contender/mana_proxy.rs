//! mana-proxy: one worker, and everything else as it ships.

use std::fs;
use std::path::PathBuf;

use super::{Place, Scheme};
use crate::Outcome;
use crate::bed::{HOST, free_port};
use crate::process::{Process, pinned};

/// The binary that is measured: the one that Cargo built for this bench, or the one that `MANA_PROXY_BIN` names.
pub fn binary() -> PathBuf {
    std::env::var_os("MANA_PROXY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mana-proxy").into(), PathBuf::from)
}

pub(super) fn start(place: &Place<'_>) -> Outcome<Process> {
    let listen = match place.scheme {
        Scheme::Plain => "http",
        Scheme::Tls => "https",
    };
    let bed = place.bed;
    let home = bed.path().join(place.name);
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
            port = place.port,
            home = home.display(),
            admin = free_port()?,
            log = place.log.display(),
            chain = bed.chain().display(),
            key = bed.key().display(),
            blue = bed.upstream,
            green = bed.upstream_other,
        ),
    )?;
    let mut command = pinned(place.core, &binary());
    command.args(["run", "--config"]).arg(&config);
    Process::start(place.name, command, place.port, bed.path())
}
