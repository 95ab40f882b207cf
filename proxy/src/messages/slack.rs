//! A message as an incoming webhook of Slack has it: an attachment with a bar of colour. Pure.
//!
//! <https://docs.slack.dev/messaging/formatting-message-text>. Attachments and not blocks: only their fields can be shown
//! as they are, without Slack's markup, and only they have a colour.

use serde_json::{Value, json};

use super::Message;
use super::facts::{facts, footer, headline};
use super::text::{fence, last_lines};

/// The body of the request.
pub(super) fn render(message: &Message) -> Value {
    let fields = facts(message).into_iter().map(
        |fact| json!({ "title": fact.name, "value": escaped(&fact.value), "short": fact.is_short }),
    );
    let headline = escaped(&headline(message));
    let mut attachment = json!({
        "fallback": headline,
        "color": format!("#{:06x}", message.event.colour()),
        "title": "Deployment Status",
        "fields": fields.collect::<Vec<Value>>(),
        "footer": escaped(&footer(message)),
        // What is not named here is shown as it is written.
        "mrkdwn_in": ["text"],
    });
    if let Some(log) = fence(&last_lines(&message.last_log), LOG_UNITS_MAX) {
        attachment["text"] = escaped(&log).into();
    }
    json!({ "text": headline, "mrkdwn": false, "attachments": [attachment] })
}

/// Slack's three characters: "&, <, and >". At most five times as long.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Before it is escaped; Slack takes some thousands.
const LOG_UNITS_MAX: usize = 1500;
