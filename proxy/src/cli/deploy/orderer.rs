//! Who gives the order, and whether they still want it.

use std::io;

use mana_control::deploy::course::Cancel;
use nix::unistd::{Uid, User};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The name of this process' user; behind sudo who has called it.
pub(super) fn name() -> String {
    let uid = Uid::current();
    let name = match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    };
    match std::env::var("SUDO_USER") {
        Ok(caller) if uid.is_root() && !caller.is_empty() => format!("{caller} (sudo)"),
        _ => name,
    }
}

/// True from the first signal on that asks to end: Ctrl-C, TERM, or a terminal that is gone. A second one ends the
/// process at once; what it leaves the next deploy or reconciliation finds.
pub(super) fn cancelled() -> io::Result<Cancel> {
    let (sender, cancel) = watch::channel(false);
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send_replace(true) {
                    std::process::exit(1);
                }
            }
        });
    }
    Ok(cancel)
}
