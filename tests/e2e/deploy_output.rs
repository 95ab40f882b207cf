//! A deploy whose output nobody reads, which is told to end, or which hangs: `docker` is a script here.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::support::proxy::BINARY;
use crate::support::{Stage, eventually, within};

/// Knows nothing but what a deploy asks for until it pulls; then it prints a few lines and never ends.
const DOCKER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "${DOCKER_HOST-none} ${MANA_PROXY_REGISTRY_TOKEN-none} $*" >>"$here/asked"
[ "$1" != --config ] || shift 2
case "$*" in
"compose version"*) echo 2.40.3 ;;
info*) echo '{"ServerVersion":"28.5.1","DockerRootDir":"/"}' ;;
ps*) ;;
"compose "*config*) printf 'web_blue\nweb_green\n' ;;
"context inspect"*) echo unix:///run/user/7/docker.sock ;;
login*) cat >/dev/null ;;
"image inspect"*) echo "Error: No such image" >&2; exit 1 ;;
pull*) echo Pulling; exec sleep 600 ;;
*) exit 1 ;;
esac
"#;

const DEPLOY: &str = r#"
[deploy]
compose_file = "compose.yml"
project = "mana"
blue = { service = "web_blue", image_variable = "BLUE_IMAGE" }
green = { service = "web_green", image_variable = "GREEN_IMAGE" }
image = "registry.example/app"
dir = "deploys"
disk_free_min = "0B"
memory_free_min = "0B"
registry_user = "ci"
"#;

/// A proxy, and beside its files what a deploy needs.
struct Scene {
    stage: Stage,
    /// Deploys end with the test.
    deploys: Vec<Child>,
}

// === impl Scene ===

impl Scene {
    async fn start() -> Scene {
        let stage = Stage::start().await;
        let (bin, config) = (stage.proxy.path().join("bin"), "mana-proxy.toml");
        fs::create_dir(&bin).unwrap();
        fs::create_dir(stage.proxy.path().join("deploys")).unwrap();
        fs::write(bin.join("docker.text"), DOCKER).unwrap();
        // By another process: what a test beside this one forks could have it open, and nobody may start it then.
        let install = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([bin.join("docker.text"), bin.join("docker")])
            .status();
        assert!(install.unwrap().success());
        let serving = fs::read_to_string(stage.proxy.path().join(config)).unwrap();
        let scene = Scene {
            stage,
            deploys: Vec::new(),
        };
        scene.configure(&serving, "");
        scene
    }

    fn configure(&self, serving: &str, more: &str) {
        fs::write(self.path("deploy.toml"), format!("{serving}{DEPLOY}{more}")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.proxy.path().join(name)
    }

    /// Begins `deploy` with these options.
    fn deploy(&mut self, options: &[&str], stdout: Stdio, stderr: Stdio) -> u32 {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let child = Command::new(BINARY)
            .args(["deploy", "--config", "deploy.toml", "--tag", "41"])
            .args(options)
            .current_dir(self.stage.proxy.path())
            .env_clear()
            .env("PATH", path)
            .env("MANA_PROXY_REGISTRY_TOKEN", "s3cret")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        self.deploys.push(child);
        pid
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let mut child = self.deploys.pop().unwrap();
        let status = within("the end of the deploy", child.wait()).await;
        status.unwrap().code()
    }

    /// Each line that `docker` was asked: its engine, the token if it has it, its arguments.
    fn asked(&self) -> String {
        fs::read_to_string(self.path("bin/asked")).unwrap_or_default()
    }

    async fn pulls(&self) {
        eventually("the deploy pulls", async || {
            self.asked().contains(" pull registry.example/app:41")
        })
        .await;
    }
}

/// A pipe that takes not one byte more. Nobody reads it.
fn full() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(writer.as_fd(), true).unwrap();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    while writer.write(b".").is_ok() {}
    rustix::io::ioctl_fionbio(writer.as_fd(), false).unwrap();
    (reader, writer)
}

fn signal(pid: u32, name: &str) {
    signals(pid, &[name]);
}

/// One after the other, by one shell: between two of them a busy machine might let the process end by itself.
fn signals(pid: u32, names: &[&str]) {
    let kills: Vec<String> = names
        .iter()
        .map(|name| format!("kill -{name} {pid}"))
        .collect();
    let script = kills.join(" && ");
    let sent = std::process::Command::new("sh")
        .args(["-c", &script])
        .status();
    assert!(sent.unwrap().success());
}

/// Whether the process listens for signals already: HUP is the last of those that it begins to handle, and it listens for the
/// others by then.
fn hears(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & 1 != 0)
}

