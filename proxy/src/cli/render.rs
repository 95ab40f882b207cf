//! A reply as text: one sentence for a change; `status` and `history` have files of their own. Pure.
//!
//! Fields that a reply lacks are left out of the text, so that a CLI and a daemon of different versions still talk.

use mana_control::{Reply, Slot, Verb};
use serde_json::{Map, Value};

use super::terminal::{Color, Paint, printable};
use super::{certs, history, status};

/// What goes to stdout for a request that was done.
pub(super) fn reply(verb: Verb, reply: &Reply, paint: Paint) -> String {
    let fields = reply.fields();
    let sentence = match verb {
        Verb::Status => return status::render(fields, paint),
        Verb::History { .. } => return history::render(fields, paint),
        Verb::CertsList => return certs::list(fields, paint),
        Verb::CertsRenew => return certs::renewed(fields),
        Verb::Probe(slot) => probed(slot, fields, paint),
        Verb::Note => "noted in the journal".to_owned(),
        // Its reply is the end of the daemon; there is no such verb on the command line.
        Verb::Reserve(slot) => format!("{} was reserved", slot_text(slot, paint)),
        Verb::Switch(_) | Verb::Rollback => switched(fields, paint),
        Verb::Drain(slot) => match fields.get("drained").and_then(Value::as_bool) {
            Some(true) => format!("{} is out of use and has drained", slot_text(slot, paint)),
            Some(false) => format!(
                "{} is out of use and {}",
                slot_text(slot, paint),
                still_drains(fields)
            ),
            None => format!("{} is out of use", slot_text(slot, paint)),
        },
        Verb::Undrain(slot) => format!("{} is in use again", slot_text(slot, paint)),
        Verb::Maintenance(true) => "in maintenance: requests are answered 503".to_owned(),
        Verb::Maintenance(false) => "out of maintenance: requests are served".to_owned(),
        Verb::Pause => "paused: new requests wait for `mana-proxy resume`".to_owned(),
        Verb::Resume => "resumed: requests are served".to_owned(),
        Verb::Reload => match number(fields, "generation") {
            Some(generation) => {
                format!("the configuration was read again (generation {generation})")
            }
            None => "the configuration was read again".to_owned(),
        },
        Verb::Upgrade => upgraded(fields),
    };
    match text(fields, "site") {
        Some(site) => format!("{site}: {sentence}\n"),
        None => format!("{sentence}\n"),
    }
}

/// `green passes its gate: 2 good probes of at most 3, on 1 upstream`
fn probed(slot: Slot, fields: &Map<String, Value>, paint: Paint) -> String {
    let slot = slot_text(slot, paint);
    let numbers = ["pass", "of", "upstreams"].map(|name| number(fields, name));
    match numbers {
        [Some(pass), Some(of), Some(upstreams)] => {
            let upstreams = counted(upstreams, "upstream");
            format!("{slot} passes its gate: {pass} good probes of at most {of}, on {upstreams}")
        }
        _ => format!("{slot} passes its gate"),
    }
}

