//! What a caller can have done: a deploy, its plan, a look, a reconciliation.
//!
//! Owns what comes before the course and after it: the directory, the lock, the ledger. Called by the command line.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::deploy::container::Container;
use crate::deploy::course::{Cancel, Course, Failure, Finished, Order, Planned, What, retire};
use crate::deploy::engine::{Engine, Herald, remove_left_logins};
use crate::deploy::hands::{Hands, SiteNow, Trouble};
use crate::deploy::ledger::{Ledger, LedgerError};
use crate::deploy::lock::{Lock, LockError, LockHolder};
use crate::deploy::reconcile::{Action, Case, reconcile as decide};
use crate::deploy::settings::DeploySettings;
use crate::deploy::steps::{Said, Step, StepState};
use crate::journal::timestamp;
use crate::slot::Slot;

pub use crate::deploy::engine::Token;

/// Whoever has waited so long for the lock is told who has it.
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// What a deploy needs beside its order.
pub struct Means<'a> {
    /// What is configured.
    pub settings: &'a DeploySettings,
    /// The daemon's.
    pub socket: PathBuf,
    /// The registry's, if one was given.
    pub token: Option<Token>,
    /// Who hears of it.
    pub herald: &'a mut dyn Herald,
}

impl<'a> Means<'a> {
    /// The real hands. With a lock they may change something.
    async fn hands(self, lock: Option<Lock>) -> Engine<'a> {
        let Means {
            settings,
            socket,
            token,
            herald,
        } = self;
        Engine::new(settings, socket, token, lock, herald).await
    }
}

/// Why there was not even a beginning.
#[derive(Debug, thiserror::Error)]
pub enum ConductError {
    /// The deploy directory cannot be made.
    #[error("cannot make {path} (deploy.dir)")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else is at it, or the lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `--wait` has waited for so long.
    #[error("waited {} s (deploy.lock_wait); {held}", .waited.as_secs())]
    WaitedTooLong {
        /// How long.
        waited: Duration,
        /// Who has it still.
        held: LockError,
    },
    /// Whoever gave the order went away while it waited.
    #[error("interrupted before it began; nothing was changed")]
    Interrupted,
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What a reconciliation could not do.
    #[error(transparent)]
    Trouble(#[from] Trouble),
}

/// How things stand.
#[derive(Debug)]
pub struct Survey {
    /// The site as the daemon has it.
    pub site: Result<SiteNow, Trouble>,
    /// The containers, by [`Slot::index`].
    pub containers: Result<[Option<Container>; 2], Trouble>,
    /// What is remembered.
    pub ledger: Ledger,
    /// Who deploys now.
    pub holder: Option<LockHolder>,
}

/// What a reconciliation did.
#[derive(Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// A deploy is under way; it sees to everything itself.
    Busy,
    /// In words, one for each thing that was done.
    Done(Vec<String>),
}

/// Carries out a deploy. `wait`: queue behind another one rather than be turned away.
///
/// # Errors
/// It did not begin. How one that began has ended is in [`Finished`].
///
/// # Cancel safety
/// It is ended by `cancel`, which puts things back; dropped, it is as if it was killed: the next deploy or
/// reconciliation finds out.
pub async fn deploy(
    means: Means<'_>,
    order: Order,
    wait: bool,
    cancel: Cancel,
) -> Result<Finished, ConductError> {
    let Means {
        settings,
        socket,
        token,
        herald,
    } = means;
    let what = match &order.what {
        What::Image(image) => format!("deploy {image}"),
        What::Rollback => "rollback".to_owned(),
    };
    let holder = holder(&order.who, what);
    let mut order = order;
    if wait && order.what == What::Rollback {
        // It is about what is active now, whatever comes before it in the queue.
        let mut engine = Engine::new(settings, socket.clone(), None, None, herald).await;
        order.if_generation = engine.site().await.ok().map(|site| site.generation);
    }
    herald.say(step(StepState::Began, String::new()));
    let lock = match wait {
        true => wait_for_lock(settings, &holder, cancel.clone(), herald).await,
        false => take_lock(&settings.dir, &holder),
    };
    let lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            herald.say(step(StepState::Failed, error.to_string()));
            return Err(error);
        }
    };
    // What cannot be removed is in nobody's way; the next deploy tries again.
    remove_left_logins(&settings.dir).ok();
    let mut ledger = Ledger::load(&settings.dir)?;
    let mut engine = Engine::new(settings, socket, token, Some(lock), herald).await;
    Ok(
        Course::new(&mut engine, settings, &mut ledger, order, cancel)
            .run()
            .await,
    )
}

/// What a deploy would do. Changes nothing and needs no lock.
///
/// # Errors
/// The ledger cannot be read.
pub async fn plan(
    means: Means<'_>,
    order: Order,
    cancel: Cancel,
) -> Result<Result<Planned, Failure>, ConductError> {
    let settings = means.settings;
    let mut ledger = Ledger::load(&settings.dir)?;
    let mut engine = means.hands(None).await;
    let commands = engine.commands();
    let course = Course::new(&mut engine, settings, &mut ledger, order, cancel);
    Ok(course.plan(commands).await)
}

/// How things stand. Changes nothing and needs no lock.
///
/// # Errors
/// The ledger cannot be read.
pub async fn survey(means: Means<'_>) -> Result<Survey, ConductError> {
    let dir = &means.settings.dir;
    let (ledger, holder) = (Ledger::load(dir)?, LockHolder::of(dir));
    let mut engine = means.hands(None).await;
    Ok(Survey {
        site: engine.site().await,
        containers: containers(&mut engine).await,
        ledger,
        holder,
    })
}

