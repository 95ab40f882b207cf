//! What a deploy takes for granted of the engine and of compose. Where one of these does not hold, nothing else will.

use std::process::Output;

use crate::apart::{apart, directory};
use crate::engine::Engine;
use crate::files::compose_program;
use crate::registry::Registry;
use crate::release::Release;
use crate::scene::Scene;
use crate::support::{H1, HOST, eventually};

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn load_reaches_the_app_through_a_port_that_is_published_on_loopback_alone() {
    apart(async || {
        let scene = Scene::without_deploy().await;
        let load = scene.load();
        load.goes_on_for(200).await;
        let tally = load.stop().await;
        scene.assert_unnoticed(&tally);
        let blue = scene.container("blue").unwrap();
        let published = scene.engine.docker(&["port", &blue.id]);
        assert_eq!(published, "3000/tcp -> 127.0.0.1:4000");
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn compose_makes_a_container_of_an_image_given_by_its_id_and_does_not_start_it() {
    apart(async || {
        let scene = Scene::without_deploy().await;
        let blue = scene.container("blue").unwrap();
        let r2 = Release::good("r2").import(&scene.engine, "other.example/app");
        create_green(&scene, &r2);
        let green = scene.container("green").unwrap();
        assert_eq!((green.status.as_str(), &green.image), ("created", &r2));
        assert_eq!(
            scene.container("blue"),
            Some(blue),
            "the other one is left alone"
        );
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn compose_leaves_a_running_container_alone_that_is_what_the_file_says_and_replaces_another() {
    apart(async || {
        let scene = Scene::without_deploy().await;
        let [r2, r3] = ["r2", "r3"].map(|name| {
            let release = Release::good(name);
            release.import(&scene.engine, "other.example/app")
        });
        create_green(&scene, &r2);
        let green = scene.container("green").unwrap();
        scene.engine.docker(&["start", &green.id]);
        let running = scene.container("green").unwrap();
        create_green(&scene, &r2);
        assert_eq!(scene.container("green"), Some(running));
        create_green(&scene, &r3);
        let replaced = scene.container("green").unwrap();
        assert_eq!(
            (replaced.status.as_str(), &replaced.image),
            ("created", &r3)
        );
        assert_eq!(
            scene.engine.container(&green.id),
            None,
            "nor is the old one kept"
        );
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn after_a_reboot_what_ran_runs_again_and_what_was_stopped_does_not() {
    apart(async || {
        let mut scene = Scene::without_deploy().await;
        let r2 = Release::good("r2").import(&scene.engine, "other.example/app");
        create_green(&scene, &r2);
        let green = scene.container("green").unwrap().id;
        scene.engine.docker(&["start", &green]);
        scene.engine.docker(&["stop", &green]);
        scene.engine.reboot().await;
        eventually("blue runs again", async || {
            scene.container("blue").unwrap().is_running()
        })
        .await;
        assert_eq!(scene.container("green").unwrap().status, "exited");
        scene.proxy.wait_for_health("blue", true).await;
        let mut client = H1::plain("127.0.0.1:4000".parse().unwrap()).await;
        let response = client
            .request("GET", "/", &format!("host: {HOST}\r\n"), b"")
            .await;
        assert_eq!(response.text(), "r1");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn an_engine_that_was_killed_alone_stops_what_ran_and_does_not_start_it_again() {
    apart(async || {
        let mut scene = Scene::without_deploy().await;
        scene.engine.kill().await;
        scene.engine.start_again().await;
        // This is why `deploy reconcile` starts the active one.
        assert_eq!(scene.container("blue").unwrap().status, "exited");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn compose_pulls_an_image_that_is_missing_by_itself() {
    apart(async || {
        let scene = Scene::without_deploy().await;
        let blue = scene.container("blue");
        let missing = format!("sha256:{}", "0".repeat(64));
        let said = try_create_green(&scene, &missing);
        assert!(!said.status.success());
        // This is why an image is looked up before compose is asked for it.
        assert!(
            String::from_utf8_lossy(&said.stderr).contains("Pulling"),
            "{said:?}"
        );
        assert_eq!(scene.container("green"), None);
        assert_eq!(scene.container("blue"), blue);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn an_image_of_the_registry_is_had_with_the_token_alone() {
    apart(async || {
        let engine = Engine::start().await;
        let registry = Registry::start().await;
        let id = registry.push(&engine, &Release::good("r1"));
        assert_eq!(engine.image(&id), None, "the engine has none of it");
        let reference = format!("{}:r1", registry.repository());
        let refused = engine.try_docker(&["pull", &reference]);
        assert!(!refused.status.success(), "{refused:?}");
    });
}

fn create_green(scene: &Scene, image: &str) {
    let output = try_create_green(scene, image);
    assert!(output.status.success(), "{output:?}");
}

fn try_create_green(scene: &Scene, image: &str) -> Output {
    let mut compose = scene.engine.command(compose_program().to_str().unwrap());
    compose
        .args(["-p", "mana", "-f"])
        .arg(directory().join("compose.yml"))
        .args(["up", "--no-start", "--no-deps", "web_green"])
        .env("BLUE_IMAGE", &scene.container("blue").unwrap().image)
        .env("GREEN_IMAGE", image);
    compose.output().unwrap()
}
