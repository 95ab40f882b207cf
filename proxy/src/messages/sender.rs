//! The sender: takes messages out of the outbox and sends them, until there is nothing more to do.
//!
//! Owns the lock and the order of effects: an attempt is written down before it begins, so that a process that is killed
//! in the middle of it, or a disk that takes nothing more, never makes a message go out without end. Destinations wait
//! for nobody but themselves. What is sent and when is decided in `lanes` and `verdict`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::client::{Endpoint, PostError};
use super::destination::Destination;
use super::lanes::{self, Next};
use super::outbox::{Letter, MESSAGE_AGE_MAX, Outbox};
use super::sent::{About, Sent, Trouble, quoted};
use super::verdict::{Answer, Patience, Verdict};
use super::{Kind, MessagesError, millis, unix_ms};
use crate::error_text::with_sources;

/// Sends what is in the outbox, again and again, until it is empty, the patience is over, or all that is left has to wait
/// longer than that. Says what has been done.
///
/// One sender works at a time; another one returns at once. What is put into the outbox meanwhile is sent as well.
/// Messages older than [`MESSAGE_AGE_MAX`] and those without a destination are dropped. Needs a tokio runtime with
/// network and time; blocks on the disk.
///
/// # Errors
/// `Outbox`: it cannot be used. `Write`: an attempt cannot be written down, and is not made. What destinations answer is
/// no error: see [`Sent::troubles`].
///
/// # Cancel safety
/// Dropped, or killed, it leaves what is not known to be taken to the next sender: each message goes out at least once.
pub async fn send(
    outbox: &Path,
    destinations: &[Destination],
    patience: Patience,
) -> Result<Sent, MessagesError> {
    let outbox = Outbox::open(outbox)?;
    let mut sender = Sender::new(outbox.clone(), destinations, patience);
    loop {
        let Some(lock) = outbox.lock()? else {
            sender.sent.is_elsewhere = true;
            break;
        };
        outbox.sweep(SystemTime::now());
        sender.work().await?;
        drop(lock);
        // Whoever put a message while the lock was held has left it to this sender.
        sender.look()?;
        if !sender.has_more() {
            break;
        }
    }
    Ok(sender.into_sent())
}

struct Sender {
    outbox: Outbox,
    endpoints: HashMap<String, Endpoint>,
    /// Kinds with a destination that cannot be used now, whose fingerprint nobody knows.
    unusable: HashSet<Kind>,
    patience: Patience,
    deadline: Instant,
    letters: BTreeMap<String, Letter>,
    /// Destinations to which a message is on its way.
    busy: HashSet<String>,
    /// Until when a destination that is spent is left alone, in milliseconds of the wall clock.
    rests: HashMap<String, u64>,
    sent: Sent,
}

/// An attempt that has ended.
struct Ended {
    name: String,
    letter: Letter,
    result: Result<Answer, PostError>,
}

type Attempt = Pin<Box<dyn Future<Output = Ended> + Send>>;

// === impl Sender ===

impl Sender {
    fn new(outbox: Outbox, destinations: &[Destination], patience: Patience) -> Sender {
        let mut sender = Sender {
            outbox,
            endpoints: HashMap::new(),
            unusable: HashSet::new(),
            patience,
            deadline: Instant::now() + patience.total,
            letters: BTreeMap::new(),
            busy: HashSet::new(),
            rests: HashMap::new(),
            sent: Sent::default(),
        };
        for destination in destinations {
            match Endpoint::open(destination) {
                Ok(endpoint) => {
                    let to = endpoint.address.fingerprint(endpoint.kind);
                    sender.endpoints.entry(to).or_insert(endpoint);
                }
                Err(error) => {
                    sender.unusable.insert(destination.kind);
                    sender.sent.troubles.push(Trouble::Unusable(error));
                }
            }
        }
        sender
    }

