//! sozu: one worker, probes as often as mana-proxy's. No package has it: it takes part where it was installed.

use std::fs;
use std::path::{Path, PathBuf};

use rlimit::Resource;

use super::{Place, Scheme};
use crate::Outcome;
use crate::bed::HOST;
use crate::process::{Process, pinned};

/// What is started: `sozu` in PATH, or the binary that `SOZU_BIN` names.
pub fn binary() -> PathBuf {
    std::env::var_os("SOZU_BIN").map_or_else(|| "sozu".into(), PathBuf::from)
}

/// Connections are for 10 000 clients with some to spare, or half of the files that it may open: with more it does not
/// start. Buffers are taken by those that are not at rest. Lines of requests that succeed are of the level info.
pub(super) fn start(place: &Place<'_>) -> Outcome<Process> {
    let bed = place.bed;
    let port = place.port;
    let home = bed.path().join(place.name);
    fs::create_dir(&home)?;
    let (protocol, certificate) = match place.scheme {
        Scheme::Plain => ("http", String::new()),
        Scheme::Tls => (
            "https",
            format!(
                ", certificate = \"{chain}\", certificate_chain = \"{chain}\", key = \"{key}\"",
                chain = bed.chain().display(),
                key = bed.key().display()
            ),
        ),
    };
    let (files, _) = Resource::NOFILE.get()?;
    let config = home.join("sozu.toml");
    fs::write(
        &config,
        format!(
            r#"command_socket = "{home}/sozu.sock"
worker_count = 1
max_connections = {connections}
max_buffers = 4000
log_level = "info"
access_logs_target = "file://{log}"
[[listeners]]
address = "127.0.0.1:{port}"
protocol = "{protocol}"
[clusters.site]
protocol = "http"
frontends = [{{ address = "127.0.0.1:{port}", hostname = "{HOST}"{certificate} }}]
backends = [{{ address = "127.0.0.1:{blue}" }}, {{ address = "127.0.0.1:{green}", backup = true }}]
[clusters.site.health_check]
uri = "/1k"
interval = 1
"#,
            home = home.display(),
            connections = (files / 2).min(12_000),
            log = place.log.display(),
            blue = bed.upstream,
            green = bed.upstream_other,
        ),
    )?;
    let mut command = pinned(place.core, Path::new(&binary()));
    command.args(["start", "--config"]).arg(&config);
    Process::start(place.name, command, port, bed.path())
}
