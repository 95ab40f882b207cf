//! The lock: one deploy at a time.
//!
//! Owns the lock file, whose `flock` the kernel lets go when the last process that has it ends, however it ends. Commands
//! that change containers are given the file as their stdin: one that outlives a deploy that was killed still has it, so that the
//! next deploy does not begin beside it. Whoever queues waits in the kernel (`flock` without a deadline), which wakes the one that came
//! first.
//!
//! ```text
//! {"pid":4242,"who":"ops","what":"deploy app:41","since":"2026-11-22T09:13:21.004Z"}
//! ```

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tokio::sync::oneshot;

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
        let (mut file, path) = open(dir)?;
        let failed = |source| LockError::Io { path, source };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(read(&mut file))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        write(&mut file, holder).map_err(failed)?;
        Ok(Lock { file })
    }

    /// Queues for the lock of a directory: first come, first served. It is there when the receiver says so.
    ///
    /// # Errors
    /// The file cannot be used; also in what is received.
    ///
    /// # Cancel safety
    /// Whoever does not receive it any more does not have it. A thread stays in the queue until it is its turn, or the process
    /// ends.
    pub fn queue(
        dir: &Path,
        holder: &LockHolder,
    ) -> Result<oneshot::Receiver<Result<Lock, LockError>>, LockError> {
        let (mut file, path) = open(dir)?;
        let (sender, receiver) = oneshot::channel();
        let (queued, holder) = (path.clone(), holder.clone());
        let wait = move || {
            let taken = file.lock().and_then(|()| write(&mut file, &holder));
            let taken = taken.map(|()| Lock { file });
            let taken = taken.map_err(|source| LockError::Io {
                path: queued,
                source,
            });
            // Nobody waits any more: it is let go.
            sender.send(taken).ok();
        };
        // Not one of the runtime's: it would wait for that at its end.
        let begun = thread::Builder::new().spawn(wait);
        begun.map_err(|source| LockError::Io { path, source })?;
        Ok(receiver)
    }

    /// The lock as a stdin, for a command that must not be outrun.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn as_stdin(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nobody has it from here on. Who was killed leaves the line, and is told from a holder by the kernel's list.
        self.file.set_len(0).ok();
    }
}

// === impl LockHolder ===

impl LockHolder {
    /// Who deploys now, by what the lock's file and the kernel say: a look, which must not get in the way of who takes it.
    pub fn of(dir: &Path) -> Option<LockHolder> {
        let mut file = File::open(dir.join(NAME)).ok()?;
        let holder = read(&mut file)?;
        let metadata = file.metadata().ok()?;
        let is_held = match std::fs::read_to_string(LOCKS) {
            Ok(locks) => is_locked(&locks, (metadata.dev(), metadata.ino()), holder.pid),
            Err(_) => holder.is_there(),
        };
        is_held.then_some(holder)
    }

    /// Whether the process lives. One of another user does, too, where `/proc` hides it.
    fn is_there(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }
}

/// Whether a file is locked, by the kernel's list of locks:
///
/// ```text
/// 1: FLOCK  ADVISORY  WRITE 4242 08:01:1311 0 EOF
/// 1: -> FLOCK  ADVISORY  WRITE 4243 08:01:1311 0 EOF
/// ```
/// The second line waits. Some file systems name another device there than `stat` does: then it has to be the lock of `pid`.
fn is_locked(locks: &str, (device, inode): (u64, u64), pid: u32) -> bool {
    let exact = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let of_another_device = format!(":{inode}");
    let pid = pid.to_string();
    let mut lines = locks.lines().map(|line| line.split_whitespace().skip(1));
    lines.any(|mut words| {
        let kind = words.next();
        let (owner, file) = (words.nth(2), words.next().unwrap_or_default());
        let is_his = owner == Some(&pid) && file.ends_with(&of_another_device);
        kind == Some("FLOCK") && (file == exact || is_his)
    })
}

