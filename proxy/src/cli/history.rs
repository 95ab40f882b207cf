//! `mana-proxy history` as text: one line for each change, oldest first. Pure.

use serde_json::{Map, Value};

use super::render::{Cell, aligned, number, plain, slot_color, text};
use super::terminal::{Color, Paint};

type Fields = Map<String, Value>;

/// All entries of a history reply.
pub(super) fn render(fields: &Fields, paint: Paint) -> String {
    let entries = fields.get("entries").and_then(Value::as_array);
    let entries = entries.into_iter().flatten().filter_map(Value::as_object);
    let rows: Vec<Vec<Cell>> = entries.map(row).collect();
    let mut lines = aligned(&rows, "", paint);
    if rows.is_empty() {
        lines.push("no changes yet".to_owned());
    }
    if let Some(skipped) = number(fields, "skipped").filter(|skipped| *skipped > 0) {
        lines.push(format!(
            "({skipped} damaged lines of the journal were left out)"
        ));
    }
    lines.join("\n") + "\n"
}

/// Time, generation, site, verb, slots, outcome, caller, and why.
fn row(entry: &Fields) -> Vec<Cell> {
    let or_dash = |name| text(entry, name).unwrap_or_else(|| "-".to_owned());
    let generation = number(entry, "generation").map_or_else(|| "-".to_owned(), |g| g.to_string());
    let mut row = vec![
        Cell::new(or_dash("time")),
        Cell::new(generation),
        Cell::new(or_dash("site")),
        Cell::new(verb(entry)),
        slots(entry),
        outcome(entry),
        Cell::new(caller(entry)),
    ];
    let reasons = ["note", "error"]
        .iter()
        .filter_map(|name| text(entry, name));
    let reasons: Vec<String> = reasons.collect();
    row.push(Cell::new(reasons.join("; ")));
    row
}

/// `drain`, or `drain --undo`.
fn verb(entry: &Fields) -> String {
    let verb = text(entry, "verb").unwrap_or_else(|| "-".to_owned());
    match entry.get("undo") {
        Some(Value::Bool(true)) => format!("{verb} --undo"),
        _ => verb,
    }
}

/// `blue -> green`, in the colour of the slot that it went to.
fn slots(entry: &Fields) -> Cell {
    match (text(entry, "from"), text(entry, "to")) {
        (Some(from), Some(to)) => {
            let arrow = format!("{from} -> {to}");
            match to.parse() {
                Ok(slot) => Cell::in_color(arrow, slot_color(slot)),
                Err(_) => Cell::new(arrow),
            }
        }
        (Some(slot), None) | (None, Some(slot)) => Cell::new(slot),
        (None, None) => Cell::new(text(entry, "slot").unwrap_or_else(|| "-".to_owned())),
    }
}

fn outcome(entry: &Fields) -> Cell {
    let outcome = entry.get("outcome").map_or_else(|| "-".to_owned(), plain);
    match outcome.as_str() {
        "refused" | "failed" => Cell::in_color(outcome, Color::Red),
        _ => Cell::new(outcome),
    }
}

/// `deploy.sh (uid 1000)`
fn caller(entry: &Fields) -> String {
    let command = text(entry, "command").unwrap_or_else(|| "-".to_owned());
    match number(entry, "uid") {
        Some(uid) => format!("{command} (uid {uid})"),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rendered(history: &str, paint: Paint) -> String {
        render(
            serde_json::from_str::<Value>(history)
                .unwrap()
                .as_object()
                .unwrap(),
            paint,
        )
    }

    const HISTORY: &str = r#"{"ok":true,"skipped":1,"entries":[
        {"time":"2026-11-22T09:13:21.004Z","generation":7,"site":"mana.so","verb":"switch","from":"blue","to":"green",
         "uid":0,"gid":0,"pid":4242,"command":"mana-proxy","note":"release 41","outcome":"drained","in_flight":0},
        {"time":"2026-11-22T09:14:00.000Z","site":"mana.so","verb":"drain","slot":"green","uid":1000,
         "command":"sh","outcome":"refused","error":"green is active"},
        {"verb":"drain","undo":true}]}"#;

    #[test]
    fn each_change_is_one_line() {
        let expected = "\
2026-11-22T09:13:21.004Z  7  mana.so  switch        blue -> green  drained  mana-proxy (uid 0)  release 41
2026-11-22T09:14:00.000Z  -  mana.so  drain         green          refused  sh (uid 1000)       green is active
-                         -  -        drain --undo  -              -        -
(1 damaged lines of the journal were left out)
";
        assert_eq!(rendered(HISTORY, Paint::Plain), expected);
        assert!(rendered(HISTORY, Paint::Coloured).contains("\x1b[31mrefused\x1b[0m"));
    }

    #[test]
    fn an_empty_journal_is_said_to_be_so() {
        assert_eq!(rendered("{}", Paint::Plain), "no changes yet\n");
    }
}
