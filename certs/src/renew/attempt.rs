//! One attempt for one site: the CA is chosen, asked or ordered from, and what came of it is noted on disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use tokio::sync::Mutex;

use super::{AcmeSite, Settings};
use crate::account::{self, Ca, CaSettings, on_disk};
use crate::ari;
use crate::budget::{Budget, ERROR_CHARS_MAX, Ledger, Refusal};
use crate::bundle::Bundle;
use crate::challenge::Challenges;
use crate::order::{OrderError, Wanted, obtain, with_sources};
use crate::preflight::{self, Preflight};
use crate::schedule::Why;
use crate::store::Store;

/// What an attempt works with; it has no part in what the keeper does meanwhile.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) site: AcmeSite,
    pub(super) ledger: Ledger,
    /// The certificate that is in use.
    pub(super) certificate: Option<CertificateIdentifier<'static>>,
    pub(super) settings: Arc<Settings>,
    pub(super) store: Store,
    pub(super) challenges: Arc<Challenges>,
    /// Held while an account is looked for, so that two sites do not register two.
    pub(super) registering: Arc<Mutex<()>>,
}

/// What came of it. The ledger is stored already.
pub(super) enum Outcome {
    Advised(Ledger),
    Issued {
        ledger: Ledger,
        bundle: Bundle,
    },
    Failed {
        ledger: Ledger,
        has_unfinished: bool,
        error: String,
    },
    /// The unfinished order was dead, and there may be no other one yet.
    HeldBack {
        ledger: Ledger,
        refusal: Refusal,
    },
}

// === impl Attempt ===

impl Attempt {
    /// Asks the CA of the certificate when it should be renewed.
    pub(super) async fn ask(mut self) -> Outcome {
        let Some(certificate) = self.certificate.clone() else {
            return Outcome::Advised(self.ledger);
        };
        let before = self.ledger.advice.take();
        let advice = match self.open(self.ca_in_use(), &mut None).await {
            Ok(ca) => ari::ask(&ca, &certificate, before).await,
            Err(error) => {
                let (site, error) = (&self.site.host, with_sources(&error));
                tracing::warn!(site, error, "cannot ask the CA when to renew");
                ari::unanswered(certificate.to_string(), before, SystemTime::now())
            }
        };
        self.ledger.advice = Some(advice);
        if let Err(error) = self.note().await {
            let (site, error) = (&self.site.host, with_sources(&error));
            tracing::error!(site, error, "cannot note the CA's advice");
        }
        Outcome::Advised(self.ledger)
    }

    /// Orders a certificate, or finishes an order.
    pub(super) async fn order(mut self, why: Why) -> Outcome {
        let site = self.site.host.clone();
        tracing::info!(site, %why, "ordering a certificate");
        let settings = Arc::clone(&self.settings);
        let ca = self
            .ledger
            .choose(&settings.cas, SystemTime::now())
            .expect("Settings::cas is not empty");
        let mut retry_after = None;
        let obtained = match self.try_at(ca, &mut retry_after).await {
            Err(error) if error.problem() == Some("accountDoesNotExist") => {
                tracing::warn!(
                    site,
                    directory = ca.directory,
                    "the CA does not know the account any more; registering anew"
                );
                self.start_over(ca, &mut retry_after).await
            }
            other => other,
        };
        match obtained {
            Ok(bundle) => {
                self.ledger.succeeded(&ca.directory);
                if let Err(error) = self.note().await {
                    let error = with_sources(&error);
                    tracing::error!(
                        site,
                        error,
                        "cannot note the success; the certificate is stored"
                    );
                }
                let not_after = crate::text(bundle.not_after);
                tracing::info!(
                    site,
                    not_after,
                    issuer = bundle.issuer,
                    "obtained a certificate"
                );
                warn_of_a_small_budget(&site, &bundle, settings.budget);
                Outcome::Issued {
                    ledger: self.ledger,
                    bundle,
                }
            }
            Err(OrderError::HeldBack(refusal)) => self.held_back(refusal).await,
            Err(error) => {
                let retry_after = retry_after.map(|wait| (ca.directory.as_str(), wait));
                self.failed(&error, retry_after).await
            }
        }
    }

