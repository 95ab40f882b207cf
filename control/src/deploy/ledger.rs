//! The ledger: which releases there were, what each slot has, which deploy is under way.
//!
//! Owns `ledger.json` in the deploy directory, its shape and its atomic replacement. Whoever writes holds the lock. What
//! is live it does not say: that is the daemon's word.
//!
//! ```text
//! {"schema":1,"next":18,"boot":"6f1c...","warm":{"slot":"blue","until":1795338801},"pending":null,
//!  "deploys":[{"deploy":17,"kind":"deploy","time":"2026-11-22T09:13:21.004Z","who":"ops","image":"app:41","image_id":"sha256:...",
//!    "from":"blue","to":"green","outcome":"deployed","generation":7,"gate":"2 good probes","requests":532,"server_errors":0,"took_ms":41230}]}
//! ```

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::deploy::image::ImageName;
use crate::deploy::settings::KeepWarm;
use crate::slot::Slot;
use crate::state::sync_dir;

/// The schema that this version writes, and the newest that it reads.
pub const SCHEMA: u64 = 1;
/// Deploys that are remembered; the oldest goes.
pub const DEPLOYS_MAX: usize = 200;
/// The largest ledger that is read: [`DEPLOYS_MAX`] entries with the longest texts.
pub const LEDGER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The longest text of an entry; a longer one is cut.
pub const TEXT_BYTES_MAX: usize = 4096;

/// All that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The schema that it was written with.
    pub schema: u64,
    /// The number of the next deploy.
    pub next: u64,
    /// The boot of the machine in which the last reconciliation was.
    #[serde(default)]
    pub boot: Option<String>,
    /// The slot before, while it is kept running.
    #[serde(default)]
    pub warm: Option<Warm>,
    /// The slot that a deploy or a reconciliation has taken out of use and not put back yet.
    #[serde(default)]
    pub out_of_use: Option<Slot>,
    /// The deploy that is under way, or was cut off.
    #[serde(default)]
    pub pending: Option<Entry>,
    /// Those that are over, oldest first.
    #[serde(default)]
    pub deploys: Vec<Entry>,
}

/// A slot that is kept running although it is not active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// Which.
    pub slot: Slot,
    /// What it runs; another image in that slot is not kept warm.
    pub image_id: String,
    /// Until when, in seconds since 1970; `None` is always.
    pub until: Option<u64>,
}

/// One deploy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub deploy: u64,
    /// Whether it brought something new or something back.
    pub kind: Kind,
    /// When it began, RFC 3339.
    pub time: String,
    /// Who gave the order.
    pub who: String,
    /// What was to be deployed.
    pub image: ImageName,
    /// What that name stood for; none before it was pulled.
    #[serde(default)]
    pub image_id: Option<String>,
    /// The slot that was active.
    pub from: Slot,
    /// The slot that it went into.
    pub to: Slot,
    /// What the slot that was active ran.
    #[serde(default)]
    pub before: Option<Replaced>,
    /// What the caller said of it.
    #[serde(default, flatten)]
    pub about: About,
    /// How it ended; none while it is under way.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// The step that failed.
    #[serde(default)]
    pub step: Option<String>,
    /// Why.
    #[serde(default)]
    pub error: Option<String>,
    /// The generation of the cutover.
    #[serde(default)]
    pub generation: Option<u64>,
    /// What the gate said.
    #[serde(default)]
    pub gate: Option<String>,
    /// Requests in the watch window.
    #[serde(default)]
    pub requests: Option<u64>,
    /// Those of them that went wrong.
    #[serde(default)]
    pub server_errors: Option<u64>,
    /// The whole of it.
    #[serde(default)]
    pub took_ms: Option<u64>,
    /// Whether its image was removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_pruned: bool,
}

/// A release that another one took the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// What it was started as.
    pub image: ImageName,
    /// What that name stood for.
    pub image_id: String,
}

/// What a caller says of a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Where its source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Which version of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Of which branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An image was deployed.
    Deploy,
    /// The release before was brought back.
    Rollback,
}

/// How a deploy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is active.
    Deployed,
    /// Nothing was changed.
    Refused,
    /// It was no good; everything is as before.
    Failed,
    /// It was active and no good, and was undone in its watch window.
    RolledBack,
    /// Whoever did it went away. `generation` says whether it is active.
    CutOff,
    /// Somebody else switched in its watch window.
    Superseded,
}

