//! The registry's token: where it may come from, and that it is nowhere afterwards.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt;

use crate::apart::apart;
use crate::engine::processes;
use crate::registry::{TOKEN, USER};
use crate::release::Release;
use crate::scene::Scene;

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_token_is_no_argument_of_anything_and_in_no_file_or_output() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        let mut deploying = scene.begin(&["--tag", "r2"]);
        deploying.until("pull", "began").await;
        // What runs is looked at while it logs in and pulls; `commands` has what was too short to be seen.
        let mut seen = String::new();
        let looking = async {
            loop {
                for process in processes() {
                    seen.push_str(&process.command);
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        let ended = tokio::select! {
            ended = deploying.ended() => ended,
            () = looking => unreachable!("it never ends"),
        };
        ended.assert_deployed();
        let commands = scene.commands();
        assert!(commands.contains("login"), "{commands}");
        assert!(commands.contains("logout"), "{commands}");
        let journal = scene.proxy.cli(&["history", "--json"]).await;
        for (what, text) in [
            ("an argument", seen),
            ("an argument", commands),
            ("the output", format!("{ended:?}")),
            ("the journal", format!("{journal:?}")),
            ("the history", format!("{:?}", scene.history().await)),
            ("the daemon's log", scene.proxy.stderr()),
        ] {
            assert!(
                !text.contains(TOKEN) && !text.contains(&encoded()),
                "{what}: {text}"
            );
        }
        assert_eq!(files_with_the_token(&scene), Vec::<PathBuf>::new());
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn the_token_comes_from_stdin_or_a_file_as_well() {
    apart(async || {
        let scene = Scene::start().await;
        scene.push(&Release::good("r2"));
        scene.push(&Release::good("r3"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{TOKEN}").unwrap();
        let path = file.path().to_str().unwrap();
        let by_file = [
            "--json",
            "deploy",
            "--tag",
            "r2",
            "--registry-token-file",
            path,
        ];
        let mut command = scene.command(&by_file);
        command.env_remove("MANA_PROXY_REGISTRY_TOKEN");
        scene.begin_with(command).ended().await.assert_deployed();

        let mut command =
            scene.command(&["--json", "deploy", "--tag", "r3", "--registry-token-stdin"]);
        command.env_remove("MANA_PROXY_REGISTRY_TOKEN");
        command.stdin(Stdio::piped());
        let mut deploying = scene.begin_with(command);
        let mut stdin = deploying.stdin();
        stdin
            .write_all(format!("{TOKEN}\n").as_bytes())
            .await
            .unwrap();
        drop(stdin);
        deploying.ended().await.assert_deployed();
        assert_eq!(files_with_the_token(&scene), Vec::<PathBuf>::new());
    });
}

/// Files of a deploy or of the daemon that have the token, or what docker makes of it.
pub fn files_with_the_token(scene: &Scene) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in ["ledger", "tmp", "home"] {
        search(&scene.path(name), &mut found);
    }
    search(scene.proxy.path(), &mut found);
    found
}

fn search(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.is_dir() {
            search(&path, found);
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            if text.contains(TOKEN) || text.contains(&encoded()) {
                found.push(path);
            }
        }
    }
}

/// What a `config.json` of docker has.
fn encoded() -> String {
    STANDARD.encode(format!("{USER}:{TOKEN}"))
}
