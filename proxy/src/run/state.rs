//! From the state directory to a running control side: at once, or in the two steps of a handover.

use std::time::Duration;

use mana_control::SiteSettings;
use mana_control::server::ControlSocket;
use mana_control::start::{self, Opened, Running, ServeOptions, StartError};
use mana_control::state::StateError;
use tokio::time::Instant;

use super::{RunError, site_settings};
use crate::config::Config;
use crate::error_text::with_sources;
use crate::tls::Keyring;
use crate::upgrade::arrival::{Arrival, Begin};
use crate::upgrade::before::Courier;
use crate::upgrade::linger::Deadlines;
use crate::upgrade::message::Left;

/// Opens the state: of a directory that is free, or of one whose lock is handed over, once it is.
pub(super) async fn open(
    config: &Config,
    keyring: &Keyring,
    arrival: &mut Option<Arrival>,
) -> Result<Opened, RunError> {
    let sites = site_settings(&config.sites);
    let Some(arrival) = arrival else {
        return Ok(start::open(&config.state_dir, &sites)?);
    };
    let handed = arrival.prepared().await?;
    keyring.tickets().adopt(handed.tickets)?;
    let opened = match handed.lock {
        Some(lock) => start::take_over(&config.state_dir, lock, &sites)?,
        None => open_alone(config, &sites).await?,
    };
    Ok(opened)
}

/// The process before is dead, but the system may not be through with it: its lock goes a moment after its sockets.
async fn open_alone(config: &Config, sites: &[SiteSettings]) -> Result<Opened, RunError> {
    let deadline = Instant::now() + LOCK_TIME;
    loop {
        match start::open(&config.state_dir, sites) {
            Err(StartError::State(StateError::Locked { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_LOOK).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// For the lock of a process that has died.
const LOCK_TIME: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Becomes the writer: at once, or when the process before says so.
pub(super) async fn begin(
    mut opened: Opened,
    control: ControlSocket,
    options: ServeOptions,
    arrival: &mut Option<Arrival>,
    courier: Courier,
    deadlines: Deadlines,
) -> Result<Running, RunError> {
    let begin = match arrival {
        Some(arrival) => arrival.ready().await?,
        None => Begin::Alone,
    };
    // Nobody is to be told of a failure from here on: the process before is a predecessor, or there is none.
    let arrival = arrival.take();
    if let (Begin::Committed(entry), Some(arrival)) = (begin, arrival) {
        if let Err(error) = opened.record(&entry) {
            tracing::error!(
                error = with_sources(&error),
                "the upgrade is not in the journal"
            );
        }
        arrival.serving().await;
        let left = Left {
            at_most_ms: u64::try_from(deadlines.upgrade.as_millis()).unwrap_or(u64::MAX),
            ..Left::default()
        };
        let (pid, version) = (arrival.pid, arrival.version.clone());
        let channel = arrival.into_channel();
        courier.meet(pid, version, left, channel).await;
    }
    Ok(opened.serve_on(control, options))
}
