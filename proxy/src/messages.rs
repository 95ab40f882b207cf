//! Messages of a deploy to people: what happened, where it is told, and that it is told once.
//!
//! Owns the outbox. [`put`] writes one file for each destination and is done, so that a destination that is down delays
//! no deploy; [`send`], in a process of its own, sends what lies there, again and again until it is taken. What has
//! happened is the deploy's word, and what the destinations are is the configuration's.
//!
//! Pure: `facts`, `text`, `discord`, `slack`, `webhook` (a message into a body), `verdict` (what an answer means),
//! `lanes` (what is sent next). The disk: `outbox`. The network: `client`. `sender` puts them together, and `sent` is what
//! it tells.
//!
//! A message is sent at least once: a sender that is killed between the answer and the removal of the file leaves it to
//! the next one. Messages of one destination keep their order.

mod client;
mod destination;
mod discord;
mod facts;
mod lanes;
mod outbox;
mod sender;
mod sent;
mod slack;
mod text;
mod verdict;
mod webhook;

#[cfg(test)]
mod destination_tests;
#[cfg(test)]
mod place;
#[cfg(test)]
mod receiver;
#[cfg(test)]
mod render_tests;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod send_tests;
#[cfg(test)]
mod tls_tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mana_control::Slot;
use serde::{Deserialize, Serialize};

pub use client::EndpointError;
pub use destination::{Destination, DestinationError, Secret, SecretFault, Source, UrlFault};
pub use outbox::{MESSAGE_AGE_MAX, OUTBOX_FILES_MAX, Waiting, waiting};
pub use sender::send;
pub use sent::{About, Sent, Trouble};
pub use verdict::Patience;

use outbox::{Letter, Outbox};

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// `started`: the lock is held and the steps begin.
    Started,
    /// `succeeded`: the new image serves.
    Succeeded,
    /// `failed`: everything is as before.
    Failed,
    /// `rolled_back`: the slot before serves again.
    RolledBack,
}

/// Where a message goes, and so what it looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `discord`: a webhook of a Discord channel.
    Discord,
    /// `slack`: an incoming webhook of Slack.
    Slack,
    /// `webhook`: JSON, signed as <https://www.standardwebhooks.com> has it.
    Webhook,
}

/// One event of one deploy. Texts may hold anything: they are cut and made harmless for each kind of destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What has happened.
    pub event: Event,
    /// The number of the deploy.
    pub deploy: u64,
    /// The canonical host.
    pub site: String,
    /// The name of this machine.
    pub server: String,
    /// `registry.example/app:41`
    pub image: String,
    /// The slot that was active.
    pub from: Option<Slot>,
    /// The slot with the new image.
    pub to: Option<Slot>,
    /// A URL or a name.
    pub repository: Option<String>,
    /// The hash.
    pub commit: Option<String>,
    /// The branch.
    pub branch: Option<String>,
    /// Who wrote the commit.
    pub author: Option<String>,
    /// The operator's own words.
    pub note: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Who deploys.
    pub who: String,
    /// When, as RFC 3339 has it: `2026-11-22T09:13:21Z`.
    pub time: String,
    /// From the start of the deploy to this event.
    pub took: Option<Duration>,
    /// The last lines of the container's log, the last one last.
    pub last_log: Vec<String>,
}

/// Why messages cannot be kept or sent. Never says a URL or a secret.
#[derive(Debug, thiserror::Error)]
pub enum MessagesError {
    /// The directory cannot be made, locked or read.
    #[error("cannot use the outbox {}; check its owner and its mode", path.display())]
    Outbox {
        /// The directory, or its lock.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A message cannot be kept: it is not sent either, because it could be sent without end.
    #[error("cannot keep a message in {}; check the disk", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A destination cannot be used.
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

/// What keeps destinations from being used, before anything is sent: files that cannot be read, URLs and secrets that
/// are none, no roots. Asks nobody; blocks on the disk.
pub fn check(destinations: &[Destination]) -> Vec<EndpointError> {
    let opened = destinations.iter().map(client::Endpoint::open);
    opened.filter_map(Result::err).collect()
}

/// Puts a message into the outbox for each destination that wants its event, and says for how many. Nothing is sent yet.
///
/// Each is a file that is there whole or not at all, also after a power cut, with mode 0660: it belongs to the group of all
/// who deploy, if the directory around the outbox hands its group on. The outbox is made if it is not there. It has at most [`OUTBOX_FILES_MAX`] messages: the oldest make room. Blocks on the disk, never on a
/// sender or the network.
///
/// # Errors
/// The first that came up, after every destination was tried: see [`MessagesError`].
pub fn put(
    outbox: &Path,
    destinations: &[Destination],
    message: &Message,
) -> Result<usize, MessagesError> {
    let wanting: Vec<&Destination> = destinations
        .iter()
        .filter(|destination| destination.on.contains(&message.event))
        .collect();
    if wanting.is_empty() {
        return Ok(0);
    }
    let outbox = Outbox::open(outbox)?;
    let now_ms = unix_ms();
    let mut kept = 0;
    let mut failure = None;
    for destination in wanting {
        match put_one(&outbox, destination, message, now_ms) {
            Ok(()) => kept += 1,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let dropped = outbox.trim(OUTBOX_FILES_MAX)?;
    if dropped > 0 {
        tracing::warn!(
            dropped,
            "the outbox is full: the oldest messages are dropped"
        );
    }
    failure.map_or(Ok(kept), Err)
}

fn put_one(
    outbox: &Outbox,
    destination: &Destination,
    message: &Message,
    now_ms: u64,
) -> Result<(), MessagesError> {
    let address = destination.address()?;
    let letter = Letter {
        id: outbox::random_id(),
        kind: destination.kind,
        to: address.fingerprint(destination.kind),
        host: address.host().to_owned(),
        event: message.event,
        deploy: message.deploy,
        put_ms: now_ms,
        attempts: 0,
        not_before_ms: 0,
        failure: None,
        body: render(destination.kind, message).to_string(),
    };
    outbox.add(&letter)
}

/// The body of a request, as the destination's documentation has it.
fn render(kind: Kind, message: &Message) -> serde_json::Value {
    match kind {
        Kind::Discord => discord::render(message),
        Kind::Slack => slack::render(message),
        Kind::Webhook => webhook::render(message),
    }
}

/// Milliseconds of the wall clock, which what is waited for over processes has to be measured by.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

// === impl Event ===

impl Event {
    /// All of them, in the order in which they can happen.
    pub const ALL: [Event; 4] = [
        Event::Started,
        Event::Succeeded,
        Event::Failed,
        Event::RolledBack,
    ];

    /// As the configuration has it: `rolled_back`.
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Started => "started",
            Event::Succeeded => "succeeded",
            Event::Failed => "failed",
            Event::RolledBack => "rolled_back",
        }
    }

    /// For people: `rolled back`.
    fn words(self) -> &'static str {
        match self {
            Event::Started => "started",
            Event::Succeeded => "succeeded",
            Event::Failed => "failed",
            Event::RolledBack => "rolled back",
        }
    }

    /// As red, green and blue: green for what went well, red for what did not.
    fn colour(self) -> u32 {
        match self {
            Event::Started => 0x34_98_DB,
            Event::Succeeded => 0x00_FF_00,
            Event::Failed => 0xFF_00_00,
            Event::RolledBack => 0xFF_A5_00,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Discord, Kind::Slack, Kind::Webhook];

    /// `discord`, `slack` or `webhook`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Discord => "discord",
            Kind::Slack => "slack",
            Kind::Webhook => "webhook",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
