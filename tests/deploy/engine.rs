//! A Docker Engine of the test's own: started, stopped, killed, started again on the same data.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::apart;
use crate::support::eventually;

/// A dockerd, running or not.
pub struct Engine {
    directory: PathBuf,
    dockerd: Option<Child>,
    /// What is in `/run` on a machine, and with that gone after a power cut.
    runtime: u32,
}

/// A container, as the engine describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// The id of its image, `sha256:...`.
    pub image: String,
    /// `created`, `running`, `restarting`, `exited`, ...
    pub status: String,
    pub started_at: String,
}

/// A disk for an engine alone, which can be filled. It goes with the namespaces.
pub struct SmallDisk {
    data: PathBuf,
}

// === impl Engine ===

impl Engine {
    /// Starts one with nothing in it, and waits until it answers.
    pub async fn start() -> Engine {
        let directory = apart::directory().join("engine");
        fs::create_dir_all(&directory).unwrap();
        let mut engine = Engine {
            directory,
            dockerd: None,
            runtime: 0,
        };
        engine.start_again().await;
        engine
    }

    /// Starts it on the data that it had.
    pub async fn start_again(&mut self) {
        assert!(self.dockerd.is_none(), "it is running");
        // One that was killed leaves it, and the number may be another process's by now.
        fs::remove_file(self.path("pid")).ok();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let dockerd = Command::new("dockerd")
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.runtime())
            .arg("--pidfile")
            .arg(self.path("pid"))
            .args(["--host", &self.host()])
            .args(["--cgroup-parent", &apart::control_group()])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd: apt-get install docker.io iptables");
        self.dockerd = Some(dockerd);
        eventually("the engine answers", async || {
            let dockerd = self.dockerd.as_mut().unwrap();
            if let Some(status) = dockerd.try_wait().unwrap() {
                panic!("dockerd has ended with {status}: {}", self.log());
            }
            self.try_docker(&["version"]).status.success()
        })
        .await;
    }

    /// Ends it as `systemctl stop docker` does: containers are stopped.
    pub async fn stop(&mut self) {
        let dockerd = self.dockerd.as_ref().expect("it is running");
        signal(dockerd.id(), "TERM");
        self.ended().await;
    }

    /// Kills it alone, as a fault of it would: containers go on.
    pub async fn kill(&mut self) {
        let dockerd = self.dockerd.as_ref().expect("it is running");
        signal(dockerd.id(), "KILL");
        self.ended().await;
    }

    /// Kills it and everything that it has started, as a power cut would.
    pub async fn cut_power(&mut self) {
        let dockerd = self.dockerd.as_ref().expect("it is running").id();
        // First of all who would write down that the others have ended.
        signal(dockerd, "KILL");
        self.ended().await;
        let exec = self.runtime();
        eventually("nothing of the engine is left", async || {
            let left = processes_of(exec.to_str().unwrap());
            left.iter().for_each(|pid| signal(*pid, "KILL"));
            left.is_empty()
        })
        .await;
        // Neither mounts nor networks outlive it; a network that did would have a second owner of each address.
        done(
            Command::new("sh")
                .args(["-ec", FORGET, "sh"])
                .arg(&self.directory),
        );
        self.runtime += 1;
    }

    fn runtime(&self) -> PathBuf {
        self.path(&format!("run-{}", self.runtime))
    }

    /// What a machine does that starts again: power off, then the engine anew.
    pub async fn reboot(&mut self) {
        self.cut_power().await;
        self.start_again().await;
    }

    async fn ended(&mut self) {
        let mut dockerd = self.dockerd.take().unwrap();
        eventually("dockerd has ended", async || {
            dockerd.try_wait().unwrap().is_some()
        })
        .await;
    }

    /// `unix://...`
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// The last of what it said.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let is_told = |line: &&str| !line.contains("level=info");
        let lines: Vec<&str> = log.lines().filter(is_told).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A command that speaks to this engine, and has no configuration of the user's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.path("client"))
            .stdin(Stdio::null());
        command
    }

    /// `docker ...`, however it ends.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.command("docker").args(arguments).output().unwrap()
    }

    /// `docker ...`, which has to succeed; what it printed.
    pub fn docker(&self, arguments: &[&str]) -> String {
        done(self.command("docker").args(arguments))
    }

    /// The container of that name or id, if there is one.
    pub fn container(&self, name: &str) -> Option<Container> {
        let output = self.try_docker(&["container", "inspect", name]);
        if !output.status.success() {
            return None;
        }
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |pointer: &str| found[0].pointer(pointer).unwrap().as_str().unwrap();
        Some(Container {
            id: text("/Id").to_owned(),
            image: text("/Image").to_owned(),
            status: text("/State/Status").to_owned(),
            started_at: text("/State/StartedAt").to_owned(),
        })
    }

    /// The id of an image, if it is there.
    pub fn image(&self, reference: &str) -> Option<String> {
        let output = self.try_docker(&["image", "inspect", "--format={{.Id}}", reference]);
        output.status.success().then(|| stdout(&output))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- engine\n{}", stdout(&self.try_docker(&["ps", "--all"])));
            eprintln!("{}\n---", self.log());
        }
        // Everything else of it ends with the namespaces.
        if let Some(dockerd) = &mut self.dockerd {
            dockerd.kill().ok();
            dockerd.wait().ok();
        }
    }
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Before the engine starts: its data is on a disk of that many mebibytes.
    pub fn mount(mebibytes: u64) -> SmallDisk {
        let data = apart::directory().join("engine/data");
        fs::create_dir_all(&data).unwrap();
        let size = format!("size={mebibytes}m");
        done(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(&data),
        );
        SmallDisk { data }
    }

    /// Leaves that many mebibytes of it.
    pub fn fill_up_to(&self, mebibytes: u64) {
        let disk = rustix::fs::statvfs(&self.data).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        let taken = free.checked_sub(mebibytes * 1024 * 1024).unwrap();
        let mut filler = File::create(self.data.join("filler")).unwrap();
        io::copy(&mut io::repeat(0).take(taken), &mut filler).unwrap();
    }
}