/// Why the ledger cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("cannot use the ledger {path}; it is for those who may deploy")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is none.
    #[error(
        "the ledger {path} cannot be understood; move it away, and the next deploy begins a new one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A newer version has written it.
    #[error(
        "the ledger {path} was written by a newer version (schema {found}, this one knows {SCHEMA})"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// Longer than [`LEDGER_BYTES_MAX`].
    #[error(
        "the ledger {path} is longer than {LEDGER_BYTES_MAX} bytes; move it away, and the next deploy begins a new one"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            schema: SCHEMA,
            next: 1,
            boot: None,
            warm: None,
            out_of_use: None,
            pending: None,
            deploys: Vec::new(),
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Reads the ledger of a directory; one that is not there is empty.
    ///
    /// # Errors
    /// Every variant of [`LedgerError`]. Nothing is overwritten then.
    pub fn load(dir: &Path) -> Result<Ledger, LedgerError> {
        let path = dir.join(NAME);
        let failed = |source| LedgerError::Io {
            path: path.clone(),
            source,
        };
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => file
                .take(LEDGER_BYTES_MAX + 1)
                .read_to_string(&mut text)
                .map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
            Err(error) => return Err(failed(error)),
        };
        if text.len() as u64 > LEDGER_BYTES_MAX {
            return Err(LedgerError::TooLong { path });
        }
        let damaged = |source| LedgerError::Damaged {
            path: path.clone(),
            source,
        };
        let schema: SchemaAlone = serde_json::from_str(&text).map_err(damaged)?;
        if schema.schema > SCHEMA {
            return Err(LedgerError::Newer {
                path,
                found: schema.schema,
            });
        }
        serde_json::from_str(&text).map_err(damaged)
    }

    /// Puts it in the place of the one before, whole or not at all.
    ///
    /// # Errors
    /// The old one is still there.
    pub fn store(&self, dir: &Path) -> Result<(), LedgerError> {
        let path = dir.join(NAME);
        let temp = dir.join(TEMP_NAME);
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec(self).map_err(io::Error::other)?;
            text.push(b'\n');
            match std::fs::remove_file(&temp) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&temp)?;
            // Those who may deploy take turns, whatever their umask.
            file.set_permissions(Permissions::from_mode(0o660))?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temp, &path)?;
            sync_dir(dir)
        };
        write().map_err(|source| LedgerError::Io {
            path: path.clone(),
            source,
        })
    }

    /// Notes that a deploy begins; its number.
    pub fn begin(&mut self, mut entry: Entry) -> u64 {
        entry.deploy = self.next;
        self.next += 1;
        entry.shorten();
        self.pending = Some(entry);
        self.next - 1
    }

    /// The slot before is kept as the backup, with what it runs, for so long from now on.
    pub fn keep_warm(&mut self, slot: Slot, image_id: &str, keep: KeepWarm, now: u64) {
        self.warm = Some(Warm {
            slot,
            image_id: image_id.to_owned(),
            until: match keep {
                KeepWarm::Always => None,
                KeepWarm::For(time) => Some(now.saturating_add(time.as_secs())),
            },
        });
    }

    /// Closes a deploy that was cut off, or whose undoing was. With a generation its release is active, and the slot before
    /// is kept warm. How it was cut off, in words.
    pub fn close_cut_off(
        &mut self,
        generation: Option<u64>,
        keep: KeepWarm,
        now: u64,
    ) -> Option<String> {
        let pending = self.pending.clone()?;
        if generation.is_some()
            && let Some(before) = &pending.before
        {
            self.keep_warm(pending.from, &before.image_id, keep, now);
        }
        self.close(|entry| {
            entry.outcome = entry.outcome.or(Some(Outcome::CutOff));
            entry.generation = generation;
        });
        let number = pending.deploy;
        Some(match (generation, pending.outcome) {
            (Some(generation), _) => {
                format!("deploy {number} was cut off after its switch (generation {generation})")
            }
            (None, None) => format!("deploy {number} was cut off before its switch"),
            (None, Some(_)) => format!("deploy {number} had not undone everything"),
        })
    }

    /// Moves the pending deploy to those that are over.
    pub fn close(&mut self, change: impl FnOnce(&mut Entry)) {
        let Some(mut entry) = self.pending.take() else {
            return;
        };
        change(&mut entry);
        entry.shorten();
        self.deploys.push(entry);
        let over = self.deploys.len().saturating_sub(DEPLOYS_MAX);
        self.deploys.drain(..over);
    }

    /// The releases that became active and were not undone, newest first. One that failed and could not be undone is among
    /// them: it is what is active, and a rollback leads away from it.
    pub fn good(&self) -> impl Iterator<Item = &Entry> {
        let is_good = |entry: &&Entry| match entry.outcome {
            Some(Outcome::Deployed) => true,
            Some(Outcome::CutOff | Outcome::Failed) => entry.generation.is_some(),
            _ => false,
        };
        self.deploys.iter().rev().filter(is_good)
    }
}

