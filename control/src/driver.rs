//! The driver: the only one who changes the table.
//!
//! Owns the state, the published table and every order that is being carried out. One task takes in calls and what
//! became of long work; gates, fsyncs and waits run beside it and report back, so `status` is always answered. What a
//! cutover does next is decided by [`crate::cutover`], here it is done.

mod calls;
mod orders;
mod report;
mod reserve;
mod status;
mod upgrade;
mod writes;

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::caller::Caller;
use crate::change::{Next, Resolved, Retired};
use crate::cutover::{Cutover, Event, Outcome, Ticket};
use crate::failpoint::{self, Failpoint};
use crate::hooks::{
    Certificates, Predecessor, Prepared, Reloader, StatusExtra, Upgraded, Upgrader,
};
use crate::host::Host;
use crate::inflight::Inflight;
use crate::journal::Journal;
use crate::reply::{Code, Reply};
use crate::slot::Slot;
use crate::state::{State, StateDir, StateError};
use crate::table::{Mode, Published};
use crate::wire::Request;

pub use upgrade::Pen;
use upgrade::Standing;

/// Calls that may wait for the driver; the next one is told `busy`.
pub const DRIVER_QUEUE_MAX: usize = 64;
/// Orders that may be carried out or waited for at one time; the next one is told `busy`.
pub const ORDERS_MAX: usize = 128;
/// Time for the configuration to be read by a reload; cutovers wait for it no longer than this.
pub const RELOAD_DEADLINE: Duration = Duration::from_secs(30);
/// Between two event lines of a drain.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Event lines that may wait for one caller; further ones are left out.
pub const EVENTS_MAX: usize = 16;

/// One event line, for example `{"event":"draining","in_flight":3}`.
pub type EventLine = Map<String, Value>;

/// Gives orders to the driver.
#[derive(Clone, Debug)]
pub struct DriverHandle {
    calls: mpsc::Sender<Call>,
}

#[derive(Debug)]
struct Call {
    request: Request,
    caller: Caller,
    events: Option<mpsc::Sender<EventLine>>,
    reply: oneshot::Sender<Reply>,
    /// Resolves when the caller waits no more.
    gone: oneshot::Receiver<()>,
}

/// What became of work that ran beside the driver.
enum Message {
    Happened(Host, Event),
    Written(Result<(), StateError>),
    Prepared(Ticket, Result<(Prepared, Resolved), String>),
    /// The new process is prepared: nothing may be written here any more.
    PutDown(oneshot::Sender<Result<File, Reply>>),
    Upgraded(Ticket, Result<Upgraded, Reply>),
    Committed(Ticket, Result<Reply, Reply>),
    /// The new process is gone again; this is what it has left in the state directory.
    TookBack(Ticket, Result<Option<State>, StateError>, Reply),
    /// Whoever had reserved a slot is gone.
    LetGo(Ticket),
    /// The new process has published this.
    Follow(State, Vec<Host>),
    CutTunnels(Host, Slot),
    Stop,
}

/// An order that is not answered yet.
struct Pending {
    host: Option<Host>,
    request: Request,
    caller: Caller,
    events: Option<mpsc::Sender<EventLine>>,
    reply: oneshot::Sender<Reply>,
    began: Instant,
    /// The slot that is closed by this order, once it is.
    from: Option<Slot>,
    to: Option<Slot>,
    /// The counter of the new active slot, for the time to its first request.
    opened: Option<Arc<Inflight>>,
    generation: u64,
    tunnels_cut: usize,
}

/// What the driver is made of; see [`crate::start::open`].
pub(crate) struct Parts {
    pub dir: Arc<StateDir>,
    pub journal: Journal,
    pub state: State,
    pub published: Arc<Published>,
    pub publications: watch::Sender<u64>,
    pub reloader: Arc<dyn Reloader>,
    pub status_extra: Arc<dyn StatusExtra>,
    pub certificates: Arc<dyn Certificates>,
    pub upgrader: Arc<dyn Upgrader>,
    pub predecessor: Arc<dyn Predecessor>,
}

pub(crate) struct Driver {
    dir: Arc<StateDir>,
    journal: Arc<Mutex<Journal>>,
    state: State,
    published: Arc<Published>,
    publications: watch::Sender<u64>,
    reloader: Arc<dyn Reloader>,
    status_extra: Arc<dyn StatusExtra>,
    certificates: Arc<dyn Certificates>,
    upgrader: Arc<dyn Upgrader>,
    predecessor: Arc<dyn Predecessor>,
    standing: Standing,
    /// The upgrade that is being carried out.
    upgrade: Option<Ticket>,
    /// It is being decided who the writer is; a stop waits for that, and for the caller to be told.
    is_committing: bool,
    /// Held by each journal line under way.
    journaling: Arc<()>,
    messages: mpsc::Sender<Message>,
    cutovers: HashMap<Host, Cutover>,
    wakes: HashMap<Host, Instant>,
    /// Counters that no table has any more. Each has a request inside, or it is let go.
    retired: Vec<Retired>,
    pending: HashMap<Ticket, Pending>,
    /// Gates and waits, by their order.
    tasks: HashMap<Ticket, AbortHandle>,
    reservations: Vec<reserve::Reservation>,
    last_ticket: u64,
    writes: VecDeque<writes::Write>,
    writing: Option<writes::Writing>,
    reload: Option<Ticket>,
    /// Journal lines and replies under way.
    finishing: JoinSet<()>,
    is_stopping: bool,
}

