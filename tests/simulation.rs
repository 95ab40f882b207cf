//! Thousands of schedules of one site: orders, probes, disk failures, requests, clock steps and crashes in any order.
//!
//! The cutover, the table, the state and the closable counters are the real ones; the driver, the disk and the clock
//! are played by this file. After each step the invariants of ARCHITECTURE.md are checked. A failure prints its seed:
//! `MANA_SIMULATION_SEED=<seed> cargo test -p mana-control --test simulation` plays that schedule again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mana_control::change::{Change, Retired, add_new_sites, first_table};
use mana_control::cutover::{Cutover, Effect, Event, Holder, Intent, Order, Outcome, Step, Ticket};
use mana_control::state::State;
use mana_control::table::{DrainLimits, HealthCheck, PauseLimits, Trust};
use mana_control::{Entry, Host, SiteSettings, Slot, Table};

const SCHEDULES: u64 = 4000;
const STEPS: usize = 120;

#[test]
fn no_schedule_breaks_an_invariant() {
    if let Ok(seed) = std::env::var("MANA_SIMULATION_SEED") {
        return play(seed.parse().expect("MANA_SIMULATION_SEED is a number"));
    }
    let base = fastrand::u64(..u64::MAX - SCHEDULES);
    let mut seen = Seen::default();
    for seed in base..base + SCHEDULES {
        let told = TellSeed(seed);
        seen.add(&run(seed));
        drop(told);
    }
    seen.assert_all_reached(base);
}

fn play(seed: u64) {
    let _told = TellSeed(seed);
    run(seed);
}

/// Says which schedule it was, if it fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the schedule that failed: MANA_SIMULATION_SEED={}", self.0);
        }
    }
}

/// What all schedules together came by: a simulation that never crashes or never supersedes shows nothing.
#[derive(Debug, Default)]
struct Seen {
    outcomes: BTreeMap<&'static str, usize>,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        for (name, count) in &other.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.outcomes.entry(name).or_default() += 1;
    }

    fn assert_all_reached(&self, base: u64) {
        for name in [
            "already active",
            "busy",
            "conflict",
            "no previous",
            "drain of active",
            "gate failed",
            "abandoned",
            "persist failed",
            "published",
            "drained",
            "deadline",
            "superseded",
            "crash old",
            "crash new",
            "turned back",
            "cut",
        ] {
            assert!(
                self.outcomes.contains_key(name),
                "no schedule from {base} on came by {name:?}: {self:?}"
            );
        }
    }
}

/// A request: first it has a table, then it is inside a slot.
enum Request {
    Loaded(Arc<Table>),
    Inside(Inside),
}

struct Inside {
    entry: Entry,
    slot: Slot,
    /// The last cutover that the request knew of when it entered.
    generation: u64,
}

struct World {
    rng: Rng,
    now: Instant,
    settings: SiteSettings,
    cutover: Cutover,
    /// What the disk has.
    stored: State,
    published: Arc<Table>,
    retired: Vec<Retired>,
    requests: Vec<Request>,
    /// Work that the driver would have under way.
    gate: Option<Ticket>,
    persist: Option<(Ticket, Step, State)>,
    is_written: bool,
    waits: BTreeMap<Ticket, Slot>,
    wake: Option<Instant>,
    /// Orders without a reply.
    owed: BTreeSet<Ticket>,
    /// Orders that may publish: their gate passed, or needs none.
    cleared: BTreeSet<Ticket>,
    /// The active slot of each generation that was ever stored.
    history: BTreeMap<u64, Slot>,
    last_ticket: u64,
    seen: Seen,
}

fn run(seed: u64) -> Seen {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
        world.check();
    }
    world.come_to_rest();
    world.seen
}

fn host() -> Host {
    "mana.so".parse().expect("host")
}

