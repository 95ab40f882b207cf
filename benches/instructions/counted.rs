//! One life of the proxy under callgrind, and how many instructions its threads were.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::scenario::{Scenario, Speaks};
use crate::{HOST, Outcome, client, upstream};

/// Counts the instructions of one life in user space: start, so many requests, end.
///
/// The first thread is left out. It starts the process and then waits for orders, and its start gathers random numbers
/// from the jitter of the clock: four times the work of a thousand requests, and never the same twice.
///
/// # Errors
/// valgrind cannot be started, the proxy does not listen or end in time, a request fails; what the proxy said is in the
/// message.
pub fn life(scenario: Scenario, binary: &Path, requests: u32) -> Outcome<u64> {
    let home = tempfile::tempdir()?;
    let issued = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let chain = issued.cert.pem();
    fs::write(home.path().join("chain.pem"), &chain)?;
    fs::write(
        home.path().join("key.pem"),
        issued.signing_key.serialize_pem(),
    )?;
    let slots = [
        upstream::start(scenario.body_bytes())?,
        upstream::start(scenario.body_bytes())?,
    ];
    let address = free_address()?;
    let config = config(scenario, address, slots)?;
    fs::write(home.path().join("mana-proxy.toml"), config)?;

    let mut counted = Counted::start(home, binary)?;
    counted.wait_until_it_listens(address)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let loaded = runtime.block_on(client::load(scenario, address, chain.as_bytes(), requests));
    loaded.map_err(|error| counted.complaint(&error.to_string()))?;
    counted.end()
}

/// A proxy under callgrind. It dies with this value, and with this process, however that ends.
struct Counted {
    child: Child,
    home: TempDir,
}

// === impl Counted ===

impl Counted {
    fn start(home: TempDir, binary: &Path) -> Outcome<Counted> {
        let said = fs::File::create(home.path().join(SAID))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            // One thread at a time runs under valgrind; in turn, or a busy one would starve the others.
            .args(["valgrind", "--tool=callgrind", "--fair-sched=yes"])
            .arg("--separate-threads=yes")
            .arg(format!(
                "--callgrind-out-file={}",
                home.path().join(COUNTS).display()
            ))
            .arg(binary)
            .args(["run", "--config", "mana-proxy.toml"])
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let child = command.spawn()?;
        Ok(Counted { child, home })
    }

    fn wait_until_it_listens(&mut self, address: SocketAddr) -> Outcome<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() {
            if self.child.try_wait()?.is_some() {
                return Err(self.complaint("the proxy has ended"));
            }
            if Instant::now() > deadline {
                return Err(self.complaint("the proxy does not listen"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Lets it drain and end, and reads the count.
    fn end(mut self) -> Outcome<u64> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + END_DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(self.complaint("the proxy does not end"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            return Err(self.complaint(&format!("the proxy has failed: {status}")));
        }
        self.total()
    }

    /// Adds up the files of all threads but the first: `callgrind.out-02`, `callgrind.out-03`, ...
    fn total(&self) -> Outcome<u64> {
        let mut total = 0;
        for entry in fs::read_dir(self.home.path())? {
            let entry = entry?;
            let name = entry.file_name();
            let thread = name
                .to_str()
                .and_then(|name| name.strip_prefix(COUNTS)?.strip_prefix('-'));
            if thread.is_none_or(|thread| thread == FIRST_THREAD) {
                continue;
            }
            // The last line of each file is `totals: 123456789`.
            let counts = fs::read_to_string(entry.path())?;
            total += counts
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("totals: "))
                .and_then(|total| total.trim().parse::<u64>().ok())
                .ok_or_else(|| self.complaint("callgrind has left a file without a total"))?;
        }
        match total {
            0 => Err(self.complaint("callgrind has counted nothing")),
            total => Ok(total),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn complaint(&self, what: &str) -> Box<dyn std::error::Error> {
        let said = fs::read_to_string(self.path(SAID)).unwrap_or_default();
        format!("{what}; it said:\n{}", said.trim()).into()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and wait tells at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As it ships, with one worker. Probes are so rare that only the first falls into a run.
fn config(
    scenario: Scenario,
    listen: SocketAddr,
    [blue, green]: [SocketAddr; 2],
) -> Outcome<String> {
    let kind = match scenario.speaks() {
        Speaks::Plain => "http",
        Speaks::H1 | Speaks::H2 | Speaks::H1Once => "https",
    };
    Ok(format!(
        r#"[server]
workers = 1
[listen]
{kind} = ["{listen}"]
[control]
socket = "control.sock"
[state]
dir = "state"
[admin]
listen = "{admin}"
[access_log]
to = "/dev/null"
[limits]
connections = 200
[[site]]
host = "{HOST}"
initial = "blue"
certificate = {{ chain = "chain.pem", key = "key.pem" }}
health = {{ path = "/", expect = 200, interval = "1h", timeout = "20s" }}
blue = ["{blue}"]
green = ["{green}"]
"#,
        admin = free_address()?,
    ))
}

/// One that nobody has. Somebody may take it before it is bound; then the start fails and says so.
fn free_address() -> Outcome<SocketAddr> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

const SAID: &str = "said";
const COUNTS: &str = "callgrind.out";
const FIRST_THREAD: &str = "01";
const START_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(60);
