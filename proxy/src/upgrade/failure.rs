//! What is said of an upgrade of which nothing came.
//!
//! Owns the sentence, the hint and the shape of the reply. Pure; `outgoing.rs` ends the successor and logs.

use std::path::Path;
use std::process::ExitStatus;

use mana_control::{Code, Reply};
use serde_json::json;

use super::handing::Reason;

/// Why there is no successor.
#[derive(Debug)]
pub enum GaveUp {
    /// Somebody here is changing something.
    Refused(Reply),
    /// The first message could not be sent.
    Unsent(String),
    /// What the successor did, and what it said of it.
    Because(Reason, Option<Complaint>),
}

/// What a successor says of why it ends. Fit for one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    error: String,
    hint: Option<String>,
}

// === impl GaveUp ===

impl GaveUp {
    /// The reply to the caller. `words` are the last lines of the successor, and `status` is how it ended, if by itself.
    pub fn into_reply(
        self,
        program: &Path,
        status: Option<ExitStatus>,
        words: Vec<String>,
    ) -> Reply {
        let program = program.display();
        let (error, hint) = match self {
            GaveUp::Refused(reply) => return reply,
            GaveUp::Unsent(error) => (format!("cannot hand over: {error}"), None),
            GaveUp::Because(reason, Some(Complaint { error, hint })) => {
                (format!("{program} {}: {error}", reason.as_text()), hint)
            }
            GaveUp::Because(
                reason @ (Reason::GoneBeforePrepared | Reason::GoneBeforeReady),
                None,
            ) => {
                let status = status.map_or_else(String::new, |status| format!(" ({status})"));
                let said =
                    telling(&words).map_or_else(String::new, |it| format!("; it said: {it}"));
                (
                    format!("{program} {}{status}{said}", reason.as_text()),
                    None,
                )
            }
            GaveUp::Because(reason, None) => (format!("{program} {}", reason.as_text()), None),
        };
        not_upgraded(&error, hint.as_deref(), words)
    }
}

/// The line that says most: the last one, but for the advice behind it.
fn telling(words: &[String]) -> Option<&String> {
    let mut lines = words.iter().rev();
    lines
        .find(|line| !line.starts_with("hint: "))
        .or(words.last())
}

// === impl Complaint ===

impl Complaint {
    /// What came over the channel. It may be from any program.
    pub fn new(error: &str, hint: Option<&str>) -> Complaint {
        Complaint {
            error: one_line(error),
            hint: hint.map(one_line),
        }
    }
}

fn one_line(text: &str) -> String {
    let kept = text.chars().filter(|c| !c.is_control());
    kept.take(COMPLAINT_CHARS_MAX).collect()
}

/// The reply of a failed upgrade. `hint` is what the operator can do, where that is known.
pub fn not_upgraded(error: &str, hint: Option<&str>, words: Vec<String>) -> Reply {
    let known = hint.map_or_else(String::new, |hint| format!("{hint}; "));
    Reply::refusal(Code::Failed, error)
        .with("said", json!(words))
        .with_hint(format!("{known}{UNCHANGED}"))
}

const UNCHANGED: &str =
    "nothing was changed, the running process goes on; its log has what the new one said";
/// The longest reason, and the longest hint, that a successor may give.
const COMPLAINT_CHARS_MAX: usize = 2000;

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn lines(words: &[&str]) -> Vec<String> {
        words.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn a_reply_says_what_failed_and_what_to_do() {
        let complaint = |hint| Some(Complaint::new("cannot listen\non 80", hint));
        for (gave_up, status, words, error, hint) in [
            (
                GaveUp::Because(Reason::GoneBeforePrepared, None),
                Some(78 << 8),
                lines(&["a.toml:1: x", "error: there is a fault", "hint: mend it"]),
                "/new ended before it was prepared (exit status: 78); it said: error: there is a fault",
                "nothing was changed",
            ),
            (
                GaveUp::Because(Reason::GoneBeforeReady, None),
                Some(9),
                Vec::new(),
                "/new ended while it took over (signal: 9 (SIGKILL))",
                "nothing was changed",
            ),
            (
                GaveUp::Because(Reason::GoneBeforeReady, None),
                None,
                lines(&["hint: alone"]),
                "/new ended while it took over; it said: hint: alone",
                "nothing was changed",
            ),
            // One that hangs and was ended for it: how it ended says nothing.
            (
                GaveUp::Because(Reason::NotReadyInTime, None),
                Some(9),
                lines(&["starting"]),
                "/new did not take over in time",
                "nothing was changed",
            ),
            (
                GaveUp::Because(Reason::Failed, complaint(Some("stop the\x1bother"))),
                Some(1 << 8),
                Vec::new(),
                "/new cannot take over: cannot listenon 80",
                "stop theother; nothing was changed",
            ),
            (
                GaveUp::Because(Reason::Failed, complaint(None)),
                None,
                Vec::new(),
                "/new cannot take over: cannot listenon 80",
                "nothing was changed",
            ),
            (
                GaveUp::Unsent("too many".to_owned()),
                None,
                Vec::new(),
                "cannot hand over: too many",
                "nothing was changed",
            ),
        ] {
            let status = status.map(ExitStatus::from_raw);
            let reply = gave_up.into_reply(Path::new("/new"), status, words.clone());
            assert_eq!(reply.error(), Some(error));
            assert!(reply.hint().expect("one").starts_with(hint), "{reply:?}");
            assert_eq!(reply.field("said"), Some(&json!(words)));
        }
    }

    #[test]
    fn a_complaint_is_no_longer_than_it_may_be() {
        let long = "x".repeat(COMPLAINT_CHARS_MAX + 1);
        let complaint = Complaint::new(&long, Some(&long));
        assert_eq!(complaint.error.len(), COMPLAINT_CHARS_MAX);
        assert_eq!(
            complaint.hint.map(|hint| hint.len()),
            Some(COMPLAINT_CHARS_MAX)
        );
    }
}
