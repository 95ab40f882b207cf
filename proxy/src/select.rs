//! Which upstreams a request tries, and in which order.
//!
//! Owns the preference: the active slot's good upstreams (the less busy of two first), then those of the active slot
//! that traffic has just failed to reach, then the standby's if probes know it to be healthy, then what is left of the
//! active slot, because a probe may be wrong and an attempt costs little. Pure: the site, the time and a random number
//! in, a list out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mana_control::{Health, Site, Slot, SlotView, Trust, Upstream};

/// One upstream that a request may try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The slot it belongs to; entered before the upstream is connected.
    pub slot: Slot,
    /// The upstream.
    pub upstream: Arc<Upstream>,
}

/// The upstreams to try, best first. Empty only if the configuration gave the active slot none, which it cannot.
pub fn candidates(site: &Site, now: Instant, random: u64) -> Vec<Candidate> {
    let active = site.slot(site.active);
    // A forced slot's upstreams count as good whatever the probes say.
    let is_down = |u: &Upstream| u.health() == Health::Down && site.trust == Trust::Probed;
    if let [only] = &*active.upstreams
        && !is_down(only)
        && !only.is_marked(now)
    {
        // The usual case: one container per slot. The rest of the list is for when it fails.
        let mut list = Vec::with_capacity(2);
        list.push(candidate(site.active, only));
        push_standby(&mut list, site, now, random);
        return list;
    }
    let mut list = Vec::new();
    for is_marked in [false, true] {
        push_spread(&mut list, site.active, active, random, |u| {
            !is_down(u) && u.is_marked(now) == is_marked
        });
    }
    push_standby(&mut list, site, now, random);
    push_spread(&mut list, site.active, active, random, is_down);
    list
}

fn push_standby(list: &mut Vec<Candidate>, site: &Site, now: Instant, random: u64) {
    let slot = site.active.other();
    let standby = site.slot(slot);
    if standby.is_drained {
        return;
    }
    push_spread(list, slot, standby, random, |u| {
        u.health() == Health::Up && !u.is_marked(now)
    });
}

/// Adds those of a slot that are wanted: the less busy of two random ones first, the others behind in ring order.
fn push_spread(
    list: &mut Vec<Candidate>,
    slot: Slot,
    view: &SlotView,
    random: u64,
    is_wanted: impl Fn(&Upstream) -> bool,
) {
    if let [only] = &*view.upstreams {
        if is_wanted(only) {
            list.push(candidate(slot, only));
        }
        return;
    }
    let mut wanted: Vec<&Arc<Upstream>> = view.upstreams.iter().filter(|u| is_wanted(u)).collect();
    let count = wanted.len();
    if count > 1 {
        let first = (random % count as u64) as usize;
        wanted.rotate_left(first);
        let other = 1 + ((random >> 32) % (count as u64 - 1)) as usize;
        let busy = |upstream: &Arc<Upstream>| upstream.in_flight.load(Ordering::Relaxed);
        if busy(wanted[other]) < busy(wanted[0]) {
            wanted.swap(0, other);
        }
    }
    list.extend(wanted.into_iter().map(|upstream| candidate(slot, upstream)));
}

fn candidate(slot: Slot, upstream: &Arc<Upstream>) -> Candidate {
    Candidate {
        slot,
        upstream: Arc::clone(upstream),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::site_with;

    fn names(site: &Site, now: Instant, random: u64) -> Vec<String> {
        candidates(site, now, random)
            .iter()
            .map(|c| c.upstream.address.clone())
            .collect()
    }

    fn upstream(site: &Site, slot: Slot, index: usize) -> &Upstream {
        &site.slot(slot).upstreams[index]
    }

    #[test]
    fn the_active_slot_comes_first_and_the_standby_only_if_it_is_known_healthy() {
        let site = site_with(&["b1:1"], &["g1:1"]);
        let now = Instant::now();
        assert_eq!(
            names(&site, now, 0),
            ["b1:1"],
            "an unknown standby is not used"
        );
        upstream(&site, Slot::Green, 0).set_health(Health::Up);
        assert_eq!(names(&site, now, 0), ["b1:1", "g1:1"]);
        upstream(&site, Slot::Blue, 0).set_health(Health::Down);
        assert_eq!(
            names(&site, now, 0),
            ["g1:1", "b1:1"],
            "down comes last, but it comes"
        );
        upstream(&site, Slot::Green, 0).set_health(Health::Down);
        assert_eq!(names(&site, now, 0), ["b1:1"]);
    }

    #[test]
    fn a_marked_upstream_is_passed_over_for_its_neighbour_not_for_the_standby() {
        let site = site_with(&["b1:1", "b2:1"], &["g1:1"]);
        let now = Instant::now();
        upstream(&site, Slot::Green, 0).set_health(Health::Up);
        upstream(&site, Slot::Blue, 0).mark(Duration::from_secs(1), now);
        assert_eq!(names(&site, now, 0), ["b2:1", "b1:1", "g1:1"]);
        assert_eq!(
            names(&site, now + Duration::from_secs(2), 0),
            ["b1:1", "b2:1", "g1:1"]
        );
    }

    #[test]
    fn the_less_busy_of_two_is_tried_first() {
        let site = site_with(&["b1:1", "b2:1"], &["g1:1"]);
        upstream(&site, Slot::Blue, 0)
            .in_flight
            .store(5, Ordering::Relaxed);
        for random in 0..8 {
            assert_eq!(names(&site, Instant::now(), random)[0], "b2:1", "{random}");
        }
    }

    #[test]
    fn equals_share_the_load() {
        let site = site_with(&["b1:1", "b2:1", "b3:1"], &["g1:1"]);
        let now = Instant::now();
        let firsts: std::collections::HashSet<String> = (0..9)
            .map(|random| names(&site, now, random)[0].clone())
            .collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn a_forced_slot_is_tried_first_whatever_the_probes_say() {
        let mut site = site_with(&["b1:1"], &["g1:1"]);
        upstream(&site, Slot::Blue, 0).set_health(Health::Down);
        upstream(&site, Slot::Green, 0).set_health(Health::Up);
        site.trust = Trust::Forced;
        assert_eq!(names(&site, Instant::now(), 0), ["b1:1", "g1:1"]);
    }

    #[test]
    fn a_drained_standby_is_no_backup() {
        let mut site = site_with(&["b1:1"], &["g1:1"]);
        upstream(&site, Slot::Green, 0).set_health(Health::Up);
        site.slots[Slot::Green.index()].is_drained = true;
        assert_eq!(names(&site, Instant::now(), 0), ["b1:1"]);
    }
}
