//! The outbox: a directory with one file for each message that is not sent yet.
//!
//! Owns the files' names, their form and their bounds. Names sort as they were put in. Each is written beside its place
//! and moved there, so that a reader sees all of it or nothing. One sender at a time holds the lock; putting needs none.
//!
//! ```text
//! 01795338001004000000-9f3c....json
//! {"id":"msg_9f3c...","kind":"discord","to":"c0ffee...","host":"discord.com","event":"started","deploy":17,
//!  "put_ms":1795338001004,"attempts":0,"not_before_ms":0,"failure":null,"body":"{\"username\": ...}"}
//! ```
//! `to` stands for the URL, which is not in it; nor is any secret.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Event, Kind, MessagesError};

/// Messages in an outbox; the oldest make room for new ones. Sixteen destinations of sixteen deploys that came to nothing.
pub const OUTBOX_FILES_MAX: usize = 512;
/// A message that could not be sent for so long is dropped: it is no news any more.
pub const MESSAGE_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One message to one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Letter {
    /// `webhook-id`: the same at each attempt.
    pub(super) id: String,
    pub(super) kind: Kind,
    /// The fingerprint of kind and URL.
    pub(super) to: String,
    pub(super) host: String,
    pub(super) event: Event,
    pub(super) deploy: u64,
    pub(super) put_ms: u64,
    /// Begun, whether or not they ended.
    pub(super) attempts: u32,
    pub(super) not_before_ms: u64,
    /// What came of the last one.
    pub(super) failure: Option<String>,
    pub(super) body: String,
}

/// A message that is not sent yet, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// What it is sent to.
    pub kind: Kind,
    /// The host of its URL.
    pub host: String,
    /// The deploy that it is about.
    pub deploy: u64,
    /// What has happened.
    pub event: Event,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Option<String>,
}

/// The messages that are not sent yet, the oldest first; none if there is no outbox. Blocks on the disk.
///
/// # Errors
/// `Outbox`: it cannot be read.
pub fn waiting(outbox: &Path) -> Result<Vec<Waiting>, MessagesError> {
    let outbox = Outbox(outbox.to_owned());
    let names = outbox.names()?;
    let letters = names.iter().filter_map(|name| outbox.read(name).ok());
    Ok(letters.flatten().map(Waiting::from).collect())
}

