//! Processes that are pinned to a core, die with the bench, and tell how much CPU time they used.
//!
//! Owns `taskset`, `setpriv` and the reading of `/proc`.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;

/// The two cores that a run uses.
pub struct Cores {
    /// For the upstream and the load generator.
    pub around: usize,
    /// For the contender, alone.
    pub contender: usize,
}

/// A running child. It dies with this value, and with the bench, however that ends.
pub struct Process {
    child: Child,
    name: String,
    /// Where it writes what it has to say.
    said: PathBuf,
}

// === impl Cores ===

impl Cores {
    /// The first two cores that this process may use.
    pub fn of_this_process() -> Outcome<Cores> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .ok_or("/proc/self/status names no cores")?;
        let mut allowed = list.trim().split(',').flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<usize>().unwrap_or(0)..=last.parse::<usize>().unwrap_or(0)
        });
        match (allowed.next(), allowed.next()) {
            (Some(around), Some(contender)) => Ok(Cores { around, contender }),
            _ => Err(
                "this needs two cores: one for the contender alone, one for everything around it"
                    .into(),
            ),
        }
    }
}

/// A command that will run on this core only, and that the kernel kills when the bench is gone.
pub fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--pdeathsig",
            "KILL",
            "taskset",
            "--cpu-list",
            &core.to_string(),
        ])
        .arg(program)
        .stdin(Stdio::null());
    command
}

// === impl Process ===

impl Process {
    /// Starts a server and waits until it listens on `port`.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not listen in time; what it said is in the message.
    pub fn start(
        name: &str,
        mut command: Command,
        port: u16,
        directory: &Path,
    ) -> Outcome<Process> {
        let said = directory.join(format!("{name}.out"));
        let output = File::create(&said)?;
        command.stdout(output.try_clone()?).stderr(output);
        let mut process = Process {
            child: command.spawn()?,
            name: name.to_owned(),
            said,
        };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if process.child.try_wait()?.is_some() {
                return Err(process.complaint("ended"));
            }
            if Instant::now() > deadline {
                return Err(process.complaint("does not listen"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    /// CPU time that all threads of the process and of its children have used, in user space and in the kernel.
    pub fn cpu_time(&self) -> Outcome<Duration> {
        let mut nanoseconds = 0;
        let mut left = vec![self.child.id().to_string()];
        while let Some(id) = left.pop() {
            for task in fs::read_dir(format!("/proc/{id}/task"))? {
                let task = task?.path();
                // `on-cpu-ns waiting-ns timeslices`; a thread may end between the listing and this.
                let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
                nanoseconds += schedstat
                    .split_whitespace()
                    .next()
                    .and_then(|first| first.parse::<u64>().ok())
                    .unwrap_or(0);
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                left.extend(children.split_whitespace().map(str::to_owned));
            }
        }
        if nanoseconds == 0 {
            return Err(format!(
                "{} has no CPU time: this kernel keeps no schedstat",
                self.name
            )
            .into());
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn complaint(&self, what: &str) -> Box<dyn std::error::Error> {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        format!("{} {what}: {}", self.name, said.trim()).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill and wait tells at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const START_DEADLINE: Duration = Duration::from_secs(10);
