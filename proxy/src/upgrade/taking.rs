//! The successor's side of a handover: what it does next, from what it hears.
//!
//! Owns the order of the steps, and what the death of the predecessor means at each of them: with the sockets in hand,
//! the successor goes on alone. Nobody else would serve the site. A predecessor that gives up ends the successor before it
//! closes its end, so a closed end always means that it is dead. Pure; `arrival.rs` does what is decided here.

use super::PROTOCOL;

// Greeting => Preparing => Waiting => Accepting => Serving
//                  \__________\___________\__________/ alone

/// How far the successor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has nothing yet.
    Greeting,
    /// It has the sockets, and has said that it is prepared.
    Waiting,
    /// It has the lock, accepts, and has said so.
    Accepting,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The first message, of this version of the protocol.
    Hello(u32),
    /// The lock.
    Go,
    /// It may write.
    Commit,
    /// Something else, or nothing that can be read.
    Nonsense,
    /// The predecessor's end is closed.
    Gone,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Prepare with these sockets.
    Prepare,
    /// Open the state under the lock that was handed over.
    TakeOver,
    /// Be the service and the writer.
    Serve,
    /// The same, though nobody has said so: take the lock, which is free, if it was not handed over.
    ServeAlone,
    /// End; nothing was changed.
    End(Reason),
}

/// Why the successor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The predecessor speaks another version of the protocol.
    #[error("the running process speaks version {0} of the handover, this one version {PROTOCOL}")]
    OtherProtocol(u32),
    /// It was not understood.
    #[error("the running process says something that is not understood")]
    Nonsense,
    /// It has died before it had handed anything over.
    #[error("the running process has ended before it handed anything over")]
    NothingHandedOver,
}

impl Stage {
    /// What is to be done about it.
    pub fn handle(self, heard: Heard) -> Next {
        match (self, heard) {
            (Stage::Greeting, Heard::Hello(PROTOCOL)) => Next::Prepare,
            (Stage::Greeting, Heard::Hello(other)) => Next::End(Reason::OtherProtocol(other)),
            (Stage::Greeting, Heard::Gone) => Next::End(Reason::NothingHandedOver),
            (Stage::Waiting, Heard::Go) => Next::TakeOver,
            (Stage::Accepting, Heard::Commit) => Next::Serve,
            (Stage::Waiting | Stage::Accepting, Heard::Gone) => Next::ServeAlone,
            (
                Stage::Greeting | Stage::Waiting | Stage::Accepting,
                Heard::Hello(_) | Heard::Go | Heard::Commit | Heard::Nonsense,
            ) => Next::End(Reason::Nonsense),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_its_turn_and_no_other() {
        use Heard::*;
        let table = [
            (Stage::Greeting, Hello(PROTOCOL), Next::Prepare),
            (
                Stage::Greeting,
                Hello(PROTOCOL + 1),
                Next::End(Reason::OtherProtocol(PROTOCOL + 1)),
            ),
            (Stage::Greeting, Go, Next::End(Reason::Nonsense)),
            (Stage::Greeting, Commit, Next::End(Reason::Nonsense)),
            (Stage::Waiting, Go, Next::TakeOver),
            (Stage::Waiting, Commit, Next::End(Reason::Nonsense)),
            (Stage::Waiting, Hello(PROTOCOL), Next::End(Reason::Nonsense)),
            (Stage::Accepting, Commit, Next::Serve),
            (Stage::Accepting, Go, Next::End(Reason::Nonsense)),
            (Stage::Accepting, Nonsense, Next::End(Reason::Nonsense)),
        ];
        for (stage, heard, next) in table {
            assert_eq!(stage.handle(heard), next, "{stage:?} {heard:?}");
        }
    }

    #[test]
    fn whoever_has_the_sockets_goes_on_alone() {
        assert_eq!(
            Stage::Greeting.handle(Heard::Gone),
            Next::End(Reason::NothingHandedOver)
        );
        assert_eq!(Stage::Waiting.handle(Heard::Gone), Next::ServeAlone);
        assert_eq!(Stage::Accepting.handle(Heard::Gone), Next::ServeAlone);
    }
}
