//! The predecessor's side of a handover: what it does next, from what it hears.
//!
//! Owns the order of the steps and what a failure means at each of them. Pure; `outgoing.rs` does what is decided here.
//!
//! The rule that keeps a site from having no writer, or two: this process writes until it has put down its pen. From
//! then on nobody does, until the successor was let write; it is let go once it says that it does. Whatever fails in
//! between ends the successor first, and only once it is known to be dead does this process write again.

use super::PROTOCOL;

// Preparing => PuttingDown => TakingOver => Committing => Over
//     \____________\______________\_____________\_______/

/// How far a handover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The successor reads its configuration. Nothing is changed here.
    Preparing,
    /// The successor is prepared; what is being written here is finished.
    PuttingDown,
    /// The successor has the lock.
    TakingOver,
    /// The successor was let write, and has not said that it does.
    Committing,
    /// It is decided.
    Over,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The successor is prepared, and speaks this version of the protocol.
    Prepared(u32),
    /// Nothing is being written here any more.
    PenIsDown,
    /// Something is, and will be for longer than an upgrade waits.
    PenIsKept,
    /// The successor accepts.
    Ready,
    /// The successor is the writer.
    Serving,
    /// The successor says why it ends.
    Failed,
    /// The successor said something else, or nothing that can be read.
    Nonsense,
    /// The successor's end is closed.
    Gone,
    /// The successor writes more to its stderr than is kept.
    Chatters,
    /// The step has taken longer than the caller allows.
    TimedOut,
    /// This process was told to end.
    Stopping,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Stop writing.
    PutDown,
    /// Hand over the lock.
    Go,
    /// Let it write.
    Commit,
    /// It is the service.
    LetGo,
    /// End the successor and go on as before.
    GiveUp(Reason),
}

/// Why nothing came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It speaks another version of the protocol.
    OtherProtocol(u32),
    /// Somebody here is changing something.
    Busy,
    /// It said why.
    Failed,
    /// It was not understood.
    Nonsense,
    /// It wrote more than is kept.
    Chatters,
    /// It ended before it was prepared.
    GoneBeforePrepared,
    /// It ended while it took over.
    GoneBeforeReady,
    /// It was not prepared in time.
    NotPreparedInTime,
    /// It did not take over in time.
    NotReadyInTime,
    /// There is nothing to take over any more.
    Stopping,
}

impl Stage {
    /// The next stage, and what is to be done on the way to it.
    pub fn handle(self, heard: Heard) -> (Stage, Next) {
        let give_up = |reason| (Stage::Over, Next::GiveUp(reason));
        match (self, heard) {
            (Stage::Preparing, Heard::Prepared(PROTOCOL)) => (Stage::PuttingDown, Next::PutDown),
            (Stage::Preparing, Heard::Prepared(other)) => give_up(Reason::OtherProtocol(other)),
            (Stage::PuttingDown, Heard::PenIsDown) => (Stage::TakingOver, Next::Go),
            (Stage::PuttingDown, Heard::PenIsKept) => give_up(Reason::Busy),
            (Stage::TakingOver, Heard::Ready) => (Stage::Committing, Next::Commit),
            (Stage::Committing, Heard::Serving) => (Stage::Over, Next::LetGo),
            (_, Heard::Chatters) => give_up(Reason::Chatters),
            (_, Heard::Failed) => give_up(Reason::Failed),
            (_, Heard::Stopping) => give_up(Reason::Stopping),
            (Stage::Preparing | Stage::PuttingDown, Heard::Gone) => {
                give_up(Reason::GoneBeforePrepared)
            }
            (Stage::TakingOver | Stage::Committing | Stage::Over, Heard::Gone) => {
                give_up(Reason::GoneBeforeReady)
            }
            (Stage::Preparing | Stage::PuttingDown, Heard::TimedOut) => {
                give_up(Reason::NotPreparedInTime)
            }
            (Stage::TakingOver | Stage::Committing | Stage::Over, Heard::TimedOut) => {
                give_up(Reason::NotReadyInTime)
            }
            (
                Stage::Preparing
                | Stage::PuttingDown
                | Stage::TakingOver
                | Stage::Committing
                | Stage::Over,
                Heard::Prepared(_)
                | Heard::PenIsDown
                | Heard::PenIsKept
                | Heard::Ready
                | Heard::Serving
                | Heard::Nonsense,
            ) => give_up(Reason::Nonsense),
        }
    }
}

