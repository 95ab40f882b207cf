//! The threads that serve: workers and the acceptor, from their start to the end of their last connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::listen::{Listener, Seat, accept};
use crate::run::RunError;
use crate::watchdog::Pulse;
use crate::worker::{self, Phase, Shared};

/// The threads that serve.
pub struct Front {
    workers: Vec<worker::Handle>,
    acceptor: std::thread::JoinHandle<()>,
    pulses: Vec<Arc<Pulse>>,
}

/// The end of the threads that serve, once it has been asked for.
pub type Joined = JoinHandle<()>;

impl Front {
    /// Starts the workers and accepts from all listeners. Each thread beats its pulse that often.
    ///
    /// # Errors
    /// A thread or its runtime cannot be had.
    pub fn start(
        shared: &Arc<Shared>,
        listeners: Vec<Listener>,
        workers: usize,
        beat_every: Duration,
    ) -> Result<Front, RunError> {
        let start = |what| move |source| RunError::Start { what, source };
        let mut pulses: Vec<_> = (0..workers)
            .map(|index| Pulse::new(format!("worker-{index}")))
            .collect();
        let workers = pulses
            .iter()
            .map(|pulse| worker::start(Arc::clone(shared), Arc::clone(pulse), beat_every))
            .collect::<Result<Vec<_>, _>>()
            .map_err(start("a worker"))?;
        let seats: Vec<Seat> = workers
            .iter()
            .map(|worker| Seat {
                connections: worker.connections.clone(),
                open: Arc::clone(&worker.open),
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(start("the acceptor's runtime"))?;
        let shared = Arc::clone(shared);
        let pulse = Pulse::new("acceptor");
        pulses.push(Arc::clone(&pulse));
        let acceptor = std::thread::Builder::new()
            .name("acceptor".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let mut accepting = tokio::task::JoinSet::new();
                    for listener in listeners {
                        accepting.spawn(accept(listener, Arc::clone(&shared), seats.clone()));
                    }
                    let mut beats = tokio::time::interval(beat_every);
                    loop {
                        tokio::select! {
                            ended = accepting.join_next() => if ended.is_none() { break },
                            _ = beats.tick() => pulse.beat(),
                        }
                    }
                    pulse.end();
                });
            })
            .map_err(start("the acceptor"))?;
        Ok(Front {
            workers,
            acceptor,
            pulses,
        })
    }

    /// The pulses of all threads.
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        self.pulses.clone()
    }

    /// Waits beside the runtime until all threads have ended. They end in the phases behind [`Phase::Serving`].
    pub fn joined(self) -> Joined {
        tokio::task::spawn_blocking(|| self.join())
    }

    fn join(self) {
        let Front {
            workers, acceptor, ..
        } = self;
        if acceptor.join().is_err() {
            tracing::error!("the acceptor panicked");
        }
        for worker in workers {
            drop(worker.connections);
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// Listeners close, every response is its connection's last, tunnels are cut in the middle of the deadline, and what is
/// left at its end is dropped and said.
pub async fn stop(
    phase: &watch::Sender<Phase>,
    shared: &Shared,
    joined: Joined,
    deadline: Duration,
) {
    let began = Instant::now();
    tracing::info!(
        connections = shared.connections.open(),
        ?deadline,
        "draining"
    );
    phase.send_replace(Phase::Draining);
    tokio::pin!(joined);
    let until_cut = (deadline / 2).min(TUNNELS_STAY_MAX);
    if tokio::time::timeout(until_cut, &mut joined).await.is_ok() {
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "drained");
        return;
    }
    phase.send_replace(Phase::Closing);
    let left = deadline.saturating_sub(began.elapsed());
    if tokio::time::timeout(left, &mut joined).await.is_ok() {
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "drained");
    } else {
        let connections = shared.connections.open();
        tracing::warn!(connections, "the deadline passed; what is left is dropped");
    }
}

/// The longest that tunnels stay open once the process drains.
const TUNNELS_STAY_MAX: Duration = Duration::from_secs(10);
