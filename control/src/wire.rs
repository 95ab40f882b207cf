//! One request of the control socket: plain words or one JSON object, on one line.
//!
//! Owns the verbs, their options and which option belongs to which verb. Both forms become the same [`Request`], so
//! `nc -U` and the CLI cannot differ. Does no I/O; the server and the client carry the lines.
//!
//! ```text
//! switch green --site mana.so --note "release 41" --if-generation 4 --drain-timeout 30s
//! {"verb":"switch","slot":"green","site":"mana.so","note":"release 41","if_generation":4,"drain_timeout_ms":30000}
//! ```

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::{Host, NotAHost};
use crate::slot::Slot;
use crate::words::{self, WordsError};

/// The longest request line, newline included.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// The longest note.
pub const NOTE_BYTES_MAX: usize = 1024;
/// The longest drain that a caller may ask for.
pub const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest path of a binary.
pub const PATH_BYTES_MAX: usize = 4096;
/// How long a new process may take for each of its two steps unless told otherwise.
pub const UPGRADE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// The longest that a caller may give it.
pub const UPGRADE_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Entries that `history` prints unless told otherwise.
pub const HISTORY_LAST_DEFAULT: usize = 20;
/// The most entries that `history` prints.
pub const HISTORY_LAST_MAX: usize = 1000;

/// One request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub verb: Verb,
    /// Where. May be left out where there is one site.
    pub site: Option<Host>,
    /// Why, in the caller's words; goes to the journal. At most [`NOTE_BYTES_MAX`], no control characters.
    pub note: Option<String>,
    /// How a change is made. All default for verbs that change nothing.
    pub options: Options,
    /// The program that takes over at an upgrade; the one that runs unless given. An absolute path of at most
    /// [`PATH_BYTES_MAX`].
    pub binary: Option<PathBuf>,
    /// Whether event lines are wanted before the reply.
    pub progress: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// All sites as they are now.
    Status,
    /// Probe this slot as before a cutover, and change nothing.
    Probe(Slot),
    /// Keep this standby slot to the caller for as long as its connection lasts.
    Reserve(Slot),
    /// A line in the journal, and nothing else.
    Note,
    /// Make this slot active.
    Switch(Slot),
    /// Make the slot active that was so before the last cutover.
    Rollback,
    /// Take a standby slot out of use and wait for its requests.
    Drain(Slot),
    /// Let a drained slot be used as a backup again.
    Undrain(Slot),
    /// Answer 503 (`true`) or serve again.
    Maintenance(bool),
    /// Hold new requests.
    Pause,
    /// Let held requests go and serve again.
    Resume,
    /// Read the configuration again.
    Reload,
    /// The last entries of the journal.
    History {
        /// How many: `1 <= last <= HISTORY_LAST_MAX`.
        last: usize,
    },
    /// All certificates and when they are renewed.
    CertsList,
    /// Renew certificates that are due; with `force` all.
    CertsRenew,
    /// Hand everything to a new process.
    Upgrade,
}

/// How a change is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Bounds the wait for requests and tunnels, in place of the site's own limits. At most [`DRAIN_TIMEOUT_MAX`].
    pub drain_timeout: Option<Duration>,
    /// Reply once the change is published; the drain goes on by itself.
    pub no_wait: bool,
    /// Do not probe first. Dangerous: the slot gets traffic whether it answers or not.
    pub force: bool,
    /// Change nothing unless the site's generation is this one.
    pub if_generation: Option<u64>,
    /// How long a new process may take for each of its two steps: to prepare itself, and to take over. At most
    /// [`UPGRADE_TIMEOUT_MAX`].
    pub timeout: Option<Duration>,
    /// Wait until the process before the running one has ended, rather than be refused.
    pub wait: bool,
}

