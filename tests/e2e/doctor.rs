//! `doctor`, on this machine. What it makes of which facts is a table beside its code; here it has to see them.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::proxy::Home;
use crate::support::{ConfigBuilder, Stage};

fn report(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn finding<'r>(report: &'r Value, about: &str) -> &'r Value {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["about"] == about);
    found.unwrap_or_else(|| panic!("nothing about {about}: {report:#}"))
}

#[tokio::test]
async fn an_upstream_that_the_network_reaches_is_red() {
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let [open, closed] = [&open, &closed].map(|socket| socket.local_addr().unwrap().port());
    let blue = format!("localhost:{open}");
    let green = format!("127.0.0.1:{closed}");
    let home = Home::new(&ConfigBuilder::new(&[&blue], &[&green]));
    let doctor = ["doctor", "--config", "mana-proxy.toml"];
    let output = home.run(&[&doctor[..], &["--json"]].concat()).await;
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    assert_eq!(report["ok"], false);
    let red = finding(&report, &format!("upstream port {open}"));
    assert_eq!(red["level"], "red", "{red}");
    assert!(red["mend"].as_str().unwrap().contains("127.0.0.1"), "{red}");
    let green = finding(&report, &format!("upstream port {closed}"));
    assert_eq!(green["level"], "green", "{green}");
    // No daemon runs, and that is said too.
    assert_eq!(finding(&report, "mana-proxy")["level"], "yellow");
    let text = home.run(&doctor).await;
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with("red "), "the worst is first: {text}");
    assert!(text.contains("\n        mend: "), "{text}");
}

#[tokio::test]
async fn faults_of_the_configuration_are_red_and_the_first() {
    let mut config = ConfigBuilder::new(&["127.0.0.1:1"], &["127.0.0.1:2"]);
    config.set("limits", "conections", "1");
    let home = Home::new(&config);
    let arguments = ["doctor", "--config", "mana-proxy.toml", "--json"];
    let output = home.run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let first = &report["findings"][0];
    assert_eq!(first["level"], "red");
    let what = first["what"].as_str().unwrap();
    assert!(what.contains("did you mean connections?"), "{what}");
}

#[tokio::test]
async fn a_daemon_that_runs_is_seen_with_its_files_and_its_limits() {
    let stage = Stage::start().await;
    let arguments = ["doctor", "--config", "mana-proxy.toml", "--json"];
    let report = report(&stage.proxy.cli(&arguments).await);
    let daemon = finding(&report, "mana-proxy");
    let what = daemon["what"].as_str().unwrap();
    assert_eq!(what, format!("runs as pid {}", stage.proxy.pid()));
    let socket = stage.proxy.socket();
    for about in ["run/state", socket.to_str().unwrap()] {
        assert_eq!(finding(&report, about)["level"], "green", "{about}");
    }
    finding(&report, "certificate of mana.so");
}
