//! One deploy from top to bottom.
//!
//! Owns the order of the steps, and what is put back when one of them fails. Rules that it never breaks: the container of
//! the slot that the daemon calls active is never stopped or made anew; nothing is stopped that still has requests; and
//! what the daemon cannot be asked about is left alone. Judgements are in files of their own.
//!
//! ```text
//! preflight -> pull -> start -> gate -> warm_up -> switch -> watch -> keep_warm -> prune
//!     |          |       |        |        |          |        |
//!  refused       '-------'--- undo: as before --------'     flip back
//! ```

mod bring;
mod end;
mod failure;
mod live;
mod prepare;
mod undo;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::deploy::container::Container;
use crate::deploy::hands::{Announcement, Hands, SiteNow, Switched};
use crate::deploy::image::ImageName;
use crate::deploy::ledger::{About, Entry, Kind, Ledger, Outcome, Warm};
use crate::deploy::settings::DeploySettings;
use crate::deploy::steps::{Said, Step, StepState};
use crate::deploy::watch::Answers;
use crate::slot::Slot;

pub use failure::Failure;
use failure::FailureCause;
pub(crate) use undo::retire;

/// Between two tries of the gate, while a release starts.
pub const GATE_PAUSE: Duration = Duration::from_millis(250);
/// What one round of probes has at least, whatever is left of `start_timeout`.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks in the watch window.
pub const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Looks in a row at which the daemon may be away, as it is for a moment in a restart.
pub const WATCH_MISSES_MAX: u32 = 15;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Order {
    /// What to bring.
    pub what: What,
    /// Who wants it.
    pub who: String,
    /// What is said of it.
    pub about: About,
}

/// What to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This image.
    Image(ImageName),
    /// The release before.
    Rollback,
}

/// How a deploy ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// In a word.
    pub outcome: Outcome,
    /// Its entry, as the ledger has it; none if it was refused.
    pub entry: Option<Entry>,
    /// The step that failed, and why.
    pub failure: Option<Failure>,
    /// How long it took until new requests went to the new slot.
    pub published: Option<Duration>,
    /// The slot that is kept warm.
    pub warm: Option<Warm>,
    /// What was done, but not as one might think.
    pub warnings: Vec<String>,
}

/// What a deploy would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What was found.
    pub found: String,
    /// Each step, in words or as the command that one could type.
    pub steps: Vec<(Step, String)>,
}

/// True: whoever gave the order wants no more of it.
pub type Cancel = watch::Receiver<bool>;

/// What ends the course before its end.
#[derive(Debug)]
enum Stop {
    /// Nothing was changed.
    Refused(Failure),
    /// What was changed is to be put back.
    Failed(Failure),
    /// The new release was no good, and the old one is active again.
    FlippedBack(Failure),
    /// Whoever gave the order went away.
    Cut(Step),
    /// Somebody else has switched.
    Superseded(u64),
}

/// What was found before anything was changed.
#[derive(Clone, Debug)]
struct Before {
    site: SiteNow,
    /// By [`Slot::index`].
    containers: [Option<Container>; 2],
    from: Slot,
    to: Slot,
}

/// What is brought.
#[derive(Clone, Debug)]
struct Release {
    image: ImageName,
    /// Known from the start if it is brought back.
    image_id: Option<String>,
    kind: Kind,
    /// It runs in the standby slot already.
    is_warm: bool,
}

/// One deploy.
pub(crate) struct Course<'a, H> {
    pub(crate) hands: &'a mut H,
    pub(crate) settings: &'a DeploySettings,
    pub(crate) ledger: &'a mut Ledger,
    cancel: Cancel,
    order: Order,
    began: Instant,
    step: Step,
    step_began: Instant,
    /// The container of the standby slot was, or may have been, made anew.
    has_touched: bool,
    /// The standby slot was taken out of use.
    has_drained: bool,
    switched: Option<Switched>,
    gate: Option<String>,
    /// The counters of the new release's slot before it became active.
    counted: Answers,
    answers: Option<Answers>,
    warnings: Vec<String>,
}

