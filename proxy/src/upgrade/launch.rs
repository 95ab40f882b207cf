//! Starting the successor: which program, with what, and what it says before it takes over.
//!
//! Owns the child process until it is let go, and its stderr until it has one of its own. A child that is not let go is
//! ended when this is dropped: before its end of the channel is closed, so that it never takes that for our death.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::process::{Child, Command};

use super::channel::{Channel, ChannelError};
use super::{HANDOVER_VARIABLE, PROTOCOL};

/// A successor that has not taken over.
#[derive(Debug)]
pub struct Started {
    // Dropped before the channel: see above.
    child: KilledOnDrop,
    /// The way to it.
    pub channel: Channel,
    words: File,
}

/// The successor cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no such program, or it may not be run.
    #[error("cannot start {}", path.display())]
    Spawn {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not known which program this process runs.
    #[error("cannot tell which program runs here")]
    Unknown(#[source] io::Error),
    /// What it says cannot be kept.
    #[error("cannot make a place for what the new process says")]
    Words(#[source] io::Error),
    /// There is no way to it.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

#[derive(Debug)]
struct KilledOnDrop(Option<Child>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended already cannot be ended; tokio takes its exit status in either case.
            child.start_kill().ok();
        }
    }
}

impl Started {
    /// Starts the program with the arguments and the environment of this process.
    ///
    /// # Errors
    /// Every variant of [`LaunchError`]; nothing runs then.
    pub fn start(program: &Path) -> Result<Started, LaunchError> {
        let mut command = Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .env(HANDOVER_VARIABLE, PROTOCOL.to_string())
            // It is the service, under whatever number.
            .env_remove("WATCHDOG_PID");
        Started::by(command)
    }

    /// As [`Started::start`], with the arguments and the environment of the command.
    ///
    /// # Errors
    /// The same.
    pub(super) fn by(mut command: Command) -> Result<Started, LaunchError> {
        let (channel, there) = Channel::pair()?;
        let words = memfd_create("words of the successor", MemfdFlags::CLOEXEC)
            .map_err(|error| LaunchError::Words(error.into()))?;
        let its_words = words.try_clone().map_err(LaunchError::Words)?;
        command
            .stdin(Stdio::from(there))
            .stderr(Stdio::from(its_words));
        let child = command.spawn().map_err(|source| LaunchError::Spawn {
            path: PathBuf::from(command.as_std().get_program()),
            source,
        })?;
        Ok(Started {
            child: KilledOnDrop(Some(child)),
            channel,
            words: File::from(words),
        })
    }

    /// Its process id; none if it has ended and that was noticed.
    pub fn pid(&self) -> Option<u32> {
        self.child.0.as_ref()?.id()
    }

    /// Ends it and waits until it is dead. What became of it, if the system says.
    pub async fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.0.take()?;
        // Its own end counts, if it came first.
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        child.start_kill().ok();
        child.wait().await.ok()
    }

    /// Lets it go: it outlives this process.
    pub fn let_go(mut self) -> Channel {
        // Dropped without being ended; tokio waits for it, if this process lives longer.
        drop(self.child.0.take());
        self.channel
    }

    /// Resolves when it has written more than is kept: its words are in this machine's memory.
    pub async fn chatters(&self) {
        let mut looks = tokio::time::interval(WORDS_LOOK);
        loop {
            looks.tick().await;
            let length = self.words.metadata().map_or(0, |file| file.len());
            if length > WORDS_TOTAL_MAX {
                return;
            }
        }
    }

    /// The last lines that it has said, printable.
    pub fn words(&mut self) -> Vec<String> {
        let text = self.read_words().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let mut lines: Vec<String> = lines.map(printable).collect();
        lines.split_off(lines.len().saturating_sub(WORDS_LINES_MAX))
    }

    fn read_words(&mut self) -> io::Result<String> {
        let length = self.words.metadata()?.len();
        self.words
            .seek(SeekFrom::Start(length.saturating_sub(WORDS_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        (&self.words)
            .take(WORDS_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn printable(line: &str) -> String {
    let kept = line.chars().filter(|c| !c.is_control());
    kept.take(WORDS_LINE_MAX).collect()
}

/// The program that this process was started from: the file that is there under its name now, if it was replaced.
///
/// # Errors
/// `Unknown`
pub fn own_program() -> Result<PathBuf, LaunchError> {
    let link = std::fs::read_link("/proc/self/exe").map_err(LaunchError::Unknown)?;
    Ok(without_mark(&link))
}

/// The kernel marks a file that was replaced or removed.
fn without_mark(link: &Path) -> PathBuf {
    let bytes = link.as_os_str().as_bytes();
    match bytes.strip_suffix(b" (deleted)") {
        // A file may be called so.
        Some(_) if link.exists() => link.to_owned(),
        Some(name) => PathBuf::from(OsStr::from_bytes(name)),
        None => link.to_owned(),
    }
}

/// What is kept of what a successor says.
const WORDS_BYTES_MAX: u64 = 16 * 1024;
/// A start says a few lines; with trace logs some hundred thousand bytes.
const WORDS_TOTAL_MAX: u64 = 8 << 20;
const WORDS_LOOK: Duration = Duration::from_millis(50);
const WORDS_LINES_MAX: usize = 20;
const WORDS_LINE_MAX: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_found_under_its_name() {
        let at = |path: &str| without_mark(Path::new(path));
        let replaced = at("/nowhere/mana-proxy (deleted)");
        assert_eq!(replaced, Path::new("/nowhere/mana-proxy"));
        assert_eq!(at("/nowhere/mana-proxy"), Path::new("/nowhere/mana-proxy"));
        let home = tempfile::tempdir().expect("a directory");
        let named_so = home.path().join("tool (deleted)");
        std::fs::write(&named_so, "").expect("written");
        assert_eq!(without_mark(&named_so), named_so);
    }

    #[tokio::test]
    async fn what_it_says_is_kept_and_it_dies_with_its_owner() {
        let mut started = Started::start(Path::new("/bin/sh")).expect("started");
        // The shell is given the arguments of this test and says that it cannot do anything with them, or reads its
        // stdin, which is no script.
        let status = started.end().await;
        assert!(status.is_some());
        assert_eq!(started.pid(), None);
        let error = Started::start(Path::new("/nowhere/at/all")).expect_err("not there");
        assert!(error.to_string().contains("/nowhere/at/all"));
    }
}
