//! Before anything is changed: what is there, what is wanted, and whether it can be done.
//!
//! Owns the preflight, and the plan, which is the preflight and what would follow it.

use crate::deploy::commands::Commands;
use crate::deploy::course::{Before, Course, Failure, Planned, Release, Stop, What, is_cancelled};
use crate::deploy::hands::{Hands, Trouble};
use crate::deploy::image::ImageName;
use crate::deploy::ledger::{Entry, Kind, Outcome, Replaced};
use crate::deploy::machine;
use crate::deploy::settings::{KeepWarm, Pull};
use crate::deploy::steps::{Step, StepState};
use crate::deploy::way_back::{self, WayBack};
use crate::journal::timestamp;
use crate::slot::Slot;

impl<H: Hands> Course<'_, H> {
    /// What is there, what is wanted, and whether it can be done: nothing is changed here.
    pub(super) async fn prepare(&mut self) -> Result<(Before, Release), Stop> {
        self.step = Step::Lock;
        let holder = format!("held by {}", self.order.who);
        self.end_step(StepState::Done, holder).await;
        self.begin_step(Step::Preflight, String::new());
        let mut cancel = self.cancel.clone();
        let found = tokio::select! {
            found = self.preflight() => found,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Preflight)),
        };
        let (before, release, detail) = found.map_err(Stop::Refused)?;
        self.end_step(StepState::Done, detail).await;
        Ok((before, release))
    }

    /// What would be done, as far as it is known before it is.
    pub(crate) async fn plan(mut self, commands: Commands<'_>) -> Result<Planned, Failure> {
        let (before, release, found) = self.preflight().await?;
        let mut steps = Vec::new();
        let mut add = |step, text: String| steps.push((step, text));
        let (from, to, name) = (before.from, before.to, release.image.to_string());
        let settings = self.settings;
        if !release.is_warm {
            match settings.pull {
                Pull::Always | Pull::Missing => {
                    add(Step::Pull, commands.pull(&name, None).to_string())
                }
                Pull::Never => add(Step::Pull, format!("{name} has to be here already")),
            }
            let standby = before.containers[to.index()].as_ref();
            if let Some(old) = standby {
                if old.state.is_running {
                    add(
                        Step::Start,
                        format!("drain {to}, then {}", commands.stop(&old.name)),
                    );
                }
                add(Step::Start, commands.remove(&old.name).to_string());
            }
            let images = self.images(&before, name.clone());
            add(Step::Start, commands.create(to, &images).to_string());
            add(
                Step::Start,
                "look at the container, and start it".to_owned(),
            );
        }
        add(
            Step::Gate,
            format!(
                "probe {to}, for at most {} s",
                settings.start_timeout.as_secs()
            ),
        );
        if !release.is_warm && !settings.warm_up.paths.is_empty() {
            let paths = settings.warm_up.paths.join(" ");
            add(
                Step::WarmUp,
                format!("{paths}, at most {} requests", settings.warm_up.requests),
            );
        }
        let generation = before.site.generation;
        add(
            Step::Switch,
            format!("switch {to} --if-generation {generation}, then {from} drains"),
        );
        if release.kind == Kind::Deploy && !settings.watch.time.is_zero() {
            add(
                Step::Watch,
                format!(
                    "for {} s; back to {from} if {to} is no good",
                    settings.watch.time.as_secs()
                ),
            );
        }
        let warm = match settings.keep_warm {
            KeepWarm::Always => format!("{from} stays as the backup"),
            KeepWarm::For(time) if time.is_zero() => format!("{from} is stopped"),
            KeepWarm::For(time) => format!(
                "{from} is the backup for {} s more, then stopped",
                time.as_secs()
            ),
        };
        add(Step::KeepWarm, warm);
        add(
            Step::Prune,
            format!("the last {} images stay", settings.keep_images),
        );
        Ok(Planned { found, steps })
    }

    pub(super) async fn preflight(&mut self) -> Result<(Before, Release, String), Failure> {
        let site = self
            .hands
            .site()
            .await
            .map_err(|trouble| self.failure(trouble))?;
        let engine = self.hands.engine().await.map_err(|trouble| {
            let hint = "is Docker running, and may this user use it? see deploy.engine";
            self.failure(trouble).or_hint(hint)
        })?;
        let (from, to) = (site.active, site.active.other());
        let mut containers = [None, None];
        for slot in Slot::BOTH {
            let container = self.hands.container(slot).await;
            containers[slot.index()] = container.map_err(|trouble| self.failure(trouble))?;
        }
        let before = Before {
            site,
            containers,
            from,
            to,
        };
        self.close_cut_off(&before);
        let release = self.release(&before)?;
        let mut detail = format!(
            "{from} is active (generation {}), {} goes into {to}; engine {}",
            before.site.generation, release.image, engine.version
        );
        if release.is_warm {
            return Ok((before, release, detail));
        }
        let images = self.images(&before, release.image.to_string());
        self.hands
            .check_compose(&images)
            .await
            .map_err(|trouble| self.failure(trouble))?;
        if let Some(free) = self.hands.disk_free(&engine.root) {
            let wanted = self.settings.disk_free_min;
            machine::check_disk(&engine.root, free, wanted).map_err(|scarce| {
                self.failure(scarce)
                    .or_hint("see `docker system df`, or lower deploy.disk_free_min")
            })?;
            detail.push_str(&format!(", {} free", machine::readable(free)));
        }
        let running = before.containers[from.index()]
            .as_ref()
            .filter(|container| container.state.is_running);
        let used = match running {
            Some(container) => self.hands.memory_of(&container.id).await,
            None => None,
        };
        let free = self
            .hands
            .memory_free()
            .map_err(|trouble| self.failure(trouble))?;
        machine::check_memory(free, used, self.settings.memory_free_min).map_err(|scarce| {
            self.failure(scarce).or_hint("two copies run at once for a while; see `docker stats`, or lower deploy.memory_free_min")
        })?;
        Ok((before, release, detail))
    }

    pub(super) fn release(&self, before: &Before) -> Result<Release, Failure> {
        let image = match &self.order.what {
            What::Image(image) => {
                return Ok(Release {
                    image: image.clone(),
                    image_id: None,
                    kind: Kind::Deploy,
                    is_warm: false,
                });
            }
            What::Rollback => {
                let container = |slot: Slot| before.containers[slot.index()].as_ref();
                way_back::find(self.ledger, container(before.from), container(before.to))
            }
        };
        let way = image.map_err(|none| {
            self.failure(none).or_hint("`mana-proxy deploy history` lists what was deployed; deploy an image by its tag instead")
        })?;
        let (is_warm, (image, image_id)) = match way {
            WayBack::Flip { image, image_id } => (true, (image, image_id)),
            WayBack::Start { image, image_id } => (false, (image, image_id)),
        };
        Ok(Release {
            image,
            image_id: Some(image_id),
            kind: Kind::Rollback,
            is_warm,
        })
    }

    /// What was cut off before is over now, and this is on top of it.
    pub(super) fn close_cut_off(&mut self, before: &Before) {
        let Some(pending) = &self.ledger.pending else {
            return;
        };
        let is_active = pending.to == before.from && pending.from != before.from;
        let generation = is_active.then_some(before.site.generation);
        let number = pending.deploy;
        self.ledger.close(|entry| {
            entry.outcome = Some(Outcome::CutOff);
            entry.generation = generation;
        });
        let after = if is_active { "after" } else { "before" };
        self.warnings
            .push(format!("deploy {number} was cut off {after} its switch"));
    }

    /// What cannot be written down is not begun: after a crash nobody would know of it.
    pub(super) fn begin(&mut self, before: &Before, release: &Release) -> Result<(), Trouble> {
        let active = before.containers[before.from.index()].as_ref();
        let replaced = active.and_then(|container| {
            Some(Replaced {
                image: ImageName::parse(&container.image).ok()?,
                image_id: container.image_id.clone(),
            })
        });
        self.ledger.begin(Entry {
            deploy: 0,
            kind: release.kind,
            time: timestamp(std::time::SystemTime::now()),
            who: self.order.who.clone(),
            image: release.image.clone(),
            image_id: release.image_id.clone(),
            from: before.from,
            to: before.to,
            before: replaced,
            about: self.order.about.clone(),
            outcome: None,
            step: None,
            error: None,
            generation: None,
            gate: None,
            requests: None,
            server_errors: None,
            took_ms: None,
            is_pruned: false,
        });
        if let Err(trouble) = self.hands.store(self.ledger) {
            self.ledger.pending = None;
            return Err(trouble);
        }
        self.announce(None, None);
        Ok(())
    }
}
