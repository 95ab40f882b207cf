//! How a rollback gets back: by a flip, or by starting the release before.
//!
//! Owns the choice. Pure. The way back leads to what the active slot ran before its last deploy, never to a release that
//! was gone back from, and never from a release that was not deployed: whoever means something else names a tag.

use std::collections::HashSet;

use crate::deploy::container::Container;
use crate::deploy::image::ImageName;
use crate::deploy::ledger::{Kind, Ledger, Outcome};

/// The way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayBack {
    /// The release before still runs in the standby slot: one flip.
    Flip {
        /// What it runs.
        image: ImageName,
        /// Its id.
        image_id: String,
    },
    /// It has to be started first.
    Start {
        /// What it was deployed as.
        image: ImageName,
        /// Its id. The name may stand for another image by now.
        image_id: String,
    },
}

/// Why there is no way back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWayBack {
    /// Nothing was deployed before what is active.
    #[error("no release before the active one is known here")]
    NothingBefore,
    /// A second rollback: a job that was tried again, or two people at once.
    #[error(
        "deploy {deploy} has rolled back already; what was before that is reached by its tag alone"
    )]
    AlreadyBack {
        /// The rollback.
        deploy: u64,
    },
    /// The active slot has something else than the last deploy brought.
    #[error(
        "the active slot does not run {image} of deploy {deploy}, the last one: somebody has switched by hand"
    )]
    MovedByHand {
        /// The last good deploy.
        deploy: u64,
        /// What it brought.
        image: ImageName,
    },
}

/// Where to go back to from what the active slot runs.
///
/// # Errors
/// There is nothing to go back to, or it is not clear from what.
pub fn find(
    ledger: &Ledger,
    active: Option<&Container>,
    standby: Option<&Container>,
) -> Result<WayBack, NoWayBack> {
    let active_id = active.map(|container| container.image_id.as_str());
    let running = standby.filter(|container| container.failure().is_none());
    let Some(last) = ledger.good().next() else {
        return by_hand(active_id, running);
    };
    if active_id.is_some() && active_id != last.image_id.as_deref() {
        return Err(NoWayBack::MovedByHand {
            deploy: last.deploy,
            image: last.image.clone(),
        });
    }
    if last.kind == Kind::Rollback {
        return Err(NoWayBack::AlreadyBack {
            deploy: last.deploy,
        });
    }
    let undone = undone(ledger);
    let deploys = ledger.good().filter(|entry| entry.kind == Kind::Deploy);
    let mut befores = deploys.filter_map(|entry| entry.before.as_ref());
    let before = befores
        .find(|before| {
            Some(before.image_id.as_str()) != active_id
                && !undone.contains(before.image_id.as_str())
        })
        .ok_or(NoWayBack::NothingBefore)?;
    let (image, image_id) = (before.image.clone(), before.image_id.clone());
    match running {
        Some(standby) if standby.image_id == image_id => Ok(WayBack::Flip { image, image_id }),
        _ => Ok(WayBack::Start { image, image_id }),
    }
}

/// Before the first deploy the standby is what the operator has started there.
fn by_hand(active_id: Option<&str>, running: Option<&Container>) -> Result<WayBack, NoWayBack> {
    let standby = running.filter(|standby| Some(standby.image_id.as_str()) != active_id);
    let standby = standby.ok_or(NoWayBack::NothingBefore)?;
    let image = ImageName::parse(&standby.image).map_err(|_| NoWayBack::NothingBefore)?;
    let image_id = standby.image_id.clone();
    Ok(WayBack::Flip { image, image_id })
}

