//! The stored figures: their file, and what a new count is beside them. Pure: it neither counts nor opens a file.
//!
//! ```toml
//! [[machine]]
//! reason = "the response head is written without a copy"
//! cpu = "x86_64 aes avx avx2"
//! valgrind = "valgrind-3.19.0"
//! libc = "glibc 2.36"
//! rustc = "rustc 1.95.0"
//! instructions = { h1-plain-1k = 61234, h1-tls-1k = 73456 }
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that is stored: figures of at most [`MACHINES_MAX`] kinds of machine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    #[serde(default)]
    machine: Vec<Figures>,
}

/// Instructions per request of each scenario, by its name, on one kind of machine.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// Why they are as they are: what the last change of them was for.
    pub reason: String,
    /// Where they were counted.
    #[serde(flatten)]
    pub machine: Machine,
    /// `scenario = instructions`.
    pub instructions: BTreeMap<String, u64>,
}

/// A kind of machine, in words. Two machines with the same words give the same figures.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// Architecture, and what a program sees of the processor under valgrind: `x86_64 aes avx avx2`. Ciphers, hashes and
    /// memcpy choose their code by it. valgrind shows one of a few processors of its own, so that many machines look alike.
    pub cpu: String,
    /// Its version decides what processors it shows.
    pub valgrind: String,
    /// memcpy and its like, and how they are chosen.
    pub libc: String,
    /// Another compiler makes other code of the same source.
    pub rustc: String,
}

/// What a count is beside the stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Within [`TOLERANCE_PERCENT`].
    Same,
    /// More than that above: the guard fails.
    Dearer,
    /// More than that below: it is to be stored, or the next loss hides in it.
    Cheaper,
    /// There is no stored one. A scenario that nobody has counted passes nobody by: the guard fails.
    New,
}

/// Why stored figures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was edited by hand, or by a merge.
    #[error("the stored figures cannot be read")]
    Unreadable(#[source] toml::de::Error),
    /// Figures of machines that nobody has any more are to be deleted.
    #[error("figures of {MACHINES_MAX} kinds of machine are stored already")]
    Full,
    /// Without one, nobody knows later whether a loss was wanted.
    #[error("a reason is wanted: what has made the figures change")]
    NoReason,
}

// === impl Stored ===

impl Stored {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn parse(text: &str) -> Result<Stored, Error> {
        toml::from_str(text).map_err(Error::Unreadable)
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        // It holds strings and numbers alone, and toml has those.
        let figures = toml::to_string(self).expect("strings and numbers are TOML");
        format!("{HEADING}\n{figures}")
    }

    /// Those of this kind of machine.
    pub fn of(&self, machine: &Machine) -> Option<&Figures> {
        self.machine
            .iter()
            .find(|figures| figures.machine == *machine)
    }

    /// Those of the kind of machine that is most like this one.
    pub fn nearest(&self, machine: &Machine) -> Option<&Figures> {
        self.machine
            .iter()
            .min_by_key(|figures| machine.differences(&figures.machine).len())
    }

    /// Takes in new figures, in the place of those of the same kind of machine.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::NoReason`].
    pub fn store(&mut self, figures: Figures) -> Result<(), Error> {
        if figures.reason.trim().is_empty() {
            return Err(Error::NoReason);
        }
        let same = |other: &Figures| other.machine == figures.machine;
        match self.machine.iter().position(same) {
            Some(place) => self.machine[place] = figures,
            None if self.machine.len() >= MACHINES_MAX => return Err(Error::Full),
            None => self.machine.push(figures),
        }
        Ok(())
    }
}

// === impl Machine ===

impl Machine {
    /// What is not the same there, as `libc: there, here`.
    pub fn differences(&self, there: &Machine) -> Vec<String> {
        [
            ("cpu", &self.cpu, &there.cpu),
            ("valgrind", &self.valgrind, &there.valgrind),
            ("libc", &self.libc, &there.libc),
            ("rustc", &self.rustc, &there.rustc),
        ]
        .into_iter()
        .filter(|(_, here, there)| here != there)
        .map(|(what, here, there)| format!("{what}: stored `{there}`, here `{here}`"))
        .collect()
    }
}

/// Compares a count with the stored one.
pub fn judge(stored: Option<u64>, counted: u64) -> Verdict {
    match stored {
        None => Verdict::New,
        Some(stored) if counted * 100 > stored * (100 + TOLERANCE_PERCENT) => Verdict::Dearer,
        Some(stored) if counted * 100 < stored * (100 - TOLERANCE_PERCENT) => Verdict::Cheaper,
        Some(_) => Verdict::Same,
    }
}

/// How much more a count is than the stored one, in per cent.
pub fn percent(stored: u64, counted: u64) -> f64 {
    (counted as f64 / stored.max(1) as f64 - 1.0) * 100.0
}

/// Ten times what counts of one binary differ by.
pub const TOLERANCE_PERCENT: u64 = 3;
/// More than are in use anywhere at a time.
pub const MACHINES_MAX: usize = 8;

const HEADING: &str = "\
# Instructions per request in user space, counted by callgrind; benches/README.md says how and of what build.
# Written by: make instructions-store REASON=\"what has made them change\"
";
