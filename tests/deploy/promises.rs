//! What a deploy does, and what nobody notices of it.

use serde_json::Value;

use crate::apart::apart;
use crate::release::Release;
use crate::scene::{REQUESTS, Scene, other};
use crate::support::eventually;

/// Deploys one after the other.
const TIMES: usize = 10;
/// What `keep_images` is here.
const KEPT: usize = 3;

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn ten_deploys_under_load_are_noticed_by_nobody() {
    apart(async || {
        let scene = Scene::start().await;
        let releases = ["a", "b"].map(Release::good);
        let ids = releases.each_ref().map(|release| scene.push(release));
        let load = scene.load();
        for time in 0..TIMES {
            load.goes_on_for(REQUESTS).await;
            let before = scene.active().await;
            let which = time % releases.len();
            let result = scene.deployed(releases[which].tag()).await;
            assert_eq!(result["from"], *before, "{result}");
            assert_eq!(result["to"], other(&before), "{result}");
            assert_eq!(scene.active().await, other(&before));
            let live = scene.container(other(&before)).unwrap();
            assert!(live.is_running());
            assert_eq!(live.image, ids[which]);
            assert_eq!(scene.who_answers().await, releases[which].tag());
            println!(
                "deploy {}: published after {} ms, took {} ms",
                time + 1,
                result["published_ms"],
                result["took_ms"]
            );
        }
        load.goes_on_for(REQUESTS).await;
        let tally = load.stop().await;
        println!(
            "{} requests answered, {} failed, {} POSTs; the slowest took {:?}",
            tally.answered,
            tally.faults.len(),
            tally.posts.len(),
            tally.slowest
        );
        scene.assert_unnoticed(&tally);
        scene.assert_nothing_is_left();
        assert_eq!(scene.history().await.len(), TIMES);
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn each_step_is_told_in_its_order_and_left_in_the_journal() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("warm_up", WARM_UP);
        scene.push(&Release::good("r2"));
        let ended = scene.deploy(&["--tag", "r2"]).await;
        ended.assert_deployed();
        let steps = [
            "lock",
            "preflight",
            "pull",
            "start",
            "gate",
            "warm_up",
            "switch",
            "drain",
            "watch",
            "keep_warm",
        ];
        assert_eq!(ended.steps(), steps);
        let journal = scene
            .proxy
            .cli(&["history", "--json", "--last", "100"])
            .await;
        let journal = String::from_utf8(journal.stdout).unwrap();
        for step in ["pull", "start", "gate", "warm_up", "watch", "keep_warm"] {
            assert!(journal.contains(step), "no {step} in {journal}");
        }
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_history_says_who_deployed_what_from_where_and_what_came_of_it() {
    apart(async || {
        let scene = Scene::start().await;
        let id = scene.push(&Release::good("r2"));
        scene.push(&Release::crashing("broken", 3));
        let deploy = scene.deploy(&[
            "--tag",
            "r2",
            "--commit",
            "0123abcd",
            "--branch",
            "main",
            "--author",
            "anna",
            "--repository",
            "mana/client",
            "--note",
            "for bert",
        ]);
        deploy.await.assert_deployed();
        scene
            .deploy(&["--tag", "broken"])
            .await
            .assert_failed_at("gate");
        let history = scene.history().await;
        let find = |outcome: &str| {
            let found: Vec<&Value> = history
                .iter()
                .filter(|deploy| deploy["outcome"] == outcome)
                .collect();
            assert_eq!(found.len(), 1, "{outcome}: {history:#?}");
            found[0]
        };
        let (good, bad) = (find("deployed"), find("failed"));
        for (key, value) in [
            ("from", "blue"),
            ("to", "green"),
            ("commit", "0123abcd"),
            ("note", "for bert"),
            ("image_id", &id),
        ] {
            assert_eq!(good[key], value, "{good}");
        }
        assert!(good["image"].as_str().unwrap().ends_with(":r2"), "{good}");
        assert!(good["who"].to_string().contains("root"), "{good}");
        assert!(good["gate"].is_string(), "{good}");
        assert_eq!(bad["step"], "gate", "{bad}");
        assert!(bad["error"].as_str().unwrap().contains('3'), "{bad}");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_first_deploy_of_a_machine_needs_nothing_that_runs() {
    apart(async || {
        let scene = Scene::start().await;
        let blue = scene.container("blue").unwrap().id;
        scene.engine.docker(&["rm", "--force", &blue]);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        assert_eq!(scene.active().await, "green");
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_dry_run_tells_the_plan_and_changes_nothing() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        let before = scene.standing().await;
        let ended = scene.deploy(&["--tag", "r2", "--dry-run"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        let told = format!("{:?}{}", ended.events, ended.stderr);
        for word in ["r2", "green", "web_green"] {
            assert!(told.contains(word), "no {word} in {told}");
        }
        scene.assert_as(&before).await;
        assert_eq!(scene.container("green"), None);
        assert!(scene.history().await.is_empty());
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_rollback_is_one_flip_while_the_old_slot_is_warm() {
    apart(async || {
        let scene = Scene::after_a_deploy().await;
        let blue = scene.container("blue").unwrap();
        let load = scene.load();
        load.goes_on_for(REQUESTS).await;
        let ended = scene.deploy(&["--rollback"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        println!(
            "a warm rollback was published after {} ms",
            ended.result()["published_ms"]
        );
        assert_eq!(scene.active().await, "blue");
        assert_eq!(scene.who_answers().await, "r1");
        assert_eq!(
            scene.container("blue"),
            Some(blue),
            "it was not even started again"
        );
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_rollback_starts_the_image_before_where_the_old_slot_is_cold() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        let blue = scene.container("blue").unwrap();
        assert!(!blue.is_running());
        // Nothing is pulled: the image is still there.
        let ended = {
            let load = scene.load();
            load.goes_on_for(REQUESTS).await;
            let mut command = scene.command(&["--json", "deploy", "--rollback"]);
            command.env("MANA_PROXY_REGISTRY_TOKEN", "no longer good");
            let ended = scene.begin_with(command).ended().await;
            load.goes_on_for(REQUESTS).await;
            scene.assert_unnoticed(&load.stop().await);
            ended
        };
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        println!("a cold rollback took {} ms", ended.result()["took_ms"]);
        assert_eq!(scene.active().await, "blue");
        assert_eq!(scene.who_answers().await, "r1");
        assert_eq!(scene.container("blue").unwrap().image, blue.image);
        assert!(!scene.container("green").unwrap().is_running());
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_rollback_after_a_failed_deploy_goes_to_what_was_live_before_and_not_to_what_failed() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        scene.push(&Release::crashing("r3", 3));
        let ended = scene.deploy(&["--tag", "r3"]).await;
        ended.assert_failed_at("gate");
        let ended = scene.deploy(&["--rollback"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        assert_eq!(scene.who_answers().await, "r1");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_release_is_deployed_by_its_digest_as_well() {
    apart(async || {
        let scene = Scene::start().await;
        let release = Release::good("r2");
        let (id, digest) = scene.registry.push_for_digest(&scene.engine, &release);
        let ended = scene.deploy(&["--digest", &digest]).await;
        ended.assert_deployed();
        assert_eq!(scene.container("green").unwrap().image, id);
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_tag_that_moves_is_pulled_anew_and_the_image_before_can_be_gone_back_to() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""0s""#);
        for (name, slot) in [("r2", "green"), ("r3", "blue")] {
            let id = scene.push(&Release::good(name).tagged("latest"));
            scene.deployed("latest").await;
            assert_eq!(scene.container(slot).unwrap().image, id);
            assert_eq!(scene.who_answers().await, name);
        }
        let ended = scene.deploy(&["--rollback"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        assert_eq!(scene.who_answers().await, "r2");
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_last_images_are_kept_and_only_older_ones_of_this_project_go() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_images", &KEPT.to_string());
        // Of another project; and one that has lost its name to a newer one.
        let (named, unnamed) = (Release::good("x"), Release::good("x"));
        let [unnamed, named] =
            [unnamed, named].map(|release| release.import(&scene.engine, "other.example/app"));
        let names = ["r2", "r3", "r4", "r5", "r6", "r7"];
        let mut ids = Vec::new();
        for name in names {
            ids.push(scene.push(&Release::good(name)));
            scene.deployed(name).await;
        }
        let (gone, kept) = ids.split_at(names.len() - KEPT);
        for id in kept {
            assert!(scene.engine.image(id).is_some(), "{id} is gone: {ids:?}");
        }
        for id in gone {
            assert_eq!(scene.engine.image(id), None, "of {ids:?}");
        }
        for id in [&named, &unnamed] {
            assert!(
                scene.engine.image(id).is_some(),
                "that of another project is gone"
            );
        }
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_old_slot_goes_on_as_backup_until_its_time_is_over() {
    apart(async || {
        let mut scene = Scene::start().await;
        scene.set("keep_warm", r#""3s""#);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        let load = scene.load();
        eventually("reconcile stops it in time", async || {
            let ended = scene.deploy(&["reconcile"]).await;
            assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
            !scene.container("blue").unwrap().is_running()
        })
        .await;
        load.goes_on_for(REQUESTS).await;
        scene.assert_unnoticed(&load.stop().await);
        assert_eq!(scene.who_answers().await, "r2");
        assert!(scene.container("green").unwrap().is_running());
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn compose_is_the_plugin_where_there_is_one_and_else_the_older_program() {
    apart(async || {
        let scene = Scene::start().await;
        let is_older = |line: &str| line.starts_with("docker-compose ");
        scene.has_the_plugin(false);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        assert!(scene.commands().lines().any(is_older));
        scene.has_the_plugin(true);
        let before = scene.commands().len();
        scene.push(&Release::good("r3"));
        scene.deployed("r3").await;
        let commands = scene.commands().split_off(before);
        assert!(!commands.lines().any(is_older), "{commands}");
        assert!(commands.contains("docker compose "), "{commands}");
        assert_eq!(scene.who_answers().await, "r3");
    });
}

/// A page, now and then, until its time is steady.
pub const WARM_UP: &str = r#"{ paths = ["/"], requests = 50, timeout = "10s" }"#;
