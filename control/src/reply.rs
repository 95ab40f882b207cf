//! One reply of the control socket: a JSON object on one line.
//!
//! Owns the fields that every reply has. What else a verb reports is put in by the driver.
//!
//! ```text
//! {"ok":true,"site":"mana.so","active":"green","previous":"blue","generation":7,"drained":true,...}
//! {"ok":false,"code":"refused","error":"green 127.0.0.1:4001 answered 500 where 200 is expected ...","hint":"..."}
//! ```

use std::fmt;

use serde_json::{Map, Value};

/// A reply. `ok` is always there; if it is false so are `code` and `error`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply(Map<String, Value>);

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A check spoke against it: the gate, a permission, a state that makes no sense of the request. Nothing changed.
    Refused,
    /// Somebody else is at it, or too many are. Try again.
    Busy,
    /// `if_generation` differs from what is there. Nothing changed.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// It was tried and did not work; `error` says how far it got.
    Failed,
}

// === impl Reply ===

impl Reply {
    /// `{"ok":true}`, to be filled.
    pub fn done() -> Reply {
        Reply(Map::from_iter([("ok".to_owned(), Value::Bool(true))]))
    }

    /// `{"ok":false,"code":...,"error":...}`.
    pub fn refusal(code: Code, error: impl fmt::Display) -> Reply {
        Reply(Map::from_iter([
            ("ok".to_owned(), Value::Bool(false)),
            ("code".to_owned(), Value::from(code.as_str())),
            ("error".to_owned(), Value::from(error.to_string())),
        ]))
    }

    /// The same reply with one more field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Reply {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The same reply with advice on what to do.
    #[must_use]
    pub fn with_hint(self, hint: impl fmt::Display) -> Reply {
        self.with("hint", hint.to_string())
    }

    /// Reads the line of a reply. `None` if it is no object with an `ok`, or fails without a known `code`.
    pub fn parse(line: &str) -> Option<Reply> {
        let reply = Reply(serde_json::from_str(line).ok()?);
        let is_ok = reply.0.get("ok")?.as_bool()?;
        (is_ok || (reply.code().is_some() && reply.error().is_some())).then_some(reply)
    }

    /// The line, newline included.
    pub fn to_line(&self) -> String {
        to_line(&self.0)
    }

    /// Whether it was done.
    pub fn ok(&self) -> bool {
        self.0.get("ok").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Why it was not done.
    pub fn code(&self) -> Option<Code> {
        Code::ALL
            .into_iter()
            .find(|code| self.text("code") == Some(code.as_str()))
    }

    /// Why it was not done, as a sentence.
    pub fn error(&self) -> Option<&str> {
        self.text("error")
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.text("hint")
    }

    /// One field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}

// === impl Code ===

impl Code {
    /// All codes.
    pub const ALL: [Code; 5] = [
        Code::Refused,
        Code::Busy,
        Code::Conflict,
        Code::Invalid,
        Code::Failed,
    ];

    /// The code as it is written in a reply.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Refused => "refused",
            Code::Busy => "busy",
            Code::Conflict => "conflict",
            Code::Invalid => "invalid",
            Code::Failed => "failed",
        }
    }
}

/// A JSON object as one line, newline included.
pub fn to_line(object: &Map<String, Value>) -> String {
    let mut line = serde_json::to_string(object).expect("an object with text keys is always JSON");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_comes_back_from_its_line() {
        let reply = Reply::refusal(Code::Conflict, "the generation is 5, not 4")
            .with("generation", 5)
            .with_hint("look again");
        let back = Reply::parse(&reply.to_line()).expect("reply");
        assert_eq!(back, reply);
        assert_eq!(back.code(), Some(Code::Conflict));
        assert_eq!(back.hint(), Some("look again"));
        assert!(!back.ok());
    }

    #[test]
    fn what_is_no_reply_is_not_taken_for_one() {
        for line in [
            "",
            "{}",
            "[]",
            r#"{"ok":1}"#,
            r#"{"ok":false}"#,
            r#"{"ok":false,"code":"x","error":"y"}"#,
        ] {
            assert_eq!(Reply::parse(line), None, "{line:?}");
        }
    }
}
