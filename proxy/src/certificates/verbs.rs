//! `certs list` and `certs renew`, as the daemon answers them.
//!
//! Owns the replies. What the keeper does not keep, certificates from files and self-signed ones, is told from the
//! keyring.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mana_certs::renew::{Handle, Renewed, days_left};
use mana_control::hooks::{Answer, Certificates};
use mana_control::{Code, Host, Reply};
use serde_json::{Value, json};

use crate::config::{CertificateSource, SiteConfig};
use crate::tls::Keyring;

/// Answers from the keeper and the keyring.
pub struct Verbs {
    /// The keeper.
    pub keeper: Handle,
    /// What is served.
    pub keyring: Arc<Keyring>,
    /// The sites of the configuration in force.
    pub sites: Arc<ArcSwap<Vec<SiteConfig>>>,
}

impl Certificates for Verbs {
    fn list(&self, site: Option<Host>) -> Answer {
        let (keeper, sites) = (self.keeper.clone(), self.sites.load_full());
        let keyring = Arc::clone(&self.keyring);
        Box::pin(async move {
            let Some(kept) = keeper.list().await else {
                return stopping();
            };
            let wanted = |host: &str| site.as_ref().is_none_or(|site| site.as_str() == host);
            let mut certificates: Vec<Value> = Vec::new();
            for site in sites.iter().filter(|s| wanted(s.settings.host.as_str())) {
                let host = site.settings.host.as_str();
                match kept.iter().find(|report| report.site == host) {
                    Some(report) => certificates.extend(serde_json::to_value(report)),
                    None => certificates.push(from_keyring(site, &keyring, SystemTime::now())),
                }
            }
            Reply::done().with("certificates", certificates)
        })
    }

    fn renew(&self, site: Option<Host>, force: bool) -> Answer {
        let keeper = self.keeper.clone();
        Box::pin(async move {
            let host = site.as_ref().map(Host::to_string);
            let Some(renewed) = keeper.renew(host, force).await else {
                return stopping();
            };
            if renewed.is_empty() {
                let hint = r#"only sites with certificate = "acme" are renewed here"#;
                return Reply::refusal(Code::Refused, "there is nothing to renew").with_hint(hint);
            }
            reply(&renewed)
        })
    }
}

fn stopping() -> Reply {
    Reply::refusal(Code::Failed, "the daemon is stopping")
}

fn reply(renewed: &[Renewed]) -> Reply {
    let of = |outcome: &str| {
        let reasons = renewed.iter().filter(|one| one.outcome == outcome);
        let reasons: Vec<String> = reasons
            .map(|one| format!("{}: {}", one.site, one.reason))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    };
    let reply = match (of("failed"), of("held-back")) {
        (Some(reasons), _) => Reply::refusal(Code::Failed, reasons).with_hint(
            "what was served is served on; `mana-proxy certs list` shows the next attempt",
        ),
        (None, Some(reasons)) => Reply::refusal(Code::Refused, reasons)
            .with_hint("waiting costs nothing: what is served is served on"),
        (None, None) => Reply::done(),
    };
    reply.with("renewed", json!(renewed))
}

fn from_keyring(site: &SiteConfig, keyring: &Keyring, now: SystemTime) -> Value {
    let host = site.settings.host.as_str();
    let (source, why) = match &site.certificate {
        CertificateSource::SelfSigned => ("self-signed", "made anew at a restart"),
        CertificateSource::Files { .. } => ("files", "taken when the files change"),
        CertificateSource::Acme => ("acme", "not taken up yet"),
    };
    match keyring.bundle(host) {
        None => json!({ "site": host, "source": source, "has_certificate": false, "why": why }),
        Some(bundle) => json!({
            "site": host,
            "names": bundle.names,
            "source": source,
            "has_certificate": true,
            "issuer": bundle.issuer,
            "not_after": mana_certs::text(bundle.not_after),
            "days_left": days_left(bundle.not_after, now),
            "next_attempt": null,
            "why": why,
        }),
    }
}
