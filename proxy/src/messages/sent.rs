//! What came of sending: counts, and one line for each thing that went wrong.

use std::fmt;
use std::path::PathBuf;

use http::StatusCode;

use super::client::EndpointError;
use super::outbox::Letter;
use super::{Event, Kind};
use crate::error_text::with_sources;

/// What a sender has done.
#[derive(Debug, Default)]
pub struct Sent {
    /// Messages that were taken.
    pub delivered: usize,
    /// Messages that will never be sent.
    pub dropped: usize,
    /// Messages that are in the outbox still.
    pub left: usize,
    /// Whether another sender is at work, and has been left to it.
    pub is_elsewhere: bool,
    /// What went wrong, at most one for each message and destination.
    pub troubles: Vec<Trouble>,
}

/// One line for the operator. Never says a URL or a secret.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nothing can be sent to this destination now; its messages wait.
    #[error("{}", with_sources(.0))]
    Unusable(EndpointError),
    /// The destination does not want the message.
    #[error(
        "{about} is dropped: refused with {status}{}; check the URL in [[deploy.message]]",
        quoted(says)
    )]
    Refused {
        /// Which message.
        about: About,
        /// What was answered.
        status: StatusCode,
        /// Its own words.
        says: Option<String>,
    },
    /// Every attempt has failed so far; the next sender goes on.
    #[error("{about} is not sent yet, after {attempts} attempts: {why}")]
    Failing {
        /// Which message.
        about: About,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        why: String,
    },
    /// See [`super::MESSAGE_AGE_MAX`].
    #[error("{about} is dropped: it could not be sent for 24 h{}", quoted(why))]
    TooOld {
        /// Which message.
        about: About,
        /// Why the last attempt failed.
        why: Option<String>,
    },
    /// Its destination has another URL now, or none.
    #[error("{about} is dropped: its destination is not in the configuration any more")]
    NoDestination {
        /// Which message.
        about: About,
    },
    /// The file is no message.
    #[error("{} is no message and is dropped", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Which message: `discord at discord.com: deploy 17 started`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// What it is sent to.
    pub kind: Kind,
    /// The host of its URL.
    pub host: String,
    /// The deploy.
    pub deploy: u64,
    /// What has happened.
    pub event: Event,
}

// === impl Trouble ===

impl Trouble {
    /// Whether a message is lost. Else it waits, and is tried again.
    pub fn is_final(&self) -> bool {
        match self {
            Trouble::Unusable(_) | Trouble::Failing { .. } => false,
            Trouble::Refused { .. }
            | Trouble::TooOld { .. }
            | Trouble::NoDestination { .. }
            | Trouble::Damaged { .. } => true,
        }
    }
}

// === impl About ===

impl About {
    pub(super) fn of(letter: &Letter) -> About {
        About {
            kind: letter.kind,
            host: letter.host.clone(),
            deploy: letter.deploy,
            event: letter.event,
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.event.words();
        write!(
            f,
            "{} at {}: deploy {} {words}",
            self.kind, self.host, self.deploy
        )
    }
}

/// ` (Unknown Webhook)`
pub(super) fn quoted(text: &Option<String>) -> String {
    text.as_ref()
        .map_or(String::new(), |text| format!(" ({text})"))
}
