//! Reconciling: what runs is made what should run, after a reboot, a deploy that was cut off, or the end of a warm time.
//!
//! Owns the decision. Pure. Containers are started and stopped, never made anew: so the live one is never replaced.

use crate::deploy::container::Container;
use crate::deploy::ledger::{Ledger, Outcome};
use crate::deploy::settings::KeepWarm;
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
    /// How long a slot is kept warm.
    pub keep_warm: KeepWarm,
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
    /// The warm time is over, or was for a slot that is active now.
    ForgetWarm,
}

/// What has to be done.
pub fn reconcile(case: Case<'_>) -> Vec<Action> {
    let Case { ledger, active, .. } = case;
    let standby = active.other();
    let mut actions = Vec::new();
    let cut_off = ledger.pending.as_ref();
    if let Some(pending) = cut_off {
        // It was switched, or began with a slot that was active already.
        let is_active = pending.to == active && pending.from != active;
        actions.push(Action::CloseCutOff {
            generation: is_active.then_some(case.generation),
        });
    }
    let runs =
        |slot: Slot| case.containers[slot.index()].map(|container| container.state.is_running);
    if runs(active) == Some(false) {
        actions.push(Action::Start(active));
    }
    let warm = ledger.warm.filter(|warm| warm.slot == standby);
    let is_warm_time_over =
        warm.is_some_and(|warm| warm.until.is_some_and(|until| until <= case.now));
    let is_kept = match case.keep_warm {
        KeepWarm::Always => true,
        KeepWarm::For(_) => warm.is_some() && !is_warm_time_over,
    };
    // A standby that somebody has started by hand is theirs, until the machine starts again.
    let is_ours = is_warm_time_over || case.is_after_boot || was_never_switched(case);
    match runs(standby) {
        Some(true) if !is_kept && is_ours => actions.push(Action::Stop(standby)),
        Some(false) if is_kept && (case.is_after_boot || warm.is_some()) && cut_off.is_none() => {
            actions.push(Action::Start(standby));
        }
        _ => {}
    }
    if ledger.warm.is_some() && (warm.is_none() || is_warm_time_over) {
        actions.push(Action::ForgetWarm);
    }
    actions
}

/// The standby has the container of a deploy that was cut off before its switch.
fn was_never_switched(case: Case<'_>) -> bool {
    let pending = case.ledger.pending.as_ref();
    pending.is_some_and(|entry| entry.outcome != Some(Outcome::Deployed) && entry.to != case.active)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::deploy::container::tests::container;
    use crate::deploy::ledger::{Warm, tests::entry};

    const MINUTES: KeepWarm = KeepWarm::For(Duration::from_secs(600));

    struct Scene {
        ledger: Ledger,
        blue: Option<Container>,
        green: Option<Container>,
        keep_warm: KeepWarm,
        is_after_boot: bool,
    }

    /// Green is active; it is 1000.
    fn scene(blue: Option<bool>, green: Option<bool>) -> Scene {
        Scene {
            ledger: Ledger::default(),
            blue: blue.map(|runs| container("a", runs)),
            green: green.map(|runs| container("b", runs)),
            keep_warm: MINUTES,
            is_after_boot: false,
        }
    }

    fn actions(scene: &Scene) -> Vec<Action> {
        reconcile(Case {
            ledger: &scene.ledger,
            active: Slot::Green,
            generation: 7,
            containers: [scene.blue.as_ref(), scene.green.as_ref()],
            keep_warm: scene.keep_warm,
            is_after_boot: scene.is_after_boot,
            now: 1000,
        })
    }

    fn warm_until(until: Option<u64>) -> Option<Warm> {
        Some(Warm {
            slot: Slot::Blue,
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
        assert_eq!(
            actions(&scene(Some(false), Some(false))),
            [Action::Start(Slot::Green)]
        );
    }

    #[test]
    fn a_warm_slot_is_stopped_when_its_time_is_over() {
        let mut warm = scene(Some(true), Some(true));
        warm.ledger.warm = warm_until(Some(1001));
        assert_eq!(actions(&warm), []);
        warm.ledger.warm = warm_until(Some(1000));
        let over = [Action::Stop(Slot::Blue), Action::ForgetWarm];
        assert_eq!(actions(&warm), over);
        warm.blue = Some(container("a", false));
        assert_eq!(actions(&warm), [Action::ForgetWarm]);
    }

    #[test]
    fn after_a_reboot_the_active_slot_runs_and_the_standby_only_if_it_is_kept() {
        let mut rebooted = scene(Some(true), Some(true));
        rebooted.is_after_boot = true;
        assert_eq!(actions(&rebooted), [Action::Stop(Slot::Blue)]);
        rebooted.ledger.warm = warm_until(Some(2000));
        assert_eq!(actions(&rebooted), []);
        rebooted.blue = Some(container("a", false));
        assert_eq!(actions(&rebooted), [Action::Start(Slot::Blue)]);
        rebooted.keep_warm = KeepWarm::Always;
        rebooted.ledger.warm = None;
        assert_eq!(actions(&rebooted), [Action::Start(Slot::Blue)]);
        rebooted.blue = Some(container("a", true));
        assert_eq!(actions(&rebooted), []);
    }

    #[test]
    fn a_deploy_that_was_cut_off_is_over_and_its_container_goes_unless_it_is_active() {
        let mut before = scene(Some(true), Some(true));
        let mut pending = entry("app:41", "a", None);
        (pending.from, pending.to) = (Slot::Green, Slot::Blue);
        before.ledger.pending = Some(pending);
        let never = Action::CloseCutOff { generation: None };
        assert_eq!(actions(&before), [never, Action::Stop(Slot::Blue)]);
        let mut after = scene(Some(true), Some(true));
        after.ledger.pending = Some(entry("app:41", "b", None));
        let switched = Action::CloseCutOff {
            generation: Some(7),
        };
        assert_eq!(actions(&after), [switched]);
    }

    #[test]
    fn a_warm_time_of_a_slot_that_is_active_again_is_forgotten() {
        let mut back = scene(Some(true), Some(true));
        back.ledger.warm = Some(Warm {
            slot: Slot::Green,
            until: Some(500),
        });
        assert_eq!(actions(&back), [Action::ForgetWarm]);
    }
}
