//! Every lifetime and every kind of advice, and a year of virtual time.

#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use super::*;
use crate::budget::{Budget, Ledger, Terms};
use crate::plan::{Held, Step, plan};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const BUDGET: Budget = Budget {
    orders_per_week: 5,
    failures_per_hour: 4,
};
const TERMS: Terms<'static> = Terms {
    budget: BUDGET,
    cas: &[],
};

fn start() -> SystemTime {
    UNIX_EPOCH + 20_000 * DAY
}

fn living(days: u32) -> Validity {
    Validity {
        not_before: start(),
        not_after: start() + days * DAY,
    }
}

fn window(from: Duration, to: Duration) -> Option<Window> {
    Some(Window {
        start: start() + from,
        end: start() + to,
    })
}

#[test]
fn each_lifetime_has_its_moment() {
    // Days of life, and hours of it left at the latest moment; jitter only makes it earlier.
    for (days, left_hours) in [
        (6, 72),
        (7, 84),
        (45, 360),
        (64, 512),
        (90, 720),
        (398, 3184),
    ] {
        let latest = start() + days * DAY - left_hours * HOUR;
        let earliest = latest - days * DAY / JITTER_PART;
        for seed in [0, 1 << 40, u64::MAX / 2, u64::MAX] {
            let due = due(living(days), None, seed);
            assert_eq!(due.why, Why::Lifetime);
            assert!(
                due.at >= earliest && due.at <= latest,
                "{days} days, seed {seed}"
            );
        }
        assert_eq!(due(living(days), None, 0).at, latest, "{days} days");
        assert!(due(living(days), None, u64::MAX).at < latest, "{days} days");
    }
}

#[test]
fn odd_lifetimes_are_survived() {
    let backwards = Validity {
        not_before: start() + DAY,
        not_after: start(),
    };
    assert!(due(backwards, None, u64::MAX).at <= start() + DAY);
    let seconds = Validity {
        not_before: start(),
        not_after: start() + Duration::from_secs(8),
    };
    assert_eq!(due(seconds, None, 0).at, start() + Duration::from_secs(4));
}

#[test]
fn a_window_is_obeyed_with_jitter() {
    let suggested = window(30 * DAY, 32 * DAY);
    let at = |seed| due(living(90), suggested, seed).at;
    assert_eq!(at(0), start() + 30 * DAY);
    assert_eq!(at(u64::MAX), start() + 32 * DAY);
    let middle = at(u64::MAX / 2);
    assert!(middle > start() + 30 * DAY && middle < start() + 32 * DAY);
    assert_eq!(due(living(90), suggested, 7).why, Why::Window);
}

#[test]
fn a_window_in_the_past_is_now_and_one_behind_the_end_is_not_waited_for() {
    let past = window(DAY, 2 * DAY);
    assert!(due(living(90), past, u64::MAX).at <= start() + 2 * DAY);
    let late = window(89 * DAY, 100 * DAY);
    assert_eq!(due(living(90), late, u64::MAX).at, start() + 81 * DAY);
}

#[test]
fn an_empty_window_says_nothing() {
    let advice = |from, to| Advice {
        certificate: "a.1".to_owned(),
        window: window(from, to),
        ask_again: start(),
    };
    assert!(advice(DAY, 2 * DAY).window_for("a.1").is_some());
    assert!(advice(DAY, DAY).window_for("a.1").is_none());
    assert!(advice(2 * DAY, DAY).window_for("a.1").is_none());
}

#[test]
fn advice_counts_for_its_own_certificate_only() {
    let advice = Advice {
        certificate: "a.1".to_owned(),
        window: window(Duration::ZERO, HOUR),
        ask_again: start() + 12 * HOUR,
    };
    let ledger = Ledger {
        advice: Some(advice),
        ..Ledger::default()
    };
    // A certificate that was issued with a backdated start, while the window of the one before is in the past.
    let held = |certificate: &str| Held {
        validity: living(90),
        certificate: certificate.to_owned(),
        is_fit: true,
    };
    let now = start() + 2 * HOUR;
    let old = plan(Some(&held("a.1")), &ledger, false, TERMS, now);
    assert_eq!(old.step, Step::Order(Why::Window));
    let new = plan(Some(&held("a.2")), &ledger, false, TERMS, now);
    assert_eq!(new.step, Step::Ask);
    assert_eq!(new.due.why, Why::Lifetime);
    assert!(new.due.at > now + 50 * DAY);
}

#[test]
fn retry_after_is_obeyed_within_limits() {
    let now = start();
    for (wanted, waited) in [
        (None, 6 * HOUR),
        (Some(Duration::ZERO), Duration::from_secs(60)),
        (Some(HOUR), HOUR),
        (Some(24 * HOUR), 12 * HOUR),
        (Some(Duration::MAX), 12 * HOUR),
    ] {
        assert_eq!(ask_again(wanted, now), now + waited, "{wanted:?}");
    }
}

