//! Where messages go: a URL that is a secret, and for webhooks the key of their signatures.
//!
//! Owns what a URL and a secret may be and where they are read from. [`crate::config`] makes destinations; neither their
//! debug text nor an error of theirs says a URL or a secret, since whoever knows the URL can write to the channel.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use zeroize::Zeroizing;

use super::{Event, Kind};

/// One `[[deploy.message]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `to`: `discord`, `slack` or `webhook`.
    pub kind: Kind,
    /// `url` or `url_file`.
    pub url: Source,
    /// `secret` or `secret_file`; a webhook has one and no other kind does.
    pub secret: Option<Source>,
    /// `on`, default all: events that are told.
    pub on: Vec<Event>,
    /// `ca_root`, default the system's roots: a PEM file with those to trust instead.
    pub ca_root: Option<PathBuf>,
}

/// Where a secret stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the configuration.
    Inline(Secret),
    /// In the first line of a file, read each time that it is needed.
    File(PathBuf),
}

/// A text that is never shown, and is wiped from memory when it is let go.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Why a destination cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// The file of a URL or a secret cannot be read.
    #[error("cannot read {}, which {kind} needs", path.display())]
    Unreadable {
        /// What it is for.
        kind: Kind,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The URL is none.
    #[error("cannot use the URL of {kind}{}", in_file(path))]
    Url {
        /// What it is for.
        kind: Kind,
        /// Its file, if it has one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: UrlFault,
    },
    /// The secret is none.
    #[error("cannot use the secret of {kind}{}", in_file(path))]
    Secret {
        /// What it is for.
        kind: Kind,
        /// Its file, if it has one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: SecretFault,
    },
}

/// Why a text is no URL for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// No URL at all, or one that is too long.
    #[error("it is no URL of at most {URL_BYTES_MAX} bytes: it begins with https:// and a host")]
    NoUrl,
    /// What is sent could be read and changed on its way.
    #[error("it has to begin with https://; http:// is for localhost, 127.0.0.0/8 and [::1] alone")]
    Plain,
    /// `https://user:password@host/`
    #[error("it has a user or a password in it, which is not sent: take them out")]
    UserInfo,
}

/// Why a text is no secret for signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// What follows `whsec_` is no base64.
    #[error("what follows whsec_ is no base64")]
    NoBase64,
    /// It could be guessed, or is longer than any key.
    #[error(
        "it has to have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes: write whsec_ and the output of `openssl rand -base64 32`"
    )]
    Length,
}

/// A checked URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address(Uri);

/// The key of signatures.
#[derive(Clone)]
pub(super) struct SigningKey(Zeroizing<Vec<u8>>);

// === impl Destination ===

impl Destination {
    /// Reads the URL. Blocks on the disk.
    pub(super) fn address(&self) -> Result<Address, DestinationError> {
        let text = self.read(&self.url)?;
        Address::parse(text.expose()).map_err(|source| DestinationError::Url {
            kind: self.kind,
            path: self.url.path(),
            source,
        })
    }

    /// Reads the key, if there is one. Blocks on the disk.
    pub(super) fn key(&self) -> Result<Option<SigningKey>, DestinationError> {
        let Some(source) = &self.secret else {
            return Ok(None);
        };
        let text = self.read(source)?;
        let key = SigningKey::parse(text.expose()).map_err(|fault| DestinationError::Secret {
            kind: self.kind,
            path: source.path(),
            source: fault,
        });
        key.map(Some)
    }

    fn read(&self, source: &Source) -> Result<Secret, DestinationError> {
        match source {
            Source::Inline(secret) => Ok(secret.clone()),
            Source::File(path) => first_line(path).map_err(|source| DestinationError::Unreadable {
                kind: self.kind,
                path: path.clone(),
                source,
            }),
        }
    }
}

// === impl Source ===

impl Source {
    fn path(&self) -> Option<PathBuf> {
        match self {
            Source::Inline(_) => None,
            Source::File(path) => Some(path.clone()),
        }
    }
}

// === impl Secret ===

impl Secret {
    /// Keeps a text from being shown.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this can be the URL of a destination.
    ///
    /// # Errors
    /// See [`UrlFault`].
    pub fn check_url(&self) -> Result<(), UrlFault> {
        Address::parse(self.expose()).map(|_| ())
    }

    /// Whether this can be the secret of a webhook.
    ///
    /// # Errors
    /// See [`SecretFault`].
    pub fn check_secret(&self) -> Result<(), SecretFault> {
        SigningKey::parse(self.expose()).map(|_| ())
    }
}

/// Without the text.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

// === impl Address ===

impl Address {
    fn parse(text: &str) -> Result<Address, UrlFault> {
        let text = text.trim();
        if text.len() > URL_BYTES_MAX {
            return Err(UrlFault::NoUrl);
        }
        let uri: Uri = text.parse().map_err(|_| UrlFault::NoUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(UrlFault::NoUrl);
        };
        if authority.as_str().contains('@') {
            return Err(UrlFault::UserInfo);
        }
        match scheme {
            _ if authority.host().is_empty() => Err(UrlFault::NoUrl),
            "https" => Ok(Address(uri)),
            "http" if is_loopback(authority.host()) => Ok(Address(uri)),
            "http" => Err(UrlFault::Plain),
            _ => Err(UrlFault::NoUrl),
        }
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// What may be shown of it.
    pub(super) fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    pub(super) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Stands for the destination in the outbox: the same for the same kind and URL, and no way back to the URL.
    pub(super) fn fingerprint(&self, kind: Kind) -> String {
        let text = format!("{kind} {}", self.0);
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let half = digest.as_ref().iter().take(FINGERPRINT_BYTES);
        half.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a text holds a part of the URL that could be the secret one.
    pub(super) fn is_told_by(&self, text: &str) -> bool {
        let target = self.0.path_and_query().map_or("", |target| target.as_str());
        let mut parts = target.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        parts.any(|part| part.len() >= TELLING_BYTES_MIN && text.contains(part))
    }
}

/// The host alone.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.host()).finish()
    }
}

// === impl SigningKey ===

impl SigningKey {
    /// `whsec_` and base64, or the bytes of any other text.
    fn parse(text: &str) -> Result<SigningKey, SecretFault> {
        let text = text.trim();
        let key = match text.strip_prefix("whsec_") {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map_err(|_| SecretFault::NoBase64)?,
            None => text.as_bytes().to_vec(),
        };
        let key = Zeroizing::new(key);
        match (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&key.len()) {
            true => Ok(SigningKey(key)),
            false => Err(SecretFault::Length),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Without the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: Result<IpAddr, _> = bare.parse();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn first_line(path: &Path) -> io::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(Secret::new(text.lines().next().unwrap_or_default().trim()))
}

fn in_file(path: &Option<PathBuf>) -> String {
    path.as_ref()
        .map_or(String::new(), |path| format!(" in {}", path.display()))
}

/// Of a URL.
const URL_BYTES_MAX: usize = 2048;
/// Of a key: the specification asks for "between 24 bytes (192 bits) and 64 bytes (512 bits)"; a little less is still
/// beyond guessing, and what a receiver already has may be longer.
const SECRET_BYTES_MIN: usize = 16;
const SECRET_BYTES_MAX: usize = 512;
/// Read of a file with a URL or a secret.
const FILE_BYTES_MAX: u64 = 4096;
const FINGERPRINT_BYTES: usize = 16;
/// A part of a URL this long may be what makes it a secret; shorter ones are words like `api` and `hooks`.
const TELLING_BYTES_MIN: usize = 8;
