//! Where accounts, certificates and unfinished orders outlive the process.
//!
//! Owns the directory `certs` inside the state directory, mode 0700, and the files in it, mode 0600. Each is replaced
//! as a whole: temp file, fsync, rename, fsync of the directory. A key and its chain are one file, so that no crash can
//! part them. Everything here blocks on the disk; the renewer calls it off the runtime.
//!
//! ```text
//! certs/accounts/acme-v02.api.letsencrypt.org-5f1c09ab.json    the account key and URL at one directory
//! certs/mana.so/bundle.pem                                     private key, leaf, intermediates
//! certs/mana.so/order.json                                     an order that is not finished, with its key
//! certs/mana.so/ledger.json                                    attempts, backoff, the CA's advice
//! ```

mod error;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use instant_acme::AccountCredentials;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::budget::Ledger;
use crate::bundle::{Bundle, BundleError, FILE_BYTES_MAX};
use crate::failpoint;
use crate::order::with_sources;
use crate::schedule::seed_of;

pub use error::StoreError;

/// The directory.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// PEM text with a private key in it: never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPem(String);

/// An order that was begun. Stored before it is finalized, so that a certificate that was issued is never lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pending {
    /// The CA.
    pub directory: String,
    /// Where the order is.
    pub order: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// The key that its certificate is for.
    pub key: KeyPem,
    /// When it was noted in [`Ledger::tried`]; it is taken out of there if it comes to nothing.
    #[serde(default)]
    pub noted: Option<SystemTime>,
}

// === impl KeyPem ===

impl KeyPem {
    /// Takes a text that must not be shown.
    pub fn new(text: String) -> KeyPem {
        KeyPem(text)
    }

    /// The private key of a text in which there may be certificates as well; the whole text if there is none in it.
    ///
    /// A bundle is stored with its key first: a certificate beside the key would be taken for the leaf.
    pub fn of_combined(text: String) -> KeyPem {
        let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY");
        let begin = text.lines().position(|line| begins(line.trim()));
        let lines = text.lines().skip(begin.unwrap_or(usize::MAX));
        let ends = |line: &str| line.trim().starts_with("-----END ");
        let mut key = String::new();
        for line in lines {
            key.push_str(line.trim());
            key.push('\n');
            if ends(line) {
                return KeyPem(key);
            }
        }
        KeyPem(text)
    }

    /// The text; whoever asks for it must not show it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(..)")
    }
}

// === impl Store ===

impl Store {
    /// Takes `certs` in the state directory; it is made if it is not there. What a crash left half written is removed
    /// when its file is written again.
    ///
    /// # Errors
    /// [`StoreError::Directory`].
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        let failed = |source| StoreError::Directory {
            path: state_dir.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(state_dir).map_err(failed)?;
        let dir = state_dir.join("certs");
        make_dir(&dir)?;
        make_dir(&dir.join("accounts"))?;
        Ok(Store { dir })
    }

    /// The same without making it: it is made when something is stored.
    pub fn at(state_dir: &Path) -> Store {
        Store {
            dir: state_dir.join("certs"),
        }
    }

    /// The certificate of a site, whatever it covers; none if none was stored.
    ///
    /// # Errors
    /// [`BundleError`]: it is there, but cannot be read or does not hold together.
    pub fn bundle(&self, host: &str) -> Result<Option<Bundle>, BundleError> {
        let path = self.file(host, BUNDLE);
        if !path.exists() {
            return Ok(None);
        }
        Bundle::from_files(host, &path, &path, &[]).map(Some)
    }

    /// Puts a certificate in the place of the one before.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::Write`].
    pub fn store_bundle(&self, host: &str, chain: &str, key: &KeyPem) -> Result<(), StoreError> {
        let mut text = key.reveal().trim_end().to_owned();
        text.push('\n');
        text.push_str(chain);
        self.write(host, BUNDLE, text.as_bytes(), true)
    }

    /// The order of a site that was begun. One that is damaged is moved aside and is none: its key is lost, and nothing
    /// but another order gives a certificate.
    ///
    /// # Errors
    /// [`StoreError::Read`], [`StoreError::Write`].
    pub fn pending(&self, host: &str) -> Result<Option<Pending>, StoreError> {
        read_or_move_aside(&self.file(host, ORDER))
    }

    /// Notes an order.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::Write`].
    pub fn store_pending(&self, host: &str, pending: &Pending) -> Result<(), StoreError> {
        self.write(host, ORDER, &to_json(pending), false)
    }

