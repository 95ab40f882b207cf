//! Whole command lines: what is written where, and the exit code.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::*;

/// Remembers what it was asked to run.
#[derive(Default)]
struct Idle {
    ran: RefCell<Vec<String>>,
    fails: bool,
}

impl Daemon for Idle {
    fn run(&self, config: Config, file: &Path) -> Result<(), Stopped> {
        self.ran
            .borrow_mut()
            .push(format!("{} {}", config.sites.len(), file.display()));
        if self.fails {
            Err(Stopped {
                error: "cannot bind 127.0.0.1:80".into(),
                hint: None,
            })
        } else {
            Ok(())
        }
    }

    fn demo(&self) -> Result<(), Stopped> {
        self.ran.borrow_mut().push("demo".to_owned());
        Ok(())
    }
}

/// Exit code, stdout, stderr.
fn carried_out(words: &[&str], daemon: &Idle) -> (u8, String, String) {
    let words = std::iter::once("mana-proxy").chain(words.iter().copied());
    let arguments = Arguments::try_parse_from(words).unwrap();
    let (mut data, mut talk) = (Vec::new(), Vec::new());
    let mut terminal = Terminal::new(&mut data, &mut talk, Paint::Plain);
    let exit = carry_out(arguments, daemon, &mut terminal);
    (
        exit.code(),
        String::from_utf8(data).unwrap(),
        String::from_utf8(talk).unwrap(),
    )
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn config(certificate: &str) -> String {
    format!(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\n[[site]]\nhost = \"mana.so\"\naliases = [\"www.mana.so\"]\n\
         certificate = {certificate}\nblue = [\"127.0.0.1:4000\"]\ngreen = [\"127.0.0.1:4001\"]\n"
    )
}

/// Takes one request on a socket of its own and answers with these lines.
fn answering(dir: &tempfile::TempDir, answer: &'static str) -> (PathBuf, JoinHandle<String>) {
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut line)
            .unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        line
    });
    (path, daemon)
}

#[test]
fn run_hands_the_checked_configuration_to_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "a.toml", &config("\"self-signed\""));
    let path = path.to_str().unwrap();
    let daemon = Idle::default();
    assert_eq!(carried_out(&["run", "--config", path], &daemon).0, 0);
    assert_eq!(carried_out(&["demo"], &daemon).0, 0);
    assert_eq!(
        *daemon.ran.borrow(),
        [format!("1 {path}"), "demo".to_owned()]
    );

    let failing = Idle {
        fails: true,
        ..Idle::default()
    };
    let (code, data, talk) = carried_out(&["run", "--config", path], &failing);
    assert_eq!((code, data.as_str()), (1, ""));
    assert!(
        talk.starts_with("error: cannot bind 127.0.0.1:80\nhint: "),
        "{talk}"
    );
}

#[test]
fn a_bad_configuration_is_never_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "a.toml", "[listen]\nhtp = []\n");
    let daemon = Idle::default();
    let (code, data, talk) = carried_out(&["run", "--config", path.to_str().unwrap()], &daemon);
    assert_eq!((code, data.as_str()), (78, ""));
    assert!(
        talk.contains("a.toml:2: listen.htp: unknown key; did you mean http?\n"),
        "{talk}"
    );
    assert!(
        talk.contains("error: the configuration has 3 faults\nhint: "),
        "{talk}"
    );
    assert!(daemon.ran.borrow().is_empty());

    let (code, _, talk) = carried_out(&["run", "--config", "/nowhere/a.toml"], &daemon);
    assert_eq!(code, 78);
    assert!(
        talk.starts_with("error: cannot read /nowhere/a.toml: No such file"),
        "{talk}"
    );
}

#[test]
fn check_says_that_there_are_no_faults() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "a.toml", &config("\"self-signed\""));
    let path = path.to_str().unwrap();
    let (code, data, talk) = carried_out(&["check", "--config", path], &Idle::default());
    assert_eq!(
        (code, data, talk.as_str()),
        (0, format!("{path}: no faults, 1 site\n"), "")
    );
    let (_, data, _) = carried_out(&["check", "--json", "--config", path], &Idle::default());
    let object: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        object,
        serde_json::json!({"ok": true, "file": path, "sites": 1, "warnings": []})
    );
}

#[test]
fn check_prints_every_fault() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "a.toml", "a = 1\nb = 2\n");
    let words = ["check", "--json", "--config", path.to_str().unwrap()];
    let (code, data, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 78);
    assert_eq!(
        talk.lines()
            .filter(|line| line.contains("unknown key"))
            .count(),
        2
    );
    let object: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(object["faults"].as_array().unwrap().len(), 4);
    assert_eq!(object["faults"][2]["line"], 1);
}