#[tokio::test]
async fn a_deploy_whose_output_nobody_reads_hears_a_signal() {
    let mut scene = Scene::start().await;
    for options in [&["--wait"][..], &["--wait", "--json"]] {
        let lock = File::create(scene.path("deploys/lock")).unwrap();
        lock.lock().unwrap();
        let (_reader, writer) = full();
        let stdout = Stdio::from(writer.try_clone().unwrap());
        let pid = scene.deploy(options, stdout, writer.into());
        eventually("it hears signals", async || hears(pid)).await;
        signal(pid, "TERM");
        assert_eq!(scene.exit_code().await, Some(2), "{options:?}");
    }
}

#[tokio::test]
async fn a_deploy_whose_output_nobody_reads_goes_on() {
    let mut scene = Scene::start().await;
    let (_reader, writer) = full();
    let stdout = Stdio::from(writer.try_clone().unwrap());
    let pid = scene.deploy(&["--json"], stdout, writer.into());
    scene.pulls().await;
    signal(pid, "INT");
    // Nothing was changed but the ledger, which says so.
    assert_eq!(scene.exit_code().await, Some(1));
    let ledger = fs::read_to_string(scene.path("deploys/ledger.json")).unwrap();
    assert!(ledger.contains("cut_off"), "{ledger}");
    assert_eq!(fs::read(scene.path("deploys/lock")).unwrap(), b"");
}

#[tokio::test]
async fn a_second_signal_says_how_things_are_left() {
    let mut scene = Scene::start().await;
    let lock = File::create(scene.path("deploys/lock")).unwrap();
    lock.lock().unwrap();
    // The result cannot be written, so that the first signal takes its time.
    let (_full, writer) = full();
    let (mut said, stderr) = pipe().unwrap();
    let pid = scene.deploy(&["--wait", "--json"], writer.into(), stderr.into());
    eventually("it hears signals", async || hears(pid)).await;
    signals(pid, &["TERM", "INT"]);
    assert_eq!(scene.exit_code().await, Some(130));
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    // What the first signal has the deploy say may come before it or behind.
    let last_words = "left as it is; the next deploy or `mana-proxy deploy reconcile` tidies up\n";
    assert!(text.contains(last_words), "{text}");
}

#[tokio::test]
async fn that_it_has_begun_is_told_while_it_goes_on_and_the_token_stays_here() {
    let mut scene = Scene::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/HOOKHOOK", listener.local_addr().unwrap());
    let serving = fs::read_to_string(scene.path("mana-proxy.toml")).unwrap();
    fs::write(scene.path("url"), url).unwrap();
    let message = "[[deploy.message]]\nto = \"slack\"\nurl_file = \"url\"\n";
    scene.configure(&serving, &format!("\n{message}"));
    let pid = scene.deploy(&[], Stdio::null(), Stdio::null());
    let (mut sender, _) = within("the message", listener.accept()).await.unwrap();
    let mut request = Vec::new();
    while !String::from_utf8_lossy(&request).contains("started") {
        let read = within("the message", sender.read_buf(&mut request)).await;
        assert!(read.unwrap() > 0, "it breaks off");
    }
    // It waits for an answer, and has neither the token nor the lock.
    let process = process_of(scene.stage.proxy.path(), "send-messages");
    let environment = fs::read_to_string(process.join("environ")).unwrap();
    assert!(!environment.contains("s3cret"));
    let files = fs::read_dir(process.join("fd")).unwrap().flatten();
    let files = files.filter_map(|file| fs::read_link(file.path()).ok());
    assert!(
        files
            .into_iter()
            .all(|file| !file.ends_with("deploys/lock"))
    );
    sender
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();

    scene.pulls().await;
    let asked = scene.asked();
    assert!(!asked.contains("s3cret"), "{asked}");
    for verb in ["login", "pull"] {
        let line = asked
            .lines()
            .find(|line| line.contains(&format!(" {verb} ")));
        // What docker would have used without a directory of its own for the login.
        let engine = "unix:///run/user/7/docker.sock none --config ";
        assert!(line.unwrap().starts_with(engine), "{asked}");
    }
    signal(pid, "TERM");
    assert_eq!(scene.exit_code().await, Some(1));
}

/// The process with this directory and this argument.
fn process_of(directory: &Path, argument: &str) -> PathBuf {
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    let found = processes.find(|process| {
        let path = process.path();
        let here = fs::read_link(path.join("cwd"));
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        here.is_ok_and(|here| here == directory)
            && words
                .split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
    });
    found.expect("the process").path()
}
