//! Host names as they are compared: lower case, no port, no trailing dot.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

/// A host name in the one form in which names are compared: ASCII, lower case, no trailing dot, no port.
///
/// DNS names and IPv4 literals. `0 < length <= 253`; each label has 1 to 63 characters of `a-z 0-9 - _` and neither
/// starts nor ends with a hyphen (RFC 1123 s2.1; the underscore is tolerated because names with one are in use).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Box<str>);

impl Host {
    /// The name itself, for example `mana.so`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a host name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a host name: {reason}")]
pub struct NotAHost {
    text: String,
    reason: &'static str,
}

impl FromStr for Host {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Host, NotAHost> {
        let refuse = |reason| {
            Err(NotAHost {
                text: text.to_owned(),
                reason,
            })
        };
        let name = comparable(text);
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > LENGTH_MAX {
            return refuse("it is longer than 253 characters");
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > LABEL_MAX {
                return refuse("each part between dots has 1 to 63 characters");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("a part must not start or end with a hyphen");
            }
            if !label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            {
                return refuse(
                    "only letters, digits, hyphens and dots (write other names as xn--...)",
                );
            }
        }
        Ok(Host(name.into()))
    }
}

/// A name as it is compared: lower case, one trailing dot removed. Borrows where nothing has to change.
pub fn comparable(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

const LENGTH_MAX: usize = 253;
const LABEL_MAX: usize = 63;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_lower_case_without_the_trailing_dot() {
        assert_eq!(
            "WWW.Mana.So.".parse::<Host>().unwrap().as_str(),
            "www.mana.so"
        );
        assert_eq!(comparable("mana.so"), "mana.so");
    }

    #[test]
    fn what_is_not_a_host_name_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "-a.so",
            "a-.so",
            "a b",
            "a/b",
            "mana.so:443",
            "m\u{e4}na.so",
            "[::1]",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad:?}");
        }
        assert!(format!("{}.so", "a".repeat(64)).parse::<Host>().is_err());
        assert!(format!("{}so", "a.".repeat(130)).parse::<Host>().is_err());
    }
}
