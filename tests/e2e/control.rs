//! The control socket takes orders from whoever may give them, and nothing else from anybody.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::proxy::ask;
use crate::support::{Stage, within};

async fn connect(stage: &Stage) -> UnixStream {
    UnixStream::connect(stage.proxy.socket()).await.unwrap()
}

/// Sends bytes, closes the sending side and reads everything that comes back.
async fn tell(stage: &Stage, bytes: &[u8]) -> String {
    let mut stream = connect(stage).await;
    // The daemon may hang up in the middle of something too long.
    stream.write_all(bytes).await.ok();
    stream.shutdown().await.ok();
    let mut reply = Vec::new();
    within("the end of the reply", stream.read_to_end(&mut reply))
        .await
        .ok();
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn plain_words_and_json_are_the_same() {
    let stage = Stage::start().await;
    let words = tell(&stage, b"switch green\n").await;
    let words: Value = serde_json::from_str(&words).unwrap();
    assert_eq!(
        (&words["ok"], &words["active"]),
        (&true.into(), &"green".into())
    );
    let json = tell(&stage, b"{\"verb\":\"switch\",\"slot\":\"blue\"}\n").await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["ok"], &json["active"]),
        (&true.into(), &"blue".into())
    );
    let (words, json): (Vec<_>, Vec<_>) = (
        words.as_object().unwrap().keys().collect(),
        json.as_object().unwrap().keys().collect(),
    );
    assert_eq!(words, json);
}

