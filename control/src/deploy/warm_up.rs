//! The warm-up: a new release is asked for pages until it is as fast as it gets, before users come.
//!
//! Owns when that is so. Pure; whoever asks passes in how long each answer took.

use std::time::Duration;

/// Answers in one round.
pub const ROUND: usize = 20;
/// Two rounds whose 95th percentiles differ by no more than this share are alike.
const ALIKE_PERCENT: u128 = 25;
/// Below this a difference is noise.
const ALIKE_BELOW: Duration = Duration::from_millis(5);

/// The rounds so far.
#[derive(Debug, Default)]
pub struct Settling {
    round: Vec<Duration>,
    /// 95th percentiles of the first and of the last whole round.
    first: Option<Duration>,
    last: Option<Duration>,
    is_settled: bool,
}

// === impl Settling ===

impl Settling {
    /// Takes one answer in; whether the last two rounds were alike.
    pub fn took(&mut self, took: Duration) -> bool {
        self.round.push(took);
        if self.round.len() == ROUND {
            let now = percentile_95(&mut self.round);
            self.round.clear();
            self.is_settled = self.last.is_some_and(|before| are_alike(before, now));
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
        self.is_settled
    }

    /// The 95th percentiles of the first and of the last whole round.
    pub fn percentiles(&self) -> Option<(Duration, Duration)> {
        self.first.zip(self.last)
    }
}

fn are_alike(before: Duration, now: Duration) -> bool {
    let difference = before.abs_diff(now);
    difference <= ALIKE_BELOW || difference.as_nanos() * 100 <= before.as_nanos() * ALIKE_PERCENT
}

fn percentile_95(round: &mut [Duration]) -> Duration {
    round.sort_unstable();
    round
        .get(round.len() * 95 / 100)
        .or(round.last())
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(ms: &[u64]) -> Vec<bool> {
        let mut settling = Settling::default();
        let round = |ms: &u64| {
            let takes = (0..ROUND).map(|_| settling.took(Duration::from_millis(*ms)));
            takes.last().expect("a round")
        };
        ms.iter().map(round).collect()
    }

    #[test]
    fn it_has_settled_when_two_rounds_are_alike() {
        assert_eq!(rounds(&[900, 200, 80, 70]), [false, false, false, true]);
        assert_eq!(rounds(&[3, 1]), [false, true]);
        assert_eq!(rounds(&[100, 50, 100, 50]), [false; 4]);
    }

    #[test]
    fn one_slow_answer_in_twenty_does_not_keep_a_round_from_being_alike() {
        let mut settling = Settling::default();
        for _ in 0..2 {
            for n in 0..ROUND {
                let is_settled = settling.took(Duration::from_millis(10));
                assert!(!is_settled || n == ROUND - 1 && settling.percentiles().is_some());
            }
        }
        assert!(settling.is_settled);
        // The 95th percentile of twenty is the slowest: it takes two rounds without one.
        let mut slow = Settling::default();
        for n in 0..2 * ROUND {
            slow.took(Duration::from_millis(if n == ROUND { 500 } else { 10 }));
        }
        assert!(!slow.is_settled);
    }
}
