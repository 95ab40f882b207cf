//! Maintenance, pause and drain: what an operator may do to a site besides switching it.

use crate::support::{H1, HOST, Stage, eventually, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n";

#[tokio::test]
async fn maintenance_answers_503_until_it_is_over_also_after_a_restart() {
    let mut stage = Stage::start().await;
    stage.proxy.done("maintenance on").await;
    let response = stage.h1().await.get("/").await;
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    assert_eq!(stage.h2().await.get("/").await.status, 503);
    stage.proxy.sigkill().await;
    stage.proxy.restart(&[]).await;
    assert_eq!(stage.h1().await.get("/").await.status, 503);
    stage.proxy.done("maintenance off").await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn pause_holds_requests_and_resume_lets_them_go() {
    let stage = Stage::with(|config| {
        config.site().pause(100, "20s", "200ms");
    })
    .await;
    stage.proxy.done("pause").await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut client = stage.h1().await;
        client.send(GET).await;
        waiting.push(client);
    }
    eventually("all of them wait", async || held(&stage).await == Some(10)).await;
    assert_eq!(stage.blue.requests(), 0);
    stage.proxy.done("resume").await;
    for client in &mut waiting {
        assert_eq!(client.response("GET").await.text(), "blue");
    }
    assert_eq!(stage.blue.requests(), 10);
}

#[tokio::test]
async fn a_switch_while_paused_sends_the_held_requests_to_the_new_slot() {
    let stage = Stage::start().await;
    stage.proxy.done("pause").await;
    let mut client = stage.h1().await;
    client.send(GET).await;
    eventually("it waits", async || held(&stage).await == Some(1)).await;
    let reply = stage.switch("green").await;
    assert_eq!(reply["drained"], true, "{reply}");
    stage.proxy.done("resume").await;
    assert_eq!(client.response("GET").await.text(), "green");
    assert_eq!(stage.blue.requests(), 0);
}

#[tokio::test]
async fn the_queue_of_a_pause_is_bounded_and_each_wait_has_its_deadline() {
    let stage = Stage::with(|config| {
        config.site().pause(2, "1s", "0ms");
    })
    .await;
    stage.proxy.done("pause").await;
    let mut waiting: Vec<H1> = Vec::new();
    for count in 1..=2 {
        let mut client = stage.h1().await;
        client.send(GET).await;
        waiting.push(client);
        eventually("it waits", async || held(&stage).await == Some(count)).await;
    }
    // The third finds no place, unless the others have given up already.
    let third = stage.h1().await.get("/").await;
    assert_eq!(third.status, 503);
    for client in &mut waiting {
        let response = within("its deadline", client.response("GET")).await;
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some());
    }
    stage.proxy.done("resume").await;
    assert_eq!(stage.who_answers().await, "blue");
    assert_eq!(stage.blue.requests(), 1);
}

/// Requests that wait, as `status` tells.
async fn held(stage: &Stage) -> Option<u64> {
    stage.proxy.site().await["waiting"].as_u64()
}

#[tokio::test]
async fn a_drained_standby_is_no_backup_and_may_be_stopped() {
    let stage = Stage::start().await;
    stage.proxy.refused("drain blue", "refused").await;
    let reply = stage.proxy.done("drain green").await;
    assert_eq!(reply["drained"], true, "{reply}");
    stage.blue.stop().await;
    assert_eq!(stage.h1().await.get("/").await.status, 503);
    assert_eq!(stage.green.requests(), 0);
    stage.proxy.done("drain green --undo").await;
    eventually("green is a backup again", async || {
        stage.h1().await.get("/").await.text() == "green"
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_what_the_standby_still_serves() {
    let stage = Stage::start().await;
    stage.blue.stop().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.green.wait_for("/hold", 1).await;
    stage.blue.start_again().await;
    stage.proxy.wait_for_health("blue", true).await;
    let (reply, ()) = tokio::join!(stage.proxy.control("drain green"), async {
        eventually("green takes no more", async || {
            stage.proxy.site().await["slots"]["green"]["drained"] == true
        })
        .await;
        stage.green.release();
    });
    assert_eq!(
        (&reply["ok"], &reply["drained"]),
        (&true.into(), &true.into()),
        "{reply}"
    );
    assert_eq!(client.response("GET").await.text(), "green");
}

#[tokio::test]
async fn a_switch_to_a_drained_slot_puts_it_back() {
    let stage = Stage::start().await;
    stage.proxy.done("drain green").await;
    stage.switch("green").await;
    assert_eq!(stage.who_answers().await, "green");
    assert_eq!(stage.proxy.site().await["slots"]["green"]["drained"], false);
}
