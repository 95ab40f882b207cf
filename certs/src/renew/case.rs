//! One site of a CA: what it holds, what was tried for it, and who waits for what comes of it.

use std::time::SystemTime;

use tokio::sync::oneshot;

use super::{AcmeSite, Renewed, SiteReport};
use crate::ari;
use crate::budget::{Ledger, Terms};
use crate::bundle::Bundle;
use crate::order::with_sources;
use crate::plan::{Held, Plan, Step, plan};
use crate::schedule::{Validity, Why};
use crate::store::Store;

/// One site of a CA.
pub(super) struct Case {
    pub(super) site: AcmeSite,
    pub(super) bundle: Option<Bundle>,
    pub(super) ledger: Ledger,
    pub(super) has_unfinished: bool,
    pub(super) running: Option<Step>,
    /// An operator wants to know now: backoff is passed over, and the CA is asked for its advice once more.
    pub(super) hurry: Option<Hurry>,
    pub(super) waiting: Vec<oneshot::Sender<Renewed>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hurry {
    Ask,
    Decide,
    Force,
}

pub(super) enum Decision {
    Start(Step),
    Answer(Renewed),
    Wait,
}

// === impl Case ===

impl Case {
    pub(super) async fn read(site: AcmeSite, store: &Store) -> Case {
        let (store, host) = (store.clone(), site.host.clone());
        let read = tokio::task::spawn_blocking(move || {
            (
                store.bundle(&host),
                store.ledger(&host),
                store.pending(&host),
            )
        });
        let (bundle, ledger, pending) = match read.await {
            Ok(read) => read,
            Err(_) => (Ok(None), Ok(Ledger::default()), Ok(None)),
        };
        let host = &site.host;
        let bundle = bundle.unwrap_or_else(|error| {
            let error = with_sources(&error);
            tracing::error!(
                site = host,
                error,
                "the stored certificate cannot be used; another one is ordered"
            );
            None
        });
        let ledger = ledger.unwrap_or_else(|error| {
            let error = with_sources(&error);
            tracing::error!(
                site = host,
                error,
                "what was tried before is not known; the count starts anew"
            );
            Ledger::default()
        });
        let has_unfinished = match pending {
            Ok(pending) => pending.is_some(),
            Err(error) => {
                let error = with_sources(&error);
                tracing::error!(site = host, error, "the unfinished order is lost");
                false
            }
        };
        Case {
            site,
            bundle,
            ledger,
            has_unfinished,
            running: None,
            hurry: None,
            waiting: Vec::new(),
        }
    }

    /// Takes the wish of an operator. One who asks does not take back what one has forced.
    pub(super) fn hurry_up(&mut self, hurry: Hurry) {
        // Who comes while an order is made learns what comes of it.
        let is_under_way = matches!(self.running, Some(Step::Order(_)));
        if !is_under_way && self.hurry != Some(Hurry::Force) {
            self.hurry = Some(hurry);
        }
    }

    /// Whether something is under way that must not be forgotten.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some() || !self.waiting.is_empty()
    }

    fn held(&self, terms: Terms<'_>) -> Option<Held> {
        let bundle = self.bundle.as_ref()?;
        // Whoever takes the test environment out of the configuration does not want to be served its certificate on. One
        // that was imported is of no CA here, and is good until it is due.
        let is_of_ours = |directory: &String| terms.cas.iter().any(|ca| ca.directory == *directory);
        let is_wanted = self.ledger.directory.as_ref().is_none_or(is_of_ours);
        Some(Held {
            validity: Validity {
                not_before: bundle.not_before,
                not_after: bundle.not_after,
            },
            certificate: ari::identifier(bundle).map_or_else(String::new, |id| id.to_string()),
            is_fit: is_wanted && self.site.names.iter().all(|name| bundle.covers(name)),
        })
    }

    pub(super) fn plan(&self, terms: Terms<'_>, now: SystemTime) -> Plan {
        plan(
            self.held(terms).as_ref(),
            &self.ledger,
            self.has_unfinished,
            terms,
            now,
        )
    }

    /// What is done now. Without an operator in a hurry the plan is carried out when its time has come.
    pub(super) fn decide(&self, next: &Plan, terms: Terms<'_>, now: SystemTime) -> Decision {
        let Some(hurry) = self.hurry else {
            return match next.at <= now {
                true => Decision::Start(next.step),
                false => Decision::Wait,
            };
        };
        let is_due = match (&next.held_back, next.step) {
            (Some(_), _) => true,
            (None, _) => next.due.at <= now,
        };
        let held = self.held(terms);
        let asks = held.is_some_and(|held| !held.certificate.is_empty());
        if hurry == Hurry::Ask && asks {
            return Decision::Start(Step::Ask);
        }
        if hurry != Hurry::Force && !is_due {
            return Decision::Answer(Renewed::not_due(&self.site.host, next.due));
        }
        match self.ledger.may_try(terms, !self.has_unfinished, false, now) {
            Err(refusal) => Decision::Answer(Renewed::held_back(&self.site.host, &refusal)),
            Ok(()) if is_due => Decision::Start(Step::Order(next.due.why)),
            Ok(()) => Decision::Start(Step::Order(Why::Forced)),
        }
    }

    pub(super) fn answer(&mut self, renewed: &Renewed) {
        for waiting in self.waiting.drain(..) {
            // Who asked may be gone.
            waiting.send(renewed.clone()).ok();
        }
    }

    pub(super) fn report(&self, terms: Terms<'_>, now: SystemTime) -> SiteReport {
        let next = self.plan(terms, now);
        SiteReport::new(
            &self.site,
            self.bundle.as_ref(),
            &self.ledger,
            &next,
            self.running.is_some(),
            now,
        )
    }
}
