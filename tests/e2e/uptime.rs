//! What the workflow that watches the site from outside says: the script of `deploy/github/uptime.yml`, with the network's
//! programs replaced.

use std::fs;
use std::path::Path;
use std::process::Command;

const WORKFLOW: &str = include_str!("../../deploy/github/uptime.yml");
/// Answers as an application that works.
const CURL: &str = "#!/bin/sh\nprintf 200\n";

#[test]
fn a_port_that_cannot_be_reached_is_no_certificate_that_ends() {
    for (s_client, said) in [
        (
            "echo 'connect: Connection refused' >&2; exit 1",
            "cannot connect to mana.so:443 to look at its certificate: connect: Connection refused",
        ),
        ("exit 1", "to look at its certificate: no answer"),
        (
            "cat soon.pem",
            "the certificate of mana.so ends within 10 days",
        ),
        ("cat late.pem; exit 1", ""),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for (name, days) in [("soon.pem", 2), ("late.pem", 60)] {
            fs::write(path.join(name), certificate(days)).unwrap();
        }
        script(&path.join("curl"), CURL);
        let openssl = format!(
            "#!/bin/sh\ncase $1 in s_client) {s_client} ;; *) PATH=/usr/bin:/bin exec openssl \"$@\" ;; esac\n"
        );
        script(&path.join("openssl"), &openssl);
        let output = Command::new("bash")
            .args(["-c", &probe()])
            .current_dir(path)
            .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
            .env("UPTIME_URL", "https://mana.so/api/ping")
            .env("CERTIFICATE_DAYS_MIN", "10")
            .env("GITHUB_RUN_ID", "1")
            .env("GITHUB_OUTPUT", "output")
            .output()
            .unwrap();
        let why = fs::read_to_string(path.join("output")).unwrap_or_default();
        assert!(
            why.starts_with("why=") && why.contains(said),
            "{why}{output:?}"
        );
        assert_eq!(output.status.success(), said.is_empty(), "{output:?}");
        assert_eq!(why == "why=\n", said.is_empty(), "{why}");
    }
}

/// The script of the first step.
fn probe() -> String {
    let (_, behind) = WORKFLOW.split_once("        run: |\n").unwrap();
    let lines = behind
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("          "));
    lines
        .map(|line| format!("{}\n", line.trim_start_matches("          ")))
        .collect()
}

/// Written by another process: what a test beside this one forks could have it open, and nobody may start it then.
fn script(path: &Path, text: &str) {
    let written = path.with_extension("text");
    fs::write(&written, text).unwrap();
    let install = Command::new("install")
        .args(["-m", "755"])
        .args([&written, path])
        .status();
    assert!(install.unwrap().success());
}

fn certificate(days: i64) -> String {
    let mut params = rcgen::CertificateParams::new(vec!["mana.so".to_owned()]).unwrap();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}
