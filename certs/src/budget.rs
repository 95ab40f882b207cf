//! What has been tried for a site, and what may be tried next. Pure; `store.rs` keeps it over restarts.
//!
//! Owns the backoff after failures and the budget that keeps a proxy in trouble from burning the rate limits of its
//! CA: a limit that is hit there lasts a week, and then nothing can be mended any more.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

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
    /// No attempt before then, because the CA says so.
    #[serde(default)]
    pub retry_after: Option<SystemTime>,
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

/// Why nothing may be tried now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The CA asked for patience.
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
        budget: Budget,
        is_new_order: bool,
        is_patient: bool,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        // Longer than anything here is ever put off: noted by a clock that was wrong, and nobody wants to wait for it.
        let is_near = |until: &SystemTime, most: Duration| {
            until.duration_since(now).unwrap_or_default() <= most
        };
        let backoff = self.backoff_until.filter(|_| is_patient);
        let backoff = backoff.filter(|until| is_near(until, BACKOFF_MAX + BACKOFF_MAX / 5));
        let retry_after = self
            .retry_after
            .filter(|until| is_near(until, RETRY_AFTER_MAX));
        let candidates = [
            retry_after.map(|until| Refusal::RetryAfter { until }),
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

    /// An attempt has failed; `retry_after` is what the CA asked for, at most [`RETRY_AFTER_MAX`] of it counts.
    pub fn failed(
        &mut self,
        error: String,
        retry_after: Option<Duration>,
        seed: u64,
        now: SystemTime,
    ) {
        remember(&mut self.failed, now);
        self.failures = self.failures.saturating_add(1);
        self.backoff_until = Some(now + backoff(self.failures, seed));
        self.retry_after = retry_after.map(|wait| now + wait.min(RETRY_AFTER_MAX));
        self.error = Some(error.chars().take(ERROR_CHARS_MAX).collect());
    }

    /// A certificate is there.
    pub fn succeeded(&mut self, directory: &str) {
        self.failures = 0;
        self.failed.clear();
        self.backoff_until = None;
        self.retry_after = None;
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
/// Moments that are kept of each kind.
pub const MOMENTS_MAX: usize = 1000;
/// Characters of an error that are kept.
pub const ERROR_CHARS_MAX: usize = 2000;
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
