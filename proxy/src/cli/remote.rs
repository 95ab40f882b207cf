//! Verbs of the daemon: one call over the control socket, its events on stderr, its reply on stdout.

use std::io;

use mana_control::client::{self, ClientError};
use mana_control::{Code, Reply, Request};
use serde_json::json;

use super::arguments::{Global, Remote};
use super::exit::Exit;
use super::terminal::{Terminal, printable};
use super::{print, progress, render, with_sources};

/// Makes the request, sends it, and tells how it went.
pub(super) fn call(remote: Remote, global: &Global, terminal: &mut Terminal<'_>) -> Exit {
    let request = match remote.into_request(global.site.clone()) {
        Ok(request) => request,
        Err(error) => {
            terminal.error(
                &error.to_string(),
                "see `mana-proxy help` and `mana-proxy help VERB`",
            );
            return Exit::Usage;
        }
    };
    carry(&request, global, terminal)
}

/// Sends a request, and tells how it went.
pub(super) fn carry(request: &Request, global: &Global, terminal: &mut Terminal<'_>) -> Exit {
    match send(request, global, terminal) {
        Ok(reply) => report(request, &reply, global.json, terminal),
        Err(error) => report_lost(&error, global.json, terminal),
    }
}

fn send(
    request: &Request,
    global: &Global,
    terminal: &mut Terminal<'_>,
) -> Result<Reply, ClientError> {
    let path = global.socket();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(source) => return Err(ClientError::NotReachable { path, source }),
    };
    runtime.block_on(client::call(&path, request, |event| {
        terminal.talk(&progress::line(event));
    }))
}

fn report(request: &Request, reply: &Reply, is_json: bool, terminal: &mut Terminal<'_>) -> Exit {
    let exit = if reply.ok() {
        Exit::Done
    } else {
        Exit::of_refusal(request.verb, reply.code())
    };
    if !reply.ok() {
        for line in render::said(reply) {
            terminal.talk(&line);
        }
        let hint = reply.hint().unwrap_or_else(|| hint_for(reply.code()));
        let error = refusal(reply, terminal);
        terminal.error(&error, &printable(hint));
    } else {
        for line in render::warnings(reply) {
            terminal.talk(&line);
        }
    }
    if is_json {
        return print(&reply.to_line(), exit, terminal);
    }
    if reply.ok() {
        return print(
            &render::reply(request.verb, reply, terminal.paint),
            exit,
            terminal,
        );
    }
    exit
}

/// Why the daemon would not. All faults of a configuration come in one reply, one a line: they are written first.
fn refusal(reply: &Reply, terminal: &mut Terminal<'_>) -> String {
    let lines: Vec<String> = reply
        .error()
        .unwrap_or_default()
        .lines()
        .map(printable)
        .collect();
    match lines.as_slice() {
        [] => "the daemon gave no reason".to_owned(),
        [reason] => reason.clone(),
        faults => {
            for fault in faults {
                terminal.talk(fault);
            }
            format!("there are {} faults", faults.len())
        }
    }
}

/// What to do when the daemon did not say.
fn hint_for(code: Option<Code>) -> &'static str {
    match code {
        Some(Code::Refused) => "nothing was changed; look at `mana-proxy status`",
        Some(Code::Busy) => {
            "nothing was changed; try again once the other is done, see `mana-proxy status`"
        }
        Some(Code::Conflict) => "nothing was changed; `mana-proxy status` shows the generation",
        Some(Code::Invalid) => "see `mana-proxy help VERB`",
        Some(Code::Failed) | None => {
            "look at `mana-proxy status` and at the daemon's log: journalctl -u mana-proxy"
        }
    }
}

fn report_lost(error: &ClientError, is_json: bool, terminal: &mut Terminal<'_>) -> Exit {
    let (exit, code, hint) = match error {
        ClientError::NotReachable { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            (
                Exit::Unreachable,
                "unreachable",
                "use sudo, or have this user in control.allow_uids and in the group of the socket",
            )
        }
        ClientError::NotReachable { .. } => (
            Exit::Unreachable,
            "unreachable",
            "start it with `mana-proxy run --config FILE`, or name its socket with --socket",
        ),
        ClientError::Lost { .. } => (
            Exit::Failed,
            "lost",
            "what was asked for may have been done; look at `mana-proxy status`",
        ),
        ClientError::Protocol { .. } => (
            Exit::Failed,
            "protocol",
            "is that the control socket, and the daemon of this version? see `mana-proxy --version`",
        ),
    };
    let text = printable(&with_sources(error));
    terminal.error(&text, hint);
    if !is_json {
        return exit;
    }
    let object = json!({ "ok": false, "code": code, "error": text, "hint": hint });
    print(&format!("{object}\n"), exit, terminal)
}
