//! What the clients noticed, phase by phase.

use std::fmt;

use crate::support::load::Tally;

/// All phases so far.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// Of each phase.
const FAULTS_SHOWN: usize = 12;

/// One phase.
pub struct Row {
    pub phase: String,
    pub answered: usize,
    pub refused: usize,
    pub reset: usize,
    pub failed: usize,
    pub late: usize,
    /// Over HTTP/2, after a GOAWAY: asked for again, as RFC 9113 s8.7 says, and answered.
    put_off: usize,
    slowest_ms: u128,
    faults: Vec<String>,
}

// === impl Table ===

impl Table {
    /// Adds a phase and says so at once, for those who wait.
    pub fn add(&mut self, phase: &str, tally: Tally) {
        let row = Row::of(phase, tally);
        eprintln!("{row}");
        for fault in row.faults.iter().take(FAULTS_SHOWN) {
            eprintln!("  {fault}");
        }
        self.rows.push(row);
    }

    /// The phase of that name.
    pub fn row(&self, phase: &str) -> &Row {
        self.rows.iter().find(|row| row.phase == phase).unwrap()
    }

    /// Asserts that in all phases but these no client noticed anything.
    pub fn assert_unnoticed_but(&self, but: &[&str]) {
        let is_quiet = |row: &&Row| !but.contains(&row.phase.as_str());
        for row in self.rows.iter().filter(is_quiet) {
            assert!(row.lost() == 0 && row.late == 0, "{row}: see above");
            assert!(row.answered > 0, "{row}: no load");
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<40} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}",
            "phase", "answered", "refused", "reset", "failed", "late", "put off", "slowest (ms)"
        )?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        Ok(())
    }
}

// === impl Row ===

impl Row {
    fn of(phase: &str, tally: Tally) -> Row {
        let is = |words: &'static [&'static str]| {
            move |fault: &&String| words.iter().any(|word| fault.contains(word))
        };
        let refused = is(&["ConnectionRefused", "Connection refused"]);
        let reset = is(&[
            "ConnectionReset",
            "Connection reset",
            "BrokenPipe",
            "Broken pipe",
        ]);
        let (refused, reset) = (
            tally.faults.iter().filter(refused).count(),
            tally.faults.iter().filter(reset).count(),
        );
        Row {
            phase: phase.to_owned(),
            answered: tally.answered,
            refused,
            reset,
            failed: tally.faults.len() - refused - reset,
            late: tally.late,
            put_off: tally.put_off,
            slowest_ms: tally.slowest.as_millis(),
            faults: tally.faults,
        }
    }

    /// Requests that were not answered as they should be.
    pub fn lost(&self) -> usize {
        self.faults.len()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<40} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>12}",
            self.phase,
            self.answered,
            self.refused,
            self.reset,
            self.failed,
            self.late,
            self.put_off,
            self.slowest_ms
        )
    }
}
