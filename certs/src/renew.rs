//! The keeper: one task that sees to it that every site has a certificate, and a newer one before it ends.
//!
//! Owns the rhythm: it looks at the plan of each site, starts attempts beside itself, takes in what came of them, and
//! publishes. Runs on the control thread; nothing here is in the way of a request. Invariants: a bundle is stored before
//! it is published, and an attempt that fails changes nothing of what is served.

mod attempt;
mod case;
mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::account::CaSettings;
use crate::ari;
use crate::budget::Budget;
use crate::bundle::{Bundle, BundleError};
use crate::challenge::Challenges;
use crate::files::{FilePair, LOOK_EVERY, Seen, look};
use crate::order::{Prefer, with_sources};
use crate::plan::Step;
use crate::preflight::Preflight;
use crate::publish::Publish;
use crate::request::KeyKind;
use crate::store::Store;

use attempt::{Attempt, Outcome};
use case::{Case, Decision, Hurry};
pub use report::{Renewed, SiteReport, days_left};

/// A site that gets its certificate from a CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSite {
    /// The canonical host.
    pub host: String,
    /// The host, then its aliases: what the certificate is for.
    pub names: Vec<String>,
}

/// How certificates are obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The CAs: the first one, and those to fall back on. Not empty.
    pub cas: Vec<CaSettings>,
    /// The kind of key.
    pub key: KeyKind,
    /// The challenge.
    pub prefer: Prefer,
    /// What a name that does not lead here leads to.
    pub preflight: Preflight,
    /// Where the preflight looks, in place of port 80 of each name.
    pub preflight_via: Option<SocketAddr>,
    /// How much may be tried.
    pub budget: Budget,
}

/// What the keeper keeps.
#[derive(Clone, Debug)]
pub struct Work {
    /// Sites with a certificate of a CA.
    pub acme: Vec<AcmeSite>,
    /// Sites with a certificate from files.
    pub files: Vec<FilePair>,
    /// How certificates are obtained.
    pub settings: Settings,
}

/// What the keeper tells those who count.
pub trait Observe: Send + Sync {
    /// The certificate of a site that is served from now on.
    fn served(&self, host: &str, not_after: SystemTime);
    /// When the next attempt for a site is made.
    fn next_attempt(&self, host: &str, at: SystemTime);
    /// An attempt has ended, with a certificate or without.
    fn attempted(&self, host: &str, is_issued: bool);
    /// A pair of files was refused.
    fn refused(&self, host: &str);
}

/// What the keeper works with.
pub struct Parts {
    /// Where certificates are kept.
    pub store: Store,
    /// Where challenges are answered.
    pub challenges: Arc<Challenges>,
    /// Where certificates are served.
    pub publish: Arc<dyn Publish>,
    /// Who counts.
    pub observe: Arc<dyn Observe>,
}

/// Gives orders to the keeper.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    List(oneshot::Sender<Vec<SiteReport>>),
    Renew {
        host: Option<String>,
        is_forced: bool,
        reply: oneshot::Sender<Vec<Renewed>>,
    },
    Take(Box<Work>),
    Rest(oneshot::Sender<()>),
    GoOn,
}

// === impl Handle ===

impl Handle {
    /// All sites as they are now; none if the keeper has ended.
    pub async fn list(&self) -> Option<Vec<SiteReport>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::List(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Looks at a site again, or at all of them, without waiting for the next attempt, and waits for what comes of it.
    /// The CA is asked whether a renewal is due; `is_forced` renews in any case. The budget holds all the same.
    ///
    /// None if the keeper has ended; nothing in it if there is no such site.
    pub async fn renew(&self, host: Option<String>, is_forced: bool) -> Option<Vec<Renewed>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Renew {
            host,
            is_forced,
            reply,
        };
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    /// Drops what is under way and begins nothing, so that another process may: an order is on the disk, and is taken up
    /// from there. Returns once nothing runs.
    pub async fn rest(&self) {
        let (rests, resting) = oneshot::channel();
        // A keeper that has ended rests.
        self.commands.send(Command::Rest(rests)).await.ok();
        resting.await.ok();
    }

    /// Ends a rest. What another process has done meanwhile is read anew.
    pub async fn go_on(&self) {
        self.commands.send(Command::GoOn).await.ok();
    }

    /// Takes other work, after a reload. Does not wait. What was published by others is replaced by what is kept.
    pub fn take(&self, work: Work) {
        let command = Command::Take(Box::new(work));
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            // Rare, and not to be lost: somebody renews many sites at the same moment.
            let commands = self.commands.clone();
            tokio::spawn(async move { commands.send(command).await.ok() });
        }
    }
}

