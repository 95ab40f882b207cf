//! `deploy status` as text: the slots with what they run, and what is under way. Pure.
//!
//! ```text
//! mana.so  active green  generation 8
//!   blue   standby  healthy    app:40  9f86d081884c  running     backup until 2026-11-22T09:23:21.000Z
//!   green  active   healthy    app:41  1c2d3e4f5a6b  running
//! last: deploy 17 of app:41 by ops at 2026-11-22T09:13:21.004Z: deployed
//! ```

use std::time::{Duration, SystemTime};

use mana_control::Slot;
use mana_control::deploy::conduct::Survey;
use mana_control::deploy::container::{Container, short};
use mana_control::deploy::hands::Trouble;
use mana_control::deploy::ledger::{Entry, Warm};
use mana_control::deploy::settings::DeploySettings;
use mana_control::journal::timestamp;
use serde_json::{Value, json};

use super::one_line;
use crate::cli::render::{Cell, aligned};
use crate::cli::terminal::Paint;

/// How things stand.
pub(super) fn render(
    survey: &Survey,
    settings: &DeploySettings,
    now: SystemTime,
    is_json: bool,
) -> String {
    match is_json {
        true => format!("{}\n", object(survey, settings)),
        false => text(survey, settings, now),
    }
}

fn text(survey: &Survey, settings: &DeploySettings, now: SystemTime) -> String {
    let site = settings.site.as_str();
    let mut lines = vec![match &survey.site {
        Ok(now) => format!(
            "{site}  active {}  generation {}",
            now.active, now.generation
        ),
        Err(trouble) => format!(
            "{site}  which slot is active is not known: {}",
            one_line(&trouble.to_string())
        ),
    }];
    match &survey.containers {
        Ok(containers) => {
            let rows =
                Slot::BOTH.map(|slot| row(survey, slot, containers[slot.index()].as_ref(), now));
            lines.extend(aligned(&rows, "  ", Paint::Plain));
        }
        Err(trouble) => lines.push(format!(
            "  the containers are not known: {}",
            one_line(&trouble.to_string())
        )),
    }
    if let Some(holder) = &survey.holder {
        lines.push(format!(
            "now: {} by {} (pid {}) since {}",
            one_line(&holder.what),
            one_line(&holder.who),
            holder.pid,
            holder.since
        ));
    } else if let Some(pending) = &survey.ledger.pending {
        lines.push(format!(
            "cut off: {}; the next deploy or `deploy reconcile` tidies up",
            about(pending)
        ));
    }
    lines.push(match survey.ledger.deploys.last() {
        Some(last) => format!("last: {}", about(last)),
        None => "no deploys yet".to_owned(),
    });
    lines.join("\n") + "\n"
}

fn row(survey: &Survey, slot: Slot, container: Option<&Container>, now: SystemTime) -> Vec<Cell> {
    let (role, health) = match &survey.site {
        Ok(site) => (
            if site.active == slot {
                "active"
            } else {
                "standby"
            },
            if site.slot(slot).is_healthy {
                "healthy"
            } else {
                "unhealthy"
            },
        ),
        Err(_) => ("-", "-"),
    };
    let [image, id, state] = match container {
        Some(container) => [
            container.image.clone(),
            short(&container.image_id).to_owned(),
            state(container),
        ],
        None => ["-".to_owned(), "-".to_owned(), "no container".to_owned()],
    };
    let warm = survey.ledger.warm.filter(|warm| warm.slot == slot);
    let is_active = survey.site.as_ref().is_ok_and(|site| site.active == slot);
    let warm = warm.filter(|warm| !is_active && warm.until.is_none_or(|until| moment(until) > now));
    let warm = warm
        .map(|warm| format!("backup{}", until(warm)))
        .unwrap_or_default();
    let cells = [
        slot.to_string(),
        role.to_owned(),
        health.to_owned(),
        one_line(&image),
        id,
        state,
        warm,
    ];
    cells.map(Cell::new).into()
}

fn state(container: &Container) -> String {
    match (container.failure(), container.state.is_running) {
        (Some(failure), true) => format!("running; {failure}"),
        (_, false) => format!(
            "{} (exit code {})",
            container.state.word, container.state.exit_code
        ),
        (None, true) => "running".to_owned(),
    }
}

/// `deploy 17 of app:41 by ops at 2026-11-22T09:13:21.004Z: deployed`
fn about(entry: &Entry) -> String {
    let outcome = entry
        .outcome
        .map(|outcome| format!(": {}", outcome.as_str()))
        .unwrap_or_default();
    let step = entry
        .step
        .as_ref()
        .map(|step| format!(" at {step}"))
        .unwrap_or_default();
    format!(
        "deploy {} of {} by {} at {}{outcome}{step}",
        entry.deploy,
        entry.image,
        one_line(&entry.who),
        entry.time
    )
}

/// ` until 2026-11-22T09:23:21.000Z`; nothing if it has no end.
pub(super) fn until(warm: Warm) -> String {
    warm.until
        .map(|until| format!(" until {}", timestamp(moment(until))))
        .unwrap_or_default()
}

fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn object(survey: &Survey, settings: &DeploySettings) -> Value {
    let trouble = |trouble: &Trouble| json!({"error": trouble.to_string()});
    let slot = |slot: Slot| {
        let container = survey
            .containers
            .as_ref()
            .map(|containers| containers[slot.index()].as_ref());
        let healthy = survey
            .site
            .as_ref()
            .ok()
            .map(|site| site.slot(slot).is_healthy);
        json!({
            "healthy": healthy,
            "container": match container {
                Ok(Some(container)) => json!({
                    "name": container.name, "id": container.id, "image": container.image, "image_id": container.image_id,
                    "state": container.state.word, "running": container.state.is_running, "exit_code": container.state.exit_code,
                    "restarts": container.restarts, "health": container.state.health,
                }),
                Ok(None) => Value::Null,
                Err(error) => trouble(error),
            },
        })
    };
    json!({
        "ok": survey.site.is_ok() && survey.containers.is_ok(),
        "site": settings.site.as_str(),
        "active": survey.site.as_ref().ok().map(|site| site.active),
        "generation": survey.site.as_ref().ok().map(|site| site.generation),
        "error": survey.site.as_ref().err().map(ToString::to_string),
        "slots": {"blue": slot(Slot::Blue), "green": slot(Slot::Green)},
        "warm": survey.ledger.warm,
        "holder": survey.holder,
        "pending": survey.ledger.pending,
        "last": survey.ledger.deploys.last(),
    })
}
