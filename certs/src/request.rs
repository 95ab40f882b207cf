//! Keys, and the requests that are made of them (RFC 8555 s7.4).

use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::store::KeyPem;

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256: what every client knows, and the fastest to sign with.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits, for clients from before 2014.
    Rsa2048,
}

pub(crate) fn make_key(kind: KeyKind) -> Result<KeyPem, rcgen::Error> {
    let key = match kind {
        KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        KeyKind::Rsa2048 => {
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?
        }
    };
    Ok(KeyPem::new(key.serialize_pem()))
}

pub(crate) fn make_request(names: &[String], key: &KeyPem) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&KeyPair::from_pem(key.reveal())?)?;
    Ok(request.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_key_makes_a_request() {
        for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
            let key = make_key(kind).expect("a key");
            assert!(key.reveal().contains("PRIVATE KEY"));
            assert!(make_request(&["a.so".to_owned()], &key).is_ok(), "{kind:?}");
        }
    }
}
