//! The course in a world that fails at will, at virtual time. The world itself panics when the live container is touched,
//! when requests are cut off, or when something is switched that nobody has looked at.

use std::time::Duration;

use tokio::sync::watch;

use crate::deploy::course::{Course, Finished, Order, What};
use crate::deploy::fake::{Nature, World, settings};
use crate::deploy::image::ImageName;
use crate::deploy::ledger::{About, Outcome, Replaced, Warm, tests::entry};
use crate::deploy::settings::{DeploySettings, KeepWarm, Pull};
use crate::deploy::steps::Step;
use crate::slot::Slot;

fn order(what: What) -> Order {
    Order {
        what,
        who: "ops".to_owned(),
        about: About::default(),
        if_generation: None,
    }
}

fn image(name: &str) -> What {
    What::Image(ImageName::parse(name).expect("image"))
}

async fn carry_out(world: &mut World, settings: &DeploySettings, what: What) -> Finished {
    let (sender, cancel) = watch::channel(false);
    if let Some((_, cancels)) = &mut world.cancels {
        *cancels = sender;
    }
    let mut ledger = world.ledger.clone();
    Course::new(world, settings, &mut ledger, order(what), cancel)
        .run()
        .await
}

async fn deploy(world: &mut World) -> Finished {
    carry_out(world, &settings(), image("app:41")).await
}

fn failed_at(finished: &Finished) -> (Step, &str) {
    let failure = finished.failure.as_ref().expect("a failure");
    (failure.step, failure.error.as_str())
}

