//! A bundle: a certificate chain with its private key, checked.
//!
//! Owns reading PEM and the checks that decide whether a bundle may be served. Does not watch files and does not choose
//! a bundle for a handshake; called at start, at a reload, by `mana-proxy check` and by whatever renews certificates.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SigningKey};
use time::OffsetDateTime;

use crate::chain;

/// A longer PEM file is not read: it is no certificate and no key.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A chain and its key. The key fits the leaf, the chain is in order, and the hosts asked for are covered; whether it
/// is valid today is another question: [`Bundle::check`].
#[derive(Clone)]
pub struct Bundle {
    /// What the keyring knows it by: the canonical host of its site.
    pub name: String,
    /// What a handshake needs: the chain, leaf first, and the signing key.
    pub certified: Arc<CertifiedKey>,
    /// DNS names (lower case, `*.mana.so` for a wildcard) and IP addresses of the leaf.
    pub names: Vec<String>,
    /// Whom the leaf is for: its common name, or its first name where it has none.
    pub subject: String,
    /// Who signed the leaf.
    pub issuer: String,
    /// `not_before <= now`, or clients refuse it.
    pub not_before: SystemTime,
    /// `now <= not_after`, or clients refuse it.
    pub not_after: SystemTime,
}

/// Why there is no bundle, or why one should not be served.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is not there, may not be read, or is longer than [`FILE_BYTES_MAX`].
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The chain or the key is broken PEM.
    #[error("the {part} of {name} is no PEM")]
    NotPem {
        /// The bundle.
        name: String,
        /// `chain` or `key`.
        part: &'static str,
        /// Where it breaks.
        source: pem::Error,
    },
    /// The chain has no `BEGIN CERTIFICATE`.
    #[error("the chain of {name} has no certificate")]
    NoCertificate {
        /// The bundle.
        name: String,
    },
    /// The key has no `BEGIN PRIVATE KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY`.
    #[error("the key of {name} has no private key")]
    NoKey {
        /// The bundle.
        name: String,
    },
    /// The key has a passphrase, which nobody could enter at a restart.
    #[error(
        "the key of {name} is encrypted; store it without a passphrase, readable by the daemon only"
    )]
    KeyEncrypted {
        /// The bundle.
        name: String,
    },
    /// The key is of no kind that can sign a handshake.
    #[error("the key of {name} cannot be used")]
    UnusableKey {
        /// The bundle.
        name: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// A certificate of the chain cannot be read.
    #[error("certificate {place} in the chain of {name} is no X.509 certificate")]
    NotX509 {
        /// The bundle.
        name: String,
        /// From 1.
        place: usize,
    },
    /// The key is not that of the leaf. Never served.
    #[error("the key does not belong to the certificate for {subject}")]
    KeyMismatch {
        /// Whom the leaf is for.
        subject: String,
    },
    /// The key is that of a later certificate.
    #[error(
        "the key belongs to certificate {place} of the chain, for {subject}; that one has to be the first"
    )]
    LeafNotFirst {
        /// Whom that certificate is for.
        subject: String,
        /// Its place, from 1.
        place: usize,
    },
    /// A certificate is followed by another than its issuer's.
    #[error(
        "the certificate for {subject} has to be followed by that of its issuer {issuer}, not of {found}"
    )]
    ChainOrder {
        /// Whom the certificate is for.
        subject: String,
        /// Who issued it.
        issuer: String,
        /// What follows it.
        found: String,
    },
    /// The leaf does not cover a host.
    #[error(
        "the certificate for {subject} does not cover {host}; it covers {}",
        list(names)
    )]
    NotCovered {
        /// Whom the leaf is for.
        subject: String,
        /// What it should cover.
        host: String,
        /// What it covers.
        names: Vec<String>,
    },
    /// The leaf is past its end.
    #[error("the certificate for {subject} expired on {}", date(*not_after))]
    Expired {
        /// Whom the leaf is for.
        subject: String,
        /// Its last moment.
        not_after: SystemTime,
    },
    /// The leaf is before its start; or the clock is wrong.
    #[error("the certificate for {subject} is not valid before {}; is the clock right?", date(*not_before))]
    NotYetValid {
        /// Whom the leaf is for.
        subject: String,
        /// Its first moment.
        not_before: SystemTime,
    },
    /// A self-signed certificate could not be made.
    #[error("cannot make a certificate for {host}")]
    NotMade {
        /// The first host.
        host: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A self-signed certificate of nothing.
    #[error("a certificate needs a host")]
    NoHost,
}

// === impl Bundle ===

