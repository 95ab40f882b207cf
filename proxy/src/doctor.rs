//! `mana-proxy doctor`: what of this machine would hurt the proxy, in order of danger.
//!
//! Owns what is looked for and how bad it is. Reading the machine ([`read`]) is apart from judging it (`judge`): what
//! was read is a [`Facts`], a plain value, and the findings follow from it alone. Nothing is changed, nothing is bound.
//! What could not be read is said to be so, and is never taken for well.

pub mod facts;
mod judge;
pub mod read;

pub use facts::Facts;
pub use judge::judge;

use serde::Serialize;

/// How much something hurts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It hurts now, or will at the next restart, reboot or renewal.
    Red,
    /// It may hurt, or only somebody who knows more can say.
    Yellow,
    /// It was looked at and is well.
    Green,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about: a file, a port, a name, a unit.
    pub about: String,
    /// What was found, as a sentence.
    pub what: String,
    /// The command that mends it, or what to change in which file. None where nothing is to be mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// What it is about.
    pub about: String,
    /// Why not.
    pub why: String,
}

/// All findings, the worst first; within a level those that lose requests come before those that may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// What was not.
    pub not_looked_at: Vec<Gap>,
}

// === impl Report ===

impl Report {
    /// Whether anything is red.
    pub fn is_red(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.level == Level::Red)
    }

    fn red(&mut self, about: impl Into<String>, what: impl Into<String>, mend: impl Into<String>) {
        self.add(Level::Red, about, what, Some(mend.into()));
    }

    fn yellow(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(Level::Yellow, about, what, Some(mend.into()));
    }

    fn green(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Green, about, what, None);
    }

    fn add(
        &mut self,
        level: Level,
        about: impl Into<String>,
        what: impl Into<String>,
        mend: Option<String>,
    ) {
        self.findings.push(Finding {
            level,
            about: about.into(),
            what: what.into(),
            mend,
        });
    }

    fn gap(&mut self, about: impl Into<String>, why: impl Into<String>) {
        self.not_looked_at.push(Gap {
            about: about.into(),
            why: why.into(),
        });
    }
}