#[tokio::test(start_paused = true)]
async fn a_good_release_is_active_in_the_end_and_the_old_one_is_warm() {
    let mut world = World::new();
    let finished = deploy(&mut world).await;
    assert_eq!(finished.outcome, Outcome::Deployed, "{finished:?}");
    assert_eq!(
        (world.active, world.image_of(Slot::Green)),
        (Slot::Green, Some("i41"))
    );
    assert!(world.runs(Slot::Blue) && !world.is_drained[0]);
    assert_eq!(
        world.ledger.warm,
        Some(Warm {
            slot: Slot::Blue,
            image_id: "i40".to_owned(),
            until: Some(1600)
        })
    );
    let steps: Vec<&str> = world
        .said
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(
        steps,
        [
            "lock",
            "preflight",
            "pull",
            "start",
            "gate",
            "warm_up",
            "switch",
            "drain",
            "watch",
            "keep_warm"
        ]
    );
    assert_eq!(world.notes.len(), steps.len());
    assert!(
        world
            .notes
            .iter()
            .all(|note| note.starts_with("deploy 1 app:41: ")),
        "{:?}",
        world.notes
    );
    let told: Vec<_> = world.announced.iter().map(|told| told.outcome).collect();
    assert_eq!(told, [None, Some(Outcome::Deployed)]);
    let entry = finished.entry.expect("entry");
    assert_eq!(
        (entry.generation, entry.image_id.as_deref(), entry.requests),
        (Some(8), Some("i41"), Some(0))
    );
    // Nobody said of which commit it is, so the image does.
    assert_eq!(entry.about.commit.as_deref(), Some("commit of i41"));
    assert!(finished.published.is_some() && world.ledger.pending.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_no_good_is_stopped_and_everything_is_as_before() {
    for (nature, step, said, outcome) in [
        (
            Nature::Crashes,
            Step::Gate,
            "it is exited (exit code 1)",
            Outcome::Failed,
        ),
        (
            Nature::Unhealthy,
            Step::Gate,
            "within 60 s of its start (deploy.start_timeout): localhost:4001 answered 500",
            Outcome::Failed,
        ),
        (
            Nature::Slow(10_000),
            Step::Gate,
            "did not pass its gate",
            Outcome::Failed,
        ),
        (
            Nature::BrokenPages,
            Step::WarmUp,
            "GET / on localhost:4001 was answered 500",
            Outcome::Failed,
        ),
        (
            Nature::Public,
            Step::Start,
            "publishes port 4001 on 0.0.0.0",
            Outcome::Failed,
        ),
        (
            Nature::ErrorsLive,
            Step::Watch,
            "18 of 20 requests were answered with 500",
            Outcome::RolledBack,
        ),
        (
            Nature::DiesLive,
            Step::Watch,
            "its container does not serve: it is exited",
            Outcome::RolledBack,
        ),
    ] {
        let mut world = World::with(nature);
        let finished = deploy(&mut world).await;
        let (at, error) = failed_at(&finished);
        assert_eq!(
            (at, finished.outcome),
            (step, outcome),
            "{nature:?}: {error}"
        );
        assert!(error.contains(said), "{nature:?}: {error}");
        assert_eq!(world.active, Slot::Blue, "{nature:?}");
        assert!(
            world.runs(Slot::Blue) && !world.runs(Slot::Green),
            "{nature:?}"
        );
        assert_eq!(world.is_drained, [false; 2], "{nature:?}");
        assert_eq!(
            world.announced.last().and_then(|told| told.outcome),
            Some(outcome)
        );
        let failure = finished.failure.expect("failure");
        assert_eq!(
            failure.last_log.is_empty(),
            nature == Nature::Public,
            "{nature:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_release_has_its_time() {
    let finished = deploy(&mut World::with(Nature::Slow(100))).await;
    assert_eq!(finished.outcome, Outcome::Deployed, "{finished:?}");
}

#[tokio::test(start_paused = true)]
async fn what_can_be_known_before_is_refused_before_anything_is_changed() {
    type Change = fn(&mut World);
    let cases: [(Change, &str); 5] = [
        (|world| world.is_disk_full = true, "has no room"),
        (
            |world| world.disk = 1,
            "are free where the engine keeps its images",
        ),
        (|world| world.memory = 1, "a second copy wants 256.0 MiB"),
        (|world| world.fails = Some(0), "was told to fail"),
        (|world| world.fails = Some(1), "was told to fail"),
    ];
    for (change, said) in cases {
        let mut world = World::new();
        change(&mut world);
        let finished = deploy(&mut world).await;
        let (step, error) = failed_at(&finished);
        assert_eq!(
            (finished.outcome, step),
            (Outcome::Refused, Step::Preflight)
        );
        assert!(error.contains(said), "{error}");
        assert!(
            !world
                .calls
                .iter()
                .any(|call| ["pull", "create", "stop", "drain", "switch"].contains(call))
        );
        assert_eq!(world.ledger.deploys.len(), 0);
    }
}

/// What holds however a deploy ends, as long as the daemon can be asked.
fn assert_consistent(world: &World, finished: &Finished, what: &str) {
    let context = format!("{what}: {finished:?}");
    assert!(world.runs(world.active), "the active slot runs; {context}");
    match finished.outcome {
        Outcome::Deployed => assert_eq!(world.image_of(world.active), Some("i41"), "{context}"),
        Outcome::CutOff if world.active == Slot::Green => {
            assert_eq!(world.image_of(world.active), Some("i41"), "{context}")
        }
        _ => assert_eq!(world.image_of(world.active), Some("i40"), "{context}"),
    }
    let is_open = world.ledger.pending.is_some();
    assert!(!is_open, "the ledger is closed; {context}");
}

#[tokio::test(start_paused = true)]
async fn whatever_call_fails_the_live_slot_serves_and_the_next_deploy_succeeds() {
    let mut calls = World::new();
    deploy(&mut calls).await;
    for (number, name) in calls.calls.iter().enumerate() {
        let mut world = World::new();
        world.fails = Some(number);
        let finished = deploy(&mut world).await;
        assert_consistent(&world, &finished, &format!("call {number}, {name}, failed"));
        world.fails = None;
        let next = deploy(&mut world).await;
        assert_eq!(
            next.outcome,
            Outcome::Deployed,
            "after {number}, {name}: {next:?}"
        );
        assert_consistent(&world, &next, "the next");
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_it_is_interrupted_the_live_slot_serves_and_nothing_new_is_left_running() {
    let mut calls = World::new();
    deploy(&mut calls).await;
    for (number, name) in calls.calls.iter().enumerate() {
        let mut world = World::new();
        world.cancels = Some((number, watch::channel(false).0));
        let finished = deploy(&mut world).await;
        let what = format!("interrupted at call {number}, {name}");
        assert_consistent(&world, &finished, &what);
        if world.active == Slot::Blue {
            assert!(!world.runs(Slot::Green), "{what}: {finished:?}");
        }
        let next = deploy(&mut world).await;
        assert_eq!(
            next.outcome,
            Outcome::Deployed,
            "after {number}, {name}: {next:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_was_dropped_half_way_is_closed_by_the_next() {
    let mut calls = World::new();
    deploy(&mut calls).await;
    for number in 0..calls.calls.len() {
        let mut world = World::new();
        {
            // As kill -9: everything that is in memory is gone.
            let (_sender, cancel) = watch::channel(false);
            let (settings, mut ledger) = (settings(), world.ledger.clone());
            let course = Course::new(
                &mut world,
                &settings,
                &mut ledger,
                order(image("app:41")),
                cancel,
            )
            .run();
            let mut course = Box::pin(course);
            let until = Duration::from_millis(number as u64);
            assert!(tokio::time::timeout(until, &mut course).await.is_err());
        }
        let was_active = world.active;
        let next = deploy(&mut world).await;
        assert_eq!(next.outcome, Outcome::Deployed, "{number}: {next:?}");
        assert_ne!(world.active, was_active);
        let cut = world
            .ledger
            .deploys
            .iter()
            .filter(|entry| entry.outcome == Some(Outcome::CutOff));
        for entry in cut {
            assert_eq!(
                entry.generation.is_some(),
                was_active == Slot::Green,
                "{number}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_standby_that_a_bad_release_has_replaced_comes_back() {
    let mut world = World::with(Nature::Unhealthy);
    world.containers[1]
        .as_mut()
        .expect("green")
        .state
        .is_running = true;
    let finished = deploy(&mut world).await;
    assert_eq!(finished.outcome, Outcome::Failed);
    assert_eq!(world.image_of(Slot::Green), Some("i39"));
    assert!(world.runs(Slot::Green) && !world.is_drained[1]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_still_has_requests_is_not_replaced() {
    let mut world = World::new();
    world.containers[1]
        .as_mut()
        .expect("green")
        .state
        .is_running = true;
    world.stuck[1] = 3;
    let finished = deploy(&mut world).await;
    assert!(
        failed_at(&finished).1.contains("still has requests"),
        "{finished:?}"
    );
    assert!(world.runs(Slot::Green) && !world.is_drained[1]);
}

#[tokio::test(start_paused = true)]
async fn an_old_slot_that_is_not_kept_is_stopped_once_it_is_empty() {
    let mut settings = settings();
    settings.keep_warm = KeepWarm::For(Duration::ZERO);
    let mut world = World::new();
    let finished = carry_out(&mut world, &settings, image("app:41")).await;
    assert!(
        !world.runs(Slot::Blue) && finished.warnings.is_empty(),
        "{finished:?}"
    );
    let mut world = World::new();
    world.stuck[0] = 1;
    let finished = carry_out(&mut world, &settings, image("app:41")).await;
    assert_eq!(finished.outcome, Outcome::Deployed);
    assert!(world.runs(Slot::Blue), "it still has a request");
    assert_eq!(
        finished.warm,
        Some(Warm {
            slot: Slot::Blue,
            image_id: "i40".to_owned(),
            until: Some(1000)
        }),
        "left to the next look"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_flips_to_a_warm_slot_and_starts_a_cold_one() {
    let mut world = World::new();
    world.ledger.begin(entry("app:40", "i40", None));
    world
        .ledger
        .close(|entry| entry.outcome = Some(Outcome::Deployed));
    assert_eq!(deploy(&mut world).await.outcome, Outcome::Deployed);
    let calls = world.calls.len();
    let back = carry_out(&mut world, &settings(), What::Rollback).await;
    assert_eq!(
        (back.outcome, world.active),
        (Outcome::Deployed, Slot::Blue),
        "{back:?}"
    );
    let calls = &world.calls[calls..];
    assert!(
        !calls
            .iter()
            .any(|call| ["pull", "create", "start", "page"].contains(call)),
        "{calls:?}"
    );
    // Whoever orders it a second time, as a job that is tried again does, is not led to the bad release again.
    let again = carry_out(&mut world, &settings(), What::Rollback).await;
    assert_eq!(
        (again.outcome, world.active),
        (Outcome::Refused, Slot::Blue)
    );
    let mut world = World::new();
    assert_eq!(deploy(&mut world).await.outcome, Outcome::Deployed);
    world.containers[0].as_mut().expect("blue").state.is_running = false;
    let back = carry_out(&mut world, &settings(), What::Rollback).await;
    assert_eq!(
        (back.outcome, world.image_of(Slot::Blue)),
        (Outcome::Deployed, Some("i40")),
        "{back:?}"
    );
    let nothing = carry_out(&mut World::new(), &settings(), What::Rollback).await;
    assert!(
        failed_at(&nothing)
            .1
            .contains("no release before the active one"),
        "{nothing:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollback_knows_its_image_by_id_when_the_tag_was_moved() {
    let mut world = World::new();
    let name = ImageName::parse("app:latest").expect("image");
    let mut last = entry("app:latest", "i41", None);
    last.before = Some(Replaced {
        image: name,
        image_id: "i40".to_owned(),
    });
    world.ledger.begin(last);
    world
        .ledger
        .close(|entry| entry.outcome = Some(Outcome::Deployed));
    world.active = Slot::Green;
    world.containers = [None, Some(world.containers[0].take().expect("blue"))];
    world.containers[1].as_mut().expect("green").image_id = "i41".to_owned();
    world
        .images
        .insert("app:latest".to_owned(), ("i41".to_owned(), Nature::Good));
    let back = carry_out(&mut world, &settings(), What::Rollback).await;
    assert_eq!(
        (back.outcome, world.image_of(Slot::Blue)),
        (Outcome::Deployed, Some("i40")),
        "{back:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn images_are_pulled_as_configured() {
    for (pull, is_here, pulls, outcome) in [
        (Pull::Always, true, true, Outcome::Deployed),
        (Pull::Missing, true, false, Outcome::Deployed),
        (Pull::Missing, false, true, Outcome::Deployed),
        (Pull::Never, true, false, Outcome::Deployed),
        (Pull::Never, false, false, Outcome::Failed),
    ] {
        let mut world = World::new();
        if is_here {
            world
                .images
                .insert("app:41".to_owned(), ("i41".to_owned(), Nature::Good));
        }
        let settings = DeploySettings { pull, ..settings() };
        let finished = carry_out(&mut world, &settings, image("app:41")).await;
        assert_eq!(
            (world.calls.contains(&"pull"), finished.outcome),
            (pulls, outcome),
            "{pull:?} {is_here}"
        );
    }
    let mut world = World::new();
    world.registry.clear();
    let finished = deploy(&mut world).await;
    let (step, error) = failed_at(&finished);
    assert!(
        step == Step::Pull && error.contains("manifest unknown"),
        "{error}"
    );
    assert!(!world.calls.contains(&"create"));
}

#[tokio::test(start_paused = true)]
async fn images_that_nobody_goes_back_to_are_removed() {
    let mut world = World::new();
    for number in 41..46 {
        let name = format!("app:{number}");
        world
            .registry
            .insert(name.clone(), (format!("i{number}"), Nature::Good));
        let finished = carry_out(&mut world, &settings(), image(&name)).await;
        assert_eq!(finished.outcome, Outcome::Deployed, "{finished:?}");
    }
    // 39 and 40 were never deployed from here, so they are not ours to remove.
    let here: Vec<&str> = world.images.keys().map(String::as_str).collect();
    assert_eq!(here, ["app:39", "app:40", "app:44", "app:45"]);
    assert!(world.ledger.deploys[0].is_pruned && !world.ledger.deploys[4].is_pruned);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_somebody_has_made_active_meanwhile_is_left_alone() {
    let mut calls = World::new();
    deploy(&mut calls).await;
    let create = calls.calls.iter().position(|call| *call == "create");
    for number in 0..create.expect("a deploy makes a container") {
        let mut world = World::new();
        world.containers[1]
            .as_mut()
            .expect("green")
            .state
            .is_running = true;
        world.switches = Some(number);
        let finished = deploy(&mut world).await;
        // The world panics if the container of the active slot is touched.
        if world.active == Slot::Green && finished.outcome != Outcome::Deployed {
            assert_eq!(
                world.image_of(Slot::Green),
                Some("i39"),
                "{number}: {finished:?}"
            );
        }
        assert!(world.runs(world.active), "{number}: {finished:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_answers_for_an_active_slot_that_does_not_is_left_alone() {
    let mut world = World::new();
    for (slot, is_running) in [(0, false), (1, true)] {
        world.containers[slot]
            .as_mut()
            .expect("container")
            .state
            .is_running = is_running;
    }
    let finished = deploy(&mut world).await;
    let (step, error) = failed_at(&finished);
    assert_eq!(
        (finished.outcome, step),
        (Outcome::Refused, Step::Preflight)
    );
    assert!(error.contains("green answers for it"), "{error}");
    assert!(world.runs(Slot::Green) && !world.is_drained[1]);
}

#[tokio::test(start_paused = true)]
async fn services_that_are_swapped_are_found_before_the_live_container_is_touched() {
    let mut world = World::new();
    // By the configuration this is the standby's; by its port it is the one that serves.
    world.containers[1].as_mut().expect("green").ports[0].port = Some(4000);
    let finished = deploy(&mut world).await;
    assert_eq!(finished.outcome, Outcome::Refused);
    assert!(
        failed_at(&finished)
            .1
            .contains("an upstream of the active slot blue"),
        "{finished:?}"
    );
    assert_eq!(world.image_of(Slot::Green), Some("i39"));
}

#[tokio::test(start_paused = true)]
async fn a_bad_release_is_undone_while_the_old_slot_still_drains() {
    let mut world = World::with(Nature::ErrorsLive);
    world.drains_for = Some(Duration::from_secs(600));
    let began = tokio::time::Instant::now();
    let finished = deploy(&mut world).await;
    assert_eq!(
        (finished.outcome, world.active),
        (Outcome::RolledBack, Slot::Blue)
    );
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "of virtual time: {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_waited_for_as_long_as_the_site_gives_it() {
    for (seconds, is_warned) in [(35, false), (600, true)] {
        let mut world = World::new();
        world.drains_for = Some(Duration::from_secs(seconds));
        let finished = deploy(&mut world).await;
        assert_eq!(finished.outcome, Outcome::Deployed, "{finished:?}");
        let is_late = finished
            .warnings
            .iter()
            .any(|warning| warning.contains("its time to drain is over"));
        assert_eq!(is_late, is_warned, "{finished:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_does_not_keep_a_bad_release_in_front_of_users() {
    let mut world = World::with(Nature::ErrorsLive);
    world.hangs_after_switch = true;
    let (_sender, cancel) = watch::channel(false);
    let (settings, mut ledger) = (settings(), world.ledger.clone());
    let mut course = Box::pin(
        Course::new(
            &mut world,
            &settings,
            &mut ledger,
            order(image("app:41")),
            cancel,
        )
        .run(),
    );
    // It cannot tell how it went while the engine hangs; users are served by the old release long before.
    assert!(
        tokio::time::timeout(Duration::from_secs(60), &mut course)
            .await
            .is_err()
    );
    drop(course);
    assert_eq!(world.active, Slot::Blue);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_undone_now_stays_pending_and_is_not_called_as_before() {
    let mut world = World::with(Nature::Unhealthy);
    world.is_gone_from_gate = true;
    let finished = deploy(&mut world).await;
    assert_eq!(finished.outcome, Outcome::Failed);
    assert!(
        !finished.is_undone && world.ledger.pending.is_some(),
        "{finished:?}"
    );
    assert_eq!(world.ledger.out_of_use, Some(Slot::Green));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_has_waited_does_not_undo_what_came_in_between() {
    let mut world = World::new();
    assert_eq!(deploy(&mut world).await.outcome, Outcome::Deployed);
    let (_sender, cancel) = watch::channel(false);
    let mut ledger = world.ledger.clone();
    let order = Order {
        if_generation: Some(7),
        ..order(What::Rollback)
    };
    let finished = Course::new(&mut world, &settings(), &mut ledger, order, cancel)
        .run()
        .await;
    assert_eq!(
        (finished.outcome, world.active),
        (Outcome::Refused, Slot::Green),
        "{finished:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_release_that_could_not_be_undone_is_what_a_rollback_leads_away_from() {
    let mut world = World::with(Nature::ErrorsLive);
    world.ledger.begin(entry("app:40", "i40", None));
    world
        .ledger
        .close(|entry| entry.outcome = Some(Outcome::Deployed));
    world.refuses_to_go_back = true;
    let finished = deploy(&mut world).await;
    assert_eq!(
        (finished.outcome, world.active),
        (Outcome::Failed, Slot::Green)
    );
    assert!(
        failed_at(&finished)
            .1
            .contains("could not be made active again"),
        "{finished:?}"
    );
    world.refuses_to_go_back = false;
    let back = carry_out(&mut world, &settings(), What::Rollback).await;
    assert_eq!(
        (back.outcome, world.active),
        (Outcome::Deployed, Slot::Blue),
        "{back:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_somebody_had_taken_out_of_use_is_so_after_a_failure() {
    let mut world = World::with(Nature::Unhealthy);
    world.is_drained[1] = true;
    let finished = deploy(&mut world).await;
    assert_eq!(finished.outcome, Outcome::Failed);
    assert!(
        world.is_drained[1] && !world.runs(Slot::Green),
        "{finished:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_somebody_else_has_named_is_theirs() {
    let mut world = World::new();
    for number in 41..46 {
        let name = format!("app:{number}");
        world
            .registry
            .insert(name.clone(), (format!("i{number}"), Nature::Good));
        carry_out(&mut world, &settings(), image(&name)).await;
        if number == 41 {
            // The tag was moved away, and what it stood for has another name by now.
            let kept = world.images.remove("app:41").expect("pulled");
            world.images.insert("keep:me".to_owned(), kept);
        }
    }
    assert!(world.images.contains_key("keep:me") && !world.images.contains_key("app:42"));
}