impl Reason {
    /// The rest of a sentence that begins with the new process.
    pub fn as_text(self) -> String {
        match self {
            Reason::OtherProtocol(other) => {
                format!("speaks version {other} of the handover, this one version {PROTOCOL}")
            }
            Reason::Busy => "would have to wait for a change that is being made".to_owned(),
            Reason::Failed => "cannot take over".to_owned(),
            Reason::Nonsense => "says something that is not understood".to_owned(),
            Reason::Chatters => "writes more to its stderr than is kept".to_owned(),
            Reason::GoneBeforePrepared => "ended before it was prepared".to_owned(),
            Reason::GoneBeforeReady => "ended while it took over".to_owned(),
            Reason::NotPreparedInTime => "was not prepared in time".to_owned(),
            Reason::NotReadyInTime => "did not take over in time".to_owned(),
            Reason::Stopping => "comes too late: the running one is stopping".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 5] = [
        Stage::Preparing,
        Stage::PuttingDown,
        Stage::TakingOver,
        Stage::Committing,
        Stage::Over,
    ];

    #[test]
    fn the_way_through() {
        let mut stage = Stage::Preparing;
        for (heard, then) in [
            (Heard::Prepared(PROTOCOL), Next::PutDown),
            (Heard::PenIsDown, Next::Go),
            (Heard::Ready, Next::Commit),
            (Heard::Serving, Next::LetGo),
        ] {
            let (next, does) = stage.handle(heard);
            assert_eq!(does, then);
            stage = next;
        }
        assert_eq!(stage, Stage::Over);
    }

    #[test]
    fn whatever_fails_ends_the_successor() {
        use Reason::*;
        let other = PROTOCOL + 1;
        for (stage, heard, reason) in [
            (
                Stage::Preparing,
                Heard::Prepared(other),
                OtherProtocol(other),
            ),
            (Stage::Preparing, Heard::Gone, GoneBeforePrepared),
            (Stage::Preparing, Heard::TimedOut, NotPreparedInTime),
            (Stage::Preparing, Heard::Failed, Failed),
            (Stage::Preparing, Heard::Chatters, Reason::Chatters),
            (Stage::TakingOver, Heard::Chatters, Reason::Chatters),
            (Stage::PuttingDown, Heard::PenIsKept, Busy),
            (Stage::PuttingDown, Heard::Gone, GoneBeforePrepared),
            (Stage::TakingOver, Heard::Gone, GoneBeforeReady),
            (Stage::TakingOver, Heard::TimedOut, NotReadyInTime),
            (Stage::TakingOver, Heard::Failed, Failed),
            (Stage::Preparing, Heard::Stopping, Stopping),
            (Stage::TakingOver, Heard::Stopping, Stopping),
            (Stage::Committing, Heard::Gone, GoneBeforeReady),
            (Stage::Committing, Heard::TimedOut, NotReadyInTime),
        ] {
            let decided = stage.handle(heard.clone());
            assert_eq!(
                decided,
                (Stage::Over, Next::GiveUp(reason)),
                "{stage:?} {heard:?}"
            );
        }
    }

    #[test]
    fn nothing_is_handed_over_out_of_turn() {
        let all = [
            Heard::Prepared(PROTOCOL),
            Heard::PenIsDown,
            Heard::Ready,
            Heard::Serving,
            Heard::Nonsense,
        ];
        for stage in STAGES {
            for heard in &all {
                let (_, next) = stage.handle(heard.clone());
                let is_in_turn = matches!(
                    (stage, heard),
                    (Stage::Preparing, Heard::Prepared(_))
                        | (Stage::PuttingDown, Heard::PenIsDown)
                        | (Stage::TakingOver, Heard::Ready)
                        | (Stage::Committing, Heard::Serving)
                );
                assert_eq!(
                    matches!(next, Next::GiveUp(_)),
                    !is_in_turn,
                    "{stage:?} {heard:?}"
                );
            }
        }
    }
}
