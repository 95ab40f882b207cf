//! What goes wrong: everything is as before, nobody has noticed, and the operator is told why.

use crate::apart::apart;
use crate::deploying::Ended;
use crate::engine::SmallDisk;
use crate::promises::WARM_UP;
use crate::registry::TOKEN;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene};

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_that_crashes_at_start_fails_with_its_exit_code_and_last_words() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        let ended = scene.fails(&Release::crashing("r3", 3), "gate").await;
        ended.assert_says(&["exit code 3", "no such table as releases"]);
        // The container is gone, and another has its name: nobody is sent to look there.
        let hint = ended.result()["hint"].as_str().unwrap();
        assert!(!hint.contains("docker logs"), "{hint}");
        // It is no hindrance for the one that mends it.
        scene.push(&Release::good("r4"));
        scene.deployed("r4").await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn an_image_whose_program_is_missing_fails_and_the_path_is_named() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        let before = scene.standing().await;
        // The init of the container starts, and ends as a shell does that does not find a command.
        let ended = scene.fails(&Release::without_program("r3"), "gate").await;
        ended.assert_says(&["127", "not-in-the-image"]);
        scene.change_compose_file("init: true", "init: false");
        let ended = scene.fails(&Release::without_program("r4"), "start").await;
        ended.assert_says(&["not-in-the-image"]);
        scene.assert_as(&before).await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_first_release_that_fails_leaves_no_container_that_runs() {
    apart(async || {
        let scene = Scene::start().await;
        scene.fails(&Release::crashing("r2", 3), "gate").await;
        assert!(
            scene
                .container("green")
                .is_none_or(|green| !green.is_running())
        );
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_that_answers_probes_with_500_or_404_is_not_healthy() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.set("start_timeout", r#""3s""#);
        for (name, status) in [("r3", 500), ("r4", 404)] {
            let ended = scene.fails(&Release::unhealthy(name, status), "gate").await;
            ended.assert_says(&[&status.to_string()]);
        }
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_that_starts_slowly_is_waited_for() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::slow("r2"));
        let mut deploying = scene.begin(&["--tag", "r2"]);
        deploying.until("gate", "began").await;
        scene.let_listen("r2");
        deploying.ended().await.assert_deployed();
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_that_starts_more_slowly_than_allowed_fails() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.set("start_timeout", r#""2s""#);
        let ended = scene.fails(&Release::slow("r3"), "gate").await;
        ended.assert_says(&["within 2 s of its start", "filling caches"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_whose_pages_fail_does_not_get_through_the_warm_up() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.set("warm_up", WARM_UP);
        let ended = scene.fails(&Release::paging("r3", 500), "warm_up").await;
        ended.assert_says(&["500"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_that_breaks_after_the_switch_is_taken_back_within_the_watch_window() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        // Longer than the load takes to find the fault.
        scene.set(
            "watch",
            r#"{ time = "60s", errors_percent = 5, requests_min = 20 }"#,
        );
        let before = scene.container("green").unwrap();
        for release in [
            Release::failing_after("r3", 100),
            Release::dying_after("r4", 100),
        ] {
            scene.push(&release);
            let load = scene.load();
            load.goes_on_for(REQUESTS).await;
            let ended = scene.deploy(&["--tag", release.tag()]).await;
            let result = ended.assert(1, "rolled_back");
            assert_eq!(result["step"], "watch", "{result}");
            assert!(result["error"].is_string(), "{result}");
            assert_eq!(scene.active().await, "green");
            assert_eq!(
                scene.container("green"),
                Some(before.clone()),
                "it was never stopped"
            );
            assert!(!runs(&scene, "blue", release.tag()));
            load.stop().await;
            scene.assert_nothing_is_left();
            let load = scene.load();
            load.goes_on_for(REQUESTS).await;
            scene.assert_unnoticed(&load.stop().await);
        }
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn without_the_right_token_or_tag_nothing_is_pulled() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.push(&Release::good("r3"));
        let mut command = scene.command(&["--json", "deploy", "--tag", "r3"]);
        command.env("MANA_PROXY_REGISTRY_TOKEN", "not-the-t0ken");
        let ended = scene.fails_with(command, "pull").await;
        assert!(
            !format!("{ended:?}").contains("not-the-t0ken"),
            "{ended:#?}"
        );
        let command = scene.command(&["--json", "deploy", "--tag", "nobody-pushed-it"]);
        let ended = scene.fails_with(command, "pull").await;
        ended.assert_says(&["nobody-pushed-it"]);
        assert!(!format!("{ended:?}").contains(TOKEN), "{ended:#?}");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_container_that_publishes_to_the_world_is_never_started() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.change_compose_file("127.0.0.1:4000:3000", "4000:3000");
        let ended = scene.fails(&Release::good("r3"), "start").await;
        ended.assert_says(&["0.0.0.0", "127.0.0.1"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_container_that_always_restarts_is_never_started() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        scene.change_compose_file("restart: unless-stopped", "restart: always");
        let ended = scene.fails(&Release::good("r3"), "start").await;
        ended.assert_says(&["always", "unless-stopped"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn what_is_short_before_anything_is_begun_is_a_refusal() {
    apart(async || {
        let mut scene = Scene::start().await;
        for (key, enough) in [("disk_free_min", "64MiB"), ("memory_free_min", "64MiB")] {
            scene.set(key, r#""900000GiB""#);
            refused(&scene).await.assert_says(&[key]);
            scene.set(key, &format!("{enough:?}"));
        }
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_compose_file_with_a_fault_is_a_refusal() {
    apart(async || {
        let scene = Scene::start().await;
        scene.change_compose_file("web_green:", "web_greem:");
        refused(&scene).await.assert_says(&["web_green"]);
        scene.change_compose_file("services:", "services: [");
        refused(&scene).await.assert_says(&["compose.yml"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_stopped_engine_is_a_refusal_and_a_deploy_works_once_it_runs_again() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        scene.engine.stop().await;
        let ended = scene.deploy(&["--tag", "r2"]).await;
        assert_eq!(
            ended.assert(2, "refused")["step"],
            "preflight",
            "{ended:#?}"
        );
        ended.assert_says(&["docker.sock"]);
        scene.engine.start_again().await;
        scene.proxy.wait_for_health("blue", true).await;
        scene.deployed("r2").await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn an_engine_that_ends_in_the_middle_fails_the_deploy_and_what_is_live_comes_back() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.push(&Release::slow("r3"));
        let mut deploying = scene.begin(&["--tag", "r3"]);
        deploying.until("gate", "began").await;
        scene.engine.kill().await;
        let ended = deploying.ended().await;
        ended.assert(1, "failed");
        scene.engine.start_again().await;
        let ended = scene.deploy(&["reconcile"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        scene.proxy.wait_for_health("green", true).await;
        assert_eq!(scene.who_answers().await, "r2");
        assert!(!runs(&scene, "blue", "r3"));
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_disk_that_is_full_in_the_middle_of_a_pull_fails_the_deploy() {
    apart(async || {
        let disk = SmallDisk::mount(DISK_MIB);
        let mut scene = Scene::after_a_deploy().await;
        scene.set("disk_free_min", r#""1MiB""#);
        scene.push(&Release::good("r3").heavy(4 * LEFT_MIB));
        disk.fill_up_to(LEFT_MIB);
        let command = scene.command(&["--json", "deploy", "--tag", "r3"]);
        let ended = scene.fails_with(command, "pull").await;
        ended.assert_says(&["no space left on device"]);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn without_the_daemon_nothing_is_begun() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        scene.proxy.sigkill().await;
        let ended = scene.deploy(&["--tag", "r2"]).await;
        assert_eq!(ended.status.code(), Some(69), "{ended:#?}");
        assert_eq!(scene.container("green"), None);
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_daemon_that_dies_in_the_middle_fails_the_deploy_and_the_next_one_works() {
    apart(async || {
        let mut scene = Scene::after_a_deploy().await;
        scene.push(&Release::slow("r3"));
        let mut deploying = scene.begin(&["--tag", "r3"]);
        deploying.until("gate", "began").await;
        scene.proxy.sigkill().await;
        deploying.ended().await.assert(1, "failed");
        scene.proxy.restart(&[]).await;
        scene.proxy.wait_for_health("green", true).await;
        assert_eq!(scene.who_answers().await, "r2");
        // Without the daemon nobody knew which slot is live, and so nothing was stopped.
        scene.deploy(&["reconcile"]).await;
        assert!(!runs(&scene, "blue", "r3"));
        scene.push(&Release::good("r4"));
        scene.deployed("r4").await;
        scene.assert_nothing_is_left();
    });
}

/// Room for a few images of some megabytes each.
const DISK_MIB: u64 = 160;
/// And for no more.
const LEFT_MIB: u64 = 8;

/// Whether a slot runs a release of that name.
fn runs(scene: &Scene, slot: &str, name: &str) -> bool {
    let id = scene
        .engine
        .image(&format!("{}:{name}", scene.registry.repository()));
    let container = scene.container(slot);
    container.is_some_and(|container| container.is_running() && Some(container.image) == id)
}

/// Tries a deploy that the preflight has to refuse, with nothing changed and nothing started.
async fn refused(scene: &Scene) -> Ended {
    let before = scene.standing().await;
    let ended = scene.deploy(&["--tag", "r2"]).await;
    let result = ended.assert(2, "refused");
    assert_eq!(result["step"], "preflight", "{result}");
    scene.assert_as(&before).await;
    assert!(!scene.commands().contains(" pull "), "{}", scene.commands());
    ended
}
