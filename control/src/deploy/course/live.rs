//! The new release in front of users: made active, and judged by what it answers while the old one drains.
//!
//! Owns the steps switch, drain and watch. The watch begins with the first request, not with the last one of the old slot.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::deploy::course::{
    AWAY_MAX, Before, Course, DRAIN_MARGIN, DRAIN_PAUSE, Failure, LOOK_PATIENCE, Release, Stop,
    WATCH_PAUSE, is_cancelled,
};
use crate::deploy::hands::{Hands, SiteNow, Stage, Trouble};
use crate::deploy::ledger::Kind;
use crate::deploy::steps::{Step, StepState};
use crate::deploy::watch::{Answers, Sample, Watch};

impl<H: Hands> Course<'_, H> {
    pub(super) async fn switch(&mut self, before: &Before, release: &Release) -> Result<(), Stop> {
        let to = before.to;
        self.begin_step(Step::Switch, format!("{} -> {to}", before.from));
        let mut cancel = self.cancel.clone();
        let note = format!("deploy {}: {}", self.number, release.image);
        let switching = async {
            // The old release in that slot may have answered as the backup until a moment ago.
            let counted = self.hands.site().await?.slot(to).answers;
            let switched = self.hands.switch(to, before.site.generation, &note).await?;
            Ok((counted, switched))
        };
        let switched = tokio::select! {
            switched = switching => switched,
            // What has become of it the daemon is asked afterwards.
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Switch)),
        };
        let (counted, switched) =
            switched.map_err(|trouble: Trouble| Stop::Failed(self.failure(trouble)))?;
        self.counted = counted;
        self.warnings.extend(switched.warning.clone());
        let generation = switched.generation;
        if let Some(pending) = &mut self.ledger.pending {
            pending.generation = Some(generation);
        }
        // An active slot is in use.
        self.ledger.out_of_use = None;
        self.switched = Some(switched);
        self.keep();
        let detail = format!("{to} is active (generation {generation})");
        self.end_step(StepState::Done, detail).await;
        Ok(())
    }

    /// Waits for the old slot's requests and for the end of the window, whichever is later. A rollback has no window: there
    /// is nothing better to go back to.
    pub(super) async fn watch(&mut self, before: &Before, release: &Release) -> Result<(), Stop> {
        let window = match release.kind {
            Kind::Deploy => self.settings.watch.time,
            Kind::Rollback => Duration::ZERO,
        };
        self.begin_step(Step::Drain, before.from.to_string());
        let mut cancel = self.cancel.clone();
        let verdict = tokio::select! {
            verdict = self.look(before, window) => verdict?,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Watch)),
        };
        match verdict {
            Some(reason) => Err(self.flip_back(before, &reason).await),
            None if window.is_zero() => Ok(()),
            None => {
                let answers = self.answers.unwrap_or_default();
                let Answers {
                    requests,
                    server_errors,
                } = answers;
                let detail = format!("{requests} requests, {server_errors} of them went wrong");
                self.end_step(StepState::Done, detail).await;
                Ok(())
            }
        }
    }

    /// First of all the old slot again; what else there is to say comes later.
    async fn flip_back(&mut self, before: &Before, reason: &str) -> Stop {
        self.step = Step::Watch;
        let generation = self.generation();
        let note = format!("deploy {} is undone: {reason}", self.number);
        let back = self.hands.switch(before.from, generation, &note).await;
        let bad = format!("the new release is no good: {reason}");
        let failure = self.failure_of_container(bad.clone(), before.to).await;
        match back {
            Ok(back) => {
                self.switched = Some(back);
                Stop::FlippedBack(failure)
            }
            Err(trouble) => {
                let from = before.from;
                let error = format!("{bad}; and {from} could not be made active again: {trouble}");
                Stop::Failed(Failure { error, ..failure })
            }
        }
    }

    /// Looks until the old slot has drained and the window is over; the reason if the release is no good.
    async fn look(&mut self, before: &Before, window: Duration) -> Result<Option<String>, Stop> {
        let began = Instant::now();
        let mut watch = Watch::new(self.settings.watch.clone(), self.counted);
        let (mut is_draining, mut seen) = (true, began);
        let mut next_judgement = began;
        loop {
            let now = Instant::now();
            if !is_draining && now >= began + window {
                return Ok(None);
            }
            match timeout(LOOK_PATIENCE, self.hands.site()).await {
                Ok(Ok(site)) => {
                    seen = Instant::now();
                    if site.active != before.to || site.generation != self.generation() {
                        return Err(Stop::Superseded(site.generation));
                    }
                    let is_late = now >= began + self.settings.drain + DRAIN_MARGIN;
                    if is_draining && self.has_drained_by(before, &site, is_late).await {
                        is_draining = false;
                        if !window.is_zero() {
                            let detail = format!("{} for {} s", before.to, window.as_secs_f32());
                            self.begin_step(Step::Watch, detail);
                        }
                    }
                    if !window.is_zero() && now >= next_judgement {
                        next_judgement = now + WATCH_PAUSE;
                        let sample = self.sample(before, &site).await;
                        let verdict = watch.judge(&sample);
                        self.answers = Some(watch.answers());
                        if verdict.is_some() {
                            return Ok(verdict);
                        }
                    }
                }
                // As for a moment in a restart.
                _ if seen.elapsed() < AWAY_MAX => {}
                _ => {
                    let away = format!(
                        "the daemon was away for {} s; the release was not watched any further",
                        AWAY_MAX.as_secs()
                    );
                    self.warnings.push(away);
                    return Ok(None);
                }
            }
            let pause = if is_draining {
                DRAIN_PAUSE
            } else {
                WATCH_PAUSE
            };
            sleep(
                pause.min(
                    (began + window)
                        .saturating_duration_since(Instant::now())
                        .max(DRAIN_PAUSE),
                ),
            )
            .await;
        }
    }

    /// Whether there is nothing more to wait for in the old slot; says so once.
    async fn has_drained_by(&mut self, before: &Before, site: &SiteNow, is_late: bool) -> bool {
        let from = before.from;
        let left = site.slot(from).in_flight;
        let (state, detail) = match (left, site.stage) {
            (0, _) => (StepState::Done, format!("{from} has drained")),
            (_, Stage::Draining) if !is_late => return false,
            _ => (
                StepState::Done,
                self.warn(format!(
                    "{from} still has {left} requests; its time to drain is over"
                )),
            ),
        };
        self.end_step(state, detail).await;
        true
    }

    async fn sample(&mut self, before: &Before, site: &SiteNow) -> Sample {
        // An engine that does not answer says nothing about the release.
        let container = timeout(LOOK_PATIENCE, self.hands.container(before.to)).await;
        let container_failure = match container {
            Ok(Ok(Some(container))) if Some(&container.id) != self.made.as_ref() => {
                Some("another container has taken its place".to_owned())
            }
            Ok(Ok(container)) => container.and_then(|container| container.failure()),
            Ok(Err(_)) | Err(_) => None,
        };
        let slot = site.slot(before.to);
        Sample {
            is_healthy: slot.is_healthy,
            last_failure: slot.last_failure.clone(),
            answers: slot.answers,
            container_failure,
        }
    }

    /// The generation that this deploy has made.
    fn generation(&self) -> u64 {
        self.switched
            .as_ref()
            .map_or(0, |switched| switched.generation)
    }
}
