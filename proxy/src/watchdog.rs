//! Whether everything that serves still does, and who does not.
//!
//! Owns the pulses of the data plane and the judgement on them. Each thread that serves beats from its own event loop,
//! so a thread that hangs in whatever it does stops beating; the service manager is told that the process is alive only
//! if all have beaten since it was told last. The judgement is pure; [`watch`] asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::notify::Notifier;

/// The sign of life of one thread.
#[derive(Debug)]
pub struct Pulse {
    name: String,
    beats: AtomicU64,
    has_ended: AtomicBool,
}

impl Pulse {
    /// A pulse that has not beaten yet.
    pub fn new(name: impl Into<String>) -> Arc<Pulse> {
        Arc::new(Pulse {
            name: name.into(),
            beats: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        })
    }

    /// The name of the thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The thread's event loop is running.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread has done its work; nobody waits for it to beat again. A thread that panics does not say so.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    fn now(&self) -> Beat {
        match self.has_ended.load(Ordering::Acquire) {
            true => Beat::Ended,
            false => Beat::At(self.beats.load(Ordering::Relaxed)),
        }
    }
}

/// How far a thread has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    /// It has beaten so often.
    At(u64),
    /// It has nothing left to do.
    Ended,
}

/// What is to be said of all pulses together.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All have beaten since it was said last: it may be said again.
    Alive,
    /// These have not, by index.
    Silent(Vec<usize>),
}

/// What was heard when it was last said that all are alive.
#[derive(Debug, Default)]
struct Heard(Vec<u64>);

impl Heard {
    /// Judges by what is heard now, and remembers it if all are alive.
    fn judge(&mut self, beats: &[Beat]) -> Verdict {
        self.0.resize(beats.len(), 0);
        let silent: Vec<usize> = beats
            .iter()
            .zip(&self.0)
            .enumerate()
            .filter(|(_, (beat, last))| matches!(beat, Beat::At(count) if count <= *last))
            .map(|(index, _)| index)
            .collect();
        if !silent.is_empty() {
            return Verdict::Silent(silent);
        }
        for (last, beat) in self.0.iter_mut().zip(beats) {
            if let Beat::At(count) = beat {
                *last = *count;
            }
        }
        Verdict::Alive
    }
}

/// What the service manager waits for at most between two signs of life; none if it waits for none.
pub fn limit() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

/// How often a thread beats under that limit: twice between two looks, and once a second at least.
pub fn beat_every(limit: Option<Duration>) -> Duration {
    limit.map_or(BEAT_EVERY_MAX, |limit| {
        (look_every(limit) / 2).clamp(BEAT_EVERY_MIN, BEAT_EVERY_MAX)
    })
}

fn look_every(limit: Duration) -> Duration {
    limit / LOOKS_IN_LIMIT
}

/// Looks at all pulses eight times within the limit and says that the process is alive, if it is, or in the log who is
/// not. A thread that was late is seen at the next look, long before the service manager has waited for its limit. Does
/// not return.
pub async fn watch(pulses: Vec<Arc<Pulse>>, limit: Duration, notifier: Arc<Notifier>) {
    let between = look_every(limit);
    // Not at once: nobody has had the time to beat.
    let mut looks = tokio::time::interval_at(Instant::now() + between, between);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Heard::default();
    let mut was_silent = Vec::new();
    loop {
        looks.tick().await;
        let beats: Vec<Beat> = pulses.iter().map(|pulse| pulse.now()).collect();
        let silent = match heard.judge(&beats) {
            Verdict::Alive => {
                notifier.watchdog();
                Vec::new()
            }
            Verdict::Silent(silent) => silent,
        };
        if silent != was_silent {
            for index in &silent {
                let thread = &pulses[*index].name;
                tracing::error!(thread, "gives no sign of life; the watchdog is not told");
            }
            if silent.is_empty() {
                tracing::info!("all threads give signs of life again");
            }
            was_silent = silent;
        }
    }
}

/// One that fails leaves time for six others.
const LOOKS_IN_LIMIT: u32 = 8;
const BEAT_EVERY_MIN: Duration = Duration::from_millis(5);
/// As often as a worker looks through its pool, so that a beat wakes nobody who would sleep.
const BEAT_EVERY_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_alive_only_if_all_have_beaten_since_it_was_said_last() {
        use Beat::{At, Ended};
        // What is heard in turn, and what follows.
        let table: &[(&[Beat], Verdict)] = &[
            (&[At(0), At(1)], Verdict::Silent(vec![0])),
            (&[At(1), At(1)], Verdict::Alive),
            (&[At(2), At(1)], Verdict::Silent(vec![1])),
            // The beat of the first one above still counts: it was not said since.
            (&[At(2), At(2)], Verdict::Alive),
            (&[At(2), At(2)], Verdict::Silent(vec![0, 1])),
            (&[At(3), Ended], Verdict::Alive),
            (&[Ended, Ended], Verdict::Alive),
        ];
        let mut heard = Heard::default();
        for (index, (beats, expected)) in table.iter().enumerate() {
            assert_eq!(&heard.judge(beats), expected, "look {index}");
        }
    }

    #[test]
    fn threads_beat_twice_between_two_looks() {
        for (limit, expected) in [(80, 5), (400, 25), (30_000, 1000)] {
            let limit = Some(Duration::from_millis(limit));
            assert_eq!(beat_every(limit), Duration::from_millis(expected));
        }
        assert_eq!(beat_every(None), BEAT_EVERY_MAX);
    }

    #[test]
    fn a_pulse_that_has_ended_is_not_waited_for() {
        let pulse = Pulse::new("worker-0");
        pulse.beat();
        assert_eq!(pulse.now(), Beat::At(1));
        pulse.end();
        assert_eq!(pulse.now(), Beat::Ended);
    }
}
