//! The successor's end of a handover, from its first message until it is the service.
//!
//! Owns the effects of the successor's side: taking the channel from stdin, the sockets from the first message, and
//! stderr once it takes over. What is done next is decided by [`super::taking`].

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde_json::{Map, Value};
use tokio::time::timeout;

use super::channel::{Channel, ChannelError, Message};
use super::message::{AnyHello, Down, Role, Up};
use super::taking::{Heard, Next, Reason, Stage};
use super::{HANDOVER_VARIABLE, HELLO_TIME, PROTOCOL};
use crate::failpoint::{self, Failpoint};
use crate::inherit::Inherited;
use crate::tickets::Secret;

/// A handover to this process.
#[derive(Debug)]
pub struct Arrival {
    channel: Channel,
    stderr: Option<OwnedFd>,
    /// Of the predecessor.
    pub pid: u32,
    /// Of the predecessor.
    pub version: String,
    /// Its listening sockets.
    pub sockets: Vec<Inherited>,
    /// Its control socket, and where that is.
    pub control: Option<(OwnedFd, PathBuf)>,
    /// The socket of its `[admin]`, and what its configuration has for it.
    pub admin: Option<(TcpListener, SocketAddr)>,
}

/// What the predecessor hands over once this process is prepared.
#[derive(Debug, Default)]
pub struct Handed {
    /// The lock of the state directory; none if the predecessor is dead and the lock free.
    pub lock: Option<File>,
    /// The keys of session tickets.
    pub tickets: Vec<Secret>,
}

/// What the service begins with.
#[derive(Debug)]
pub enum Begin {
    /// The predecessor drains at the other end; this is the first line for the journal.
    Committed(Map<String, Value>),
    /// The predecessor is dead.
    Alone,
}

