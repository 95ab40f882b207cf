//! The upgrade: a new process takes over, and nobody notices; one that cannot changes nothing.

use std::os::unix::fs::PermissionsExt;

use mana_proxy::upgrade::PROTOCOL;

use crate::support::client::tls::{Offer, agreed, connect};
use crate::support::load::Load;
use crate::support::proxy::Home;
use crate::support::{ConfigBuilder, HOST, Proxy, Stage, Upstream, eventually, within};

/// Connections at rest end soon, so that a predecessor does.
fn hasty(config: &mut ConfigBuilder) {
    config.idle_timeout("300ms");
    config.set("timeouts", "h2_drain", r#""300ms""#);
}

/// A stage whose processes have this failpoint.
async fn failing(failpoint: &str) -> Stage {
    let blue = Upstream::start("blue").await;
    let green = Upstream::start("green").await;
    let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
    hasty(&mut config);
    let proxy = Home::new(&config)
        .start(&[("MANA_PROXY_FAILPOINT", failpoint)])
        .await;
    proxy.wait_for_health("blue", true).await;
    proxy.wait_for_health("green", true).await;
    Stage { proxy, blue, green }
}

/// A program in the directory of the proxy.
fn script(proxy: &Proxy, text: &str) -> String {
    let path = proxy.path().join("other-binary");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Nothing was changed: the same process serves, and takes orders.
async fn assert_it_goes_on(stage: &Stage) {
    let status = stage.proxy.done("status").await;
    assert_eq!(status["pid"], stage.proxy.pid());
    assert_eq!(stage.who_answers().await, "blue");
    let reply = stage.switch("green").await;
    assert_eq!(reply["drained"], true, "{reply}");
    assert_eq!(stage.proxy.state()["sites"][HOST]["active"], "green");
    assert_eq!(stage.who_answers().await, "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_upgrades_under_load_are_noticed_by_nobody() {
    let mut stage = Stage::with(hasty).await;
    let load = Load::everything(&stage.proxy);
    load.goes_on_for(100).await;
    for _ in 0..5 {
        // Event streams and websockets stay on the process before: they have to go for the next upgrade.
        stage.proxy.upgrade().await;
        load.goes_on_for(100).await;
        load.renew_streams();
        eventually("the predecessor has ended", async || {
            stage.proxy.done("status").await["predecessor"].is_null()
        })
        .await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert_eq!(tally.websockets_cut, 0, "{tally:?}");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn an_upgrade_hands_over_state_sockets_and_the_right_to_write() {
    let mut stage = Stage::with(hasty).await;
    stage.switch("green").await;
    let (http, https, old) = (stage.proxy.http(), stage.proxy.https(), stage.proxy.pid());
    let reply = stage.proxy.done("upgrade --note release-2").await;
    let new = stage.proxy.serving_pid().await;
    assert_eq!(reply["pid"], new);
    assert_eq!(reply["previous_pid"], old);
    assert_ne!(new, old);
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    let status = stage.proxy.done("status").await;
    assert_eq!(status["listen"]["http"][0], http.to_string());
    assert_eq!(status["listen"]["https"][0], https.to_string());
    assert_eq!(status["sites"][0]["active"], "green");
    assert_eq!(stage.who_answers().await, "green");
    stage.proxy.wait_for_health("blue", true).await;
    let reply = stage.switch("blue").await;
    assert_eq!(reply["drained"], true, "{reply}");
    let history = stage.proxy.done("history").await;
    let upgrade = &history["entries"][1];
    assert_eq!(upgrade["verb"], "upgrade", "{history}");
    assert_eq!(upgrade["outcome"], "handed_over");
    assert_eq!(upgrade["note"], "release-2");
    assert_eq!(history["entries"][2]["verb"], "switch");
    assert!(
        stage
            .proxy
            .metrics()
            .await
            .contains("mana_proxy_slot_active")
    );
    // It is a daemon like any other: it stops, and takes its socket with it.
    stage.proxy.signal_to(new, "TERM");
    stage.proxy.gone(new).await;
    assert!(!stage.proxy.socket().exists());
    stage.proxy.restart(&[]).await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn without_a_binary_it_is_the_file_that_the_running_process_was_started_from() {
    let mut stage = Stage::with(hasty).await;
    let other = stage.proxy.path().join("other-binary");
    std::fs::copy(env!("CARGO_BIN_EXE_mana-proxy"), &other).unwrap();
    let named = format!("upgrade --wait --binary {}", other.display());
    for line in [&named, "upgrade --wait"] {
        let reply = stage.proxy.done(line).await;
        let program = std::fs::read_link(format!("/proc/{}/exe", reply["pid"])).unwrap();
        assert_eq!(program, other, "{line}");
    }
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn requests_tunnels_and_idle_connections_stay_on_the_process_before() {
    let mut stage = Stage::start().await;
    let mut socket = stage.websocket().await;
    let mut idle = stage.h1().await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut held = stage.h1().await;
    held.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let old = stage.proxy.pid();
    stage.proxy.upgrade().await;
    eventually("status shows the predecessor", async || {
        let status = stage.proxy.done("status").await;
        let before = &status["predecessor"];
        before["pid"] == old && before["requests"] == 1 && before["tunnels"] == 1
    })
    .await;
    let refused = stage.proxy.refused("upgrade", "busy").await;
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains(&format!("pid {old}")), "{error}");
    socket.echo("still here").await;
    // Whoever asks on a connection from before is answered, and told that it was the last time.
    let last = idle.get("/").await;
    assert_eq!(last.header("connection"), Some("close"));
    // A switch counts what the predecessor has, and takes it along.
    let switching = stage.proxy.control("switch green");
    let releasing = async {
        eventually("the new slot is active", async || {
            stage.proxy.site().await["active"] == "green"
        })
        .await;
        assert_eq!(stage.proxy.site().await["slots"]["blue"]["in_flight"], 2);
        stage.blue.release();
        assert_eq!(held.response("GET").await.text(), "blue");
        drop(socket.close().await);
    };
    let (reply, ()) = tokio::join!(switching, releasing);
    assert_eq!(reply["drained"], true, "{reply}");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    stage.proxy.wait_until_idle().await;
}

#[tokio::test]
async fn an_upgrade_that_waits_comes_after_the_process_before() {
    let mut stage = Stage::with(hasty).await;
    let mut held = stage.h1().await;
    held.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let first = stage.proxy.upgrade().await;
    let output = stage.proxy.cli(&["upgrade"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("still drains") && said.contains("--wait"),
        "{said}"
    );
    // The one that only asks below may be in its way for a moment.
    let waiting = async {
        loop {
            let reply = stage.proxy.control("upgrade --wait").await;
            if reply["code"] != "busy" {
                break reply;
            }
        }
    };
    let releasing = async {
        eventually("an upgrade waits", async || {
            let reply = stage.proxy.control("upgrade").await;
            let error = reply["error"].as_str().unwrap().to_owned();
            error.contains("an upgrade is being carried out")
        })
        .await;
        let output = stage.proxy.cli(&["status"]).await;
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(shown.contains("the process before it: version"), "{shown}");
        stage.blue.release();
        assert_eq!(held.response("GET").await.text(), "blue");
    };
    let (reply, ()) = tokio::join!(waiting, releasing);
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(reply["previous_pid"], first);
    assert_eq!(stage.who_answers().await, "blue");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_a_predecessor_has_ends_at_the_deadline_of_the_upgrade() {
    let mut stage = Stage::with(|config| {
        config.set("server", "upgrade_deadline", r#""300ms""#);
        config.shutdown_deadline("500ms");
    })
    .await;
    let mut socket = stage.websocket().await;
    let mut stuck = stage.h1().await;
    stuck
        .send(format!("GET /hang HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hang", 1).await;
    stage.proxy.upgrade().await;
    assert_eq!(
        socket.receive().await,
        crate::support::client::websocket::Received::Close(Some(1001))
    );
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn connections_of_the_process_before_follow_a_switch() {
    let mut stage = Stage::start().await;
    let mut idle = stage.h1().await;
    assert_eq!(idle.get("/").await.text(), "blue");
    stage.proxy.upgrade().await;
    let reply = stage.switch("green").await;
    assert_eq!(reply["drained"], true, "{reply}");
    assert_eq!(idle.get("/").await.text(), "green");
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_pause_holds_connections_of_the_process_before_too() {
    let stage = Stage::start().await;
    let mut idle = stage.h1().await;
    assert_eq!(idle.get("/").await.text(), "blue");
    stage.proxy.upgrade().await;
    stage.proxy.done("pause").await;
    // It is told over a channel of its own, a moment later than the caller.
    eventually("it has followed", async || {
        stage
            .proxy
            .stderr()
            .contains("paused, as the other process")
    })
    .await;
    let request = idle.get("/held");
    tokio::pin!(request);
    tokio::select! {
        response = &mut request => panic!("{response:?}"),
        () = looked(&stage) => {}
    }
    assert_eq!(stage.blue.requests(), 1, "the held one was not sent on");
    stage.proxy.done("resume").await;
    assert_eq!(within("its turn", request).await.text(), "blue");
}

/// Some looks of the prober later.
async fn looked(stage: &Stage) {
    let probes = stage.blue.pings();
    eventually("many looks later", async || {
        stage.blue.pings() > probes + 20
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed_across_an_upgrade() {
    let mut stage = Stage::with(hasty).await;
    let offers = [&rustls::version::TLS13, &rustls::version::TLS12]
        .map(|version| Offer::of(HOST, &[b"http/1.1"], &[version]));
    for offer in &offers {
        let stream = connect(stage.proxy.https(), offer).await.unwrap();
        assert!(!agreed(&stream).is_resumed);
        // The ticket of TLS 1.3 comes behind the handshake.
        let mut client = crate::support::H1::over(stream);
        assert_eq!(client.get("/").await.status, 200);
    }
    stage.proxy.upgrade().await;
    for offer in &offers {
        let stream = connect(stage.proxy.https(), offer).await.unwrap();
        let agreed = agreed(&stream);
        assert!(agreed.is_resumed, "{agreed:?}");
    }
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_binary_that_cannot_take_over_changes_nothing() {
    let stage = Stage::with(hasty).await;
    let missing = stage.proxy.path().join("missing");
    let missing = missing.to_str().unwrap().to_owned();
    let reply = stage
        .proxy
        .refused(&format!("upgrade --binary {missing}"), "failed")
        .await;
    assert!(
        reply["error"].as_str().unwrap().contains(&missing),
        "{reply}"
    );
    let prepared = format!(r#"{{"says":"prepared","protocol":{PROTOCOL},"version":"9"}}"#);
    let failed = r#"{"says":"failed","error":"no room","hint":"make some"}"#;
    let fails_late = format!(
        r#"printf '{prepared}' >&0; printf '{{"says":"ready"}}' >&0; printf '{failed}' >&0
        exec sleep 600"#
    );
    for (text, options, part) in [
        ("echo no such luck >&2; exit 3", "", "no such luck"),
        ("kill -SEGV $$", "", "signal: 11"),
        ("exec sleep 600", "--timeout 300ms", "not prepared in time"),
        (
            r#"printf '{"says":"prepared","protocol":99,"version":"9"}' >&0; exec sleep 600"#,
            "",
            "speaks version 99 of the handover",
        ),
        (
            r#"printf '{"says":"ready"}' >&0; exec sleep 600"#,
            "",
            "not understood",
        ),
        ("printf 'garbage' >&0; exec sleep 600", "", "not understood"),
        ("exec yes >&2", "", "writes more to its stderr than is kept"),
        // It fails when it was let write already.
        (&fails_late, "", "cannot take over: no room"),
    ] {
        let binary = script(&stage.proxy, text);
        let line = format!("upgrade --binary {binary} {options}");
        let reply = stage.proxy.refused(&line, "failed").await;
        let error = reply["error"].as_str().unwrap();
        assert!(error.contains(part), "{text}: {reply}");
        if text == fails_late {
            let hint = reply["hint"].as_str().unwrap();
            assert!(hint.starts_with("make some; "), "{reply}");
        }
    }
    let log = stage.proxy.stderr();
    for part in ["no such luck", "no room", "make some"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_it_goes_on(&stage).await;
}

#[tokio::test]
async fn a_stop_ends_a_successor_that_is_not_prepared() {
    let mut stage = Stage::with(hasty).await;
    let binary = script(&stage.proxy, "echo $$ > pid; exec sleep 600");
    let line = format!("upgrade --binary {binary} --timeout 10m");
    let asking = stage.proxy.control(&line);
    let stopping = async {
        eventually("the new process runs", async || {
            std::fs::read_to_string(stage.proxy.path().join("pid"))
                .is_ok_and(|pid| pid.ends_with('\n'))
        })
        .await;
        stage.proxy.signal("TERM");
    };
    let (reply, ()) = tokio::join!(asking, stopping);
    assert_eq!(reply["ok"], false, "{reply}");
    assert!(
        reply["error"].as_str().unwrap().contains("stopping"),
        "{reply}"
    );
    let pid = std::fs::read_to_string(stage.proxy.path().join("pid")).unwrap();
    assert_eq!(stage.proxy.ended().await.code(), Some(0));
    stage.proxy.gone(pid.trim().parse().unwrap()).await;
}

#[tokio::test]
async fn a_configuration_with_a_fault_changes_nothing_and_is_named() {
    let stage = Stage::with(hasty).await;
    stage.proxy.write_config("nonsense");
    let reply = stage.proxy.refused("upgrade", "failed").await;
    let said = reply["said"].to_string();
    assert!(said.contains("mana-proxy.toml"), "{reply}");
    let output = stage.proxy.cli(&["upgrade"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // Whoever asked sees the fault, and so does whoever reads the log.
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    for text in [shown, stage.proxy.stderr()] {
        let mut lines = text.lines();
        let is_named = lines
            .any(|line| line.contains("the new process said") && line.contains("mana-proxy.toml:"));
        assert!(is_named, "{text}");
    }
    assert_it_goes_on(&stage).await;
}

#[tokio::test]
async fn a_successor_that_dies_at_any_step_changes_nothing() {
    for step in [
        "successor-greeted",
        "successor-prepared",
        "successor-taken",
        "successor-accepting",
        "successor-ready",
        "successor-committed",
    ] {
        let stage = failing(step).await;
        let reply = stage.proxy.refused("upgrade", "failed").await;
        let error = reply["error"].as_str().unwrap();
        assert!(error.contains("ended"), "{step}: {reply}");
        assert_it_goes_on(&stage).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_stalls_has_taken_no_connection_with_it() {
    let stage = failing("successor-stalls").await;
    let load = Load::requests(&stage.proxy);
    load.goes_on_for(100).await;
    let reply = stage.proxy.refused("upgrade --timeout=2s", "failed").await;
    assert!(
        reply["error"].as_str().unwrap().contains("in time"),
        "{reply}"
    );
    load.goes_on_for(100).await;
    load.stop().await.assert_unnoticed();
    assert_it_goes_on(&stage).await;
}

#[tokio::test]
async fn who_waits_for_an_upgrade_may_give_up() {
    let stage = Stage::with(hasty).await;
    let mut held = stage.h1().await;
    held.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    stage.proxy.upgrade().await;
    // The one that only asks below may be in its way for a moment.
    let waiting = async {
        loop {
            let reply = stage.proxy.control("upgrade --wait").await;
            if reply["code"] != "busy" {
                break reply;
            }
        }
    };
    let is_waited_for = eventually("an upgrade waits", async || {
        let reply = stage.proxy.control("upgrade").await;
        let error = reply["error"].as_str().unwrap().to_owned();
        error.contains("an upgrade is being carried out")
    });
    tokio::select! {
        reply = waiting => panic!("{reply}"),
        () = is_waited_for => {}
    }
    // The caller is gone, and with it what it waited for.
    eventually("nobody waits", async || {
        let reply = stage.proxy.control("upgrade").await;
        let error = reply["error"].as_str().unwrap().to_owned();
        error.contains("still drains")
    })
    .await;
    stage.blue.release();
    assert_eq!(held.response("GET").await.text(), "blue");
}

#[tokio::test]
async fn a_predecessor_that_dies_leaves_the_successor_serving() {
    for step in [
        "predecessor-prepared",
        "predecessor-gone",
        "predecessor-ready",
    ] {
        let mut stage = failing(step).await;
        let old = stage.proxy.pid();
        // The caller is cut off; what was asked for is done all the same.
        let socket = stage.proxy.socket();
        let asked = within("upgrade", crate::support::proxy::ask(&socket, "upgrade"));
        assert!(asked.await.is_err(), "{step}");
        stage.proxy.ended().await;
        eventually("the successor answers", async || {
            let status = crate::support::proxy::ask(&stage.proxy.socket(), "status").await;
            status.is_ok_and(|status| status["ok"] == true)
        })
        .await;
        let new = stage.proxy.serving_pid().await;
        assert_ne!(new, old, "{step}");
        assert_eq!(stage.who_answers().await, "blue", "{step}");
        stage.proxy.wait_for_health("green", true).await;
        let reply = stage.switch("green").await;
        assert_eq!(reply["drained"], true, "{step}: {reply}");
    }
}

#[tokio::test]
async fn a_paused_site_and_a_change_under_way_are_in_the_way_of_an_upgrade() {
    let stage = Stage::with(hasty).await;
    stage.proxy.done("pause").await;
    let reply = stage.proxy.refused("upgrade", "refused").await;
    assert!(
        reply["error"].as_str().unwrap().contains("paused"),
        "{reply}"
    );
    stage.proxy.done("resume").await;
    let mut held = stage.h1().await;
    held.send(format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let switching = stage.proxy.control("switch green");
    let asking = async {
        eventually("the switch waits for the old slot", async || {
            stage.proxy.site().await["active"] == "green"
        })
        .await;
        let reply = stage.proxy.refused("upgrade", "busy").await;
        assert!(
            reply["error"].as_str().unwrap().contains("switch"),
            "{reply}"
        );
        stage.blue.release();
        held.response("GET").await;
    };
    let (reply, ()) = tokio::join!(switching, asking);
    assert_eq!(reply["drained"], true, "{reply}");
}
