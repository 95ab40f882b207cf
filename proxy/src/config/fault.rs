//! Faults of a configuration: where, which key, why. Owns collecting and ordering them; knows nothing of settings.

use std::cell::RefCell;
use std::fmt;

/// One thing that is wrong in a configuration file.
///
/// Displayed as `mana-proxy.toml:12: site.health.interval: "1 sec" is no duration: write 500ms, 30s, 5m or 1h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file as it was named by the operator.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// Dotted, without indices: `site.health.interval`. Empty where the file is no TOML.
    pub key: String,
    /// What is wrong and, where there is one, the remedy. One line.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)
    }
}

/// Collects the faults of one file. Shared by every reader of it.
pub(super) struct Faults {
    file: String,
    /// The offset at which each line starts.
    line_starts: Vec<usize>,
    found: RefCell<Vec<Fault>>,
}

// === impl Faults ===

impl Faults {
    /// None yet, for this text of this file.
    pub(super) fn new(file: &str, text: &str) -> Faults {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Faults {
            file: file.to_owned(),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            found: RefCell::new(Vec::new()),
        }
    }

    /// The line, from 1, in which the byte at `offset` stands.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Adds one.
    pub(super) fn add(&self, line: usize, key: impl Into<String>, reason: impl Into<String>) {
        self.found.borrow_mut().push(Fault {
            file: self.file.clone(),
            line,
            key: key.into(),
            reason: reason.into(),
        });
    }

    /// All of them in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        found
    }
}

/// A value and the line that it stands in: what checks across keys need to name both places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        let faults = Faults::new("f", "a\nbc\n\nd");
        for (offset, line) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 2),
            (5, 3),
            (6, 4),
            (99, 4),
        ] {
            assert_eq!(faults.line_of(offset), line, "offset {offset}");
        }
    }

    #[test]
    fn faults_come_in_the_order_of_the_file() {
        let faults = Faults::new("f.toml", "");
        faults.add(3, "b", "second");
        faults.add(1, "", "first");
        let text: Vec<String> = faults
            .into_sorted()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(text, ["f.toml:1: first", "f.toml:3: b: second"]);
    }
}
