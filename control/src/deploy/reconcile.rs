//! Reconciling: what runs is made what should run, after a reboot, a deploy that was cut off, or the end of a warm time.
//!
//! Owns the decision. Pure. Containers are started and stopped, never made anew: so the live one is never replaced.

use crate::deploy::container::Container;
use crate::deploy::ledger::Ledger;
use crate::slot::Slot;

/// What is the case.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The ledger.
    pub ledger: &'a Ledger,
    /// The slot that the daemon calls active.
    pub active: Slot,
    /// The generation of the site.
    pub generation: u64,
    /// The containers of the slots, by [`Slot::index`].
    pub containers: [Option<&'a Container>; 2],
    /// The slots that are out of use, by [`Slot::index`].
    pub is_drained: [bool; 2],
    /// Whether this is the first look since the machine started.
    pub is_after_boot: bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A deploy was cut off: it is over, and `generation` says that its release is active.
    CloseCutOff {
        /// The generation, if its release is active.
        generation: Option<u64>,
    },
    /// The active slot's container does not run.
    Start(Slot),
    /// The standby's container runs and should not any more.
    Stop(Slot),
    /// The standby was taken out of use by a deploy that did not put it back.
    PutIntoUse(Slot),
    /// Nothing is out of use any more.
    ForgetOutOfUse,
    /// The warm time is over, or was for a slot that is active now.
    ForgetWarm,
}

/// What has to be done.
pub fn reconcile(case: Case<'_>) -> Vec<Action> {
    let Case { ledger, active, .. } = case;
    let standby = active.other();
    let mut actions = Vec::new();
    if let Some(pending) = &ledger.pending {
        // It was switched, or began with a slot that was active already.
        let is_active = pending.to == active && pending.from != active;
        actions.push(Action::CloseCutOff {
            generation: is_active.then_some(case.generation),
        });
    }
    let container = |slot: Slot| case.containers[slot.index()];
    let runs = |slot: Slot| container(slot).map(|container| container.state.is_running);
    if runs(active) == Some(false) {
        actions.push(Action::Start(active));
    }
    let warm = ledger.warm.as_ref().filter(|warm| warm.slot == standby);
    let is_over = |until: u64| until <= case.now;
    let is_warm_time_over = warm.is_some_and(|warm| warm.until.is_some_and(is_over));
    // Another image in that slot is not what was to be kept: it was never active, or is somebody's trial.
    let is_kept = warm.is_some_and(|warm| {
        let has = container(standby).is_some_and(|container| container.image_id == warm.image_id);
        has && !is_warm_time_over
    });
    // A standby that somebody has started or stopped by hand is theirs, until the machine starts again.
    let is_ours = is_warm_time_over || case.is_after_boot || was_never_switched(case);
    match runs(standby) {
        Some(true) if !is_kept && is_ours => actions.push(Action::Stop(standby)),
        Some(false) if is_kept && case.is_after_boot => actions.push(Action::Start(standby)),
        _ => {}
    }
    if let Some(slot) = ledger.out_of_use {
        let is_left = slot == standby && case.is_drained[slot.index()];
        actions.push(match is_left {
            true => Action::PutIntoUse(slot),
            false => Action::ForgetOutOfUse,
        });
    }
    if ledger.warm.is_some() && (warm.is_none() || is_warm_time_over) {
        actions.push(Action::ForgetWarm);
    }
    actions
}

