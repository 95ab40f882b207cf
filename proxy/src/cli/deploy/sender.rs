//! Sends the messages that wait: here, or in a process of its own that outlives this one.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mana_control::deploy::run::TOKEN_VARIABLE;
use mana_control::wire::NOTE_BYTES_MAX;
use mana_control::{Request, Verb, client};

use crate::cli::exit::Exit;
use crate::cli::terminal::{Terminal, printable};
use crate::config::Deploy;
use crate::error_text::with_sources;
use crate::messages::{self, Patience};

/// Where messages wait.
pub(super) fn outbox(deploy: &Deploy) -> PathBuf {
    deploy.settings.dir.join("outbox")
}

/// Sends what waits, and says what did not work. What will never be sent goes into the journal, for nobody may be there to
/// read it; what still waits is tried again each minute, and would fill it.
pub(super) async fn send(
    deploy: &Deploy,
    socket: &Path,
    patience: Patience,
    terminal: &mut Terminal<'_>,
) -> Exit {
    if !outbox(deploy).exists() {
        return Exit::Done;
    }
    match messages::send(&outbox(deploy), &deploy.messages, patience).await {
        Ok(sent) => {
            for trouble in &sent.troubles {
                terminal.talk(&format!("warning: {trouble}"));
                if !trouble.is_final() {
                    continue;
                }
                let note = Request {
                    note: Some(note(&trouble.to_string())),
                    ..Request::new(Verb::Note)
                };
                // A daemon that is away has its own troubles; this one has been said.
                let asked = client::call(socket, &note, |_| {});
                tokio::time::timeout(NOTE_DEADLINE, asked).await.ok();
            }
            Exit::Done
        }
        Err(error) => {
            terminal.error(
                &with_sources(&error),
                "the messages wait; deploys go on without them",
            );
            Exit::Failed
        }
    }
}

/// A note as the daemon takes it.
fn note(trouble: &str) -> String {
    let mut note = format!("message of a deploy: {}", printable(trouble));
    note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
    note
}

/// How long the daemon may take for a line of the journal.
const NOTE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a reconciliation sends: the next one comes in a minute, and does not begin beside it.
pub(super) const RECONCILE: Patience = Patience {
    total: Duration::from_secs(20),
    ..Patience::DEFAULT
};

/// What a deploy needs to have messages sent.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    /// What is configured.
    pub(super) deploy: &'a Deploy,
    /// Where, for the process that sends.
    pub(super) file: &'a Path,
}

impl Outgoing<'_> {
    /// Where messages wait.
    pub(super) fn outbox(&self) -> PathBuf {
        outbox(self.deploy)
    }

    /// Has what waits sent by a process that nobody waits for: a destination that is down delays nothing. Two of them are
    /// no harm: one sends.
    ///
    /// # Errors
    /// It did not begin; in words.
    pub(super) fn detach(&self) -> Result<(), String> {
        let waiting = messages::waiting(&self.outbox()).unwrap_or_default();
        if self.deploy.messages.is_empty() || waiting.is_empty() {
            return Ok(());
        }
        let begun = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .args(["deploy", "send-messages", "--config"])
                .arg(self.file)
                .env_remove(TOKEN_VARIABLE)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // What ends this terminal's processes is not meant for it.
                .process_group(0)
                .spawn()
        });
        begun.map(drop).map_err(|error| {
            format!("messages wait for the next deploy or `deploy reconcile`: {error}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconciliation_has_sent_before_the_next_one_is_due() {
        // The last request may begin as the time is over.
        assert!(RECONCILE.total + RECONCILE.request < Duration::from_secs(60));
    }
}
