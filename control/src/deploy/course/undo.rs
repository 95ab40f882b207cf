//! What is put back after a step that failed.
//!
//! Owns the undoing. It asks the daemon first which slot is active, and leaves that one alone.

use crate::deploy::container::Container;
use crate::deploy::course::{Before, Course, Failure, Stop};
use crate::deploy::hands::{Hands, Trouble};
use crate::deploy::ledger::Outcome;
use crate::deploy::steps::{Step, StepState};
use crate::slot::Slot;

impl<H: Hands> Course<'_, H> {
    /// Puts back what was changed, and says what has come of it.
    pub(super) async fn settle(
        &mut self,
        stop: Stop,
        before: &Before,
    ) -> (Outcome, Option<Failure>) {
        match stop {
            Stop::Superseded(generation) => {
                let error = format!(
                    "somebody else has switched (generation {generation}); nothing was undone"
                );
                let failure = self.failure(error);
                self.end_step(StepState::Failed, failure.error.clone())
                    .await;
                (Outcome::Superseded, Some(failure))
            }
            Stop::FlippedBack(failure) => {
                self.end_step(StepState::Failed, failure.error.clone())
                    .await;
                self.begin_step(
                    Step::Undo,
                    format!("{} is active again; {} is stopped", before.from, before.to),
                );
                let detail = match self.retire(before.to).await {
                    Ok(detail) => detail,
                    Err(trouble) => self.warn(format!("{} goes on running: {trouble}", before.to)),
                };
                self.end_step(StepState::Done, detail).await;
                (Outcome::RolledBack, Some(failure))
            }
            Stop::Failed(failure) => {
                self.end_step(StepState::Failed, failure.error.clone())
                    .await;
                let is_active = self.undo(before).await;
                let failure = failure.about_a_switch(is_active, before);
                (Outcome::Failed, Some(failure))
            }
            Stop::Refused(failure) => (Outcome::Refused, Some(failure)),
            Stop::Cut(step) => {
                let failure = self.failure(format!("the deploy was interrupted in {step}"));
                self.end_step(StepState::Failed, failure.error.clone())
                    .await;
                let is_active = self.undo(before).await;
                let failure = failure.about_a_switch(is_active, before);
                (Outcome::CutOff, Some(failure))
            }
        }
    }

    /// Everything as before, unless the new release is active. Whether it is.
    pub(super) async fn undo(&mut self, before: &Before) -> bool {
        if !self.has_touched
            && !self.has_drained
            && self.switched.is_none()
            && self.step < Step::Switch
        {
            return false;
        }
        let to = before.to;
        self.begin_step(Step::Undo, format!("{to} as it was before"));
        let site = match self.hands.site().await {
            Ok(site) => site,
            Err(trouble) => {
                let said = self.warn(format!("nothing was undone, for the daemon cannot be asked which slot is active: {trouble}"));
                self.end_step(StepState::Failed, said).await;
                return false;
            }
        };
        if site.active == to {
            let said = format!("{to} is active, and stays so");
            self.end_step(StepState::Skipped, said).await;
            if let Some(pending) = &mut self.ledger.pending {
                pending.generation = Some(site.generation);
            }
            return true;
        }
        let undone = self.put_back(before).await;
        match undone {
            Ok(detail) => self.end_step(StepState::Done, detail).await,
            Err(trouble) => {
                let said = self.warn(format!("not everything was undone: {trouble}"));
                self.end_step(StepState::Failed, said).await;
            }
        }
        false
    }

    pub(super) async fn put_back(&mut self, before: &Before) -> Result<String, Trouble> {
        let to = before.to;
        let mut done = Vec::new();
        let standby = before.containers[to.index()].as_ref();
        if self.has_touched {
            done.push(self.retire(to).await?);
            if let Some(old) = standby.filter(|old| old.state.is_running) {
                let reference = self.reference_of(old).await;
                let images = self.images(before, reference);
                let made = self.hands.create(to, &images).await?;
                self.hands.start(&made.id).await?;
                done.push(format!("{to} runs {} again", old.image));
            }
        }
        if self.has_drained {
            self.hands.undrain(to).await?;
        }
        Ok(done.join("; "))
    }

    /// Stops the container of a standby slot, once it has no requests. What was done.
    pub(super) async fn retire(&mut self, slot: Slot) -> Result<String, Trouble> {
        retire(self.hands, slot).await
    }

    /// What compose is told of an image that a container has: its name, unless that is another image by now.
    pub(super) async fn reference_of(&mut self, container: &Container) -> String {
        match self.hands.image(&container.image).await {
            Ok(Some(image)) if image.id == container.image_id => container.image.clone(),
            _ => container.image_id.clone(),
        }
    }
}

/// Stops the container of a slot that is not active, once it has no requests. What was done.
///
/// # Errors
/// It still has requests, or the daemon or the engine would not. It runs on then.
pub(crate) async fn retire(hands: &mut impl Hands, slot: Slot) -> Result<String, Trouble> {
    let Some(container) = hands
        .container(slot)
        .await?
        .filter(|container| container.state.is_running)
    else {
        return Ok(format!("{slot} does not run"));
    };
    // The daemon refuses this for the active slot, so that it cannot be stopped by mistake.
    let is_empty = hands.drain(slot).await?;
    let stopped = match is_empty {
        true => hands.stop(&container.id).await,
        false => Err(Trouble::StillBusy(slot)),
    };
    // Out of use is a mark that stays; a slot that does not run needs none.
    hands.undrain(slot).await?;
    stopped.map(|()| format!("{slot} is stopped"))
}