    /// Forgets an order that is finished, or will never be.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn forget_pending(&self, host: &str) -> Result<(), StoreError> {
        remove(&self.file(host, ORDER))
    }

    /// What has been tried for a site; nothing if nothing was stored.
    ///
    /// # Errors
    /// [`StoreError::Read`], [`StoreError::Damaged`].
    pub fn ledger(&self, host: &str) -> Result<Ledger, StoreError> {
        Ok(read_json(&self.file(host, LEDGER))?.unwrap_or_default())
    }

    /// Notes what has been tried.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::Write`].
    pub fn store_ledger(&self, host: &str, ledger: &Ledger) -> Result<(), StoreError> {
        self.write(host, LEDGER, &to_json(ledger), false)
    }

    /// The account at a directory. One that is damaged is moved aside and is none: a CA gives another one for the asking,
    /// and until then nothing is renewed.
    ///
    /// # Errors
    /// [`StoreError::Read`], [`StoreError::Write`].
    pub fn account(&self, directory: &str) -> Result<Option<AccountCredentials>, StoreError> {
        read_or_move_aside(&self.file(ACCOUNTS, &account_name(directory)))
    }

    /// Keeps an account.
    ///
    /// # Errors
    /// [`StoreError::Directory`], [`StoreError::Write`].
    pub fn store_account(
        &self,
        directory: &str,
        account: &AccountCredentials,
    ) -> Result<(), StoreError> {
        let name = account_name(directory);
        self.write(ACCOUNTS, &name, &to_json(account), false)
    }

    /// Forgets an account that its CA does not know any more.
    ///
    /// # Errors
    /// [`StoreError::Write`].
    pub fn forget_account(&self, directory: &str) -> Result<(), StoreError> {
        remove(&self.file(ACCOUNTS, &account_name(directory)))
    }

    fn file(&self, dir: &str, name: &str) -> PathBuf {
        self.dir.join(dir).join(name)
    }

    fn write(
        &self,
        dir: &str,
        name: &str,
        bytes: &[u8],
        is_bundle: bool,
    ) -> Result<(), StoreError> {
        make_dir(&self.dir)?;
        let dir = self.dir.join(dir);
        refuse_link(&dir)?;
        make_dir(&dir)?;
        let path = dir.join(name);
        let failed = |source| StoreError::Write {
            path: path.clone(),
            source,
        };
        let temp = dir.join(format!("{name}.tmp"));
        // The daemon and `certs import` may be here at once, and there is one temp file.
        let _alone = alone_in(&dir, OTHER_WRITER_TIME).map_err(failed)?;
        // A crash may have left one; whatever else lies there, a link or a file that others can read, is not written to.
        remove(&temp)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temp)
            .map_err(failed)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        if let Err(source) = written {
            // A full disk must not keep half a file; if it cannot be removed either, the next write truncates it.
            std::fs::remove_file(&temp).ok();
            return Err(failed(source));
        }
        if is_bundle {
            failpoint::reach("acme-bundle-written");
        }
        std::fs::rename(&temp, &path).map_err(failed)?;
        sync_dir(&dir).map_err(failed)?;
        if is_bundle {
            failpoint::reach("acme-bundle-stored");
        }
        Ok(())
    }
}

/// Keeps other writers out of a directory until the file is dropped, or the process ends; waits for `patience` at most.
fn alone_in(dir: &Path, patience: Duration) -> io::Result<File> {
    let file = File::open(dir)?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A file system without locks has nobody else on it who would know of them.
            Err(TryLockError::Error(_)) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                let reason = "another process is writing there and does not end";
                return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(OTHER_WRITER_LOOK),
        }
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory {
        path: path.to_owned(),
        source,
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::metadata(path).map_err(failed)?;
            // Copied from elsewhere, perhaps: whatever others could read there, they can no more.
            if metadata.mode() & 0o077 != 0 {
                let owner_only = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(path, owner_only).map_err(failed)?;
            }
            return Ok(());
        }
        Err(source) => return Err(failed(source)),
    }
    path.parent()
        .map_or(Ok(()), |parent| sync_dir(parent).map_err(failed))
}

fn refuse_link(path: &Path) -> Result<(), StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Err(StoreError::Link {
            path: path.to_owned(),
        }),
        // Whatever else is wrong is found out by whoever uses it.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StoreError::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Makes the names in a directory durable.
fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let failed = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let read = serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged {
        path: path.to_owned(),
        source,
    });
    read.map(Some)
}

fn read_or_move_aside<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let error = match read_json(path) {
        Err(error @ StoreError::Damaged { .. }) => error,
        read => return read,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    std::fs::rename(path, &aside).map_err(|source| StoreError::Write {
        path: path.to_owned(),
        source,
    })?;
    let error = with_sources(&error);
    tracing::error!(
        error,
        aside = %Path::new(&aside).display(),
        "a file of the store was damaged and is moved aside; it is made anew"
    );
    Ok(None)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("text, times and lists are always JSON");
    bytes.push(b'\n');
    bytes
}

/// A file name that tells an operator which CA it is and differs for every URL.
fn account_name(directory: &str) -> String {
    let (_, rest) = directory.split_once("://").unwrap_or(("", directory));
    let host: String = rest
        .chars()
        .take_while(|c| *c != '/')
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("{host}-{:08x}.json", seed_of(directory) as u32)
}

const ACCOUNTS: &str = "accounts";
const BUNDLE: &str = "bundle.pem";
const ORDER: &str = "order.json";
const LEDGER: &str = "ledger.json";
/// How long a write waits for another process that writes in the same directory: many times what the slowest disk takes
/// for a file of a few kilobytes.
const OTHER_WRITER_TIME: Duration = Duration::from_secs(5);
const OTHER_WRITER_LOOK: Duration = Duration::from_millis(5);

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