/// Why a line is no request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing but blanks.
    #[error("the request is empty; try `status`")]
    Empty,
    /// Not UTF-8.
    #[error("the request is not UTF-8 text")]
    NotText,
    /// More than [`LINE_BYTES_MAX`].
    #[error("the request is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// The words cannot be taken apart.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// A JSON object was begun but cannot be read, or has a field that no request has.
    #[error("the request cannot be read: {0}")]
    Unreadable(String),
    /// No such verb.
    #[error(
        "{0:?} is no verb: try status, probe, reserve, switch, rollback, drain, maintenance, pause, resume, reload, history, note, certs or upgrade"
    )]
    UnknownVerb(String),
    /// A verb lacks what it acts on.
    #[error("{verb} needs {what}")]
    Missing {
        /// The verb.
        verb: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// An option that this verb does not have.
    #[error("{verb} does not take {option}")]
    NotForVerb {
        /// The verb.
        verb: &'static str,
        /// The option.
        option: &'static str,
    },
    /// A number outside its range.
    #[error("{option} is out of range: {range}")]
    OutOfRange {
        /// The option.
        option: &'static str,
        /// What is allowed.
        range: &'static str,
    },
    /// A note with control characters.
    #[error("a note has no control characters")]
    NoteNotPrintable,
    /// The binary is not named by a path that means the same to the daemon.
    #[error("the binary is named by its absolute path, without control characters")]
    BinaryNotAbsolute,
    /// The site is no host name.
    #[error(transparent)]
    Site(#[from] NotAHost),
}

// === impl Request ===

impl Request {
    /// A request with nothing but its verb.
    pub fn new(verb: Verb) -> Request {
        Request {
            verb,
            site: None,
            note: None,
            options: Options::default(),
            binary: None,
            progress: false,
        }
    }

    /// Reads one line, with or without its newline.
    ///
    /// # Errors
    /// Every variant of [`WireError`]; the text is fit to be shown to the caller.
    pub fn parse(line: &[u8]) -> Result<Request, WireError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        let text = std::str::from_utf8(line).map_err(|_| WireError::NotText)?;
        let text = text.trim();
        if text.is_empty() {
            return Err(WireError::Empty);
        }
        let unreadable = |error: serde_json::Error| WireError::Unreadable(error.to_string());
        let fields: Fields = if text.starts_with('{') {
            serde_json::from_str(text).map_err(unreadable)?
        } else {
            let verb = text.split_whitespace().next().unwrap_or_default();
            if !VERBS.contains(&verb) {
                return Err(unknown_verb(verb));
            }
            serde_json::from_value(words::to_object(text)?).map_err(unreadable)?
        };
        fields.into_request()
    }

    /// The request as one JSON line, newline included. [`Request::parse`] gives the same request back.
    pub fn to_json_line(&self) -> String {
        let mut line = serde_json::to_string(&Fields::from_request(self))
            .expect("strings, numbers and flags are always JSON");
        line.push('\n');
        line
    }
}

// === impl Verb ===

impl Verb {
    /// The verb as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Status => "status",
            Verb::Probe(_) => "probe",
            Verb::Note => "note",
            Verb::Reserve(_) => "reserve",
            Verb::Switch(_) => "switch",
            Verb::Rollback => "rollback",
            Verb::Drain(_) | Verb::Undrain(_) => "drain",
            Verb::Maintenance(_) => "maintenance",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Reload => "reload",
            Verb::History { .. } => "history",
            Verb::CertsList | Verb::CertsRenew => "certs",
            Verb::Upgrade => "upgrade",
        }
    }

    fn takes(self, option: &str) -> bool {
        match option {
            "site" => !matches!(self, Verb::Reload | Verb::History { .. } | Verb::Upgrade),
            "binary" | "timeout" | "wait" => matches!(self, Verb::Upgrade),
            "note" => !matches!(
                self,
                Verb::Status
                    | Verb::Probe(_)
                    | Verb::Reserve(_)
                    | Verb::History { .. }
                    | Verb::CertsList
                    | Verb::CertsRenew
            ),
            "force" => matches!(self, Verb::Switch(_) | Verb::Rollback | Verb::CertsRenew),
            "action" => matches!(self, Verb::CertsList | Verb::CertsRenew),
            "drain_timeout" | "no_wait" => {
                matches!(self, Verb::Switch(_) | Verb::Rollback | Verb::Drain(_))
            }
            "if_generation" => matches!(
                self,
                Verb::Switch(_) | Verb::Rollback | Verb::Drain(_) | Verb::Undrain(_)
            ),
            "slot" => matches!(
                self,
                Verb::Probe(_)
                    | Verb::Reserve(_)
                    | Verb::Switch(_)
                    | Verb::Drain(_)
                    | Verb::Undrain(_)
            ),
            "undo" => matches!(self, Verb::Drain(_) | Verb::Undrain(_)),
            "on" => matches!(self, Verb::Maintenance(_)),
            "last" => matches!(self, Verb::History { .. }),
            _ => false,
        }
    }
}

