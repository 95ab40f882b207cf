//! Tells how a deploy goes: lines on stderr, JSON on stdout if it is wanted, messages into the outbox.

use std::time::{Duration, SystemTime};

use mana_control::deploy::engine::Herald;
use mana_control::deploy::hands::Announcement;
use mana_control::deploy::ledger::{Kind, Outcome};
use mana_control::deploy::steps::{Said, StepState};
use mana_control::journal::timestamp;

use super::one_line;
use super::sender::Outgoing;
use crate::cli::progress;
use crate::cli::terminal::{Terminal, Weight};
use crate::messages::{self, Event, Message};

/// Who hears of a deploy.
pub(super) struct Teller<'t, 'w> {
    terminal: &'t mut Terminal<'w>,
    is_json: bool,
    /// None where nobody else is told.
    outgoing: Option<Outgoing<'t>>,
    troubles: Vec<String>,
}

impl<'t, 'w> Teller<'t, 'w> {
    pub(super) fn new(
        terminal: &'t mut Terminal<'w>,
        is_json: bool,
        outgoing: Option<Outgoing<'t>>,
    ) -> Teller<'t, 'w> {
        Teller {
            terminal,
            is_json,
            outgoing,
            troubles: Vec::new(),
        }
    }

    /// What could not be told.
    pub(super) fn into_troubles(self) -> Vec<String> {
        self.troubles
    }
}

impl Herald for Teller<'_, '_> {
    fn say(&mut self, said: Said) {
        let weight = weight(&said);
        if self.is_json {
            let line = format!("{}\n", said.to_json());
            self.terminal.data_meanwhile(&line, weight);
        }
        self.terminal.talk_meanwhile(&line(&said), weight);
    }

    fn announce(&mut self, announcement: &Announcement) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        let deploy = outgoing.deploy;
        let message = message(announcement, deploy.settings.site.as_str());
        let kept = messages::put(&outgoing.outbox(), &deploy.messages, &message);
        if let Err(error) = kept {
            self.troubles.push(format!(
                "nobody is told: {}",
                crate::error_text::with_sources(&error)
            ));
        }
        // Now, and not when it has ended: one that takes long, or is killed, has begun all the same.
        self.troubles.extend(outgoing.detach().err());
    }
}

/// What goes on can be missed; what has begun or ended should not be.
fn weight(said: &Said) -> Weight {
    match said {
        Said::Daemon(_)
        | Said::Step {
            state: StepState::Goes,
            ..
        } => Weight::Progress,
        Said::Step { .. } => Weight::Step,
    }
}

/// `deploy 17: pull done in 812 ms: pulled, 9f86d081884c`
fn line(said: &Said) -> String {
    let Said::Step {
        deploy,
        step,
        state,
        detail,
        took,
    } = said
    else {
        let Said::Daemon(event) = said else {
            return String::new();
        };
        return format!("  {}", progress::line(event));
    };
    let who = match deploy {
        Some(number) => format!("deploy {number}"),
        None => "deploy".to_owned(),
    };
    let took = took
        .map(|took| format!(" in {}", readable(took)))
        .unwrap_or_default();
    let state = match state {
        StepState::Began | StepState::Goes => String::new(),
        StepState::Done => format!(" done{took}"),
        StepState::Skipped => " left out".to_owned(),
        StepState::Failed => format!(" failed{took}"),
    };
    match detail.is_empty() {
        true => format!("{who}: {step}{state}"),
        false => format!("{who}: {step}{state}: {}", one_line(detail)),
    }
}

/// `812 ms`, `41.2 s`.
pub(super) fn readable(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1000, ms / 100 % 10),
    }
}

fn message(announcement: &Announcement, site: &str) -> Message {
    let about = announcement.about.clone();
    let event = match (announcement.outcome, announcement.kind) {
        (None, _) => Event::Started,
        // What was brought back is a roll back that has succeeded.
        (Some(Outcome::Deployed), Kind::Rollback) => Event::RolledBack,
        (Some(Outcome::Deployed), Kind::Deploy) => Event::Succeeded,
        (Some(Outcome::RolledBack), _) => Event::RolledBack,
        (Some(_), _) => Event::Failed,
    };
    Message {
        event,
        deploy: announcement.deploy,
        site: site.to_owned(),
        server: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        image: announcement.image.to_string(),
        from: announcement.from,
        to: announcement.to,
        repository: about.repository,
        commit: about.commit,
        branch: about.branch,
        author: about.author,
        note: about.note,
        reason: announcement.error.clone(),
        hint: announcement.hint.clone(),
        who: announcement.who.clone(),
        time: timestamp(SystemTime::now()),
        took: announcement.took,
        last_log: announcement.last_log.clone(),
    }
}

#[cfg(test)]
mod tests {
    use mana_control::deploy::steps::Step;
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn each_thing_that_happens_is_one_line() {
        let step = |deploy, state, detail: &str, ms: Option<u64>| Said::Step {
            deploy,
            step: Step::Pull,
            state,
            detail: detail.to_owned(),
            took: ms.map(Duration::from_millis),
        };
        let event = Map::from_iter([("event".to_owned(), Value::from("persisting"))]);
        for (said, expected) in [
            (
                step(Some(17), StepState::Began, "app:41", None),
                "deploy 17: pull: app:41",
            ),
            (
                step(Some(17), StepState::Done, "pulled", Some(812)),
                "deploy 17: pull done in 812 ms: pulled",
            ),
            (
                step(Some(17), StepState::Failed, "a\nb\x1b[2J", Some(61_250)),
                "deploy 17: pull failed in 61.2 s: a\\nb\\u{1b}[2J",
            ),
            (step(None, StepState::Began, "", None), "deploy: pull"),
            (Said::Daemon(event), "  storing the new state"),
        ] {
            assert_eq!(line(&said), expected);
        }
    }
}
