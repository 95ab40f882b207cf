//! What is done next for a site, and when. Pure: the certificate, the ledger and the clock in, a step out.
//!
//! Joins [`crate::schedule`], which says when a certificate is due, with [`crate::budget`], which says what may be tried.

use std::time::SystemTime;

use crate::budget::{Ledger, Refusal, Terms};
use crate::schedule::{Due, Validity, Why, due, seed_of};

/// The certificate of a site, as far as plans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its dates.
    pub validity: Validity,
    /// Its name at the CA (RFC 9773 s4.1); empty if it has none.
    pub certificate: String,
    /// Whether it covers all names of the site, and is of a CA that is configured.
    pub is_fit: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A certificate is ordered.
    Order(Why),
    /// The CA is asked when to renew.
    Ask,
}

/// The next step of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Not before then.
    pub at: SystemTime,
    /// The step.
    pub step: Step,
    /// When the next certificate is ordered, whatever is done before, and why.
    pub due: Due,
    /// What holds back an order that is due.
    pub held_back: Option<Refusal>,
}

/// The next step. `at <= now` means now. The CA is asked before it is ordered from, so that an order never goes out on
/// advice that is older than [`crate::schedule::ASK_AGAIN_MAX`].
pub fn plan(
    held: Option<&Held>,
    ledger: &Ledger,
    has_unfinished: bool,
    terms: Terms<'_>,
    now: SystemTime,
) -> Plan {
    let wanted = wanted(held, ledger, has_unfinished, now);
    let is_new_order = !has_unfinished;
    let refusal = ledger
        .may_try(terms, is_new_order, true, now.max(wanted.at))
        .err();
    let order_at = refusal
        .as_ref()
        .map_or(wanted.at, |refusal| refusal.until().max(wanted.at));
    let order = Plan {
        at: order_at,
        step: Step::Order(wanted.why),
        due: Due {
            at: order_at,
            why: wanted.why,
        },
        held_back: refusal.filter(|_| wanted.at <= now),
    };
    let asks = held.filter(|held| held.is_fit && !held.certificate.is_empty());
    match asks.map(|held| ask_at(held, ledger, now)) {
        Some(at) if at <= order.at => Plan {
            at,
            step: Step::Ask,
            ..order
        },
        _ => order,
    }
}

fn wanted(held: Option<&Held>, ledger: &Ledger, has_unfinished: bool, now: SystemTime) -> Due {
    let at_once = |why| Due { at: now, why };
    match held {
        _ if has_unfinished => at_once(Why::Unfinished),
        None => at_once(Why::Missing),
        Some(held) if !held.is_fit => at_once(Why::Unfit),
        Some(held) => {
            let window = ledger
                .advice
                .as_ref()
                .and_then(|advice| advice.window_for(&held.certificate));
            due(held.validity, window, seed_of(&held.certificate))
        }
    }
}

fn ask_at(held: &Held, ledger: &Ledger, now: SystemTime) -> SystemTime {
    let advice = ledger.advice.as_ref();
    match advice.filter(|advice| advice.certificate == held.certificate) {
        // What a clock that was wrong has put off for longer than is ever put off is asked now.
        Some(advice) if advice.ask_again > now + crate::schedule::ASK_AGAIN_MAX => now,
        Some(advice) => advice.ask_again,
        None => now,
    }
}