impl From<Letter> for Waiting {
    fn from(letter: Letter) -> Waiting {
        Waiting {
            kind: letter.kind,
            host: letter.host,
            deploy: letter.deploy,
            event: letter.event,
            attempts: letter.attempts,
            failure: letter.failure,
        }
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Outbox(PathBuf);

/// Held by the one sender; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct SenderLock(#[expect(dead_code, reason = "open as long as it is held")] File);

/// The file is no message.
#[derive(Debug)]
pub(super) struct Damaged;

impl Outbox {
    /// Makes the directory if it is not there, for all who may write in the one that it is in.
    pub(super) fn open(path: &Path) -> Result<Outbox, MessagesError> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(DIR_MODE).create(path);
        made.map_err(|source| MessagesError::Outbox {
            path: path.to_owned(),
            source,
        })?;
        if let Ok(metadata) = path.metadata() {
            // Its group is that of the directory around it, if that says so by its setgid bit, which is kept.
            share(path, metadata.mode(), DIR_MODE);
        }
        Ok(Outbox(path.to_owned()))
    }

    /// The lock of the sender; none if another one has it.
    pub(super) fn lock(&self) -> Result<Option<SenderLock>, MessagesError> {
        let path = self.0.join(LOCK_NAME);
        let failed = |source| MessagesError::Outbox {
            path: path.clone(),
            source,
        };
        let file = shared_file(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(SenderLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Names of messages, the oldest first; none if the directory is not there.
    pub(super) fn names(&self) -> Result<BTreeSet<String>, MessagesError> {
        let failed = |source| MessagesError::Outbox {
            path: self.0.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            // Names of ours are ASCII.
            if let Some(name) = name.to_str()
                && !name.starts_with('.')
                && name.ends_with(SUFFIX)
            {
                names.insert(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Reads a message; none if it is gone.
    pub(super) fn read(&self, name: &str) -> Result<Option<Letter>, Damaged> {
        let mut bytes = Vec::new();
        let read = File::open(self.path_of(name))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) => return Err(Damaged),
        }
        let letter: Letter = serde_json::from_slice(&bytes).map_err(|_| Damaged)?;
        let is_id = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        match letter.id.bytes().all(is_id) {
            true => Ok(Some(letter)),
            false => Err(Damaged),
        }
    }

    /// Puts a message behind all others, also if the clock has gone back since.
    pub(super) fn add(&self, letter: &Letter) -> Result<(), MessagesError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.unwrap_or_default().as_nanos();
        let names = self.names()?;
        let last = names.last().and_then(|name| name.split('-').next());
        let last: Option<u128> = last.and_then(|digits| digits.parse().ok());
        let at = last.map_or(now, |last| now.max(last.saturating_add(1)));
        self.write(&format!("{at:020}-{}{SUFFIX}", letter.id), letter)
    }

    /// Puts a message in the place of what had its name: temp file, fsync, rename, fsync of the directory.
    pub(super) fn write(&self, name: &str, letter: &Letter) -> Result<(), MessagesError> {
        let temp = self.0.join(format!(".{name}{TEMP_SUFFIX}"));
        let write = || -> io::Result<()> {
            let mut file = shared_file(&temp)?;
            file.set_len(0)?;
            file.write_all(&serde_json::to_vec(letter).map_err(io::Error::other)?)?;
            file.sync_all()?;
            std::fs::rename(&temp, self.path_of(name))?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| {
            // It may not be there at all; what is left is swept up later.
            std::fs::remove_file(&temp).ok();
            MessagesError::Write {
                path: self.path_of(name),
                source,
            }
        })
    }

    /// Whether the message is still there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.path_of(name).exists()
    }

    /// Removes a message; it may be gone already.
    pub(super) fn remove(&self, name: &str) -> Result<(), MessagesError> {
        let path = self.path_of(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(MessagesError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the oldest until there are at most so many, and says how many they were.
    pub(super) fn trim(&self, files_max: usize) -> Result<usize, MessagesError> {
        let names = self.names()?;
        let surplus = names.len().saturating_sub(files_max);
        for name in names.iter().take(surplus) {
            self.remove(name)?;
        }
        Ok(surplus)
    }

    /// Removes what killed processes have left beside the messages. Young ones may be somebody's work in progress.
    pub(super) fn sweep(&self, now: SystemTime) {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_temp = name.to_string_lossy().ends_with(TEMP_SUFFIX);
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            let age = changed.map(|changed| now.duration_since(changed).unwrap_or_default());
            if is_temp && age.is_ok_and(|age| age >= TEMP_AGE_MIN) {
                // The next sender tries again.
                std::fs::remove_file(entry.path()).ok();
            }
        }
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// `msg_` and 32 hexadecimal digits.
pub(super) fn random_id() -> String {
    format!("msg_{:032x}", fastrand::u128(..))
}

/// A file for all who deploy, whatever the umask of the first: whoever deploys next goes on with it.
fn shared_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    share(path, file.metadata()?.mode(), FILE_MODE);
    Ok(file)
}

/// Gives it this mode, and leaves the bits above it. What belongs to another deployer only they can change, and have.
fn share(path: &Path, now: u32, wanted: u32) {
    if now & 0o777 != wanted {
        std::fs::set_permissions(path, Permissions::from_mode(now & 0o7000 | wanted)).ok();
    }
}

const DIR_MODE: u32 = 0o770;
const FILE_MODE: u32 = 0o660;
const LOCK_NAME: &str = ".lock";
const SUFFIX: &str = ".json";
const TEMP_SUFFIX: &str = ".tmp";
/// A temporary file of this age belongs to nobody.
const TEMP_AGE_MIN: Duration = Duration::from_secs(60 * 60);
/// Of a message's file; the longest body has some tens of KiB.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;

#[cfg(test)]
#[path = "outbox_tests.rs"]
pub(super) mod tests;
