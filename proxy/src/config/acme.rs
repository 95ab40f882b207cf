//! The `[acme]` section: from which CA certificates come, and how.

use std::net::SocketAddr;
use std::path::PathBuf;

use mana_certs::{Eab, KeyKind, PRODUCTION, Prefer, Preflight, STAGING};
use toml::de::DeValue;

use super::addresses;
use super::section::{Parsed, Section, wrong_type};
use super::values;

/// `[acme]`: where sites with `certificate = "acme"` get theirs. Everything has a default; changes are taken by a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// `directory`, `contact`, `ca_root`, `eab` and `profile`.
    pub ca: AcmeCa,
    /// `[acme.fallback]`, default absent: the same keys for another CA, which is tried when the first one has failed
    /// twice in a row, and then in turn. Contacts are those of the first one, unless it has its own.
    pub fallback: Option<AcmeCa>,
    /// `key`, default `p256`: the kind of key; or `p384`, `rsa2048`.
    ///
    /// Every client since 2014 knows P-256, and a handshake with it costs a tenth of one with RSA.
    pub key: KeyKind,
    /// `challenge`, default `http-01`: what is taken if the CA offers both; or `tls-alpn-01`.
    ///
    /// Behind a CDN that ends TLS only `http-01` gets through. Where port 80 is closed only `tls-alpn-01` does.
    pub challenge: Prefer,
    /// `preflight`, default `warn`: whether each name is looked up and asked for over http before the CA is; or
    /// `require`, `off`.
    ///
    /// `require` keeps the CA's limit for failed validations untouched, but some machines cannot reach their own public
    /// address, and would never order.
    pub preflight: Preflight,
    /// `preflight_via`, default absent: the address that the preflight asks, instead of port 80 of each name.
    pub preflight_via: Option<SocketAddr>,
    /// `first`, default `self-signed`: what https answers for a site that has no certificate yet; or `alert`.
    ///
    /// A self-signed one lets a CDN that does not verify go on; an alert is clearer for everybody else.
    pub first: First,
    /// `orders_per_week`, default 5, 1 to 1000: orders of a site in any seven days, whoever asks for them. One that comes to
    /// nothing does not count.
    ///
    /// Let's Encrypt refuses a sixth certificate for the same names for up to a week. Raise it for a CA without limits.
    pub orders_per_week: usize,
}

/// One CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeCa {
    /// `directory`, default `production`, Let's Encrypt; `staging`, its test environment; or a URL with https.
    pub directory: String,
    /// `contact`, default `[]`: `mailto:` URLs that the CA may write to.
    pub contact: Vec<String>,
    /// `ca_root`, default absent: a PEM file with the roots to trust instead of the system's, for private CAs.
    pub ca_root: Option<PathBuf>,
    /// `eab`, default absent: external account binding, `{ kid = "...", hmac_key_file = "eab.key" }` or `hmac_key`.
    pub eab: Option<EabConfig>,
    /// `profile`, default absent: the kind of certificate by the CA's name; Let's Encrypt has `classic`, `tlsserver` and
    /// `shortlived`.
    pub profile: Option<String>,
}

/// External account binding. The key is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EabConfig {
    /// The key stands in the file.
    Inline(Eab),
    /// The key is in a file of its own, read at start and at a reload.
    File {
        /// The key identifier.
        kid: String,
        /// Where the key is.
        path: PathBuf,
    },
}

/// What https answers for a site without a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum First {
    /// With a certificate that nobody trusts.
    #[default]
    SelfSigned,
    /// With a TLS alert.
    Alert,
}

/// See [`Acme::orders_per_week`].
const ORDERS_PER_WEEK: usize = 5;
const ORDERS_PER_WEEK_MAX: usize = 1000;
/// Contacts of an account.
const CONTACTS_MAX: usize = 10;

impl Default for Acme {
    fn default() -> Acme {
        Acme {
            ca: AcmeCa {
                directory: PRODUCTION.to_owned(),
                contact: Vec::new(),
                ca_root: None,
                eab: None,
                profile: None,
            },
            fallback: None,
            key: KeyKind::default(),
            challenge: Prefer::default(),
            preflight: Preflight::default(),
            preflight_via: None,
            first: First::default(),
            orders_per_week: ORDERS_PER_WEEK,
        }
    }
}

