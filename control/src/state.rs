//! The state file: which slot of each site is active, over restarts and crashes.
//!
//! Owns the state directory, its lock and the atomic replacement of `state.json`. Refuses loudly whatever it cannot
//! trust and never replaces it: a wrong guess would send every user to a dead slot. Called by the driver only; all of
//! it blocks on the disk.
//!
//! ```text
//! {"schema":1,"written_by":"mana-proxy 0.1.0","generation":7,"sites":{
//!   "mana.so":{"active":"green","previous":"blue","generation":7,"maintenance":false,"drained":[]}}}
//! ```

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::failpoint::{self, Failpoint};
use crate::host::Host;
use crate::process;
use crate::slot::Slot;

/// The schema that this version writes, and the newest that it reads.
pub const SCHEMA: u64 = 1;
/// The largest state file that is read.
pub const STATE_BYTES_MAX: u64 = 1024 * 1024;

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Counts published changes. `generation >= site.generation` of every site.
    pub generation: u64,
    /// By canonical host. A site that the configuration no longer has stays, so that it comes back with its slot.
    pub sites: BTreeMap<Host, SiteState>,
}

/// What is kept of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteState {
    /// The slot that gets new requests.
    pub active: Slot,
    /// The slot that was active before the last cutover; none before the first.
    pub previous: Option<Slot>,
    /// The generation of the last cutover.
    pub generation: u64,
    /// Whether requests are answered 503.
    pub maintenance: bool,
    /// Slots taken out by `drain`; never the active one.
    pub drained: Vec<Slot>,
}

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Locked until it is let go; the kernel lets go when the process ends, however it ends.
    lock: Mutex<Option<File>>,
}

