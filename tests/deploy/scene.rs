//! The usual scene of a test: an engine, a registry, an app that runs in the blue slot, and a proxy before it.

use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::apart;
use crate::deploying::{Deploying, Ended};
use crate::engine::{Container, Engine, done, processes};
use crate::files::{self, BLUE, GREEN, PROJECT};
use crate::registry::{Registry, TOKEN};
use crate::release::Release;
use crate::support::client::tls::{Offer, connect};
use crate::support::load::{Load, Tally};
use crate::support::proxy::{BINARY, within_directory};
use crate::support::{ConfigBuilder, H1, HOST, Proxy, eventually};

/// Requests that are answered before and after what a test does.
pub const REQUESTS: usize = 60;

/// All of it, running.
pub struct Scene {
    /// Dropped first, before what it forwards to.
    pub proxy: Proxy,
    pub engine: Engine,
    pub registry: Registry,
    config: ConfigBuilder,
    directory: PathBuf,
}

/// How things stand: what no failed deploy may change.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    active: String,
    generation: u64,
    /// The live container: it is never restarted, recreated or stopped.
    live: Option<Container>,
    /// What the standby runs, if it does. What is stopped there is no matter: it is made anew before it runs again.
    standby: Option<String>,
}

// === impl Scene ===

impl Scene {
    /// The release `r1` is live in blue, nothing is in green.
    pub async fn start() -> Scene {
        Scene::configured(files::configure).await
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
        fs::write(&compose, files::compose(&directory)).unwrap();
        files::write_recorders(&directory);
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
        let scene = Scene {
            proxy,
            engine,
            registry,
            config,
            directory,
        };
        scene.has_the_plugin(env::var_os(files::PLUGIN).is_some());
        scene
    }

    /// Sets a key of `[deploy]` for the deploys to come. The daemon has no use for it.
    pub fn set(&mut self, key: &str, value: &str) {
        self.config.set("deploy", key, value);
        self.proxy.write_config(&self.config.text());
    }

    /// Puts a release into the registry; the id of its image.
    pub fn push(&self, release: &Release<'_>) -> String {
        self.registry.push(&self.engine, release)
    }

    /// `mana-proxy ARGUMENTS` as whoever deploys would run it, with the token in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = within_directory(BINARY, self.proxy.path());
        let path = env::var("PATH").unwrap();
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

    /// The last deploys, as `deploy history --json` has them.
    pub async fn history(&self) -> Vec<Value> {
        let ended = self.deploy(&["history"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        ended.result()["deploys"].as_array().unwrap().clone()
    }

    /// The active slot, the daemon's word.
    pub async fn active(&self) -> String {
        let site = self.proxy.site().await;
        site["active"].as_str().unwrap().to_owned()
    }

    /// What a client gets to see: the name of the release that is live.
    pub async fn who_answers(&self) -> String {
        let stream = connect(self.proxy.https(), &Offer::h1(HOST)).await;
        let response = H1::over(stream.unwrap()).get("/").await;
        assert_eq!(response.status, 200, "{response:?}");
        response.text()
    }

    /// Sends a request that the app answers so late; what it will have answered. It is under way when this returns.
    pub async fn slow_request(&self, after_ms: u64) -> JoinHandle<String> {
        let stream = connect(self.proxy.https(), &Offer::h1(HOST)).await;
        let mut client = H1::over(stream.unwrap());
        let request = format!("GET /delay/{after_ms} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        client.send(request).await;
        let site = async || self.proxy.site().await;
        eventually("it is in flight", async || {
            let site = site().await;
            let slot = site["active"].as_str().unwrap();
            site["slots"][slot]["in_flight"].as_u64() > Some(0)
        })
        .await;
        tokio::spawn(async move { client.response("GET").await.text() })
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
            standby: standby
                .filter(Container::is_running)
                .map(|container| container.image),
            generation: site["generation"].as_u64().unwrap(),
            active,
        }
    }

    /// The same once more than one release was deployed: `r2` is live in green, and `r1` is kept warm in blue.
    pub async fn after_a_deploy() -> Scene {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        assert_eq!(scene.active().await, "green");
        scene
    }

    /// Tries to deploy a release that is put into the registry for it, under load that must not notice, and that has to fail
    /// in a step with everything as before.
    pub async fn fails(&self, release: &Release<'_>, step: &str) -> Ended {
        self.push(release);
        let command = self.command(&["--json", "deploy", "--tag", release.tag()]);
        self.fails_with(command, step).await
    }

    /// The same with a command of another kind.
    pub async fn fails_with(&self, command: Command, step: &str) -> Ended {
        let before = self.standing().await;
        let load = self.load();
        load.goes_on_for(REQUESTS).await;
        let ended = self.begin_with(command).ended().await;
        load.goes_on_for(REQUESTS).await;
        self.assert_unnoticed(&load.stop().await);
        ended.assert_failed_at(step);
        self.assert_as(&before).await;
        ended
    }

    /// Asserts that everything is as it was, and that nothing is left of the attempt.
    pub async fn assert_as(&self, before: &Standing) {
        assert_eq!(&self.standing().await, before);
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

    /// Load from now on, whose POSTs are the only ones that the app remembers.
    pub fn load(&self) -> Load {
        fs::File::create(self.path("posts/log")).unwrap();
        Load::requests(&self.proxy)
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

    /// Whether there is a `docker compose` from now on.
    pub fn has_the_plugin(&self, has_it: bool) {
        if has_it {
            fs::write(self.path("plugin"), "").unwrap();
        } else {
            fs::remove_file(self.path("plugin")).ok();
        }
    }

    /// Lets a slow release listen.
    pub fn let_listen(&self, release: &str) {
        fs::write(self.path("posts").join(format!("listen-{release}")), "").unwrap();
    }

    /// From now on `docker-compose up` waits before it does anything, as one on a slow machine would.
    pub fn hold_compose_up(&self) {
        fs::write(self.path("hold"), "").unwrap();
    }

    /// Waits until one waits.
    pub async fn wait_for_held_compose(&self) {
        eventually("compose is held", async || self.path("held").exists()).await;
    }

    /// Lets them go on.
    pub fn release_compose(&self) {
        fs::remove_file(self.path("hold")).unwrap();
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The compose file with one text replaced by another, from now on.
    pub fn change_compose_file(&self, from: &str, to: &str) {
        let path = self.path("compose.yml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
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
