//! Parsers of single values: a TOML value in, a checked type or the reason out. Pure; knows nothing of keys.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use mana_control::Slot;
use toml::de::{DeInteger, DeValue};

use super::section::{Parsed, wrong_type};
use super::units::{
    DURATION_UNITS, SIZE_UNITS, format_duration, format_size, parse_duration, parse_size,
};

/// Any wait: neither none nor without end.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=DURATION_MAX;
/// A wait that may be left out.
pub(super) const WAIT_OR_NONE: RangeInclusive<Duration> = Duration::ZERO..=DURATION_MAX;

/// Longer waits are mistakes of unit.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn flag(value: &DeValue<'_>) -> Parsed<bool> {
    value
        .as_bool()
        .ok_or_else(|| wrong_type(value, "true or false"))
}

/// A whole number in a range.
pub(super) fn count<N>(range: RangeInclusive<N>) -> impl Fn(&DeValue<'_>) -> Parsed<N>
where
    N: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let integer = value
            .as_integer()
            .ok_or_else(|| wrong_type(value, "a whole number"))?;
        let number = unsigned(integer).and_then(|number| N::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!(
                    "{integer} is out of range: it has to be from {} to {}",
                    range.start(),
                    range.end()
                )
            })
    }
}

/// A duration in a range.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Duration> {
    move |value| {
        if let Some(integer) = value.as_integer() {
            return Err(format!("{integer} has no unit: {DURATION_UNITS}"));
        }
        let text = value
            .as_str()
            .ok_or_else(|| wrong_type(value, "a duration as a string"))?;
        let duration = parse_duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(format!(
            "{text:?} is out of range: it has to be from {} to {}",
            format_duration(*range.start()),
            format_duration(*range.end())
        ))
    }
}

/// A size in bytes in a range.
pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| {
        let bytes = match value {
            DeValue::Integer(integer) => {
                unsigned(integer).ok_or_else(|| format!("{integer} is no size: {SIZE_UNITS}"))?
            }
            DeValue::String(text) => parse_size(text)?,
            _ => {
                return Err(wrong_type(
                    value,
                    "a size as a string, or a number of bytes",
                ));
            }
        };
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        Err(format!(
            "{} is out of range: it has to be from {} to {}",
            format_size(bytes),
            format_size(*range.start()),
            format_size(*range.end())
        ))
    }
}

/// A path as it is written; never empty, no NUL.
pub(super) fn path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let text = string(value)?;
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is no path"));
    }
    Ok(PathBuf::from(text))
}

/// A path that fits into `sockaddr_un`.
pub(super) fn socket_path(value: &DeValue<'_>) -> Parsed<PathBuf> {
    let path = path(value)?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        return Err(format!(
            "the path has {length} bytes; a Unix socket's has at most {SOCKET_PATH_BYTES_MAX}"
        ));
    }
    Ok(path)
}

/// `sun_path` has 108 bytes, the last of which is NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn slot(value: &DeValue<'_>) -> Parsed<Slot> {
    let text = string(value)?;
    text.parse()
        .map_err(|fault: mana_control::slot::NotASlot| fault.to_string())
}

/// Origin-form without a fragment: `/api/ping?deep=1`.
pub(super) fn request_path(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    let is_path = text.starts_with('/')
        && !text.contains('#')
        && text.parse::<http::uri::PathAndQuery>().is_ok();
    if !is_path {
        return Err(format!(
            "{text:?} is no request path: it starts with / and has neither spaces nor #"
        ));
    }
    Ok(text.to_owned())
}

/// The whole value of a `Strict-Transport-Security` field: `max-age=31536000; includeSubDomains`.
pub(super) fn transport_security(value: &DeValue<'_>) -> Parsed<String> {
    let text = string(value)?;
    let refuse = |reason: String| {
        format!("{reason}: write max-age=31536000, then ; includeSubDomains and ; preload if meant")
    };
    let mut seen: Vec<String> = Vec::new();
    for directive in text.split(';').map(str::trim) {
        let (name, argument) = match directive.split_once('=') {
            Some((name, argument)) => (name.trim(), Some(argument.trim())),
            None => (directive, None),
        };
        let name = name.to_ascii_lowercase();
        let is_valid = match name.as_str() {
            "max-age" => argument.is_some_and(is_seconds),
            "includesubdomains" | "preload" => argument.is_none(),
            _ => false,
        };
        if !is_valid {
            return Err(refuse(format!("{directive:?} is no directive of HSTS")));
        }
        // RFC 6797 s6.1: "All directives MUST appear only once in an STS header field."
        if seen.contains(&name) {
            return Err(refuse(format!("{name} is there twice")));
        }
        seen.push(name);
    }
    // RFC 6797 s6.1.1: "The REQUIRED \"max-age\" directive"
    if !seen.iter().any(|name| name == "max-age") {
        return Err(refuse("max-age is missing".to_owned()));
    }
    http::HeaderValue::from_str(text)
        .map_err(|_| refuse(format!("{text:?} is no header value")))?;
    Ok(text.to_owned())
}

fn is_seconds(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok()
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Parsed<&'v str> {
    value.as_str().ok_or_else(|| wrong_type(value, "a string"))
}

pub(super) fn string_owned(value: &DeValue<'_>) -> Parsed<String> {
    string(value).map(str::to_owned)
}

fn unsigned(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}