/// Nothing is taken over.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// stdin is no channel.
    #[error("cannot use the handover on stdin")]
    Stdin(#[source] io::Error),
    /// The channel does not work.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Nothing came.
    #[error("the running process does not begin the handover")]
    Silent,
    /// The predecessor says what is not to be done.
    #[error(transparent)]
    End(#[from] Reason),
}

impl Arrival {
    /// The handover that this process was started for; none if it was started as any other.
    ///
    /// # Errors
    /// Every variant of [`ArrivalError`]
    pub async fn from_environment() -> Result<Option<Arrival>, ArrivalError> {
        if std::env::var_os(HANDOVER_VARIABLE).is_none() {
            return Ok(None);
        }
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let channel = Channel::on(stdin.map_err(ArrivalError::Stdin)?)?;
        let nothing = File::open("/dev/null").map_err(ArrivalError::Stdin)?;
        // Nobody else reads from the handover, and it ends when the channel is dropped.
        rustix::stdio::dup2_stdin(&nothing).map_err(|error| ArrivalError::Stdin(error.into()))?;
        let first = match timeout(HELLO_TIME, channel.receive()).await {
            Ok(received) => received?,
            Err(_) => return Err(ArrivalError::Silent),
        };
        let arrival = Arrival {
            channel,
            stderr: None,
            pid: 0,
            version: String::new(),
            sockets: Vec::new(),
            control: None,
            admin: None,
        };
        match arrival.greeted(first).await {
            Ok(arrival) => {
                failpoint::reach(Failpoint::SuccessorGreeted);
                Ok(Some(arrival))
            }
            Err((channel, reason)) => {
                let error = ArrivalError::End(reason);
                // One that is gone needs no reason.
                say(&channel, &failure(&error, None)).await.ok();
                Err(error)
            }
        }
    }

    async fn greeted(mut self, first: Option<Message>) -> Result<Arrival, (Channel, Reason)> {
        let protocol = match &first {
            None => Heard::Gone,
            Some(message) => match serde_json::from_slice::<AnyHello>(&message.bytes) {
                Ok(hello) => Heard::Hello(hello.protocol),
                Err(_) => Heard::Nonsense,
            },
        };
        match Stage::Greeting.handle(protocol) {
            Next::Prepare => {}
            Next::End(reason) => return Err((self.channel, reason)),
            Next::TakeOver | Next::Serve | Next::ServeAlone => {
                return Err((self.channel, Reason::Nonsense));
            }
        }
        let Some(message) = first else {
            return Err((self.channel, Reason::NothingHandedOver));
        };
        let Ok(Down::Hello {
            version,
            pid,
            sockets,
            ..
        }) = serde_json::from_slice(&message.bytes)
        else {
            return Err((self.channel, Reason::Nonsense));
        };
        if sockets.len() != message.descriptors.len() {
            return Err((self.channel, Reason::Nonsense));
        }
        (self.version, self.pid) = (version, pid);
        for (role, descriptor) in sockets.into_iter().zip(message.descriptors) {
            match (role.place(), role) {
                (Some(place), _) => {
                    let socket = TcpListener::from(descriptor);
                    self.sockets.push(Inherited { socket, place });
                }
                (None, Role::Control { path }) => self.control = Some((descriptor, path)),
                (None, Role::Admin { wanted }) => self.admin = Some((descriptor.into(), wanted)),
                (None, Role::Stderr) => self.stderr = Some(descriptor),
                (None, Role::Listener { .. }) => {}
            }
        }
        Ok(self)
    }

    /// Says that this process is prepared, and waits for what it needs to take over.
    ///
    /// # Errors
    /// `End`, `Channel`
    pub async fn prepared(&mut self) -> Result<Handed, ArrivalError> {
        let prepared = Up::Prepared {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // One that is dead does not hear it, and is found dead below.
        say(&self.channel, &prepared).await.ok();
        failpoint::reach(Failpoint::SuccessorPrepared);
        let (heard, handed) = match self.channel.receive().await? {
            None => (Heard::Gone, Handed::default()),
            Some(message) => match serde_json::from_slice(&message.bytes) {
                Ok(Down::Go { tickets }) => {
                    let lock = message.descriptors.into_iter().next().map(File::from);
                    (Heard::Go, Handed { lock, tickets })
                }
                Ok(_) | Err(_) => (Heard::Nonsense, Handed::default()),
            },
        };
        let handed = match Stage::Waiting.handle(heard) {
            Next::TakeOver => handed,
            Next::ServeAlone => {
                tracing::warn!("the process before is dead; going on without it");
                Handed::default()
            }
            Next::End(reason) => return Err(reason.into()),
            Next::Prepare | Next::Serve => return Err(Reason::Nonsense.into()),
        };
        self.take_stderr();
        failpoint::reach(Failpoint::SuccessorTaken);
        Ok(handed)
    }

    /// Until now the predecessor has kept what this process says. It may have died with that.
    fn take_stderr(&mut self) {
        if let Some(stderr) = self.stderr.take()
            && let Err(error) = rustix::stdio::dup2_stderr(&stderr)
        {
            tracing::warn!(%error, "cannot log where the process before has");
        }
    }

    /// Says that this process can accept, and waits until it may write.
    ///
    /// # Errors
    /// `End`, `Channel`
    pub async fn ready(&mut self) -> Result<Begin, ArrivalError> {
        failpoint::reach(Failpoint::SuccessorAccepting);
        failpoint::hang(Failpoint::SuccessorStalls);
        // As above.
        say(&self.channel, &Up::Ready).await.ok();
        failpoint::reach(Failpoint::SuccessorReady);
        let mut line = Map::new();
        let heard = match self.channel.receive().await? {
            None => Heard::Gone,
            Some(message) => match serde_json::from_slice(&message.bytes) {
                Ok(Down::Commit { entry }) => {
                    line = entry;
                    Heard::Commit
                }
                Ok(_) | Err(_) => Heard::Nonsense,
            },
        };
        match Stage::Accepting.handle(heard) {
            Next::Serve => Ok(Begin::Committed(line)),
            Next::ServeAlone => {
                tracing::warn!("the process before is dead; going on without it");
                Ok(Begin::Alone)
            }
            Next::End(reason) => Err(reason.into()),
            Next::Prepare | Next::TakeOver => Err(Reason::Nonsense.into()),
        }
    }

    /// Says that this process is the writer.
    pub async fn serving(&self) {
        failpoint::reach(Failpoint::SuccessorCommitted);
        // As above.
        say(&self.channel, &Up::Serving).await.ok();
    }

    /// Says why this process ends instead.
    pub async fn failed(&self, error: &dyn std::error::Error, hint: Option<String>) {
        // One that is dead needs no reason.
        say(&self.channel, &failure(error, hint)).await.ok();
    }

    /// The channel, for what the predecessor reports from now on.
    pub fn into_channel(self) -> Channel {
        self.channel
    }
}

fn failure(error: &dyn std::error::Error, hint: Option<String>) -> Up {
    let mut error = crate::error_text::with_sources(error);
    error.retain(|c| !c.is_control());
    Up::Failed {
        error: error.chars().take(ERROR_MAX).collect(),
        hint,
    }
}

async fn say(channel: &Channel, message: &Up) -> Result<(), ChannelError> {
    channel.send(message, &[]).await
}

/// The longest reason that is given.
const ERROR_MAX: usize = 2000;
