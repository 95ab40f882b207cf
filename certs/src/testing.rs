//! Certificates for the tests of this crate.

use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};
use time::OffsetDateTime;

/// A chain of one certificate and its key, valid for a day.
pub(crate) fn pair_for(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("host names");
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::hours(23);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
