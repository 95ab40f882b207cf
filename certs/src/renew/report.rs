//! What the keeper says of its sites, for `certs list` and `certs renew`. Times are RFC 3339 text.

use std::time::SystemTime;

use serde::Serialize;

use super::AcmeSite;
use crate::budget::{Ledger, Refusal};
use crate::bundle::Bundle;
use crate::plan::Plan;
use crate::schedule::Due;

/// One site.
#[derive(Clone, Debug, Serialize)]
pub struct SiteReport {
    /// The canonical host.
    pub site: String,
    /// What the certificate covers; what it should cover, if there is none.
    pub names: Vec<String>,
    /// `acme`
    pub source: &'static str,
    /// Whether there is a certificate.
    pub has_certificate: bool,
    /// Who signed it.
    pub issuer: Option<String>,
    /// Its last moment.
    pub not_after: Option<String>,
    /// Whole days until then; negative if it has passed.
    pub days_left: Option<i64>,
    /// When the next one is ordered.
    pub next_attempt: String,
    /// Why then.
    pub why: String,
    /// Whether an attempt is being made.
    pub is_running: bool,
    /// Failures since the last success.
    pub failures: u32,
    /// What went wrong the last time.
    pub error: Option<String>,
    /// What holds back an order that is due.
    pub held_back: Option<String>,
}

/// What came of a wish to renew.
#[derive(Clone, Debug, Serialize)]
pub struct Renewed {
    /// The canonical host.
    pub site: String,
    /// `issued`, `not-due`, `held-back` or `failed`.
    pub outcome: &'static str,
    /// What is to be said of it.
    pub reason: String,
    /// When the next attempt is made.
    pub next_attempt: Option<String>,
}

// === impl SiteReport ===

impl SiteReport {
    pub(super) fn new(
        site: &AcmeSite,
        bundle: Option<&Bundle>,
        ledger: &Ledger,
        next: &Plan,
        is_running: bool,
        now: SystemTime,
    ) -> SiteReport {
        let names = bundle.map_or(&site.names, |bundle| &bundle.names);
        SiteReport {
            site: site.host.clone(),
            names: names.clone(),
            source: "acme",
            has_certificate: bundle.is_some(),
            issuer: bundle.map(|bundle| bundle.issuer.clone()),
            not_after: bundle.map(|bundle| crate::text(bundle.not_after)),
            days_left: bundle.map(|bundle| days_left(bundle.not_after, now)),
            next_attempt: crate::text(next.due.at),
            why: next.due.why.to_string(),
            is_running,
            failures: ledger.failures,
            error: ledger.error.clone(),
            held_back: next.held_back.as_ref().map(ToString::to_string),
        }
    }
}

/// Whole days until a moment; negative if it has passed.
pub fn days_left(not_after: SystemTime, now: SystemTime) -> i64 {
    let days = |seconds: u64| i64::try_from(seconds / DAY_S).unwrap_or(i64::MAX);
    match not_after.duration_since(now) {
        Ok(left) => days(left.as_secs()),
        Err(over) => -1 - days(over.duration().as_secs()),
    }
}

// === impl Renewed ===

impl Renewed {
    pub(super) fn issued(site: &str, bundle: &Bundle) -> Renewed {
        Renewed {
            site: site.to_owned(),
            outcome: "issued",
            reason: format!("valid until {}", crate::text(bundle.not_after)),
            next_attempt: None,
        }
    }

    pub(super) fn not_due(site: &str, due: Due) -> Renewed {
        let at = crate::text(due.at);
        Renewed {
            site: site.to_owned(),
            outcome: "not-due",
            reason: format!("not due before {at} ({})", due.why),
            next_attempt: Some(at),
        }
    }

    pub(super) fn held_back(site: &str, refusal: &Refusal) -> Renewed {
        Renewed {
            site: site.to_owned(),
            outcome: "held-back",
            reason: refusal.to_string(),
            next_attempt: Some(crate::text(refusal.until())),
        }
    }

    pub(super) fn left(site: &str) -> Renewed {
        Renewed {
            site: site.to_owned(),
            outcome: "failed",
            reason: "the site has left the configuration".to_owned(),
            next_attempt: None,
        }
    }

    pub(super) fn failed(site: &str, error: String, next: Option<SystemTime>) -> Renewed {
        Renewed {
            site: site.to_owned(),
            outcome: "failed",
            reason: error,
            next_attempt: next.map(crate::text),
        }
    }
}

const DAY_S: u64 = 24 * 3600;
