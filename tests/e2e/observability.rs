//! What an operator can see: the access log, the metrics, the health of the daemon itself.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::support::{ALIAS, H1, H2, HOST, Stage, eventually, within};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[tokio::test]
async fn each_request_is_one_json_line_that_says_what_happened() {
    let stage = Stage::with(|config| {
        config.access_log("./access.log");
    })
    .await;
    let path = stage.proxy.path().join("access.log");
    let response = stage
        .h1()
        .await
        .request("POST", "/echo?a=b", "", b"12345")
        .await;
    let id = response.header("x-request-id").unwrap().to_owned();
    stage.h2().await.get("/status?code=404").await;
    stage
        .h1()
        .await
        .request("GET", "/", &format!("x-ignored: {ALIAS}\r\n"), b"")
        .await;
    eventually("three lines", async || lines(&path).len() >= 3).await;
    let lines = lines(&path);
    let first = &lines[0];
    assert_eq!(first["request_id"], id.as_str(), "{first}");
    assert_eq!(first["method"], "POST", "{first}");
    assert_eq!(first["site"], HOST, "{first}");
    assert_eq!(first["status"], 200, "{first}");
    assert_eq!(first["slot"], "blue", "{first}");
    assert_eq!(first["upstream"], stage.blue.address(), "{first}");
    assert_eq!(first["attempts"], 1, "{first}");
    assert!(
        first["path"].as_str().unwrap().starts_with("/echo"),
        "{first}"
    );
    assert!(
        first["client"].as_str().unwrap().starts_with("127.0.0.1"),
        "{first}"
    );
    assert!(first["generation"].is_u64(), "{first}");
    assert!(first["time"].is_string(), "{first}");
    assert_eq!(lines[1]["status"], 404);
    let protocols: Vec<_> = lines
        .iter()
        .map(|line| line["protocol"].as_str().unwrap())
        .collect();
    assert_ne!(protocols[0], protocols[1], "{protocols:?}");
}

#[tokio::test]
async fn a_request_without_an_upstream_is_logged_as_well() {
    let stage = Stage::with(|config| {
        config.access_log("./access.log");
    })
    .await;
    let path = stage.proxy.path().join("access.log");
    stage.plain().await.get("/").await;
    stage.blue.stop().await;
    stage.green.stop().await;
    stage.h1().await.get("/").await;
    eventually("two lines", async || lines(&path).len() >= 2).await;
    let statuses: Vec<_> = lines(&path)
        .iter()
        .map(|line| line["status"].as_u64())
        .collect();
    assert_eq!(statuses, [Some(301), Some(503)]);
}

#[tokio::test]
async fn sigusr1_reopens_the_access_log() {
    let stage = Stage::with(|config| {
        config.access_log("./access.log");
    })
    .await;
    let path = stage.proxy.path().join("access.log");
    stage.who_answers().await;
    eventually("the first line", async || lines(&path).len() == 1).await;
    let rotated = stage.proxy.path().join("access.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    stage.proxy.signal("USR1");
    eventually("the file is there again", async || path.exists()).await;
    stage.who_answers().await;
    eventually("the second line is in the new file", async || {
        lines(&path).len() == 1
    })
    .await;
    assert_eq!(lines(&rotated).len(), 1);
}

#[tokio::test]
async fn an_access_log_that_cannot_be_written_is_told_and_so_is_its_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let stage = Stage::with(|config| {
        config.access_log(path.to_str().unwrap());
    })
    .await;
    let says = |what: &str| {
        let stderr = stage.proxy.stderr();
        let mut lines = stderr.lines().filter(|line| line.contains(what));
        lines.any(|line| line.contains(path.to_str().unwrap()))
    };
    stage.who_answers().await;
    eventually("what cannot be written is told", async || {
        says("cannot write the access log")
    })
    .await;
    std::fs::remove_file(&path).unwrap();
    stage.proxy.signal("USR1");
    eventually("the file is there", async || path.exists()).await;
    stage.who_answers().await;
    eventually("the recovery is told", async || {
        says("the access log is written again")
    })
    .await;
    assert_eq!(lines(&path).len(), 1);
}

