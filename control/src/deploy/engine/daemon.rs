//! The hands towards the daemon: calls over its socket, and the connections that slots are reserved by.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{BUSY_PAUSE, DAEMON_TIMEOUT, Engine};
use crate::client::{self, ClientError};
use crate::deploy::hands::{Trouble, is_published};
use crate::deploy::steps::Said;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::wire::{Request, Verb};

/// How long a change waits for somebody else who is at the site: as long as a drain usually takes.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(60);

impl Engine<'_> {
    /// Asks the daemon. `patience` is for those calls that do not wait for a drain.
    pub(super) async fn call(
        &mut self,
        request: Request,
        patience: Option<Duration>,
    ) -> Result<(Reply, Option<Instant>), Trouble> {
        let mut published = None;
        let herald = &mut *self.herald;
        let call = client::call(&self.socket, &request, |event| {
            if is_published(event) {
                published = Some(Instant::now());
            }
            herald.say(Said::Daemon(event.clone()));
        });
        let reply = match patience {
            None => call.await,
            Some(patience) => match timeout(patience, call).await {
                Ok(reply) => reply,
                Err(_) => {
                    let error = format!("the daemon did not reply within {} s", patience.as_secs());
                    return Err(Trouble::Daemon(error));
                }
            },
        };
        let reply = reply.map_err(|error| lost(&error))?;
        match reply.ok() {
            true => Ok((reply, published)),
            false => Err(refused(&reply)),
        }
    }

    /// Asks for a change. While somebody else is at the site, again and again: a way back must not fail for that.
    pub(super) async fn change(
        &mut self,
        request: Request,
        patience: Option<Duration>,
    ) -> Result<(Reply, Option<Instant>), Trouble> {
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            match self.call(request.clone(), patience).await {
                Err(Trouble::Refused {
                    code: Code::Busy, ..
                }) if Instant::now() < deadline => {
                    sleep(BUSY_PAUSE).await;
                }
                reply => return reply,
            }
        }
    }

    /// Keeps a connection that the slot is reserved by. It ends with this process, or with `self`.
    pub(super) async fn begin_reservation(&mut self, slot: Slot) -> Result<(), Trouble> {
        let request = Request {
            progress: true,
            ..self.request(Verb::Reserve(slot))
        };
        let (socket, (sender, reserved)) = (self.socket.clone(), oneshot::channel());
        let mut sender = Some(sender);
        let mut reservation = JoinSet::new();
        reservation.spawn(async move {
            let ended = client::call(&socket, &request, |event| {
                let is_reserved = event.get("event").and_then(Value::as_str) == Some("reserved");
                if let Some(sender) = sender.take_if(|_| is_reserved) {
                    // Whoever does not wait any more has given up, and ends this.
                    sender.send(()).ok();
                }
            });
            ended.await
        });
        tokio::select! {
            Ok(()) = reserved => {}
            Some(ended) = reservation.join_next() => return Err(match ended {
                Ok(Ok(reply)) => refused(&reply),
                Ok(Err(error)) => lost(&error),
                Err(_) => Trouble::Daemon("the reservation was lost".to_owned()),
            }),
            () = sleep(DAEMON_TIMEOUT) => {
                return Err(Trouble::Daemon("the daemon does not reserve the slot".to_owned()));
            }
        }
        self.reservations.push(reservation);
        Ok(())
    }

    pub(super) fn request(&self, verb: Verb) -> Request {
        Request {
            site: Some(self.settings.site.clone()),
            ..Request::new(verb)
        }
    }
}

fn lost(error: &ClientError) -> Trouble {
    match std::error::Error::source(error) {
        Some(source) => Trouble::Daemon(format!("{error}: {source}")),
        None => Trouble::Daemon(error.to_string()),
    }
}

fn refused(reply: &Reply) -> Trouble {
    match reply.code() {
        Some(code) => Trouble::Refused {
            code,
            error: reply.error().unwrap_or_default().to_owned(),
            hint: reply.hint().map(str::to_owned),
        },
        None => Trouble::Daemon("the daemon refused without a reason".to_owned()),
    }
}
