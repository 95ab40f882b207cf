//! The keys of TLS session tickets: made, turned over by time, and handed on to the process that takes over.
//!
//! Owns the keys, their age and the cipher: AES-256-GCM with a random nonce, a name in front that says which key. rustls'
//! own ticketer keeps its keys to itself, so that each upgrade would cost every client a full handshake. What is in a
//! ticket is rustls' matter; `tls.rs` brings the two together. Keys are in memory alone: never in a file, never shown.
//!
//! ```text
//! name (16) | nonce (12) | ciphertext | tag (16)
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// How long a key makes tickets, in seconds. It opens them for as long again.
pub const KEY_SECONDS: u64 = 6 * 3600;

/// There is no randomness, or no cipher.
#[derive(Debug, thiserror::Error)]
#[error("cannot make session ticket keys")]
pub struct TicketError;

/// The keys of this process.
pub struct Tickets {
    keys: ArcSwap<Keys>,
    turning: Mutex<()>,
}

/// The key that makes tickets, and the one before.
struct Keys {
    current: Key,
    previous: Option<Key>,
}

#[derive(Clone)]
struct Key {
    secret: Arc<Secret>,
    cipher: Arc<RandomizedNonceKey>,
}

/// A key on its way to another process.
#[derive(Serialize, Deserialize)]
pub struct Secret {
    name: [u8; NAME_BYTES],
    key: [u8; KEY_BYTES],
    /// When it was made, as Unix time.
    since: u64,
}

/// What becomes of the keys as time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The current key makes tickets.
    Keep,
    /// It becomes the previous one.
    Next,
    /// Nobody has asked for so long that it opens none any more.
    Anew,
}

impl Turn {
    /// A key of the future was made by a clock that was ahead. It would make tickets until the clock has caught up, which
    /// may be years: it is turned over now.
    fn at(since: u64, now: u64) -> Turn {
        if since.saturating_sub(now) > AHEAD_SECONDS_MAX {
            return Turn::Next;
        }
        match now.saturating_sub(since) {
            age if age < KEY_SECONDS => Turn::Keep,
            age if age < 2 * KEY_SECONDS => Turn::Next,
            _ => Turn::Anew,
        }
    }
}

// === impl Tickets ===

impl Tickets {
    /// New keys. Times are Unix times, in seconds, here and below.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new(now: u64) -> Result<Tickets, TicketError> {
        let keys = Keys {
            current: Key::new(now)?,
            previous: None,
        };
        Ok(Tickets {
            keys: ArcSwap::from_pointee(keys),
            turning: Mutex::new(()),
        })
    }

    /// The keys, for the process that takes over: the current one first.
    pub fn secrets(&self) -> Vec<Secret> {
        let keys = self.keys.load();
        let all = std::iter::once(&keys.current).chain(&keys.previous);
        all.map(|key| key.secret.again()).collect()
    }

    /// Takes these keys in the place of its own. None at all leaves its own.
    ///
    /// # Errors
    /// They are none of this cipher.
    pub fn adopt(&self, secrets: Vec<Secret>) -> Result<(), TicketError> {
        let mut keys = secrets.into_iter().map(Key::of);
        let Some(current) = keys.next().transpose()? else {
            return Ok(());
        };
        let previous = keys.next().transpose()?;
        self.keys.store(Arc::new(Keys { current, previous }));
        Ok(())
    }

    /// A ticket that only these keys open. None if there is no randomness.
    pub fn seal(&self, plain: &[u8], now: u64) -> Option<Vec<u8>> {
        self.turn(now);
        let keys = self.keys.load();
        let Key { secret, cipher } = &keys.current;
        let mut sealed = plain.to_vec();
        let nonce = cipher
            .seal_in_place_append_tag(Aad::from(&secret.name), &mut sealed)
            .ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_BYTES + sealed.len());
        ticket.extend_from_slice(&secret.name);
        ticket.extend_from_slice(nonce.as_ref());
        ticket.append(&mut sealed);
        Some(ticket)
    }

    /// What is in a ticket; none if it is not of these keys, or too old.
    pub fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        self.turn(now);
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let keys = self.keys.load();
        let mut all = std::iter::once(&keys.current).chain(&keys.previous);
        // Names are public: they stand at the front of every ticket.
        let key = all.find(|key| key.secret.name == name)?;
        if Turn::at(key.secret.since, now) == Turn::Anew {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let plain = key
            .cipher
            .open_in_place(nonce, Aad::from(&key.secret.name), &mut opened)
            .ok()?;
        Some(plain.to_vec())
    }

    /// Turns the keys over if it is time. Whoever finds another thread at it goes on with what is there.
    fn turn(&self, now: u64) {
        if Turn::at(self.keys.load().current.secret.since, now) == Turn::Keep {
            return;
        }
        let _turning = match self.turning.try_lock() {
            Ok(turning) => turning,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        let keys = self.keys.load();
        let previous = match Turn::at(keys.current.secret.since, now) {
            Turn::Keep => return,
            Turn::Next => Some(keys.current.clone()),
            Turn::Anew => None,
        };
        // Without randomness the old key goes on: nobody would be helped by none.
        if let Ok(current) = Key::new(now) {
            self.keys.store(Arc::new(Keys { current, previous }));
        }
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

// === impl Key, Secret ===

impl Key {
    fn new(now: u64) -> Result<Key, TicketError> {
        let mut secret = Secret {
            name: [0; NAME_BYTES],
            key: [0; KEY_BYTES],
            since: now,
        };
        rand::fill(&mut secret.name).map_err(|_| TicketError)?;
        rand::fill(&mut secret.key).map_err(|_| TicketError)?;
        Key::of(secret)
    }

    fn of(secret: Secret) -> Result<Key, TicketError> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &secret.key).map_err(|_| TicketError)?;
        Ok(Key {
            secret: Arc::new(secret),
            cipher: Arc::new(cipher),
        })
    }
}