#[tokio::test]
async fn the_access_log_goes_to_stdout_unless_told_otherwise() {
    let stage = Stage::start().await;
    stage.who_answers().await;
    let path = stage.proxy.path().join("stdout.log");
    eventually("a line", async || !lines(&path).is_empty()).await;
    assert_eq!(lines(&path)[0]["status"], 200);
}

#[tokio::test]
async fn metrics_count_what_was_served() {
    let stage = Stage::start().await;
    for _ in 0..3 {
        stage.who_answers().await;
    }
    stage.h2().await.get("/status?code=404").await;
    let socket = stage.websocket().await;
    let metrics = stage.proxy.metrics().await;
    assert!(
        metrics.lines().all(|line| line.starts_with('#')
            || line.starts_with("mana_proxy_")
            || line.starts_with("process_")),
        "{metrics}"
    );
    for wanted in [
        "requests",
        "duration_seconds_bucket",
        "in_flight",
        "tunnels",
        "retries",
        "upstream",
        "generation",
        "certificate",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in {metrics}");
    }
    let count = sum(&metrics, "requests_total", &[r#"slot="blue""#, r#"2xx"#]);
    assert_eq!(count, 3.0, "{metrics}");
    let count = sum(&metrics, "requests_total", &[r#"slot="blue""#, r#"4xx"#]);
    assert_eq!(count, 1.0, "{metrics}");
    drop(socket);
}

/// The sum of all samples whose line has all of these.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| {
            !line.starts_with('#')
                && line.contains(name)
                && labels.iter().all(|label| line.contains(label))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() {
    let stage = Stage::start().await;
    stage.who_answers().await;
    stage.h2().await.get("/status?code=500").await;
    stage.switch("green").await;
    let metrics = stage.proxy.metrics().await;
    let promtool = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("promtool is not installed (Debian package prometheus): not checked");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(metrics.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("promtool", promtool.wait_with_output())
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn healthz_says_that_the_daemon_is_up() {
    let stage = Stage::start().await;
    let mut client = H1::plain(stage.proxy.admin()).await;
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(
        H1::plain(stage.proxy.admin())
            .await
            .get("/nothing")
            .await
            .status,
        404
    );
    // Metrics are not for the public.
    let response = stage.h1().await.get("/metrics").await;
    assert_eq!(response.text(), "blue");
    let request = H2::to("/healthz").body(()).unwrap();
    assert_eq!(
        stage
            .h2()
            .await
            .request(request, bytes::Bytes::new())
            .await
            .text(),
        "blue"
    );
}

#[tokio::test]
async fn nothing_is_left_in_flight_after_all_kinds_of_ends() {
    let stage = Stage::start().await;
    let mut client = stage.h1().await;
    client.get("/").await;
    client.try_request("GET", "/diemid", "", b"").await.ok();
    stage.h1().await.request("POST", "/die", "", b"x").await;
    stage.h2().await.get("/size?n=100000").await;
    let mut gone = stage.h1().await;
    gone.send(format!("GET /sse HTTP/1.1\r\nhost: {HOST}\r\n\r\n"))
        .await;
    gone.reader.until("blue 0").await;
    drop(gone);
    drop(stage.websocket().await);
    let mut half = stage.h1().await;
    half.send(format!(
        "POST /sink HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100\r\n\r\nhalf"
    ))
    .await;
    stage.blue.wait_for("/sink", 1).await;
    drop(half);
    stage.proxy.wait_until_idle().await;
    let site = stage.proxy.site().await;
    let in_flight: Vec<_> = site["slots"]["blue"]["upstreams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|u| u["in_flight"].clone())
        .collect();
    assert!(in_flight.iter().all(|count| *count == 0), "{site}");
}
