//! Processes that are pinned to a core, die with the bench, and tell how much CPU time and memory they used.
//!
//! Owns `taskset`, `setpriv`, the limit of open files and the reading of `/proc`.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rlimit::Resource;

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

/// This program in another role, pinned.
pub fn pinned_self(core: usize) -> Outcome<Command> {
    Ok(pinned(core, &std::env::current_exe()?))
}

/// Lets this process and its children open as many files as 10 000 relayed clients take, as far as it may.
///
/// Root may raise the hard limit too. Returns what was reached.
pub fn raise_open_files() -> Outcome<u64> {
    let (_, hard) = Resource::NOFILE.get()?;
    if hard < OPEN_FILES && Resource::NOFILE.set(OPEN_FILES, OPEN_FILES).is_ok() {
        return Ok(OPEN_FILES);
    }
    let reached = hard.min(OPEN_FILES);
    Resource::NOFILE.set(reached, hard)?;
    Ok(reached)
}

// === impl Process ===

impl Process {
    /// Starts a server and waits until it listens on `port`.
    ///
    /// # Errors
    /// It cannot be started, ends, or does not listen in time; what it said is in the message.
    pub fn start(name: &str, command: Command, port: u16, directory: &Path) -> Outcome<Process> {
        let said = File::options()
            .create(true)
            .append(true)
            .open(said_by(name, directory))?;
        Process::start_with_stdout(name, command, said, port, directory)
    }

    /// [`Process::start`] of a server whose stdout goes elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn start_with_stdout(
        name: &str,
        mut command: Command,
        stdout: File,
        port: u16,
        directory: &Path,
    ) -> Outcome<Process> {
        let said = said_by(name, directory);
        let stderr = File::options().create(true).append(true).open(&said)?;
        command.stdout(stdout).stderr(stderr);
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
        for id in self.tree()? {
            for task in fs::read_dir(format!("/proc/{id}/task"))? {
                // `on-cpu-ns waiting-ns timeslices`; a thread may end between the listing and this.
                let schedstat =
                    fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
                nanoseconds += schedstat
                    .split_whitespace()
                    .next()
                    .and_then(|first| first.parse::<u64>().ok())
                    .unwrap_or(0);
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

    /// Bytes of memory of the process and its children. What they share is counted once.
    ///
    /// Without what the kernel holds for their sockets.
    pub fn memory_bytes(&self) -> Outcome<u64> {
        let mut kilobytes = 0;
        for id in self.tree()? {
            let path = format!("/proc/{id}/smaps_rollup");
            let text = fs::read_to_string(&path)?;
            kilobytes += pss_kilobytes(&text).ok_or_else(|| format!("{path} has no Pss"))?;
        }
        Ok(kilobytes * 1024)
    }

    /// The ids of the process and of all below it.
    fn tree(&self) -> Outcome<Vec<String>> {
        let mut found = Vec::new();
        let mut left = vec![self.child.id().to_string()];
        while let Some(id) = left.pop() {
            for task in fs::read_dir(format!("/proc/{id}/task"))? {
                let children =
                    fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                left.extend(children.split_whitespace().map(str::to_owned));
            }
            found.push(id);
        }
        Ok(found)
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

/// Where a server writes what it has to say.
fn said_by(name: &str, directory: &Path) -> PathBuf {
    directory.join(format!("{name}.out"))
}

/// The line `Pss:   1234 kB` of `smaps_rollup`.
fn pss_kilobytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Two for each of 10 000 clients, and some to spare.
const OPEN_FILES: u64 = 24_000;
const START_DEADLINE: Duration = Duration::from_secs(10);

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::pss_kilobytes;

    #[test]
    fn the_share_of_memory_is_read_and_not_its_parts() {
        let text = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:   9000 kB\nPss:   1234 kB\nPss_Dirty:  99 kB\n";
        assert_eq!(pss_kilobytes(text), Some(1234));
        assert_eq!(pss_kilobytes("Pss: many kB\n"), None);
        assert_eq!(pss_kilobytes(""), None);
    }
}