impl World {
    fn new(seed: u64) -> World {
        let settings = settings();
        let mut stored = State {
            generation: 1,
            ..State::default()
        };
        add_new_sites(&mut stored, std::slice::from_ref(&settings));
        let published = Arc::new(first_table(&stored, std::slice::from_ref(&settings)));
        World {
            rng: Rng::with_seed(seed),
            now: Instant::now(),
            settings,
            cutover: Cutover::new(Slot::Blue, None, 1),
            stored,
            published,
            retired: Vec::new(),
            requests: Vec::new(),
            gate: None,
            persist: None,
            is_written: false,
            waits: BTreeMap::new(),
            wake: None,
            owed: BTreeSet::new(),
            cleared: BTreeSet::new(),
            history: BTreeMap::from([(1, Slot::Blue)]),
            last_ticket: 0,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..15 => self.order(),
            15..30 => self.end_gate(),
            30..45 => self.go_on_with_persist(),
            45..60 => self
                .requests
                .push(Request::Loaded(Arc::clone(&self.published))),
            60..75 => self.enter(),
            75..85 => self.leave(),
            85..90 => self.end_waits(),
            90..98 => self.pass_time(),
            _ => self.crash(),
        }
    }

    fn order(&mut self) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let slot = if self.rng.bool() {
            Slot::Blue
        } else {
            Slot::Green
        };
        let intent = match self.rng.u32(..6) {
            0..3 => Intent::Switch(slot),
            3 => Intent::Rollback,
            4 => Intent::Drain(slot),
            _ => Intent::Undrain(slot),
        };
        let force = self.rng.u32(..4) == 0;
        if force || matches!(intent, Intent::Drain(_) | Intent::Undrain(_)) {
            self.cleared.insert(ticket);
        }
        self.owed.insert(ticket);
        let was_held = self.cutover.holder().is_some();
        let order = Order {
            ticket,
            holder: Arc::new(Holder::default()),
            intent,
            force,
            no_wait: self.rng.u32(..4) == 0,
            if_generation: (self.rng.u32(..6) == 0).then(|| self.rng.u64(1..6)),
            limits: DrainLimits {
                requests: Duration::from_secs(self.rng.u64(0..40)),
                tunnels: Duration::from_secs(self.rng.u64(0..40)),
            },
        };
        self.drive(Event::Ordered(order));
        // I6: one cutover at a time.
        assert!(
            !was_held || !self.owed.contains(&ticket),
            "a second order was taken"
        );
    }

    fn end_gate(&mut self) {
        let Some(ticket) = self.gate.take() else {
            return;
        };
        match self.rng.u32(..4) {
            0 => self.drive(Event::GateFailed(ticket, "500".to_owned())),
            1 => {
                // The driver's gate task ends with the caller, as an effect may ask once more.
                self.gate = Some(ticket);
                self.drive(Event::CallerGone(ticket));
            }
            _ => {
                self.cleared.insert(ticket);
                self.drive(Event::GatePassed(ticket));
            }
        }
    }

    /// The write and the report of it are two steps: a crash may come between them.
    fn go_on_with_persist(&mut self) {
        let Some((ticket, _, state)) = &self.persist else {
            return;
        };
        let ticket = *ticket;
        if self.is_written {
            self.persist = None;
            self.is_written = false;
            self.drive(Event::Persisted(ticket));
        } else if self.rng.u32(..5) == 0 {
            self.persist = None;
            self.drive(Event::PersistFailed(ticket, "no space".to_owned()));
        } else {
            self.stored = state.clone();
            self.history
                .insert(state.generation, state.sites[&host()].active);
            self.is_written = true;
        }
    }

    fn enter(&mut self) {
        let loaded = self
            .requests
            .iter()
            .position(|request| matches!(request, Request::Loaded(_)));
        let Some(index) = loaded else { return };
        let Request::Loaded(table) = self.requests.swap_remove(index) else {
            return;
        };
        let use_backup = self.rng.u32(..8) == 0;
        let mut inside = try_enter(&table, use_backup).unwrap_or_else(|| {
            self.seen.count("turned back");
            // What is published is open: one more load is enough.
            try_enter(&self.published, false).expect("a published counter is open")
        });
        if self.rng.u32(..4) == 0 {
            inside.entry.become_tunnel();
        }
        self.requests.push(Request::Inside(inside));
    }

    fn leave(&mut self) {
        if !self.requests.is_empty() {
            let index = self.rng.usize(..self.requests.len());
            self.requests.swap_remove(index);
        }
    }

    fn end_waits(&mut self) {
        let empty: Vec<Ticket> = self
            .waits
            .iter()
            .filter(|(_, slot)| self.retired_count(**slot) == 0)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in empty {
            self.waits.remove(&ticket);
            self.drive(Event::Drained(ticket));
        }
    }

    fn pass_time(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(0..20_000));
        if self.wake.is_some_and(|wake| wake <= self.now) {
            self.wake = None;
            self.drive(Event::Tick);
        }
    }

    /// kill -9: only the disk is left, and it says what is served next.
    fn crash(&mut self) {
        // I8: the old generation or the new one, never a third.
        let (served, stored) = (self.published.generation, self.stored.generation);
        assert!(stored == served || stored == served + 1);
        self.seen.count(if stored == served {
            "crash old"
        } else {
            "crash new"
        });
        self.requests.clear();
        self.retired.clear();
        self.waits.clear();
        self.owed.clear();
        self.gate = None;
        self.persist = None;
        self.is_written = false;
        self.wake = None;
        let site = &self.stored.sites[&host()];
        self.cutover = Cutover::new(site.active, site.previous, site.generation);
        let sites = std::slice::from_ref(&self.settings);
        self.published = Arc::new(first_table(&self.stored, sites));
    }

    fn drive(&mut self, event: Event) {
        for effect in self.cutover.handle(event, self.now) {
            match effect {
                Effect::Gate(ticket, _) => {
                    assert!(
                        self.gate.replace(ticket).is_none(),
                        "I6: one gate at a time"
                    );
                }
                Effect::StopGate(ticket) => {
                    assert_eq!(self.gate.take(), Some(ticket));
                }
                Effect::Persist(ticket, step) => {
                    let next = change(step).to_state(&self.stored);
                    let before = self.persist.replace((ticket, step, next));
                    assert!(
                        before.is_none() && self.gate.is_none(),
                        "I6: one write at a time"
                    );
                }
                Effect::Publish(ticket, step) => self.publish(ticket, step),
                Effect::AwaitDrained(ticket, slot) => {
                    self.waits.insert(ticket, slot);
                }
                Effect::StopWaiting(ticket) => {
                    self.waits.remove(&ticket);
                }
                Effect::CutTunnels(slot) => {
                    self.seen.count("cut");
                    for retired in self.retired.iter().filter(|retired| retired.slot == slot) {
                        retired.inflight.cut_tunnels();
                    }
                }
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Reply(ticket, outcome) => self.reply(ticket, &outcome),
            }
        }
    }

    fn publish(&mut self, ticket: Ticket, step: Step) {
        // I2: probed or forced. I4: stored first.
        assert!(self.cleared.contains(&ticket), "published without a gate");
        assert_eq!(
            self.stored.generation,
            self.published.generation + 1,
            "published before it was stored"
        );
        let next = change(step).to_table(&self.published, &self.stored);
        self.published = Arc::new(next.table);
        for retired in next.retired {
            if retired.is_to_be_closed {
                retired.inflight.close();
            }
            self.retired.push(retired);
        }
        self.drive(Event::Published(ticket, self.stored.generation));
    }

    fn reply(&mut self, ticket: Ticket, outcome: &Outcome) {
        assert!(self.owed.remove(&ticket), "a second reply");
        let name = match outcome {
            Outcome::AlreadyActive => "already active",
            Outcome::Busy(_) => "busy",
            Outcome::Conflict(actual) => {
                assert_eq!(*actual, self.cutover.generation());
                "conflict"
            }
            Outcome::NoPrevious => "no previous",
            Outcome::DrainOfActive => "drain of active",
            Outcome::GateFailed(_) => "gate failed",
            Outcome::Abandoned => "abandoned",
            Outcome::PersistFailed(_) => "persist failed",
            Outcome::Published => "published",
            // I3: the promise. Nobody who came before the change is in the other slot.
            Outcome::Drained => {
                let other = self.cutover.active().other();
                assert_eq!(
                    self.retired_count(other),
                    0,
                    "drained, but somebody is inside"
                );
                let generation = self.cutover.generation();
                let is_older =
                    |inside: &Inside| inside.slot == other && inside.generation < generation;
                assert!(
                    !self.inside().any(is_older),
                    "drained, but somebody is inside"
                );
                "drained"
            }
            Outcome::DeadlinePassed => "deadline",
            Outcome::Superseded(generation) => {
                assert_eq!(*generation, self.published.generation);
                "superseded"
            }
        };
        self.seen.count(name);
    }

    fn check(&self) {
        let site = &self.published.sites()[0];
        let (served, stored) = (self.published.generation, self.stored.generation);
        assert!(
            stored == served || stored == served + 1,
            "I4: {served} is served, {stored} is stored"
        );
        assert_eq!(
            self.history.get(&served),
            Some(&site.active),
            "I4: what is served was stored"
        );
        assert_eq!(self.cutover.active(), site.active);
        assert!(
            !site.slot(site.active).is_drained,
            "the active slot is in use"
        );
        for slot in Slot::BOTH {
            assert!(
                !site.slot(slot).inflight.is_closed(),
                "I1: what is published can be entered"
            );
        }
        for retired in &self.retired {
            assert!(
                retired.inflight.is_closed(),
                "nobody enters what was replaced"
            );
            assert!(retired.inflight.tunnels() <= retired.inflight.count());
        }
        let counted =
            Slot::BOTH.map(|slot| self.retired_count(slot) + site.slot(slot).inflight.count());
        assert_eq!(
            self.inside().count(),
            counted.iter().sum::<usize>(),
            "every request is counted, once"
        );
        for inside in self.inside() {
            let is_stale =
                inside.generation != site.generation || site.slot(inside.slot).is_drained;
            assert!(
                inside.entry.is_closing() || !is_stale,
                "a request of an older table is waited for"
            );
        }
        let is_held = self.cutover.holder().is_some();
        assert_eq!(
            is_held,
            self.gate.is_some() || self.persist.is_some(),
            "I6: held by what is under way"
        );
        assert!(self.owed.len() <= 2, "one order and one drain behind it");
    }

    /// Nothing more is ordered and everybody leaves: nothing is left.
    fn come_to_rest(&mut self) {
        self.requests.clear();
        while self.gate.is_some() || self.persist.is_some() {
            self.end_gate();
            self.go_on_with_persist();
            self.check();
        }
        self.end_waits();
        for _ in 0..4 {
            self.now += Duration::from_secs(60);
            self.drive(Event::Tick);
        }
        assert_eq!(self.cutover.stage_name(), "steady");
        assert!(self.owed.is_empty(), "somebody still waits");
        assert!(self.waits.is_empty());
        assert!(
            self.retired
                .iter()
                .all(|retired| retired.inflight.count() == 0)
        );
        assert_eq!(self.published.generation, self.stored.generation);
    }

    fn inside(&self) -> impl Iterator<Item = &Inside> {
        self.requests.iter().filter_map(|request| match request {
            Request::Loaded(_) => None,
            Request::Inside(inside) => Some(inside),
        })
    }

    fn retired_count(&self, slot: Slot) -> usize {
        self.retired
            .iter()
            .filter(|retired| retired.slot == slot)
            .map(|retired| retired.inflight.count())
            .sum()
    }
}

