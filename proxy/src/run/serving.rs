//! The daemon at work: until a signal, or a successor, ends it.
//!
//! Owns the way out, in order. What is at work is started by `run.rs`.

use std::sync::Arc;
use std::time::Duration;

use mana_control::start::Running;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::front::{self, Front};
use crate::notify::{self, Notifier, status_line};
use crate::signals::Signals;
use crate::upgrade::channel::Channel;
use crate::upgrade::linger::{Deadlines, linger};
use crate::upgrade::outgoing::{Outgoing, Ready};
use crate::watchdog;
use crate::worker::{Phase, Shared};

/// Everything that runs.
pub(super) struct Serving {
    pub shared: Arc<Shared>,
    pub phase: watch::Sender<Phase>,
    pub front: Front,
    pub running: Running,
    pub admin: Option<JoinHandle<()>>,
    /// The keeper.
    pub keeping: JoinHandle<()>,
    /// What keeps the service manager told.
    pub telling: JoinSet<()>,
    pub notifier: Arc<Notifier>,
    pub outgoing: Outgoing,
    /// Successors that are ready to be let write.
    pub successors: mpsc::Receiver<Ready>,
    pub access_thread: Option<std::thread::JoinHandle<()>>,
}

impl Serving {
    /// Serves until a signal asks for the end, or a successor is let write; then ends in good order.
    pub async fn until_the_end(
        self,
        mut signals: Signals,
        deadlines: Deadlines,
        beside: impl Future<Output = ()>,
    ) {
        let Serving {
            shared,
            phase,
            front,
            running,
            admin,
            keeping,
            telling,
            notifier,
            outgoing,
            mut successors,
            access_thread,
        } = self;
        let successor = tokio::select! {
            () = signals.until_stop(&running.handle, &shared) => None,
            channel = handed_over(&mut successors, &running, &notifier, &outgoing) => Some(channel),
            () = async { beside.await; std::future::pending().await } => None,
        };
        // A successor that comes too late is ended, and its caller told.
        drop(successors);
        outgoing.close();
        let joined = front.joined();
        match successor {
            None => {
                notifier.stopping(deadlines.shutdown + CONTROL_TIME + LOG_TIME);
                front::stop(&phase, &shared, joined, deadlines.shutdown).await;
            }
            Some(channel) => {
                keeping.abort();
                admin.iter().for_each(JoinHandle::abort);
                phase.send_replace(Phase::HandedOver);
                let end = (joined, &mut signals, deadlines);
                linger(&phase, &shared, &running, channel, end).await;
            }
        }
        // An order that is under way is on the disk, and is taken up at the next start.
        keeping.abort();
        drop(telling);
        if timeout(CONTROL_TIME, running.stop()).await.is_err() {
            tracing::warn!("the control side does not end in time; the disk may hang");
        }
        if let Some(admin) = admin {
            admin.abort();
            // Aborted on purpose; there is nothing to learn from how it ended.
            admin.await.ok();
        }
        drop(outgoing);
        drop(shared);
        finish_log(access_thread).await;
        tracing::info!("stopped");
    }
}

/// Tells the service manager that everything serves, and keeps it told.
pub(super) fn tell(
    notifier: &Arc<Notifier>,
    shared: &Shared,
    running: &Running,
    front: &Front,
    silence_max: Option<Duration>,
) -> JoinSet<()> {
    let mut telling = JoinSet::new();
    notifier.ready(&status_line(&shared.published.load()));
    telling.spawn(notify::follow(
        Arc::clone(notifier),
        Arc::clone(&shared.published),
        running.publications.clone(),
    ));
    if let Some(limit) = silence_max {
        let notifier = Arc::clone(notifier);
        telling.spawn(watchdog::watch(front.pulses(), limit, notifier));
    }
    telling
}

/// Resolves once a successor was let write: it is the service then.
async fn handed_over(
    successors: &mut mpsc::Receiver<Ready>,
    running: &Running,
    notifier: &Notifier,
    outgoing: &Outgoing,
) -> Channel {
    loop {
        let Some(ready) = successors.recv().await else {
            // `outgoing` has a sender.
            return std::future::pending().await;
        };
        let Some((channel, pid, done)) = ready.commit().await else {
            continue;
        };
        running.leave_socket();
        notifier.hand_over(pid);
        outgoing.close();
        // The caller may be gone.
        done.send(Ok(())).ok();
        return channel;
    }
}

async fn finish_log(thread: Option<std::thread::JoinHandle<()>>) {
    let Some(thread) = thread else { return };
    let joined = tokio::task::spawn_blocking(move || thread.join());
    // A log that cannot be written in this time must not keep the process.
    tokio::time::timeout(LOG_TIME, joined).await.ok();
}

/// For the end of what the driver is storing.
const CONTROL_TIME: Duration = Duration::from_secs(5);
/// For the last lines of the access log.
const LOG_TIME: Duration = Duration::from_secs(2);
