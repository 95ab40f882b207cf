//! The usual scene of a test: an engine, a registry, an app that runs in the blue slot, and a proxy before it.

use std::fs;
use std::path::PathBuf;
use std::process::Command as Blocking;

use serde_json::Value;
use tokio::process::Command;

use crate::apart;
use crate::deploying::{Deploying, Ended};
use crate::engine::{Container, Engine, done, processes};
use crate::registry::{Registry, TOKEN, USER};
use crate::release::Release;
use crate::support::load::Tally;
use crate::support::proxy::{BINARY, within_directory};
use crate::support::{ConfigBuilder, Proxy};

/// The network is the test's own, so that the ports are those of production.
const BLUE: &str = "127.0.0.1:4000";
const GREEN: &str = "127.0.0.1:4001";
/// Compose's project.
const PROJECT: &str = "mana";

/// All of it, running.
pub struct Scene {
    /// Dropped first, before what it forwards to.
    pub proxy: Proxy,
    pub engine: Engine,
    pub registry: Registry,
    directory: PathBuf,
}

/// How things stand: what no failed deploy may change.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    active: String,
    generation: u64,
    /// The live container: it is never restarted, recreated or stopped.
    live: Option<Container>,
    /// Whether the container of the standby runs, and what it runs.
    standby: Option<(String, bool)>,
}

// === impl Scene ===

