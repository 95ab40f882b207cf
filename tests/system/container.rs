//! A container with a systemd of its own: made once, copied for each test, booted, and gone when the test is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::eventually;

/// Beside what debootstrap calls essential.
const PACKAGES: &str = "systemd,systemd-sysv,dbus";

/// A booted Debian. It shares the network of this machine and nothing else.
pub struct Container {
    nspawn: Child,
    /// The container's process 1, as this machine counts.
    leader: u32,
    root: TempDir,
}

// === impl Container ===

impl Container {
    /// Boots a fresh one and waits until its systemd has started everything.
    pub async fn boot() -> Container {
        let uid = fs::metadata("/proc/self").unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&uid),
            0,
            "a container needs root: sudo make test-system"
        );
        let template = template();
        let root = tempfile::tempdir_in(template.parent().unwrap()).unwrap();
        let copied = root.path().join("root");
        done(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .args([&template, &copied]),
        );
        // Names of the site lead to this machine, as they should.
        fs::write(
            copied.join("etc/hosts"),
            "127.0.0.1 localhost mana.so www.mana.so\n",
        )
        .unwrap();
        let nspawn = Command::new("systemd-nspawn")
            // Where systemd is not process 1 there is no machine registry to register at.
            .args(["--register=no", "--keep-unit", "--boot", "--quiet"])
            .arg("--directory")
            .arg(&copied)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("systemd-nspawn: apt-get install systemd-container");
        let mut container = Container {
            nspawn,
            leader: 0,
            root,
        };
        eventually("the container has booted", async || {
            // Asked again each time: the first children of nspawn are its own and end soon.
            container.leader = child_of(container.nspawn.id()).unwrap_or_default();
            let state = container.run(&["systemctl", "is-system-running"]);
            ["running", "degraded"].contains(&stdout(&state).trim())
        })
        .await;
        container
    }

    /// A path of the container, as this machine sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        let inside = inside.trim_start_matches('/');
        self.root.path().join("root").join(inside)
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs a command as root of the container.
    pub fn run(&self, command: &[&str]) -> Output {
        Command::new("nsenter")
            .args(["--all", "--target", &self.leader.to_string(), "--"])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command that has to succeed; what it printed.
    pub fn done(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}{}",
            output.status,
            stdout(&output),
            stderr(&output)
        );
        stdout(&output)
    }

    /// What the services have said.
    pub fn journal(&self) -> String {
        stdout(&self.run(&[
            "journalctl",
            "--no-pager",
            "--unit=mana-proxy*",
            "--lines=100",
        ]))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- journal of the container\n{}\n---", self.journal());
        }
        // With its process 1 everything in it ends. The directory goes after this.
        let _ = Command::new("kill")
            .args(["-KILL", &self.leader.to_string()])
            .status();
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// The tree that all containers are copies of; made by the first test that wants it, and kept.
fn template() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("system");
    let release = release();
    let template = target.join(format!("{release}-{}", PACKAGES.replace(',', "-")));
    if template.exists() {
        return template;
    }
    fs::create_dir_all(&target).unwrap();
    // Made beside it and renamed, so that one that was cut off is not taken for whole.
    let making = tempfile::tempdir_in(&target).unwrap();
    let root = making.path().join("root");
    eprintln!("making a {release} with {PACKAGES}; this is done once");
    done(
        Command::new("debootstrap")
            .args([
                "--variant=minbase",
                &format!("--include={PACKAGES}"),
                &release,
            ])
            .arg(&root)
            .stdout(Stdio::null()),
    );
    fs::rename(&root, &template).unwrap();
    template
}

/// The release of this machine: what is built here needs its libraries, or newer ones.
fn release() -> String {
    let known = fs::read_to_string("/etc/os-release").unwrap();
    let name = known
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.expect("a Debian or an Ubuntu")
        .trim_matches('"')
        .to_owned()
}

fn done(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
