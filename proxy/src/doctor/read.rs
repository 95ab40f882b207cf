//! Reading the machine: the thin shell below the judgements.
//!
//! Owns what is asked of whom, and how long it may take. Every question has a deadline, and an answer that does not come
//! is a fact as well: a `Seen` says why.

mod certificates;
mod docker;
mod files;
mod names;
mod processes;
mod systemd;

use std::path::Path;
use std::time::{Duration, SystemTime};

use mana_control::{Request, Verb, client};
use serde_json::Value;
use tokio::time::timeout;

use super::facts::{ConfigFact, Daemon, Disk, Facts, Listening, Seen};
use crate::config::{AccessLogTarget, CertificateSource, Config, ConfigError};
use crate::error_text::with_sources;

/// Looks at this machine with the eyes of the configuration in `file`; `socket` is where the daemon answers.
pub async fn read(file: &Path, socket: &Path, now: SystemTime) -> Facts {
    let config = match Config::load(file) {
        Ok(config) => ConfigFact::Good(Box::new(config)),
        Err(ConfigError::Faults(faults)) => {
            ConfigFact::Faulty(faults.iter().map(ToString::to_string).collect())
        }
        Err(error @ ConfigError::Unreadable { .. }) => ConfigFact::Unreadable(with_sources(&error)),
    };
    let (daemon, unit, enabled, is_reconciled, is_clock_synchronised, containers) = tokio::join!(
        daemon(socket),
        systemd::unit(),
        systemd::enabled_units(),
        systemd::is_reconciled(),
        systemd::is_clock_synchronised(),
        docker::containers(),
    );
    let mut facts = Facts {
        now,
        file: file.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        built: files::written_at_of_this_binary(),
        is_clock_synchronised,
        unit,
        enabled_units: enabled,
        is_reconciled,
        listening: Err(NOT_ASKED.to_owned()),
        containers,
        names: Vec::new(),
        challenges: Vec::new(),
        certificates: Vec::new(),
        disks: Vec::new(),
        state_dir: Err(NOT_ASKED.to_owned()),
        socket: files::permissions(socket),
        daemon,
        config,
    };
    // What else there is to look at follows from the configuration.
    if let ConfigFact::Good(config) = &facts.config {
        let (listening, names, challenges) = tokio::join!(
            listening(),
            names::resolve(config),
            names::challenges(config, facts.daemon.is_ok()),
        );
        facts.listening = listening;
        facts.names = names;
        facts.challenges = challenges;
        facts.certificates = certificates::read(config);
        facts.disks = disks(config);
        facts.state_dir = files::permissions(&config.state_dir);
    }
    facts
}

const NOT_ASKED: &str = "the configuration has faults";
/// For one question to another program or to a name server.
const DEADLINE: Duration = Duration::from_secs(10);

async fn daemon(socket: &Path) -> Seen<Daemon> {
    let request = Request::new(Verb::Status);
    let reply = timeout(DEADLINE, client::call(socket, &request, |_| {})).await;
    let reply = reply
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|error| with_sources(&error))?;
    if !reply.ok() {
        let why = reply.error().unwrap_or("it does not say why");
        return Err(format!("it refuses to: {why}; use sudo"));
    }
    let number = |pid: &Value| i32::try_from(pid.as_i64()?).ok();
    let pid = reply.field("pid").and_then(number);
    let pid = pid.ok_or("its status names no pid")?;
    let predecessor = reply.field("predecessor").and_then(|it| it.get("pid"));
    let version = reply.field("version").and_then(Value::as_str);
    Ok(Daemon {
        pid,
        predecessor: predecessor.and_then(number),
        version: version.unwrap_or("unknown").to_owned(),
        uid: processes::uid(pid),
        files_max: processes::files_max(pid),
    })
}

/// Walks all of `/proc`, which takes a while on a busy machine.
async fn listening() -> Seen<Vec<Listening>> {
    let walked = tokio::task::spawn_blocking(processes::listening).await;
    walked.map_err(|error| error.to_string())?
}

fn disks(config: &Config) -> Vec<Disk> {
    let mut disks = vec![files::disk(&config.state_dir, "state and certificates")];
    if let AccessLogTarget::File(path) = &config.access_log.to {
        let dir = path.parent().unwrap_or(Path::new("/"));
        disks.push(files::disk(dir, "the access log"));
    }
    if let Some(deploy) = &config.deploy {
        disks.push(files::disk(&deploy.settings.dir, "the ledger of deploys"));
    }
    disks
}

/// Whether some name has to prove itself at port 80.
fn is_of_ca(source: &CertificateSource) -> bool {
    *source == CertificateSource::Acme
}