impl Secret {
    fn again(&self) -> Secret {
        Secret {
            name: self.name,
            key: self.key,
            since: self.since,
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// How far a key may be ahead of the clock: threads read it one after the other, and a clock that is kept is set back by a
/// little now and then.
const AHEAD_SECONDS_MAX: u64 = 60;

const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;

    #[test]
    fn a_key_makes_tickets_for_six_hours_and_opens_them_for_twelve() {
        for (age, expected) in [
            (0, Turn::Keep),
            (KEY_SECONDS - 1, Turn::Keep),
            (KEY_SECONDS, Turn::Next),
            (2 * KEY_SECONDS - 1, Turn::Next),
            (2 * KEY_SECONDS, Turn::Anew),
            (u64::MAX - START, Turn::Anew),
        ] {
            assert_eq!(Turn::at(START, START + age), expected, "{age}");
        }
    }

    #[test]
    fn a_key_of_a_clock_that_was_ahead_is_turned_over() {
        for (ahead, expected) in [
            (1, Turn::Keep),
            (AHEAD_SECONDS_MAX, Turn::Keep),
            (AHEAD_SECONDS_MAX + 1, Turn::Next),
            (365 * 24 * 3600, Turn::Next),
            (u64::MAX - START, Turn::Next),
        ] {
            assert_eq!(Turn::at(START + ahead, START), expected, "{ahead}");
        }
        let tickets = Tickets::new(START + KEY_SECONDS).expect("keys");
        let ahead = tickets.seal(b"ahead", START + KEY_SECONDS);
        let ahead = ahead.expect("a ticket");
        let now = tickets.seal(b"now", START).expect("a ticket");
        assert_ne!(ahead[..NAME_BYTES], now[..NAME_BYTES]);
        for (ticket, plain) in [(&ahead, &b"ahead"[..]), (&now, b"now")] {
            assert_eq!(tickets.open(ticket, START).as_deref(), Some(plain));
        }
        // From then on it is a key like any other.
        let later = START + KEY_SECONDS - 1;
        let again = tickets.seal(b"again", later).expect("a ticket");
        assert_eq!(again[..NAME_BYTES], now[..NAME_BYTES]);
    }

    #[test]
    fn a_ticket_opens_across_one_turn_and_no_more() {
        let tickets = Tickets::new(START).expect("keys");
        let ticket = tickets.seal(b"session", START).expect("a ticket");
        assert_eq!(
            tickets.open(&ticket, START).as_deref(),
            Some(&b"session"[..])
        );
        let later = START + KEY_SECONDS;
        let newer = tickets.seal(b"newer", later).expect("a ticket");
        assert_ne!(ticket[..NAME_BYTES], newer[..NAME_BYTES]);
        assert_eq!(
            tickets.open(&ticket, later).as_deref(),
            Some(&b"session"[..])
        );
        let much_later = later + KEY_SECONDS;
        assert_eq!(tickets.open(&ticket, much_later), None);
        assert_eq!(
            tickets.open(&newer, much_later).as_deref(),
            Some(&b"newer"[..])
        );
    }

    #[test]
    fn the_process_that_takes_over_opens_what_was_sealed_before() {
        let before = Tickets::new(START).expect("keys");
        let first = before.seal(b"first", START).expect("a ticket");
        let second = before
            .seal(b"second", START + KEY_SECONDS)
            .expect("a ticket");
        let text = serde_json::to_string(&before.secrets()).expect("JSON");
        let after = Tickets::new(START).expect("keys");
        let now = START + KEY_SECONDS + 1;
        assert_eq!(after.open(&first, now), None);
        after
            .adopt(serde_json::from_str(&text).expect("keys"))
            .expect("keys of this cipher");
        assert_eq!(after.open(&first, now).as_deref(), Some(&b"first"[..]));
        assert_eq!(after.open(&second, now).as_deref(), Some(&b"second"[..]));
        let third = after.seal(b"third", now).expect("a ticket");
        assert_eq!(before.open(&third, now).as_deref(), Some(&b"third"[..]));
    }

    #[test]
    fn what_is_no_ticket_is_not_opened() {
        let tickets = Tickets::new(START).expect("keys");
        let ticket = tickets.seal(b"session", START).expect("a ticket");
        for end in 0..ticket.len() {
            assert_eq!(tickets.open(&ticket[..end], START), None, "{end}");
        }
        for index in 0..ticket.len() {
            let mut other = ticket.clone();
            other[index] ^= 1;
            assert_eq!(tickets.open(&other, START), None, "{index}");
        }
    }

    #[test]
    fn no_key_is_ever_shown() {
        let tickets = Tickets::new(START).expect("keys");
        let shown = format!("{tickets:?} {:?}", tickets.secrets());
        assert_eq!(shown, "Tickets [Secret]");
    }
}