/// Reads the section. None only if a fault was recorded.
pub(super) fn read(mut section: Section<'_>) -> Option<Acme> {
    let ca = read_ca(&mut section, Some(PRODUCTION));
    let mut of_fallback = section.section("fallback");
    let is_there = of_fallback.is_present();
    let fallback = is_there.then(|| read_ca(&mut of_fallback, None));
    of_fallback.finish();
    let default = Acme::default();
    let acme = Acme {
        key: section.or("key", default.key, |value| {
            let all = [
                ("p256", KeyKind::P256),
                ("p384", KeyKind::P384),
                ("rsa2048", KeyKind::Rsa2048),
            ];
            one_of(value, &all)
        }),
        challenge: section.or("challenge", default.challenge, |value| {
            let all = [
                ("http-01", Prefer::Http01),
                ("tls-alpn-01", Prefer::TlsAlpn01),
            ];
            one_of(value, &all)
        }),
        preflight: section.or("preflight", default.preflight, |value| {
            let all = [
                ("off", Preflight::Off),
                ("warn", Preflight::Warn),
                ("require", Preflight::Require),
            ];
            one_of(value, &all)
        }),
        preflight_via: section
            .optional("preflight_via", addresses::socket_address)
            .map(|at| at.value),
        first: section.or("first", default.first, |value| {
            let all = [("self-signed", First::SelfSigned), ("alert", First::Alert)];
            one_of(value, &all)
        }),
        orders_per_week: section.or(
            "orders_per_week",
            default.orders_per_week,
            values::count(1..=ORDERS_PER_WEEK_MAX),
        ),
        ca: ca?,
        fallback: match fallback {
            Some(ca) => Some(ca?),
            None => None,
        },
    };
    section.finish();
    Some(inherit(acme))
}

/// A fallback that names no contacts has those of the first CA.
fn inherit(mut acme: Acme) -> Acme {
    if let Some(fallback) = &mut acme.fallback
        && fallback.contact.is_empty()
    {
        fallback.contact.clone_from(&acme.ca.contact);
    }
    acme
}

fn read_ca(section: &mut Section<'_>, default: Option<&str>) -> Option<AcmeCa> {
    let directory = match default {
        Some(default) => Some(section.or("directory", default.to_owned(), directory)),
        None => section
            .required(
                "directory",
                r#""https://acme.example/directory""#,
                directory,
            )
            .map(|at| at.value),
    };
    let contact = section.list("contact", contact);
    if contact.len() > CONTACTS_MAX {
        section.fault("contact", format!("at most {CONTACTS_MAX} contacts"));
    }
    let ca_root = section.optional("ca_root", values::path);
    let profile = section.optional("profile", name);
    let eab = read_eab(section.section("eab"));
    Some(AcmeCa {
        directory: directory?,
        contact: contact.into_iter().map(|at| at.value).collect(),
        ca_root: ca_root.map(|at| at.value),
        eab,
        profile: profile.map(|at| at.value),
    })
}

fn read_eab(mut section: Section<'_>) -> Option<EabConfig> {
    if !section.is_present() {
        return None;
    }
    let kid = section.required("kid", r#""kid-1""#, name);
    let inline = section.optional("hmac_key", values::string_owned);
    let file = section.optional("hmac_key_file", values::path);
    let eab = match (kid, inline, file) {
        (Some(kid), Some(key), None) => match Eab::new(&kid.value, &key.value) {
            Ok(eab) => Some(EabConfig::Inline(eab)),
            Err(error) => {
                section.fault("hmac_key", error.to_string());
                None
            }
        },
        (Some(kid), None, Some(path)) => Some(EabConfig::File {
            kid: kid.value,
            path: path.value,
        }),
        (_, Some(_), Some(_)) => {
            section.fault("hmac_key_file", "write hmac_key or hmac_key_file, not both");
            None
        }
        (_, None, None) => {
            section.fault_here(r#"the key is missing: write hmac_key_file = "eab.key""#);
            None
        }
        (None, ..) => None,
    };
    section.finish();
    eab
}

fn directory(value: &DeValue<'_>) -> Parsed<String> {
    match values::string(value)? {
        "production" => Ok(PRODUCTION.to_owned()),
        "staging" => Ok(STAGING.to_owned()),
        url if is_https(url) => Ok(url.to_owned()),
        other => Err(format!(
            "{other:?} is no directory: write production, staging, or a URL that begins with https://"
        )),
    }
}

fn is_https(url: &str) -> bool {
    let parsed: Result<http::Uri, _> = url.parse();
    parsed.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
}

fn contact(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    let is_address = |address: &str| {
        address
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
            && address
                .bytes()
                .all(|b| b.is_ascii_graphic() && b != b',' && b != b'?')
    };
    match text.strip_prefix("mailto:") {
        Some(address) if is_address(address) => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is no contact: write mailto:ops@mana.so")),
    }
}

/// A short word that a CA knows something by.
fn name(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    let is_name =
        !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_graphic());
    match is_name {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no name that a CA would give")),
    }
}

fn one_of<T: Copy>(value: &DeValue<'_>, all: &[(&str, T)]) -> Parsed<T> {
    let words: Vec<&str> = all.iter().map(|(word, _)| *word).collect();
    let words = words.join(", ");
    let text = value
        .as_str()
        .ok_or_else(|| wrong_type(value, &format!("one of {words}")))?;
    let found = all.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{text:?} is none of {words}"))
}
