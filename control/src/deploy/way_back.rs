//! How a rollback gets back: by a flip, or by starting the release before.
//!
//! Owns the choice. Pure.

use crate::deploy::container::Container;
use crate::deploy::image::ImageName;
use crate::deploy::ledger::Ledger;

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
}

/// Where to go back to from what the active slot runs.
///
/// # Errors
/// There is nothing to go back to.
pub fn find(
    ledger: &Ledger,
    active: Option<&Container>,
    standby: Option<&Container>,
) -> Result<WayBack, NoWayBack> {
    let active_id = active.map(|container| container.image_id.as_str());
    let releases = ledger.good().flat_map(|entry| {
        let brought = entry
            .image_id
            .clone()
            .map(|image_id| (entry.image.clone(), image_id));
        let replaced = entry
            .before
            .clone()
            .map(|before| (before.image, before.image_id));
        [brought, replaced]
    });
    let before = releases
        .flatten()
        .find(|(_, image_id)| Some(image_id.as_str()) != active_id);
    let running = standby.filter(|container| container.failure().is_none());
    match (before, running) {
        (Some((image, image_id)), Some(standby)) if standby.image_id == image_id => {
            Ok(WayBack::Flip { image, image_id })
        }
        (Some((image, image_id)), _) => Ok(WayBack::Start { image, image_id }),
        // Before the first deploy the standby is what the operator has started there.
        (None, Some(standby))
            if ledger.deploys.is_empty() && Some(standby.image_id.as_str()) != active_id =>
        {
            let image = ImageName::parse(&standby.image).map_err(|_| NoWayBack::NothingBefore)?;
            let image_id = standby.image_id.clone();
            Ok(WayBack::Flip { image, image_id })
        }
        (None, _) => Err(NoWayBack::NothingBefore),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::container::tests::container;
    use crate::deploy::ledger::{Outcome, Replaced, tests::entry};

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for (image, image_id, outcome) in [
            ("app:1", "a", Outcome::Deployed),
            ("app:2", "b", Outcome::Deployed),
            ("app:3", "c", Outcome::RolledBack),
        ] {
            ledger.begin(entry(image, image_id, None));
            ledger.close(|entry| entry.outcome = Some(outcome));
        }
        ledger
    }

    #[test]
    fn a_warm_slot_is_a_flip_and_a_cold_one_is_started() {
        let name = |text| ImageName::parse(text).expect(text);
        let active = container("b", true);
        let flip = WayBack::Flip {
            image: name("app:1"),
            image_id: "a".to_owned(),
        };
        let start = WayBack::Start {
            image: name("app:1"),
            image_id: "a".to_owned(),
        };
        for (standby, way) in [
            (Some(container("a", true)), &flip),
            (Some(container("a", false)), &start),
            (None, &start),
            // What was undone in its watch window is nothing to go back to.
            (Some(container("c", true)), &start),
        ] {
            assert_eq!(
                find(&ledger(), Some(&active), standby.as_ref()).as_ref(),
                Ok(way)
            );
        }
        // After a rollback the way back leads forward again.
        let forward = find(
            &ledger(),
            Some(&container("a", true)),
            Some(&container("b", true)),
        );
        assert!(matches!(forward, Ok(WayBack::Flip { image_id, .. }) if image_id == "b"));
    }

    #[test]
    fn what_ran_before_the_first_deploy_is_a_way_back_too() {
        let mut ledger = Ledger::default();
        let mut first = entry("app:1", "a", None);
        let legacy = ImageName::parse("legacy:7").expect("image");
        first.before = Some(Replaced {
            image: legacy.clone(),
            image_id: "x".to_owned(),
        });
        ledger.begin(first);
        ledger.close(|entry| entry.outcome = Some(Outcome::Deployed));
        let flip = WayBack::Flip {
            image: legacy,
            image_id: "x".to_owned(),
        };
        let found = find(
            &ledger,
            Some(&container("a", true)),
            Some(&container("x", true)),
        );
        assert_eq!(found, Ok(flip));
    }

    #[test]
    fn without_a_release_before_there_is_no_way_back() {
        let empty = Ledger::default();
        let active = container("b", true);
        assert_eq!(
            find(&empty, Some(&active), None),
            Err(NoWayBack::NothingBefore)
        );
        assert_eq!(
            find(&empty, Some(&active), Some(&container("b", true))),
            Err(NoWayBack::NothingBefore)
        );
        let by_hand = find(&empty, Some(&active), Some(&container("x", true)));
        assert!(matches!(by_hand, Ok(WayBack::Flip { .. })));
    }
}
