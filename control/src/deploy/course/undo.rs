//! What is put back after a step that failed.
//!
//! Owns the undoing. It asks the daemon first which slot is active, and leaves that one alone. What cannot be undone now is
//! left to `reconcile`: the deploy stays pending in the ledger.

use tokio::time::{Instant, sleep};

use crate::deploy::container::Container;
use crate::deploy::course::{AWAY_MAX, Before, Course, Failure, Stop, WATCH_PAUSE};
use crate::deploy::hands::{Hands, SiteNow, Stage, Trouble};
use crate::deploy::ledger::{Ledger, Outcome};
use crate::deploy::steps::{Step, StepState};
use crate::slot::Slot;

/// What an undoing has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undone {
    /// Everything is as before.
    All,
    /// The new release is active, and stays so.
    IsActive,
    /// Something is left.
    NotAll,
}

impl<H: Hands> Course<'_, H> {
    /// Puts back what was changed, and says what has come of it.
    pub(super) async fn settle(
        &mut self,
        stop: Stop,
        before: &Before,
    ) -> (Outcome, Option<Failure>) {
        let (outcome, failure) = match stop {
            Stop::Superseded(generation) => {
                let error = format!(
                    "somebody else has switched (generation {generation}); nothing was undone"
                );
                (Outcome::Superseded, self.failure(error))
            }
            Stop::FlippedBack(failure) => (Outcome::RolledBack, failure),
            Stop::Failed(failure) => (Outcome::Failed, failure),
            Stop::Refused(failure) => return (Outcome::Refused, Some(failure)),
            Stop::Cut(step) => (
                Outcome::CutOff,
                self.failure(format!("the deploy was interrupted in {step}")),
            ),
        };
        self.end_step(StepState::Failed, failure.error.clone())
            .await;
        match outcome {
            Outcome::Superseded => {}
            Outcome::RolledBack => {
                let detail = format!("{} is active again; {} is stopped", before.from, before.to);
                self.begin_step(Step::Undo, detail);
                let (state, detail) = match self.retire(before.to).await {
                    Ok(detail) => (StepState::Done, detail),
                    Err(trouble) => (
                        StepState::Failed,
                        self.not_undone(&format!("{} goes on running: {trouble}", before.to)),
                    ),
                };
                self.end_step(state, detail).await;
            }
            _ => match self.undo(before).await {
                Undone::IsActive => {
                    let failure = failure.of_an_active_release(before.to);
                    return (outcome, Some(failure));
                }
                Undone::All | Undone::NotAll => {}
            },
        }
        let failure = match self.is_container_kept {
            true => failure,
            // The hint names a container that has made way for the one before.
            false => failure.without_container(),
        };
        (outcome, Some(failure))
    }

    /// Everything as before, unless the new release is active.
    async fn undo(&mut self, before: &Before) -> Undone {
        let is_untouched = !self.has_touched && !self.has_drained && self.switched.is_none();
        if is_untouched && self.step < Step::Switch {
            return Undone::All;
        }
        let to = before.to;
        self.begin_step(Step::Undo, format!("{to} as it was before"));
        let site = match self.decided_site().await {
            Ok(site) => site,
            Err(trouble) => {
                let said = self.not_undone(&format!(
                    "the daemon cannot be asked which slot is active: {trouble}"
                ));
                self.end_step(StepState::Failed, said).await;
                return Undone::NotAll;
            }
        };
        if site.active == to {
            if let Some(pending) = &mut self.ledger.pending {
                pending.generation = Some(site.generation);
            }
            self.ledger.out_of_use = None;
            let said = format!("{to} is active, and stays so");
            self.end_step(StepState::Skipped, said).await;
            return Undone::IsActive;
        }
        match self.put_back(before).await {
            Ok(detail) => {
                self.end_step(StepState::Done, detail).await;
                Undone::All
            }
            Err(trouble) => {
                let said = self.not_undone(&trouble.to_string());
                self.end_step(StepState::Failed, said).await;
                Undone::NotAll
            }
        }
    }

    /// The site once it is decided which slot is active: a switch that was interrupted may go on, and a daemon be away.
    async fn decided_site(&mut self) -> Result<SiteNow, Trouble> {
        let deadline = Instant::now() + AWAY_MAX;
        loop {
            let site = self.hands.site().await;
            let is_decided = site
                .as_ref()
                .is_ok_and(|site| site.stage != Stage::Changing);
            if is_decided || Instant::now() >= deadline {
                return site;
            }
            sleep(WATCH_PAUSE).await;
        }
    }

    async fn put_back(&mut self, before: &Before) -> Result<String, Trouble> {
        let to = before.to;
        let mut done = Vec::new();
        let standby = before.containers[to.index()].as_ref();
        if self.has_touched {
            done.push(self.retire(to).await?);
            if let Some(old) = standby.filter(|old| old.state.is_running) {
                let reference = self.reference_of(old).await;
                let images = self.images(before, reference);
                self.is_container_kept = false;
                let made = self.hands.create(to, &images).await?;
                self.hands.start(&made.id).await?;
                // It was the backup until some time, and is so again.
                self.ledger.warm.clone_from(&self.warm_before);
                done.push(format!("{to} runs {} again", old.image));
            }
        }
        if self.has_drained {
            self.hands.undrain(to).await?;
            self.ledger.out_of_use = None;
        } else if self.has_touched {
            // Somebody had taken it out of use before, and finds it so.
            self.hands.drain(to).await?;
        }
        Ok(done.join("; "))
    }

    /// Stops the container of a standby slot, once it has no requests. What was done.
    pub(super) async fn retire(&mut self, slot: Slot) -> Result<String, Trouble> {
        retire(self.hands, self.ledger, slot).await
    }

    /// What compose is told of an image that a container has: its name, unless that is another image by now.
    async fn reference_of(&mut self, container: &Container) -> String {
        match self.hands.image(&container.image).await {
            Ok(Some(image)) if image.id == container.image_id => container.image.clone(),
            _ => container.image_id.clone(),
        }
    }

    /// Notes that `reconcile` has something to do.
    fn not_undone(&mut self, why: &str) -> String {
        self.is_undone = false;
        self.warn(format!("not everything was undone: {why}"))
    }
}

/// Stops the container of a slot that is not active, once it has no requests, and leaves the slot in use. What was done.
///
/// # Errors
/// It still has requests, or the daemon or the engine would not. It runs on then.
pub(crate) async fn retire(
    hands: &mut impl Hands,
    ledger: &mut Ledger,
    slot: Slot,
) -> Result<String, Trouble> {
    let running = hands
        .container(slot)
        .await?
        .filter(|container| container.state.is_running);
    let Some(container) = running else {
        put_into_use(hands, ledger, slot).await?;
        return Ok(format!("{slot} does not run"));
    };
    // From here on nobody else makes it active; the daemon refuses both for a slot that is so already.
    hands.reserve(slot).await?;
    ledger.out_of_use = Some(slot);
    hands.store(ledger)?;
    let is_empty = hands.drain(slot).await?;
    let stopped = match is_empty {
        true => hands.stop(&container.id).await,
        false => Err(Trouble::StillBusy(slot)),
    };
    put_into_use(hands, ledger, slot).await?;
    stopped.map(|()| format!("{slot} is stopped"))
}

/// Out of use is a mark that stays; a slot that does not run needs none.
async fn put_into_use(
    hands: &mut impl Hands,
    ledger: &mut Ledger,
    slot: Slot,
) -> Result<(), Trouble> {
    if ledger.out_of_use == Some(slot) {
        hands.undrain(slot).await?;
        ledger.out_of_use = None;
    }
    Ok(())
}