#[test]
fn check_loads_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certified = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem()
    };
    let key_path = file(&dir, "key.pem", &key.serialize_pem());
    let chain_path = dir.path().join("cert.pem");
    let certificate = format!("{{ chain = {chain_path:?}, key = {key_path:?} }}");
    let path = file(&dir, "a.toml", &config(&certificate));
    let words = ["check", "--config", path.to_str().unwrap()];

    let (code, data, talk) = carried_out(&words, &Idle::default());
    assert_eq!((code, data.as_str()), (78, ""));
    assert!(
        talk.contains("site mana.so: certificate: cannot read"),
        "{talk}"
    );

    std::fs::write(&chain_path, certified(&["mana.so"])).unwrap();
    let (code, _, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 78);
    assert!(talk.contains("does not cover www.mana.so"), "{talk}");

    std::fs::write(&chain_path, certified(&["mana.so", "www.mana.so"])).unwrap();
    assert_eq!(carried_out(&words, &Idle::default()).0, 0);
}

#[test]
fn an_expired_certificate_is_a_warning_because_it_would_be_served() {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["mana.so".to_owned(), "www.mana.so".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 4, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    let chain = file(&dir, "cert.pem", &chain);
    let key = file(&dir, "key.pem", &key.serialize_pem());
    let certificate = format!("{{ chain = {chain:?}, key = {key:?} }}");
    let path = file(&dir, "a.toml", &config(&certificate));
    let words = ["check", "--json", "--config", path.to_str().unwrap()];
    let (code, data, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 0, "{talk}");
    assert!(
        talk.starts_with("warning: ") && talk.contains("expired on 2020-04-01"),
        "{talk}"
    );
    let object: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(object["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn a_switch_talks_while_it_waits_and_reports_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, daemon) = answering(
        &dir,
        "{\"event\":\"gating\",\"slot\":\"green\"}\n{\"event\":\"published\",\"generation\":7}\n\
         {\"ok\":true,\"site\":\"mana.so\",\"active\":\"green\",\"generation\":7,\"drained\":true}\n",
    );
    let words = [
        "switch",
        "green",
        "--note",
        "release 41",
        "--socket",
        socket.to_str().unwrap(),
    ];
    let (code, data, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 0);
    assert_eq!(
        data,
        "mana.so: green is active (generation 7); blue has drained\n"
    );
    assert_eq!(
        talk,
        "gating green: probing its upstreams\npublished generation 7\n"
    );
    let request: serde_json::Value = serde_json::from_str(&daemon.join().unwrap()).unwrap();
    assert_eq!(request["note"], "release 41");
    assert_eq!(request["progress"], true);
}

#[test]
fn a_refusal_is_said_on_stderr_with_a_hint() {
    for (json, answer, code, hint) in [
        (
            false,
            r#"{"ok":false,"code":"refused","error":"green is down","hint":"start it"}"#,
            2,
            "start it",
        ),
        (
            true,
            r#"{"ok":false,"code":"busy","error":"green is down"}"#,
            2,
            "try again",
        ),
        (
            false,
            r#"{"ok":false,"code":"conflict","error":"green is down"}"#,
            2,
            "generation",
        ),
        (
            false,
            r#"{"ok":false,"code":"failed","error":"green is down"}"#,
            1,
            "journalctl",
        ),
        (
            false,
            r#"{"ok":false,"code":"invalid","error":"green is down"}"#,
            64,
            "help",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (socket, daemon) = answering(&dir, answer);
        let mut words = vec!["switch", "green", "--socket", socket.to_str().unwrap()];
        words.extend(json.then_some("--json"));
        let (exit, data, talk) = carried_out(&words, &Idle::default());
        daemon.join().unwrap();
        assert_eq!(exit, code, "{answer}");
        assert!(
            talk.starts_with("error: green is down\nhint: ") && talk.contains(hint),
            "{talk}"
        );
        assert_eq!(data.is_empty(), !json, "{data}");
    }
}

#[test]
fn the_faults_of_a_refused_reload_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let answer = r#"{"ok":false,"code":"invalid","error":"a.toml:1: a\na.toml:2: b"}"#;
    let (socket, daemon) = answering(&dir, answer);
    let (exit, _, talk) = carried_out(
        &["reload", "--socket", socket.to_str().unwrap()],
        &Idle::default(),
    );
    daemon.join().unwrap();
    assert_eq!(exit, 78);
    assert!(
        talk.starts_with("a.toml:1: a\na.toml:2: b\nerror: there are 2 faults\nhint: "),
        "{talk}"
    );
}

#[test]
fn what_a_new_process_said_is_shown_above_the_error() {
    for (json, answer, above) in [
        (
            false,
            r#"{"ok":false,"code":"failed","error":"it ended","hint":"mend it","said":["a.toml:1: x","\u001b[2J"]}"#,
            "the new process said: a.toml:1: x\nthe new process said: \\u{1b}[2J\n",
        ),
        (
            true,
            r#"{"ok":false,"code":"failed","error":"it ended","hint":"mend it","said":["a"]}"#,
            "the new process said: a\n",
        ),
        (
            false,
            r#"{"ok":false,"code":"failed","error":"it ended","hint":"mend it","said":[]}"#,
            "",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (socket, daemon) = answering(&dir, answer);
        let mut words = vec!["upgrade", "--socket", socket.to_str().unwrap()];
        words.extend(json.then_some("--json"));
        let (exit, _, talk) = carried_out(&words, &Idle::default());
        daemon.join().unwrap();
        assert_eq!(exit, 1);
        assert_eq!(talk, format!("{above}error: it ended\nhint: mend it\n"));
    }
}

#[test]
fn a_daemon_that_is_not_there_is_69() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let words = ["status", "--json", "--socket", socket.to_str().unwrap()];
    let (code, data, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 69);
    assert!(
        talk.contains("cannot reach the daemon at") && talk.contains("\nhint: start it"),
        "{talk}"
    );
    let object: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(object["code"], "unreachable");
}

#[test]
fn a_daemon_that_goes_away_leaves_it_open_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, daemon) = answering(&dir, "");
    let (code, data, talk) = carried_out(
        &["rollback", "--socket", socket.to_str().unwrap()],
        &Idle::default(),
    );
    daemon.join().unwrap();
    assert_eq!((code, data.as_str()), (1, ""));
    assert!(
        talk.contains("hint: what was asked for may have been done"),
        "{talk}"
    );
}

