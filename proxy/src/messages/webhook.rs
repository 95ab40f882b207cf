//! A message as JSON for anybody, and its signature. Pure.
//!
//! The envelope and the signature are those of <https://www.standardwebhooks.com>. Every key is always there, null where
//! nothing is known:
//!
//! ```text
//! {"type":"deploy.succeeded","timestamp":"2026-11-22T09:13:21Z","data":{"deploy":17,"site":"mana.so","server":"vm-1",
//!  "image":"registry.example/app:41","from":"blue","to":"green","repository":null,"commit":"4f2a...","branch":"master",
//!  "author":"Ada","note":null,"reason":null,"hint":null,"who":"ci","took_ms":81200,"last_log":[]}}
//! ```

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Message;
use super::facts::REASON_UNITS_MAX;
use super::text::{last_lines, one_line};

/// The body of the request.
pub(super) fn render(message: &Message) -> Value {
    let text = |text: &str| one_line(text, REASON_UNITS_MAX);
    let known = |known: &Option<String>| known.as_deref().map(text);
    json!({
        "type": format!("deploy.{}", message.event),
        "timestamp": text(&message.time),
        "data": {
            "deploy": message.deploy,
            "site": text(&message.site),
            "server": text(&message.server),
            "image": text(&message.image),
            "from": message.from,
            "to": message.to,
            "repository": known(&message.repository),
            "commit": known(&message.commit),
            "branch": known(&message.branch),
            "author": known(&message.author),
            "note": known(&message.note),
            "reason": known(&message.reason),
            "hint": known(&message.hint),
            "who": text(&message.who),
            "took_ms": message.took.map(super::millis),
            "last_log": last_lines(&message.last_log),
        },
    })
}

/// `v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=`: what `webhook-signature` says of id, time and body.
pub(super) fn signature(key: &[u8], id: &str, unix_seconds: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let signed = format!("{id}.{unix_seconds}.{body}");
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("v1,{}", STANDARD.encode(tag.as_ref()))
}
