//! What has been tried for a site, and what may be tried next. Pure; `store.rs` keeps it over restarts.
//!
//! Owns the backoff after failures and the budget that keeps a proxy in trouble from burning the rate limits of its
//! CA: a limit that is hit there lasts a week, and then nothing can be mended any more.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::account::CaSettings;
use crate::schedule::{Advice, part_of};

/// What is known of the orders of one site.
///
/// `tried` and `failed` hold at most [`MOMENTS_MAX`] moments each, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// When orders were asked for.
    #[serde(default)]
    pub tried: Vec<SystemTime>,
    /// When attempts failed.
    #[serde(default)]
    pub failed: Vec<SystemTime>,
    /// Failures since the last success.
    #[serde(default)]
    pub failures: u32,
    /// No attempt before then, because of the failures.
    #[serde(default)]
    pub backoff_until: Option<SystemTime>,
    /// No attempt at a CA before then, because it says so. By directory, at most [`PATIENCE_MAX`] of them.
    #[serde(default)]
    pub patience: BTreeMap<String, SystemTime>,
    /// What went wrong the last time.
    #[serde(default)]
    pub error: Option<String>,
    /// Whose certificate is in use: a directory URL. None where it was imported.
    #[serde(default)]
    pub directory: Option<String>,
    /// What the CA said about the certificate in use.
    #[serde(default)]
    pub advice: Option<Advice>,
}

/// How much may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Orders of a site in any seven days.
    pub orders_per_week: usize,
    /// Failed attempts of a site in any hour.
    pub failures_per_hour: usize,
}

/// What an attempt has to stay within.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// How much may be tried.
    pub budget: Budget,
    /// Where: the first CA, and those to fall back on.
    pub cas: &'a [CaSettings],
}

/// Why nothing may be tried now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Every CA asked for patience.
    #[error("the CA asked not to be asked before {}", crate::text(*until))]
    RetryAfter {
        /// Until then.
        until: SystemTime,
    },
    /// An attempt has failed a short time ago.
    #[error("the last attempt failed; the next one is at {}", crate::text(*until))]
    Backoff {
        /// Until then.
        until: SystemTime,
    },
    /// Too many failures.
    #[error(
        "{count} attempts have failed within an hour, more would burn the CA's rate limits; the next one is at {}",
        crate::text(*until)
    )]
    Failures {
        /// How many.
        count: usize,
        /// Until then.
        until: SystemTime,
    },
    /// Too many orders.
    #[error(
        "{count} certificates were ordered within a week, more would burn the CA's rate limits; the next one may be ordered at {}",
        crate::text(*until)
    )]
    Orders {
        /// How many.
        count: usize,
        /// Until then.
        until: SystemTime,
    },
}

// === impl Refusal ===

impl Refusal {
    /// When it may be tried again.
    pub fn until(&self) -> SystemTime {
        match self {
            Refusal::RetryAfter { until }
            | Refusal::Backoff { until }
            | Refusal::Failures { until, .. }
            | Refusal::Orders { until, .. } => *until,
        }
    }
}

// === impl Ledger ===

impl Ledger {
    /// Whether an attempt may be made. One that only finishes an order costs no order.
    ///
    /// # Errors
    /// The refusal that lasts longest.
    pub fn may_try(
        &self,
        terms: Terms<'_>,
        is_new_order: bool,
        is_patient: bool,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let budget = terms.budget;
        let backoff = self.backoff_until.filter(|_| is_patient);
        let backoff = backoff.filter(|until| is_near(*until, BACKOFF_MAX + BACKOFF_MAX / 5, now));
        let candidates = [
            self.all_ask_for_patience(terms.cas, now)
                .map(|until| Refusal::RetryAfter { until }),
            backoff.map(|until| Refusal::Backoff { until }),
            full(&self.failed, HOUR, budget.failures_per_hour, now)
                .map(|(count, until)| Refusal::Failures { count, until }),
            full(&self.tried, WEEK, budget.orders_per_week, now)
                .filter(|_| is_new_order)
                .map(|(count, until)| Refusal::Orders { count, until }),
        ];
        let refusals = candidates.into_iter().flatten();
        match refusals
            .filter(|refusal| refusal.until() > now)
            .max_by_key(Refusal::until)
        {
            None => Ok(()),
            Some(refusal) => Err(refusal),
        }
    }