fn try_enter(table: &Table, use_backup: bool) -> Option<Inside> {
    let site = &table.sites()[0];
    let standby = site.active.other();
    let slot = if use_backup && !site.slot(standby).is_drained {
        standby
    } else {
        site.active
    };
    let (entry, generation) = (site.slot(slot).inflight.enter()?, site.generation);
    Some(Inside {
        entry,
        slot,
        generation,
    })
}

fn change(step: Step) -> Change {
    match step {
        Step::Activate(slot) => Change::Activate(host(), slot, Trust::Probed),
        Step::MarkDrained(slot, is_drained) => Change::MarkDrained(host(), slot, is_drained),
    }
}

fn settings() -> SiteSettings {
    SiteSettings {
        host: host(),
        aliases: Vec::new(),
        initial: Slot::Blue,
        upstreams: [
            vec!["127.0.0.1:4000".to_owned()],
            vec!["127.0.0.1:4001".to_owned()],
        ],
        health: HealthCheck {
            path: "/api/ping".to_owned(),
            host: "mana.so".to_owned(),
            method: "GET".to_owned(),
            expect: 200,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            pass: 2,
            of: 3,
        },
        drain: DrainLimits {
            requests: Duration::from_secs(30),
            tunnels: Duration::from_secs(10),
        },
        pause: PauseLimits {
            waiting_max: 1,
            wait_max: Duration::from_secs(1),
            spread: Duration::ZERO,
        },
        strict_transport_security: None,
        only_trusted: false,
        response_fields: mana_control::table::ResponseFields::default(),
    }
}