/// The fields of a line, before it is known whether they fit together.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    verb: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slot: Option<Slot>,
    #[serde(default, skip_serializing_if = "is_false")]
    undo: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    no_wait: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    force: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    if_generation: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    wait: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    progress: bool,
}

impl Fields {
    fn from_request(request: &Request) -> Fields {
        let mut fields = Fields {
            verb: request.verb.as_str().to_owned(),
            site: request.site.as_ref().map(Host::to_string),
            note: request.note.clone(),
            drain_timeout_ms: request.options.drain_timeout.map(whole_ms),
            timeout_ms: request.options.timeout.map(whole_ms),
            wait: request.options.wait,
            // A path that is no text is refused at the other end: it is not absolute any more, or not there.
            binary: request
                .binary
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            no_wait: request.options.no_wait,
            force: request.options.force,
            if_generation: request.options.if_generation,
            progress: request.progress,
            ..Fields::default()
        };
        match request.verb {
            Verb::Probe(slot) | Verb::Reserve(slot) | Verb::Switch(slot) | Verb::Drain(slot) => {
                fields.slot = Some(slot);
            }
            Verb::Undrain(slot) => {
                fields.slot = Some(slot);
                fields.undo = true;
            }
            Verb::Maintenance(on) => fields.on = Some(on),
            Verb::History { last } => fields.last = Some(last),
            Verb::CertsList => fields.action = Some("list".to_owned()),
            Verb::CertsRenew => fields.action = Some("renew".to_owned()),
            Verb::Status
            | Verb::Note
            | Verb::Rollback
            | Verb::Pause
            | Verb::Resume
            | Verb::Reload
            | Verb::Upgrade => {}
        }
        fields
    }