    /// The CA that an attempt turns to: the first one, as long as there are not [`FALLBACK_AFTER`] failures in a row;
    /// after that, each in its turn. One that asked for patience is passed over where another one does not. None only if
    /// there is no CA.
    pub fn choose<'c>(&self, cas: &'c [CaSettings], now: SystemTime) -> Option<&'c CaSettings> {
        let turn = (self.failures.saturating_add(1)).saturating_sub(FALLBACK_AFTER) as usize;
        let (later, first) = cas.split_at(turn.checked_rem(cas.len())?);
        // The first of those that are asked the soonest: `min_by_key` keeps the order.
        first
            .iter()
            .chain(later)
            .min_by_key(|ca| self.asks_until(&ca.directory, now))
    }

    /// Until when a CA asked not to be asked, if that is still to come.
    fn asks_until(&self, directory: &str, now: SystemTime) -> Option<SystemTime> {
        let until = self.patience.get(directory).copied();
        until.filter(|until| *until > now && is_near(*until, RETRY_AFTER_MAX, now))
    }

    fn all_ask_for_patience(&self, cas: &[CaSettings], now: SystemTime) -> Option<SystemTime> {
        let soonest = self.choose(cas, now)?;
        self.asks_until(&soonest.directory, now)
    }

    /// An order is about to be asked for. To be stored before it is.
    pub fn ordering(&mut self, now: SystemTime) {
        remember(&mut self.tried, now);
    }

    /// The order of this moment came to nothing: CAs count certificates, and so does the budget. What bounds attempts that
    /// fail is their backoff, and how many there may be in an hour.
    pub fn take_back(&mut self, noted: Option<SystemTime>) {
        let place = self.tried.iter().rposition(|moment| Some(*moment) == noted);
        if let Some(place) = place {
            self.tried.remove(place);
        }
    }

    /// An order was found dead that was begun before a restart. It counts as a failure, but nobody waits for it now:
    /// what ended is the process.
    pub fn found_dead(&mut self, now: SystemTime) {
        remember(&mut self.failed, now);
        self.failures = self.failures.saturating_add(1);
    }

    /// An attempt has failed; `retry_after` is which CA asked for how much patience, at most [`RETRY_AFTER_MAX`] of it
    /// counts.
    pub fn failed(
        &mut self,
        error: String,
        retry_after: Option<(&str, Duration)>,
        seed: u64,
        now: SystemTime,
    ) {
        remember(&mut self.failed, now);
        self.failures = self.failures.saturating_add(1);
        self.backoff_until = Some(now + backoff(self.failures, seed));
        if let Some((directory, wait)) = retry_after {
            // What is over makes room; with more CAs than there is room for, one is asked too soon.
            self.patience.retain(|_, until| *until > now);
            if self.patience.len() >= PATIENCE_MAX {
                self.patience.pop_first();
            }
            let until = now + wait.min(RETRY_AFTER_MAX);
            self.patience.insert(directory.to_owned(), until);
        }
        self.error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
    }

    /// A certificate is there.
    pub fn succeeded(&mut self, directory: &str) {
        self.failures = 0;
        self.failed.clear();
        self.backoff_until = None;
        self.patience.remove(directory);
        self.error = None;
        self.directory = Some(directory.to_owned());
        // Advice on the certificate before must never order another one.
        self.advice = None;
    }
}

/// How long the next attempt waits after so many failures: [`BACKOFF_FIRST`], doubled with each failure up to
/// [`BACKOFF_MAX`], and up to a fifth more as the seed has it.
pub fn backoff(failures: u32, seed: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = BACKOFF_FIRST
        .saturating_mul(1 << doublings)
        .min(BACKOFF_MAX);
    wait + part_of(wait / 5, seed)
}

/// Whether it lies in the past, or no further ahead than anything is ever put off. What does not was noted by a clock
/// that was wrong, and nobody wants to wait for it.
fn is_near(until: SystemTime, most: Duration, now: SystemTime) -> bool {
    until.duration_since(now).unwrap_or_default() <= most
}

/// If `max` of these moments lie within `span` before now: how many do, and when one fewer will.
fn full(
    moments: &[SystemTime],
    span: Duration,
    max: usize,
    now: SystemTime,
) -> Option<(usize, SystemTime)> {
    let mut recent: Vec<SystemTime> = moments
        .iter()
        .copied()
        // A moment in the future was noted by a clock that was wrong, or this one is: taken for now, it would slide along
        // with the clock and never be over. It counts again when the clock has come to it.
        .filter(|moment| now.duration_since(*moment).is_ok_and(|age| age < span))
        .collect();
    recent.sort_unstable();
    let over = recent.len().checked_sub(max)?;
    recent
        .get(over)
        .map(|moment| (recent.len(), *moment + span))
}

fn remember(moments: &mut Vec<SystemTime>, now: SystemTime) {
    moments.push(now);
    if moments.len() > MOMENTS_MAX {
        moments.drain(..moments.len() - MOMENTS_MAX);
    }
}

/// The wait after a first failure. With it at most four attempts fall into an hour; Let's Encrypt allows five failed
/// validations of a name in an hour.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(5 * 60);
/// The longest wait after a failure: a certificate of six days has ten such waits between its half and its end.
pub const BACKOFF_MAX: Duration = Duration::from_secs(6 * 3600);
/// A CA that asks for more patience than this is asked again all the same.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// CAs whose wishes for patience are kept.
pub const PATIENCE_MAX: usize = 8;
/// After so many failures the next CA is tried.
pub const FALLBACK_AFTER: u32 = 2;
/// Moments that are kept of each kind.
pub const MOMENTS_MAX: usize = 1000;
/// Characters of an error that are kept.
pub const ERROR_CHARS_MAX: usize = 2000;
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