    async fn try_at(
        &mut self,
        settings: &CaSettings,
        retry_after: &mut Option<Duration>,
    ) -> Result<Bundle, OrderError> {
        let (store, host) = (self.store.clone(), self.site.host.clone());
        let has_unfinished = on_disk(move || store.pending(&host)).await??.is_some();
        if !has_unfinished {
            self.preflight().await?;
        }
        // A disk that takes nothing is found out before anybody is bothered.
        self.note().await?;
        let ca = self.open(settings, retry_after).await?;
        let wanted = Wanted {
            host: self.site.host.clone(),
            names: self.site.names.clone(),
            key: self.settings.key,
            prefer: self.settings.prefer,
            profile: settings.profile.clone(),
            replaces: self.replaces(&ca),
            settings: Arc::clone(&self.settings),
        };
        let obtained = obtain(
            &wanted,
            &ca,
            &self.store,
            &self.challenges,
            &mut self.ledger,
        )
        .await;
        if obtained.is_err() {
            *retry_after = ca.patience.wanted();
        }
        obtained
    }

    async fn start_over(
        &mut self,
        ca: &CaSettings,
        retry_after: &mut Option<Duration>,
    ) -> Result<Bundle, OrderError> {
        let (store, host, directory) = (
            self.store.clone(),
            self.site.host.clone(),
            ca.directory.clone(),
        );
        on_disk(move || {
            store.forget_account(&directory)?;
            store.forget_pending(&host)
        })
        .await??;
        // The certificate is that of an account that is no more: the next one cannot name it.
        self.ledger.directory = None;
        self.try_at(ca, retry_after).await
    }

    async fn preflight(&self) -> Result<(), OrderError> {
        if !self.settings.looks_ahead() {
            return Ok(());
        }
        for name in &self.site.names {
            let looked = preflight::look(name, self.settings.preflight_via, &self.challenges).await;
            let Err(reason) = looked else {
                tracing::info!(name, "the name leads to this proxy over http");
                continue;
            };
            if self.settings.preflight == Preflight::Require {
                return Err(OrderError::Preflight {
                    name: name.clone(),
                    reason,
                });
            }
            tracing::warn!(
                name,
                reason,
                "the name does not seem to lead to this proxy over http; the CA is asked all the same"
            );
        }
        Ok(())
    }

    /// What is left of an attempt that panicked: a failure like any other, in front of what is on the disk.
    pub(super) async fn panicked(mut self, text: String) -> Outcome {
        let (store, host) = (self.store.clone(), self.site.host.clone());
        let stored = on_disk(move || store.ledger(&host)).await;
        // What cannot be read is what was known when the attempt began.
        if let Ok(Ok(stored)) = stored {
            self.ledger = stored;
        }
        if let Some(certificate) = &self.certificate {
            // An answer of the CA that cannot be borne is not asked for again at once.
            let (name, before) = (certificate.to_string(), self.ledger.advice.take());
            self.ledger.advice = Some(ari::unanswered(name, before, SystemTime::now()));
        }
        self.failed(&OrderError::Internal(text), None).await
    }

    async fn held_back(self, refusal: Refusal) -> Outcome {
        let site = &self.site.host;
        tracing::warn!(site, %refusal, "no certificate is ordered yet");
        if let Err(error) = self.note().await {
            let error = with_sources(&error);
            tracing::error!(site, error, "cannot note that an order has died");
        }
        Outcome::HeldBack {
            ledger: self.ledger,
            refusal,
        }
    }

    async fn failed(
        mut self,
        error: &OrderError,
        retry_after: Option<(&str, Duration)>,
    ) -> Outcome {
        let text = printable(&with_sources(error));
        self.ledger.failed(
            text.clone(),
            retry_after,
            fastrand::u64(..),
            SystemTime::now(),
        );
        let site = &self.site.host;
        let allowed = self
            .ledger
            .may_try(self.settings.terms(), true, true, SystemTime::now());
        let next = allowed.err().map(|refusal| crate::text(refusal.until()));
        tracing::error!(
            site,
            error = text,
            next,
            "no certificate was obtained; what is served stays as it is"
        );
        if let Err(error) = self.note().await {
            let error = with_sources(&error);
            tracing::error!(site, error, "cannot note the failure");
        }
        let (store, host) = (self.store.clone(), self.site.host.clone());
        let pending = on_disk(move || store.pending(&host)).await;
        Outcome::Failed {
            ledger: self.ledger,
            has_unfinished: matches!(pending, Ok(Ok(Some(_)))),
            error: text,
        }
    }