/// `upgraded: version 0.2.0 serves (pid 43); version 0.1.0 (pid 42) finishes what it has`
fn upgraded(fields: &Map<String, Value>) -> String {
    let one = |version, pid| {
        let version = text(fields, version).map(|version| format!("version {version}"));
        let pid = number(fields, pid).map(|pid| format!("pid {pid}"));
        match (version, pid) {
            (Some(version), Some(pid)) => format!("{version} ({pid})"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "a process".to_owned(),
        }
    };
    let (new, old) = (
        one("version", "pid"),
        one("previous_version", "previous_pid"),
    );
    format!("upgraded: {new} serves; {old} finishes what it has")
}

/// `green is active (generation 7); blue has drained`
fn switched(fields: &Map<String, Value>, paint: Paint) -> String {
    let active: Option<Slot> = text(fields, "active").and_then(|slot| slot.parse().ok());
    let Some(active) = active else {
        return "the switch was made".to_owned();
    };
    let mut sentence = format!("{} is active", slot_text(active, paint));
    if fields.get("changed") == Some(&Value::Bool(false)) {
        sentence.push_str(" already");
    }
    if let Some(generation) = number(fields, "generation") {
        sentence.push_str(&format!(" (generation {generation})"));
    }
    let other = slot_text(active.other(), paint);
    match fields.get("drained").and_then(Value::as_bool) {
        Some(true) => sentence.push_str(&format!("; {other} has drained")),
        Some(false) => sentence.push_str(&format!("; {other} {}", still_drains(fields))),
        None => {}
    }
    if let Some(cut) = number(fields, "tunnels_cut").filter(|cut| *cut > 0) {
        sentence.push_str(&format!(", {} closed", counted(cut, "tunnel")));
    }
    sentence
}

fn still_drains(fields: &Map<String, Value>) -> String {
    match number(fields, "in_flight") {
        Some(left) => format!("still has {left} in flight"),
        None => "still drains".to_owned(),
    }
}

/// What is said on stderr of a request that was done, but not as one might think.
pub(super) fn warnings(reply: &Reply) -> Vec<String> {
    let warning = text(reply.fields(), "warning").map(|text| format!("warning: {text}"));
    let mut warnings = Vec::from_iter(warning);
    let restart = strings(reply.field("needs_restart"));
    if !restart.is_empty() {
        let keys = restart.join(", ");
        warnings.push(format!(
            "warning: changed, but only a restart applies it: {keys}"
        ));
    }
    if let Some(generation) = number(reply.fields(), "superseded_by") {
        let change = format!("the change with generation {generation}");
        warnings.push(format!(
            "warning: {change} came before the old slot had drained"
        ));
    }
    if reply.field("drained") == Some(&Value::Bool(false)) {
        let left = still_drains(reply.fields());
        warnings.push(format!(
            "warning: the old slot {left}; do not stop it yet, see `mana-proxy status`"
        ));
    }
    warnings
}

/// What the new process of an upgrade has said, as it is written above the error.
pub(super) fn said(reply: &Reply) -> Vec<String> {
    let words = strings(reply.field("said"));
    let words = words
        .iter()
        .map(|line| format!("the new process said: {line}"));
    words.collect()
}

/// The elements of an array as text; none if it is no array.
fn strings(value: Option<&Value>) -> Vec<String> {
    let elements = value.and_then(Value::as_array).into_iter().flatten();
    elements.map(plain).collect()
}

/// `blue`, in its colour.
pub(super) fn slot_text(slot: Slot, paint: Paint) -> String {
    paint.color(slot_color(slot), slot.as_str())
}

pub(super) fn slot_color(slot: Slot) -> Color {
    match slot {
        Slot::Blue => Color::Blue,
        Slot::Green => Color::Green,
    }
}

/// A string without its quotes, anything else as JSON; fit for a terminal.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

/// `1 tunnel`, `2 tunnels`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A string field, fit for a terminal.
pub(super) fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields.get(name)?.as_str().map(printable)
}

/// A number field.
pub(super) fn number(fields: &Map<String, Value>, name: &str) -> Option<u64> {
    fields.get(name)?.as_u64()
}

// === impl Cell ===

/// One cell of a table: the colour is put on after the text was measured.
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) color: Option<Color>,
}

impl Cell {
    /// In the terminal's own colour.
    pub(super) fn new(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            color: None,
        }
    }

    /// In this colour.
    pub(super) fn in_color(text: impl Into<String>, color: Color) -> Cell {
        Cell {
            text: text.into(),
            color: Some(color),
        }
    }
}

