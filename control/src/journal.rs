//! The journal: one JSON line for each change that was made or refused, by whom, and how it went.
//!
//! Owns `journal.jsonl` in the state directory: appending, rotation, reading from the end. Called by the driver, in a
//! blocking task; `history` prints what it reads.
//!
//! ```text
//! {"time":"2026-11-22T09:13:21.004Z","generation":7,"site":"mana.so","verb":"switch","from":"blue","to":"green",
//!  "uid":0,"gid":0,"pid":4242,"command":"mana-proxy","note":"release 41","outcome":"drained","in_flight":0,...}
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::warn;

use crate::reply::to_line;
use crate::state::sync_dir;

/// A journal that would grow beyond this becomes `journal.jsonl.1`; the one before that is gone.
pub const JOURNAL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The longest line. A longer one loses its `note` and `error`.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024;

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    /// The file ends in half a line: a crash or a full disk. The next line starts on its own.
    is_torn: bool,
}

/// What [`read_last`] found.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    /// Oldest first.
    pub entries: Vec<Map<String, Value>>,
    /// Lines among them that were no JSON object, as a crash leaves one.
    pub skipped: usize,
}

/// Why the journal could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the journal {path}")]
pub struct JournalError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

// === impl Journal ===

impl Journal {
    /// Opens the journal in this directory, made if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened for reading and writing.
    pub fn open(dir: &Path) -> Result<Journal, JournalError> {
        Journal::with_limit(dir, JOURNAL_BYTES_MAX)
    }

