//! Bundles for the sites of a configuration.
//!
//! Owns the way from `certificate = ...` to a checked bundle, at start, at a reload and for `check`. An expired bundle is
//! served with a warning rather than none: a name that answers with an old certificate is easier to mend than silence.

use std::time::SystemTime;

use mana_certs::{Bundle, BundleError, self_signed};

use crate::config::{CertificateSource, SiteConfig};
use crate::metrics::Metrics;
use crate::tls::Keyring;

/// The certificate of a site cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the certificate of {host} cannot be used")]
pub struct CertificateError {
    host: String,
    source: BundleError,
}

/// The bundles of all sites, in their order. A self-signed one that `keyring` serves already stays, so that a reload
/// does not change what a developer's browser was told to trust.
///
/// # Errors
/// The first one that is missing, broken, or not for the site's names.
pub fn load_bundles(
    sites: &[SiteConfig],
    keyring: &Keyring,
    metrics: &Metrics,
    now: SystemTime,
) -> Result<Vec<Bundle>, CertificateError> {
    sites
        .iter()
        .map(|site| {
            let host = site.settings.host.as_str();
            let bundle = match kept(site, keyring, now) {
                Some(bundle) => bundle,
                None => load(site, now)?,
            };
            if let Err(error) = bundle.check(now) {
                tracing::warn!(site = host, %error, "the certificate is served all the same");
            }
            metrics.certificate(host, bundle.not_after);
            Ok(bundle)
        })
        .collect()
}

fn kept(site: &SiteConfig, keyring: &Keyring, now: SystemTime) -> Option<Bundle> {
    if site.certificate != CertificateSource::SelfSigned {
        return None;
    }
    let settings = &site.settings;
    let bundle = keyring.bundle(settings.host.as_str())?;
    let mut names = std::iter::once(&settings.host).chain(&settings.aliases);
    let is_good = bundle.issuer == bundle.subject
        && bundle.check(now).is_ok()
        && names.all(|name| bundle.covers(name.as_str()));
    is_good.then_some(bundle)
}

/// The bundle of one site.
///
/// # Errors
/// It is missing, broken, or not for the site's names.
pub fn load(site: &SiteConfig, now: SystemTime) -> Result<Bundle, CertificateError> {
    let host = site.settings.host.as_str();
    let mut hosts = vec![host];
    hosts.extend(site.settings.aliases.iter().map(mana_control::Host::as_str));
    let bundle = match &site.certificate {
        CertificateSource::SelfSigned | CertificateSource::Acme => self_signed(&hosts, now),
        CertificateSource::Files { chain, key } => Bundle::from_files(host, chain, key, &hosts),
    };
    bundle.map_err(|source| CertificateError {
        host: host.to_owned(),
        source,
    })
}