/// The standby has the container of a deploy that was cut off before its switch.
fn was_never_switched(case: Case<'_>) -> bool {
    let pending = case.ledger.pending.as_ref();
    pending.is_some_and(|entry| entry.to != case.active)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::container::tests::container;
    use crate::deploy::ledger::{Warm, tests::entry};

    struct Scene {
        ledger: Ledger,
        blue: Option<Container>,
        green: Option<Container>,
        is_after_boot: bool,
    }

    /// Green is active; it is 1000. Blue has the image `a`.
    fn scene(blue: Option<bool>, green: Option<bool>) -> Scene {
        Scene {
            ledger: Ledger::default(),
            blue: blue.map(|runs| container("a", runs)),
            green: green.map(|runs| container("b", runs)),
            is_after_boot: false,
        }
    }

    fn actions(scene: &Scene) -> Vec<Action> {
        reconcile(Case {
            ledger: &scene.ledger,
            active: Slot::Green,
            generation: 7,
            containers: [scene.blue.as_ref(), scene.green.as_ref()],
            is_drained: [true, false],
            is_after_boot: scene.is_after_boot,
            now: 1000,
        })
    }

    fn warm(image_id: &str, until: Option<u64>) -> Option<Warm> {
        Some(Warm {
            slot: Slot::Blue,
            image_id: image_id.to_owned(),
            until,
        })
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        for (blue, green) in [
            (None, None),
            (None, Some(true)),
            (Some(false), Some(true)),
            (Some(true), Some(true)),
        ] {
            assert_eq!(actions(&scene(blue, green)), [], "{blue:?} {green:?}");
        }
    }

    #[test]
    fn the_active_slot_runs() {
        let stopped = scene(Some(false), Some(false));
        assert_eq!(actions(&stopped), [Action::Start(Slot::Green)]);
    }

    #[test]
    fn a_warm_slot_is_stopped_when_its_time_is_over() {
        let mut kept = scene(Some(true), Some(true));
        kept.ledger.warm = warm("a", Some(1001));
        assert_eq!(actions(&kept), []);
        kept.ledger.warm = warm("a", Some(1000));
        let over = [Action::Stop(Slot::Blue), Action::ForgetWarm];
        assert_eq!(actions(&kept), over);
        kept.blue = Some(container("a", false));
        assert_eq!(actions(&kept), [Action::ForgetWarm]);
    }

    #[test]
    fn after_a_reboot_the_active_slot_runs_and_the_standby_only_if_it_is_kept() {
        let mut rebooted = scene(Some(true), Some(true));
        rebooted.is_after_boot = true;
        assert_eq!(actions(&rebooted), [Action::Stop(Slot::Blue)]);
        for until in [Some(2000), None] {
            rebooted.ledger.warm = warm("a", until);
            rebooted.blue = Some(container("a", true));
            assert_eq!(actions(&rebooted), []);
            rebooted.blue = Some(container("a", false));
            assert_eq!(actions(&rebooted), [Action::Start(Slot::Blue)]);
        }
    }

    #[test]
    fn only_what_was_to_be_kept_is_started_and_what_somebody_has_stopped_stays_so() {
        let mut other = scene(Some(false), Some(true));
        other.ledger.warm = warm("x", None);
        other.is_after_boot = true;
        assert_eq!(actions(&other), [], "an image that was never active");
        other.ledger.warm = warm("a", None);
        other.is_after_boot = false;
        assert_eq!(actions(&other), [], "stopped by hand");
    }

    #[test]
    fn a_deploy_that_was_cut_off_is_over_and_its_container_goes_unless_it_is_active() {
        let mut before = scene(Some(true), Some(true));
        let mut pending = entry("app:41", "a", None);
        (pending.from, pending.to) = (Slot::Green, Slot::Blue);
        before.ledger.pending = Some(pending);
        before.ledger.out_of_use = Some(Slot::Blue);
        let never = Action::CloseCutOff { generation: None };
        let use_again = Action::PutIntoUse(Slot::Blue);
        assert_eq!(
            actions(&before),
            [never, Action::Stop(Slot::Blue), use_again]
        );
        let mut after = scene(Some(true), Some(true));
        after.ledger.pending = Some(entry("app:41", "b", None));
        after.ledger.out_of_use = Some(Slot::Green);
        let switched = Action::CloseCutOff {
            generation: Some(7),
        };
        assert_eq!(actions(&after), [switched, Action::ForgetOutOfUse]);
    }

    #[test]
    fn a_warm_time_of_a_slot_that_is_active_again_is_forgotten() {
        let mut back = scene(Some(true), Some(true));
        back.ledger.warm = warm("b", Some(500)).map(|warm| Warm {
            slot: Slot::Green,
            ..warm
        });
        assert_eq!(actions(&back), [Action::ForgetWarm]);
    }
}
