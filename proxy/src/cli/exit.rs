//! Exit codes: how a verb ended, and the number that says so. The only place that knows the numbers.

use std::process::ExitCode;

use mana_control::{Code, Verb};

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it was done, or there was nothing to do.
    Done,
    /// 1: it was tried and did not work.
    Failed,
    /// 2: the daemon would not do it (refused, conflict, busy). Nothing was changed.
    Refused,
    /// 64 (`EX_USAGE`): the command line makes no sense.
    Usage,
    /// 69 (`EX_UNAVAILABLE`): the daemon cannot be reached.
    Unreachable,
    /// 78 (`EX_CONFIG`): the configuration has faults.
    BadConfig,
    /// 130: ended at once by a second signal. What was begun is left as it is.
    Interrupted,
}

// === impl Exit ===

impl Exit {
    /// The number. Those from 64 to 78 are of sysexits(3), 130 is a shell's for Ctrl-C.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Refused => 2,
            Exit::Usage => 64,
            Exit::Unreachable => 69,
            Exit::BadConfig => 78,
            Exit::Interrupted => 130,
        }
    }

    /// What a refusal of the daemon means for the caller.
    pub fn of_refusal(verb: Verb, code: Option<Code>) -> Exit {
        match (code, verb) {
            (Some(Code::Refused | Code::Conflict | Code::Busy), _) => Exit::Refused,
            // What a reload finds invalid is the configuration, not the command line.
            (Some(Code::Invalid), Verb::Reload) => Exit::BadConfig,
            (Some(Code::Invalid), _) => Exit::Usage,
            (Some(Code::Failed) | None, _) => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_exit_code() {
        let codes = Code::ALL.map(|code| {
            (
                code.as_str(),
                Exit::of_refusal(Verb::Pause, Some(code)).code(),
            )
        });
        assert_eq!(
            codes,
            [
                ("refused", 2),
                ("busy", 2),
                ("conflict", 2),
                ("invalid", 64),
                ("failed", 1)
            ]
        );
        assert_eq!(
            Exit::of_refusal(Verb::Reload, Some(Code::Invalid)).code(),
            78
        );
        assert_eq!(Exit::of_refusal(Verb::Reload, None).code(), 1);
    }
}
