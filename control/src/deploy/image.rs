//! The name of an image: repository and tag or digest.
//!
//! Owns what may be handed to the engine as one. A name never starts with a dash, so that none is taken for an option.
//! Grammar: <https://github.com/distribution/reference/blob/v0.6.0/reference.go>.
//!
//! ```text
//! registry.example:5000/team/app:41
//! app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest repository, host included.
pub const REPOSITORY_BYTES_MAX: usize = 255;
/// The longest tag.
pub const TAG_BYTES_MAX: usize = 128;

/// One image, as it is asked for: `app:41`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName {
    repository: String,
    version: Version,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// `:41`: whatever the registry has by that name today.
    Tag(String),
    /// `@sha256:...`: these bytes and no others.
    Digest(String),
}

/// Why a text names no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnImage {
    /// The part before the tag.
    #[error(
        "{0:?} is no repository: write registry.example/team/app, in lower case and without a tag"
    )]
    Repository(String),
    /// The part behind the colon.
    #[error(
        "{0:?} is no tag: letters, digits, `_`, `.` and `-`, at most 128, and the first is none of the last two"
    )]
    Tag(String),
    /// The part behind the at.
    #[error("{0:?} is no digest: write sha256: and 64 hexadecimal digits")]
    Digest(String),
    /// Neither tag nor digest.
    #[error("{0:?} has neither tag nor digest")]
    Neither(String),
}

// === impl ImageName ===

impl ImageName {
    /// A repository and one of its versions.
    ///
    /// # Errors
    /// The first part that is not well formed.
    pub fn new(repository: &str, version: Version) -> Result<ImageName, NotAnImage> {
        if !is_repository(repository) {
            return Err(NotAnImage::Repository(repository.to_owned()));
        }
        match &version {
            Version::Tag(tag) if !is_tag(tag) => return Err(NotAnImage::Tag(tag.clone())),
            Version::Digest(digest) if !is_digest(digest) => {
                return Err(NotAnImage::Digest(digest.clone()));
            }
            Version::Tag(_) | Version::Digest(_) => {}
        }
        Ok(ImageName {
            repository: repository.to_owned(),
            version,
        })
    }

    /// Reads `repository:tag` or `repository@sha256:...`.
    ///
    /// # Errors
    /// As [`ImageName::new`]; [`NotAnImage::Neither`] where there is no version.
    pub fn parse(text: &str) -> Result<ImageName, NotAnImage> {
        if let Some((repository, digest)) = text.split_once('@') {
            return ImageName::new(repository, Version::Digest(digest.to_owned()));
        }
        // A colon before a slash is a port.
        match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => {
                ImageName::new(repository, Version::Tag(tag.to_owned()))
            }
            _ => Err(NotAnImage::Neither(text.to_owned())),
        }
    }

    /// The part before the tag.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry that it is pulled from, if the name has one: what a login is for. `None` is Docker Hub.
    pub fn registry(&self) -> Option<&str> {
        let (first, _) = self.repository.split_once('/')?;
        (first.contains(['.', ':']) || first == "localhost").then_some(first)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

impl TryFrom<String> for ImageName {
    type Error = NotAnImage;

    fn try_from(text: String) -> Result<ImageName, NotAnImage> {
        ImageName::parse(&text)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.to_string()
    }
}

/// Whether this is `registry.example:5000/team/app`, without a version.
pub fn is_repository(text: &str) -> bool {
    if text.is_empty() || text.len() > REPOSITORY_BYTES_MAX {
        return false;
    }
    let mut parts = text.split('/').peekable();
    if let Some(first) = parts.peek()
        && (first.contains(['.', ':']) || *first == "localhost")
        && text.contains('/')
    {
        if !is_registry(first) {
            return false;
        }
        parts.next();
    }
    parts.all(|part| {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(is_word)
            && part.ends_with(is_word)
            && part.chars().all(|c| is_word(c) || "._-".contains(c))
    })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    host.starts_with(is_edge)
        && host.ends_with(is_edge)
        && host.chars().all(|c| is_edge(c) || c == '-' || c == '.')
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_tag(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= TAG_BYTES_MAX
        && text.starts_with(is_first)
        && text.chars().all(|c| is_first(c) || c == '.' || c == '-')
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|digits| {
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        digits.len() == 64 && digits.chars().all(is_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_and_a_version() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, repository, registry) in [
            ("app:41", "app", None),
            ("team/app:v1.2-rc_3", "team/app", None),
            (
                "registry.example/app:41",
                "registry.example/app",
                Some("registry.example"),
            ),
            (
                "127.0.0.1:5000/a/b:c",
                "127.0.0.1:5000/a/b",
                Some("127.0.0.1:5000"),
            ),
            ("localhost/app:1", "localhost/app", Some("localhost")),
            (&format!("app@{digest}"), "app", None),
        ] {
            let name = ImageName::parse(text).expect(text);
            assert_eq!(
                (name.repository(), name.registry()),
                (repository, registry),
                "{text}"
            );
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_could_be_an_option_or_another_word_is_no_image() {
        for text in [
            "",
            ":",
            "app",
            "app:",
            ":41",
            "-app:41",
            "--help:1",
            "app:-41",
            "app:.1",
            "App:41",
            "a b:1",
            "app:4 1",
            "app:41\n",
            "a//b:1",
            "a/:1",
            "/a:1",
            "reg.example:0/a:1",
            "reg.example:99999/a:1",
            "-reg.example/a:1",
            "app@sha256:12",
            "app@md5:00",
            "app@",
            "a_:1",
            "app:ü",
            "app;rm:1",
            "app$x:1",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text:?}");
        }
        let long = "a".repeat(REPOSITORY_BYTES_MAX);
        assert!(ImageName::parse(&format!("{long}:1")).is_ok());
        assert!(ImageName::parse(&format!("{long}a:1")).is_err());
        let tag = "t".repeat(TAG_BYTES_MAX);
        assert!(ImageName::parse(&format!("a:{tag}")).is_ok());
        assert!(ImageName::parse(&format!("a:{tag}t")).is_err());
    }
}
