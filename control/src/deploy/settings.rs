//! What is configured about deploys: the `[deploy]` section, checked.
//!
//! Owns the shape. It is read by the proxy's configuration; defaults stand at the fields.

use std::path::PathBuf;
use std::time::Duration;

use crate::host::Host;
use crate::slot::Slot;

/// `[deploy]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploySettings {
    /// `site`: the canonical host; may be left out where there is one site.
    pub site: Host,
    /// `compose_file`, required: what compose is told with `--file`. Absolute, or it starts at the working directory.
    pub compose_file: PathBuf,
    /// `project`, required: the name of the compose project.
    pub project: String,
    /// `blue` and `green`, required, by [`Slot::index`].
    pub services: [SlotService; 2],
    /// `image`, default none: the repository if the command line names none.
    pub image: Option<String>,
    /// `engine`, default none: where the engine is, `unix:///run/docker.sock`; without it as `docker` itself finds it.
    pub engine: Option<String>,
    /// `dir`, default `/var/lib/mana-proxy-deploy`: lock, ledger and messages that wait.
    pub dir: PathBuf,
    /// `pull`, default `always`.
    pub pull: Pull,
    /// `pull_timeout`, default 10m.
    pub pull_timeout: Duration,
    /// `start_timeout`, default 60s: from the start of the container until the gate is passed.
    pub start_timeout: Duration,
    /// `warm_up`, default no paths.
    pub warm_up: WarmUp,
    /// `watch`.
    pub watch: WatchSettings,
    /// `keep_warm`, default 10m: how long the slot before goes on running as the backup.
    pub keep_warm: KeepWarm,
    /// `keep_images`, default 5, 2 to 100: images of good releases that are not removed, the running one included.
    pub keep_images: usize,
    /// `disk_free_min`, default 1GiB: where the engine keeps its images.
    pub disk_free_min: u64,
    /// `memory_free_min`, default 256MiB: what has to be there at least for the second copy.
    pub memory_free_min: u64,
    /// `lock_wait`, default 30m: how long `--wait` waits at most.
    pub lock_wait: Duration,
    /// `registry_user`, default none: no login.
    pub registry_user: Option<String>,
    /// `public_ports`, default false: whether a container may publish ports that others than this machine reach.
    pub public_ports: bool,
}

/// What a slot is for compose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotService {
    /// `service`: its name in the compose file.
    pub service: String,
    /// `image_variable`: the variable that the compose file takes its image from.
    pub image_variable: String,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// Each time, so that a tag that was moved is noticed.
    #[default]
    Always,
    /// If it is not there.
    Missing,
    /// Never: it was built or loaded here.
    Never,
}

/// How a new release is made warm before users come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// `paths`, default `[]`: what is asked for. Each has to be answered below 500.
    pub paths: Vec<String>,
    /// `requests`, default 200: at most so many.
    pub requests: usize,
    /// `timeout`, default 30s: at most so long.
    pub timeout: Duration,
}

/// When a new release is undone by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSettings {
    /// `time`, default 30s: the watch window; `0s`: none.
    pub time: Duration,
    /// `errors_percent`, default 5, 1 to 100: from this share of answers with 500 or above on.
    pub errors_percent: u64,
    /// `requests_min`, default 20: of fewer answers none is judged.
    pub requests_min: u64,
}

/// How long the slot before is kept running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepWarm {
    /// So long; `0s`: it is stopped at once.
    For(Duration),
    /// `always`: until the next deploy needs it, and after a reboot too.
    Always,
}

impl DeploySettings {
    /// What a slot is for compose.
    pub fn service(&self, slot: Slot) -> &SlotService {
        &self.services[slot.index()]
    }
}

impl Default for WarmUp {
    fn default() -> WarmUp {
        WarmUp {
            paths: Vec::new(),
            requests: 200,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Default for WatchSettings {
    fn default() -> WatchSettings {
        WatchSettings {
            time: Duration::from_secs(30),
            errors_percent: 5,
            requests_min: 20,
        }
    }
}
