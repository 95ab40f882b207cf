//! What `switch` promises with its reply, and what it does to those who are in the middle of something.

use crate::support::client::websocket::Received;
use crate::support::{H2, HOST, Stage, within};

#[tokio::test]
async fn the_reply_says_what_was_done() {
    let stage = Stage::start().await;
    let before = stage.proxy.site().await["generation"].as_u64().unwrap();
    let reply = stage.switch("green").await;
    assert_eq!(reply["site"], HOST);
    assert_eq!(reply["active"], "green");
    assert_eq!(reply["previous"], "blue");
    assert_eq!(reply["generation"], before + 1);
    assert_eq!(reply["drained"], true);
    assert_eq!(reply["in_flight"], 0);
    assert_eq!(reply["tunnels_cut"], 0);
    assert!(reply["took_ms"].is_u64(), "{reply}");
    assert!(reply.get("first_request_us").is_some(), "{reply}");
    assert_eq!(stage.proxy.state()["sites"][HOST]["active"], "green");
    assert_eq!(stage.proxy.state()["generation"], before + 1);
}

#[tokio::test]
async fn connections_from_before_the_switch_reach_the_new_slot_after_it() {
    let stage = Stage::start().await;
    let (mut h1, h2) = (stage.h1().await, stage.h2().await);
    for (slot, other) in [("green", "blue"), ("blue", "green"), ("green", "blue")] {
        assert_eq!(h1.get("/").await.text(), other);
        assert_eq!(h2.get("/").await.text(), other);
        stage.switch(slot).await;
        let old = stage.upstream(other).requests();
        for _ in 0..20 {
            assert_eq!(h1.get("/").await.text(), slot);
            assert_eq!(h2.get("/").await.text(), slot);
        }
        assert_eq!(stage.upstream(other).requests(), old);
    }
}

#[tokio::test]
async fn the_reply_waits_for_the_requests_of_the_old_slot() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let mut switching = Box::pin(stage.switch("green"));
    // New requests are served by green while blue drains.
    let served = async {
        crate::support::eventually("green serves", async || {
            stage.who_answers().await == "green"
        })
        .await;
    };
    tokio::select! {
        reply = &mut switching => panic!("replied before blue had drained: {reply}"),
        () = served => {}
    }
    stage.blue.release();
    assert_eq!(client.response("GET").await.text(), "blue");
    let reply = within("the reply", switching).await;
    assert_eq!(
        (&reply["drained"], &reply["in_flight"]),
        (&true.into(), &0.into()),
        "{reply}"
    );
}

