//! What a deploy key may run on a server: `deploy/github/mana-proxy-ssh`, as sshd starts it, with `echo` for a `mana-proxy`.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/github/mana-proxy-ssh"
);

#[test]
fn a_deploy_and_what_asks_about_deploys_is_let_through() {
    for (asked, wanted) in [
        ("mana-proxy deploy status", "deploy status"),
        ("mana-proxy deploy --json status", "deploy --json status"),
        (
            "mana-proxy deploy history --json --last=3",
            "deploy history --json --last=3",
        ),
        (
            "mana-proxy deploy --rollback  --wait",
            "deploy --rollback --wait",
        ),
        (
            "mana-proxy deploy --wait --registry-token-stdin --digest=sha256:0a --branch=feature/a-b_c --author=a@b+c",
            "deploy --wait --registry-token-stdin --digest=sha256:0a --branch=feature/a-b_c --author=a@b+c",
        ),
    ] {
        let output = ask(Some(asked));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim_end(), wanted, "{asked}: {:?}", output.stderr);
    }
}

#[test]
fn everything_else_is_refused_and_runs_nothing() {
    for asked in [
        None,
        Some(""),
        Some("id"),
        Some("mana-proxy"),
        Some("mana-proxy switch green"),
        Some("mana-proxy  deployed"),
        Some("/tmp/mana-proxy deploy status"),
        // Which configuration, image, socket and file is not the key's to say.
        Some("mana-proxy deploy --config=/tmp/mine.toml --tag=1"),
        Some("mana-proxy deploy --image=registry.example/other --tag=1"),
        Some("mana-proxy deploy --socket=/tmp/mine.sock --tag=1"),
        Some("mana-proxy deploy --registry-token-file=/etc/shadow --tag=1"),
        Some("mana-proxy deploy --registry-token-file /etc/shadow"),
        Some("mana-proxy deploy reconcile"),
        Some("mana-proxy deploy send-messages"),
        // What a shell would take for more than letters.
        Some("mana-proxy deploy --tag=$(id)"),
        Some("mana-proxy deploy --tag=`id`"),
        Some("mana-proxy deploy --tag=1; id"),
        Some("mana-proxy deploy --tag=1 | id"),
        Some("mana-proxy deploy --tag=1 > /tmp/x"),
        Some("mana-proxy deploy --tag='1'"),
        Some("mana-proxy deploy --tag=*"),
        Some("mana-proxy deploy --tag=~"),
        Some("mana-proxy deploy --tag=1\nid"),
        Some("mana-proxy deploy --tag=1\tid"),
        Some("mana-proxy deploy --tag=\u{e9}"),
        Some("exec mana-proxy deploy status"),
    ] {
        let output = ask(asked);
        assert_eq!(output.status.code(), Some(64), "{asked:?}");
        assert!(output.stdout.is_empty(), "{asked:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("hint: this key may run"), "{asked:?}: {said}");
    }
}

/// Runs the script as sshd does.
fn ask(asked: Option<&str>) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let script = fs::read_to_string(SCRIPT).unwrap();
    let here = format!("PATH={}:/usr/bin:/bin", path.display());
    let replaced = script.replace("PATH=/usr/local/bin:/usr/bin:/bin", &here);
    assert_ne!(script, replaced, "the script sets its own PATH");
    fs::write(path.join("script"), replaced).unwrap();
    // Not a script of its own: what another test forks at this moment may still have it open for writing.
    symlink("/bin/echo", path.join("mana-proxy")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.arg(path.join("script")).env_clear();
    if let Some(asked) = asked {
        command.env("SSH_ORIGINAL_COMMAND", asked);
    }
    command.output().unwrap()
}