impl<'a, H: Hands> Course<'a, H> {
    pub(crate) fn new(
        hands: &'a mut H,
        settings: &'a DeploySettings,
        ledger: &'a mut Ledger,
        order: Order,
        cancel: Cancel,
    ) -> Course<'a, H> {
        Course {
            hands,
            settings,
            ledger,
            cancel,
            order,
            began: Instant::now(),
            step: Step::Preflight,
            step_began: Instant::now(),
            has_touched: false,
            has_drained: false,
            switched: None,
            gate: None,
            counted: Answers::default(),
            answers: None,
            warnings: Vec::new(),
        }
    }

    /// The whole of it. The lock is held.
    pub(crate) async fn run(mut self) -> Finished {
        let (before, release) = match self.prepare().await {
            Ok(found) => found,
            Err(stop) => return self.refused(stop).await,
        };
        if let Err(trouble) = self.begin(&before, &release) {
            let failure = self.failure(trouble);
            return self.refused(Stop::Refused(failure)).await;
        }
        let failure = match self.steps(&before, &release).await {
            Ok(()) => None,
            Err(stop) => Some(self.settle(stop, &before).await),
        };
        self.finish(&before, failure).await
    }

    async fn steps(&mut self, before: &Before, release: &Release) -> Result<(), Stop> {
        if !release.is_warm {
            let image = self.pull(release).await?;
            self.start(before, &image).await?;
        }
        self.gate(before, release.is_warm).await?;
        if !release.is_warm {
            self.warm_up(before).await?;
        }
        self.switch(before, release).await?;
        if release.kind == Kind::Deploy {
            self.watch(before).await?;
        }
        Ok(())
    }

    /// The images of both slots, by [`Slot::index`]: the new one, and what the other slot has.
    fn images(&self, before: &Before, reference: String) -> [String; 2] {
        Slot::BOTH.map(|slot| match &before.containers[slot.index()] {
            Some(container) if slot != before.to => container.image.clone(),
            _ => reference.clone(),
        })
    }

    fn number(&self) -> u64 {
        self.ledger
            .pending
            .as_ref()
            .map_or(self.ledger.next, |entry| entry.deploy)
    }

    fn begin_step(&mut self, step: Step, detail: String) {
        (self.step, self.step_began) = (step, Instant::now());
        let deploy = Some(self.number());
        self.hands.say(Said::Step {
            deploy,
            step,
            state: StepState::Began,
            detail,
            took: None,
        });
    }

    /// Says so, and has it written into the journal.
    async fn end_step(&mut self, state: StepState, detail: String) {
        let (deploy, step, took) = (self.number(), self.step, self.step_began.elapsed());
        let image = match (&self.ledger.pending, &self.order.what) {
            (Some(entry), _) => entry.image.to_string(),
            (None, What::Image(image)) => image.to_string(),
            (None, What::Rollback) => "rollback".to_owned(),
        };
        let line = format!(
            "deploy {deploy} {image}: {step} {}, {detail} ({} ms)",
            state.as_str(),
            took.as_millis()
        );
        self.hands.say(Said::Step {
            deploy: Some(deploy),
            step,
            state,
            detail,
            took: Some(took),
        });
        if let Err(trouble) = self.hands.note(&line).await
            && !trouble.is_unreachable()
        {
            self.warnings
                .push(format!("a step is not in the journal: {trouble}"));
        }
    }

    fn announce(&mut self, outcome: Option<Outcome>, failure: Option<&Failure>) {
        let Some(entry) = self.ledger.pending.clone() else {
            return;
        };
        self.hands.announce(&Announcement {
            outcome,
            kind: entry.kind,
            deploy: entry.deploy,
            image: entry.image,
            from: Some(entry.from),
            to: Some(entry.to),
            about: entry.about,
            who: entry.who,
            error: failure.map(|failure| failure.error.clone()),
            hint: failure.and_then(|failure| failure.hint.clone()),
            last_log: failure
                .map(|failure| failure.last_log.clone())
                .unwrap_or_default(),
            took: outcome.map(|_| self.began.elapsed()),
        });
    }

    /// Keeps the ledger; that it could not be kept is a warning, for the world is as it is all the same.
    fn keep(&mut self) {
        if let Err(trouble) = self.hands.store(self.ledger) {
            self.warnings.push(trouble.to_string());
        }
    }

    fn warn(&mut self, warning: String) -> String {
        self.warnings.push(warning.clone());
        warning
    }

    fn failure(&self, error: impl Into<FailureCause>) -> Failure {
        let FailureCause {
            error,
            hint,
            is_unreachable,
        } = error.into();
        Failure {
            step: self.step,
            error,
            hint,
            last_log: Vec::new(),
            is_unreachable,
        }
    }

    /// A failure with what the container has said last.
    async fn failure_of_container(&mut self, error: String, slot: Slot) -> Failure {
        let mut failure = self.failure(error);
        if let Ok(Some(container)) = self.hands.container(slot).await {
            failure.last_log = self.hands.logs(&container.id).await;
            failure.hint = Some(format!(
                "the container is kept: `docker logs {}`",
                container.name
            ));
        }
        failure
    }
}

/// Resolves when whoever gave the order wants no more of it; never if nobody can say so.
async fn is_cancelled(cancel: &mut Cancel) {
    if cancel.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
        std::future::pending::<()>().await;
    }
}