#[test]
fn a_request_that_makes_no_sense_never_reaches_the_socket() {
    let words = ["reload", "--site", "mana.so", "--socket", "/nowhere"];
    let (code, _, talk) = carried_out(&words, &Idle::default());
    assert_eq!(code, 64);
    assert!(
        talk.starts_with("error: reload does not take site\nhint: "),
        "{talk}"
    );
}

#[test]
fn help_is_no_error_and_nonsense_is_64() {
    for (words, exit) in [
        (vec!["--help"], Exit::Done),
        (vec!["--version"], Exit::Done),
        (vec!["help", "switch"], Exit::Done),
        (vec![], Exit::Usage),
        (vec!["nonsense"], Exit::Usage),
        (vec!["check"], Exit::Usage),
    ] {
        let line = std::iter::once("mana-proxy").chain(words.iter().copied());
        let error = Arguments::try_parse_from(line).unwrap_err();
        let found = if error.use_stderr() {
            Exit::Usage
        } else {
            Exit::Done
        };
        assert_eq!(found, exit, "{words:?}");
        if found == Exit::Usage {
            let text = usage_error(&error);
            assert!(
                text.ends_with("\nhint: try `mana-proxy --help`\n"),
                "{text}"
            );
            assert!(!text.contains(CLAP_ADVICE), "{text}");
        }
    }
}

#[test]
fn options_of_every_deploy_verb_stand_on_both_sides_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        r#"{}
[deploy]
compose_file = "/srv/compose.yml"
project = "mana"
dir = {:?}
blue = {{ service = "b", image_variable = "B" }}
green = {{ service = "g", image_variable = "G" }}
"#,
        config("\"self-signed\""),
        dir.path()
    );
    let config = file(&dir, "m.toml", &text);
    let config = config.to_str().unwrap();
    let idle = Idle::default();
    for words in [
        ["deploy", "--json", "--config", config, "history"],
        ["deploy", "--config", config, "history", "--json"],
        ["deploy", "history", "--json", "--config", config],
        ["--json", "deploy", "--config", config, "history"],
    ] {
        let (exit, data, talk) = carried_out(&words, &idle);
        assert_eq!((exit, talk.as_str()), (0, ""), "{words:?}");
        assert!(data.starts_with('{'), "{words:?}: {data}");
    }
    for option in [
        &["--tag", "41"][..],
        &["--rollback"],
        &["--note", "why"],
        &["--registry-token-file", "/t"],
    ] {
        let words = [&["deploy", "--config", config], option, &["status"]].concat();
        let (exit, data, talk) = carried_out(&words, &idle);
        assert_eq!((exit, data.as_str()), (64, ""), "{option:?}");
        assert!(talk.contains("\nhint: "), "{talk}");
    }
    assert!(Arguments::try_parse_from(["mana-proxy", "deploy"]).is_err());
}