#[test]
fn a_seed_is_the_same_after_a_restart_and_differs_between_certificates() {
    assert_eq!(seed_of("a.1"), seed_of("a.1"));
    let spread: std::collections::HashSet<u64> = (0..1000)
        .map(|number| seed_of(&format!("aki.{number}")) >> 60)
        .collect();
    assert_eq!(spread.len(), 16, "the upper bits are used as well");
}

/// What a CA of the simulation does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Advises {
    Nothing,
    /// A window around two thirds of the life.
    TwoThirds,
    /// "Renew at once", whatever it is asked about: a CA gone wrong.
    AlwaysNow,
    /// Every second answer fails.
    Sometimes,
}

/// Lives a year from event to event. Orders made, and the least time that was left when one was.
fn year(days: u32, advises: Advises, fails_every: usize) -> (usize, Duration) {
    let end = start() + 365 * DAY;
    let mut now = start();
    let (mut held, mut ledger) = (None::<Held>, Ledger::default());
    let (mut orders, mut attempts, mut asked) = (0_usize, 0_usize, 0_usize);
    let mut least_left = Duration::MAX;
    let mut asked_last = start();
    while now < end {
        let next = plan(held.as_ref(), &ledger, false, TERMS, now);
        assert!(next.at.duration_since(now).unwrap_or_default() < 2 * 398 * DAY);
        if next.at > now {
            now = next.at;
            continue;
        }
        match next.step {
            Step::Ask => {
                let certificate = held.as_ref().unwrap().certificate.clone();
                let validity = held.as_ref().unwrap().validity;
                let gap = now.duration_since(asked_last).unwrap();
                assert!(gap <= 12 * HOUR || asked == 0, "not asked for {gap:?}");
                asked += 1;
                asked_last = now;
                let part = |n: u32| validity.not_before + validity.lifetime() * n / 100;
                let window = match advises {
                    Advises::Nothing => None,
                    Advises::Sometimes if asked % 2 == 0 => {
                        let before = ledger.advice.take();
                        ledger.advice = Some(crate::ari::unanswered(certificate, before, now));
                        now += Duration::from_secs(1);
                        continue;
                    }
                    Advises::TwoThirds | Advises::Sometimes => Some(Window {
                        start: part(65),
                        end: part(68),
                    }),
                    Advises::AlwaysNow => Some(Window {
                        start: start(),
                        end: start() + HOUR,
                    }),
                };
                ledger.advice = Some(Advice {
                    certificate,
                    window,
                    ask_again: ask_again(None, now),
                });
            }
            Step::Order(_) => {
                if let Some(held) = &held {
                    let left = held.validity.not_after.duration_since(now);
                    least_left = least_left.min(left.expect("it is not renewed too late"));
                }
                ledger.ordering(now);
                attempts += 1;
                if fails_every > 0 && attempts % fails_every == 0 {
                    ledger.failed("down".to_owned(), None, seed_of("x"), now);
                } else {
                    orders += 1;
                    // Backdated by an hour, as Let's Encrypt does.
                    let validity = Validity {
                        not_before: now - HOUR,
                        not_after: now - HOUR + days * DAY,
                    };
                    ledger.succeeded("ca");
                    held = Some(Held {
                        validity,
                        certificate: format!("aki.{orders}"),
                        is_fit: true,
                    });
                }
            }
        }
        now += Duration::from_secs(1);
    }
    (orders, least_left)
}

#[test]
fn a_year_of_each_lifetime_has_no_gap_and_no_needless_order() {
    // Days of life, and the orders of a year: at most one for each two thirds (or half) of a life, and a little jitter.
    for (days, most) in [(6, 132), (45, 14), (64, 10), (90, 8)] {
        for advises in [Advises::Nothing, Advises::TwoThirds, Advises::Sometimes] {
            let (orders, left) = year(days, advises, 0);
            assert!(orders <= most && orders > 3, "{days} {advises:?}: {orders}");
            assert!(left >= days * DAY / 10, "{days} {advises:?}: {left:?}");
        }
    }
}

#[test]
fn a_year_with_every_third_attempt_failing_has_no_gap() {
    for days in [6, 45, 64, 90] {
        let (orders, left) = year(days, Advises::TwoThirds, 3);
        assert!(orders > 3 && left >= days * DAY / 10 - 6 * HOUR, "{days}");
    }
}

#[test]
fn a_ca_that_always_says_renew_now_gets_no_more_orders_than_the_budget() {
    let (orders, _) = year(90, Advises::AlwaysNow, 0);
    assert!(orders <= 53 * BUDGET.orders_per_week, "{orders}");
}
