//! The end of a deploy: what is kept, what is removed, what is remembered.
//!
//! Owns the steps keep_warm and prune, and the closing of the ledger.

use std::time::Duration;

use crate::deploy::container::Container;
use crate::deploy::course::{Before, Course, Failure, Finished, Stop};
use crate::deploy::hands::Hands;
use crate::deploy::ledger::{Entry, Outcome};
use crate::deploy::prune;
use crate::deploy::settings::KeepWarm;
use crate::deploy::steps::{Step, StepState};
use crate::slot::Slot;

impl<H: Hands> Course<'_, H> {
    pub(super) async fn finish(
        mut self,
        before: &Before,
        ended: Option<(Outcome, Option<Failure>)>,
    ) -> Finished {
        let (outcome, failure) = ended.unwrap_or((Outcome::Deployed, None));
        let is_done = outcome == Outcome::Deployed;
        let pending = self.ledger.pending.as_ref();
        // A release that was not undone is active, however its deploy has ended.
        let is_active = match outcome {
            Outcome::Failed | Outcome::CutOff => {
                pending.is_some_and(|entry| entry.generation.is_some())
            }
            outcome => outcome == Outcome::Deployed,
        };
        if is_active {
            self.keep_warm(before).await;
        }
        let (gate, answers) = (self.gate.take(), self.answers);
        let took = self.began.elapsed();
        let generation = self.switched.as_ref().map(|switched| switched.generation);
        self.announce(Some(outcome), failure.as_ref());
        let ended = |entry: &mut Entry| {
            entry.outcome = Some(outcome);
            entry.gate = gate;
            entry.requests = answers.map(|answers| answers.requests);
            entry.server_errors = answers.map(|answers| answers.server_errors);
            entry.took_ms = u64::try_from(took.as_millis()).ok();
            entry.generation = entry.generation.or(generation);
            if let Some(failure) = &failure {
                entry.step = Some(failure.step.as_str().to_owned());
                entry.error = Some(failure.error.clone());
            }
        };
        let entry = match (self.is_undone, &mut self.ledger.pending) {
            // It stays pending, so that the next look finishes it.
            (false, Some(pending)) => {
                ended(pending);
                Some(pending.clone())
            }
            _ => {
                self.ledger.close(ended);
                self.ledger.deploys.last().cloned()
            }
        };
        if is_done {
            self.prune().await;
        }
        self.keep();
        let published = self
            .switched
            .as_ref()
            .and_then(|switched| switched.published);
        Finished {
            outcome,
            entry,
            failure,
            published: published.filter(|_| is_done).map(|at| at - self.began),
            warm: self.ledger.warm.clone(),
            is_undone: self.is_undone,
            warnings: self.warnings,
        }
    }

    async fn keep_warm(&mut self, before: &Before) {
        let from = before.from;
        let old = before.containers[from.index()].as_ref();
        let Some(old) = old.filter(|container| container.state.is_running) else {
            self.ledger.warm = None;
            return;
        };
        let keep = self.settings.keep_warm;
        let now = self.hands.unix_time();
        self.ledger.keep_warm(from, &old.image_id, keep, now);
        self.begin_step(Step::KeepWarm, from.to_string());
        let detail = match keep {
            KeepWarm::Always => format!("{from} stays as the backup"),
            KeepWarm::For(Duration::ZERO) => match self.retire(from).await {
                Ok(detail) => {
                    self.ledger.warm = None;
                    detail
                }
                // `reconcile` tries again.
                Err(trouble) => self.warn(format!("{from} goes on running: {trouble}")),
            },
            KeepWarm::For(time) => format!("{from} is the backup for {} s more", time.as_secs()),
        };
        self.end_step(StepState::Done, detail).await;
    }

    pub(super) async fn prune(&mut self) {
        let mut containers = Vec::new();
        for slot in Slot::BOTH {
            match self.hands.container(slot).await {
                Ok(container) => containers.extend(container),
                // What is in use is not known, so nothing is removed.
                Err(_) => return,
            }
        }
        let containers: Vec<&Container> = containers.iter().collect();
        let stale = prune::stale(self.ledger, &containers, self.settings.keep_images);
        if stale.is_empty() {
            return;
        }
        self.begin_step(Step::Prune, format!("images to remove: {}", stale.len()));
        let mut removed = Vec::new();
        for image in &stale {
            let name = image.name.to_string();
            let there = match self.hands.image(&image.image_id).await {
                Ok(there) => there,
                // What it is called by now is not known.
                Err(_) => continue,
            };
            let reference = match &there {
                Some(there) if there.names.contains(&name) => Some(&name),
                Some(there) if there.names.is_empty() => Some(&image.image_id),
                // Somebody else has given it a name of theirs.
                Some(_) | None => None,
            };
            let is_there = reference.is_some();
            let is_removed = match reference {
                Some(reference) => self.hands.remove_image(reference).await.is_ok(),
                None => true,
            };
            // One that is gone already needs no removal; one that others need is theirs.
            if is_removed {
                let is_it = |entry: &&mut Entry| {
                    entry.image_id.as_deref() == Some(&image.image_id) && entry.image == image.name
                };
                self.ledger
                    .deploys
                    .iter_mut()
                    .filter(is_it)
                    .for_each(|entry| entry.is_pruned = true);
                if is_there {
                    removed.push(name);
                }
            }
        }
        let detail = match removed.is_empty() {
            true => "nothing to remove".to_owned(),
            false => format!("removed {}", removed.join(", ")),
        };
        self.end_step(StepState::Done, detail).await;
    }

    pub(super) async fn refused(mut self, stop: Stop) -> Finished {
        let failure = match stop {
            Stop::Refused(failure) | Stop::Failed(failure) | Stop::FlippedBack(failure) => failure,
            Stop::Cut(_) | Stop::Superseded(_) => self.failure("the deploy was interrupted"),
        };
        self.end_step(StepState::Failed, failure.error.clone())
            .await;
        // An earlier deploy that was cut off may have been closed.
        self.keep();
        Finished {
            outcome: Outcome::Refused,
            entry: None,
            failure: Some(failure),
            published: None,
            warm: self.ledger.warm.clone(),
            is_undone: true,
            warnings: self.warnings,
        }
    }
}