// === impl DriverHandle ===

impl DriverHandle {
    /// Carries out one request and gives its reply. Event lines go to `events`; those that do not fit are left out.
    ///
    /// # Cancel safety
    /// A dropped call abandons a switch that is still probed; what is being stored goes on.
    pub async fn call(
        &self,
        request: Request,
        caller: Caller,
        events: Option<mpsc::Sender<EventLine>>,
    ) -> Reply {
        let (reply, answer) = oneshot::channel();
        let (_alive, gone) = oneshot::channel();
        let call = Call {
            request,
            caller,
            events,
            reply,
            gone,
        };
        match self.calls.try_send(call) {
            Ok(()) => answer.await.unwrap_or_else(|_| stopping()),
            Err(mpsc::error::TrySendError::Full(_)) => Reply::refusal(
                Code::Busy,
                "too many requests wait for the daemon; try again",
            ),
            Err(mpsc::error::TrySendError::Closed(_)) => stopping(),
        }
    }
}

fn stopping() -> Reply {
    Reply::refusal(Code::Failed, "the daemon is stopping")
}

/// Ends the driver, and tells it what became of an upgrade; see [`crate::start::Running`].
#[derive(Clone)]
pub(crate) struct Stopper(mpsc::Sender<Message>);

impl Stopper {
    pub(crate) async fn follow(&self, state: State, paused: Vec<Host>) {
        // A driver that is gone has nothing to publish.
        self.0.send(Message::Follow(state, paused)).await.ok();
    }

    pub(crate) async fn cut_tunnels(&self, host: Host, slot: Slot) {
        // Nor any tunnels.
        self.0.send(Message::CutTunnels(host, slot)).await.ok();
    }

    pub(crate) async fn stop(&self) {
        // A driver that is gone is stopped.
        self.0.send(Message::Stop).await.ok();
    }
}

// === impl Driver ===

impl Driver {
    /// A driver that has not begun, and the ways to reach it. The future ends when it is stopped.
    pub(crate) fn start(parts: Parts) -> (DriverHandle, Stopper, impl Future<Output = ()> + Send) {
        let (calls, waiting) = mpsc::channel(DRIVER_QUEUE_MAX);
        let (messages, happened) = mpsc::channel(DRIVER_QUEUE_MAX);
        let stopper = Stopper(messages.clone());
        let mut driver = Driver {
            dir: parts.dir,
            journal: Arc::new(Mutex::new(parts.journal)),
            state: parts.state,
            published: parts.published,
            publications: parts.publications,
            reloader: parts.reloader,
            status_extra: parts.status_extra,
            certificates: parts.certificates,
            upgrader: parts.upgrader,
            predecessor: parts.predecessor,
            standing: Standing::Writer,
            upgrade: None,
            is_committing: false,
            journaling: Arc::new(()),
            messages,
            cutovers: HashMap::new(),
            wakes: HashMap::new(),
            retired: Vec::new(),
            pending: HashMap::new(),
            tasks: HashMap::new(),
            reservations: Vec::new(),
            last_ticket: 0,
            writes: VecDeque::new(),
            writing: None,
            reload: None,
            finishing: JoinSet::new(),
            is_stopping: false,
        };
        driver.follow_sites();
        (
            DriverHandle { calls },
            stopper,
            driver.run(waiting, happened),
        )
    }

