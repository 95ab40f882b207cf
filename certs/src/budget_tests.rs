//! Each refusal, its end, and the limits of what is kept.

#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const BUDGET: Budget = Budget {
    orders_per_week: 3,
    failures_per_hour: 2,
};

const TERMS: Terms<'static> = Terms {
    budget: BUDGET,
    cas: &[],
};

fn ca(directory: &str) -> CaSettings {
    CaSettings {
        directory: directory.to_owned(),
        contact: Vec::new(),
        ca_root: None,
        eab: None,
        profile: None,
    }
}

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn refused(ledger: &Ledger, now: SystemTime) -> Refusal {
    ledger.may_try(TERMS, true, true, now).unwrap_err()
}

#[test]
fn waits_double_up_to_six_hours_and_are_spread() {
    let minutes: Vec<u64> = (1..10)
        .map(|failures| backoff(failures, 0).as_secs() / 60)
        .collect();
    assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 320, 360, 360]);
    assert_eq!(backoff(1, u64::MAX), 6 * MINUTE);
    assert_eq!(backoff(u32::MAX, u64::MAX), BACKOFF_MAX + BACKOFF_MAX / 5);
}

#[test]
fn at_most_four_attempts_fall_into_the_first_hour() {
    let mut ledger = Ledger::default();
    let mut now = start();
    let mut attempts = 0;
    while now < start() + HOUR {
        attempts += 1;
        ledger.failed("no".to_owned(), None, 0, now);
        now = ledger.backoff_until.unwrap();
    }
    assert_eq!(attempts, 4);
}

#[test]
fn a_failure_is_waited_out_and_an_operator_may_pass_over_it() {
    let mut ledger = Ledger::default();
    ledger.failed("no".to_owned(), None, 0, start());
    let refusal = refused(&ledger, start());
    assert_eq!(
        refusal,
        Refusal::Backoff {
            until: start() + 5 * MINUTE
        }
    );
    assert!(ledger.may_try(TERMS, true, false, start()).is_ok());
    assert!(
        ledger
            .may_try(TERMS, true, true, start() + 5 * MINUTE)
            .is_ok()
    );
}

#[test]
fn the_ca_s_retry_after_binds_the_operator_too() {
    let cas = [ca("a")];
    let terms = Terms { cas: &cas, ..TERMS };
    let mut ledger = Ledger::default();
    ledger.failed("no".to_owned(), Some(("a", 90 * MINUTE)), 0, start());
    let refusal = ledger.may_try(terms, true, false, start()).unwrap_err();
    assert_eq!(refusal.until(), start() + 90 * MINUTE);
    assert!(
        refusal.to_string().contains("2027-01-15T09:30:00Z"),
        "{refusal}"
    );
    ledger.failed("no".to_owned(), Some(("a", Duration::MAX)), 0, start());
    assert_eq!(ledger.patience["a"], start() + RETRY_AFTER_MAX);
}

#[test]
fn a_ca_that_asks_for_patience_does_not_hold_up_another() {
    let cas = [ca("a"), ca("b")];
    let terms = Terms { cas: &cas, ..TERMS };
    let mut ledger = Ledger::default();
    ledger.failed("no".to_owned(), Some(("a", 24 * HOUR)), 0, start());
    let now = start() + HOUR;
    assert_eq!(ledger.may_try(terms, true, true, now), Ok(()));
    assert_eq!(ledger.choose(&cas, now).unwrap().directory, "b");
    ledger.failed("no".to_owned(), Some(("b", 48 * HOUR)), 0, now);
    // Both: the one that is over first.
    let refusal = ledger.may_try(terms, true, false, now).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::RetryAfter {
            until: start() + 24 * HOUR
        }
    );
    let now = start() + 24 * HOUR;
    assert_eq!(ledger.may_try(terms, true, false, now), Ok(()));
    assert_eq!(ledger.choose(&cas, now).unwrap().directory, "a");
    // What another CA said of itself is no matter of one that is alone now.
    assert_eq!(ledger.choose(&cas[..0], now), None);
}

#[test]
fn the_fallback_is_tried_after_two_failures_and_then_in_turn() {
    let two = [ca("a"), ca("b")];
    let chosen = |cas: &[CaSettings], failures| {
        let ledger = Ledger {
            failures,
            ..Ledger::default()
        };
        ledger.choose(cas, start()).unwrap().directory.clone()
    };
    let of_two: Vec<String> = (0..6).map(|failures| chosen(&two, failures)).collect();
    assert_eq!(of_two, ["a", "a", "b", "a", "b", "a"]);
    assert!((0..6).all(|failures| chosen(&two[..1], failures) == "a"));
    assert_eq!(chosen(&two[..1], u32::MAX), "a");
}

#[test]
fn failures_of_an_hour_are_bounded_whoever_asks() {
    let mut ledger = Ledger::default();
    ledger.failed("no".to_owned(), None, 0, start());
    ledger.failed("no".to_owned(), None, 0, start() + MINUTE);
    let refusal = ledger
        .may_try(TERMS, false, false, start() + 2 * MINUTE)
        .unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Failures {
            count: 2,
            until: start() + HOUR
        }
    );
    assert!(ledger.may_try(TERMS, false, false, start() + HOUR).is_ok());
}

