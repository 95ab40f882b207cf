//! The faults of the script that a deploy replaces, one by one, where a deploy is concerned.
//!
//! Shown elsewhere: the lock (`lock`), the token (`secrets`), ports that everybody reaches and a slot that always
//! restarts (`failures`), what runs after a reboot (`reboot`). New connections for each request, streaming, headers and the
//! files of an old build are the proxy's, and are shown in `e2e`.

use crate::apart::apart;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene};

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn an_error_page_is_no_health() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("start_timeout", r#""2s""#);
        scene.fails(&Release::unhealthy("r2", 500), "gate").await;
        scene.fails(&Release::unhealthy("r3", 404), "gate").await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn which_slot_is_live_is_not_guessed_from_what_runs() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        // Both run, as after a reboot of old; `docker ps` would say blue.
        let live = scene.container("green").unwrap();
        assert!(scene.container("blue").unwrap().is_running());
        scene.push(&Release::good("r3"));
        let load = scene.load();
        let result = scene.deployed("r3").await;
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        assert_eq!(result["to"], "blue", "{result}");
        assert_eq!(
            scene.container("green"),
            Some(live),
            "the live one was left alone"
        );
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_switch_that_is_refused_stops_the_deploy_and_not_the_live_slot() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::slow("r2"));
        let live = scene.container("blue");
        let mut deploying = scene.begin(&["--tag", "r2"]);
        deploying.until("gate", "began").await;
        // Another hand: the generation is no longer the one that the deploy has planned with.
        scene.proxy.done("switch green --force").await;
        scene.proxy.done("switch blue --force").await;
        scene.let_listen("r2");
        let ended = deploying.ended().await;
        ended.assert_failed_at("switch");
        assert_eq!(scene.container("blue"), live);
        assert!(!scene.container("green").unwrap().is_running());
        assert_eq!(scene.who_answers().await, "r1");
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn requests_under_way_are_answered_before_the_old_slot_is_stopped() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::slow("r2"));
        let mut deploying = scene.begin(&["--tag", "r2"]);
        deploying.until("gate", "began").await;
        let slow = scene.slow_request(1500).await;
        scene.let_listen("r2");
        let ended = deploying.ended().await;
        ended.assert_deployed();
        assert_eq!(slow.await.unwrap(), "r1");
        assert!(!scene.container("blue").unwrap().is_running());
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_image_before_is_there_after_five_deploys_and_so_are_those_of_others() {
    apart(async || {
        let scene = Scene::start().await;
        let stranger = Release::good("x").import(&scene.engine, "other.example/app");
        let mut ids = Vec::new();
        for name in ["r2", "r3", "r4", "r5", "r6"] {
            ids.push(scene.push(&Release::good(name)));
            scene.deployed(name).await;
        }
        for id in ids.iter().chain([&stranger]) {
            assert!(scene.engine.image(id).is_some(), "{id} is gone");
        }
        let ended = scene.deploy(&["--rollback"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        assert_eq!(scene.who_answers().await, "r5");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_other_slot_is_a_real_backup_after_a_deploy() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.proxy.wait_for_health("blue", true).await;
        let load = scene.load();
        load.goes_on_for(REQUESTS).await;
        let green = scene.container("green").unwrap().id;
        scene.engine.docker(&["stop", "--time=0", &green]);
        load.goes_on_for(REQUESTS).await;
        load.stop().await;
        assert_eq!(scene.who_answers().await, "r1", "the backup answers");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_failed_release_does_not_go_on_running() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("start_timeout", r#""2s""#);
        scene.fails(&Release::unhealthy("r2", 500), "gate").await;
        let green = scene.container("green");
        assert!(green.is_none_or(|green| !green.is_running()));
    });
}
