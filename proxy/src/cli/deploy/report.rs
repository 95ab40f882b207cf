//! How a deploy ended, as text, as JSON and as an exit code.

use mana_control::deploy::course::{Failure, Finished};
use mana_control::deploy::ledger::{Kind, Outcome};
use serde_json::{Map, Value, json};

use super::one_line;
use super::status::until;
use super::teller::readable;
use crate::cli::exit::Exit;
use crate::cli::print;
use crate::cli::terminal::Terminal;

/// Says how it ended.
pub(super) fn finished(
    finished: &Finished,
    site: &str,
    is_json: bool,
    terminal: &mut Terminal<'_>,
) -> Exit {
    for warning in &finished.warnings {
        terminal.talk(&format!("warning: {}", one_line(warning)));
    }
    let exit = exit(finished);
    if let Some(failure) = &finished.failure {
        said(failure, terminal);
        let error = format!("{} failed: {}", failure.step, one_line(&failure.error));
        terminal.error(&error, &one_line(hint(finished, failure)));
    }
    if is_json {
        return print(&format!("{}\n", object(finished, site)), exit, terminal);
    }
    match (&finished.failure, sentence(finished, site)) {
        (None, Some(sentence)) => print(&sentence, exit, terminal),
        _ => exit,
    }
}

/// What to do next. What is left to be put back comes before advice on the release.
fn hint<'f>(finished: &Finished, failure: &'f Failure) -> &'f str {
    if !finished.is_undone {
        return "`mana-proxy deploy reconcile` puts back what is left, and so does its timer; see `mana-proxy deploy status`";
    }
    failure.hint.as_deref().unwrap_or(match finished.outcome {
        Outcome::Refused => "nothing was changed",
        Outcome::RolledBack => {
            "the release before is active again; `mana-proxy deploy history` tells of both"
        }
        Outcome::CutOff => "everything is as before; order it again",
        Outcome::Superseded => "look at `mana-proxy deploy status`",
        Outcome::Failed | Outcome::Deployed => {
            "everything is as before; mend the release and deploy it again"
        }
    })
}

/// Says why it would not have begun.
pub(super) fn refused(failure: &Failure, is_json: bool, terminal: &mut Terminal<'_>) -> Exit {
    said(failure, terminal);
    let exit = if failure.is_unreachable {
        Exit::Unreachable
    } else {
        Exit::Refused
    };
    let hint = failure.hint.as_deref().unwrap_or("nothing was changed");
    error(&failure.error, hint, exit, is_json, terminal)
}

/// Says what went wrong, in the form of a result if that is wanted.
pub(super) fn error(
    text: &str,
    hint: &str,
    exit: Exit,
    is_json: bool,
    terminal: &mut Terminal<'_>,
) -> Exit {
    terminal.error(&one_line(text), &one_line(hint));
    if !is_json {
        return exit;
    }
    let object = json!({"ok": false, "outcome": "refused", "error": text, "hint": hint});
    print(&format!("{object}\n"), exit, terminal)
}

/// What the container has said last.
fn said(failure: &Failure, terminal: &mut Terminal<'_>) {
    if failure.last_log.is_empty() {
        return;
    }
    terminal.talk("the container's last lines:");
    for line in &failure.last_log {
        terminal.talk(&format!("  | {}", one_line(line)));
    }
}

fn exit(finished: &Finished) -> Exit {
    let is_unreachable = finished
        .failure
        .as_ref()
        .is_some_and(|failure| failure.is_unreachable);
    match finished.outcome {
        Outcome::Deployed => Exit::Done,
        Outcome::Refused if is_unreachable => Exit::Unreachable,
        Outcome::Refused => Exit::Refused,
        Outcome::Failed | Outcome::RolledBack | Outcome::CutOff | Outcome::Superseded => {
            Exit::Failed
        }
    }
}

/// `mana.so: green runs app:41 (deploy 17, generation 8) since 1.2 s after it began; blue is the backup until ...`
fn sentence(finished: &Finished, site: &str) -> Option<String> {
    let entry = finished.entry.as_ref()?;
    let number = entry.deploy;
    let generation = entry
        .generation
        .map(|generation| format!(", generation {generation}"))
        .unwrap_or_default();
    let back = if entry.kind == Kind::Rollback {
        " again"
    } else {
        ""
    };
    let mut text = format!(
        "{site}: {} runs {}{back} (deploy {number}{generation})",
        entry.to, entry.image
    );
    if let Some(published) = finished.published {
        text.push_str(&format!(", {} after the order", readable(published)));
    }
    if let Some(warm) = &finished.warm {
        text.push_str(&format!("; {} is the backup{}", warm.slot, until(warm)));
    }
    text.push('\n');
    Some(text)
}

/// The result as JSON: the entry of the ledger, and how it ended.
fn object(finished: &Finished, site: &str) -> Value {
    let mut object = match finished
        .entry
        .as_ref()
        .and_then(|entry| serde_json::to_value(entry).ok())
    {
        Some(Value::Object(entry)) => entry,
        _ => Map::new(),
    };
    object.retain(|_, value| !value.is_null());
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            object.insert(name.to_owned(), value);
        }
    };
    put("ok", json!(finished.outcome == Outcome::Deployed));
    put("outcome", json!(finished.outcome.as_str()));
    put("site", json!(site));
    put(
        "published_ms",
        json!(finished.published.map(|published| published.as_millis())),
    );
    put("warm", json!(finished.warm));
    put(
        "undone",
        json!(finished.failure.as_ref().map(|_| finished.is_undone)),
    );
    put("warnings", json!(finished.warnings));
    if let Some(failure) = &finished.failure {
        put("step", json!(failure.step.as_str()));
        put("error", json!(failure.error));
        put("hint", json!(hint(finished, failure)));
        put("last_log", json!(failure.last_log));
    }
    Value::Object(object)
}