#[test]
fn orders_of_a_week_are_bounded_but_an_unfinished_one_may_be_finished() {
    let mut ledger = Ledger::default();
    for day in 0..3 {
        ledger.ordering(start() + day * 24 * HOUR);
        ledger.succeeded("ca");
    }
    let now = start() + 3 * 24 * HOUR;
    let refusal = refused(&ledger, now);
    assert_eq!(refusal.until(), start() + WEEK);
    assert!(refusal.to_string().contains("3 certificates"), "{refusal}");
    assert!(ledger.may_try(TERMS, false, true, now).is_ok());
    assert!(ledger.may_try(TERMS, true, true, start() + WEEK).is_ok());
}

#[test]
fn orders_that_came_to_nothing_do_not_use_up_the_week() {
    let mut ledger = Ledger::default();
    let mut now = start();
    // More than the week has, each after the wait of the one before.
    for _ in 0..BUDGET.orders_per_week + 2 {
        let allowed = ledger.may_try(TERMS, true, true, now);
        if let Err(refusal) = allowed {
            assert!(!matches!(refusal, Refusal::Orders { .. }), "{refusal}");
            now = refusal.until();
        }
        ledger.ordering(now);
        ledger.take_back(Some(now));
        ledger.failed("refused".to_owned(), None, 0, now);
    }
    now = refused(&ledger, now).until();
    assert_eq!(ledger.may_try(TERMS, true, true, now), Ok(()));
    assert!(ledger.tried.is_empty());
}

#[test]
fn orders_that_are_found_dead_after_restarts_are_bounded() {
    let mut ledger = Ledger::default();
    for _ in 0..BUDGET.failures_per_hour {
        // Whoever restarts does not wait.
        assert_eq!(ledger.may_try(TERMS, true, true, start()), Ok(()));
        ledger.ordering(start());
        ledger.take_back(Some(start()));
        ledger.found_dead(start());
    }
    let refusal = ledger.may_try(TERMS, true, false, start()).unwrap_err();
    assert!(matches!(refusal, Refusal::Failures { .. }), "{refusal}");
}

#[test]
fn a_clock_that_was_ahead_holds_nothing_back() {
    let ahead = start() + 1000 * WEEK;
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        ledger.ordering(ahead);
        ledger.failed("no".to_owned(), Some(("a", HOUR)), 0, ahead);
    }
    let cas = [ca("a")];
    let terms = Terms { cas: &cas, ..TERMS };
    // At once, and not only at once: what slides along with the clock is never over.
    for later in [Duration::ZERO, HOUR, WEEK, 10 * WEEK] {
        let tried = ledger.may_try(terms, true, true, start() + later);
        assert_eq!(tried, Ok(()), "{later:?}");
    }
}

#[test]
fn a_clock_that_goes_back_a_little_is_no_way_round_a_wait() {
    let mut ledger = Ledger::default();
    let cas = [ca("a")];
    let terms = Terms { cas: &cas, ..TERMS };
    ledger.failed("no".to_owned(), Some(("a", HOUR)), 0, start());
    let refusal = ledger.may_try(terms, true, true, start() - HOUR);
    assert_eq!(refusal.unwrap_err().until(), start() + HOUR);
}

#[test]
fn what_cannot_be_written_as_a_date_is_no_panic() {
    let far = UNIX_EPOCH + Duration::from_secs(i64::MAX as u64);
    let ledger = Ledger {
        tried: vec![far; 5],
        failed: vec![far; 5],
        failures: u32::MAX,
        backoff_until: Some(far),
        patience: BTreeMap::from([("a".to_owned(), far)]),
        ..Ledger::default()
    };
    assert_eq!(ledger.may_try(TERMS, true, true, start()), Ok(()));
    assert_eq!(crate::text(far), "never");
    assert_eq!(crate::text(UNIX_EPOCH - HOUR), "1969-12-31T23:00:00Z");
}

#[test]
fn success_forgets_failures_and_advice_but_not_orders() {
    let mut ledger = Ledger::default();
    ledger.ordering(start());
    ledger.failed("no".to_owned(), Some(("ca", MINUTE)), 0, start());
    ledger.advice = Some(Advice {
        certificate: "a.1".to_owned(),
        window: None,
        ask_again: start(),
    });
    ledger.succeeded("ca");
    assert_eq!(
        ledger,
        Ledger {
            tried: vec![start()],
            directory: Some("ca".to_owned()),
            ..Ledger::default()
        }
    );
}

#[test]
fn what_is_kept_is_bounded() {
    let mut ledger = Ledger::default();
    for _ in 0..MOMENTS_MAX + 5 {
        ledger.ordering(start());
        ledger.failed("x".repeat(ERROR_CHARS_MAX * 2), None, 0, start());
        let directory = ledger.failures.to_string();
        ledger.failed("x".to_owned(), Some((&directory, HOUR)), 0, start());
    }
    assert_eq!(ledger.patience.len(), PATIENCE_MAX);
    assert_eq!(ledger.tried.len(), MOMENTS_MAX);
    assert_eq!(ledger.failed.len(), MOMENTS_MAX);
    ledger.failed("x".repeat(ERROR_CHARS_MAX * 2), None, 0, start());
    assert_eq!(ledger.error.unwrap().len(), ERROR_CHARS_MAX);
}
