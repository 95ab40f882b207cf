//! The main promise: users do not notice a switch.

use std::collections::HashMap;

use crate::support::load::{Load, Tally};
use crate::support::{Stage, Upstream};

/// Switches back and forth; after each reply the old slot must have had its last request.
async fn switch_back_and_forth(
    stage: &Stage,
    load: &Load,
    switches: usize,
    requests_between: usize,
) {
    let mut slots = ["green", "blue"].iter().cycle();
    for number in 0..switches {
        let slot = slots.next().unwrap();
        let other = if *slot == "green" { "blue" } else { "green" };
        let reply = stage.switch(slot).await;
        assert_eq!(reply["active"], *slot);
        let old = stage.upstream(other).requests();
        load.goes_on_for(requests_between).await;
        let late = stage.upstream(other).seen()[old..].to_vec();
        assert!(
            late.is_empty(),
            "after the reply to switch {number}, {other} got {late:#?}"
        );
    }
}

fn assert_no_post_was_doubled(tally: &Tally, upstreams: [&Upstream; 2]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for upstream in upstreams {
        for (id, count) in upstream.ids() {
            *seen.entry(id).or_default() += count;
        }
    }
    for id in &tally.posts {
        assert_eq!(seen.get(id), Some(&1), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_switches_under_load_are_noticed_by_nobody() {
    let stage = Stage::start().await;
    let load = Load::requests(&stage.proxy);
    load.goes_on_for(50).await;
    switch_back_and_forth(&stage, &load, 50, 60).await;
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert!(
        tally.answered > 3000,
        "{} requests are no load",
        tally.answered
    );
    assert_no_post_was_doubled(&tally, [&stage.blue, &stage.green]);
    stage.proxy.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_websockets_are_closed_in_good_order_and_come_back() {
    let stage = Stage::with(|config| {
        // An event stream never ends by itself, so each switch waits as long as this.
        config.site().drain("300ms", "100ms");
    })
    .await;
    let load = Load::everything(&stage.proxy);
    load.goes_on_for(50).await;
    switch_back_and_forth(&stage, &load, 10, 60).await;
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert!(tally.websockets_cut > 0, "{tally:?}");
    assert_no_post_was_doubled(&tally, [&stage.blue, &stage.green]);
    stage.proxy.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_with_no_wait_under_load_are_noticed_by_nobody() {
    let stage = Stage::start().await;
    let load = Load::requests(&stage.proxy);
    for slot in ["green", "blue"].iter().cycle().take(20) {
        stage.proxy.done(&format!("switch {slot} --no-wait")).await;
        load.goes_on_for(10).await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert_no_post_was_doubled(&tally, [&stage.blue, &stage.green]);
    stage.proxy.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_are_noticed_by_nobody() {
    let stage = Stage::start().await;
    let load = Load::requests(&stage.proxy);
    for _ in 0..20 {
        stage.proxy.done("reload").await;
        load.goes_on_for(20).await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert_no_post_was_doubled(&tally, [&stage.blue, &stage.green]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_that_was_drained_may_be_stopped_at_once() {
    let stage = Stage::start().await;
    let load = Load::requests(&stage.proxy);
    for (slot, other) in [("green", "blue"), ("blue", "green")]
        .iter()
        .cycle()
        .take(10)
    {
        let reply = stage.switch(slot).await;
        assert_eq!(reply["drained"], true, "{reply}");
        stage.upstream(other).stop().await;
        load.goes_on_for(50).await;
        stage.upstream(other).start_again().await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert_no_post_was_doubled(&tally, [&stage.blue, &stage.green]);
}
