//! The attempts of one request to reach an upstream: which come next, how many and how much time are left.
//!
//! Owns the bounds. The order of the candidates is `select.rs`' matter, connecting is `upstream.rs`'.

use std::time::{Duration, Instant};

use mana_control::room::{NoPlace, Place, RoomLimits};
use mana_control::{Site, Slot};

use crate::config::Timeouts;
use crate::fault::Fault;
use crate::select::{Candidate, candidates};
use crate::worker::Settings;

/// The candidates of one request, and how many attempts and how much time are left for them.
pub(crate) struct Attempts<'a> {
    list: std::vec::IntoIter<Candidate>,
    again: Option<Candidate>,
    pub(crate) entered: Slot,
    pub(crate) made: usize,
    max: usize,
    timeouts: &'a Timeouts,
    started: Instant,
    /// What the last attempt that reached an upstream came to.
    pub(crate) last_fault: Option<Fault>,
}

impl<'a> Attempts<'a> {
    /// The time for them begins at `now`.
    pub(crate) fn new(
        site: &Site,
        max: usize,
        timeouts: &'a Timeouts,
        now: Instant,
    ) -> Attempts<'a> {
        Attempts {
            list: candidates(site, now, fastrand::u64(..)).into_iter(),
            again: None,
            entered: site.active,
            made: 0,
            max,
            timeouts,
            started: now,
            last_fault: None,
        }
    }

    /// The next candidate, and whether only a new connection to it will do.
    pub(crate) fn next(&mut self) -> Option<(Candidate, bool)> {
        // The first is always in time.
        let is_late = || self.started.elapsed() >= self.timeouts.connect_total;
        if self.made >= self.max || (self.made > 0 && is_late()) {
            return None;
        }
        self.made += 1;
        if let Some(candidate) = self.again.take() {
            return Some((candidate, true));
        }
        self.list.next().map(|candidate| (candidate, false))
    }

    /// Waits for a place in the upstream. The wait is not charged to the attempts.
    pub(crate) async fn wait_for_place(
        &mut self,
        candidate: &Candidate,
        settings: &Settings,
    ) -> Result<Place, Fault> {
        let limits = RoomLimits {
            places: settings.limits.in_flight_per_upstream,
            waiting_max: settings.limits.queue_per_upstream,
            wait_max: settings.timeouts.queue_wait,
        };
        let began = Instant::now();
        let entered = candidate.upstream.room.enter(limits).await;
        self.started += began.elapsed();
        entered.map_err(|none| match none {
            NoPlace::QueueFull => Fault::UpstreamFull,
            NoPlace::TimedOut => Fault::QueueTimedOut,
        })
    }

    pub(crate) fn may_go_on(&self) -> bool {
        self.made < self.max
    }

    /// Whether one attempt can come to nothing without being missed by the candidates that are left.
    pub(crate) fn has_one_to_spare(&self) -> bool {
        self.max.saturating_sub(self.made) > self.list.len()
    }

    pub(crate) fn again_on_new_connection(&mut self, candidate: Candidate) {
        self.again = Some(candidate);
    }

    pub(crate) fn connect_deadline(&self) -> Duration {
        let left = self
            .timeouts
            .connect_total
            .saturating_sub(self.started.elapsed());
        self.timeouts.connect.min(left)
    }
}

#[cfg(test)]
mod tests {
    use mana_control::Health;

    use super::*;
    use crate::testing::site_with;

    #[test]
    fn an_attempt_is_to_spare_if_the_other_candidates_do_not_need_it() {
        let timeouts = Timeouts::default();
        // How many attempts there are, the active slot's upstreams, and whether the first may come to nothing.
        let cases: [(usize, &[&str], bool); 5] = [
            (3, &["b1:1"], true),
            (2, &["b1:1"], false),
            (3, &["b1:1", "b2:1"], false),
            (4, &["b1:1", "b2:1"], true),
            (1, &["b1:1"], false),
        ];
        for (max, active, expected) in cases {
            let site = site_with(active, &["g1:1"]);
            site.slot(Slot::Green).upstreams[0].set_health(Health::Up);
            let mut attempts = Attempts::new(&site, max, &timeouts, Instant::now());
            let (first, _) = attempts.next().expect("the first");
            assert_eq!(attempts.has_one_to_spare(), expected, "{max} {active:?}");
            if expected {
                attempts.again_on_new_connection(first);
                let left = std::iter::from_fn(|| attempts.next());
                assert_eq!(
                    left.count(),
                    active.len() + 1,
                    "the same again, and all others"
                );
            }
        }
    }
}