impl Bundle {
    /// Reads a chain (leaf first; a leaf that is there twice is taken once) and its key, and checks that the key is the
    /// leaf's, that the chain is in order and that every host is covered. A wildcard covers one label.
    ///
    /// Dates are not looked at: see [`Bundle::check`].
    ///
    /// # Errors
    /// Every variant of [`BundleError`] but those of dates and files.
    pub fn from_pem(
        name: &str,
        chain_pem: &[u8],
        key_pem: &[u8],
        hosts: &[&str],
    ) -> Result<Bundle, BundleError> {
        let chain = read_chain(name, chain_pem)?;
        let leaf = chain::read_leaf(name, &chain)?;
        let key = read_key(name, key_pem)?;
        let certified = match_key(name, chain, key, &leaf.subject)?;
        chain::check_order(name, &certified.cert)?;
        let bundle = Bundle {
            name: name.to_owned(),
            certified: Arc::new(certified),
            names: leaf.names,
            subject: leaf.subject,
            issuer: leaf.issuer,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        };
        match hosts.iter().find(|host| !bundle.covers(host)) {
            None => Ok(bundle),
            Some(host) => Err(BundleError::NotCovered {
                subject: bundle.subject,
                host: (*host).to_owned(),
                names: bundle.names,
            }),
        }
    }

    /// [`Bundle::from_pem`] of two files. Blocks on the disk.
    ///
    /// # Errors
    /// [`BundleError::Unreadable`], and those of [`Bundle::from_pem`].
    pub fn from_files(
        name: &str,
        chain: &Path,
        key: &Path,
        hosts: &[&str],
    ) -> Result<Bundle, BundleError> {
        Bundle::from_pem(name, &read_bounded(chain)?, &read_bounded(key)?, hosts)
    }

    /// Whether clients accept its dates at `now`.
    ///
    /// A new bundle that fails is not published. One that has been served may be served on, with a warning, where there
    /// is no better one: a client that refuses it is no worse off than with no certificate.
    ///
    /// # Errors
    /// [`BundleError::Expired`] or [`BundleError::NotYetValid`].
    pub fn check(&self, now: SystemTime) -> Result<(), BundleError> {
        let subject = || self.subject.clone();
        if now > self.not_after {
            return Err(BundleError::Expired {
                subject: subject(),
                not_after: self.not_after,
            });
        }
        if now < self.not_before {
            return Err(BundleError::NotYetValid {
                subject: subject(),
                not_before: self.not_before,
            });
        }
        Ok(())
    }

    /// Whether a client that asked for `host` accepts the leaf's names: the rule that clients themselves apply.
    pub fn covers(&self, host: &str) -> bool {
        let Some(leaf) = self.certified.cert.first() else {
            return false;
        };
        let Ok(leaf) = ParsedCertificate::try_from(leaf) else {
            return false;
        };
        ServerName::try_from(host)
            .is_ok_and(|host| rustls::client::verify_server_name(&leaf, &host).is_ok())
    }
}

/// Without the key, whatever the key type would print.
impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("name", &self.name)
            .field("names", &self.names)
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("not_before", &date(self.not_before))
            .field("not_after", &date(self.not_after))
            .finish_non_exhaustive()
    }
}

fn read_chain(name: &str, chain_pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let certificates: Result<Vec<CertificateDer<'static>>, pem::Error> =
        CertificateDer::pem_slice_iter(chain_pem).collect();
    let mut chain = certificates.map_err(|source| BundleError::NotPem {
        name: name.to_owned(),
        part: "chain",
        source,
    })?;
    // `cat cert.pem fullchain.pem` is a usual slip, and harmless once undone.
    while chain.len() > 1 && chain[0] == chain[1] {
        chain.remove(1);
    }
    Ok(chain)
}

fn read_key(name: &str, key_pem: &[u8]) -> Result<Arc<dyn SigningKey>, BundleError> {
    let name = || name.to_owned();
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|source| match source {
        pem::Error::NoItemsFound if is_encrypted(key_pem) => {
            BundleError::KeyEncrypted { name: name() }
        }
        pem::Error::NoItemsFound => BundleError::NoKey { name: name() },
        source => BundleError::NotPem {
            name: name(),
            part: "key",
            source,
        },
    })?;
    any_supported_type(&key).map_err(|source| BundleError::UnusableKey {
        name: name(),
        source,
    })
}

fn is_encrypted(key_pem: &[u8]) -> bool {
    let label = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    key_pem.windows(label.len()).any(|window| window == label)
}

/// The chain with its key, if the key is that of the first certificate.
fn match_key(
    name: &str,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    subject: &str,
) -> Result<CertifiedKey, BundleError> {
    let fits = |der: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![der.clone()], Arc::clone(&key));
        alone.keys_match().is_ok()
    };
    let Some(place) = chain.iter().position(fits) else {
        return Err(BundleError::KeyMismatch {
            subject: subject.to_owned(),
        });
    };
    if place > 0 {
        return Err(BundleError::LeafNotFirst {
            subject: chain::subject_at(name, place + 1, &chain[place])?,
            place: place + 1,
        });
    }
    Ok(CertifiedKey::new(chain, key))
}

pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, BundleError> {
    let unreadable = |source| BundleError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One more than the limit, so that a longer file is told from one of exactly that length.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is longer than 1 MiB",
        )));
    }
    Ok(bytes)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "no name (it has no subject alternative names)".to_owned();
    }
    names.join(", ")
}

/// `2026-07-27`, in UTC.
fn date(time: SystemTime) -> String {
    OffsetDateTime::from(time).date().to_string()
}

#[cfg(test)]
mod tests;
