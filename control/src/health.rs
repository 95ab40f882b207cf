//! The two judgements on probes: k of n for the gate, k of n with hysteresis for the prober.
//!
//! Pure: takes good or not good, gives a verdict. Probes, pauses and logs are elsewhere.

use std::collections::VecDeque;

use crate::upstream::Health;

/// The results of the probes of one gate: passes with k good ones of at most n.
#[derive(Clone, Copy, Debug)]
pub struct GateCount {
    /// k
    pub needed: u32,
    /// n
    pub of: u32,
    /// Good ones so far.
    pub good: u32,
    /// Others so far: `good + bad <= of`.
    pub bad: u32,
}

/// What a gate knows so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// k were good.
    Passed,
    /// k can no longer be reached.
    Failed,
    /// Neither yet.
    Open,
}

// === impl GateCount ===

impl GateCount {
    /// Nothing probed yet.
    pub fn new(needed: u32, of: u32) -> GateCount {
        GateCount {
            needed,
            of,
            good: 0,
            bad: 0,
        }
    }

    /// Counts one probe.
    pub fn record(&mut self, is_good: bool) -> Verdict {
        if is_good {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        if self.good >= self.needed {
            Verdict::Passed
        } else if self.bad + self.needed > self.of {
            Verdict::Failed
        } else {
            Verdict::Open
        }
    }
}

// === impl HealthWindow ===

/// The last n results of one upstream, and what they say.
///
/// Up when the last k were all good; down when more than n - k of the last n were not; else as before. So one blip
/// changes nothing in either direction, unless k or n is 1.
#[derive(Clone, Debug)]
pub struct HealthWindow {
    pass: usize,
    of: usize,
    results: VecDeque<bool>,
    health: Health,
}

impl HealthWindow {
    /// Nothing is known. `1 <= pass <= of`.
    pub fn new(pass: u32, of: u32) -> HealthWindow {
        HealthWindow {
            pass: pass as usize,
            of: of as usize,
            results: VecDeque::new(),
            health: Health::Unknown,
        }
    }

    /// Somebody else has judged since, as a gate does: what was seen before counts no more.
    pub fn adopt(&mut self, health: Health) {
        if health != self.health {
            self.health = health;
            self.results.clear();
        }
    }

    /// Takes in one result and gives the verdict.
    pub fn record(&mut self, is_good: bool) -> Health {
        self.results.push_back(is_good);
        if self.results.len() > self.of {
            self.results.pop_front();
        }
        let good_in_a_row = self
            .results
            .iter()
            .rev()
            .take_while(|is_good| **is_good)
            .count();
        let bad = self.results.iter().filter(|is_good| !**is_good).count();
        if good_in_a_row >= self.pass {
            self.health = Health::Up;
        } else if bad + self.pass > self.of {
            self.health = Health::Down;
        }
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(window: &mut HealthWindow, results: &str) -> String {
        let letter = |health| match health {
            Health::Unknown => '?',
            Health::Up => 'U',
            Health::Down => 'D',
        };
        results
            .chars()
            .map(|result| letter(window.record(result == '+')))
            .collect()
    }

    #[test]
    fn an_upstream_changes_by_k_of_n_and_not_by_a_blip() {
        for (pass, of, results, expected) in [
            (2, 3, "++-+-++", "?UUUDDU"),
            (2, 3, "+-+-", "???D"),
            (2, 3, "--++", "?DDU"),
            (1, 1, "+-+", "UDU"),
            (1, 3, "--+---", "??UUUD"),
            (3, 3, "+++-+++", "??UDDDU"),
        ] {
            let mut window = HealthWindow::new(pass, of);
            assert_eq!(
                verdicts(&mut window, results),
                expected,
                "{pass} of {of}: {results}"
            );
        }
    }

    #[test]
    fn what_a_gate_found_is_not_undone_by_older_probes() {
        let mut window = HealthWindow::new(2, 3);
        assert_eq!(verdicts(&mut window, "---"), "?DD");
        window.adopt(Health::Up);
        assert_eq!(verdicts(&mut window, "+-+--"), "UUUDD");
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = HealthWindow::new(2, 3);
        verdicts(&mut window, &"+-".repeat(50));
        assert_eq!(window.results.len(), 3);
    }

    #[test]
    fn a_gate_passes_with_k_and_fails_as_soon_as_k_is_out_of_reach() {
        let all = |pass, of, results: &str| {
            let mut count = GateCount::new(pass, of);
            results
                .chars()
                .map(|result| count.record(result == '+'))
                .collect::<Vec<_>>()
        };
        use Verdict::{Failed, Open, Passed};
        assert_eq!(all(2, 3, "+-+"), [Open, Open, Passed]);
        assert_eq!(all(2, 3, "++"), [Open, Passed]);
        assert_eq!(all(2, 3, "--"), [Open, Failed]);
        assert_eq!(all(1, 1, "-"), [Failed]);
        assert_eq!(all(3, 3, "-"), [Failed]);
    }
}