    async fn open(
        &self,
        settings: &CaSettings,
        retry_after: &mut Option<Duration>,
    ) -> Result<Ca, OrderError> {
        let _turn = self.registering.lock().await;
        account::open(settings, &self.store, retry_after).await
    }

    async fn note(&self) -> Result<(), OrderError> {
        let (store, host) = (self.store.clone(), self.site.host.clone());
        let ledger = self.ledger.clone();
        on_disk(move || store.store_ledger(&host, &ledger)).await??;
        Ok(())
    }

    /// The CA that issued the certificate in use, else the first one.
    fn ca_in_use(&self) -> &CaSettings {
        let cas = &self.settings.cas;
        let issued = self.ledger.directory.as_ref();
        cas.iter()
            .find(|ca| Some(&ca.directory) == issued)
            .unwrap_or(&cas[0])
    }

    /// RFC 9773 s5: "Clients SHOULD include this field in new-order requests if there is a clear predecessor
    /// certificate", which is known only to the CA that issued it.
    fn replaces(&self, ca: &Ca) -> Option<CertificateIdentifier<'static>> {
        let is_theirs = self.ledger.directory.as_deref() == Some(ca.directory.as_str());
        self.certificate.clone().filter(|_| is_theirs)
    }
}

/// Text of others for the log, the ledger and the terminal: what is too long is cut, and what could move the cursor, turn
/// the direction of text or look like another line is escaped. Once, before any of them has it.
fn printable(text: &str) -> String {
    let mut clean = String::new();
    for (index, c) in text.chars().enumerate() {
        if index >= ERROR_CHARS_MAX {
            clean.push_str(" [...]");
            break;
        }
        match c {
            // Escaped in code, harmless in text.
            '"' | '\'' | '\\' => clean.push(c),
            c => clean.extend(c.escape_debug()),
        }
    }
    clean
}

/// Warns of a budget that certificates of such a lifetime use up: they would end before the next one may be ordered.
fn warn_of_a_small_budget(site: &str, bundle: &Bundle, budget: Budget) {
    let lifetime = bundle.not_after.duration_since(bundle.not_before);
    let Ok(needed) = orders_in_a_week(lifetime.unwrap_or_default()).try_into() else {
        return;
    };
    let orders_per_week: usize = budget.orders_per_week;
    if orders_per_week < needed {
        tracing::warn!(
            site,
            orders_per_week,
            needed,
            "certificates of this CA live so short that the budget does not last; raise acme.orders_per_week"
        );
    }
}

/// At half of each lifetime one. Nothing for lifetimes that nobody issues but tests.
fn orders_in_a_week(lifetime: Duration) -> u64 {
    let between = lifetime.as_secs() / 2;
    match between {
        0 => 0,
        between => (7 * 24 * 3600_u64).div_ceil(between),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_ca_says_is_cut_and_cannot_play_with_a_terminal() {
        let said = printable("a \"b\"\n\u{1b}[31m\u{202e}c \u{e4}");
        assert_eq!(said, "a \"b\"\\n\\u{1b}[31m\\u{202e}c \u{e4}");
        let long = printable(&"\u{1}".repeat(300_000));
        assert!(long.len() < ERROR_CHARS_MAX * 10, "{}", long.len());
        assert!(long.ends_with(" [...]"));
    }

    #[test]
    fn a_week_has_as_many_orders_as_half_lives() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(orders_in_a_week(day), 14);
        assert_eq!(orders_in_a_week(6 * day), 3);
        assert_eq!(orders_in_a_week(90 * day), 1);
        assert_eq!(orders_in_a_week(Duration::ZERO), 0);
    }
}
