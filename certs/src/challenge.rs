//! Challenges that are on offer: what proves to a CA that a name leads here.
//!
//! Owns the answers, not the places where they are given: the edge asks [`Challenges::http`] for a token, the handshake
//! asks [`Challenges::alpn`] for a name. Both read without a lock. What is offered is withdrawn when the [`Offer`] is
//! dropped, however the order ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

/// The paths of HTTP-01 (RFC 8555 s8.3): this and a token.
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";
/// The protocol of TLS-ALPN-01 (RFC 8737 s6.2).
pub const ALPN: &[u8] = b"acme-tls/1";

/// All challenges that are on offer.
#[derive(Default)]
pub struct Challenges {
    /// Key authorizations by token.
    http: ArcSwap<HashMap<String, Arc<str>>>,
    /// Certificates by name, in lower case.
    alpn: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    is_answering: AtomicBool,
}

/// Keeps something on offer; dropping it withdraws it.
pub struct Offer {
    challenges: Arc<Challenges>,
    what: What,
}

enum What {
    Token(String),
    Name(String),
}

/// A challenge certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// The name cannot stand in a certificate, or there are no random numbers.
    #[error("cannot make the challenge certificate for {name}")]
    NotMade {
        /// The name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// Its key cannot sign.
    #[error("cannot use the key of the challenge certificate for {name}")]
    UnusableKey {
        /// The name.
        name: String,
        /// Why.
        source: rustls::Error,
    },
}

// === impl Challenges ===

impl Challenges {
    /// Whether the paths below [`HTTP_PATH`] are the proxy's own. They are as long as some site gets its certificate
    /// from a CA; else an upstream may answer challenges of its own.
    pub fn is_answering(&self) -> bool {
        self.is_answering.load(Ordering::Relaxed)
    }

    /// Takes the paths below [`HTTP_PATH`], or leaves them to the upstreams.
    pub fn answer(&self, is_answering: bool) {
        self.is_answering.store(is_answering, Ordering::Relaxed);
    }

    /// The key authorization for a token that is on offer.
    pub fn http(&self, token: &str) -> Option<Arc<str>> {
        self.http.load().get(token).cloned()
    }

    /// The certificate that answers TLS-ALPN-01 for a name.
    pub fn alpn(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let alpn = self.alpn.load();
        if alpn.is_empty() {
            return None;
        }
        alpn.get(&name.trim_end_matches('.').to_ascii_lowercase())
            .cloned()
    }

    /// How many are on offer.
    pub fn count(&self) -> usize {
        self.http.load().len() + self.alpn.load().len()
    }

    /// Offers the answer to an HTTP-01 challenge.
    pub fn offer_http(self: &Arc<Challenges>, token: &str, authorization: &str) -> Offer {
        self.http.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.insert(token.to_owned(), Arc::from(authorization));
            map
        });
        Offer {
            challenges: Arc::clone(self),
            what: What::Token(token.to_owned()),
        }
    }

    /// Offers the answer to a TLS-ALPN-01 challenge: a certificate for `name` with the digest of the key authorization.
    ///
    /// # Errors
    /// See [`ChallengeError`].
    pub fn offer_alpn(
        self: &Arc<Challenges>,
        name: &str,
        digest: &[u8],
    ) -> Result<Offer, ChallengeError> {
        let certified = Arc::new(challenge_certificate(name, digest)?);
        let name = asked_for(name);
        self.alpn.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.insert(name.clone(), Arc::clone(&certified));
            map
        });
        Ok(Offer {
            challenges: Arc::clone(self),
            what: What::Name(name),
        })
    }
}

// === impl Offer ===

impl Drop for Offer {
    fn drop(&mut self) {
        match &self.what {
            What::Token(token) => {
                self.challenges.http.rcu(|map| without(map, token));
            }
            What::Name(name) => {
                self.challenges.alpn.rcu(|map| without(map, name));
            }
        }
    }
}

/// What a CA names in the handshake. RFC 8738 s6: for an address it is "the IP address [...] encoded in a reverse
/// mapping" name, because SNI knows no addresses.
fn asked_for(name: &str) -> String {
    match name.parse() {
        Ok(IpAddr::V4(ip)) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(ip)) => {
            let digits = format!("{:032x}", ip.to_bits());
            let mut reverse = String::with_capacity(72);
            for digit in digits.chars().rev() {
                reverse.push(digit);
                reverse.push('.');
            }
            reverse + "ip6.arpa"
        }
        Err(_) => name.to_ascii_lowercase(),
    }
}

fn without<V: Clone>(map: &HashMap<String, V>, key: &str) -> HashMap<String, V> {
    let mut map = map.clone();
    map.remove(key);
    map
}

/// RFC 8737 s3: "The certificate MUST contain a subjectAltName extension containing the dNSName that is being
/// validated and no other entries", and "a critical extension" with the digest.
fn challenge_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, ChallengeError> {
    let not_made = |source| ChallengeError::NotMade {
        name: name.to_owned(),
        source,
    };
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(not_made)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .custom_extensions
        .push(CustomExtension::new_acme_identifier(digest));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(not_made)?;
    let certificate = params.self_signed(&key).map_err(not_made)?;
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signing = any_supported_type(&der).map_err(|source| ChallengeError::UnusableKey {
        name: name.to_owned(),
        source,
    })?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_there_only_while_it_is_on_offer() {
        let challenges = Arc::new(Challenges::default());
        assert!(challenges.http("t").is_none());
        let offer = challenges.offer_http("t", "t.thumb");
        let other = challenges.offer_http("u", "u.thumb");
        assert_eq!(challenges.http("t").as_deref(), Some("t.thumb"));
        assert!(challenges.http("T").is_none());
        drop(offer);
        assert!(challenges.http("t").is_none());
        assert_eq!(challenges.count(), 1);
        drop(other);
        assert_eq!(challenges.count(), 0);
    }

    #[test]
    fn a_challenge_certificate_is_found_however_the_name_is_written() {
        let challenges = Arc::new(Challenges::default());
        let offer = challenges.offer_alpn("Mana.so", &[7; 32]).unwrap();
        assert!(challenges.alpn("mana.so").is_some());
        assert!(challenges.alpn("MANA.SO.").is_some());
        assert!(challenges.alpn("www.mana.so").is_none());
        drop(offer);
        assert!(challenges.alpn("mana.so").is_none());
        assert!(challenges.offer_alpn("m\u{e4}na.so", &[7; 32]).is_err());
        assert_eq!(challenges.count(), 0);
    }

    #[test]
    fn an_address_is_asked_for_by_its_reverse_name() {
        let challenges = Arc::new(Challenges::default());
        let _offers = ["192.0.2.10", "2001:db8::1"]
            .map(|address| challenges.offer_alpn(address, &[7; 32]).unwrap());
        assert!(challenges.alpn("10.2.0.192.in-addr.arpa").is_some());
        let reverse = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert!(challenges.alpn(reverse).is_some());
        assert!(challenges.alpn("192.0.2.10").is_none());
    }
}