    fn into_request(self) -> Result<Request, WireError> {
        let verb = self.read_verb()?;
        self.refuse_strangers(verb)?;
        if let Some(note) = &self.note {
            if note.len() > NOTE_BYTES_MAX {
                return Err(WireError::OutOfRange {
                    option: "note",
                    range: "at most 1024 bytes",
                });
            }
            if note.chars().any(char::is_control) {
                return Err(WireError::NoteNotPrintable);
            }
        }
        let drain_timeout = self.drain_timeout_ms.map(Duration::from_millis);
        if drain_timeout.is_some_and(|timeout| timeout > DRAIN_TIMEOUT_MAX) {
            return Err(WireError::OutOfRange {
                option: "drain-timeout",
                range: "at most 24h",
            });
        }
        let timeout = self.timeout_ms.map(Duration::from_millis);
        if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > UPGRADE_TIMEOUT_MAX) {
            return Err(WireError::OutOfRange {
                option: "timeout",
                range: "1ms to 10m",
            });
        }
        Ok(Request {
            verb,
            site: self.site.as_deref().map(str::parse).transpose()?,
            note: self.note,
            binary: self.binary.map(absolute).transpose()?,
            options: Options {
                drain_timeout,
                no_wait: self.no_wait,
                force: self.force,
                if_generation: self.if_generation,
                timeout,
                wait: self.wait,
            },
            progress: self.progress,
        })
    }

    fn read_verb(&self) -> Result<Verb, WireError> {
        let missing = |verb, what| WireError::Missing { verb, what };
        match self.verb.as_str() {
            "status" => Ok(Verb::Status),
            "probe" => {
                let slot = self.slot.ok_or(missing("probe", "a slot, blue or green"))?;
                Ok(Verb::Probe(slot))
            }
            "reserve" => {
                let slot = self
                    .slot
                    .ok_or(missing("reserve", "a slot, blue or green"))?;
                Ok(Verb::Reserve(slot))
            }
            "note" if self.note.is_none() => Err(missing("note", "a text, in quotes")),
            "note" => Ok(Verb::Note),
            "switch" => {
                let slot = self
                    .slot
                    .ok_or(missing("switch", "a slot, blue or green"))?;
                Ok(Verb::Switch(slot))
            }
            "rollback" => Ok(Verb::Rollback),
            "drain" => {
                let slot = self.slot.ok_or(missing("drain", "a slot, blue or green"))?;
                Ok(if self.undo {
                    Verb::Undrain(slot)
                } else {
                    Verb::Drain(slot)
                })
            }
            "maintenance" => {
                let on = self.on.ok_or(missing("maintenance", "on or off"))?;
                Ok(Verb::Maintenance(on))
            }
            "pause" => Ok(Verb::Pause),
            "resume" => Ok(Verb::Resume),
            "reload" => Ok(Verb::Reload),
            "history" => {
                let last = self.last.unwrap_or(HISTORY_LAST_DEFAULT);
                if last == 0 || last > HISTORY_LAST_MAX {
                    return Err(WireError::OutOfRange {
                        option: "last",
                        range: "1 to 1000",
                    });
                }
                Ok(Verb::History { last })
            }
            "certs" => match self.action.as_deref() {
                Some("list") => Ok(Verb::CertsList),
                Some("renew") => Ok(Verb::CertsRenew),
                _ => Err(missing("certs", "list or renew")),
            },
            "upgrade" => Ok(Verb::Upgrade),
            other => Err(unknown_verb(other)),
        }
    }

    /// An option that would be ignored is refused: `status --force` is a misunderstanding, not a wish.
    fn refuse_strangers(&self, verb: Verb) -> Result<(), WireError> {
        let given = [
            ("slot", self.slot.is_some()),
            ("undo", self.undo),
            ("on", self.on.is_some()),
            ("last", self.last.is_some()),
            ("action", self.action.is_some()),
            ("site", self.site.is_some()),
            ("note", self.note.is_some()),
            ("drain_timeout", self.drain_timeout_ms.is_some()),
            ("no_wait", self.no_wait),
            ("force", self.force),
            ("if_generation", self.if_generation.is_some()),
            ("binary", self.binary.is_some()),
            ("timeout", self.timeout_ms.is_some()),
            ("wait", self.wait),
        ];
        match given
            .into_iter()
            .find(|(option, is_given)| *is_given && !verb.takes(option))
        {
            Some((option, _)) => Err(WireError::NotForVerb {
                verb: verb.as_str(),
                option,
            }),
            None => Ok(()),
        }
    }
}

const VERBS: [&str; 14] = [
    "reserve",
    "status",
    "probe",
    "note",
    "switch",
    "rollback",
    "drain",
    "maintenance",
    "pause",
    "resume",
    "reload",
    "history",
    "certs",
    "upgrade",
];

fn absolute(path: String) -> Result<PathBuf, WireError> {
    let is_fit = path.starts_with('/')
        && path.len() <= PATH_BYTES_MAX
        && !path.chars().any(char::is_control);
    is_fit
        .then(|| PathBuf::from(path))
        .ok_or(WireError::BinaryNotAbsolute)
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unknown_verb(verb: &str) -> WireError {
    WireError::UnknownVerb(verb.chars().take(40).collect())
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
