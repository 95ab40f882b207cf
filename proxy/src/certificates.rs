//! Certificates for the sites of a configuration.
//!
//! Owns the way from `certificate = ...` to what the keyring serves, at start, at a reload and for `check`, and what the
//! keeper of `mana-certs` is given to do. An expired bundle is served with a warning rather than none: a name that
//! answers with an old certificate is easier to mend than silence.

mod verbs;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mana_certs::budget::Budget;
use mana_certs::files::{FilePair, Watched};
use mana_certs::renew::{AcmeSite, Settings, Work};
use mana_certs::store::Store;
use mana_certs::{Bundle, BundleError, CaSettings, Eab, NotBase64, self_signed};
use mana_control::Host;

use crate::config::{AcmeCa, CertificateSource, Config, EabConfig, First, SiteConfig};
use crate::metrics::Metrics;
use crate::tls::Keyring;

pub use verbs::Verbs;

/// A certificate cannot be served, or not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The one of a site is missing, broken, or not for its names.
    #[error("the certificate of {host} cannot be used")]
    Unusable {
        /// The canonical host.
        host: String,
        /// What is wrong with it.
        source: BundleError,
    },
    /// The key of an external account binding cannot be read.
    #[error("cannot read acme.eab.hmac_key_file {}", path.display())]
    EabUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is none.
    #[error("cannot use acme.eab.hmac_key_file {}", path.display())]
    EabUnusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: NotBase64,
    },
}

/// What is served at first.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the sites.
    pub bundles: Vec<Bundle>,
    /// Names without a certificate, whose handshakes fail until there is one.
    pub bare: HashSet<String>,
    /// The canonical host of each name.
    pub own: HashMap<String, String>,
    /// Pairs of files, and how they looked before they were read: what changes after that is found.
    pub watched: Vec<Watched>,
}

/// The bundles of all sites. A self-signed one that `keyring` serves already stays, so that a reload does not change
/// what a developer's browser was told to trust; so does whatever was obtained from a CA.
///
/// # Errors
/// The first one that is missing, broken, or not for the site's names. One of a CA is never: it is ordered again.
pub fn load_bundles(
    config: &Config,
    keyring: &Keyring,
    metrics: &Metrics,
    now: SystemTime,
) -> Result<Loaded, CertificateError> {
    let store = Store::at(&config.state_dir);
    let mut loaded = Loaded::default();
    for site in &config.sites {
        let host = site.settings.host.as_str();
        let own = names(site).map(|name| (name.to_owned(), host.to_owned()));
        loaded.own.extend(own);
        if let Some(pair) = file_pair(site) {
            let seen = pair.seen();
            loaded.watched.push(Watched::new(pair, seen));
        }
        let found = match (&site.certificate, kept(site, keyring, now)) {
            (_, Some(bundle)) => Some(bundle),
            (CertificateSource::Acme, None) => first(site, &store, config.acme.first, now)?,
            (_, None) => Some(load(site, now)?),
        };
        let Some(bundle) = found else {
            loaded.bare.extend(names(site).map(str::to_owned));
            continue;
        };
        if let Err(error) = bundle.check(now) {
            tracing::warn!(site = host, %error, "the certificate is served all the same");
        }
        metrics.certificate(host, bundle.not_after);
        loaded.bundles.push(bundle);
    }
    Ok(loaded)
}

/// What the keyring has and may keep.
fn kept(site: &SiteConfig, keyring: &Keyring, now: SystemTime) -> Option<Bundle> {
    let bundle = keyring.bundle(site.settings.host.as_str())?;
    let is_self_signed = bundle.issuer == bundle.subject;
    let is_good = bundle.check(now).is_ok() && names(site).all(|name| bundle.covers(name));
    let is_kept = match &site.certificate {
        CertificateSource::SelfSigned => is_self_signed && is_good,
        // The keeper sees to one that no longer fits.
        CertificateSource::Acme => !is_self_signed,
        CertificateSource::Files { .. } => false,
    };
    is_kept.then_some(bundle)
}

