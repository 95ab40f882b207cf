//! Clients that send what a test says, byte for byte, and take nothing for granted.

use bytes::Bytes;

mod h1;
mod h2;
pub mod hello;
pub mod pausing;
pub mod tls;
pub mod websocket;

pub use h1::{H1, Head};
pub use h2::{H2, read};

/// A whole response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of the body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: Vec<(String, String)>,
    /// Heads that came before this one: 100, 103.
    pub informational: Vec<Head>,
}

// === impl Response ===

impl Response {
    /// The one value of a header; a panic if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        one(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn one<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = headers.iter().filter(|(other, _)| other == name);
    let value = values.next();
    assert!(values.next().is_none(), "several {name} in {headers:?}");
    value.map(|(_, value)| value.as_str())
}
