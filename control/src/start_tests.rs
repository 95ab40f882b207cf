//! What a start refuses, and what it finds out about the last end.

use std::process::{Command, Stdio};

use super::*;
use crate::slot::Slot;
use crate::testing::{Daemon, settings};

fn sites() -> [SiteSettings; 1] {
    [settings("mana.so", "127.0.0.1:1", "127.0.0.1:2")]
}

#[test]
fn a_first_start_stores_the_initial_slot_at_once() {
    let dir = tempfile::tempdir().expect("dir");
    let opened = open(dir.path(), &sites()).expect("opened");
    assert_eq!(opened.published().load().generation, 1);
    let state = opened.dir.load().expect("load").expect("stored");
    assert_eq!(
        (state.generation, state.sites["mana.so"].active),
        (1, Slot::Blue)
    );
}

#[test]
fn the_state_wins_over_the_configuration_for_the_slot_only() {
    let dir = tempfile::tempdir().expect("dir");
    drop(open(dir.path(), &sites()).expect("opened"));
    let mut changed = settings("mana.so", "127.0.0.1:7", "127.0.0.1:8");
    changed.initial = Slot::Green;
    let opened = open(dir.path(), &[changed]).expect("opened");
    let table = opened.published().load_full();
    assert_eq!(table.sites()[0].active, Slot::Blue);
    assert_eq!(
        table.sites()[0].slot(Slot::Blue).upstreams[0].address,
        "127.0.0.1:7"
    );
}

#[test]
fn there_is_no_table_without_a_site_or_a_sound_state() {
    let dir = tempfile::tempdir().expect("dir");
    assert!(matches!(open(dir.path(), &[]), Err(StartError::NoSites)));
    std::fs::write(dir.path().join("state.json"), "{\"schema\":1,").expect("write");
    assert!(matches!(
        open(dir.path(), &sites()),
        Err(StartError::State(StateError::Damaged { .. }))
    ));
    assert_eq!(
        std::fs::read(dir.path().join("state.json")).expect("read"),
        b"{\"schema\":1,"
    );
}

#[tokio::test]
async fn a_second_daemon_does_not_get_the_state_directory() {
    let daemon = Daemon::start(&sites()).await;
    let error = open(daemon.dir.path(), &sites()).expect_err("locked");
    assert!(matches!(
        error,
        StartError::State(StateError::Locked { .. })
    ));
    let dir = daemon.stop().await;
    assert!(open(dir.path(), &sites()).is_ok());
}

#[tokio::test]
async fn a_change_without_an_outcome_is_noted_at_the_next_start() {
    let daemon = Daemon::start(&sites()).await;
    assert!(daemon.ask("switch green --force").await.ok());
    let dir = daemon.stop().await;
    let mut state = StateDir::open(dir.path())
        .expect("open")
        .load()
        .expect("load")
        .expect("state");
    state.generation = 3;
    StateDir::open(dir.path())
        .expect("open")
        .store(&state)
        .expect("store");
    drop(open(dir.path(), &sites()).expect("opened"));
    let opened = open(dir.path(), &sites()).expect("opened");
    let history = read_last(opened.dir.path(), 10).expect("history");
    let outcomes: Vec<_> = history
        .entries
        .iter()
        .map(|entry| entry["outcome"].as_str())
        .collect();
    assert_eq!(outcomes, [Some("drained"), Some("unrecorded")]);
    assert_eq!(history.entries[1]["generation"], 3);
}

/// The whole name of the test below, which the parent starts in a process of its own.
const CHILD: &str = "start::tests::the_process_that_is_killed";

#[tokio::test]
#[ignore = "needs to be started by kill_at_any_instant_leaves_the_old_or_the_new_generation"]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os("MANA_TEST_STATE_DIR") else {
        return;
    };
    let opened = open(Path::new(&dir), &sites()).expect("opened");
    let options = ServeOptions {
        socket: SocketOptions {
            path: Path::new(&dir).join("socket"),
            gid: None,
            allowed: crate::caller::Allowed::default(),
        },
        reloader: Arc::new(crate::hooks::NoHooks),
        status_extra: Arc::new(crate::hooks::NoHooks),
        certificates: Arc::new(crate::hooks::NoHooks),
        upgrader: Arc::new(crate::hooks::NoHooks),
        predecessor: Arc::new(crate::hooks::NoHooks),
    };
    let running = opened.serve(options).await.expect("served");
    let request = crate::wire::Request::parse(b"switch green --force").expect("request");
    running
        .handle
        .call(request, crate::caller::Caller::default(), None)
        .await;
    unreachable!("the failpoint is passed before the reply");
}

#[tokio::test]
async fn kill_at_any_instant_leaves_the_old_or_the_new_generation() {
    for (failpoint, expected) in [
        ("before-persist", (Slot::Blue, 1)),
        ("after-temp", (Slot::Blue, 1)),
        ("after-rename", (Slot::Green, 2)),
        ("after-persist", (Slot::Green, 2)),
        ("after-publish", (Slot::Green, 2)),
        ("draining", (Slot::Green, 2)),
        ("before-reply", (Slot::Green, 2)),
    ] {
        let dir = tempfile::tempdir().expect("dir");
        drop(open(dir.path(), &sites()).expect("first start"));
        let ended = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", CHILD, "--ignored"])
            .env("MANA_TEST_STATE_DIR", dir.path())
            .env("MANA_PROXY_FAILPOINT", failpoint)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("child");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(
            ended.signal(),
            Some(6),
            "{failpoint}: aborted, not finished"
        );
        // The next start finds a whole state, takes the place of the stale socket and can go on.
        let daemon = Daemon::start_in(dir, &sites(), Arc::new(crate::hooks::NoHooks)).await;
        let table = daemon.running.published.load_full();
        assert_eq!(
            (table.sites()[0].active, table.generation),
            expected,
            "{failpoint}"
        );
        assert!(daemon.ask("switch green --force").await.ok());
        let history = daemon.ask("history").await;
        let last = history
            .field("entries")
            .and_then(Value::as_array)
            .and_then(|entries| entries.last());
        assert_eq!(
            last.expect("entry")["generation"],
            2,
            "{failpoint}: every generation is in the journal"
        );
        daemon.stop().await;
    }
}
