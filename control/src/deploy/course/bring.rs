//! The new release into the standby slot: fetched, started, tried.
//!
//! Owns the steps pull, start, gate and warm-up. None of them touches the active slot.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::deploy::container::{self, Wanted};
use crate::deploy::course::{
    Before, Course, Failure, GATE_PAUSE, PAGE_PATIENCE, PROBE_PATIENCE, Release, Stop, is_cancelled,
};
use crate::deploy::hands::{Hands, Trouble};
use crate::deploy::settings::Pull;
use crate::deploy::steps::{Step, StepState};
use crate::deploy::warm_up::Settling;
use crate::slot::Slot;

/// Looks for the exit code of a container that is started again and again.
const EXIT_CODE_LOOKS: usize = 10;

impl<H: Hands> Course<'_, H> {
    pub(super) async fn pull(&mut self, release: &Release) -> Result<String, Stop> {
        self.begin_step(Step::Pull, release.image.to_string());
        let mut cancel = self.cancel.clone();
        let pulled = tokio::select! {
            pulled = self.fetch(release) => pulled,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Pull)),
        };
        let (reference, detail) = pulled.map_err(Stop::Failed)?;
        self.keep();
        self.end_step(StepState::Done, detail).await;
        Ok(reference)
    }

    /// What compose is to be told, and what to say of it.
    pub(super) async fn fetch(&mut self, release: &Release) -> Result<(String, String), Failure> {
        let name = release.image.to_string();
        let there = self
            .hands
            .image(&name)
            .await
            .map_err(|trouble| self.failure(trouble))?;
        if let Some(wanted) = &release.image_id {
            if there.as_ref().is_some_and(|image| image.id == *wanted) {
                return Ok((name, "it is here".to_owned()));
            }
            let by_id = self
                .hands
                .image(wanted)
                .await
                .map_err(|trouble| self.failure(trouble))?;
            if by_id.is_some() {
                return Ok((
                    wanted.clone(),
                    format!("{name} is another image by now; by its id it is here"),
                ));
            }
        }
        let is_pulled = match self.settings.pull {
            Pull::Always => true,
            Pull::Missing => there.is_none(),
            Pull::Never => false,
        };
        if is_pulled {
            self.hands.pull(&release.image).await.map_err(|trouble| {
                self.failure(trouble).or_hint("does the registry have that tag, and may the token read it? see deploy.registry_user")
            })?;
        }
        let image = self
            .hands
            .image(&name)
            .await
            .map_err(|trouble| self.failure(trouble))?;
        let Some(image) = image else {
            let hint = "build or load it here, or set deploy.pull = \"always\"";
            return Err(self
                .failure(format!("there is no image {name} here"))
                .or_hint(hint));
        };
        if release
            .image_id
            .as_ref()
            .is_some_and(|wanted| *wanted != image.id)
        {
            let error = format!(
                "{name} is another image by now, and the one that ran before is not here any more"
            );
            return Err(self
                .failure(error)
                .or_hint("deploy an image by its tag instead"));
        }
        let short = container::short(&image.id).to_owned();
        if let Some(pending) = &mut self.ledger.pending {
            pending.image_id = Some(image.id);
            pending.about.commit = pending.about.commit.take().or(image.revision);
            pending.about.repository = pending.about.repository.take().or(image.source);
        }
        let how = if is_pulled { "pulled" } else { "it is here" };
        Ok((name, format!("{how}, {short}")))
    }

    pub(super) async fn start(&mut self, before: &Before, reference: &str) -> Result<(), Stop> {
        let service = &self.settings.service(before.to).service;
        self.begin_step(Step::Start, format!("{service} with {reference}"));
        let mut cancel = self.cancel.clone();
        let started = tokio::select! {
            started = self.put_in(before, reference) => started,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Start)),
        };
        let name = started.map_err(Stop::Failed)?;
        self.end_step(StepState::Done, format!("container {name}"))
            .await;
        Ok(())
    }

    pub(super) async fn put_in(
        &mut self,
        before: &Before,
        reference: &str,
    ) -> Result<String, Failure> {
        let to = before.to;
        // A pull may take minutes, in which anything may happen; from here on it is this deploy's alone to change.
        let site = self.site().await?;
        if site.active != before.from || site.generation != before.site.generation {
            let error = format!(
                "somebody else has switched meanwhile (generation {})",
                site.generation
            );
            return Err(self
                .failure(error)
                .or_hint("look at `mana-proxy status`, and order it again"));
        }
        self.check_failover(&site)?;
        let standby = self.hands.container(to).await;
        let standby = standby.map_err(|trouble| self.failure(trouble))?;
        self.check_makes_way(before, standby.as_ref())?;
        // Until the switch it is out of use, so that nobody gets a release that has not been tried. It may be the backup of
        // a request right now, so it has to be empty. The daemon refuses this for an active slot.
        self.has_drained = !site.slot(to).is_drained || self.ledger.out_of_use == Some(to);
        if self.has_drained {
            self.ledger.out_of_use = Some(to);
            let stored = self.hands.store(self.ledger);
            stored.map_err(|trouble| self.failure(trouble))?;
        }
        let drained = self.hands.drain(to).await;
        if !drained.map_err(|trouble| self.failure(trouble))? {
            let trouble = Trouble::StillBusy(to);
            let hint = "try again once `mana-proxy status` shows none in flight";
            return Err(self.failure(trouble).or_hint(hint));
        }
        let images = self.images(before, reference.to_owned());
        self.has_touched = true;
        let made = self
            .hands
            .create(to, &images)
            .await
            .map_err(|trouble| self.failure(trouble))?;
        self.made = Some(made.id.clone());
        let service = self.settings.service(to);
        let image_id = self
            .ledger
            .pending
            .as_ref()
            .and_then(|entry| entry.image_id.clone());
        let wanted = Wanted {
            slot: to,
            service: &service.service,
            image_variable: &service.image_variable,
            image_id: image_id.as_deref().unwrap_or_default(),
            upstreams: &before.site.slot(to).upstreams,
            public_ports: self.settings.public_ports,
        };
        container::check(&made, wanted).map_err(|unfit| {
            let hint = unfit.hint();
            self.failure(unfit).or_hint(hint)
        })?;
        if let Err(trouble) = self.hands.start(&made.id).await {
            return Err(self.failure_of_container(trouble.to_string(), to).await);
        }
        Ok(made.name)
    }

    pub(super) async fn gate(&mut self, before: &Before, is_warm: bool) -> Result<(), Stop> {
        let to = before.to;
        self.begin_step(Step::Gate, format!("probing {to}"));
        let mut cancel = self.cancel.clone();
        let patience = if is_warm {
            Duration::ZERO
        } else {
            self.settings.start_timeout
        };
        let passed = tokio::select! {
            passed = self.until_it_passes(to, patience) => passed,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Gate)),
        };
        let said = passed.map_err(Stop::Failed)?;
        self.gate = Some(said.clone());
        self.end_step(StepState::Done, said).await;
        Ok(())
    }

    pub(super) async fn until_it_passes(
        &mut self,
        slot: Slot,
        patience: Duration,
    ) -> Result<String, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            let container = self
                .hands
                .container(slot)
                .await
                .map_err(|trouble| self.failure(trouble))?;
            let ended = match &container {
                Some(container) if Some(&container.id) != self.made.as_ref() => {
                    Some("another container has taken its place".to_owned())
                }
                Some(container) => container.failure(),
                None => Some("it is not there any more".to_owned()),
            };
            if let Some(ended) = ended {
                let ended = self.with_exit_code(slot).await.unwrap_or(ended);
                let error = format!("the container of {slot} does not run: {ended}");
                return Err(self.failure_of_container(error, slot).await);
            }
            // At least one whole try, however short the patience.
            let until = deadline.max(Instant::now() + PROBE_PATIENCE);
            let refusal = match timeout_at(until, self.hands.probe(slot)).await {
                Ok(Ok(said)) => return Ok(said),
                Ok(Err(trouble)) if trouble.is_unreachable() => return Err(self.failure(trouble)),
                Ok(Err(trouble)) => trouble.to_string(),
                Err(_) => "it has not answered".to_owned(),
            };
            if Instant::now() + GATE_PAUSE >= deadline {
                let health = container.and_then(|container| container.state.health);
                let health = health
                    .map(|health| format!("; its own health check says {health}"))
                    .unwrap_or_default();
                let waited = match patience {
                    Duration::ZERO => String::new(),
                    patience => format!(
                        " within {} s of its start (deploy.start_timeout)",
                        patience.as_secs_f32()
                    ),
                };
                let error = format!("{slot} did not pass its gate{waited}: {refusal}{health}");
                return Err(self.failure_of_container(error, slot).await);
            }
            sleep(GATE_PAUSE).await;
        }
    }

    /// Why a container has ended, once the engine knows with what: one that is started again and again says so in between.
    async fn with_exit_code(&mut self, slot: Slot) -> Option<String> {
        for _ in 0..EXIT_CODE_LOOKS {
            let container = self.hands.container(slot).await.ok()??;
            if container.is_between_starts() {
                return container.failure();
            }
            sleep(GATE_PAUSE).await;
        }
        None
    }

    pub(super) async fn warm_up(&mut self, before: &Before) -> Result<(), Stop> {
        let paths = &self.settings.warm_up.paths;
        if paths.is_empty() {
            return Ok(());
        }
        self.begin_step(Step::WarmUp, paths.join(" "));
        let mut cancel = self.cancel.clone();
        let warmed = tokio::select! {
            warmed = self.ask_for_pages(before) => warmed,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::WarmUp)),
        };
        let detail = warmed.map_err(Stop::Failed)?;
        self.end_step(StepState::Done, detail).await;
        Ok(())
    }

    pub(super) async fn ask_for_pages(&mut self, before: &Before) -> Result<String, Failure> {
        let settings = self.settings;
        let (to, warm_up) = (before.to, &settings.warm_up);
        let deadline = Instant::now() + warm_up.timeout;
        let mut settling = Settling::default();
        let upstreams = &before.site.slot(to).upstreams;
        let pairs = warm_up
            .paths
            .iter()
            .flat_map(|path| upstreams.iter().map(move |upstream| (upstream, path)));
        let mut asked = 0;
        // Each page at least once, then in turn until it has settled.
        let pages: Vec<_> = pairs.collect();
        let mut is_settled = false;
        while asked < warm_up.requests.max(pages.len()) && !(is_settled && asked >= pages.len()) {
            let Some((upstream, path)) = pages.get(asked % pages.len().max(1)) else {
                break;
            };
            // Each has to be answered once, however little time is left; after that it is about speed.
            let is_first = asked < pages.len();
            let until = match is_first {
                true => deadline.max(Instant::now() + PAGE_PATIENCE),
                false => deadline,
            };
            let page = match timeout_at(until, self.hands.page(upstream, path)).await {
                Ok(page) => page,
                Err(_) if is_first => {
                    let error = format!("GET {path} on {upstream} was not answered in time");
                    return Err(self.failure_of_container(error, to).await);
                }
                Err(_) => break,
            };
            match page {
                Ok((status, took)) if status < 500 => is_settled = settling.took(took),
                Ok((status, _)) => {
                    let error = format!("GET {path} on {upstream} was answered {status}");
                    return Err(self.failure_of_container(error, to).await);
                }
                Err(trouble) => {
                    return Err(self.failure_of_container(trouble.to_string(), to).await);
                }
            }
            asked += 1;
        }
        let how = if is_settled {
            "settled"
        } else {
            "not settled yet, going on"
        };
        let times = settling.percentiles().map(|(first, last)| {
            format!(
                ", p95 {} ms at first and {} ms at last",
                first.as_millis(),
                last.as_millis()
            )
        });
        Ok(format!(
            "{how} after {asked} requests{}",
            times.unwrap_or_default()
        ))
    }
}
