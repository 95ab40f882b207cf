//! A message as Discord has it: one embed. Pure.
//!
//! <https://docs.discord.com/developers/resources/webhook#execute-webhook>. A body beyond its limits is refused as a
//! whole, and so none of ours can reach them.

use serde_json::{Value, json};

use super::Message;
use super::facts::{Fact, facts, footer, headline};
use super::text::{bounded, fence, last_lines};

/// The body of the request.
pub(super) fn render(message: &Message) -> Value {
    let fields = facts(message).into_iter().map(|fact| field(&fact));
    let mut embed = json!({
        "title": TITLE,
        "color": message.event.colour(),
        "fields": fields.collect::<Vec<Value>>(),
        "footer": { "text": footer(message) },
    });
    if let Some(log) = fence(&last_lines(&message.last_log), LOG_UNITS_MAX) {
        embed["description"] = log.into();
    }
    json!({
        "username": "mana-proxy",
        "content": bounded(&escaped(&headline(message)), CONTENT_UNITS_MAX),
        // Nobody is called, whatever the texts say.
        "allowed_mentions": { "parse": [] },
        "embeds": [embed],
    })
}

fn field(fact: &Fact) -> Value {
    let value = match is_plain_url(&fact.value) {
        true => fact.value.clone(),
        false => escaped(&fact.value),
    };
    json!({ "name": fact.name, "value": value, "inline": fact.is_short })
}

/// With a backslash before everything that means something in Discord's Markdown. At most twice as long.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if MARKUP.contains(c) {
            safe.push('\\');
        }
        safe.push(c);
    }
    safe
}

/// An address and nothing else: a link as a whole, in which a backslash would be part of the address.
fn is_plain_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://");
    rest.is_some_and(|rest| {
        rest.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"./-_~:%+=?".contains(&b))
    })
}

const TITLE: &str = "Deployment Status";
/// `@` and `<` begin mentions, `[` a link that leads elsewhere than it says.
const MARKUP: &str = "\\`*_~|<>[]#@";
/// Of the 2000 that Discord takes.
const CONTENT_UNITS_MAX: usize = 500;
/// Of the 4096 that Discord takes in a description; with the facts at their longest it stays below the 6000 of an embed.
const LOG_UNITS_MAX: usize = 900;
/// What Discord takes in all texts of an embed together.
#[cfg(test)]
pub(super) const EMBED_UNITS_MAX: usize = 6000;
