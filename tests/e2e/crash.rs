//! Whenever the process dies, what is served after the restart is the old or the new slot, and is what the disk says.

use crate::support::{HOST, Proxy, Stage, eventually, within};

/// Every step of a switch, in order, and the slot that must be active after a crash there.
const STEPS: [(&str, &str); 7] = [
    ("before-persist", "blue"),
    ("after-temp", "blue"),
    ("after-rename", "green"),
    ("after-persist", "green"),
    ("after-publish", "green"),
    ("draining", "green"),
    ("before-reply", "green"),
];

/// The disk, `status` and a request agree.
async fn assert_agreed(stage: &Stage) -> String {
    let active = stage.proxy.state()["sites"][HOST]["active"]
        .as_str()
        .unwrap()
        .to_owned();
    let site = stage.proxy.site().await;
    assert_eq!(site["active"], active.as_str());
    assert_eq!(
        site["generation"],
        stage.proxy.state()["sites"][HOST]["generation"]
    );
    stage.proxy.wait_for_health(&active, true).await;
    assert_eq!(stage.who_answers().await, active);
    active
}

fn temporary_files(proxy: &Proxy) -> Vec<String> {
    let entries = std::fs::read_dir(proxy.path().join("run/state")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.contains("tmp") || name.contains("temp"))
        .collect()
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_switch_leaves_the_old_or_the_new_slot() {
    let mut stage = Stage::start().await;
    for (step, expected) in STEPS {
        let before = assert_agreed(&stage).await;
        if before != "blue" {
            stage.switch("blue").await;
        }
        let generation = stage.proxy.state()["generation"].as_u64().unwrap();
        stage.proxy.sigkill().await;
        stage.proxy.restart(&[("MANA_PROXY_FAILPOINT", step)]).await;
        stage.proxy.wait_for_health("green", true).await;
        let reply = within(
            step,
            crate::support::proxy::ask(&stage.proxy.socket(), "switch green"),
        )
        .await;
        assert!(reply.is_err(), "{step}: it replied {reply:?}");
        let status = stage.proxy.ended().await;
        assert!(!status.success(), "{step}");

        stage.proxy.restart(&[]).await;
        let active = assert_agreed(&stage).await;
        assert_eq!(active, expected, "{step}");
        let after = stage.proxy.state()["generation"].as_u64().unwrap();
        assert!(
            after == generation || after == generation + 1,
            "{step}: {generation} to {after}"
        );
        assert_eq!(after == generation, active == "blue", "{step}");
        // It is not only up, it works.
        let other = if active == "blue" { "green" } else { "blue" };
        stage.proxy.wait_for_health(other, true).await;
        stage.switch(other).await;
        assert_agreed(&stage).await;
        assert!(
            temporary_files(&stage.proxy).is_empty(),
            "{step}: {:?}",
            temporary_files(&stage.proxy)
        );
    }
}

#[tokio::test]
async fn a_kill_at_a_random_moment_of_a_switch_leaves_the_old_or_the_new_slot() {
    const ROUNDS: usize = 12;
    const MOMENT_US_MAX: u64 = 150_000;
    let seed = std::env::var("E2E_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("E2E_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::start().await;
    for round in 0..ROUNDS {
        let before = assert_agreed(&stage).await;
        let generation = stage.proxy.state()["generation"].as_u64().unwrap();
        let other = if before == "blue" { "green" } else { "blue" };
        stage.proxy.wait_for_health(other, true).await;
        let socket = stage.proxy.socket();
        let line = format!("switch {other}");
        let moment = std::time::Duration::from_micros(random.u64(..MOMENT_US_MAX));
        let switching = tokio::spawn(async move {
            let reply = crate::support::proxy::ask(&socket, &line).await;
            reply.is_ok_and(|reply| reply["ok"] == true)
        });
        tokio::time::sleep(moment).await;
        stage.proxy.sigkill().await;
        let was_promised = within("the caller", switching).await.unwrap();
        stage.proxy.restart(&[]).await;
        let after = assert_agreed(&stage).await;
        let shown = format!("round {round} after {moment:?}: {before} to {after}");
        assert!(!was_promised || after == other, "promised, {shown}");
        let generation_now = stage.proxy.state()["generation"].as_u64().unwrap();
        let changed = u64::from(after != before);
        assert_eq!(generation_now, generation + changed, "{shown}");
    }
}

#[tokio::test]
async fn a_crash_while_a_slot_drains_leaves_the_new_slot() {
    let mut stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    stage.proxy.done("switch green --no-wait").await;
    stage.proxy.sigkill().await;
    stage.proxy.restart(&[]).await;
    assert_eq!(assert_agreed(&stage).await, "green");
}

#[tokio::test]
async fn a_daemon_that_is_killed_over_and_over_keeps_its_slot() {
    let mut stage = Stage::start().await;
    for slot in ["green", "blue", "green"] {
        stage.proxy.wait_for_health(slot, true).await;
        stage.switch(slot).await;
        let generation = stage.proxy.state()["generation"].clone();
        for _ in 0..3 {
            stage.proxy.sigkill().await;
            stage.proxy.restart(&[]).await;
            assert_eq!(assert_agreed(&stage).await, slot);
            assert_eq!(stage.proxy.state()["generation"], generation);
        }
    }
}

#[tokio::test]
async fn the_state_wins_over_initial() {
    let mut stage = Stage::start().await;
    stage.switch("green").await;
    stage.proxy.sigkill().await;
    // Both run after a reboot, as with `restart: always`; `initial` still says blue.
    stage.proxy.restart(&[]).await;
    assert_eq!(assert_agreed(&stage).await, "green");
}

#[tokio::test]
async fn a_state_file_that_cannot_be_trusted_is_refused_and_kept() {
    let mut stage = Stage::start().await;
    stage.switch("green").await;
    stage.proxy.sigkill().await;
    let path = stage.proxy.path().join("run/state/state.json");
    let good = std::fs::read(&path).unwrap();
    let broken: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("not JSON", b"green".to_vec()),
        (
            "of a newer schema",
            br#"{"schema":999,"generation":1,"sites":{}}"#.to_vec(),
        ),
        ("huge", vec![b' '; 4 << 20]),
    ];
    for (what, bytes) in broken {
        std::fs::write(&path, &bytes).unwrap();
        let output = within(
            what,
            crate::support::proxy::command(stage.proxy.path())
                .args(["run", "--config", "mana-proxy.toml"])
                .output(),
        )
        .await
        .unwrap();
        assert!(!output.status.success(), "{what}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("state.json"), "{what}: {said}");
        assert_eq!(
            std::fs::read(&path).unwrap(),
            bytes,
            "{what}: it was replaced"
        );
    }
    std::fs::write(&path, good).unwrap();
    stage.proxy.restart(&[]).await;
    assert_eq!(assert_agreed(&stage).await, "green");
}

#[tokio::test]
async fn a_state_that_cannot_be_stored_is_not_published() {
    let stage = Stage::start().await;
    let directory = stage.proxy.path().join("run/state");
    let moved = stage.proxy.path().join("run/gone");
    // Root may write anywhere, so the directory goes instead of its mode.
    std::fs::rename(&directory, &moved).unwrap();
    let reply = stage.proxy.refused("switch green", "failed").await;
    assert!(
        reply["error"].as_str().unwrap().contains("state"),
        "{reply}"
    );
    assert_eq!(stage.proxy.site().await["active"], "blue");
    assert_eq!(stage.who_answers().await, "blue");
    std::fs::rename(&moved, &directory).unwrap();
    eventually("it can be stored again", async || {
        stage.proxy.control("switch green").await["ok"] == true
    })
    .await;
    assert_agreed(&stage).await;
}
