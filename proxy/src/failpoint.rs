//! Places where a test may end the process as `kill -9` would, or have a worker hang.
//!
//! Owns the names of these places. Only builds with debug assertions look; in a release they are nothing. The
//! environment names one place: `MANA_PROXY_FAILPOINT=successor-prepared`. The environment is handed on to the process
//! that takes over, so each place belongs to one side of a handover.

/// One place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// A worker that has just been given a connection never comes back to its event loop.
    WorkerHangs,
    /// The new process has read what it was handed, and has not said anything.
    SuccessorGreeted,
    /// The new process has said that it is prepared.
    SuccessorPrepared,
    /// The new process has the state directory, and has not opened it.
    SuccessorTaken,
    /// The new process could accept, and has not said so.
    SuccessorAccepting,
    /// The same, and the thread that would say so never does.
    SuccessorStalls,
    /// The new process has said that it is ready, and is not the writer.
    SuccessorReady,
    /// The new process was let write, and has not said that it does.
    SuccessorCommitted,
    /// The old process knows that the new one is prepared; nothing is handed over.
    PredecessorPrepared,
    /// The old process has handed the state directory over.
    PredecessorGone,
    /// The old process knows that the new one is ready, and has not let go.
    PredecessorReady,
}

impl Failpoint {
    /// The name that the environment gives.
    pub fn as_str(self) -> &'static str {
        match self {
            Failpoint::WorkerHangs => "worker-hangs",
            Failpoint::SuccessorGreeted => "successor-greeted",
            Failpoint::SuccessorPrepared => "successor-prepared",
            Failpoint::SuccessorTaken => "successor-taken",
            Failpoint::SuccessorAccepting => "successor-accepting",
            Failpoint::SuccessorStalls => "successor-stalls",
            Failpoint::SuccessorReady => "successor-ready",
            Failpoint::SuccessorCommitted => "successor-committed",
            Failpoint::PredecessorPrepared => "predecessor-prepared",
            Failpoint::PredecessorGone => "predecessor-gone",
            Failpoint::PredecessorReady => "predecessor-ready",
        }
    }
}

/// Ends the process at once if the environment names this place.
pub fn reach(place: Failpoint) {
    if is_named(place) {
        std::process::abort();
    }
}

/// Never returns if the environment names this place.
pub fn hang(place: Failpoint) {
    while is_named(place) {
        std::thread::park();
    }
}

fn is_named(place: Failpoint) -> bool {
    cfg!(debug_assertions)
        && std::env::var_os("MANA_PROXY_FAILPOINT").is_some_and(|name| name == place.as_str())
}
