//! A machine that starts again, and `deploy reconcile`, which a timer runs.

use crate::apart::apart;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene};
use crate::support::eventually;

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn after_a_reboot_what_was_live_is_live_and_nothing_else_runs() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::good("r2"));
        scene.push(&Release::good("r3"));
        scene.deployed("r2").await;
        let live = scene.container("green").unwrap();
        reboot(&mut scene).await;
        reconcile(&scene).await;
        scene.proxy.wait_for_health("green", true).await;
        assert_eq!(scene.active().await, "green");
        assert_eq!(scene.who_answers().await, "r2");
        assert!(!scene.container("blue").unwrap().is_running());
        assert_eq!(
            scene.container("green").unwrap().id,
            live.id,
            "it was not made anew"
        );
        // The next deploy takes the slot that is not live.
        let load = scene.load();
        scene.deployed("r3").await;
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        assert_eq!(scene.active().await, "blue");
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn after_a_reboot_a_slot_that_is_kept_warm_is_warm() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        reboot(&mut scene).await;
        reconcile(&scene).await;
        scene.proxy.wait_for_health("green", true).await;
        scene.proxy.wait_for_health("blue", true).await;
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn reconcile_starts_the_live_slot_that_an_engine_has_forgotten() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        let live = scene.container("green").unwrap();
        scene.engine.kill().await;
        scene.engine.start_again().await;
        assert!(!scene.container("green").unwrap().is_running());
        reconcile(&scene).await;
        scene.proxy.wait_for_health("green", true).await;
        assert_eq!(
            scene.container("green").unwrap().id,
            live.id,
            "it was not made anew"
        );
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_standby_that_somebody_has_started_is_stopped_after_a_reboot_and_not_before() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        let blue = scene.container("blue").unwrap().id;
        scene.engine.docker(&["start", &blue]);
        reconcile(&scene).await;
        assert!(scene.container("blue").unwrap().is_running());
        reboot(&mut scene).await;
        eventually("the engine has started both", async || {
            ["blue", "green"].map(|slot| scene.container(slot).unwrap().is_running()) == [true; 2]
        })
        .await;
        scene.proxy.wait_for_health("green", true).await;
        let live = scene.container("green");
        let load = scene.load();
        reconcile(&scene).await;
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        assert!(!scene.container("blue").unwrap().is_running());
        assert_eq!(scene.container("green"), live);
        scene.assert_nothing_is_left();
    });
}

/// Power off and on: the engine and the daemon start anew, as units do, in whatever order.
async fn reboot(scene: &mut Scene) {
    scene.engine.cut_power().await;
    scene.proxy.sigkill().await;
    scene.proxy.restart(&[]).await;
    scene.engine.start_again().await;
}

async fn reconcile(scene: &Scene) {
    let ended = scene.deploy(&["reconcile"]).await;
    assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
}
