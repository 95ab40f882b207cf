//! What an answer means: sent, to be sent again after some time, or not wanted. Pure.
//!
//! Owns the rules for repeating, and the waits.

use std::time::Duration;

use http::header::{HeaderMap, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

/// How long a sender goes on, and how long it waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Default 10 min: nothing is begun after it. What is left then is the next sender's.
    pub total: Duration,
    /// Default 15 s: for one request, from the name's resolution to the answer.
    pub request: Duration,
    /// Default 1 s: until the second attempt; each wait after it is twice as long.
    pub first: Duration,
    /// Default 1 min: the longest of these waits.
    pub longest: Duration,
    /// Default 1 h: the longest wait that a destination may ask for.
    pub asked_max: Duration,
}

/// What a destination said.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long it wants to be left alone before the same is sent again.
    pub(super) asked: Option<Duration>,
    /// How long it wants to be left alone after what it has taken.
    pub(super) rest: Option<Duration>,
    /// Its own words, if they may be shown.
    pub(super) says: Option<String>,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was taken; the next message waits so long.
    Taken(Duration),
    /// It is sent again after so long.
    Again(Duration),
    /// It will never be taken.
    Refused,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::DEFAULT
    }
}

// === impl Patience ===

impl Patience {
    /// What [`Patience::default`] is.
    pub const DEFAULT: Patience = Patience {
        total: Duration::from_secs(600),
        request: Duration::from_secs(15),
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        asked_max: Duration::from_secs(3600),
    };

    /// The wait after so many attempts in vain: `first`, twice that, and so on up to `longest`.
    pub(super) fn after(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1));
        let wait = self.first.saturating_mul(doubled.unwrap_or(u32::MAX));
        wait.min(self.longest)
    }

    /// What follows from the answer to the attempt of this number, from 1; none is a connection that failed or a
    /// destination that was silent.
    pub(super) fn judge(&self, answer: Option<&Answer>, attempt: u32) -> Verdict {
        let backoff = self.after(attempt);
        let Some(answer) = answer else {
            return Verdict::Again(backoff);
        };
        match answer.status.as_u16() {
            200..=299 => Verdict::Taken(answer.rest.unwrap_or_default().min(self.asked_max)),
            408 | 429 | 500..=599 => {
                let asked = answer.asked.map(|asked| asked.min(self.asked_max));
                Verdict::Again(asked.map_or(backoff, |asked| asked.max(self.first)))
            }
            // A redirect too: whoever answers it could send messages anywhere.
            _ => Verdict::Refused,
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Reads what a head and the beginning of a body say about waiting.
    ///
    /// `Retry-After` in seconds (RFC 9110 s10.2.3; a date is left out, since it needs two clocks that agree), in Discord's
    /// JSON `{"message":"You are being rate limited.","retry_after":0.65,"global":false}`, and its
    /// `X-RateLimit-Remaining: 0` with `X-RateLimit-Reset-After: 1.5`.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
        let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let in_json = json.as_ref().and_then(|json| json["retry_after"].as_f64());
        let reset = || {
            let is_spent = headers
                .get("x-ratelimit-remaining")
                .is_some_and(|left| left.as_bytes() == b"0");
            let reset = headers
                .get("x-ratelimit-reset-after")
                .filter(|_| is_spent)?;
            seconds(reset)
        };
        let message = json.as_ref().and_then(|json| json["message"].as_str());
        let text =
            message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
        let says = super::text::one_line(&text, SAYS_UNITS_MAX);
        Answer {
            status,
            asked: in_json
                .and_then(duration)
                .or_else(|| headers.get(RETRY_AFTER).and_then(seconds))
                .or_else(reset),
            rest: reset(),
            says: (!says.is_empty()).then_some(says),
        }
    }
}

fn seconds(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let is_number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_number.then(|| text.parse().ok().and_then(duration))?
}

