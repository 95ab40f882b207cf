//! Sends the messages that wait: here, or in a process of its own that outlives this one.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// Sends what waits, and says what did not work: also in the journal, for nobody may be there to read it.
pub(super) async fn send(deploy: &Deploy, socket: &Path, terminal: &mut Terminal<'_>) -> Exit {
    if !outbox(deploy).exists() {
        return Exit::Done;
    }
    match messages::send(&outbox(deploy), &deploy.messages, Patience::default()).await {
        Ok(sent) => {
            for trouble in &sent.troubles {
                terminal.talk(&format!("warning: {trouble}"));
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

/// Has what waits sent by a process that nobody waits for: a destination that is down delays nothing.
pub(super) fn detach(config: &Path, deploy: &Deploy, terminal: &mut Terminal<'_>) {
    let waiting = messages::waiting(&outbox(deploy)).unwrap_or_default();
    if deploy.messages.is_empty() || waiting.is_empty() {
        return;
    }
    let begun = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["deploy", "send-messages", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends this terminal's processes is not meant for it.
            .process_group(0)
            .spawn()
    });
    if let Err(error) = begun {
        terminal.talk(&format!(
            "warning: messages wait for the next deploy or `deploy reconcile`: {error}"
        ));
    }
}
