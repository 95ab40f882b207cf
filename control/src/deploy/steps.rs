//! The steps of a deploy by name, and what is said of them.
//!
//! Owns the words. An event as a line of JSON:
//!
//! ```text
//! {"event":"step","deploy":17,"step":"pull","state":"done","detail":"app:41 is 9f86d081884c","took_ms":812}
//! ```

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// One step, in the order in which they happen; `Undo` is what follows one that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// One deploy at a time.
    Lock,
    /// What can be known before anything is changed.
    Preflight,
    /// The image is fetched.
    Pull,
    /// The standby slot gets a container of it.
    Start,
    /// The daemon probes the slot until it passes.
    Gate,
    /// The listed paths are asked for until they are fast.
    WarmUp,
    /// The daemon moves new requests, and the old slot drains.
    Switch,
    /// The new release is judged by what it answers.
    Watch,
    /// The old slot goes on as the backup, or is stopped.
    KeepWarm,
    /// Images that nobody goes back to are removed.
    Prune,
    /// Everything is put back as it was.
    Undo,
}

/// What happened to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// It begins.
    Began,
    /// Something of it can be told.
    Goes,
    /// It is over, and well.
    Done,
    /// It is over, and was left out.
    Skipped,
    /// It is over, and was no good.
    Failed,
}

/// What is said while a deploy goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Of a step.
    Step {
        /// The number of the deploy; none before it has one.
        deploy: Option<u64>,
        /// The step.
        step: Step,
        /// What happened to it.
        state: StepState,
        /// In words.
        detail: String,
        /// How long it took, once it is over.
        took: Option<Duration>,
    },
    /// By the daemon, while it switches.
    Daemon(Map<String, Value>),
}

// === impl Step ===

impl Step {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Lock => "lock",
            Step::Preflight => "preflight",
            Step::Pull => "pull",
            Step::Start => "start",
            Step::Gate => "gate",
            Step::WarmUp => "warm_up",
            Step::Switch => "switch",
            Step::Watch => "watch",
            Step::KeepWarm => "keep_warm",
            Step::Prune => "prune",
            Step::Undo => "undo",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl StepState ===

impl StepState {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            StepState::Began => "began",
            StepState::Goes => "goes",
            StepState::Done => "done",
            StepState::Skipped => "skipped",
            StepState::Failed => "failed",
        }
    }
}

// === impl Said ===

impl Said {
    /// As one JSON object.
    pub fn to_json(&self) -> Value {
        match self {
            Said::Step {
                deploy,
                step,
                state,
                detail,
                took,
            } => json!({
                "event": "step",
                "deploy": deploy,
                "step": step.as_str(),
                "state": state.as_str(),
                "detail": detail,
                "took_ms": took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            }),
            Said::Daemon(event) => Value::Object(event.clone()),
        }
    }
}