#[tokio::test]
async fn a_reply_is_one_line_of_json() {
    let stage = Stage::start().await;
    for line in [
        "status\n",
        "status\r\n",
        "  status  \n",
        "switch blue\n",
        "nonsense\n",
    ] {
        let reply = tell(&stage, line.as_bytes()).await;
        assert!(reply.ends_with('\n'), "{reply:?}");
        assert_eq!(reply.lines().count(), 1, "{reply:?}");
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert!(reply["ok"].is_boolean());
    }
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_and_changes_nothing() {
    let stage = Stage::start().await;
    let before = stage.proxy.site().await["generation"].clone();
    let table: &[&[u8]] = &[
        b"\n",
        b"frobnicate\n",
        b"switch\n",
        b"switch red\n",
        b"switch green --frce\n",
        b"switch green --if-generation minus\n",
        b"switch green --site evil.example\n",
        b"switch green green\n",
        b"{}\n",
        b"{\"verb\":\"switch\"}\n",
        b"{\"verb\":\"switch\",\"slot\":\"green\",\"froce\":true}\n",
        b"{\"verb\":\"switch\",\"slot\":7}\n",
        b"{\"verb\":\"switch\",\"slot\":\"green\"\n",
        b"[\"switch\",\"green\"]\n",
        b"\"switch green\"\n",
        b"\xff\xfe\xfd\n",
        b"switch \x00 green\n",
        b"GET / HTTP/1.1\r\n",
        b"switch green --note \"never closed\n",
    ];
    for bytes in table {
        let reply = tell(&stage, bytes).await;
        let shown = String::from_utf8_lossy(bytes);
        let value: Value = serde_json::from_str(&reply)
            .unwrap_or_else(|error| panic!("{shown:?}: {error}: {reply:?}"));
        assert_eq!(value["ok"], false, "{shown:?}: {reply}");
        assert_eq!(value["code"], "invalid", "{shown:?}: {reply}");
        assert!(
            value["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{shown:?}: {reply}"
        );
    }
    assert_eq!(stage.proxy.site().await["generation"], before);
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_huge_line_is_refused_without_being_kept() {
    let stage = Stage::start().await;
    let before = stage.proxy.memory_peak();
    let huge = vec![b'a'; 64 << 20];
    let reply = tell(&stage, &huge).await;
    assert!(reply.is_empty() || reply.contains("invalid"), "{reply}");
    assert!(stage.proxy.memory_growth(before) < 16 << 20);
    let brackets = "[".repeat(15_000) + "\n";
    assert!(tell(&stage, brackets.as_bytes()).await.contains("invalid"));
    stage.proxy.done("status").await;
}

#[tokio::test]
async fn callers_that_say_nothing_or_leave_early_hold_up_nobody() {
    let stage = Stage::start().await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        let mut stream = connect(&stage).await;
        stream.write_all(b"switch gr").await.unwrap();
        silent.push(stream);
        drop(connect(&stage).await);
    }
    assert_eq!(stage.switch("green").await["active"], "green");
    drop(silent);
    stage.proxy.done("status").await;
    // A truncated line is no order.
    assert_eq!(stage.proxy.site().await["active"], "green");
}

#[tokio::test]
async fn an_order_that_was_cut_off_is_not_carried_out() {
    let stage = Stage::start().await;
    let reply = tell(&stage, b"switch gree").await;
    assert!(reply.is_empty() || reply.contains("invalid"), "{reply}");
    assert_eq!(stage.proxy.site().await["active"], "blue");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group_alone() {
    let stage = Stage::start().await;
    let mode = std::fs::metadata(stage.proxy.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660, "{mode:o}");
}

#[tokio::test]
async fn a_live_socket_is_never_stolen() {
    let stage = Stage::start().await;
    let config = stage.proxy.path().join("other.toml");
    let text = std::fs::read_to_string(stage.proxy.path().join("mana-proxy.toml")).unwrap();
    // Everything of its own but the socket.
    std::fs::write(&config, text.replace("run/state", "run/other-state")).unwrap();
    let output = within(
        "the second daemon",
        crate::support::proxy::command(stage.proxy.path())
            .args(["run", "--config", "other.toml"])
            .output(),
    )
    .await
    .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("control.sock"), "{said}");
    stage.proxy.done("status").await;
    assert_eq!(stage.who_answers().await, "blue");
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let mut stage = Stage::start().await;
    stage.proxy.sigkill().await;
    assert!(
        stage.proxy.socket().exists(),
        "kill -9 leaves the file behind"
    );
    stage.proxy.restart(&[]).await;
    stage.proxy.done("status").await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_not_touched() {
    let mut stage = Stage::start().await;
    stage.proxy.sigkill().await;
    std::fs::remove_file(stage.proxy.socket()).unwrap();
    std::fs::write(stage.proxy.socket(), "precious").unwrap();
    let output = within(
        "the daemon",
        crate::support::proxy::command(stage.proxy.path())
            .args(["run", "--config", "mana-proxy.toml"])
            .output(),
    )
    .await
    .unwrap();
    assert!(!output.status.success());
    assert_eq!(
        std::fs::read_to_string(stage.proxy.socket()).unwrap(),
        "precious"
    );
}

#[tokio::test]
async fn status_is_answered_while_a_switch_waits() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client
        .send("GET /hold HTTP/1.1\r\nhost: mana.so\r\n\r\n")
        .await;
    stage.blue.wait_for("/hold", 1).await;
    let socket = stage.proxy.socket();
    let switching = tokio::spawn(async move { ask(&socket, "switch green").await.unwrap() });
    crate::support::eventually("the drain is seen", async || {
        stage.proxy.site().await["active"] == "green"
    })
    .await;
    let site = stage.proxy.site().await;
    assert_eq!(site["slots"]["blue"]["in_flight"], 1, "{site}");
    stage.blue.release();
    assert_eq!(
        within("the reply", switching).await.unwrap()["drained"],
        true
    );
    client.response("GET").await;
}

#[tokio::test]
async fn status_counts_the_requests_that_went_wrong_in_a_slot() {
    let stage = Stage::start().await;
    let counts = async || {
        let slot = &stage.proxy.site().await["slots"]["blue"];
        (
            slot["requests"].as_u64().unwrap(),
            slot["server_errors"].as_u64().unwrap(),
        )
    };
    let (requests, _) = counts().await;
    for (path, status) in [
        ("/", 200),
        ("/status?code=404", 404),
        ("/status?code=503", 503),
        ("/die", 502),
    ] {
        let response = stage.h1().await.get(path).await;
        assert_eq!(response.status, status, "{path}");
    }
    // The request that died was tried again, so it may count twice among the requests.
    crate::support::eventually("what went wrong is counted", async || {
        let (now, errors) = counts().await;
        now >= requests + 4 && errors == 2
    })
    .await;
}