/// The file, made if it is not there.
fn open(dir: &Path) -> Result<(File, PathBuf), LockError> {
    let path = dir.join(NAME);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    match opened {
        Ok(file) => {
            // Whoever made it lets the others in, whatever their umask; one of the others has nothing to do.
            file.set_permissions(Permissions::from_mode(0o660)).ok();
            Ok((file, path))
        }
        Err(source) => Err(LockError::Io { path, source }),
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
const LOCKS: &str = "/proc/locks";
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
        let line = std::fs::read(dir.path().join(NAME)).expect("line");
        drop(lock);
        // As one that is killed leaves it.
        std::fs::write(dir.path().join(NAME), line).expect("line");
        let error = Lock::take(dir.path(), &holder(1))
            .expect_err("held")
            .to_string();
        let seen = LockHolder::of(dir.path()).expect("somebody has it");
        assert_eq!(seen.what, "deploy app:41");
        assert!(
            error.contains("a command that it had begun still runs"),
            "{error}"
        );
        child.kill().expect("kill");
        child.wait().expect("wait");
        Lock::take(dir.path(), &holder(1)).expect("free again");
    }

    #[test]
    fn who_has_it_is_seen_as_long_as_they_have_it() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(LockHolder::of(dir.path()), None);
        let me = holder(std::process::id());
        let lock = Lock::take(dir.path(), &me).expect("lock");
        assert_eq!(LockHolder::of(dir.path()), Some(me.clone()));
        drop(lock);
        let path = dir.path().join(NAME);
        assert_eq!(std::fs::read(&path).expect("line"), b"");
        // Left by one that was killed, whose number is somebody's now: this process, which has no lock.
        let line = serde_json::to_vec(&me).expect("line");
        std::fs::write(&path, line).expect("line");
        assert_eq!(LockHolder::of(dir.path()), None);
    }

    #[test]
    fn a_process_of_another_user_is_there() {
        assert!(holder(1).is_there());
        assert!(!holder(u32::MAX).is_there());
    }

    #[test]
    fn the_kernels_list_says_who_has_a_lock_and_not_who_waits() {
        let held = "1: FLOCK  ADVISORY  WRITE 42 08:01:1311 0 EOF\n";
        let device = rustix::fs::makedev(8, 1);
        let elsewhere = rustix::fs::makedev(0, 44);
        for (locks, device, pid, expected) in [
            (held, device, 42, true),
            // Its deploy is dead, and a command has it.
            (held, device, 7, true),
            (held, elsewhere, 42, true),
            (held, elsewhere, 7, false),
            (
                "1: -> FLOCK  ADVISORY  WRITE 42 08:01:1311 0 EOF",
                device,
                42,
                false,
            ),
            (
                "1: POSIX  ADVISORY  WRITE 42 08:01:1311 0 EOF",
                device,
                42,
                false,
            ),
            (
                "1: FLOCK  ADVISORY  WRITE 42 08:01:21311 0 EOF",
                device,
                42,
                false,
            ),
            ("\nnonsense\n1: FLOCK", device, 42, false),
        ] {
            assert_eq!(is_locked(locks, (device, 1311), pid), expected, "{locks}");
        }
    }

    /// So many wait for the lock's file, by the kernel's list.
    fn waiting(dir: &Path) -> usize {
        let inode = dir.join(NAME).metadata().expect("file").ino();
        let locks = std::fs::read_to_string(LOCKS).expect("locks");
        let of_it = format!(":{inode} ");
        locks
            .lines()
            .filter(|line| line.contains("->") && line.contains(&of_it))
            .count()
    }

    #[test]
    fn whoever_queues_first_is_first() {
        let dir = tempfile::tempdir().expect("dir");
        let first = Lock::take(dir.path(), &holder(1)).expect("lock");
        let (sender, order) = std::sync::mpsc::channel();
        let mut threads = Vec::new();
        for number in 0..4 {
            let queued = Lock::queue(dir.path(), &holder(number)).expect("queued");
            let sender = sender.clone();
            threads.push(thread::spawn(move || {
                let lock = queued.blocking_recv().expect("turn").expect("lock");
                sender.send(number).expect("somebody listens");
                drop(lock);
            }));
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while waiting(dir.path()) <= number as usize {
                assert!(std::time::Instant::now() < deadline, "it does not queue");
                thread::yield_now();
            }
        }
        // Nobody who comes now overtakes them, and who gives up holds nobody up.
        Lock::take(dir.path(), &holder(9)).expect_err("held");
        drop(first);
        for thread in threads {
            thread.join().expect("thread");
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn who_gives_up_in_the_queue_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("dir");
        let first = Lock::take(dir.path(), &holder(1)).expect("lock");
        drop(Lock::queue(dir.path(), &holder(2)).expect("queued"));
        let next = Lock::queue(dir.path(), &holder(3)).expect("queued");
        drop(first);
        next.blocking_recv().expect("turn").expect("lock");
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