/// What a site of a CA begins with: what is stored, else what stands in for it.
fn first(
    site: &SiteConfig,
    store: &Store,
    policy: First,
    now: SystemTime,
) -> Result<Option<Bundle>, CertificateError> {
    let host = site.settings.host.as_str();
    match store.bundle(host) {
        Ok(Some(bundle)) => return Ok(Some(bundle)),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(site = host, %error, "the stored certificate cannot be used");
        }
    }
    match policy {
        First::Alert => Ok(None),
        First::SelfSigned => load(site, now).map(Some),
    }
}

/// The bundle of one site, made anew where it comes from no file.
///
/// # Errors
/// It is missing, broken, or not for the site's names.
pub fn load(site: &SiteConfig, now: SystemTime) -> Result<Bundle, CertificateError> {
    let host = site.settings.host.as_str();
    let hosts: Vec<&str> = names(site).collect();
    let bundle = match &site.certificate {
        CertificateSource::SelfSigned | CertificateSource::Acme => self_signed(&hosts, now),
        CertificateSource::Files { chain, key } => Bundle::from_files(host, chain, key, &hosts),
    };
    bundle.map_err(|source| CertificateError::Unusable {
        host: host.to_owned(),
        source,
    })
}

/// The host of a site and its aliases.
pub fn names(site: &SiteConfig) -> impl Iterator<Item = &str> {
    let settings = &site.settings;
    std::iter::once(&settings.host)
        .chain(&settings.aliases)
        .map(Host::as_str)
}

fn file_pair(site: &SiteConfig) -> Option<FilePair> {
    match &site.certificate {
        CertificateSource::Files { chain, key } => Some(FilePair {
            host: site.settings.host.to_string(),
            names: names(site).map(str::to_owned).collect(),
            chain: chain.clone(),
            key: key.clone(),
        }),
        CertificateSource::SelfSigned | CertificateSource::Acme => None,
    }
}

/// What the keeper has to do for a configuration whose bundles were loaded. Reads the key of an external account binding.
///
/// # Errors
/// `EabUnreadable`, `EabUnusable`.
pub fn work(config: &Config, watched: Vec<Watched>) -> Result<Work, CertificateError> {
    let acme = &config.acme;
    let mut cas = vec![ca(&acme.ca)?];
    if let Some(fallback) = &acme.fallback {
        cas.push(ca(fallback)?);
    }
    let of_ca = |site: &&SiteConfig| site.certificate == CertificateSource::Acme;
    let sites = config.sites.iter().filter(of_ca).map(|site| AcmeSite {
        host: site.settings.host.to_string(),
        names: names(site).map(str::to_owned).collect(),
    });
    Ok(Work {
        acme: sites.collect(),
        files: watched,
        settings: Settings {
            cas,
            key: acme.key,
            prefer: acme.challenge,
            preflight: acme.preflight,
            preflight_via: acme.preflight_via,
            budget: Budget {
                orders_per_week: acme.orders_per_week,
                failures_per_hour: FAILURES_PER_HOUR,
            },
        },
    })
}

fn ca(ca: &AcmeCa) -> Result<CaSettings, CertificateError> {
    let eab = match &ca.eab {
        None => None,
        Some(EabConfig::Inline(eab)) => Some(eab.clone()),
        Some(EabConfig::File { kid, path }) => Some(read_eab(kid, path)?),
    };
    Ok(CaSettings {
        directory: ca.directory.clone(),
        contact: ca.contact.clone(),
        ca_root: ca.ca_root.clone(),
        eab,
        profile: ca.profile.clone(),
    })
}

fn read_eab(kid: &str, path: &Path) -> Result<Eab, CertificateError> {
    let text = std::fs::read_to_string(path).map_err(|source| CertificateError::EabUnreadable {
        path: path.to_owned(),
        source,
    })?;
    Eab::new(kid, &text).map_err(|source| CertificateError::EabUnusable {
        path: path.to_owned(),
        source,
    })
}

/// Failed attempts of a site within an hour. Let's Encrypt allows five failed validations of a name.
const FAILURES_PER_HOUR: usize = 4;