    async fn run(mut self, mut calls: mpsc::Receiver<Call>, mut messages: mpsc::Receiver<Message>) {
        while !(self.is_stopping && self.writing.is_none() && !self.is_committing) {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                // Never `None`: the driver holds a sender itself.
                Some(message) = messages.recv() => self.take_in(message),
                Some(call) = calls.recv(), if !self.is_stopping => self.called(call),
                () = tokio::time::sleep_until(wake.into()) => self.tick(),
                Some(_) = self.finishing.join_next() => {}
            }
            self.retired.retain(|retired| !is_let_go(retired));
            self.put_down_when_idle();
        }
        // Whoever still reports something must not wait for somebody to listen.
        drop((calls, messages));
        self.end().await;
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Happened(host, event) => {
                if let Some(ticket) = event.ended_task() {
                    self.tasks.remove(&ticket);
                }
                self.drive(&host, event);
            }
            Message::Written(result) => self.written(result),
            Message::Prepared(ticket, result) => self.prepared(ticket, result),
            Message::LetGo(ticket) => self.let_go(ticket),
            Message::PutDown(answer) => self.put_down(answer),
            Message::Upgraded(ticket, result) => self.upgraded(ticket, result),
            Message::Committed(ticket, result) => self.committed(ticket, result),
            Message::TookBack(ticket, state, reply) => self.took_back(ticket, state, reply),
            Message::Follow(state, paused) => self.follow(&state, &paused),
            Message::CutTunnels(host, slot) => self.cut_all_tunnels(&host, slot),
            Message::Stop => {
                self.is_stopping = true;
                // What is being written is finished; what only waits for its turn was not begun.
                for write in std::mem::take(&mut self.writes) {
                    self.not_written(write, "the daemon is stopping".to_owned());
                }
            }
        }
    }

    /// Answers whoever still waits: probes are abandoned, drains are reported as they are.
    async fn end(&mut self) {
        for (_, task) in self.tasks.drain() {
            task.abort();
        }
        let tickets: Vec<Ticket> = self.pending.keys().copied().collect();
        for ticket in tickets {
            let is_published = self.pending[&ticket].generation > 0;
            match is_published {
                true => self.finish(ticket, &Outcome::DeadlinePassed),
                false => self.refuse(ticket, stopping()),
            }
        }
        while self.finishing.join_next().await.is_some() {}
    }

    /// Stores the next table where requests find it, then closes what it leaves behind.
    fn publish(&mut self, next: Next) {
        let last = self.published.swap(Arc::new(next.table));
        failpoint::reach(Failpoint::AfterPublish);
        for retired in next.retired {
            if retired.is_to_be_closed {
                retired.inflight.close();
            }
            self.retired.push(retired);
        }
        let table = self.published.load();
        for site in last.sites() {
            let Mode::Paused(hold) = &site.mode else {
                continue;
            };
            let is_kept = table
                .sites()
                .iter()
                .any(|site| matches!(&site.mode, Mode::Paused(kept) if Arc::ptr_eq(kept, hold)));
            if !is_kept {
                hold.release();
            }
        }
        let paused: Vec<Host> = table
            .sites()
            .iter()
            .filter(|site| matches!(site.mode, Mode::Paused(_)))
            .map(|site| site.settings.host.clone())
            .collect();
        drop(table);
        self.publications.send_modify(|number| *number += 1);
        self.predecessor.follow(&self.state, &paused);
        self.follow_sites();
    }

    /// Every site of the table has its cutover; those of sites that are gone end in their own time.
    fn follow_sites(&mut self) {
        let table = self.published.load();
        let state = &self.state;
        self.cutovers.retain(|host, cutover| {
            table.by_name(host.as_str()).is_some() || cutover.stage_name() != "steady"
        });
        for site in table.sites() {
            let host = &site.settings.host;
            self.cutovers.entry(host.clone()).or_insert_with(|| {
                let previous = state.sites.get(host).and_then(|site| site.previous);
                Cutover::new(site.active, previous, site.generation)
            });
        }
    }

    fn next_ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    fn next_wake(&self) -> Instant {
        let progress = self
            .pending
            .values()
            .any(|pending| pending.wants_progress());
        let idle = now()
            + if progress {
                PROGRESS_INTERVAL
            } else {
                IDLE_WAKE
            };
        self.wakes.values().copied().fold(idle, Instant::min)
    }

    /// Time has passed for some sites; callers who follow a drain are told how it goes.
    fn tick(&mut self) {
        let now = now();
        let due: Vec<Host> = self
            .wakes
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(host, _)| host.clone())
            .collect();
        for host in due {
            self.wakes.remove(&host);
            self.drive(&host, Event::Tick);
        }
        self.report_drains();
    }

    /// Requests in the closed counters of a slot, and those of the process before this one, which takes no new ones.
    fn retired_count(&self, host: &Host, slot: Slot) -> usize {
        let here: usize = self
            .retired_of(host, slot)
            .map(|inflight| inflight.count())
            .sum();
        here + self.predecessor.in_flight(host, slot)
    }

    fn retired_of(&self, host: &Host, slot: Slot) -> impl Iterator<Item = &Arc<Inflight>> {
        self.retired
            .iter()
            .filter(move |retired| retired.slot == slot && retired.host == *host)
            .map(|retired| &retired.inflight)
    }

    /// Requests in a slot, whichever table they came in by.
    fn in_flight(&self, host: &Host, slot: Slot) -> usize {
        let table = self.published.load();
        let current = table
            .by_name(host.as_str())
            .map_or(0, |(site, _)| site.slot(slot).inflight.count());
        current + self.retired_count(host, slot)
    }
}

/// Nobody is in it and nobody can enter any more.
fn is_let_go(retired: &Retired) -> bool {
    let inflight = &retired.inflight;
    inflight.count() == 0 && (inflight.is_closed() || Arc::strong_count(inflight) == 1)
}

/// The clock of the runtime, so that tests can turn it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

const IDLE_WAKE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod mode_tests;
#[cfg(test)]
mod tests;
