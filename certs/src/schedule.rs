//! When a certificate is renewed. Pure: dates and the CA's advice in, a moment and a reason out.
//!
//! Owns the rule and nothing else; `renew.rs` calls it, sleeps, and acts. No moment comes from a constant: it follows
//! from the certificate's own lifetime and from the window that the CA suggests for this very certificate
//! (RFC 9773, <https://www.rfc-editor.org/rfc/rfc9773>).

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The dates of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
}

/// When the CA suggests to renew: some moment of `start <= moment < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From then on.
    pub start: SystemTime,
    /// Until then.
    pub end: SystemTime,
}

/// What a CA said about one certificate, and when it is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// The certificate that was asked about (RFC 9773 s4.1). Advice on another one counts for nothing.
    pub certificate: String,
    /// The suggestion; none if the CA makes none.
    pub window: Option<Window>,
    /// Not asked before then.
    pub ask_again: SystemTime,
}

/// Why a certificate is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    Missing,
    /// There is one, but not for all names of the site, or of a CA that is not configured any more, or it is broken.
    Unfit,
    /// The CA suggests it.
    Window,
    /// Too little of its lifetime is left.
    Lifetime,
    /// An operator wants it.
    Forced,
    /// An order was begun before the process ended.
    Unfinished,
}

/// The moment of a renewal and its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// From then on.
    pub at: SystemTime,
    /// The reason.
    pub why: Why,
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Missing => "there is none",
            Why::Unfit => "the one that is there does not fit",
            Why::Window => "the CA suggests it",
            Why::Lifetime => "its lifetime",
            Why::Forced => "an operator asked for it",
            Why::Unfinished => "an order is unfinished",
        })
    }
}

// === impl Validity ===

impl Validity {
    /// The whole lifetime; nothing if the dates are the wrong way round.
    pub fn lifetime(&self) -> Duration {
        self.not_after
            .duration_since(self.not_before)
            .unwrap_or_default()
    }
}

// === impl Advice ===

impl Advice {
    /// The window, if it is about this certificate and makes sense. A CA that suggests an empty window says nothing.
    ///
    /// RFC 9773 s4.2: "A RenewalInfo object in which the end timestamp equals or precedes the start timestamp is
    /// invalid."
    pub fn window_for(&self, certificate: &str) -> Option<Window> {
        let window = self.window.filter(|window| window.start < window.end);
        window.filter(|_| self.certificate == certificate)
    }
}

/// When a certificate with these dates is renewed: at a random moment of the CA's window, else when a third of its
/// lifetime is left, or a half if that is under [`SHORT_LIFETIME`].
///
/// `seed` spreads renewals of many certificates; the same seed gives the same moment, so that a restart changes
/// nothing. A window that ends later than a tenth before the end is cut there: the CA's advice may be late, the
/// certificate must not be.
pub fn due(validity: Validity, window: Option<Window>, seed: u64) -> Due {
    let lifetime = validity.lifetime();
    let before_end = |part: Duration| validity.not_after.checked_sub(part);
    match window {
        Some(window) => {
            let length = window.end.duration_since(window.start).unwrap_or_default();
            let wanted = window.start + part_of(length, seed);
            let latest = before_end(lifetime / 10).unwrap_or(validity.not_after);
            Due {
                at: wanted.min(latest),
                why: Why::Window,
            }
        }
        None => {
            let left = if lifetime < SHORT_LIFETIME {
                lifetime / 2
            } else {
                lifetime / 3
            };
            // Earlier, never later.
            let left = left + part_of(lifetime / JITTER_PART, seed);
            Due {
                at: before_end(left).unwrap_or(validity.not_before),
                why: Why::Lifetime,
            }
        }
    }
}

/// When a CA that gave this `Retry-After` is asked again: obeyed from [`ASK_AGAIN_MIN`] to [`ASK_AGAIN_MAX`].
///
/// RFC 9773 s4.3.2: "Clients SHOULD set reasonable limits on their checking interval."
pub fn ask_again(retry_after: Option<Duration>, now: SystemTime) -> SystemTime {
    let wait = retry_after.unwrap_or(ASK_AGAIN_DEFAULT);
    now + wait.clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)
}

/// Between nothing and `whole`, as the seed has it.
pub(crate) fn part_of(whole: Duration, seed: u64) -> Duration {
    // A seed is a hash or a random number; its upper 32 bits are as good as all of it.
    let share = (seed >> 32) as f64 / f64::from(u32::MAX);
    whole.mul_f64(share.min(1.0))
}

/// A number that differs from text to text and stays the same over restarts (FNV-1a, finished as in SplitMix64).
pub fn seed_of(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A certificate that lives shorter than this is renewed at half of its life.
pub const SHORT_LIFETIME: Duration = Duration::from_secs(10 * 24 * 3600);
/// The CA is not asked for its window more often than this.
pub const ASK_AGAIN_MIN: Duration = Duration::from_secs(60);
/// The CA is asked for its window at least this often: twice a day.
pub const ASK_AGAIN_MAX: Duration = Duration::from_secs(12 * 3600);
/// Where the CA does not say when to ask again.
pub const ASK_AGAIN_DEFAULT: Duration = Duration::from_secs(6 * 3600);
/// Renewals by lifetime are spread over this part of the lifetime.
const JITTER_PART: u32 = 30;

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