/// Why the state cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or looked at.
    #[error("cannot use the state directory {path}; make it and give it to the user of the daemon")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory cannot be written to.
    #[error(
        "cannot write in the state directory {path}; check its owner, its mode and whether the disk is read-only"
    )]
    NotWritable {
        /// The file that could not be made.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Everybody may write in the directory.
    #[error("everybody may write in the state directory {path}; take that right away (chmod o-w)")]
    OpenToAll {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon holds the directory.
    #[error(
        "another daemon uses the state directory {path}; stop it or give this one a directory of its own"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The file or directory belongs to a user who has no say here.
    #[error(
        "{path} belongs to uid {owner}, not to uid {expected} or root; check who wrote it, then chown it"
    )]
    WrongOwner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        expected: u32,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has schema {schema}, written by {written_by}; this version reads schema {SCHEMA}: run that version, or restore the older file"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        schema: u64,
        /// The version that it names.
        written_by: String,
    },
    /// The file is empty, truncated, too large or says what cannot be.
    #[error(
        "{path} is damaged: {reason}; restore it, or delete it to start every site with its `initial` slot"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The new state could not be stored; the old file is still in its place.
    #[error("cannot store the state in {path}")]
    Store {
        /// The file that was being written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The new file is in its place, but it is not certain that it outlives a power cut.
    #[error("cannot make the state in {path} durable")]
    NotDurable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

// === impl StateDir ===

impl StateDir {
    /// Takes the directory for this process. It is made, with mode 0700, if it is not there; what a crash left half
    /// written is removed.
    ///
    /// # Errors
    /// `Directory`, `WrongOwner`, `OpenToAll`, `NotWritable`, `Locked`.
    pub fn open(path: &Path) -> Result<StateDir, StateError> {
        StateDir::open_with(path, None)
    }

    /// Takes the directory over from the process that has handed over its lock. A lock belongs to what was opened, not
    /// to a process: there is no moment at which nobody has it.
    ///
    /// # Errors
    /// Those of [`StateDir::open`]; `Locked` also if it is the lock of another directory.
    pub fn take_over(path: &Path, lock: File) -> Result<StateDir, StateError> {
        StateDir::open_with(path, Some(lock))
    }

    /// The lock once more, for the process that takes over.
    ///
    /// # Errors
    /// `Locked`: it was let go. `Directory`: there are no descriptors left.
    pub fn lock_again(&self) -> Result<File, StateError> {
        let path = || self.path.clone();
        match &*self.lock.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(lock) => lock.try_clone().map_err(|source| StateError::Directory {
                path: path(),
                source,
            }),
            None => Err(StateError::Locked { path: path() }),
        }
    }

    /// Another process holds the lock as well, and is to be the only one: else a process after it would find the
    /// directory locked as long as this one lives.
    pub fn let_go(&self) {
        // Nothing panics while it holds the lock.
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn open_with(path: &Path, held: Option<File>) -> Result<StateDir, StateError> {
        let cannot_use = |source| StateError::Directory {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(cannot_use)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot_use(source));
            }
            Ok(()) | Err(_) => {}
        }
        let metadata = std::fs::metadata(path).map_err(cannot_use)?;
        if !metadata.is_dir() {
            return Err(cannot_use(io::ErrorKind::NotADirectory.into()));
        }
        check_owner(path, metadata.uid())?;
        if metadata.mode() & 0o002 != 0 {
            return Err(StateError::OpenToAll {
                path: path.to_owned(),
            });
        }
        let lock_path = path.join("lock");
        let not_writable = |source| StateError::NotWritable {
            path: lock_path.clone(),
            source,
        };
        let lock = match held {
            None => private_file(&lock_path).map_err(not_writable)?,
            Some(held) => {
                let there = std::fs::metadata(&lock_path).map_err(not_writable)?;
                let held_is = held.metadata().map_err(not_writable)?;
                if (there.dev(), there.ino()) != (held_is.dev(), held_is.ino()) {
                    return Err(StateError::Locked {
                        path: path.to_owned(),
                    });
                }
                held
            }
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(not_writable(source)),
        }
        match std::fs::remove_file(path.join(TEMP_NAME)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(not_writable(source));
            }
            Ok(()) | Err(_) => {}
        }
        Ok(StateDir {
            path: path.to_owned(),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was stored last; `None` if nothing was ever stored.
    ///
    /// # Errors
    /// `Read`, `WrongOwner`, `Newer`, `Damaged`. Never a default in place of what cannot be read.
    pub fn load(&self) -> Result<Option<State>, StateError> {
        let path = self.file();
        let cannot_read = |source| StateError::Read {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_read(error)),
        };
        check_owner(&path, file.metadata().map_err(cannot_read)?.uid())?;
        let mut bytes = Vec::new();
        file.take(STATE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot_read)?;
        State::from_bytes(&bytes)
            .map(Some)
            .map_err(|error| match error {
                Unreadable::Newer { schema, written_by } => StateError::Newer {
                    path,
                    schema,
                    written_by,
                },
                Unreadable::Damaged(reason) => StateError::Damaged { path, reason },
            })
    }

    /// Puts `state` in the place of what was stored: temp file, fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// `Store`: the old state is still there. `NotDurable`: the new one is there, but may be lost with the power.
    pub fn store(&self, state: &State) -> Result<(), StateError> {
        let temp = self.path.join(TEMP_NAME);
        let failed = |source| StateError::Store {
            path: temp.clone(),
            source,
        };
        let mut file = private_file(&temp).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_all(&state.to_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        failpoint::reach(Failpoint::AfterTemp);
        std::fs::rename(&temp, self.file()).map_err(failed)?;
        failpoint::reach(Failpoint::AfterRename);
        sync_dir(&self.path).map_err(|source| StateError::NotDurable {
            path: self.path.clone(),
            source,
        })
    }

    fn file(&self) -> PathBuf {
        self.path.join("state.json")
    }
}

/// Where the next state is written before it takes the place of the last one.
const TEMP_NAME: &str = "state.json.tmp";

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn check_owner(path: &Path, owner: u32) -> Result<(), StateError> {
    let cannot_tell = |source| StateError::Directory {
        path: path.to_owned(),
        source,
    };
    let expected = process::own_uid().map_err(cannot_tell)?;
    if is_trusted(owner, expected) {
        return Ok(());
    }
    Err(StateError::WrongOwner {
        path: path.to_owned(),
        owner,
        expected,
    })
}

fn is_trusted(owner: u32, expected: u32) -> bool {
    owner == expected || owner == 0
}

// === impl State ===

/// The file as it is written.
#[derive(Serialize, Deserialize)]
struct Document {
    schema: u64,
    written_by: String,
    generation: u64,
    sites: BTreeMap<String, SiteState>,
}

/// What can be read of any schema.
#[derive(Deserialize)]
struct Header {
    schema: u64,
    #[serde(default)]
    written_by: String,
}

enum Unreadable {
    Newer { schema: u64, written_by: String },
    Damaged(String),
}

impl State {
    /// The state as it is stored, for another process.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(&self.to_bytes()).into_owned()
    }

    /// Reads [`State::to_text`]; none if this version does not understand it.
    pub fn from_text(text: &str) -> Option<State> {
        State::from_bytes(text.as_bytes()).ok()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let document = Document {
            schema: SCHEMA,
            written_by: concat!("mana-proxy ", env!("CARGO_PKG_VERSION")).to_owned(),
            generation: self.generation,
            sites: self
                .sites
                .iter()
                .map(|(host, site)| (host.to_string(), site.clone()))
                .collect(),
        };
        let mut bytes =
            serde_json::to_vec_pretty(&document).expect("a document with text keys is always JSON");
        bytes.push(b'\n');
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<State, Unreadable> {
        let damaged = |reason: &str| Unreadable::Damaged(reason.to_owned());
        if bytes.is_empty() {
            return Err(damaged("it is empty"));
        }
        if bytes.len() as u64 > STATE_BYTES_MAX {
            return Err(damaged("it is larger than 1 MiB"));
        }
        let no_json = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
        let header: Header = serde_json::from_slice(bytes).map_err(no_json)?;
        if header.schema > SCHEMA {
            let written_by = match header.written_by.is_empty() {
                true => "a version that it does not name".to_owned(),
                false => header.written_by,
            };
            return Err(Unreadable::Newer {
                schema: header.schema,
                written_by,
            });
        }
        if header.schema == 0 {
            return Err(damaged("there is no schema 0"));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(no_json)?;
        let mut state = State {
            generation: document.generation,
            sites: BTreeMap::new(),
        };
        for (name, site) in document.sites {
            let host: Host = name
                .parse()
                .map_err(|error| Unreadable::Damaged(format!("{error}")))?;
            if site.generation > document.generation {
                return Err(Unreadable::Damaged(format!(
                    "{host} has generation {}, the whole has {}",
                    site.generation, document.generation
                )));
            }
            if site.drained.contains(&site.active) {
                return Err(Unreadable::Damaged(format!(
                    "the active slot of {host} is marked as drained"
                )));
            }
            if state.sites.insert(host, site).is_some() {
                return Err(Unreadable::Damaged(format!("{name} is there twice")));
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