    /// Under the lock, until nothing can be begun any more and all that was begun has ended.
    async fn work(&mut self) -> Result<(), MessagesError> {
        let mut attempts: FuturesUnordered<Attempt> = FuturesUnordered::new();
        // What was read before may have been tried by another sender since.
        self.letters.clear();
        loop {
            self.look()?;
            let next = self.next();
            if Instant::now() < self.deadline {
                for name in &next.due {
                    attempts.extend(self.begin(name)?);
                }
            }
            if attempts.is_empty() && !self.has_more() {
                return Ok(());
            }
            let wait = self.wait_for(&next);
            tokio::select! {
                Some(ended) = attempts.next() => self.end(ended)?,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads what is new in the outbox, and drops what will never be sent.
    fn look(&mut self) -> Result<(), MessagesError> {
        let names = self.outbox.names()?;
        self.letters.retain(|name, _| names.contains(name));
        let new: BTreeSet<&String> = names
            .iter()
            .filter(|name| !self.letters.contains_key(*name))
            .collect();
        for name in new {
            match self.outbox.read(name) {
                Ok(Some(letter)) => {
                    self.letters.insert(name.clone(), letter);
                }
                Ok(None) => {}
                Err(_) => {
                    let path = self.outbox.path_of(name);
                    self.drop_letter(name, Trouble::Damaged { path })?;
                }
            }
        }
        for (name, trouble) in self.hopeless(unix_ms()) {
            self.drop_letter(&name, trouble)?;
        }
        Ok(())
    }

    fn hopeless(&self, now_ms: u64) -> Vec<(String, Trouble)> {
        let is_idle = |letter: &Letter| !self.busy.contains(&letter.to);
        let idle = self.letters.iter().filter(|(_, letter)| is_idle(letter));
        let troubles = idle.filter_map(|(name, letter)| {
            let about = About::of(letter);
            let is_known = self.endpoints.contains_key(&letter.to);
            let trouble = if now_ms.saturating_sub(letter.put_ms) > millis(MESSAGE_AGE_MAX) {
                let why = letter.failure.clone();
                Trouble::TooOld { about, why }
            } else if !is_known && !self.unusable.contains(&letter.kind) {
                Trouble::NoDestination { about }
            } else {
                return None;
            };
            Some((name.clone(), trouble))
        });
        troubles.collect()
    }

    fn next(&self) -> Next {
        let mut busy = self.busy.clone();
        let now_ms = unix_ms();
        let mut rested_ms = None;
        for (to, until_ms) in &self.rests {
            let has_letters = self.letters.values().any(|letter| letter.to == *to);
            if *until_ms > now_ms && has_letters {
                busy.insert(to.clone());
                rested_ms = Some(rested_ms.map_or(*until_ms, |first: u64| first.min(*until_ms)));
            }
        }
        // Without an endpoint: its file cannot be read now.
        let lost = self.letters.values().map(|letter| &letter.to);
        busy.extend(lost.filter(|to| !self.endpoints.contains_key(*to)).cloned());
        let wait_max = self.patience.asked_max.max(self.patience.longest);
        let mut next = lanes::next(&self.letters, &busy, millis(wait_max), now_ms);
        next.at_ms = [next.at_ms, rested_ms].into_iter().flatten().min();
        next
    }

    /// Whether anything can be begun before the deadline.
    fn has_more(&self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let next = self.next();
        let is_in_time = |at_ms: u64| at_ms <= unix_ms().saturating_add(millis(left));
        !left.is_zero() && (!next.due.is_empty() || next.at_ms.is_some_and(is_in_time))
    }

    /// Until a message is due, or the outbox should be looked at.
    fn wait_for(&self, next: &Next) -> Duration {
        let until_due = next.at_ms.map(|at_ms| at_ms.saturating_sub(unix_ms()));
        let until_due = until_due.map_or(LOOK_EVERY, Duration::from_millis);
        until_due.min(LOOK_EVERY)
    }

    /// Writes an attempt down and makes it; none if the message has made room for others.
    fn begin(&mut self, name: &str) -> Result<Option<Attempt>, MessagesError> {
        let Some(letter) = self.letters.get_mut(name) else {
            return Ok(None);
        };
        let Some(endpoint) = self.endpoints.get(&letter.to).cloned() else {
            return Ok(None);
        };
        if !self.outbox.has(name) {
            return Ok(None);
        }
        letter.attempts = letter.attempts.saturating_add(1);
        let backoff = self.patience.after(letter.attempts);
        letter.not_before_ms = unix_ms().saturating_add(millis(backoff));
        self.outbox.write(name, letter)?;
        self.busy.insert(letter.to.clone());
        let (name, letter) = (name.to_owned(), letter.clone());
        let within = self.patience.request;
        Ok(Some(Box::pin(async move {
            let result = endpoint.post(&letter, within).await;
            Ended {
                name,
                letter,
                result,
            }
        })))
    }

    /// The message can have made room for others meanwhile: then there is nothing to keep.
    fn end(&mut self, ended: Ended) -> Result<(), MessagesError> {
        let Ended {
            name,
            mut letter,
            result,
        } = ended;
        let name = name.as_str();
        self.busy.remove(&letter.to);
        let now_ms = unix_ms();
        match self.patience.judge(result.as_ref().ok(), letter.attempts) {
            Verdict::Taken(rest) => {
                self.outbox.remove(name)?;
                self.letters.remove(name);
                self.sent.delivered += 1;
                let until_ms = now_ms.saturating_add(millis(rest));
                self.rests.insert(letter.to, until_ms);
            }
            Verdict::Refused => {
                let about = About::of(&letter);
                if let Ok(Answer { status, says, .. }) = result {
                    let refused = Trouble::Refused {
                        about,
                        status,
                        says,
                    };
                    self.drop_letter(name, refused)?;
                }
            }
            Verdict::Again(after) => {
                letter.not_before_ms = now_ms.saturating_add(millis(after));
                letter.failure = Some(describe(&result));
                if self.outbox.has(name) {
                    self.outbox.write(name, &letter)?;
                    self.letters.insert(name.to_owned(), letter);
                }
            }
        }
        Ok(())
    }

    fn drop_letter(&mut self, name: &str, trouble: Trouble) -> Result<(), MessagesError> {
        self.outbox.remove(name)?;
        self.letters.remove(name);
        self.sent.dropped += 1;
        self.sent.troubles.push(trouble);
        Ok(())
    }

    fn into_sent(mut self) -> Sent {
        self.sent.left = self.letters.len();
        for letter in self.letters.values() {
            if let Some(why) = &letter.failure {
                self.sent.troubles.push(Trouble::Failing {
                    about: About::of(letter),
                    attempts: letter.attempts,
                    why: why.clone(),
                });
            }
        }
        self.sent
    }
}

fn describe(result: &Result<Answer, PostError>) -> String {
    match result {
        Ok(answer) => format!("answered {}{}", answer.status, quoted(&answer.says)),
        Err(error) => with_sources(error),
    }
}

/// How often the outbox is looked at for new messages while others wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
