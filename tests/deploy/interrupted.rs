//! A deploy that is cut off at each of its steps: by a kill, by Ctrl-C, by a connection that is lost.

use crate::apart::apart;
use crate::promises::WARM_UP;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene};
use crate::support::eventually;

/// Every step, in its order.
const STEPS: [&str; 10] = [
    "lock",
    "preflight",
    "pull",
    "start",
    "gate",
    "warm_up",
    "switch",
    "watch",
    "keep_warm",
    "prune",
];
/// The first of them that is not undone by who is told to stop.
const SWITCH: &str = "switch";

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn killed_at_any_step_it_leaves_nothing_that_the_next_one_minds() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.set("warm_up", WARM_UP);
        // So that there is always something to prune.
        scene.set("keep_images", "2");
        let load = scene.load();
        for step in STEPS {
            let (cut, next) = (format!("cut-at-{step}"), format!("next-to-{step}"));
            scene.push(&Release::good(&cut));
            scene.push(&Release::good(&next));
            load.goes_on_for(REQUESTS).await;
            let mut deploying = scene.begin(&["--tag", &cut]);
            deploying.until(step, "began").await;
            deploying.killed().await;
            println!("killed at {step}");
            let status = scene.deploy(&["status"]).await;
            assert_eq!(status.status.code(), Some(0), "{step}: {status:#?}");
            // What it had started may still have the lock.
            let deployed = scene.deploy(&["--tag", &next, "--wait"]).await;
            deployed.assert_deployed();
            assert_eq!(scene.who_answers().await, next);
            assert_leaves_no_secret(&scene);
            scene.assert_nothing_is_left();
        }
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        let history = scene.history().await;
        let is_open = |deploy: &&serde_json::Value| !deploy["outcome"].is_string();
        assert_eq!(history.iter().filter(is_open).count(), 0, "{history:#?}");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn after_a_kill_reconcile_leaves_the_live_slot_and_nothing_of_the_attempt() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::slow("r2"));
        let load = scene.load();
        let mut deploying = scene.begin(&["--tag", "r2"]);
        deploying.until("gate", "began").await;
        deploying.killed().await;
        assert!(scene.container("green").unwrap().is_running());
        let live = scene.container("blue");
        eventually("reconcile stops what is left", async || {
            let ended = scene.deploy(&["reconcile"]).await;
            assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
            !scene.container("green").unwrap().is_running()
        })
        .await;
        assert_eq!(scene.container("blue"), live);
        let history = scene.history().await;
        assert_eq!(history[0]["outcome"], "cut_off", "{history:#?}");
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn after_a_kill_a_release_that_has_passed_no_gate_is_not_kept_as_the_backup() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.push(&Release::slow("r3"));
        let mut deploying = scene.begin(&["--tag", "r3"]);
        deploying.until("gate", "began").await;
        deploying.killed().await;
        eventually("reconcile stops what is left", async || {
            let ended = scene.deploy(&["reconcile"]).await;
            assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
            !scene.container("blue").unwrap().is_running()
        })
        .await;
        // Nor does a later one start it again.
        scene.deploy(&["reconcile"]).await;
        assert!(!scene.container("blue").unwrap().is_running());
        assert_eq!(scene.proxy.site().await["slots"]["blue"]["drained"], false);
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn ctrl_c_at_any_step_before_the_switch_leaves_everything_as_before() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.set("warm_up", WARM_UP);
        scene.push(&Release::good("r3"));
        let load = scene.load();
        let before = scene.standing().await;
        for step in STEPS.iter().take_while(|step| **step != SWITCH) {
            load.goes_on_for(REQUESTS).await;
            let mut deploying = scene.begin(&["--tag", "r3"]);
            deploying.until(step, "began").await;
            deploying.signal_group("INT");
            let ended = deploying.ended().await;
            let result = ended.result();
            println!("Ctrl-C at {step}: {result}");
            assert_eq!(result["ok"], false, "{step}: {ended:#?}");
            assert!([1, 2].contains(&ended.status.code().unwrap()), "{ended:#?}");
            scene.assert_as(&before).await;
        }
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn ctrl_c_after_the_switch_leaves_the_new_release_live() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        // Longer than the test.
        scene.set(
            "watch",
            r#"{ time = "1h", errors_percent = 5, requests_min = 20 }"#,
        );
        scene.push(&Release::good("r3"));
        let load = scene.load();
        let mut deploying = scene.begin(&["--tag", "r3"]);
        deploying.until("watch", "began").await;
        deploying.signal_group("INT");
        let ended = deploying.ended().await;
        assert_eq!(ended.result()["outcome"], "cut_off", "{ended:#?}");
        assert_eq!(scene.active().await, "blue");
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        assert_eq!(scene.who_answers().await, "r3");
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_lost_connection_and_a_term_are_as_ctrl_c() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.push(&Release::slow("r3"));
        let before = scene.standing().await;
        let load = scene.load();
        for signal in ["HUP", "TERM"] {
            let mut deploying = scene.begin(&["--tag", "r3"]);
            deploying.until("gate", "began").await;
            deploying.signal(signal);
            let ended = deploying.ended().await;
            assert_eq!(ended.status.code(), Some(1), "{signal}: {ended:#?}");
            scene.assert_as(&before).await;
        }
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn nobody_who_listens_is_no_reason_to_stop_half_way() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        let deploying = scene.begin(&["--tag", "r2"]);
        // As `| head -1` does.
        let status = deploying.deaf().await;
        assert_eq!(status.code(), Some(0));
        assert_eq!(scene.who_answers().await, "r2");
        scene.assert_nothing_is_left();
    });
}

/// No file has the token, or what docker makes of it.
fn assert_leaves_no_secret(scene: &Scene) {
    let left = crate::secrets::files_with_the_token(scene);
    assert!(left.is_empty(), "the token is in {left:?}");
}
