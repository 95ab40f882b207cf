//! The binary under test: started in a directory of its own, asked, signalled, killed, started again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::{ConfigBuilder, H1, eventually, within};

/// A page of memory on the machines that this runs on.
const PAGE_BYTES: u64 = 4096;
/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_mana-proxy");

/// One running `mana-proxy run`. It dies with this value; if the test is failing, what it said is printed.
pub struct Proxy {
    directory: TempDir,
    child: Child,
    /// What `status` said of the listeners.
    listen: Value,
}

/// The files of a proxy that may not be running.
pub struct Home {
    directory: TempDir,
}

// === impl Home ===

impl Home {
    /// An empty directory with this configuration in it.
    pub fn new(config: &ConfigBuilder) -> Home {
        let home = Home {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(home.path().join("run")).unwrap();
        home.write_config(&config.text());
        home
    }

    /// The working directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces the configuration file.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path().join("mana-proxy.toml"), text).unwrap();
    }

    /// Starts `mana-proxy run` here and does not wait for it.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> Child {
        spawn(self.path(), environment)
    }

    /// Starts the proxy here and waits until it answers.
    pub async fn start(self, environment: &[(&str, &str)]) -> Proxy {
        let child = self.spawn(environment);
        self.answering(child).await
    }

    /// Starts the proxy here as a process that may have so many file descriptors.
    pub async fn start_with_descriptors(self, limit: u32) -> Proxy {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut shell = within_directory("sh", self.path());
        shell.args(["-c", &script, BINARY]);
        let child = serve(shell, self.path(), &[]);
        self.answering(child).await
    }

    /// Starts the proxy here in another way than by itself, and waits until it answers.
    pub async fn start_by(self, start: impl FnOnce(&Path) -> Child) -> Proxy {
        let child = start(self.path());
        self.answering(child).await
    }

    async fn answering(self, child: Child) -> Proxy {
        let mut proxy = Proxy {
            directory: self.directory,
            child,
            listen: Value::Null,
        };
        proxy.wait_until_it_answers().await;
        proxy
    }

    /// Runs the binary here with these arguments until it ends.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        run(self.path(), arguments).await
    }
}

// === impl Proxy ===

impl Proxy {
    /// Starts the proxy in a new directory and waits until its control socket answers.
    pub async fn start(config: &ConfigBuilder) -> Proxy {
        Home::new(config).start(&[]).await
    }