/// Makes what runs what should run. `is_boot`: as at the first look after the machine has started.
///
/// # Errors
/// What could not be done; the rest was.
pub async fn reconcile(
    means: Means<'_>,
    who: &str,
    is_boot: bool,
) -> Result<Reconciled, ConductError> {
    let settings = means.settings;
    let lock = match take_lock(&settings.dir, &holder(who, "reconcile".to_owned())) {
        Err(ConductError::Lock(LockError::Held(_))) => return Ok(Reconciled::Busy),
        lock => lock?,
    };
    // What cannot be removed is in nobody's way; the next look tries again.
    remove_left_logins(&settings.dir).ok();
    let before = Ledger::load(&settings.dir)?;
    let mut ledger = before.clone();
    let mut engine = means.hands(Some(lock)).await;
    let done = bring_about(&mut engine, settings, &mut ledger, is_boot).await;
    if ledger != before {
        engine.store(&ledger)?;
    }
    Ok(Reconciled::Done(done?))
}

async fn bring_about(
    hands: &mut impl Hands,
    settings: &DeploySettings,
    ledger: &mut Ledger,
    is_boot: bool,
) -> Result<Vec<String>, Trouble> {
    let site = hands.site().await?;
    let containers = containers(hands).await?;
    let boot = std::fs::read_to_string(BOOT_ID)
        .ok()
        .map(|id| id.trim().to_owned());
    let is_another_boot = ledger.boot.is_some() && ledger.boot != boot;
    let actions = decide(Case {
        ledger,
        active: site.active,
        generation: site.generation,
        containers: [containers[0].as_ref(), containers[1].as_ref()],
        is_drained: Slot::BOTH.map(|slot| site.slot(slot).is_drained),
        is_after_boot: is_boot || is_another_boot,
        now: hands.unix_time(),
    });
    let mut done = Vec::new();
    for action in actions {
        let said = match action {
            Action::CloseCutOff { generation } => {
                let now = hands.unix_time();
                ledger.close_cut_off(generation, settings.keep_warm, now)
            }
            Action::Start(slot) => match &containers[slot.index()] {
                Some(container) => {
                    hands.start(&container.id).await?;
                    Some(format!("{slot} is started"))
                }
                None => None,
            },
            Action::Stop(slot) => Some(retire(hands, ledger, slot).await?),
            Action::PutIntoUse(slot) if ledger.out_of_use.is_some() => {
                hands.undrain(slot).await?;
                ledger.out_of_use = None;
                Some(format!("{slot} is in use again"))
            }
            Action::PutIntoUse(_) => None,
            Action::ForgetOutOfUse => {
                ledger.out_of_use = None;
                None
            }
            Action::ForgetWarm => {
                ledger.warm = None;
                None
            }
        };
        let Some(said) = said else { continue };
        // What is not in the journal was done all the same, and is said.
        hands.note(&format!("deploy reconcile: {said}")).await.ok();
        done.push(said);
    }
    // Only now: what failed is tried again as after this boot.
    ledger.boot = boot;
    Ok(done)
}

async fn containers(hands: &mut impl Hands) -> Result<[Option<Container>; 2], Trouble> {
    Ok([
        hands.container(Slot::BOTH[0]).await?,
        hands.container(Slot::BOTH[1]).await?,
    ])
}

fn take_lock(dir: &Path, holder: &LockHolder) -> Result<Lock, ConductError> {
    make_directory(dir)?;
    Ok(Lock::take(dir, holder)?)
}

fn make_directory(dir: &Path) -> Result<(), ConductError> {
    std::fs::create_dir_all(dir).map_err(|source| ConductError::Directory {
        path: dir.to_owned(),
        source,
    })
}

/// Whoever came first is first.
async fn wait_for_lock(
    settings: &DeploySettings,
    holder: &LockHolder,
    mut cancel: Cancel,
    herald: &mut dyn Herald,
) -> Result<Lock, ConductError> {
    make_directory(&settings.dir)?;
    let mut queued = Lock::queue(&settings.dir, holder)?;
    let deadline = Instant::now() + settings.lock_wait;
    let mut look = deadline.min(Instant::now() + LOCK_PAUSE);
    loop {
        tokio::select! {
            biased;
            taken = &mut queued => {
                // Its thread ends without a word only if it has panicked.
                return Ok(taken.unwrap_or(Err(LockError::Held(None)))?);
            }
            Ok(_) = cancel.wait_for(|is_cancelled| *is_cancelled) => return Err(ConductError::Interrupted),
            () = sleep_until(look) => {}
        }
        let held = LockError::Held(LockHolder::of(&settings.dir));
        if look == deadline {
            let waited = settings.lock_wait;
            return Err(ConductError::WaitedTooLong { waited, held });
        }
        herald.say(step(StepState::Goes, format!("waiting: {held}")));
        look = deadline;
    }
}

fn holder(who: &str, what: String) -> LockHolder {
    LockHolder {
        pid: std::process::id(),
        who: who.to_owned(),
        what,
        since: timestamp(SystemTime::now()),
    }
}

fn step(state: StepState, detail: String) -> Said {
    Said::Step {
        deploy: None,
        step: Step::Lock,
        state,
        detail,
        took: None,
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
