//! A typed reader of one TOML table: takes keys, records faults, and at the end names the keys that nobody took.
//!
//! A fault never stops the reading: the default, or nothing, stands in, so that one pass finds every fault. Whoever
//! reads asks [`Faults`] at the end whether the result may be used. Knows nothing of which settings exist.

use std::collections::HashSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{At, Faults};

/// What a parser of one value returns: the value, or the reason why it is none.
pub(super) type Parsed<T> = Result<T, String>;

/// One table of the file; also one that the file does not have, which then is empty.
pub(super) struct Section<'a> {
    faults: &'a Faults,
    /// Dotted and with a dot at the end: `site.health.`; empty for the whole file.
    prefix: String,
    line: usize,
    table: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn root(faults: &'a Faults, table: &'a DeTable<'a>) -> Section<'a> {
        Section {
            faults,
            prefix: String::new(),
            line: 1,
            table: Some(table),
            known: Vec::new(),
        }
    }

    /// Whether the file has this section.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file has this key, and not as an empty array.
    pub(super) fn has_filled(&self, key: &str) -> bool {
        let value = self.find(key).map(Spanned::get_ref);
        value.is_some_and(|value| value.as_array().is_none_or(|array| !array.is_empty()))
    }

    /// Adds a fault about a key of this section, at the key's line if it is there, else at the section's.
    pub(super) fn fault(&self, key: &str, reason: impl Into<String>) {
        let line = self
            .find(key)
            .map_or(self.line, |value| self.line_of(value));
        self.faults.add(line, self.path(key), reason);
    }

    /// Where the section begins.
    pub(super) fn here(&self) -> At<()> {
        At {
            line: self.line,
            value: (),
        }
    }

    /// Adds a fault about the section itself.
    pub(super) fn fault_here(&self, reason: impl Into<String>) {
        let key = self.prefix.trim_end_matches('.');
        self.faults.add(self.line, key, reason);
    }

    /// The value of a key, if it is there and parses.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<At<T>> {
        let value = self.take(key)?;
        let line = self.line_of(value);
        match parse(value.get_ref()) {
            Ok(value) => Some(At { line, value }),
            Err(reason) => {
                self.faults.add(line, self.path(key), reason);
                None
            }
        }
    }

    /// The value of a key; its absence is a fault that says what to write.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Parsed<T>,
    ) -> Option<At<T>> {
        if self.find(key).is_none() {
            self.known.push(key);
            self.fault(key, format!("is missing: write {key} = {example}"));
            return None;
        }
        self.optional(key, parse)
    }

    /// The value of a key, or the default if it is absent.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&DeValue<'_>) -> Parsed<T>,
    ) -> T {
        self.optional(key, parse).map_or(default, |at| at.value)
    }

    /// The elements of an array that parse; none if the key is absent. A single value instead of an array is a fault.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Vec<At<T>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.fault(key, wrong_type(value.get_ref(), "an array: [ ... ]"));
            return Vec::new();
        };
        let mut parsed = Vec::new();
        for element in array.iter() {
            let line = self.line_of(element);
            match parse(element.get_ref()) {
                Ok(value) => parsed.push(At { line, value }),
                Err(reason) => self.faults.add(line, self.path(key), reason),
            }
        }
        parsed
    }

    /// The elements of an array, or the default if the key is absent. An empty array is none, not the default.
    pub(super) fn list_or<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
    ) -> Vec<T> {
        if self.find(key).is_none() {
            self.known.push(key);
            return default;
        }
        self.list(key, parse)
            .into_iter()
            .map(|at| at.value)
            .collect()
    }

    /// The keys of a table, whatever they are, with their values: those for which both parse.
    pub(super) fn pairs<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str, &DeValue<'_>) -> Parsed<T>,
    ) -> Vec<At<T>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.fault(
                key,
                wrong_type(value.get_ref(), "a table: { name = \"value\" }"),
            );
            return Vec::new();
        };
        let mut parsed = Vec::new();
        for (name, value) in table.iter() {
            let line = self.line_of(value);
            match parse(name.get_ref(), value.get_ref()) {
                Ok(value) => parsed.push(At { line, value }),
                Err(reason) => self.faults.add(line, self.path(key), reason),
            }
        }
        parsed
    }

    /// A table inside this one; an empty section if it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let value = self.take(key);
        let mut line = self.line;
        let mut table = None;
        if let Some(value) = value {
            line = self.line_of(value);
            table = value.get_ref().as_table();
            if table.is_none() {
                self.fault(key, wrong_type(value.get_ref(), "a table"));
            }
        }
        self.inner(key, line, table)
    }

    /// A table inside this one, if the key is there and is a table. Says nothing if it is not.
    pub(super) fn section_if_table(&mut self, key: &'static str) -> Option<Section<'a>> {
        let value = self.find(key)?;
        let table = value.get_ref().as_table()?;
        self.known.push(key);
        Some(self.inner(key, self.line_of(value), Some(table)))
    }

    /// The tables of `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.fault(key, format!("write [[{key}]], with two brackets"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => sections.push(self.inner(key, self.line_of(element), Some(table))),
                None => self.fault(key, wrong_type(element.get_ref(), "a table")),
            }
        }
        sections
    }

    /// Ends the reading: every key that was not asked for is a fault.
    pub(super) fn finish(self) {
        let Some(table) = self.table else { return };
        let taken: HashSet<&str> = self.known.iter().copied().collect();
        for key in table.keys() {
            let name: &str = key.get_ref();
            if taken.contains(name) {
                continue;
            }
            let reason = match closest(name, &self.known) {
                Some(known) => format!("unknown key; did you mean {known}?"),
                None => "unknown key".to_owned(),
            };
            let line = self.faults.line_of(key.span().start);
            self.faults.add(line, self.path(name), reason);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.find(key)
    }

    fn find(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn inner(&self, key: &str, line: usize, table: Option<&'a DeTable<'a>>) -> Section<'a> {
        Section {
            faults: self.faults,
            prefix: format!("{}.", self.path(key)),
            line,
            table,
            known: Vec::new(),
        }
    }

    fn line_of(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.faults.line_of(value.span().start)
    }

    /// Control characters of a quoted key are escaped: a fault is one line.
    fn path(&self, key: &str) -> String {
        format!("{}{}", self.prefix, key.escape_debug())
    }
}