/// Rows with aligned columns, each row a line behind `indent`. No blanks at the ends of lines.
pub(super) fn aligned(rows: &[Vec<Cell>], indent: &str, paint: Paint) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<Cell>| {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            let shown = cell
                .color
                .map_or_else(|| cell.text.clone(), |color| paint.color(color, &cell.text));
            line.push_str(&shown);
            line.push_str(&" ".repeat(width - cell.text.chars().count() + GAP));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// Blanks between two columns.
const GAP: usize = 2;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rendered(verb: Verb, line: &str, paint: Paint) -> String {
        reply(verb, &Reply::parse(line).unwrap(), paint)
    }

    #[test]
    fn each_change_is_one_sentence() {
        let switch = Verb::Switch(Slot::Green);
        for (verb, line, expected) in [
            (
                switch,
                r#"{"ok":true,"site":"mana.so","active":"green","previous":"blue","generation":7,"drained":true}"#,
                "mana.so: green is active (generation 7); blue has drained\n",
            ),
            (
                switch,
                r#"{"ok":true,"active":"green","generation":7,"changed":false,"drained":true,"tunnels_cut":0}"#,
                "green is active already (generation 7); blue has drained\n",
            ),
            (
                switch,
                r#"{"ok":true,"active":"green","generation":7,"changed":true,"drained":true,"tunnels_cut":2}"#,
                "green is active (generation 7); blue has drained, 2 tunnels closed\n",
            ),
            (
                Verb::Rollback,
                r#"{"ok":true,"site":"mana.so","active":"blue","generation":8,"drained":false,"in_flight":3}"#,
                "mana.so: blue is active (generation 8); green still has 3 in flight\n",
            ),
            (
                switch,
                r#"{"ok":true,"active":"green","drained":false}"#,
                "green is active; blue still drains\n",
            ),
            (
                switch,
                r#"{"ok":true,"site":"mana.so","active":"green"}"#,
                "mana.so: green is active\n",
            ),
            (switch, r#"{"ok":true}"#, "the switch was made\n"),
            (
                Verb::Drain(Slot::Blue),
                r#"{"ok":true,"drained":true}"#,
                "blue is out of use and has drained\n",
            ),
            (
                Verb::Drain(Slot::Blue),
                r#"{"ok":true,"drained":false,"in_flight":1}"#,
                "blue is out of use and still has 1 in flight\n",
            ),
            (
                Verb::Undrain(Slot::Blue),
                r#"{"ok":true,"site":"a"}"#,
                "a: blue is in use again\n",
            ),
            (
                Verb::Maintenance(true),
                r#"{"ok":true}"#,
                "in maintenance: requests are answered 503\n",
            ),
            (
                Verb::Maintenance(false),
                r#"{"ok":true}"#,
                "out of maintenance: requests are served\n",
            ),
            (
                Verb::Pause,
                r#"{"ok":true}"#,
                "paused: new requests wait for `mana-proxy resume`\n",
            ),
            (
                Verb::Resume,
                r#"{"ok":true}"#,
                "resumed: requests are served\n",
            ),
            (
                Verb::Reload,
                r#"{"ok":true,"generation":9}"#,
                "the configuration was read again (generation 9)\n",
            ),
            (
                Verb::Probe(Slot::Green),
                r#"{"ok":true,"site":"a","pass":2,"of":3,"upstreams":1}"#,
                "a: green passes its gate: 2 good probes of at most 3, on 1 upstream\n",
            ),
            (Verb::Note, r#"{"ok":true}"#, "noted in the journal\n"),
            (
                Verb::Upgrade,
                r#"{"ok":true,"pid":43,"version":"0.2.0","previous_pid":42,"previous_version":"0.1.0"}"#,
                "upgraded: version 0.2.0 (pid 43) serves; version 0.1.0 (pid 42) finishes what it has\n",
            ),
        ] {
            assert_eq!(rendered(verb, line, Paint::Plain), expected);
        }
    }

    #[test]
    fn slots_are_coloured_only_if_colours_are_on() {
        let line = r#"{"ok":true,"active":"green","drained":true}"#;
        let coloured = rendered(Verb::Rollback, line, Paint::Coloured);
        assert_eq!(
            coloured,
            "\x1b[32mgreen\x1b[0m is active; \x1b[34mblue\x1b[0m has drained\n"
        );
        assert!(!rendered(Verb::Rollback, line, Paint::Plain).contains('\x1b'));
    }

    #[test]
    fn what_is_not_as_one_might_think_is_a_warning() {
        let line = r#"{"ok":true,"drained":false,"in_flight":2,"needs_restart":["listen.http","server.workers"],
            "warning":"a\u001b[2J","superseded_by":9}"#;
        assert_eq!(
            warnings(&Reply::parse(line).unwrap()),
            [
                "warning: a\\u{1b}[2J",
                "warning: changed, but only a restart applies it: listen.http, server.workers",
                "warning: the change with generation 9 came before the old slot had drained",
                "warning: the old slot still has 2 in flight; do not stop it yet, see `mana-proxy status`",
            ]
        );
        assert!(warnings(&Reply::done()).is_empty());
    }
}
