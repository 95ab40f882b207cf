//! One line of the access log: a JSON object, written field by field into a buffer.
//!
//! Owns the syntax. What the fields are is `access.rs`' matter. A serializer of everything costs three times as much per
//! request as this writer of flat objects, and a line is written for each.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

/// The name of a field, as it stands in a line: `key!("status")`. It needs no escape.
macro_rules! key {
    ($name:literal) => {
        $crate::access_line::Key {
            before_number: concat!(",\"", $name, "\":"),
            before_text: concat!(",\"", $name, "\":\""),
        }
    };
}
pub(crate) use key;

/// See [`key!`].
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `,"status":`
    pub before_number: &'static str,
    /// `,"status":"`
    pub before_text: &'static str,
}

/// Writes an object whose values are text and numbers.
///
/// What is inlined is so for the length of the keys, which is known where they are written down.
pub struct Line<'a> {
    into: &'a mut Vec<u8>,
}

impl<'a> Line<'a> {
    /// Begins a line at the end of a buffer, with its first field, whose value is as in [`Line::plain`].
    #[inline]
    pub fn begin(into: &'a mut Vec<u8>, key: Key, value: &[u8]) -> Line<'a> {
        let mut line = Line { into };
        let start = line.into.len();
        line.plain(key, value);
        // In the place of the comma.
        line.into[start] = b'{';
        line
    }

    /// A field of text in ASCII of which no byte needs an escape.
    #[inline]
    pub fn plain(&mut self, key: Key, value: &[u8]) {
        debug_assert!(
            value.is_ascii() && !value.iter().any(|byte| needs_escape(*byte)),
            "{value:?}"
        );
        self.into.extend_from_slice(key.before_text.as_bytes());
        self.into.extend_from_slice(value);
        self.into.push(b'"');
    }

    /// A field as with [`Line::plain`] that may be absent.
    #[inline]
    pub fn plain_if(&mut self, key: Key, value: Option<&str>) {
        if let Some(value) = value {
            self.plain(key, value.as_bytes());
        }
    }

    /// A field of text.
    #[inline]
    pub fn text(&mut self, key: Key, value: &str) {
        self.into.extend_from_slice(key.before_text.as_bytes());
        self.escaped(value);
        self.into.push(b'"');
    }

    fn escaped(&mut self, value: &str) {
        let mut rest = value.as_bytes();
        // Nearly no text has any: all bytes are looked at, many at a time.
        let has_any = rest
            .iter()
            .fold(false, |any, byte| any | needs_escape(*byte));
        while has_any && let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
            self.into.extend_from_slice(&rest[..at]);
            escape(self.into, rest[at]);
            rest = &rest[at + 1..];
        }
        self.into.extend_from_slice(rest);
    }

    /// A field of text that may be absent.
    #[inline]
    pub fn text_if(&mut self, key: Key, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// A field with a number.
    #[inline]
    pub fn number(&mut self, key: Key, value: u64) {
        self.into.extend_from_slice(key.before_number.as_bytes());
        let mut digits = itoa::Buffer::new();
        self.into.extend_from_slice(digits.format(value).as_bytes());
    }

    /// A field with a number that may be absent.
    #[inline]
    pub fn number_if(&mut self, key: Key, value: Option<u64>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    /// Ends the line.
    pub fn end(self) {
        self.into.extend_from_slice(b"}\n");
    }
}

/// RFC 8259 s7.
fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn escape(into: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => into.extend_from_slice(&[b'\\', byte]),
        _ => {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            into.extend_from_slice(b"\\u00");
            into.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

/// `2026-11-22T09:13:21.004Z`, as the journal writes it.
pub type TimeText = [u8; TIME_BYTES];

/// A moment as text. All but the milliseconds is made once a second.
pub fn time_text(at: SystemTime) -> TimeText {
    thread_local! {
        static LAST: Cell<(u64, TimeText)> = const { Cell::new((u64::MAX, [b' '; TIME_BYTES])) };
    }
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (of, mut text) = LAST.get();
    if of != since.as_secs() {
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs());
        let made = mana_control::journal::timestamp(whole);
        // All have one length, for some thousand years.
        text = made.as_bytes().try_into().unwrap_or([b' '; TIME_BYTES]);
        LAST.set((since.as_secs(), text));
    }
    let mut ms = since.subsec_millis();
    for place in [22, 21, 20] {
        text[place] = b'0' + (ms % 10) as u8;
        ms /= 10;
    }
    text
}

const TIME_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_an_object_with_what_is_there() {
        let mut bytes = b"before\n".to_vec();
        let mut line = Line::begin(&mut bytes, key!("first"), b"1st");
        line.text(key!("a"), "x\"y\\z\n");
        line.text_if(key!("b"), None);
        line.plain_if(key!("b"), None);
        line.plain_if(key!("p"), Some("GET"));
        line.number(key!("c"), u64::MAX);
        line.number_if(key!("d"), Some(0));
        line.end();
        let text = String::from_utf8(bytes).expect("text");
        assert_eq!(
            text,
            "before\n{\"first\":\"1st\",\"a\":\"x\\\"y\\\\z\\u000a\",\"p\":\"GET\",\"c\":18446744073709551615,\"d\":0}\n"
        );
    }

    #[test]
    fn a_moment_is_written_as_in_the_journal() {
        // In this order: within one second, over its end, and back.
        for ms in [
            0,
            4,
            999,
            1000,
            1001,
            987_654_321_098,
            3,
            253_402_300_799_999,
        ] {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            let expected = mana_control::journal::timestamp(at);
            assert_eq!(time_text(at), expected.as_bytes(), "{expected}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(value in any::<String>()) {
            let mut bytes = Vec::new();
            let mut line = Line::begin(&mut bytes, key!("time"), b"");
            line.text(key!("value"), &value);
            line.end();
            let read: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            prop_assert_eq!(read["value"].as_str(), Some(value.as_str()));
        }
    }
}