/// `this is a boolean, it has to be a string`.
pub(super) fn wrong_type(value: &DeValue<'_>, wanted: &str) -> String {
    let found = match value {
        DeValue::Integer(_) | DeValue::Array(_) => format!("an {}", value.type_str()),
        _ => format!("a {}", value.type_str()),
    };
    format!("this is {found}; it has to be {wanted}")
}

/// The known key that a misspelt one most probably meant.
fn closest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let distances = known
        .iter()
        .filter(|known| known.len().abs_diff(name.len()) <= MISSPELT_MAX)
        .map(|known| (edit_distance(name, known), *known));
    let (distance, known) = distances.min()?;
    // A word of which more than half the letters differ was not misspelt.
    (distance <= MISSPELT_MAX && distance * 2 <= known.len()).then_some(known)
}

/// Letters to insert, remove or replace to make one word of the other (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A key that is further than this from every known one gets no suggestion.
const MISSPELT_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_the_known_one() {
        let known = ["handshake", "idle", "connect", "connect_total", "to"];
        assert_eq!(closest("handshakes", &known), Some("handshake"));
        assert_eq!(closest("conect", &known), Some("connect"));
        assert_eq!(closest("idel", &known), Some("idle"));
        assert_eq!(closest("zz", &known), None);
        assert_eq!(closest("", &known), None);
    }

    #[test]
    fn edit_distance_counts_changed_letters() {
        for (a, b, distance) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("alias", "aliases", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
