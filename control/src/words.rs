//! Plain words taken apart: quotes, `--option value`, `option=value`, durations.
//!
//! Owns the syntax of the words form and nothing of its meaning: it gives the JSON object that says the same, and
//! [`crate::wire`] reads that. So there is one reader of requests, not two.

use std::time::Duration;

use serde_json::{Map, Value};

/// Why a line of words cannot be taken apart.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A quote without its partner.
    #[error("a quote is not closed")]
    OpenQuote,
    /// An option that no request has.
    #[error("there is no option {0:?}")]
    UnknownOption(String),
    /// A word too many.
    #[error("{0:?} is one word too many; a note with blanks needs quotes")]
    Stray(String),
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(String),
    /// An option given twice.
    #[error("{0} is given twice")]
    Twice(String),
    /// A value that does not fit its option.
    #[error("{text:?} does not fit {option}: {expected}")]
    Unfit {
        /// The option.
        option: String,
        /// What was given.
        text: String,
        /// What is expected.
        expected: &'static str,
    },
}

/// The JSON object that says the same as the words: `switch green --force` is
/// `{"verb":"switch","slot":"green","force":true}`.
///
/// # Errors
/// Every variant of [`WordsError`].
pub fn to_object(text: &str) -> Result<Value, WordsError> {
    let mut words = split(text)?.into_iter();
    let mut object = Map::new();
    let verb = words.next().unwrap_or_default();
    while let Some(word) = words.next() {
        if let Some((name, value)) = as_option(&word) {
            let (key, kind) = known_option(name)?;
            let value = match (kind, value) {
                (Kind::Flag, None) => "true".to_owned(),
                (_, Some(value)) => value.to_owned(),
                (_, None) => words
                    .next()
                    .ok_or_else(|| WordsError::NoValue(name.to_owned()))?,
            };
            insert(&mut object, key, kind.read(name, &value)?)?;
        } else {
            let (key, value) = positional(&verb, word)?;
            insert(&mut object, key, value)?;
        }
    }
    object.insert("verb".to_owned(), Value::String(verb));
    Ok(Value::Object(object))
}

/// Reads `500ms`, `30s`, `5m` or `1h`; `None` if the text is none of these or too long to count.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(ms).map(Duration::from_millis)
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Flag,
    Number,
    Duration,
}

impl Kind {
    fn read(self, option: &str, text: &str) -> Result<Value, WordsError> {
        let unfit = |expected| WordsError::Unfit {
            option: option.to_owned(),
            text: text.to_owned(),
            expected,
        };
        match self {
            Kind::Text => Ok(Value::from(text)),
            Kind::Flag => match text {
                "true" => Ok(Value::from(true)),
                "false" => Ok(Value::from(false)),
                _ => Err(unfit("it is true or false")),
            },
            Kind::Number => text
                .parse::<u64>()
                .map(Value::from)
                .map_err(|_| unfit("it is a whole number")),
            Kind::Duration => duration(text)
                .and_then(|duration| u64::try_from(duration.as_millis()).ok())
                .map(Value::from)
                .ok_or_else(|| unfit("it is a time such as 500ms, 30s, 5m or 1h")),
        }
    }
}

/// `--name`, `--name=value` or `name=value`.
fn as_option(word: &str) -> Option<(&str, Option<&str>)> {
    let dashed = word.strip_prefix("--");
    match (dashed.unwrap_or(word).split_once('='), dashed) {
        (Some((name, value)), _) => Some((name, Some(value))),
        (None, Some(name)) => Some((name, None)),
        (None, None) => None,
    }
}

fn known_option(name: &str) -> Result<(&'static str, Kind), WordsError> {
    Ok(match name.replace('-', "_").as_str() {
        "slot" => ("slot", Kind::Text),
        "action" => ("action", Kind::Text),
        "site" => ("site", Kind::Text),
        "note" => ("note", Kind::Text),
        "undo" => ("undo", Kind::Flag),
        "on" => ("on", Kind::Flag),
        "no_wait" => ("no_wait", Kind::Flag),
        "force" => ("force", Kind::Flag),
        "progress" => ("progress", Kind::Flag),
        "last" => ("last", Kind::Number),
        "if_generation" => ("if_generation", Kind::Number),
        "drain_timeout_ms" => ("drain_timeout_ms", Kind::Number),
        "binary" => ("binary", Kind::Text),
        "timeout" => ("timeout_ms", Kind::Duration),
        "timeout_ms" => ("timeout_ms", Kind::Number),
        "wait" => ("wait", Kind::Flag),
        "drain_timeout" => ("drain_timeout_ms", Kind::Duration),
        _ => return Err(WordsError::UnknownOption(name.to_owned())),
    })
}

fn positional(verb: &str, word: String) -> Result<(&'static str, Value), WordsError> {
    match (verb, word.as_str()) {
        ("drain", "undo") => Ok(("undo", Value::from(true))),
        ("switch" | "drain" | "probe" | "reserve", "blue" | "green") => {
            Ok(("slot", Value::from(word)))
        }
        ("switch" | "drain" | "probe" | "reserve", _) => Err(WordsError::Unfit {
            option: verb.to_owned(),
            text: word,
            expected: "a slot is blue or green",
        }),
        ("note", _) => Ok(("note", Value::from(word))),
        ("maintenance", "on") => Ok(("on", Value::from(true))),
        ("maintenance", "off") => Ok(("on", Value::from(false))),
        ("certs", "list" | "renew") => Ok(("action", Value::from(word))),
        ("history", number) => Ok(("last", Kind::Number.read("history", number)?)),
        _ => Err(WordsError::Stray(word)),
    }
}

fn insert(
    object: &mut Map<String, Value>,
    key: &'static str,
    value: Value,
) -> Result<(), WordsError> {
    match object.insert(key.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(WordsError::Twice(key.to_owned())),
    }
}

/// Blanks part words; `"..."` and `'...'` keep them together; a backslash outside single quotes takes the next
/// character as it is.
fn split(text: &str) -> Result<Vec<String>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                let next = characters.next().ok_or(WordsError::OpenQuote)?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(WordsError::OpenQuote);
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_blanks_together() {
        assert_eq!(
            split(r#"a "b c" 'd "e' f\ g "" "#),
            Ok(["a", "b c", "d \"e", "f g", ""].map(str::to_owned).to_vec())
        );
        for open in ["\"a", "'a", "a\\"] {
            assert_eq!(split(open), Err(WordsError::OpenQuote), "{open:?}");
        }
    }

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            "1d",
            "30 s",
            "99999999999999999999h",
        ] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
        assert_eq!(duration(&format!("{}h", u64::MAX)), None);
    }

    #[test]
    fn what_was_not_understood_is_named() {
        let error = |text| to_object(text).expect_err(text).to_string();
        assert!(error("switch red").contains("blue or green"));
        assert!(
            error("switch green --frce").contains("--frce")
                || error("switch green --frce").contains("frce")
        );
        assert!(error("switch green --site").contains("needs a value"));
        assert!(error("switch green blue").contains("twice"));
        assert!(error("switch green --note two words").contains("\"words\""));
        assert!(error("switch green --drain-timeout 3x").contains("30s"));
        assert!(error("status now").contains("too many"));
    }
}
