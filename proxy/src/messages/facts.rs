//! What a message says, before it looks like anything: a headline, named facts and the end of a log. Pure.
//!
//! Every text is one clean line of bounded length here; what is markup is each kind's own matter.

use super::text::one_line;
use super::{Event, Message};

/// `Branch: master`
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// Whether it is short enough to stand beside another.
    pub(super) is_short: bool,
}

/// `Deployment to vm-1 succeeded!`
pub(super) fn headline(message: &Message) -> String {
    let server = one_line(&message.server, NAME_UNITS_MAX);
    match message.event {
        Event::Started | Event::Succeeded | Event::Failed => {
            format!("Deployment to {server} {}!", message.event.words())
        }
        Event::RolledBack => format!("Deployment to {server} was rolled back!"),
    }
}

/// Those that are known, in the order in which they are shown.
pub(super) fn facts(message: &Message) -> Vec<Fact> {
    let slots = match (message.from, message.to) {
        (Some(from), Some(to)) => Some(format!("{from} → {to}")),
        (None, Some(to)) => Some(to.to_string()),
        (_, None) => None,
    };
    let took = message
        .took
        .map(|took| format!("{:.1} s", took.as_secs_f64()));
    let all = [
        ("Repository", message.repository.as_deref(), NAME_UNITS_MAX),
        ("Commit", message.commit.as_deref(), NAME_UNITS_MAX),
        ("Branch", message.branch.as_deref(), NAME_UNITS_MAX),
        ("Author", message.author.as_deref(), NAME_UNITS_MAX),
        ("Status", Some(message.event.words()), NAME_UNITS_MAX),
        ("Site", Some(message.site.as_str()), NAME_UNITS_MAX),
        ("Slot", slots.as_deref(), NAME_UNITS_MAX),
        ("Took", took.as_deref(), NAME_UNITS_MAX),
        ("Image", Some(message.image.as_str()), LONG_UNITS_MAX),
        ("Note", message.note.as_deref(), LONG_UNITS_MAX),
        ("Reason", message.reason.as_deref(), REASON_UNITS_MAX),
        ("What to do", message.hint.as_deref(), LONG_UNITS_MAX),
    ];
    let known = all.into_iter().filter_map(|(name, text, units_max)| {
        let value = one_line(text?, units_max);
        let is_short = units_max <= NAME_UNITS_MAX;
        (!value.is_empty()).then_some(Fact {
            name,
            value,
            is_short,
        })
    });
    known.collect()
}

/// `deploy 17 by alice, 2026-11-22T09:13:21Z`
pub(super) fn footer(message: &Message) -> String {
    let who = one_line(&message.who, WHO_UNITS_MAX);
    let time = one_line(&message.time, TIME_UNITS_MAX);
    format!("deploy {} by {who}, {time}", message.deploy)
}

/// Of a name. Escaped, each text is at most twice as long in Discord, whose embeds have a limit as a whole.
const NAME_UNITS_MAX: usize = 150;
/// Of an image, a note and a hint.
const LONG_UNITS_MAX: usize = 300;
/// Of a reason.
pub(super) const REASON_UNITS_MAX: usize = 500;
const WHO_UNITS_MAX: usize = 100;
const TIME_UNITS_MAX: usize = 40;
