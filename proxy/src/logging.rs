//! The daemon's own log: one line an event, on stderr.
//!
//! `MANA_PROXY_LOG` sets the level (`error`, `warn`, `info`, `debug`, or per module as `tracing-subscriber` has it),
//! default `info`; `MANA_PROXY_LOG_FORMAT=json` writes JSON lines. Colours only on a terminal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts the log. Called once; a second call changes nothing.
pub fn start() {
    let wanted = std::env::var("MANA_PROXY_LOG").ok();
    let parsed = wanted.as_deref().map(EnvFilter::try_new);
    let (filter, fault) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(fault)) => (EnvFilter::new(DEFAULT_FILTER), Some(fault)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    let is_json = std::env::var("MANA_PROXY_LOG_FORMAT").is_ok_and(|format| format == "json");
    let started = if is_json {
        builder.json().finish().try_init()
    } else {
        builder.finish().try_init()
    };
    // Only fails when there is a log already.
    started.ok();
    if let Some(error) = fault {
        tracing::warn!(%error, "MANA_PROXY_LOG is not understood; the level is info");
    }
}

/// The session library says little of use to an operator below `error`.
const DEFAULT_FILTER: &str = "info,pingora_core=error,h2=error";
