//! The certificates of the sites, as they are on disk.

use std::fs;

use mana_certs::store::Store;
use mana_certs::{Bundle, BundleError};

use crate::certificates::names;
use crate::config::{CertificateSource, Config, SiteConfig};
use crate::doctor::facts::{Certificate, CertificateState, Seen};
use crate::error_text::with_sources;

/// One for each site.
pub(super) fn read(config: &Config) -> Vec<Certificate> {
    let each = config.sites.iter().map(|site| Certificate {
        host: site.settings.host.to_string(),
        state: state(site, config),
    });
    each.collect()
}

fn state(site: &SiteConfig, config: &Config) -> Seen<CertificateState> {
    let host = site.settings.host.as_str();
    match &site.certificate {
        CertificateSource::SelfSigned => Ok(CertificateState::SelfSigned),
        CertificateSource::Files { chain, key } => {
            let hosts: Vec<&str> = names(site).collect();
            found(
                Bundle::from_files(host, chain, key, &hosts).map(Some),
                false,
            )
        }
        CertificateSource::Acme => {
            // Whoever may not read the directory does not see that something is in it.
            if let Err(error) = fs::read_dir(config.state_dir.join("certs")) {
                return match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(CertificateState::Awaited),
                    _ => Err(format!("{}: {error}; use sudo", config.state_dir.display())),
                };
            }
            found(Store::at(&config.state_dir).bundle(host), true)
        }
    }
}

fn found(bundle: Result<Option<Bundle>, BundleError>, is_renewed: bool) -> Seen<CertificateState> {
    match bundle {
        Ok(None) => Ok(CertificateState::Awaited),
        Ok(Some(bundle)) => Ok(CertificateState::Valid {
            is_self_signed: bundle.issuer == bundle.subject,
            is_renewed,
            not_before: bundle.not_before,
            not_after: bundle.not_after,
        }),
        // A key that only the daemon's user may read is as it should be.
        Err(BundleError::Unreadable { path, source })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Err(format!("{}: {source}; use sudo", path.display()))
        }
        Err(error) => Ok(CertificateState::Unusable(with_sources(&error))),
    }
}