// === impl Container ===

impl Container {
    pub fn is_running(&self) -> bool {
        self.status == "running"
    }
}

/// What a kernel that starts again has forgotten of an engine in this directory; and it says that it has started again.
const FORGET: &str = r#"
    for mount in $(awk -v under="$1/" 'index($5, under) == 1 && $9 != "tmpfs" { print $5 }' /proc/self/mountinfo | tac); do
        umount --lazy "$mount"
    done
    for link in $(ip -oneline link show type bridge | awk -F ': ' '{ print $2 }'); do
        ip link delete "$link"
    done
    tr -d '\n' </proc/sys/kernel/random/uuid >"$1/boot-id"
    mount --bind "$1/boot-id" /proc/sys/kernel/random/boot_id
    for table in nat filter; do
        iptables -t $table --flush
        iptables -t $table --delete-chain
    done
"#;

// === helpers ===

/// Sends a signal by name. A process that has ended in this moment gets none.
pub fn signal(pid: u32, name: &str) {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{name}"), &pid.to_string()]);
    kill.stderr(Stdio::null()).status().unwrap();
}

/// Runs a command that has to succeed; what it printed.
pub fn done(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}: {said}",
        output.status
    );
    stdout(&output)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The processes of this test whose command line has this in it, and what they have started.
pub fn processes_of(text: &str) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    let all = processes();
    for process in &all {
        if process.command.contains(text) {
            found.push(process.pid);
        }
    }
    // Parents come before their children only by chance.
    loop {
        let before = found.len();
        for process in &all {
            if found.contains(&process.parent) && !found.contains(&process.pid) {
                found.push(process.pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// A process of this test.
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// Its arguments with spaces between them; empty for one that has ended.
    pub command: String,
}

/// Every process of this test. None of the machine's is among them.
pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

fn process(pid: u32) -> Option<Process> {
    let directory = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let parent = fields.split(' ').nth(1)?.parse().ok()?;
    let command = fs::read(directory.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let command = command.trim().to_owned();
    Some(Process {
        pid,
        parent,
        command,
    })
}
