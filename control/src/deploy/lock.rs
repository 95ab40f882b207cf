//! The lock: one deploy at a time.
//!
//! Owns the lock file, whose `flock` the kernel lets go when the last process that has it ends, however it ends. Commands
//! that change containers are given the file as their stdin: one that outlives a deploy that was killed still has it, so that the
//! next deploy does not begin beside it.
//!
//! ```text
//! {"pid":4242,"who":"ops","what":"deploy app:41","since":"2026-11-22T09:13:21.004Z"}
//! ```

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};

/// The lock, held.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The process.
    pub pid: u32,
    /// Its user.
    pub who: String,
    /// `deploy app:41`.
    pub what: String,
    /// RFC 3339.
    pub since: String,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("{}", told(.0))]
    Held(Option<LockHolder>),
    /// The file cannot be used.
    #[error(
        "cannot use the lock {path}; deploy.dir has to be a directory that those who deploy may write in"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

// === impl Lock ===

impl Lock {
    /// Takes the lock of a directory, if nobody has it.
    ///
    /// # Errors
    /// [`LockError::Held`] with whoever has it.
    pub fn take(dir: &Path, holder: &LockHolder) -> Result<Lock, LockError> {
        let path = dir.join(NAME);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        // Whoever made it lets the others in, whatever their umask; one of the others has nothing to do.
        file.set_permissions(Permissions::from_mode(0o660)).ok();
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(read(&mut file))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        write(&mut file, holder).map_err(failed)?;
        Ok(Lock { file })
    }

    /// The lock as a stdin, for a command that must not be outrun.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn as_stdin(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }
}

// === impl LockHolder ===

impl LockHolder {
    /// Who deploys now, by what the lock's file says: a look, which must not get in the way of who takes it.
    pub fn of(dir: &Path) -> Option<LockHolder> {
        let mut file = File::open(dir.join(NAME)).ok()?;
        read(&mut file).filter(LockHolder::is_there)
    }

    fn is_there(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

fn write(file: &mut File, holder: &LockHolder) -> io::Result<()> {
    let mut line = serde_json::to_vec(holder).map_err(io::Error::other)?;
    line.push(b'\n');
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&line)
}

fn read(file: &mut File) -> Option<LockHolder> {
    let mut text = String::new();
    file.take(HOLDER_BYTES_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn told(holder: &Option<LockHolder>) -> String {
    let Some(holder) = holder else {
        return "another deploy is being carried out".to_owned();
    };
    let LockHolder {
        pid,
        who,
        what,
        since,
    } = holder;
    let gone = match holder.is_there() {
        true => "",
        false => "; it has ended, but a command that it had begun still runs",
    };
    format!("another is being carried out: {what}, by {who} (pid {pid}) since {since}{gone}")
}

const NAME: &str = "lock";
const HOLDER_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn holder(pid: u32) -> LockHolder {
        LockHolder {
            pid,
            who: "ops".to_owned(),
            what: "deploy app:41".to_owned(),
            since: "2026-11-22T09:13:21.004Z".to_owned(),
        }
    }

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = tempfile::tempdir().expect("dir");
        let lock = Lock::take(dir.path(), &holder(std::process::id())).expect("lock");
        let error = Lock::take(dir.path(), &holder(1))
            .expect_err("held")
            .to_string();
        let pid = std::process::id();
        let expected = format!(
            "another is being carried out: deploy app:41, by ops (pid {pid}) since 2026-11-22T09:13:21.004Z"
        );
        assert_eq!(error, expected);
        drop(lock);
        Lock::take(dir.path(), &holder(1)).expect("free again");
    }

    #[test]
    fn a_command_that_outlives_the_deploy_still_has_it() {
        let dir = tempfile::tempdir().expect("dir");
        // A process that is over, so that its number stands for nobody.
        let gone = Command::new("true").spawn().and_then(|mut child| {
            let pid = child.id();
            child.wait().map(|_| pid)
        });
        let lock = Lock::take(dir.path(), &holder(gone.expect("pid"))).expect("lock");
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(lock.as_stdin().expect("stdin"))
            .spawn()
            .expect("sleep");
        drop(lock);
        let error = Lock::take(dir.path(), &holder(1))
            .expect_err("held")
            .to_string();
        assert!(
            error.contains("a command that it had begun still runs"),
            "{error}"
        );
        child.kill().expect("kill");
        child.wait().expect("wait");
        Lock::take(dir.path(), &holder(1)).expect("free again");
    }

    #[test]
    fn a_lock_file_that_says_nothing_still_locks() {
        let dir = tempfile::tempdir().expect("dir");
        let _lock = Lock::take(dir.path(), &holder(1)).expect("lock");
        std::fs::write(dir.path().join(NAME), "nonsense").expect("write");
        let error = Lock::take(dir.path(), &holder(1))
            .expect_err("held")
            .to_string();
        assert_eq!(error, "another deploy is being carried out");
        let error = Lock::take(&dir.path().join("nowhere"), &holder(1)).expect_err("no directory");
        assert!(matches!(error, LockError::Io { .. }));
    }
}