impl Scene {
    /// The release `r1` is live in blue, nothing is in green.
    pub async fn start() -> Scene {
        Scene::with(|_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn with(change: impl FnOnce(&mut ConfigBuilder)) -> Scene {
        Scene::configured(|config, engine, registry| {
            configure(config, engine, registry);
            change(config);
        })
        .await
    }

    /// The same for a proxy that knows nothing of deploys.
    pub async fn without_deploy() -> Scene {
        Scene::configured(|_, _, _| {}).await
    }

    async fn configured(change: impl FnOnce(&mut ConfigBuilder, &Engine, &Registry)) -> Scene {
        let engine = Engine::start().await;
        let registry = Registry::start().await;
        let directory = apart::directory();
        for name in ["posts", "home", "tmp", "bin"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        let compose = directory.join("compose.yml");
        fs::write(&compose, compose_file(&directory)).unwrap();
        write_recorders(&directory);
        let r1 = Release::good("r1").import(&engine, &registry.repository());
        done(
            engine
                .command("docker-compose")
                .args(["-p", PROJECT, "-f"])
                .arg(&compose)
                .args(["up", "-d", "--no-deps", "web_blue"])
                .env("BLUE_IMAGE", &r1)
                .env("GREEN_IMAGE", &r1),
        );
        let mut config = ConfigBuilder::new(&[BLUE], &[GREEN]);
        config.site().drain("5s", "500ms");
        change(&mut config, &engine, &registry);
        let proxy = Proxy::start(&config).await;
        proxy.wait_for_health("blue", true).await;
        Scene {
            proxy,
            engine,
            registry,
            directory,
        }
    }

    /// Puts a release into the registry; the id of its image.
    pub fn push(&self, release: &Release<'_>) -> String {
        self.registry.push(&self.engine, release)
    }

    /// `mana-proxy ARGUMENTS` as whoever deploys would run it, with the token in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = within_directory(BINARY, self.proxy.path());
        let path = std::env::var("PATH").unwrap();
        command
            .arg("--socket")
            .arg(self.proxy.socket())
            .args(arguments)
            .args(["--config", "mana-proxy.toml"])
            .env(
                "PATH",
                format!("{}:{path}", self.directory.join("bin").display()),
            )
            .env("HOME", self.directory.join("home"))
            .env("TMPDIR", self.directory.join("tmp"))
            .env("MANA_PROXY_REGISTRY_TOKEN", TOKEN)
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONFIG")
            .stdin(std::process::Stdio::null());
        command
    }

    /// Starts `mana-proxy deploy --json ...`.
    pub fn begin(&self, arguments: &[&str]) -> Deploying {
        let command = self.command(&[&["--json", "deploy"], arguments].concat());
        self.begin_with(command)
    }

    /// The same with a command that was changed: another token, say.
    pub fn begin_with(&self, command: Command) -> Deploying {
        let stderr = tempfile::Builder::new()
            .prefix("stderr-")
            .tempfile_in(&self.directory);
        let (_, stderr) = stderr.unwrap().keep().unwrap();
        Deploying::start(command, &stderr)
    }

    /// `mana-proxy deploy --json ...` to its end.
    pub async fn deploy(&self, arguments: &[&str]) -> Ended {
        self.begin(arguments).ended().await
    }

    /// Deploys a tag, which must be done.
    pub async fn deployed(&self, tag: &str) -> Value {
        let ended = self.deploy(&["--tag", tag]).await;
        ended.assert_deployed().clone()
    }

    /// What `deploy status --json` says.
    pub async fn deploy_status(&self) -> Value {
        self.deploy(&["status"]).await.events.pop().unwrap()
    }

    /// What `deploy history --json` says, one deploy a line.
    pub async fn history(&self) -> Vec<Value> {
        self.deploy(&["history"]).await.events
    }

    /// The active slot, the daemon's word.
    pub async fn active(&self) -> String {
        let site = self.proxy.site().await;
        site["active"].as_str().unwrap().to_owned()
    }

    /// The container of a slot.
    pub fn container(&self, slot: &str) -> Option<Container> {
        let format = "--format={{.ID}}";
        let service = format!("label=com.docker.compose.service=web_{slot}");
        let project = format!("label=com.docker.compose.project={PROJECT}");
        let mut filters = vec!["ps", "--all", "--no-trunc", format];
        for filter in [&service, &project] {
            filters.extend(["--filter", filter]);
        }
        let ids = self.engine.docker(&filters);
        assert!(ids.lines().count() <= 1, "several containers of {slot}");
        self.engine.container(ids.trim())
    }

    /// How things stand now.
    pub async fn standing(&self) -> Standing {
        let site = self.proxy.site().await;
        let active = site["active"].as_str().unwrap().to_owned();
        let standby = self.container(other(&active));
        Standing {
            live: self.container(&active),
            standby: standby.map(|container| (container.image.clone(), container.is_running())),
            generation: site["generation"].as_u64().unwrap(),
            active,
        }
    }

    /// Asserts that everything is as it was, and that nothing is left of the attempt.
    pub async fn assert_as(&self, before: &Standing) {
        let mut now = self.standing().await;
        // A container that was made and stopped again is no change: nothing of it runs.
        if before.standby.is_none() && now.standby.as_ref().is_some_and(|(_, runs)| !runs) {
            now.standby = None;
        }
        assert_eq!(&now, before);
        self.assert_nothing_is_left();
    }

    /// Asserts that no process of a deploy, no credential and no temporary file is left.
    pub fn assert_nothing_is_left(&self) {
        let commands: Vec<String> = processes().into_iter().map(|one| one.command).collect();
        let is_left = |command: &&String| {
            let program = command.split(' ').next().unwrap_or_default();
            let name = program.rsplit('/').next().unwrap_or_default();
            name == "docker"
                || command.contains("docker-compose")
                || command.contains(" deploy ") && !command.contains("send-messages")
        };
        let left: Vec<_> = commands.iter().filter(is_left).collect();
        assert!(left.is_empty(), "still running: {left:#?}");
        for name in ["tmp", "home"] {
            let left: Vec<_> = fs::read_dir(self.directory.join(name))
                .unwrap()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }

    /// Asserts that no client has noticed anything, and that every POST has reached the app once.
    pub fn assert_unnoticed(&self, tally: &Tally) {
        tally.assert_unnoticed();
        assert!(tally.answered > 0, "no load");
        assert!(!tally.posts.is_empty(), "no POSTs");
        let log = fs::read_to_string(self.directory.join("posts/log")).unwrap();
        let mut times = std::collections::HashMap::<&str, usize>::new();
        for line in log.lines() {
            *times.entry(line.split(' ').nth(1).unwrap()).or_default() += 1;
        }
        for id in &tally.posts {
            assert_eq!(times.get(id.as_str()), Some(&1), "{id} was not done once");
        }
    }

    /// Every command that a deploy has started, as `docker` and `docker-compose` got it: arguments, one command a line.
    pub fn commands(&self) -> String {
        fs::read_to_string(self.directory.join("commands")).unwrap_or_default()
    }

    /// The directory with the lock and the ledger.
    pub fn ledger(&self) -> PathBuf {
        self.directory.join("ledger")
    }

    /// The directory of the test.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }
}

// === helpers ===

/// The slot that is not this one.
pub fn other(slot: &str) -> &'static str {
    match slot {
        "blue" => "green",
        "green" => "blue",
        _ => panic!("{slot} is no slot"),
    }
}

/// One variable for each slot, ports on loopback, and a volume that tells what has reached the app.
fn compose_file(directory: &std::path::Path) -> String {
    let mut text = "version: \"3.8\"\nservices:\n".to_owned();
    for (slot, address) in [("blue", BLUE), ("green", GREEN)] {
        let variable = format!("{}_IMAGE", slot.to_uppercase());
        text += &format!(
            "  web_{slot}:\n    \
               image: ${{{variable}:?set by mana-proxy deploy}}\n    \
               ports: [\"{address}:3000\"]\n    \
               restart: unless-stopped\n    \
               init: true\n    \
               volumes: [\"{}:/posts\"]\n",
            directory.join("posts").display()
        );
    }
    text
}

fn configure(config: &mut ConfigBuilder, engine: &Engine, registry: &Registry) {
    let directory = apart::directory();
    let quoted = |text: &str| format!("{text:?}");
    let path = |name: &str| quoted(directory.join(name).to_str().unwrap());
    config
        .set("deploy", "compose_file", &path("compose.yml"))
        .set("deploy", "project", &quoted(PROJECT))
        .set(
            "deploy",
            "blue",
            r#"{ service = "web_blue", image_variable = "BLUE_IMAGE" }"#,
        )
        .set(
            "deploy",
            "green",
            r#"{ service = "web_green", image_variable = "GREEN_IMAGE" }"#,
        )
        .set("deploy", "image", &quoted(&registry.repository()))
        .set("deploy", "engine", &quoted(&engine.host()))
        .set("deploy", "dir", &path("ledger"))
        .set("deploy", "registry_user", &quoted(USER))
        .set("deploy", "start_timeout", r#""20s""#)
        .set(
            "deploy",
            "watch",
            r#"{ time = "1s", errors_percent = 5, requests_min = 20 }"#,
        )
        .set("deploy", "keep_warm", r#""always""#)
        .set("deploy", "disk_free_min", r#""64MiB""#)
        .set("deploy", "memory_free_min", r#""64MiB""#);
}

/// Programs before the real ones in `PATH` that write down what they were started with. Looking at `/proc` now and then would
/// miss what is short.
fn write_recorders(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    for program in ["docker", "docker-compose"] {
        let mut which = Blocking::new("sh");
        which.args(["-c", &format!("command -v {program}")]);
        let real = done(&mut which);
        let script = format!(
            "#!/bin/sh\necho \"{program} $*\" >>'{}'\nexec {real} \"$@\"\n",
            directory.join("commands").display()
        );
        let path = directory.join("bin").join(program);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