    fn with_limit(dir: &Path, bytes_max: u64) -> Result<Journal, JournalError> {
        let path = dir.join(NAME);
        let failed = |source| JournalError {
            path: path.clone(),
            source,
        };
        let mut file = open_for_append(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let is_torn = ends_torn(&mut file, bytes).map_err(failed)?;
        if is_torn {
            warn!(path = %path.display(), "the journal ends in half a line, as after a crash");
        }
        Ok(Journal {
            dir: dir.to_owned(),
            file,
            bytes,
            bytes_max,
            is_torn,
        })
    }

    /// Adds one line and makes it durable.
    ///
    /// # Errors
    /// The line may be there, in part or not at all; the next one starts on its own.
    pub fn append(&mut self, entry: &Map<String, Value>) -> Result<(), JournalError> {
        let line = bounded_line(entry);
        self.write(&line).map_err(|source| JournalError {
            path: self.dir.join(NAME),
            source,
        })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        if self.is_torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        self.is_torn = true;
        self.file.write_all(&bytes)?;
        self.is_torn = false;
        self.bytes += bytes.len() as u64;
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = self.dir.join(NAME);
        match std::fs::rename(&path, self.dir.join(OLD_NAME)) {
            // An earlier rotation got this far and could not open the new file.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.file = open_for_append(&path)?;
        self.bytes = 0;
        self.is_torn = false;
        sync_dir(&self.dir)
    }
}

/// The last entries of the journal in this directory, the rotated file included. Memory: `last` times
/// [`ENTRY_BYTES_MAX`].
///
/// # Errors
/// The journal cannot be read. One that is not there is empty.
pub fn read_last(dir: &Path, last: usize) -> Result<History, JournalError> {
    let mut history = History::default();
    for name in [NAME, OLD_NAME] {
        let wanted = last - history.entries.len().min(last);
        if wanted == 0 {
            break;
        }
        let path = dir.join(name);
        let text = tail(&path, wanted).map_err(|source| JournalError {
            path: path.clone(),
            source,
        })?;
        let mut older = Vec::new();
        for line in text.lines().rev().filter(|line| !line.is_empty()) {
            if older.len() == wanted {
                break;
            }
            match serde_json::from_str(line) {
                Ok(entry) => older.push(entry),
                Err(_) => history.skipped += 1,
            }
        }
        older.reverse();
        older.append(&mut history.entries);
        history.entries = older;
    }
    if history.skipped > 0 {
        warn!(
            skipped = history.skipped,
            "the journal has lines that cannot be read"
        );
    }
    Ok(history)
}

/// The end of a file, from the start of a line on: enough for `lines` lines of the largest size.
fn tail(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    // One more, for half a line at either end.
    let bytes_max = (lines as u64 + 2) * ENTRY_BYTES_MAX as u64;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match (start, text.split_once('\n')) {
        (1.., Some((_half, whole))) => whole.to_owned(),
        (1.., None) => String::new(),
        (0, _) => text.into_owned(),
    })
}

fn bounded_line(entry: &Map<String, Value>) -> String {
    let line = to_line(entry);
    if line.len() <= ENTRY_BYTES_MAX {
        return line;
    }
    let mut shorter = entry.clone();
    shorter.remove("note");
    shorter.remove("error");
    to_line(&shorter)
}

fn ends_torn(file: &mut File, bytes: u64) -> io::Result<bool> {
    if bytes == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// A moment as RFC 3339 has it, in UTC with milliseconds: `2026-11-22T09:13:21.004Z`.
pub fn timestamp(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day since 1970-01-01. The years are counted from March on, so that the leap day is last:
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

const NAME: &str = "journal.jsonl";
const OLD_NAME: &str = "journal.jsonl.1";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(number: usize) -> Map<String, Value> {
        Map::from_iter([("generation".to_owned(), Value::from(number))])
    }

    fn generations(history: &History) -> Vec<u64> {
        let number = |entry: &Map<String, Value>| entry["generation"].as_u64().expect("number");
        history.entries.iter().map(number).collect()
    }

    #[test]
    fn history_is_the_last_entries_oldest_first() {
        let dir = tempfile::tempdir().expect("dir");
        assert_eq!(read_last(dir.path(), 5).expect("read"), History::default());
        let mut journal = Journal::open(dir.path()).expect("open");
        for number in 1..=9 {
            journal.append(&entry(number)).expect("append");
        }
        assert_eq!(
            generations(&read_last(dir.path(), 3).expect("read")),
            [7, 8, 9]
        );
        assert_eq!(read_last(dir.path(), 1000).expect("read").entries.len(), 9);
    }

    #[test]
    fn half_a_line_of_a_crash_is_skipped_and_not_written_on() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join(NAME);
        std::fs::write(&path, "{\"generation\":1}\n{\"gener").expect("write");
        let mut journal = Journal::open(dir.path()).expect("open");
        journal.append(&entry(2)).expect("append");
        journal.append(&entry(3)).expect("append");
        let history = read_last(dir.path(), 10).expect("read");
        assert_eq!((generations(&history), history.skipped), (vec![1, 2, 3], 1));
    }

    #[test]
    fn a_full_journal_is_turned_over_once() {
        let dir = tempfile::tempdir().expect("dir");
        let line = to_line(&entry(10)).len() as u64;
        let mut journal = Journal::with_limit(dir.path(), 3 * line).expect("open");
        for number in 10..=17 {
            journal.append(&entry(number)).expect("append");
        }
        let history = read_last(dir.path(), 1000).expect("read");
        assert_eq!(generations(&history), [13, 14, 15, 16, 17]);
        assert_eq!(
            generations(&read_last(dir.path(), 4).expect("read")),
            [14, 15, 16, 17]
        );
        assert!(
            std::fs::metadata(dir.path().join(NAME))
                .expect("metadata")
                .len()
                <= 3 * line
        );
    }

    #[test]
    fn a_rotation_that_finds_no_file_goes_on() {
        let dir = tempfile::tempdir().expect("dir");
        let line = to_line(&entry(1)).len() as u64;
        let mut journal = Journal::with_limit(dir.path(), line).expect("open");
        journal.append(&entry(1)).expect("append");
        // As after a rotation that moved the file away and could not open the next one.
        std::fs::rename(dir.path().join(NAME), dir.path().join(OLD_NAME)).expect("rename");
        journal.append(&entry(2)).expect("append");
        let history = read_last(dir.path(), 10).expect("read");
        assert_eq!(generations(&history), [1, 2]);
    }

    #[test]
    fn the_end_of_a_large_journal_is_read_without_the_rest() {
        let dir = tempfile::tempdir().expect("dir");
        let mut lines = vec![b'x'; 10 * ENTRY_BYTES_MAX];
        lines.extend_from_slice(b"\n{\"generation\":5}\n");
        std::fs::write(dir.path().join(NAME), lines).expect("write");
        let history = read_last(dir.path(), 1).expect("read");
        assert_eq!((generations(&history), history.skipped), (vec![5], 0));
    }

    #[test]
    fn a_line_that_is_too_long_loses_its_note() {
        let mut long = entry(1);
        long.insert("note".to_owned(), Value::from("n".repeat(ENTRY_BYTES_MAX)));
        assert_eq!(bounded_line(&long), to_line(&entry(1)));
    }

    #[test]
    fn a_moment_is_written_as_rfc_3339() {
        let at = |seconds: u64, ms: u64| {
            timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + ms))
        };
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 1), "2000-02-28T23:59:59.001Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_338_801, 4), "2026-11-22T09:13:21.004Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }
}