/// A keeper that has not begun, and the way to reach it. The future ends when every handle is dropped.
pub fn start(parts: Parts, work: Work) -> (Handle, impl Future<Output = ()> + Send) {
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    let keeper = Keeper {
        parts,
        settings: Arc::new(work.settings.clone()),
        cases: BTreeMap::new(),
        files: Vec::new(),
        running: JoinSet::new(),
        places: Arc::new(Semaphore::new(ATTEMPTS_AT_ONCE)),
        registering: Arc::default(),
        is_resting: false,
    };
    (Handle { commands }, keeper.run(work, orders))
}

struct Keeper {
    parts: Parts,
    settings: Arc<Settings>,
    cases: BTreeMap<String, Case>,
    files: Vec<(FilePair, Seen)>,
    running: JoinSet<(String, Outcome)>,
    places: Arc<Semaphore>,
    registering: Arc<Mutex<()>>,
    /// Another process may be at it.
    is_resting: bool,
}

// === impl Keeper ===

impl Keeper {
    async fn run(mut self, work: Work, mut orders: mpsc::Receiver<Command>) {
        self.take(work).await;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = match self.is_resting {
                true => CLOCK_CHECK,
                false => self.step(SystemTime::now()),
            };
            tokio::select! {
                command = orders.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok((host, outcome)) => self.take_in(&host, outcome),
                    // Its site stays marked as running: better no attempt than one panic after another.
                    Err(error) => tracing::error!(%error, "an attempt for a certificate panicked"),
                },
                _ = looks.tick(), if !self.files.is_empty() && !self.is_resting => self.look_at_files().await,
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    /// Starts whatever is due. How long nothing will be.
    fn step(&mut self, now: SystemTime) -> Duration {
        let mut wake = CLOCK_CHECK;
        let hosts: Vec<String> = self.cases.keys().cloned().collect();
        for host in hosts {
            let Some(case) = self.cases.get_mut(&host) else {
                continue;
            };
            if case.running.is_some() {
                continue;
            }
            let next = case.plan(self.settings.budget, now);
            self.parts.observe.next_attempt(&host, next.due.at);
            match case.decide(&next, self.settings.budget, now) {
                Decision::Start(step) => self.begin(&host, step),
                Decision::Answer(renewed) => {
                    case.hurry = None;
                    case.answer(&renewed);
                }
                Decision::Wait => {
                    wake = wake.min(next.at.duration_since(now).unwrap_or_default());
                }
            }
        }
        wake.max(WAKE_MIN)
    }

    fn begin(&mut self, host: &str, step: Step) {
        let Some(case) = self.cases.get_mut(host) else {
            return;
        };
        case.running = Some(step);
        let attempt = Attempt {
            site: case.site.clone(),
            ledger: case.ledger.clone(),
            certificate: case.bundle.as_ref().and_then(ari::identifier),
            settings: Arc::clone(&self.settings),
            store: self.parts.store.clone(),
            challenges: Arc::clone(&self.parts.challenges),
            registering: Arc::clone(&self.registering),
        };
        let (host, places) = (host.to_owned(), Arc::clone(&self.places));
        self.running.spawn(async move {
            // Never closed; an attempt without a place would do no harm either.
            let _place = places.acquire_owned().await;
            let outcome = match step {
                Step::Order(why) => attempt.order(why).await,
                Step::Ask => attempt.ask().await,
            };
            (host, outcome)
        });
    }

    fn take_in(&mut self, host: &str, outcome: Outcome) {
        let Some(case) = self.cases.get_mut(host) else {
            // It has left the configuration. What was obtained is stored for when it comes back.
            return;
        };
        case.running = None;
        let observe = &self.parts.observe;
        match outcome {
            Outcome::Advised(ledger) => {
                case.ledger = ledger;
                if case.hurry == Some(Hurry::Ask) {
                    case.hurry = Some(Hurry::Decide);
                }
            }
            Outcome::Issued { ledger, bundle } => {
                case.ledger = ledger;
                case.has_unfinished = false;
                case.hurry = None;
                observe.attempted(host, true);
                let renewed = match bundle.check(SystemTime::now()) {
                    Ok(()) => {
                        observe.served(host, bundle.not_after);
                        let renewed = Renewed::issued(host, &bundle);
                        case.bundle = Some(bundle.clone());
                        self.parts.publish.publish(bundle);
                        crate::failpoint::reach("acme-published");
                        renewed
                    }
                    // It was valid when it was stored: the clock has jumped.
                    Err(error) => Renewed::failed(host, error.to_string(), None),
                };
                case.answer(&renewed);
            }
            Outcome::Failed {
                ledger,
                has_unfinished,
                error,
            } => {
                case.ledger = ledger;
                case.has_unfinished = has_unfinished;
                case.hurry = None;
                observe.attempted(host, false);
                let next = case.plan(self.settings.budget, SystemTime::now());
                case.answer(&Renewed::failed(host, error, Some(next.due.at)));
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Take(work) => self.take(*work).await,
            Command::Rest(rests) => {
                self.running.shutdown().await;
                self.is_resting = true;
                // Who asked may be gone.
                rests.send(()).ok();
            }
            Command::GoOn => self.go_on().await,
            Command::List(reply) => {
                let now = SystemTime::now();
                let budget = self.settings.budget;
                let acme = self.cases.values().map(|case| case.report(budget, now));
                // Who asked may be gone.
                reply.send(acme.collect()).ok();
            }
            Command::Renew {
                host,
                is_forced,
                reply,
            } => {
                let hurry = if is_forced { Hurry::Force } else { Hurry::Ask };
                let mut answers = Vec::new();
                for case in self.cases.values_mut() {
                    if host.as_ref().is_some_and(|host| *host != case.site.host) {
                        continue;
                    }
                    // Who comes while an order is made learns what comes of it.
                    if !matches!(case.running, Some(Step::Order(_))) {
                        case.hurry = Some(hurry);
                    }
                    let (done, answer) = oneshot::channel();
                    case.waiting.push(done);
                    answers.push(answer);
                }
                tokio::spawn(async move {
                    let mut renewed = Vec::new();
                    for answer in answers {
                        renewed.extend(answer.await.ok());
                    }
                    reply.send(renewed).ok();
                });
            }
        }
    }

    async fn go_on(&mut self) {
        self.is_resting = false;
        for case in self.cases.values_mut() {
            let waiting = std::mem::take(&mut case.waiting);
            let hurry = case.hurry;
            let read = Case::read(case.site.clone(), &self.parts.store).await;
            *case = Case {
                waiting,
                hurry,
                bundle: read.bundle.or_else(|| case.bundle.take()),
                ..read
            };
        }
    }

    async fn take(&mut self, work: Work) {
        let answers = !work.acme.is_empty();
        self.parts.challenges.answer(answers);
        self.settings = Arc::new(work.settings);
        let mut before = std::mem::take(&mut self.cases);
        for site in work.acme {
            let host = site.host.clone();
            let case = match before.remove(&host) {
                // What is under way goes on. Whatever was imported meanwhile is taken all the same; what was obtained
                // here was stored before it was published.
                Some(case) if case.is_busy() => {
                    let stored = Case::read(site.clone(), &self.parts.store).await;
                    let bundle = stored.bundle.or_else(|| case.bundle.clone());
                    Case {
                        site,
                        bundle,
                        ..case
                    }
                }
                Some(_) | None => Case::read(site, &self.parts.store).await,
            };
            if let Some(bundle) = &case.bundle {
                self.parts.observe.served(&host, bundle.not_after);
                self.parts.publish.publish(bundle.clone());
            }
            self.cases.insert(host, case);
        }
        self.files = work
            .files
            .into_iter()
            .map(|pair| {
                let seen = pair.seen();
                (pair, seen)
            })
            .collect();
    }

    async fn look_at_files(&mut self) {
        let pairs = std::mem::take(&mut self.files);
        let looked = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let each = pairs.into_iter().map(|(pair, seen)| {
                let (seen, read) = look(&pair, seen, now);
                (pair, seen, read)
            });
            each.collect::<Vec<_>>()
        });
        // A panic there would be one of the certificate parser; the keyring goes on with what it has.
        let Ok(looked) = looked.await else {
            tracing::error!("reading certificates panicked; files are no longer watched");
            return;
        };
        for (pair, seen, read) in looked {
            self.found(&pair.host, read);
            self.files.push((pair, seen));
        }
    }

    fn found(&self, host: &str, read: Option<Result<Bundle, BundleError>>) {
        match read {
            None => {}
            Some(Ok(bundle)) => {
                tracing::info!(
                    site = host,
                    not_after = crate::text(bundle.not_after),
                    "the certificate was replaced"
                );
                self.parts.observe.served(host, bundle.not_after);
                self.parts.publish.publish(bundle);
            }
            Some(Err(error)) => {
                self.parts.observe.refused(host);
                let error = with_sources(&error);
                tracing::error!(
                    site = host,
                    error,
                    "the new certificate is refused; the one before is served on"
                );
            }
        }
    }
}

/// Attempts at a time, over all sites.
pub const ATTEMPTS_AT_ONCE: usize = 4;
/// Orders of operators that may wait.
const COMMANDS_MAX: usize = 64;
/// The clock is looked at this often at least: it may be set, and a machine may have slept.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// A moment that is almost there is not waited for in ever smaller steps.
const WAKE_MIN: Duration = Duration::from_millis(20);