/// More seconds than can be counted are as many as can; fewer than none are no answer.
fn duration(seconds: f64) -> Option<Duration> {
    let is_wait = seconds.is_finite() && seconds >= 0.0;
    is_wait.then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Of a destination's own words.
const SAYS_UNITS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Answer::read(StatusCode::from_u16(status).unwrap(), &map, body.as_bytes())
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let patience = Patience::default();
        for (attempts, seconds) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (u32::MAX, 60),
        ] {
            assert_eq!(
                patience.after(attempts),
                Duration::from_secs(seconds),
                "{attempts}"
            );
        }
    }

    #[test]
    fn a_status_decides_what_follows() {
        let patience = Patience::default();
        for (status, verdict) in [
            (200, Verdict::Taken(Duration::ZERO)),
            (204, Verdict::Taken(Duration::ZERO)),
            (301, Verdict::Refused),
            (307, Verdict::Refused),
            (400, Verdict::Refused),
            (401, Verdict::Refused),
            (404, Verdict::Refused),
            (408, Verdict::Again(Duration::from_secs(2))),
            (410, Verdict::Refused),
            (429, Verdict::Again(Duration::from_secs(2))),
            (500, Verdict::Again(Duration::from_secs(2))),
            (503, Verdict::Again(Duration::from_secs(2))),
            (599, Verdict::Again(Duration::from_secs(2))),
            (600, Verdict::Refused),
        ] {
            let answer = answer(status, &[], "");
            assert_eq!(patience.judge(Some(&answer), 2), verdict, "{status}");
        }
        assert_eq!(
            patience.judge(None, 2),
            Verdict::Again(Duration::from_secs(2))
        );
    }

    #[test]
    fn a_destination_says_how_long_to_wait() {
        let patience = Patience::default();
        let ms = Duration::from_millis;
        type Case = (
            &'static [(&'static str, &'static str)],
            &'static str,
            Duration,
        );
        let table: &[Case] = &[
            (&[("retry-after", "7")], "", ms(7000)),
            (&[("retry-after", "0")], "", ms(1000)),
            (&[("retry-after", "7")], r#"{"retry_after":2.5}"#, ms(2500)),
            (&[], r#"{"retry_after":64.57,"global":false}"#, ms(64_570)),
            (
                &[("retry-after", "99999999999999999999999")],
                "",
                ms(3_600_000),
            ),
            (&[], r#"{"retry_after":1e300}"#, ms(3_600_000)),
            (
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset-after", "4.5"),
                ],
                "",
                ms(4500),
            ),
            // What says nothing: the usual wait.
            (
                &[
                    ("x-ratelimit-remaining", "1"),
                    ("x-ratelimit-reset-after", "4.5"),
                ],
                "",
                ms(2000),
            ),
            (
                &[("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT")],
                "",
                ms(2000),
            ),
            (&[("retry-after", "-1")], r#"{"retry_after":-1}"#, ms(2000)),
            (&[("retry-after", "")], r#"{"retry_after":"x"}"#, ms(2000)),
            (&[("retry-after", "1.2.3")], "[]", ms(2000)),
        ];
        for (headers, body, wait) in table {
            for status in [429, 503] {
                let answer = answer(status, headers, body);
                let verdict = patience.judge(Some(&answer), 2);
                assert_eq!(verdict, Verdict::Again(*wait), "{headers:?} {body}");
            }
        }
    }

    #[test]
    fn a_destination_that_is_spent_has_a_rest() {
        let spent = [
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset-after", "1.5"),
        ];
        let taken = answer(204, &spent, "");
        let verdict = Patience::default().judge(Some(&taken), 1);
        assert_eq!(verdict, Verdict::Taken(Duration::from_millis(1500)));
    }

    #[test]
    fn the_words_of_a_destination_are_short_and_clean() {
        for (body, says) in [
            ("", None),
            ("no_service", Some("no_service")),
            (
                r#"{"message":"Unknown Webhook","code":10015}"#,
                Some("Unknown Webhook"),
            ),
            ("a\r\nb\u{1b}[2J", Some("a  b")),
        ] {
            assert_eq!(answer(404, &[], body).says.as_deref(), says, "{body:?}");
        }
        let long = answer(404, &[], &"x".repeat(5000)).says.unwrap();
        assert_eq!(super::super::text::units(&long), SAYS_UNITS_MAX);
    }
}