impl Entry {
    fn shorten(&mut self) {
        let About {
            repository,
            commit,
            branch,
            author,
            note,
        } = &mut self.about;
        let texts = [
            repository,
            commit,
            branch,
            author,
            note,
            &mut self.error,
            &mut self.gate,
        ];
        for text in texts.into_iter().flatten() {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
    }
}

#[derive(Deserialize)]
struct SchemaAlone {
    schema: u64,
}

impl Outcome {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Deployed => "deployed",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::RolledBack => "rolled_back",
            Outcome::CutOff => "cut_off",
            Outcome::Superseded => "superseded",
        }
    }
}

const NAME: &str = "ledger.json";
const TEMP_NAME: &str = "ledger.json.new";

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn entry(image: &str, image_id: &str, outcome: Option<Outcome>) -> Entry {
        Entry {
            deploy: 0,
            kind: Kind::Deploy,
            time: "2026-11-22T09:13:21.004Z".to_owned(),
            who: "ops".to_owned(),
            image: ImageName::parse(image).expect("image"),
            image_id: Some(image_id.to_owned()),
            from: Slot::Blue,
            to: Slot::Green,
            before: None,
            about: About {
                commit: Some("c0ffee".to_owned()),
                ..About::default()
            },
            outcome,
            step: None,
            error: None,
            generation: None,
            gate: None,
            requests: None,
            server_errors: None,
            took_ms: None,
            is_pruned: false,
        }
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(Ledger::load(dir.path()).expect("load"), Ledger::default());
        let mut ledger = Ledger::default();
        assert_eq!(ledger.begin(entry("app:41", "sha256:aa", None)), 1);
        ledger.store(dir.path()).expect("store");
        let mut ledger = Ledger::load(dir.path()).expect("load");
        assert_eq!(ledger.pending.as_ref().map(|entry| entry.deploy), Some(1));
        ledger.close(|entry| entry.outcome = Some(Outcome::Deployed));
        ledger.keep_warm(Slot::Blue, "sha256:00", KeepWarm::Always, 5);
        ledger.store(dir.path()).expect("store");
        assert_eq!(Ledger::load(dir.path()).expect("load"), ledger);
        assert_eq!(std::fs::read_dir(dir.path()).expect("dir").count(), 1);
    }

    #[test]
    fn what_is_no_ledger_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(NAME);
        for (text, said) in [
            ("{", "cannot be understood"),
            ("{\"schema\":2}", "newer version"),
            ("{\"schema\":1}", "cannot be understood"),
        ] {
            std::fs::write(&path, text).expect("write");
            let error = Ledger::load(dir.path()).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), text);
        }
        let file = File::create(&path).expect("file");
        file.set_len(LEDGER_BYTES_MAX + 1).expect("length");
        assert!(matches!(
            Ledger::load(dir.path()),
            Err(LedgerError::TooLong { .. })
        ));
    }

    #[test]
    fn it_remembers_so_many_deploys_and_texts_so_long() {
        let mut ledger = Ledger::default();
        for number in 1..=DEPLOYS_MAX + 3 {
            let mut entry = entry("app:41", "sha256:aa", None);
            entry.about.note = Some("ü".repeat(TEXT_BYTES_MAX));
            assert_eq!(ledger.begin(entry), number as u64);
            ledger.close(|entry| entry.error = Some("x".repeat(2 * TEXT_BYTES_MAX)));
        }
        assert_eq!(ledger.deploys.len(), DEPLOYS_MAX);
        assert_eq!(ledger.deploys[0].deploy, 4);
        let longest = serde_json::to_vec(&ledger.deploys[0]).expect("json").len();
        assert!(longest < 3 * TEXT_BYTES_MAX, "{longest}");
    }

    #[test]
    fn a_release_is_good_if_it_was_active_and_not_undone() {
        let mut ledger = Ledger::default();
        for (image, outcome, generation) in [
            ("app:1", Outcome::Deployed, Some(1)),
            ("app:2", Outcome::Failed, None),
            ("app:3", Outcome::RolledBack, Some(2)),
            ("app:4", Outcome::CutOff, None),
            ("app:5", Outcome::CutOff, Some(4)),
            ("app:6", Outcome::Failed, Some(5)),
        ] {
            ledger.begin(entry(image, "sha256:aa", None));
            ledger.close(|entry| {
                entry.outcome = Some(outcome);
                entry.generation = generation;
            });
        }
        let good: Vec<String> = ledger.good().map(|entry| entry.image.to_string()).collect();
        assert_eq!(good, ["app:6", "app:5", "app:1"]);
    }
}
