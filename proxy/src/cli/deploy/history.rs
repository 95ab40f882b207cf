//! `deploy history` as text: one line for each deploy, oldest first. Pure.

use mana_control::deploy::ledger::{Entry, Kind, Ledger, Outcome};
use serde_json::json;

use super::one_line;
use super::teller::readable;
use crate::cli::render::{Cell, aligned};
use crate::cli::terminal::Paint;

/// The last deploys.
pub(super) fn render(ledger: &Ledger, last: usize, is_json: bool) -> String {
    let first = ledger.deploys.len().saturating_sub(last);
    let shown = &ledger.deploys[first..];
    if is_json {
        return format!("{}\n", json!({"ok": true, "deploys": shown}));
    }
    if shown.is_empty() {
        return "no deploys yet\n".to_owned();
    }
    let rows: Vec<Vec<Cell>> = shown.iter().map(row).collect();
    aligned(&rows, "", Paint::Plain).join("\n") + "\n"
}

/// Number, time, who, what, slots, how it ended, what it answered, how long it took, and why.
fn row(entry: &Entry) -> Vec<Cell> {
    let kind = if entry.kind == Kind::Rollback {
        "rollback"
    } else {
        "deploy"
    };
    let outcome = entry.outcome.map_or("under way", Outcome::as_str);
    let outcome = match &entry.step {
        Some(step) => format!("{outcome} at {step}"),
        None => outcome.to_owned(),
    };
    let answers = match (entry.requests, entry.server_errors) {
        (Some(requests), Some(errors)) => format!("{requests} requests, {errors} errors"),
        _ => "-".to_owned(),
    };
    let took = entry
        .took_ms
        .map(|ms| readable(std::time::Duration::from_millis(ms)));
    let commit = entry
        .about
        .commit
        .as_ref()
        .map(|commit| commit.chars().take(12).collect::<String>());
    let why = [&entry.about.note, &entry.error]
        .into_iter()
        .flatten()
        .map(|text| one_line(text));
    let or_dash =
        |text: Option<String>| text.map_or_else(|| "-".to_owned(), |text| one_line(&text));
    let cells = [
        entry.deploy.to_string(),
        entry.time.clone(),
        one_line(&entry.who),
        kind.to_owned(),
        entry.image.to_string(),
        or_dash(commit),
        format!("{} -> {}", entry.from, entry.to),
        outcome,
        or_dash(entry.gate.clone()),
        answers,
        or_dash(took),
        why.collect::<Vec<_>>().join("; "),
    ];
    cells.map(Cell::new).into()
}
