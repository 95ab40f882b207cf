//! The watch window: whether a new release is no good, from what it has answered since it is active.
//!
//! Owns the verdict. Pure; whoever watches passes in what `status` and the engine say.

use crate::deploy::settings::WatchSettings;

/// What a slot has answered since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Requests that were sent to it.
    pub requests: u64,
    /// Those that it answered with 500 or above, or not at all.
    pub server_errors: u64,
}

/// The state of a slot at one moment of the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whether the daemon calls every upstream of it up.
    pub is_healthy: bool,
    /// What the last probe that failed was told, if one did.
    pub last_failure: Option<String>,
    /// Its counters.
    pub answers: Answers,
    /// Why its container does not serve any more.
    pub container_failure: Option<String>,
}

/// Judges one release from its first request on.
#[derive(Debug)]
pub struct Watch {
    settings: WatchSettings,
    /// The counters when it became active.
    before: Answers,
    last: Answers,
    /// What was counted by processes of the daemon that have ended.
    sum: Answers,
}

// === impl Watch ===

impl Watch {
    /// `before` are the counters when the slot became active.
    pub fn new(settings: WatchSettings, before: Answers) -> Watch {
        Watch {
            settings,
            before,
            last: before,
            sum: Answers::default(),
        }
    }

    /// Takes a sample in. The reason, if the release is no good.
    pub fn judge(&mut self, sample: &Sample) -> Option<String> {
        if sample.answers.requests < self.last.requests {
            // Another process of the daemon, which counts from zero.
            self.sum = self.answers();
            self.before = Answers::default();
        }
        self.last = sample.answers;
        if let Some(failure) = &sample.container_failure {
            return Some(format!("its container does not serve: {failure}"));
        }
        if !sample.is_healthy {
            let why = sample.last_failure.as_deref().unwrap_or("no good probe");
            return Some(format!("it is unhealthy: {why}"));
        }
        let Answers {
            requests,
            server_errors,
        } = self.answers();
        let is_judged = requests >= self.settings.requests_min.max(1);
        let share = u128::from(server_errors) * 100;
        if is_judged
            && share >= u128::from(requests) * u128::from(self.settings.errors_percent)
            && server_errors > 0
        {
            return Some(format!(
                "{server_errors} of {requests} requests were answered with 500 or above, or not at all"
            ));
        }
        None
    }

    /// What it has answered since it is active.
    pub fn answers(&self) -> Answers {
        let since = |last: u64, before: u64| last.saturating_sub(before);
        Answers {
            requests: self.sum.requests + since(self.last.requests, self.before.requests),
            server_errors: self.sum.server_errors
                + since(self.last.server_errors, self.before.server_errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(requests: u64, server_errors: u64) -> Sample {
        Sample {
            is_healthy: true,
            last_failure: None,
            answers: Answers {
                requests,
                server_errors,
            },
            container_failure: None,
        }
    }

    fn watch() -> Watch {
        Watch::new(
            WatchSettings::default(),
            Answers {
                requests: 1000,
                server_errors: 900,
            },
        )
    }

    #[test]
    fn a_release_is_judged_by_its_share_of_errors_and_only_by_enough_answers() {
        for (requests, errors, is_bad) in [
            (0, 0, false),
            (19, 19, false),
            (20, 0, false),
            (20, 1, true),
            (21, 1, false),
            (1000, 49, false),
            (1000, 50, true),
        ] {
            let verdict = watch().judge(&sample(1000 + requests, 900 + errors));
            assert_eq!(
                verdict.is_some(),
                is_bad,
                "{errors} of {requests}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_slot_that_goes_down_or_a_container_that_ends_needs_no_answers() {
        let mut down = sample(1000, 900);
        down.is_healthy = false;
        down.last_failure = Some("127.0.0.1:4001 answered 500 where 200 is expected".to_owned());
        assert!(watch().judge(&down).expect("bad").contains("answered 500"));
        let mut ended = sample(1000, 900);
        ended.container_failure = Some("it is exited (exit code 1)".to_owned());
        assert!(watch().judge(&ended).expect("bad").contains("exit code 1"));
    }

    #[test]
    fn counters_that_begin_anew_are_added_to_those_before() {
        let mut watch = watch();
        assert_eq!(watch.judge(&sample(1040, 901)), None);
        assert_eq!(watch.judge(&sample(10, 0)), None);
        assert_eq!(
            watch.answers(),
            Answers {
                requests: 50,
                server_errors: 1
            }
        );
        assert!(watch.judge(&sample(20, 2)).is_some());
    }
}
