//! The new release in front of users: made active, and judged by what it answers.
//!
//! Owns the steps switch and watch.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::deploy::course::{
    Before, Course, Failure, Release, Stop, WATCH_MISSES_MAX, WATCH_PAUSE, is_cancelled,
};
use crate::deploy::hands::{Hands, Trouble};
use crate::deploy::steps::{Step, StepState};
use crate::deploy::watch::{Answers, Sample, Watch};

impl<H: Hands> Course<'_, H> {
    pub(super) async fn switch(&mut self, before: &Before, release: &Release) -> Result<(), Stop> {
        let to = before.to;
        self.begin_step(Step::Switch, format!("{} -> {to}", before.from));
        let mut cancel = self.cancel.clone();
        let number = self.number();
        let note = format!("deploy {number}: {}", release.image);
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
        let drained = if switched.is_drained {
            "has drained"
        } else {
            "still has requests"
        };
        let detail = format!(
            "{to} is active (generation {}); {} {drained}",
            switched.generation, before.from
        );
        self.warnings.extend(switched.warning.clone());
        if let Some(pending) = &mut self.ledger.pending {
            pending.generation = Some(switched.generation);
        }
        self.switched = Some(switched);
        self.keep();
        self.end_step(StepState::Done, detail).await;
        Ok(())
    }

    pub(super) async fn watch(&mut self, before: &Before) -> Result<(), Stop> {
        let window = self.settings.watch.time;
        if window.is_zero() {
            return Ok(());
        }
        self.begin_step(
            Step::Watch,
            format!("{} for {} s", before.to, window.as_secs_f32()),
        );
        let mut cancel = self.cancel.clone();
        let verdict = tokio::select! {
            verdict = self.look(before, window) => verdict?,
            () = is_cancelled(&mut cancel) => return Err(Stop::Cut(Step::Watch)),
        };
        let Some(reason) = verdict else {
            let Answers {
                requests,
                server_errors,
            } = self.answers.unwrap_or_default();
            self.end_step(
                StepState::Done,
                format!("{requests} requests, {server_errors} of them went wrong"),
            )
            .await;
            return Ok(());
        };
        let bad = format!("the new release is no good: {reason}");
        let failure = self.failure_of_container(bad.clone(), before.to).await;
        let generation = self
            .switched
            .as_ref()
            .map_or(0, |switched| switched.generation);
        let note = format!("deploy {} is undone: {reason}", self.number());
        match self.hands.switch(before.from, generation, &note).await {
            Ok(back) => {
                self.switched = Some(back);
                Err(Stop::FlippedBack(failure))
            }
            Err(trouble) => {
                let error = format!(
                    "{bad}; and {} could not be made active again: {trouble}",
                    before.from
                );
                Err(Stop::Failed(Failure { error, ..failure }))
            }
        }
    }

    /// Looks until the window is over; the reason if the release is no good.
    pub(super) async fn look(
        &mut self,
        before: &Before,
        window: Duration,
    ) -> Result<Option<String>, Stop> {
        let to = before.to;
        let generation = self
            .switched
            .as_ref()
            .map_or(0, |switched| switched.generation);
        let mut watch = Watch::new(self.settings.watch.clone(), self.counted);
        let (deadline, mut misses) = (Instant::now() + window, 0);
        while Instant::now() < deadline {
            sleep(WATCH_PAUSE.min(deadline - Instant::now())).await;
            let site = match self.hands.site().await {
                Ok(site) => site,
                Err(_) if misses < WATCH_MISSES_MAX => {
                    misses += 1;
                    continue;
                }
                Err(trouble) => {
                    self.warnings
                        .push(format!("the watch window ended early: {trouble}"));
                    return Ok(None);
                }
            };
            misses = 0;
            if site.active != to || site.generation != generation {
                return Err(Stop::Superseded(site.generation));
            }
            let container = self.hands.container(to).await;
            let slot = site.slot(to);
            let sample = Sample {
                is_healthy: slot.is_healthy,
                last_failure: slot.last_failure.clone(),
                answers: slot.answers,
                // An engine that does not answer says nothing about the release.
                container_failure: container
                    .ok()
                    .flatten()
                    .and_then(|container| container.failure()),
            };
            let verdict = watch.judge(&sample);
            self.answers = Some(watch.answers());
            if verdict.is_some() {
                return Ok(verdict);
            }
        }
        Ok(None)
    }
}
