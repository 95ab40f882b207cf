//! Two deploys at once.

use crate::apart::apart;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene};

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_second_deploy_is_told_who_is_at_it_and_changes_nothing() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::slow("r2"));
        scene.push(&Release::good("r3"));
        let mut first = scene.begin(&["--tag", "r2"]);
        first.until("gate", "began").await;
        let green = scene.container("green");
        for arguments in [&["--tag", "r3"][..], &["--rollback"]] {
            let second = scene.deploy(arguments).await;
            second.assert(2, "refused");
            second.assert_says(&["being carried out", &first.pid().to_string(), "root"]);
        }
        // Nor does the timer interfere.
        let reconcile = scene.deploy(&["reconcile"]).await;
        assert_eq!(reconcile.status.code(), Some(0), "{reconcile:#?}");
        assert_eq!(scene.container("green"), green);
        first.signal("INT");
        first.ended().await;
        scene.deployed("r3").await;
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn one_that_waits_goes_on_when_the_first_is_done() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::slow("r2"));
        scene.push(&Release::good("r3"));
        let load = scene.load();
        let mut first = scene.begin(&["--tag", "r2"]);
        first.until("gate", "began").await;
        let mut second = scene.begin(&["--tag", "r3", "--wait"]);
        second.until("lock", "began").await;
        scene.let_listen("r2");
        first.ended().await.assert_deployed();
        second.ended().await.assert_deployed();
        assert_eq!(scene.who_answers().await, "r3");
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn one_that_waits_gives_up_in_time() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("lock_wait", r#""1s""#);
        scene.push(&Release::slow("r2"));
        let mut first = scene.begin(&["--tag", "r2"]);
        first.until("gate", "began").await;
        let second = scene.deploy(&["--tag", "r2", "--wait"]).await;
        second.assert(2, "refused");
        second.assert_says(&["lock_wait", &first.pid().to_string()]);
        first.signal("INT");
        first.ended().await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn what_a_killed_deploy_has_started_keeps_the_lock_until_it_is_done() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        scene.hold_compose_up();
        let mut first = scene.begin(&["--tag", "r2"]);
        first.until("start", "began").await;
        scene.wait_for_held_compose().await;
        first.killed().await;
        let second = scene.deploy(&["--tag", "r2"]).await;
        second.assert(2, "refused");
        second.assert_says(&["being carried out"]);
        scene.release_compose();
        let third = scene.deploy(&["--tag", "r2", "--wait"]).await;
        third.assert_deployed();
        scene.assert_nothing_is_left();
    });
}
