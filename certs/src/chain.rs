//! What is read out of a certificate chain, and whether it hangs together. Pure.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate, X509Name};

use crate::bundle::BundleError;

/// What a bundle says of its leaf.
pub(crate) struct Leaf {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) names: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Reads the first certificate.
pub(crate) fn read_leaf(name: &str, chain: &[CertificateDer<'_>]) -> Result<Leaf, BundleError> {
    let first = chain.first().ok_or_else(|| BundleError::NoCertificate {
        name: name.to_owned(),
    })?;
    let certificate = parse(name, 1, first)?;
    let names = names_of(&certificate);
    Ok(Leaf {
        subject: subject_of(&certificate),
        issuer: name_text(certificate.issuer()),
        names,
        not_before: system_time(certificate.validity().not_before),
        not_after: system_time(certificate.validity().not_after),
    })
}

/// Each certificate has to be issued by the next one.
///
/// RFC 8446 s4.4.2: "Each following certificate SHOULD directly certify the one immediately preceding it."
/// (<https://www.rfc-editor.org/rfc/rfc8446#section-4.4.2>) TLS 1.2 has a MUST there, and clients that hold to it.
pub(crate) fn check_order(name: &str, chain: &[CertificateDer<'_>]) -> Result<(), BundleError> {
    for (index, pair) in chain.windows(2).enumerate() {
        let [issued, issuer] = pair else { continue };
        let issued = parse(name, index + 1, issued)?;
        let issuer = parse(name, index + 2, issuer)?;
        if issued.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(BundleError::ChainOrder {
                subject: subject_of(&issued),
                issuer: name_text(issued.issuer()),
                found: subject_of(&issuer),
            });
        }
    }
    Ok(())
}

/// The subject of the certificate at `place`, from 1.
pub(crate) fn subject_at(
    name: &str,
    place: usize,
    der: &CertificateDer<'_>,
) -> Result<String, BundleError> {
    parse(name, place, der).map(|certificate| subject_of(&certificate))
}

fn parse<'d>(
    name: &str,
    place: usize,
    der: &'d CertificateDer<'_>,
) -> Result<X509Certificate<'d>, BundleError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(BundleError::NotX509 {
            name: name.to_owned(),
            place,
        }),
    }
}

/// The subject or, as many certificates have none, the first name.
fn subject_of(certificate: &X509Certificate<'_>) -> String {
    let subject = name_text(certificate.subject());
    if !subject.is_empty() {
        return subject;
    }
    let first = names_of(certificate).into_iter().next();
    first.unwrap_or_else(|| "a certificate without a subject".to_owned())
}

/// The common name, if there is one, else the whole name. Control characters are escaped.
fn name_text(name: &X509Name<'_>) -> String {
    let common_name = name.iter_common_name().find_map(|cn| cn.as_str().ok());
    let text = common_name.map_or_else(|| name.to_string(), str::to_owned);
    text.escape_debug().to_string()
}

/// The DNS names, in lower case, and IP addresses of a certificate. Others are of no use to a server.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names.filter_map(|name| name_of(name)).collect()
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*octets).map(IpAddr::from);
            v4.or_else(|_| v6()).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

/// Dates before 1970 are 1970, and those that the clock cannot hold its end: both are far from any now.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}
