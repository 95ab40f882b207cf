//! A switch to a slot that is not fit to serve is refused, and changes nothing.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Mode, Ping, Stage, eventually};

/// A refused switch to green leaves everything as it was.
async fn is_refused(stage: &Stage, what: &str) -> Value {
    let before = stage.proxy.site().await;
    let state = stage.proxy.state();
    let reply = stage.proxy.refused("switch green", "refused").await;
    let site = stage.proxy.site().await;
    assert_eq!(site["active"], "blue", "{what}");
    assert_eq!(site["generation"], before["generation"], "{what}");
    assert_eq!(stage.proxy.state(), state, "{what}");
    assert_eq!(stage.who_answers().await, "blue", "{what}");
    reply
}

#[tokio::test]
async fn only_the_expected_status_counts_as_healthy() {
    let stage = Stage::start().await;
    for status in [500, 503, 404, 403, 301, 302, 204, 201] {
        stage.green.answer_pings(Ping::Status(status));
        let reply = is_refused(&stage, &status.to_string()).await;
        let error = reply["error"].as_str().unwrap();
        assert!(error.contains(&status.to_string()), "{error}");
        assert!(error.contains(&stage.green.address()), "{error}");
    }
    stage.green.answer_pings(Ping::Status(200));
    assert_eq!(stage.switch("green").await["active"], "green");
}

#[tokio::test]
async fn a_slot_that_does_not_answer_at_all_is_refused() {
    let stage = Stage::with(|config| {
        config.site().health("100ms", "200ms");
    })
    .await;
    stage.green.answer_pings(Ping::Never);
    is_refused(&stage, "it never answers").await;
    stage.green.answer_pings(Ping::Close);
    is_refused(&stage, "it closes").await;
    stage.green.answer_pings(Ping::Status(200));
    stage.green.be(Mode::ClosingOnAccept);
    is_refused(&stage, "it closes on accept").await;
    stage.green.be(Mode::Silent);
    is_refused(&stage, "it accepts and says nothing").await;
    stage.green.be(Mode::Serving);
    stage.green.stop().await;
    is_refused(&stage, "it is not running").await;
    stage.green.start_again().await;
    assert_eq!(stage.switch("green").await["active"], "green");
}

#[tokio::test]
async fn the_gate_asks_the_slot_itself_and_does_not_trust_what_it_knew() {
    let stage = Stage::with(|config| {
        config.site().health("1h", "1s");
    });
    // With an interval of an hour the prober cannot have noticed; a stage that waits for health would wait for it.
    let stage = tokio::time::timeout(Duration::from_secs(30), stage).await;
    let Ok(stage) = stage else {
        panic!("a slot is not known to be healthy soon after the start")
    };
    stage.green.answer_pings(Ping::Status(500));
    is_refused(&stage, "it has become ill").await;
}

#[tokio::test]
async fn one_blip_neither_fails_nor_passes_the_gate() {
    // Two of three must be good; with an interval of an hour nobody but the gate asks.
    let stage = Stage::with(|config| {
        config.site().health("1h", "1s");
    })
    .await;
    for statuses in [[500, 200, 500], [500, 500, 200]] {
        stage.green.answer_next_pings(&statuses);
        is_refused(&stage, &format!("{statuses:?}")).await;
    }
    for (slot, statuses) in [("green", [500, 200, 200]), ("blue", [200, 500, 200])] {
        stage.upstream(slot).answer_next_pings(&statuses);
        assert_eq!(stage.switch(slot).await["active"], slot, "{statuses:?}");
    }
}

#[tokio::test]
async fn the_gate_asks_under_the_host_of_the_site() {
    let stage = Stage::start().await;
    stage.green.be(Mode::ClosingAfterHead);
    is_refused(&stage, "it closes after the head").await;
    assert_eq!(stage.green.ping_hosts(), [crate::support::HOST]);
}

#[tokio::test]
async fn every_upstream_of_the_slot_has_to_pass() {
    use crate::support::{ConfigBuilder, Proxy, Upstream};
    let blue = Upstream::start("blue").await;
    let (one, other) = (Upstream::start("one").await, Upstream::start("other").await);
    let config = ConfigBuilder::new(&[&blue.address()], &[&one.address(), &other.address()]);
    let proxy = Proxy::start(&config).await;
    other.answer_pings(Ping::Status(500));
    let reply = proxy.refused("switch green", "refused").await;
    assert!(
        reply["error"].as_str().unwrap().contains(&other.address()),
        "{reply}"
    );
    other.answer_pings(Ping::Status(200));
    proxy.done("switch green").await;
}

#[tokio::test]
async fn force_goes_without_the_gate() {
    let stage = Stage::start().await;
    stage.green.answer_pings(Ping::Status(500));
    is_refused(&stage, "without force").await;
    let reply = stage.proxy.done("switch green --force").await;
    assert_eq!(reply["active"], "green");
    eventually("green is down", async || {
        stage.proxy.site().await["slots"]["green"]["upstreams"][0]["health"] == "down"
    })
    .await;
    for _ in 0..20 {
        assert_eq!(stage.who_answers().await, "green");
    }
}

#[tokio::test]
async fn two_switches_at_once_have_one_winner_and_the_other_learns_who_it_is() {
    let stage = Stage::with(|config| {
        config.site().health("200ms", "2s");
    })
    .await;
    // The gate waits for an answer that does not come until its timeout.
    stage.green.answer_pings(Ping::Never);
    let pings = stage.green.pings();
    let (first, second) = tokio::join!(stage.proxy.control("switch green"), async {
        eventually("the gate is held", async || {
            stage.green.pings() > pings && stage.proxy.site().await["cutover"] == "gating"
        })
        .await;
        let second = stage.proxy.control("switch green").await;
        stage.green.answer_pings(Ping::Status(200));
        second
    });
    assert_eq!(second["code"], "busy", "{second}");
    assert!(second["error"].is_string());
    // The first was right or wrong about green by itself; the second has changed nothing about that.
    assert!(first["ok"] == true || first["code"] == "refused", "{first}");
}

#[tokio::test]
async fn a_caller_that_is_killed_at_the_gate_leaves_nothing_held() {
    let stage = Stage::with(|config| {
        config.site().health("200ms", "10s");
    })
    .await;
    stage.green.answer_pings(Ping::Never);
    let pings = stage.green.pings();
    let mut cli = crate::support::proxy::command(stage.proxy.path())
        .args(["--socket", "run/control.sock", "switch", "green"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the gate is probing", async || stage.green.pings() > pings).await;
    stage.proxy.refused("switch green", "busy").await;
    cli.kill().await.unwrap();
    stage.green.answer_pings(Ping::Status(200));
    eventually("the next caller gets its turn", async || {
        stage.proxy.control("switch green").await["ok"] == true
    })
    .await;
    assert_eq!(stage.who_answers().await, "green");
}