    /// The working directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/control.sock")
    }

    /// Replaces the configuration file.
    pub fn write_config(&self, text: &str) {
        fs::write(self.path().join("mana-proxy.toml"), text).unwrap();
    }

    /// The state file as it is on disk.
    pub fn state(&self) -> Value {
        let text = fs::read_to_string(self.path().join("run/state/state.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// What it has printed to stderr in all its lives.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.path().join("stderr.log")).unwrap_or_default()
    }

    /// What it has printed to stdout in all its lives.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.path().join("stdout.log")).unwrap_or_default()
    }

    /// Where plain requests go.
    pub fn http(&self) -> SocketAddr {
        self.address(&self.listen["http"][0])
    }

    /// Where requests with TLS go.
    pub fn https(&self) -> SocketAddr {
        self.address(&self.listen["https"][0])
    }

    /// Where another listener than the first one of its kind is.
    pub fn listener(&self, kind: &str, index: usize) -> SocketAddr {
        self.address(&self.listen[kind][index])
    }

    /// What is counted under a limit so far.
    pub async fn rejects(&self, limit: &str) -> u64 {
        let start = format!("mana_proxy_rejects_total{{limit=\"{limit}\"}} ");
        let metrics = self.metrics().await;
        let count = metrics.lines().find_map(|line| line.strip_prefix(&start));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// Where metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.address(&self.listen["admin"])
    }

    fn address(&self, value: &Value) -> SocketAddr {
        let text = value.as_str();
        text.unwrap_or_else(|| panic!("no address in {}", self.listen))
            .parse()
            .unwrap()
    }

    /// The process id of the one that was started here.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was waited for")
    }

    /// `upgrade`, which must be done. The process id of the successor.
    pub async fn upgrade(&self) -> u32 {
        let reply = self.done("upgrade").await;
        u32::try_from(reply["pid"].as_u64().unwrap()).unwrap()
    }

    /// The process id of the one that answers now.
    pub async fn serving_pid(&self) -> u32 {
        let pid = self.done("status").await["pid"].as_u64().unwrap();
        u32::try_from(pid).unwrap()
    }

    /// Waits until a process that has taken over, or the one that was started, is gone.
    pub async fn gone(&mut self, pid: u32) {
        let child = &mut self.child;
        eventually(&format!("{pid} is gone"), async || {
            // A parent that does not wait leaves a zombie.
            child.try_wait().unwrap();
            is_gone(pid)
        })
        .await;
    }

    /// Sends a signal to a process that has taken over. One that has ended in this moment gets none.
    pub fn signal_to(&self, pid: u32, name: &str) {
        let killed = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {pid}"))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(killed.success() || is_gone(pid));
    }

    /// Sends one line and reads one.
    pub async fn control(&self, line: &str) -> Value {
        let reply = within(line, ask(&self.socket(), line)).await;
        reply.unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends one line whose reply must be `ok`.
    pub async fn done(&self, line: &str) -> Value {
        let reply = self.control(line).await;
        assert_eq!(reply["ok"], true, "{line}: {reply}");
        reply
    }

    /// Sends one line whose reply must be a refusal with this code.
    pub async fn refused(&self, line: &str, code: &str) -> Value {
        let reply = self.control(line).await;
        assert_eq!(reply["ok"], false, "{line}: {reply}");
        assert_eq!(reply["code"], code, "{line}: {reply}");
        assert!(reply["error"].is_string(), "{line}: {reply}");
        reply
    }

    /// What `status` says of the first site.
    pub async fn site(&self) -> Value {
        self.done("status").await["sites"][0].clone()
    }

    /// Waits until `status` says that a slot of the first site is healthy, or is not.
    pub async fn wait_for_health(&self, slot: &str, is_healthy: bool) {
        eventually(&format!("{slot} healthy: {is_healthy}"), async || {
            self.site().await["slots"][slot]["healthy"] == is_healthy
        })
        .await;
    }

    /// Waits until no request is in flight in either slot of the first site.
    pub async fn wait_until_idle(&self) {
        eventually("nothing in flight", async || {
            let site = self.site().await;
            ["blue", "green"]
                .iter()
                .all(|slot| site["slots"][slot]["in_flight"] == 0)
        })
        .await;
    }

    /// Runs a verb of the binary against this proxy.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let socket = socket.to_str().unwrap();
        let arguments: Vec<_> = ["--socket", socket]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        run(self.path(), &arguments).await
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let response = H1::plain(self.admin()).await.get("/metrics").await;
        assert_eq!(response.status, 200);
        response.text()
    }

    /// Sends a signal by name, for example `TERM`.
    pub fn signal(&self, name: &str) {
        self.signal_to(self.pid(), name);
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the end of the process", self.child.wait())
            .await
            .unwrap()
    }

    /// Ends the process at once.
    pub async fn sigkill(&mut self) {
        within("the kill", self.child.kill()).await.unwrap();
    }

    /// Starts the process again in the same directory and waits until it answers. It must have ended before.
    pub async fn restart(&mut self, environment: &[(&str, &str)]) {
        self.restart_by(|directory| spawn(directory, environment))
            .await;
    }

    /// The same in another way than by itself.
    pub async fn restart_by(&mut self, start: impl FnOnce(&Path) -> Child) {
        assert!(
            self.child.try_wait().unwrap().is_some(),
            "it is still running"
        );
        self.child = start(self.path());
        self.wait_until_it_answers().await;
    }

    /// Bytes of memory that the process has had at most.
    pub fn memory_peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes * 1024
    }

    /// Bytes of memory that the process has now.
    pub fn memory(&self) -> u64 {
        let pages = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        let resident: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
        resident * PAGE_BYTES
    }

    /// File descriptors that the process has open now.
    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        open.count()
    }

    /// Bytes by which that has grown. The kernel counts in batches, so that a peak may look lower than an earlier one.
    pub fn memory_growth(&self, before: u64) -> u64 {
        self.memory_peak().saturating_sub(before)
    }

    async fn wait_until_it_answers(&mut self) {
        let socket = self.socket();
        let mut listen = Value::Null;
        let child = &mut self.child;
        eventually("the control socket answers", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("mana-proxy has ended with {status}");
            }
            match ask(&socket, "status").await {
                Ok(status) => {
                    listen = status["listen"].clone();
                    true
                }
                Err(_) => false,
            }
        })
        .await;
        self.listen = listen;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A process that has taken over is no child of this one.
        for pid in running_in(self.path()) {
            self.signal_to(pid, "KILL");
        }
        if std::thread::panicking() {
            let config = fs::read_to_string(self.path().join("mana-proxy.toml"));
            eprintln!("--- mana-proxy.toml\n{}", config.unwrap_or_default());
            eprintln!("--- stdout of mana-proxy\n{}", tail(&self.stdout()));
            eprintln!("--- stderr of mana-proxy\n{}\n---", tail(&self.stderr()));
        }
    }
}

// === helpers ===

/// Sends one line to a control socket and reads one reply.
pub async fn ask(socket: &Path, line: &str) -> Result<Value, std::io::Error> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut reply = String::new();
    stream.read_line(&mut reply).await?;
    Ok(serde_json::from_str(&reply)?)
}

/// The processes that have this working directory.
fn running_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &u32| {
            let here = fs::read_link(format!("/proc/{pid}/cwd"));
            here.is_ok_and(|here| here == directory)
        })
        .collect()
}

/// Whether a process has ended; one that nobody waits for has ended too.
fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}

fn spawn(directory: &Path, environment: &[(&str, &str)]) -> Child {
    serve(command(directory), directory, environment)
}

fn serve(mut command: Command, directory: &Path, environment: &[(&str, &str)]) -> Child {
    let log = |name: &str| {
        let path = directory.join(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        Stdio::from(file.unwrap())
    };
    command
        .args(["run", "--config", "mana-proxy.toml"])
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log("stdout.log"))
        .stderr(log("stderr.log"))
        .spawn()
        .unwrap()
}

async fn run(directory: &Path, arguments: &[&str]) -> Output {
    let output = command(directory)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    within(&format!("{arguments:?}"), output).await.unwrap()
}

/// The binary in a directory, for what [`Proxy::cli`] cannot do: to be killed half-way, say.
pub fn command(directory: &Path) -> Command {
    within_directory(BINARY, directory)
}

/// A program in a directory, with nothing of this process's environment that the binary would read.
pub fn within_directory(program: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .env_remove("MANA_PROXY_SOCKET")
        .env_remove("MANA_PROXY_FAILPOINT")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .kill_on_drop(true);
    command
}

fn tail(text: &str) -> &str {
    const SHOWN_BYTES: usize = 16 * 1024;
    let mut start = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
