//! Who gives the order, and whether they still want it.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mana_control::deploy::course::Cancel;
use nix::unistd::{Uid, User};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cli::exit::Exit;

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
///
/// Signals are waited for in a thread of their own: whatever the deploy hangs in, the second one ends it.
pub(super) fn cancelled() -> io::Result<Cancel> {
    let (sender, cancel) = watch::channel(false);
    let (begun, has_begun) = mpsc::channel();
    let listen = move || {
        let (runtime, mut signals) = match listeners() {
            Ok(listeners) => listeners,
            Err(error) => {
                begun.send(Err(error)).ok();
                return;
            }
        };
        begun.send(Ok(())).ok();
        let [interrupt, terminate, hangup] = &mut signals;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => {}
                    Some(()) = terminate.recv() => {}
                    Some(()) = hangup.recv() => {}
                    else => return,
                }
                if sender.send_replace(true) {
                    leave();
                }
            }
        });
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(listen)?;
    // A thread that ends without a word has panicked.
    let lost = |_| Err(io::ErrorKind::BrokenPipe.into());
    has_begun.recv().unwrap_or_else(lost)?;
    Ok(cancel)
}

fn listeners() -> io::Result<(Runtime, [Signal; 3])> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let signals = {
        let _entered = runtime.enter();
        [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]
    };
    Ok((runtime, signals))
}

/// Ends the process as it is, and says so if anybody reads it.
fn leave() -> ! {
    let (said, is_said) = mpsc::channel();
    let say = thread::Builder::new().spawn(move || {
        // Past the lock of stderr, which whoever waits for a reader has.
        let line = "left as it is; the next deploy or `mana-proxy deploy reconcile` tidies up\n";
        rustix::io::write(rustix::stdio::stderr(), line.as_bytes()).ok();
        said.send(()).ok();
    });
    if say.is_ok() {
        is_said.recv_timeout(LAST_WORDS).ok();
    }
    std::process::exit(Exit::Interrupted.code().into())
}

/// How long the last line may take: a terminal that is stopped takes none.
const LAST_WORDS: Duration = Duration::from_millis(500);