/// The images that were gone back from and not deployed well since.
fn undone(ledger: &Ledger) -> HashSet<&str> {
    let mut undone = HashSet::new();
    for entry in &ledger.deploys {
        match (entry.outcome, entry.kind) {
            (Some(Outcome::Deployed), Kind::Deploy) => {
                undone.remove(entry.image_id.as_deref().unwrap_or_default());
            }
            (Some(Outcome::Deployed), Kind::Rollback) => {
                undone.extend(entry.before.as_ref().map(|before| before.image_id.as_str()));
            }
            (Some(Outcome::RolledBack | Outcome::Superseded), Kind::Deploy) => {
                undone.extend(entry.image_id.as_deref());
            }
            _ => {}
        }
    }
    undone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::container::tests::container;
    use crate::deploy::ledger::{Replaced, tests::entry};

    /// Deploys as (image, what ran before, kind, outcome); ids are the names behind `app:`.
    fn ledger(deploys: &[(&str, &str, Kind, Outcome)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (image, before, kind, outcome) in deploys {
            let mut one = entry(&format!("app:{image}"), image, None);
            one.kind = *kind;
            one.before = Some(Replaced {
                image: ImageName::parse(&format!("app:{before}")).expect("image"),
                image_id: (*before).to_owned(),
            });
            ledger.begin(one);
            ledger.close(|entry| entry.outcome = Some(*outcome));
        }
        ledger
    }

    fn back(ledger: &Ledger, active: &str, standby: Option<(&str, bool)>) -> String {
        let standby = standby.map(|(id, runs)| container(id, runs));
        match find(ledger, Some(&container(active, true)), standby.as_ref()) {
            Ok(WayBack::Flip { image_id, .. }) => format!("flip {image_id}"),
            Ok(WayBack::Start { image_id, .. }) => format!("start {image_id}"),
            Err(none) => none.to_string(),
        }
    }

    use Kind::{Deploy, Rollback};
    use Outcome::{Deployed, Failed, RolledBack, Superseded};

    #[test]
    fn a_warm_slot_is_a_flip_and_a_cold_one_is_started() {
        let two = ledger(&[
            ("1", "0", Deploy, Deployed),
            ("2", "1", Deploy, Deployed),
            ("3", "2", Deploy, RolledBack),
        ]);
        for (standby, way) in [
            (Some(("1", true)), "flip 1"),
            (Some(("1", false)), "start 1"),
            (None, "start 1"),
            // What was undone in its watch window is nothing to go back to.
            (Some(("3", true)), "start 1"),
        ] {
            assert_eq!(back(&two, "2", standby), way, "{standby:?}");
        }
    }

    #[test]
    fn what_ran_before_the_first_deploy_is_a_way_back_too() {
        let one = ledger(&[("1", "legacy", Deploy, Deployed)]);
        assert_eq!(back(&one, "1", Some(("legacy", true))), "flip legacy");
    }

    #[test]
    fn nobody_is_led_back_to_what_was_gone_back_from() {
        let gone_back = [
            ("1", "0", Deploy, Deployed),
            ("2", "1", Deploy, Deployed),
            ("1", "2", Rollback, Deployed),
        ];
        // A second rollback neither brings 2 again nor goes further back than anybody asked for.
        assert!(
            back(&ledger(&gone_back), "1", Some(("2", true)))
                .contains("deploy 3 has rolled back already")
        );
        let mut mended = gone_back.to_vec();
        mended.push(("3", "1", Deploy, Deployed));
        assert_eq!(back(&ledger(&mended), "3", Some(("1", true))), "flip 1");
        mended.push(("4", "3", Deploy, Failed));
        assert_eq!(back(&ledger(&mended), "3", Some(("4", false))), "start 1");
        // Deployed by its tag all the same, it counts again.
        mended.push(("2", "3", Deploy, Deployed));
        mended.push(("5", "2", Deploy, Deployed));
        assert_eq!(back(&ledger(&mended), "5", None), "start 2");
        let by_hand = ledger(&[("1", "0", Deploy, Deployed), ("2", "1", Deploy, Superseded)]);
        assert_eq!(back(&by_hand, "1", Some(("2", true))), "start 0");
    }

    #[test]
    fn where_somebody_has_switched_by_hand_it_is_not_clear_what_is_before() {
        let two = ledger(&[("1", "0", Deploy, Deployed), ("2", "1", Deploy, Deployed)]);
        assert!(back(&two, "1", Some(("2", true))).contains("does not run app:2 of deploy 2"));
    }

    #[test]
    fn the_same_image_again_is_not_the_release_before() {
        let again = ledger(&[
            ("1", "0", Deploy, Deployed),
            ("2", "1", Deploy, Deployed),
            ("2", "2", Deploy, Deployed),
        ]);
        assert_eq!(back(&again, "2", None), "start 1");
    }

    #[test]
    fn without_a_release_before_there_is_no_way_back() {
        let empty = Ledger::default();
        assert_eq!(
            back(&empty, "2", None),
            NoWayBack::NothingBefore.to_string()
        );
        assert_eq!(
            back(&empty, "2", Some(("2", true))),
            NoWayBack::NothingBefore.to_string()
        );
        assert_eq!(back(&empty, "2", Some(("x", true))), "flip x");
        assert_eq!(
            back(&empty, "2", Some(("x", false))),
            NoWayBack::NothingBefore.to_string()
        );
    }
}
