//! The CA's advice on when to renew (RFC 9773): which certificate it is about, and asking for it.

use std::time::SystemTime;

use instant_acme::CertificateIdentifier;
use rustls::pki_types::Der;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::account::Ca;
use crate::bundle::Bundle;
use crate::schedule::{Advice, Window, ask_again};

/// The name under which a CA knows a certificate: the key identifier of its issuer and its serial number. None if the
/// certificate has no issuer key identifier, as one that was self-signed.
///
/// RFC 9773 s4.1: "The unique identifier is constructed by concatenating the base64url encoding of the keyIdentifier
/// field of the certificate's Authority Key Identifier (AKI) extension, the period character '.', and the base64url
/// encoding of the DER-encoded Serial Number field (without the tag and length bytes)."
pub(crate) fn identifier(bundle: &Bundle) -> Option<CertificateIdentifier<'static>> {
    let leaf = bundle.certified.cert.first()?;
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let issuer = certificate.iter_extensions().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(key) = extension.parsed_extension() else {
            return None;
        };
        key.key_identifier.as_ref().map(|key| key.0.to_vec())
    })?;
    let serial = certificate.raw_serial();
    let identifier = CertificateIdentifier::new(Der::from_slice(&issuer), Der::from_slice(serial));
    Some(identifier.into_owned())
}

/// Asks the CA. A CA that cannot be asked, or makes no suggestions, leaves the window of before as it was.
pub(crate) async fn ask(
    ca: &Ca,
    certificate: &CertificateIdentifier<'static>,
    before: Option<Advice>,
) -> Advice {
    let name = certificate.to_string();
    let answer = ca.account.renewal_info(certificate).await;
    let now = SystemTime::now();
    match answer {
        Ok((info, retry_after)) => Advice {
            certificate: name,
            window: Some(Window {
                start: info.suggested_window.start.into(),
                end: info.suggested_window.end.into(),
            }),
            ask_again: ask_again(Some(retry_after), now),
        },
        Err(error) => {
            if !matches!(error, instant_acme::Error::Unsupported(_)) {
                tracing::info!(certificate = name, %error, "the CA gives no advice on when to renew");
            }
            unanswered(name, before, now)
        }
    }
}

/// What is known when the CA did not answer: what it said before about this very certificate.
pub(crate) fn unanswered(certificate: String, before: Option<Advice>, now: SystemTime) -> Advice {
    Advice {
        window: before.and_then(|advice| advice.window_for(&certificate)),
        certificate,
        ask_again: ask_again(None, now),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber,
    };

    use super::*;

    /// The example of RFC 9773 s4.1.
    #[test]
    fn the_identifier_is_that_of_the_rfc() {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_identifier_method = KeyIdMethod::PreSpecified(vec![
            0x69, 0x88, 0x5B, 0x6B, 0x87, 0x46, 0x40, 0x41, 0xE1, 0xB3, 0x7B, 0x84, 0x7B, 0xA0,
            0xAE, 0x2C, 0xDE, 0x01, 0xC8, 0xD4,
        ]);
        let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
        let mut leaf = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        leaf.serial_number = Some(SerialNumber::from_slice(&[0x00, 0x87, 0x65, 0x43, 0x21]));
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let bundle = Bundle::from_pem(
            "example.com",
            leaf.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
            &[],
        );
        let identifier = identifier(&bundle.unwrap()).unwrap().to_string();
        assert_eq!(identifier, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    }

    #[test]
    fn a_self_signed_certificate_has_no_identifier() {
        let bundle = crate::self_signed(&["a.so"], SystemTime::now()).unwrap();
        assert!(identifier(&bundle).is_none());
    }

    #[test]
    fn a_silent_ca_leaves_only_what_it_said_of_the_same_certificate() {
        let now = SystemTime::now();
        let window = Window {
            start: now,
            end: now + Duration::from_secs(60),
        };
        let before = Advice {
            certificate: "a.1".to_owned(),
            window: Some(window),
            ask_again: now,
        };
        let same = unanswered("a.1".to_owned(), Some(before.clone()), now);
        assert_eq!(same.window, Some(window));
        assert_eq!(unanswered("a.2".to_owned(), Some(before), now).window, None);
    }
}
