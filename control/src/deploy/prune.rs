//! Which images may go.
//!
//! Owns the choice: of the images that this project's deploys have brought, those that nobody goes back to. Pure. What
//! other projects have is not in the ledger, so it is never chosen.

use std::collections::HashSet;

use crate::deploy::container::Container;
use crate::deploy::image::ImageName;
use crate::deploy::ledger::Ledger;

/// An image that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What it was deployed as. The name may stand for another image by now.
    pub name: ImageName,
    /// What it is.
    pub image_id: String,
}

/// The images of the ledger but the last `keep` good ones, and those of containers that are there.
///
/// The release before the active one is the second of the good ones, so that with `keep >= 2` there is always one to go back to.
pub fn stale(ledger: &Ledger, containers: &[&Container], keep: usize) -> Vec<Stale> {
    let mut kept: HashSet<&str> = HashSet::new();
    for image_id in ledger.good().filter_map(|entry| entry.image_id.as_deref()) {
        if kept.len() < keep {
            kept.insert(image_id);
        }
    }
    kept.extend(
        containers
            .iter()
            .map(|container| container.image_id.as_str()),
    );
    let mut stale: Vec<Stale> = Vec::new();
    for entry in ledger.deploys.iter().filter(|entry| !entry.is_pruned) {
        let Some(image_id) = &entry.image_id else {
            continue;
        };
        let one = Stale {
            name: entry.image.clone(),
            image_id: image_id.clone(),
        };
        if !kept.contains(image_id.as_str()) && !stale.contains(&one) {
            stale.push(one);
        }
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::container::tests::container;
    use crate::deploy::ledger::{Outcome, tests::entry};

    fn ledger(deploys: &[(&str, &str, Outcome)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (image, image_id, outcome) in deploys {
            ledger.begin(entry(image, image_id, None));
            ledger.close(|entry| entry.outcome = Some(*outcome));
        }
        ledger
    }

    fn names(stale: &[Stale]) -> Vec<String> {
        stale.iter().map(|stale| stale.name.to_string()).collect()
    }

    #[test]
    fn the_last_good_images_stay_and_what_failed_goes() {
        let ledger = ledger(&[
            ("app:1", "a", Outcome::Deployed),
            ("app:2", "b", Outcome::Deployed),
            ("app:3", "c", Outcome::Failed),
            ("app:4", "d", Outcome::Deployed),
            // The same image again does not use up a place.
            ("app:4", "d", Outcome::Deployed),
            ("app:5", "e", Outcome::RolledBack),
        ]);
        assert_eq!(names(&stale(&ledger, &[], 2)), ["app:1", "app:3", "app:5"]);
        let running = container("a", true);
        assert_eq!(names(&stale(&ledger, &[&running], 2)), ["app:3", "app:5"]);
        let stopped = container("e", false);
        assert_eq!(
            names(&stale(&ledger, &[&running, &stopped], 100)),
            ["app:3"]
        );
    }

    #[test]
    fn one_tag_that_was_moved_is_several_images() {
        let ledger = ledger(&[
            ("app:latest", "a", Outcome::Deployed),
            ("app:latest", "b", Outcome::Deployed),
            ("app:latest", "c", Outcome::Deployed),
        ]);
        let stale = stale(&ledger, &[], 2);
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].image_id, "a");
    }

    #[test]
    fn what_was_removed_is_not_chosen_again() {
        let mut ledger = ledger(&[
            ("app:1", "a", Outcome::Failed),
            ("app:2", "b", Outcome::Failed),
        ]);
        ledger.deploys[0].is_pruned = true;
        assert_eq!(names(&stale(&ledger, &[], 5)), ["app:2"]);
    }
}
