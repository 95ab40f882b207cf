//! The keeper itself: its state, and what it does when something is due, has ended, or is ordered.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::attempt::{Attempt, Outcome};
use super::case::{Case, Decision, Hurry};
use super::{Command, Parts, Renewed, Settings, Work, panic_text};
use crate::ari;
use crate::files::{LOOK_EVERY, Watched};
use crate::plan::Step;
use crate::preflight;

/// See [`super`].
pub(super) struct Keeper {
    pub(super) parts: Parts,
    settings: Arc<Settings>,
    cases: BTreeMap<String, Case>,
    /// Sites that have left the configuration while an attempt was made: it goes on, and if the site comes back before
    /// it has ended, there is no second one beside it.
    leaving: BTreeMap<String, Case>,
    pub(super) files: Vec<Watched>,
    running: JoinSet<(String, Outcome)>,
    places: Arc<Semaphore>,
    registering: Arc<Mutex<()>>,
}

/// What was ordered last. It outlives a keeper that panics.
pub(super) struct Given {
    /// What there is to do.
    pub(super) work: Work,
    /// Nothing is to be done: another process may be at it.
    pub(super) is_resting: bool,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(parts: Parts, work: &Work) -> Keeper {
        Keeper {
            parts,
            settings: Arc::new(work.settings.clone()),
            cases: BTreeMap::new(),
            leaving: BTreeMap::new(),
            files: Vec::new(),
            running: JoinSet::new(),
            places: Arc::new(Semaphore::new(ATTEMPTS_AT_ONCE)),
            registering: Arc::default(),
        }
    }

    /// Until every handle is dropped.
    pub(super) async fn run(mut self, given: &mut Given, orders: &mut mpsc::Receiver<Command>) {
        self.take(given.work.clone()).await;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = match given.is_resting {
                true => CLOCK_CHECK,
                false => self.step(SystemTime::now()),
            };
            tokio::select! {
                command = orders.recv() => match command {
                    Some(Command::Take(taken)) => {
                        given.work.clone_from(&taken);
                        self.take(*taken).await;
                    }
                    Some(Command::Rest(rests)) => {
                        given.is_resting = true;
                        self.drop_attempts().await;
                        // Who asked may be gone.
                        rests.send(()).ok();
                    }
                    Some(Command::GoOn) => {
                        given.is_resting = false;
                        self.read_again().await;
                    }
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok((host, outcome)) => self.take_in(&host, outcome),
                    // What an attempt can do wrong is caught below it; this is the end of the runtime.
                    Err(error) => tracing::error!(%error, "an attempt for a certificate was ended"),
                },
                _ = looks.tick(), if !self.files.is_empty() && !given.is_resting => self.look_at_files().await,
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
            let next = case.plan(self.settings.terms(), now);
            self.parts.observe.next_attempt(&host, next.due.at);
            match case.decide(&next, self.settings.terms(), now) {
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
            let remains = attempt.clone();
            let attempt = async move {
                match step {
                    Step::Order(why) => attempt.order(why).await,
                    Step::Ask => attempt.ask().await,
                }
            };
            let outcome = match AssertUnwindSafe(attempt).catch_unwind().await {
                Ok(outcome) => outcome,
                Err(panic) => remains.panicked(panic_text(&*panic)).await,
            };
            (host, outcome)
        });
    }

    fn take_in(&mut self, host: &str, outcome: Outcome) {
        let Some(case) = self.cases.get_mut(host) else {
            // It has left the configuration. What was obtained is stored for when it comes back.
            if let Some(mut case) = self.leaving.remove(host) {
                case.answer(&Renewed::left(host));
            }
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
                let next = case.plan(self.settings.terms(), SystemTime::now());
                case.answer(&Renewed::failed(host, error, Some(next.due.at)));
            }
            Outcome::HeldBack { ledger, refusal } => {
                case.ledger = ledger;
                case.has_unfinished = false;
                case.hurry = None;
                case.answer(&Renewed::held_back(host, &refusal));
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // Obeyed by `run`, which remembers them.
            Command::Take(_) | Command::Rest(_) | Command::GoOn => {}
            Command::List(reply) => {
                let now = SystemTime::now();
                let terms = self.settings.terms();
                let acme = self.cases.values().map(|case| case.report(terms, now));
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
                    case.hurry_up(hurry);
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

    /// Ends what is under way; its orders are on the disk.
    async fn drop_attempts(&mut self) {
        self.running.shutdown().await;
        for (host, mut case) in std::mem::take(&mut self.leaving) {
            case.answer(&Renewed::left(&host));
        }
    }

    /// Begins with what is on the disk: another process may have written there.
    async fn read_again(&mut self) {
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
        let mut names = Vec::new();
        for site in work.acme {
            let host = site.host.clone();
            let known = before.remove(&host);
            let is_new = known.is_none();
            let case = match known.or_else(|| self.leaving.remove(&host)) {
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
            // One without a certificate is looked at before its order.
            if is_new && case.bundle.is_some() && self.settings.looks_ahead() {
                names.extend(case.site.names.iter().cloned());
            }
            self.cases.insert(host, case);
        }
        if !names.is_empty() {
            let via = self.settings.preflight_via;
            let challenges = Arc::clone(&self.parts.challenges);
            tokio::spawn(preflight::say(names, via, challenges));
        }
        for host in before.keys() {
            self.parts.observe.left(host);
        }
        let under_way = before
            .into_iter()
            .filter(|(_, case)| case.running.is_some());
        self.leaving.extend(under_way);
        self.files = work.files;
    }
}

/// Attempts at a time, over all sites.
pub const ATTEMPTS_AT_ONCE: usize = 4;
/// The clock is looked at this often at least: it may be set, and a machine may have slept.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// A moment that is almost there is not waited for in ever smaller steps.
const WAKE_MIN: Duration = Duration::from_millis(20);
