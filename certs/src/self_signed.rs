//! Certificates for development: signed by themselves, trusted by nobody.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use time::OffsetDateTime;

use crate::bundle::{Bundle, BundleError};

/// How long a self-signed certificate is valid.
pub const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// It is valid from this long before it is made, for clients whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A fresh key (ECDSA P-256) and a certificate of it for these hosts, named for the first. Kept in memory only.
///
/// # Errors
/// [`BundleError::NotMade`] if a host cannot stand in a certificate, [`BundleError::NoHost`] if there is none.
pub fn self_signed(hosts: &[&str], now: SystemTime) -> Result<Bundle, BundleError> {
    let name = *hosts.first().ok_or(BundleError::NoHost)?;
    let not_made = |source| BundleError::NotMade {
        host: name.to_owned(),
        source,
    };
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(not_made)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "mana-proxy self-signed");
    params.not_before = OffsetDateTime::from(now) - BACKDATED;
    params.not_after = OffsetDateTime::from(now) + LIFETIME;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(not_made)?;
    let certificate = params.self_signed(&key).map_err(not_made)?;
    let (chain_pem, key_pem) = (certificate.pem(), key.serialize_pem());
    Bundle::from_pem(name, chain_pem.as_bytes(), key_pem.as_bytes(), hosts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_self_signed_bundle_covers_its_hosts_and_is_valid() {
        let now = SystemTime::now();
        let bundle = self_signed(&["localhost", "127.0.0.1", "mana.so"], now).unwrap();
        assert_eq!(bundle.name, "localhost");
        assert_eq!(bundle.names, ["localhost", "127.0.0.1", "mana.so"]);
        assert!(bundle.check(now).is_ok());
        assert!(
            bundle
                .check(now + LIFETIME + Duration::from_secs(60))
                .is_err()
        );
        assert_eq!(bundle.certified.cert.len(), 1);
    }

    #[test]
    fn each_one_has_its_own_key() {
        let now = SystemTime::now();
        let make = || self_signed(&["mana.so"], now).unwrap();
        assert_ne!(make().certified.cert, make().certified.cert);
    }

    #[test]
    fn what_cannot_be_certified_is_refused() {
        let now = SystemTime::now();
        assert!(matches!(self_signed(&[], now), Err(BundleError::NoHost)));
        assert!(matches!(
            self_signed(&["m\u{e4}na.so"], now),
            Err(BundleError::NotMade { .. })
        ));
    }
}