#[tokio::test]
async fn a_streaming_body_counts_as_in_flight_until_its_end() {
    let stage = Stage::start().await;
    let client = stage.h2().await;
    let (response, mut body) = client
        .begin(H2::to("/hold-body").body(()).unwrap())
        .await
        .unwrap();
    body.send_data(bytes::Bytes::new(), true).unwrap();
    stage.blue.wait_for("/hold-body", 1).await;
    let reply = stage.proxy.done("switch green --no-wait").await;
    assert_eq!(reply["drained"], false, "{reply}");
    assert_eq!(stage.proxy.site().await["slots"]["blue"]["in_flight"], 1);
    stage.blue.release();
    let response = within("the body", crate::support::client::read(response))
        .await
        .unwrap();
    assert_eq!(response.text(), "firstafter");
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn a_stuck_download_and_an_idle_websocket_hold_up_neither_this_switch_nor_the_next() {
    let stage = Stage::with(|config| {
        config.site().drain("600ms", "200ms");
    })
    .await;
    let mut stuck = stage.h1().await;
    stuck
        .send(format!(
            "GET /size?n=500000000 HTTP/1.1\r\nhost: {HOST}\r\n\r\n"
        ))
        .await;
    stuck.reader.head().await;
    let mut socket = stage.websocket().await;
    assert_eq!(socket.upstream, "blue");

    let (reply, end) = tokio::join!(stage.switch("green"), socket.receive());
    assert_eq!(reply["drained"], false, "{reply}");
    assert_eq!(reply["in_flight"], 1, "{reply}");
    assert_eq!(reply["tunnels_cut"], 1, "{reply}");
    assert_eq!(end, Received::Close(Some(1001)));
    assert_eq!(stage.websocket().await.upstream, "green");

    let reply = stage.switch("blue").await;
    assert_eq!(reply["active"], "blue", "{reply}");
    assert_eq!(stage.who_answers().await, "blue");
    // What was stuck still flows once it is read.
    within("more of the download", stuck.reader.exactly(10_000_000))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_switch_back_is_not_held_up_by_a_drain_that_still_runs() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let (first, second) = tokio::join!(stage.proxy.control("switch green"), async {
        crate::support::eventually("green serves", async || {
            stage.who_answers().await == "green"
        })
        .await;
        stage.proxy.control("switch blue").await
    });
    assert_eq!(second["ok"], true, "{second}");
    assert_eq!(second["active"], "blue", "{second}");
    // The first caller is told that it was overtaken, and that its slot was not seen to be empty.
    assert_eq!(first["ok"], true, "{first}");
    assert_eq!(first["drained"], false, "{first}");
    stage.blue.release();
    assert_eq!(client.response("GET").await.text(), "blue");
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn an_idle_keep_alive_connection_does_not_hold_up_a_switch() {
    let stage = Stage::start().await;
    let (mut h1, h2) = (stage.h1().await, stage.h2().await);
    h1.get("/").await;
    h2.get("/").await;
    let reply = stage.switch("green").await;
    assert_eq!(reply["drained"], true, "{reply}");
}

#[tokio::test]
async fn switching_to_the_active_slot_is_done_already() {
    let stage = Stage::start().await;
    let before = stage.proxy.site().await;
    let reply = stage.switch("blue").await;
    assert_eq!(reply["active"], "blue");
    assert_eq!(reply["generation"], before["generation"]);
    assert_eq!(stage.proxy.site().await["generation"], before["generation"]);
}

#[tokio::test]
async fn a_switch_for_another_generation_is_a_conflict() {
    let stage = Stage::start().await;
    let generation = stage.proxy.site().await["generation"].as_u64().unwrap();
    let wrong = generation + 7;
    let reply = stage
        .proxy
        .refused(&format!("switch green --if-generation {wrong}"), "conflict")
        .await;
    assert!(
        reply["error"]
            .as_str()
            .unwrap()
            .contains(&generation.to_string()),
        "{reply}"
    );
    assert_eq!(stage.proxy.site().await["active"], "blue");
    stage
        .proxy
        .done(&format!("switch green --if-generation {generation}"))
        .await;
    assert_eq!(stage.proxy.site().await["active"], "green");
}

#[tokio::test]
async fn rollback_goes_back_to_the_slot_before() {
    let stage = Stage::start().await;
    stage.proxy.refused("rollback", "refused").await;
    stage.switch("green").await;
    let reply = stage.proxy.done("rollback").await;
    assert_eq!(
        (&reply["active"], &reply["previous"]),
        (&"blue".into(), &"green".into())
    );
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn history_names_what_was_changed_by_whom_and_why() {
    let stage = Stage::start().await;
    stage
        .proxy
        .done(r#"switch green --note "release 41""#)
        .await;
    let history = stage.proxy.done("history").await;
    let entries = history["entries"].as_array().unwrap();
    let last = entries.last().unwrap();
    assert_eq!(last["from"], "blue", "{last}");
    assert_eq!(last["to"], "green", "{last}");
    assert_eq!(last["note"], "release 41", "{last}");
    assert_eq!(last["pid"], std::process::id(), "{last}");
    assert!(last["uid"].is_number(), "{last}");
    assert!(
        last["time"].is_string() && last["outcome"].is_string(),
        "{last}"
    );
}

#[tokio::test]
async fn the_verbs_do_the_same_as_the_socket() {
    let stage = Stage::start().await;
    let output = stage
        .proxy
        .cli(&["switch", "green", "--note", "by hand"])
        .await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stage.who_answers().await, "green");

    let output = stage.proxy.cli(&["--json", "status"]).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["sites"][0]["active"], "green");

    let output = stage.proxy.cli(&["status"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("green") && text.contains(HOST), "{text}");
    assert!(
        !text.contains('\u{1b}'),
        "colours where nobody sees them: {text}"
    );

    let output = stage.proxy.cli(&["rollback"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn exit_codes_tell_a_script_what_happened() {
    let mut stage = Stage::start().await;
    stage.green.answer_pings(crate::support::Ping::Status(500));
    let code =
        async |stage: &Stage, arguments: &[&str]| stage.proxy.cli(arguments).await.status.code();
    assert_eq!(code(&stage, &["status"]).await, Some(0));
    assert_eq!(code(&stage, &["switch", "green"]).await, Some(2));
    assert_eq!(
        code(&stage, &["switch", "blue", "--if-generation", "99"]).await,
        Some(2)
    );
    assert_eq!(code(&stage, &["switch", "red"]).await, Some(64));
    assert_eq!(code(&stage, &["no-such-verb"]).await, Some(64));
    stage.proxy.sigkill().await;
    assert_eq!(code(&stage, &["status"]).await, Some(69));
}
