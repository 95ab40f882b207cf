//! Signals, and what each of them asks for.

use mana_control::caller::Caller;
use mana_control::{DriverHandle, Request, Verb};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::run::RunError;
use crate::worker::Shared;

/// The signals that the daemon listens to.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    reopen: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// A handler cannot be set.
    pub fn listen() -> Result<Signals, RunError> {
        let on = |kind| {
            signal(kind).map_err(|source| RunError::Start {
                what: "a signal handler",
                source,
            })
        };
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            reopen: on(SignalKind::user_defined1())?,
        })
    }

    /// Does what signals ask for, until one asks for the end.
    pub async fn until_stop(&mut self, control: &DriverHandle, shared: &Shared) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Beside this loop, so that a reload that takes its time does not delay a stop.
                _ = self.hangup.recv() => {
                    tokio::spawn(reload(control.clone()));
                }
                _ = self.reopen.recv() => shared.access.reopen(),
            }
        }
    }
}

async fn reload(handle: DriverHandle) {
    let caller = Caller::this_process("SIGHUP");
    let reply = handle.call(Request::new(Verb::Reload), caller, None).await;
    match reply.error() {
        None => tracing::info!(reply = %reply.to_line(), "reloaded"),
        Some(error) => tracing::error!(error, "not reloaded; the configuration before goes on"),
    }
}
